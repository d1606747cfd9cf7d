"""Samples of tars under new names: their bytes are copied, their headers are made anew.

Neighbours are read into a window together. If all samples of a window are simple (image, text and fields, one header each)
and used once, their headers are overwritten by a few array operations and the window is written as it is; otherwise it is
copied member by member. Both give the same bytes.
Cost: 5 us per simple sample besides copying its bytes, 30 us per other sample.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from metaclip.pool.tar_format import BLOCK, NAME_BYTES, ForwardReader, header, read_members
from metaclip.pool.tars import split_name
from metaclip.pool.uid import Uids
from metaclip.reshard.index import IMAGES

NOT_SIMPLE: Final = 255
"""The kind of a sample that has other members or headers too."""

_SUFFIX: Final = re.compile(rb"[a-z0-9][a-z0-9._-]*")
_WINDOW: Final = 1 << 23  # bytes that are written at once
_SIZE_DIGITS: Final = 11
_NAME: Final = slice(0, NAME_BYTES)
_SIZE: Final = slice(124, 124 + _SIZE_DIGITS)
_EMPTY: Final = np.frombuffer(header(b"", 0), np.uint8)
_REST: Final = int(_EMPTY[148:154].tobytes(), 8) - int(
    _EMPTY[_SIZE].sum()
)  # the checksum without name and size
_HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclasses.dataclass(frozen=True)
class SampleSpans:
    """Places of samples in a tar, ascending."""

    uids: Uids
    spans: npt.NDArray[np.uint64]
    """uint64[n, 2]: begin and end of each sample."""
    kind: npt.NDArray[np.uint64]
    """The index of the image's suffix in IMAGES; NOT_SIMPLE for a sample with other members or headers too."""
    members: npt.NDArray[np.uint64]
    """uint64[n, 3, 2]: begin and size of image, txt and json; (0, 0) if there is none."""


@dataclasses.dataclass(frozen=True)
class SampleCopies(SampleSpans):
    """Samples, and how often each is written."""

    first: npt.NDArray[np.int64]
    """The number of the first copy."""
    uses: npt.NDArray[np.int64]


def copy_samples(
    stream: ForwardReader, copies: SampleCopies, counts: dict[str, int]
) -> Iterator[memoryview]:
    """Yield the bytes of samples named ``{uid}-{number of the copy}``, a window at a time, and count them in `counts`.

    A window is valid until the next one is requested.
    """
    begins, ends = copies.spans[:, 0].astype(np.int64), copies.spans[:, 1].astype(np.int64)
    through = np.concatenate([[0], np.cumsum(ends - begins)])
    once = (copies.uses == 1) & (copies.first < 10) & (copies.kind != NOT_SIMPLE)
    window = np.empty(0, np.uint8)  # reused: the pages of a new one would cost as much as the copying
    at = 0
    while at < len(begins):
        last = max(at + 1, int(np.searchsorted(through, through[at] + _WINDOW, side="right")) - 1)
        part, size = slice(at, last), int(through[last] - through[at])
        if len(window) < size:
            window = np.empty(max(size, _WINDOW), np.uint8)
        data, places = window[:size], through[at : last + 1] - through[at]
        runs = np.flatnonzero(
            np.concatenate([[True], begins[at + 1 : last] != ends[at : last - 1], [True]])
        )
        for first, end in itertools.pairwise(runs.tolist()):
            stream.fill(int(begins[at + first]), data[places[first] : places[end]].data)
        moved = places[:-1] - begins[part]
        if once[part].all():
            _overwrite_headers(data.reshape(-1, BLOCK), moved, copies, part, counts)
            yield data.data
        else:
            yield memoryview(b"".join(_renamed_members(data.data, moved, copies, part, counts)))
        at = last


def _overwrite_headers(
    blocks: npt.NDArray[np.uint8],
    moved: npt.NDArray[np.int64],
    copies: SampleCopies,
    part: slice,
    counts: dict[str, int],
) -> None:
    """Overwrite the headers of simple samples; `moved` is the distance of each one's bytes from their place in the tar."""
    uids, first = copies.uids[part], copies.first[part]
    for column, suffixes in enumerate((IMAGES, (b"txt",), (b"json",))):
        spans = copies.members[part, column].astype(np.int64)
        for number, suffix in enumerate(suffixes):
            rows = np.flatnonzero(
                (spans[:, 0] > 0) & ((copies.kind[part] == number) if column == 0 else True)
            )
            places = (spans[rows, 0] + moved[rows]) // BLOCK - 1
            blocks[places] = make_headers(uids[rows], first[rows], suffix, spans[rows, 1])
            counts["members"] += len(rows)
    counts["samples"] += len(uids)


def make_headers(
    uids: Uids, numbers: npt.NDArray[np.int64], suffix: bytes, sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Return `tar_format.header` of ``{uid}-{number}.{suffix}`` for many members: uint8[n, 512].

    Numbers are below 10; sizes are below 8 GiB, as those of all samples in an index.
    """
    found = np.empty((len(uids), BLOCK), np.uint8)
    found[:] = _EMPTY
    data = np.ascontiguousarray(uids.astype(">u8")).view(np.uint8).reshape(-1, 16)
    found[:, 0:32:2], found[:, 1:32:2] = _HEX[data >> 4], _HEX[data & 15]
    found[:, 32], found[:, 33], found[:, 34] = ord("-"), ord("0") + numbers, ord(".")
    found[:, 35 : 35 + len(suffix)] = np.frombuffer(suffix, np.uint8)
    found[:, _SIZE] = _octal(sizes, _SIZE_DIGITS)
    # Only name and size differ from an empty header.
    changed = found[:, _NAME].sum(axis=1, dtype=np.int64) + found[:, _SIZE].sum(axis=1, dtype=np.int64)
    found[:, 148:154] = _octal(changed + _REST, 6)
    return found


def _octal(numbers: npt.NDArray[np.int64], digits: int) -> npt.NDArray[np.uint8]:
    return ((numbers[:, None] >> (3 * np.arange(digits)[::-1])) & 7).astype(np.uint8) + np.uint8(ord("0"))


def _renamed_members(
    data: memoryview,
    moved: npt.NDArray[np.int64],
    copies: SampleCopies,
    part: slice,
    counts: dict[str, int],
) -> list[bytes | memoryview]:
    """Return the headers and contents of a window's samples, member by member."""
    parts: list[bytes | memoryview] = []

    def read(at: int, size: int) -> bytes:
        return bytes(data[at : at + size])

    for row, by in zip(range(part.start, part.stop), moved.tolist(), strict=True):
        uid, first, uses = (
            b"%016x%016x" % tuple(copies.uids[row].tolist()),
            int(copies.first[row]),
            int(copies.uses[row]),
        )
        names = [b"%b-%d" % (uid, number) for number in range(first, first + uses)]
        found = []
        begin, end = copies.spans[row].tolist()
        for member in read_members(read, begin + by, end + by):
            split = split_name(member.name)
            if split is None:
                continue
            if not _SUFFIX.fullmatch(split[1]) or len(names[-1]) + 1 + len(split[1]) > NAME_BYTES:
                counts["odd_suffix"] += uses
                continue
            found.append((split[1], member.size, data[member.data : member.end]))
        for name in names:
            for suffix, size, content in found:
                parts += (header(b"%b.%b" % (name, suffix), size), content)
        counts["samples"] += uses
        counts["members"] += uses * len(found)
    return parts
