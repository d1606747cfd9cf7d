"""Columns of texts and of matches: what every engine of a matcher takes and gives."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.matching.text_rule import TextRule

MATCHES: Final = pa.list_(pa.field("item", pa.uint32(), nullable=False))
"""The type of a column of matches: sorted, distinct entry ids; null where the text is null."""


def list_array(values: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], texts: pa.Array) -> pa.Array:
    """Wrap ids and offsets as a column of matches, null where `texts` is."""
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{offsets[-1]} matches in one array of {len(texts)} texts; pass fewer texts at a time")
    buffers = [_validity(texts), pa.py_buffer(offsets.astype(np.int32))]
    child = pa.Array.from_buffers(pa.uint32(), len(values), [None, pa.py_buffer(values)])
    return pa.Array.from_buffers(MATCHES, len(texts), buffers, texts.null_count, children=[child])


def _validity(texts: pa.Array) -> pa.Buffer | None:
    if not texts.null_count:
        return None
    bits = np.packbits(pc.is_valid(texts).to_numpy(zero_copy_only=False), bitorder="little")
    return pa.py_buffer(bits)


def clean_texts(texts: pa.Array, rule: TextRule) -> pa.Array:
    """Do `rule.clean_text` to a column, in Arrow where the result is the same, else text by text."""
    plain = pc.string_is_ascii(texts)
    if rule.unescape_html:
        plain = pc.and_(plain, pc.invert(pc.match_substring(texts, "&")))
    if rule.unicode_separators:  # ASCII has separators of its own
        plain = pa.scalar(False)
    plain = pc.fill_null(plain, True) if isinstance(plain, pa.Array) else pa.array(np.zeros(len(texts), np.bool_))
    cleaned = pc.ascii_lower(texts) if rule.fold_case else texts
    if not pc.all(plain, min_count=0).as_py():
        rewrite = pc.invert(plain)
        rewritten = [None if text is None else rule.clean_text(text) for text in strings(pc.filter(texts, rewrite))]
        # Bytes that were not UTF-8 stay what no entry holds.
        encoded = [None if text is None else text.encode("utf-8", "surrogatepass") for text in rewritten]
        binary = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
        cleaned = pc.replace_with_mask(cleaned, rewrite, pa.array(encoded, binary).view(texts.type))
    return cleaned


def strings(texts: pa.Array) -> list[str | None]:
    """Give texts as Python strings; bytes that are not UTF-8 become lone surrogates, which no entry can hold."""
    binary = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
    return [
        None if text is None else text.decode("utf-8", "surrogateescape") for text in texts.cast(binary).to_pylist()
    ]


def ids_of(matches: pa.Array) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Return (values, offsets) of a column of matches: row i has ``values[offsets[i]:offsets[i + 1]]``; offsets begin at 0."""
    offsets = np.asarray(matches.offsets).astype(np.int64)
    return np.ascontiguousarray(matches.flatten().to_numpy(), np.uint32), offsets - offsets[0]
