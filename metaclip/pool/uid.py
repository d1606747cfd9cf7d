"""The uid of a pair: 128 bits that identify it permanently. The draw depends on nothing else of the pair.

- If the pool gives up to 32 hex digits: that number (DataComp, cc2dataset; shorter ones are padded with zeros).
- If the pool gives an id in any other form: md5 of its UTF-8 bytes.
- If it gives none (or null, or an empty string): md5 of the raw text followed by the url, as cc2dataset does; without a
  url, md5 of the text.

Uids are passed as uint64[n, 2] (high half, low half), stored in parquet as fixed_size_binary[16] (big-endian) and printed
as 32 lower-case hex digits.
Cost: 0.1 us per uid from hex, 0.3 us by md5 of 100 bytes.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.native import StringsStruct, address, load

Uids = npt.NDArray[np.uint64]
"""Uids as uint64[n, 2]: high and low half of the 128-bit number."""
UID: Final = pa.binary(16)
"""The type of a column of uids."""

_HEX: Final = np.frombuffer(
    b"".join(b"%02x" % byte for byte in range(256)), np.uint16
)  # two digits per byte
_OTHER, _EMPTY = 1, 2
"""Kinds of ids, as `mc_hex` writes them: not hex digits, none; 0 for up to 32 hex digits."""
_HEX_ID: Final = re.compile(rb"[0-9a-fA-F]{1,32}")


def uid_of(text: str, url: str | None = None, uid: str | None = None) -> str:
    """Return the uid of one pair as 32 hex digits: the law above in plain Python."""
    if uid:
        if len(uid) <= 32 and all(c in "0123456789abcdefABCDEF" for c in uid):
            return uid.lower().rjust(32, "0")
        return hashlib.md5(uid.encode(), usedforsecurity=False).hexdigest()
    return hashlib.md5((text + (url or "")).encode(), usedforsecurity=False).hexdigest()


def uids_of(texts: pa.Array, urls: pa.Array | None, given: pa.Array | None) -> Uids:
    """Return the uids of pairs: uint64[n, 2].

    `texts` is a string array without nulls; `urls` and `given` are string arrays, or None for no such column; `given` may
    also hold fixed_size_binary[16], UUIDs or integers.
    """
    if given is None:
        uids, missing = np.empty((len(texts), 2), np.uint64), np.ones(len(texts), np.bool_)
    else:
        uids, missing = _given_uids(_values(given))
    if missing.any():
        rows = np.flatnonzero(missing)
        parts = [to_large_string(part) for part in (texts, urls) if part is not None]
        if len(rows) < len(texts):
            parts = [part.take(pa.array(rows)) for part in parts]
        uids[rows] = _md5(parts)
    return uids


def column_uids(column: pa.Array) -> Uids:
    """Return the uids of a column of 16 bytes, strings or numbers: uint64[n, 2]; undefined for a null of 16 bytes."""
    return (
        from_binary(column)
        if _is_16_bytes(column.type)
        else uids_of(pa.array([""] * len(column)), None, column)
    )


def from_binary(column: pa.Array) -> Uids:
    """Convert fixed_size_binary[16] to uint64[n, 2]; the uid of a null is undefined."""
    data = np.frombuffer(column.buffers()[1], ">u8", 2 * len(column), 16 * column.offset)
    return data.reshape(-1, 2).astype(np.uint64)


def to_binary(uids: Uids) -> pa.Array:
    """Convert uint64[n, 2] to fixed_size_binary[16]."""
    return pa.Array.from_buffers(UID, len(uids), [None, pa.py_buffer(uids.astype(">u8"))])


def to_hex(uids: Uids) -> pa.Array:
    """Convert uint64[n, 2] to a string array of 32 lower-case hex digits."""
    text = _HEX[np.ascontiguousarray(uids.astype(">u8")).view(np.uint8)].view(np.uint8)
    offsets = np.arange(0, 32 * len(uids) + 1, 32, dtype=np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(uids), [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    )


def to_strings(given: pa.Array, uids: Uids) -> pa.Array:
    """Return the ids that the pool gave as a string array; hex digits of `uids` for missing ids and for bytes."""
    ids = _values(given)
    if _is_binary(ids.type):
        return to_hex(uids)
    ids = ids.cast(pa.string())
    if not ids.null_count and not pc.equal(pc.min(pc.binary_length(ids)), 0).as_py():
        return ids
    ids = pc.fill_null(ids, "")
    return pc.if_else(pc.equal(ids, ""), to_hex(uids), ids)


def to_large_string(column: pa.Array) -> pa.Array:
    """Convert a column of strings, bytes or numbers, or a dictionary of these, to large_string."""
    column = _values(column)
    if _is_binary(column.type):  # a cast would refuse bytes that are not UTF-8
        return column.cast(pa.large_binary()).view(pa.large_string())
    return column.cast(pa.large_string())


def _values(column: pa.Array) -> pa.Array:
    """Return the values of a column of an extension type (parquet's UUID) or a dictionary."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_binary(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    )


def _is_16_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16)


def _given_uids(column: pa.Array) -> tuple[Uids, npt.NDArray[np.bool_]]:
    """Return the uids of ids that the pool gives, and where they are missing: bool[n]."""
    if _is_16_bytes(column.type):
        return from_binary(column), pc.is_null(column).to_numpy(zero_copy_only=False)
    column = to_large_string(column)
    uids, kinds = _hex(column)
    if (kinds == _OTHER).any():
        rows = np.flatnonzero(kinds == _OTHER)
        uids[rows] = _md5([column.take(pa.array(rows))])
    return uids, kinds == _EMPTY


def _hex(column: pa.Array) -> tuple[Uids, npt.NDArray[np.uint8]]:
    """Parse a large_string array as hex digits: uids (0 where a string is something else), and the kind of each."""
    uids, kinds = np.zeros((len(column), 2), np.uint64), np.zeros(len(column), np.uint8)
    if len(column) and (library := load()) is not None:
        library.mc_hex(StringsStruct.of(column), address(uids, np.uint64), address(kinds, np.uint8))
        return uids, kinds
    for i, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
        if not value:
            kinds[i] = _EMPTY
        elif _HEX_ID.fullmatch(value):
            uids[i] = divmod(int(value, 16), 1 << 64)
        else:
            kinds[i] = _OTHER
    return uids, kinds


def _md5(parts: list[pa.Array]) -> Uids:
    """Return md5 of the rows of one column, or of two columns concatenated: uint64[n, 2]. A null is an empty string."""
    if not len(parts[0]) or (library := load()) is None:
        return _md5_hashlib(parts)
    uids = np.empty((len(parts[0]), 2), np.uint64)
    library.mc_md5(
        StringsStruct.of(parts[0]),
        StringsStruct.of(parts[1]) if len(parts) > 1 else None,
        address(uids, np.uint64),
    )
    return uids


def _md5_hashlib(parts: list[pa.Array]) -> Uids:
    pieces = (part.cast(pa.large_binary()).fill_null(b"").to_pylist() for part in parts)
    rows = (b"".join(row) for row in zip(*pieces, strict=True))
    digests = b"".join(hashlib.md5(row, usedforsecurity=False).digest() for row in rows)
    return np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)
