"""The headers of a tar, found all at once, if it holds nothing but files with short names, as image-text tars do.

Every header has a magic number at the same place. All blocks of 512 bytes with the magic number are checked, and they are
the headers of the tar if each one's size leads to the next, from the first block to the zeros at the end: a block of an
image that looks like a header breaks this chain. For any other tar the result is None, and it is walked header by header
(`metaclip.pool.tar_format.members`); tests check that both find the same.

Cost: 12 us of processor time per sample of three members and 26 kB, nearly half of it for reading the bytes; walking takes
45 us. Memory: 8 MB, and 25 bytes per member.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.pool.tar_format import BLOCK, NAME_BYTES

_MAGIC: Final = slice(260, 264)  # of "ustar\x0000", or of GNU's "ustar  \0"
_SIZE: Final = slice(124, 135)
_CHECKSUM: Final = slice(148, 154)
_SUFFIX_BYTES: Final = 8
_WINDOW: Final = (
    1 << 23
)  # bytes: threads switch between two windows, which costs more than a smaller one saves
_MOST_ZEROS: Final = 1 << 20  # bytes behind the last member
_LOW_BYTES: Final = np.uint64(0x00FF00FF00FF00FF)
_KEY_WORDS: Final = -(-NAME_BYTES // 8)
_FACTORS: Final = np.random.default_rng(0).integers(1 << 63, size=_KEY_WORDS, dtype=np.uint64) * 2 + 1

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class TarHeaders:
    """The members of a tar in order, and the samples that they form."""

    begin: Numbers
    """The first byte of each member's header."""
    size: Numbers
    """The number of bytes of each member."""
    suffix: Numbers
    """The index of each member's suffix in `suffixes`."""
    suffixes: tuple[bytes, ...]
    """The distinct suffixes in small letters."""
    first: Numbers
    """The first member of each sample; the members of a sample follow each other."""
    end: int
    """The end of the last member."""

    def spans(self, *suffixes: bytes) -> tuple[npt.NDArray[np.uint64], Numbers]:
        """Return the span of each sample's first member with one of `suffixes`, and the index of its suffix in these.

        uint64[n, 2] of (begin, size), (0, 0) if there is none; and int64[n].
        """
        known = np.array(
            [suffixes.index(one) if one in suffixes else -1 for one in self.suffixes], np.int64
        )
        kind = known[self.suffix]
        members = np.flatnonzero(kind >= 0)
        samples, at = np.unique(np.searchsorted(self.first, members, side="right") - 1, return_index=True)
        chosen = members[at]
        spans, kinds = np.zeros((len(self.first), 2), np.uint64), np.zeros(len(self.first), np.int64)
        spans[samples, 0], spans[samples, 1] = self.begin[chosen] + BLOCK, self.size[chosen]
        kinds[samples] = kind[chosen]
        return spans, kinds


@dataclasses.dataclass(frozen=True)
class MemberWindow:
    """Successive members of a tar while the bytes around them are in memory."""

    begin: Numbers
    """The first byte of each member's header."""
    size: Numbers
    suffix: Numbers
    """The suffix of each member as it is written, as `suffix_code` encodes it."""
    _data: memoryview
    _offset: int
    _file: io.BufferedReader

    def contents(self, numbers: Numbers) -> dict[int, bytes]:
        """Return the bytes of members, by the place where they begin."""
        begins = self.begin[numbers] + BLOCK
        ends = begins + self.size[numbers]
        data, offset, data_end = self._data, self._offset, self._offset + len(self._data)
        return {
            at: bytes(data[at - offset : end - offset])
            if end <= data_end
            else os.pread(self._file.fileno(), end - at, at)
            for at, end in zip(begins.tolist(), ends.tolist(), strict=True)
        }


Visit = Callable[[MemberWindow], bool]


