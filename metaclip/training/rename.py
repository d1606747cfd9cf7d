"""Samples of tars under new names: their bytes as they are, with headers made anew.

A window of a tar is read at once. Where all samples in it are plain (image, text and fields, a header each) and used
once, it is copied as it stands and the headers in it are overwritten, all by a few array operations; elsewhere member by
member. Both give the same bytes.
Cost: 3 us a plain sample besides the copying of its bytes, 30 us another one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.curation.draw import Uids
from metaclip.curation.tar_format import BLOCK, NAME_BYTES, Forward, header, members
from metaclip.curation.tars import split_name
from metaclip.training.index import IMAGES

_SUFFIX: Final = re.compile(rb"[a-z0-9][a-z0-9._-]*")
_WINDOW: Final = 1 << 23  # bytes read at once
_GAP: Final = 1 << 16  # bytes read in vain rather than by another read
_SIZE_DIGITS: Final = 11
_HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclasses.dataclass(frozen=True)
class Jobs:
    """Samples of one tar, ascending, and how often each is written."""

    uids: Uids
    spans: npt.NDArray[np.uint64]
    """uint64[n, 2]: where a sample begins and ends."""
    members: npt.NDArray[np.uint64]
    """uint64[n, 3, 2]: where the bytes of image, txt and json are, and how many; (0, 0) for none."""
    kind: npt.NDArray[np.uint64]
    """Which of IMAGES the image's suffix is; PLAIN_NOT where the sample has other members or headers too."""
    first: npt.NDArray[np.int64]
    """The number of the first use."""
    uses: npt.NDArray[np.int64]


PLAIN_NOT: Final = 255


def copies(stream: Forward, jobs: Jobs, tally: dict[str, int]) -> Iterator[Any]:
    """Give the bytes of samples, named ``{uid}-{number of the use}``, a window at a time; count them in `tally`."""
    begins, ends = jobs.spans[:, 0].astype(np.int64), jobs.spans[:, 1].astype(np.int64)
    once = (jobs.uses == 1) & (jobs.first < 10) & (jobs.kind != PLAIN_NOT)
    at = 0
    while at < len(begins):
        # As many samples as a window holds, up to a gap that is not worth reading.
        last = max(at + 1, int(np.searchsorted(ends, begins[at] + _WINDOW, side="right")))
        gaps = np.flatnonzero(begins[at + 1 : last] - ends[at : last - 1] > _GAP)
        last = at + 1 + int(gaps[0]) if len(gaps) else last
        part = slice(at, last)
        data = stream.read(int(begins[at]), int(ends[last - 1] - begins[at]))
        if once[part].all():
            yield _overwritten(data, jobs, part, tally)
        else:
            yield b"".join(_renamed(data, jobs, part, tally))
        at = last


def _overwritten(data: bytes, jobs: Jobs, part: slice, tally: dict[str, int]) -> Any:
    """Copy a window of plain samples, overwrite their headers, and leave out what is between them."""
    begin = int(jobs.spans[part.start, 0])
    blocks = np.frombuffer(data, np.uint8).reshape(-1, BLOCK).copy()
    uids, first = jobs.uids[part], jobs.first[part]
    for column, suffixes in enumerate((IMAGES, (b"txt",), (b"json",))):
        spans = jobs.members[part, column]
        for number, suffix in enumerate(suffixes):
            there = np.flatnonzero((spans[:, 0] > 0) & ((jobs.kind[part] == number) if column == 0 else True))
            if len(there):
                places = (spans[there, 0].astype(np.int64) - begin) // BLOCK - 1
                blocks[places] = headers(uids[there], first[there], suffix, spans[there, 1].astype(np.int64))
                tally["members"] += len(there)
    tally["samples"] += len(uids)
    edges = (jobs.spans[part].astype(np.int64) - begin) // BLOCK
    if (edges[1:, 0] == edges[:-1, 1]).all():
        return blocks
    inside = np.zeros(len(blocks) + 1, np.int8)
    inside[edges[:, 0]] += 1
    np.add.at(inside, edges[:, 1], -1)
    return blocks[np.cumsum(inside[:-1]).astype(np.bool_)]


def headers(
    uids: Uids, numbers: npt.NDArray[np.int64], suffix: bytes, sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Give `tar_format.header` of ``{uid}-{number}.{suffix}`` for many: uint8[n, 512]. Numbers are below 10."""
    if len(sizes) and int(sizes.max()) >= 8**_SIZE_DIGITS:
        rows = zip(uids.tolist(), numbers.tolist(), sizes.tolist(), strict=True)
        made = b"".join(header(b"%016x%016x-%d.%b" % (*uid, number, suffix), size) for uid, number, size in rows)
        return np.frombuffer(made, np.uint8).reshape(-1, BLOCK)
    found = np.repeat(np.frombuffer(header(b"", 0), np.uint8)[None], len(uids), axis=0)
    data = np.ascontiguousarray(uids.astype(">u8")).view(np.uint8).reshape(-1, 16)
    found[:, 0:32:2], found[:, 1:32:2] = _HEX[data >> 4], _HEX[data & 15]
    found[:, 32], found[:, 33], found[:, 34] = ord("-"), ord("0") + numbers, ord(".")
    found[:, 35 : 35 + len(suffix)] = np.frombuffer(suffix, np.uint8)
    found[:, 124 : 124 + _SIZE_DIGITS] = _octal(sizes, _SIZE_DIGITS)
    found[:, 148:156] = ord(" ")
    found[:, 148:154] = _octal(found.sum(axis=1, dtype=np.int64), 6)
    found[:, 154] = 0
    return found


def _octal(numbers: npt.NDArray[np.int64], digits: int) -> npt.NDArray[np.uint8]:
    return ((numbers[:, None] >> (3 * np.arange(digits)[::-1])) & 7).astype(np.uint8) + np.uint8(ord("0"))


class _Window:
    """Bytes of a tar that were read, by their places in it."""

    def __init__(self, begin: int, data: bytes) -> None:
        self._begin, self._data = begin, data

    def read(self, at: int, size: int) -> bytes:
        return self._data[at - self._begin : at - self._begin + size]


def _renamed(data: bytes, jobs: Jobs, part: slice, tally: dict[str, int]) -> list[bytes | memoryview]:
    """Give a window's samples member by member."""
    begin, view = int(jobs.spans[part.start, 0]), memoryview(data)
    window: Any = _Window(begin, data)
    parts: list[bytes | memoryview] = []
    for row in range(part.start, part.stop):
        uid, first, uses = b"%016x%016x" % tuple(jobs.uids[row].tolist()), int(jobs.first[row]), int(jobs.uses[row])
        names = [b"%b-%d" % (uid, number) for number in range(first, first + uses)]
        found = []
        for member in members(window, int(jobs.spans[row, 0]), int(jobs.spans[row, 1])):
            split = split_name(member.name)
            if split is None:
                continue
            if not _SUFFIX.fullmatch(split[1]) or len(names[-1]) + 1 + len(split[1]) > NAME_BYTES:
                tally["odd_suffix"] += uses
                continue
            found.append((split[1], member.size, view[member.data - begin : member.end - begin]))
        for name in names:
            for suffix, size, content in found:
                parts.append(header(b"%b.%b" % (name, suffix), size))
                parts.append(content)
        tally["samples"] += uses
        tally["members"] += uses * len(found)
    return parts
