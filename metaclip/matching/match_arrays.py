"""The Arrow arrays that every backend of a matcher takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

MATCHES: Final = pa.list_(pa.field("item", pa.uint32(), nullable=False))
"""The type of a column of matches: sorted, distinct entry ids; null where the text is null."""


class Backend(Protocol):
    """Finds the entries of a list in texts."""

    def match_array(self, texts: pa.Array) -> pa.Array:
        """Match a string or large_string array; return an array of the type MATCHES."""

    def match_text(self, text: str) -> list[int]:
        """Match one text; return the ascending entry ids."""


def match_each(texts: pa.Array, match_text: Callable[[str], list[int]]) -> pa.Array:
    """Match the texts of an array one by one."""
    return pa.array([None if text is None else match_text(text) for text in decode_texts(texts)], MATCHES)


def decode_texts(texts: pa.Array) -> list[str | None]:
    """Return texts as Python strings; bytes that are not UTF-8 become lone surrogates, which no entry can hold."""
    values = texts.cast(binary_of(texts)).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values]


def binary_of(texts: pa.Array) -> pa.DataType:
    """Return the binary type that has the layout of a string or large_string array."""
    return pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()


def make_matches(ids: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], texts: pa.Array) -> pa.Array:
    """Return a column of matches from the entry ids and the offsets of its rows, null where `texts` is null."""
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{offsets[-1]} matches in one array of {len(texts)} texts; pass fewer texts at a time")
    validity = None
    if texts.null_count:
        valid = pc.is_valid(texts).to_numpy(zero_copy_only=False)
        validity = pa.py_buffer(np.packbits(valid, bitorder="little"))
    child = pa.Array.from_buffers(pa.uint32(), len(ids), [None, pa.py_buffer(ids)])
    buffers = [validity, pa.py_buffer(offsets.astype(np.int32))]
    return pa.Array.from_buffers(MATCHES, len(texts), buffers, texts.null_count, children=[child])


def ids_and_offsets(matches: pa.Array) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Return (ids, offsets) of a column of matches: row i has ``ids[offsets[i]:offsets[i + 1]]``, and ``offsets[0]`` is 0."""
    offsets = np.asarray(matches.offsets).astype(np.int64)
    return np.ascontiguousarray(matches.flatten().to_numpy(), np.uint32), offsets - offsets[0]