def find_headers(file: io.BufferedReader, visit: Visit = lambda _: True) -> TarHeaders | None:
    """Find the headers of a tar; return None if it must be walked.

    `visit` is called with all members in order and returns whether to continue; otherwise the result is None.
    """
    window = np.empty(_WINDOW, np.uint8)
    magic, begin, due = (
        None,
        0,
        0,
    )  # blocks: the first one of the window, and where the next header must be
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    key = b""
    while size := file.readinto(window.data):
        blocks = window[: size - size % BLOCK].reshape(-1, BLOCK)
        magics = blocks[:, _MAGIC].view("<u4")[:, 0]
        magic = magics[0] if magic is None and len(magics) else magic
        places = np.flatnonzero(magics == magic)
        if len(places):
            heads = blocks[places]
            at, sizes, named = begin + places, _sizes(heads), _split_names(heads[:, :NAME_BYTES], key)
            if sizes is None or named is None:
                return None
            after = at + 1 + -(-sizes // BLOCK)
            if at[0] != due or (after[:-1] != at[1:]).any():
                return None
            codes, keys, new, key = named
            if not visit(MemberWindow(at * BLOCK, sizes, codes, window[:size].data, begin * BLOCK, file)):
                return None
            parts.append((at * BLOCK, sizes, codes, keys, new))
            due = int(after[-1])
        begin += len(blocks)
    file.seek(due * BLOCK)
    closing = file.read(_MOST_ZEROS + 1)
    if not parts or not BLOCK <= len(closing) <= _MOST_ZEROS or closing.strip(b"\0"):
        return None  # it is cut off, or more may follow
    begins, sizes, codes, keys, new = (np.concatenate(column) for column in zip(*parts, strict=True))
    first = np.flatnonzero(new)
    if len(np.unique(keys[first])) < len(first):
        return None  # a key comes again
    written, which = np.unique(codes, return_inverse=True)
    lower = [int(one).to_bytes(_SUFFIX_BYTES, "little").rstrip(b"\0").lower() for one in written]
    suffixes = tuple(dict.fromkeys(lower))
    suffix = np.array([suffixes.index(one) for one in lower], np.int64)[which]
    # So does a suffix that occurs twice under one key.
    bits = np.int64(1) << suffix
    if len(suffixes) > 62 or (np.add.reduceat(bits, first) != np.bitwise_or.reduceat(bits, first)).any():
        return None
    return TarHeaders(begins, sizes, suffix, suffixes, first, due * BLOCK)


def suffix_code(suffix: bytes) -> int:
    """Encode a suffix of at most 8 bytes as an integer."""
    return int.from_bytes(suffix, "little")


def _sizes(heads: Bytes) -> Numbers | None:
    """Return the sizes in headers; None if one is not that of a file, or its checksum is wrong."""
    size, checksum = _octal(heads[:, _SIZE]), _octal(heads[:, _CHECKSUM])
    if size is None or checksum is None or (heads[:, [135, 154]] != 0).any() or heads[:, 345].any():
        return None
    if (heads[:, 156] != ord("0")).any() or (checksum != _checksums(heads)).any():
        return None
    return size


def _octal(digits: Bytes) -> Numbers | None:
    """Read numbers written as octal digits, one per row; None if there is another character."""
    values = digits - np.uint8(ord("0"))
    if (values > 7).any():
        return None
    return values.astype(np.int64) @ (8 ** np.arange(values.shape[1], dtype=np.int64)[::-1])


def _checksums(heads: Bytes) -> Numbers:
    """Return the checksums of headers: sums of their bytes, with eight blanks in place of the checksum itself."""
    words = heads.view(np.uint64)
    # Four bytes at a time in lanes of 16 bits, which 128 bytes cannot fill.
    lanes = ((words & _LOW_BYTES) + ((words >> np.uint64(8)) & _LOW_BYTES)).sum(axis=1, dtype=np.uint64)
    whole = sum(
        ((lanes >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16, 32, 48)
    )
    stated: Numbers = heads[:, 148:156].sum(axis=1, dtype=np.int64)
    found: Numbers = whole - stated + 8 * 32
    return found


def _split_names(
    names: Bytes, before: bytes
) -> tuple[Numbers, npt.NDArray[np.uint64], npt.NDArray[np.bool_], bytes] | None:
    """Split names into keys and suffixes as `metaclip.pool.tars.split_name` does; None if a name needs more than that.

    Return the suffixes as `suffix_code` encodes them, hashes of the keys, whether each key differs from the one before it
    (from `before` for the first), and the last key.
    """
    width = int(np.flatnonzero(names.any(axis=0)).max(initial=0)) + 1
    names = names[:, :width]
    if (names == ord("/")).any() or (names[:, :2] == ord("_")).all(axis=1).any():
        return None
    dot = (names == ord(".")).argmax(axis=1)
    ends = np.where((names == 0).any(axis=1), (names == 0).argmax(axis=1), width)
    if (dot == 0).any() or (dot > ends).any() or int((ends - dot).max()) > _SUFFIX_BYTES:
        return None
    padded = np.zeros((len(names), width + _SUFFIX_BYTES), np.uint8)
    padded[:, :width] = np.where(np.arange(width) < ends[:, None], names, 0)
    suffixes = np.take_along_axis(padded, dot[:, None] + 1 + np.arange(_SUFFIX_BYTES), axis=1)
    keys = np.where(np.arange(width) < dot[:, None], names, 0)
    begun = keys[0].tobytes().rstrip(b"\0") != before
    new = np.concatenate([[begun], (keys[1:] != keys[:-1]).any(axis=1)])
    whole = np.zeros((len(keys), 8 * _KEY_WORDS), np.uint8)
    whole[:, :width] = keys
    hashes = (whole.view(np.uint64) * _FACTORS).sum(axis=1, dtype=np.uint64)
    return (
        np.ascontiguousarray(suffixes).view("<i8")[:, 0], hashes, new, keys[-1].tobytes().rstrip(b"\0"),
    )  # fmt: skip
