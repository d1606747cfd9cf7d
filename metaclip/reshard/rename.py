"""Samples of tars under new names: their bytes as they are, with headers made anew.

Samples are read into a window, what follows each other at once. Where all in it are plain (image, text and fields, a
header each) and used once, the headers in it are overwritten, by a few array operations, and it is written as it stands;
elsewhere member by member. Both give the same bytes.
Cost: 5 us a plain sample besides the copying of its bytes, 30 us another one.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.pool.tar_format import BLOCK, NAME_BYTES, ForwardReader, header, read_members
from metaclip.pool.tars import split_name
from metaclip.pool.uid import Uids
from metaclip.reshard.index import IMAGES

_SUFFIX: Final = re.compile(rb"[a-z0-9][a-z0-9._-]*")
_WINDOW: Final = 1 << 23  # bytes that are written at once
_SIZE_DIGITS: Final = 11
_NAME: Final = slice(0, NAME_BYTES)
_SIZE: Final = slice(124, 124 + _SIZE_DIGITS)
_EMPTY: Final = np.frombuffer(header(b"", 0), np.uint8)
_REST: Final = int(_EMPTY[148:154].tobytes(), 8) - int(_EMPTY[_SIZE].sum())  # the sum of all else
_HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)


PLAIN_NOT: Final = 255


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples of one tar, ascending."""

    uids: Uids
    spans: npt.NDArray[np.uint64]
    """uint64[n, 2]: where a sample begins and ends."""
    kind: npt.NDArray[np.uint64]
    """Which of IMAGES the image's suffix is; PLAIN_NOT where the sample has other members or headers too."""
    members: npt.NDArray[np.uint64]
    """uint64[n, 3, 2]: where the bytes of image, txt and json are, and how many; (0, 0) for none."""


@dataclasses.dataclass(frozen=True)
class Jobs(Samples):
    """Samples, and how often each is written."""

    first: npt.NDArray[np.int64]
    """The number of the first use."""
    uses: npt.NDArray[np.int64]


def copies(stream: ForwardReader, jobs: Jobs, tally: dict[str, int]) -> Iterator[memoryview]:
    """Give the bytes of samples, named ``{uid}-{number of the use}``, a window at a time; count them in `tally`.

    What is given holds until the next is asked for.
    """
    begins, ends = jobs.spans[:, 0].astype(np.int64), jobs.spans[:, 1].astype(np.int64)
    through = np.concatenate([[0], np.cumsum(ends - begins)])
    once = (jobs.uses == 1) & (jobs.first < 10) & (jobs.kind != PLAIN_NOT)
    window = np.empty(0, np.uint8)  # one for all: a new one's pages would cost as much as the copying
    at = 0
    while at < len(begins):
        last = max(at + 1, int(np.searchsorted(through, through[at] + _WINDOW, side="right")) - 1)
        part, size = slice(at, last), int(through[last] - through[at])
        if len(window) < size:
            window = np.empty(max(size, _WINDOW), np.uint8)
        data, places = window[:size], through[at : last + 1] - through[at]
        runs = np.flatnonzero(np.concatenate([[True], begins[at + 1 : last] != ends[at : last - 1], [True]]))
        for first, end in itertools.pairwise(runs.tolist()):
            stream.fill(int(begins[at + first]), data[places[first] : places[end]].data)
        moved = places[:-1] - begins[part]
        if once[part].all():
            _overwrite(data.reshape(-1, BLOCK), moved, jobs, part, tally)
            yield data.data
        else:
            yield memoryview(b"".join(_renamed(data.data, moved, jobs, part, tally)))
        at = last


def _overwrite(
    blocks: npt.NDArray[np.uint8], moved: npt.NDArray[np.int64], jobs: Jobs, part: slice, tally: dict[str, int]
) -> None:
    """Overwrite the headers of plain samples; `moved` says how far each one's bytes were moved from where they stood."""
    uids, first = jobs.uids[part], jobs.first[part]
    for column, suffixes in enumerate((IMAGES, (b"txt",), (b"json",))):
        spans = jobs.members[part, column].astype(np.int64)
        for number, suffix in enumerate(suffixes):
            there = np.flatnonzero((spans[:, 0] > 0) & ((jobs.kind[part] == number) if column == 0 else True))
            if len(there):
                places = (spans[there, 0] + moved[there]) // BLOCK - 1
                blocks[places] = headers(uids[there], first[there], suffix, spans[there, 1])
                tally["members"] += len(there)
    tally["samples"] += len(uids)


def headers(
    uids: Uids, numbers: npt.NDArray[np.int64], suffix: bytes, sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Give `tar_format.header` of ``{uid}-{number}.{suffix}`` for many: uint8[n, 512]. Numbers are below 10."""
    if len(sizes) and int(sizes.max()) >= 8**_SIZE_DIGITS:
        rows = zip(uids.tolist(), numbers.tolist(), sizes.tolist(), strict=True)
        made = b"".join(header(b"%016x%016x-%d.%b" % (*uid, number, suffix), size) for uid, number, size in rows)
        return np.frombuffer(made, np.uint8).reshape(-1, BLOCK)
    found = np.empty((len(uids), BLOCK), np.uint8)
    found[:] = _EMPTY
    data = np.ascontiguousarray(uids.astype(">u8")).view(np.uint8).reshape(-1, 16)
    found[:, 0:32:2], found[:, 1:32:2] = _HEX[data >> 4], _HEX[data & 15]
    found[:, 32], found[:, 33], found[:, 34] = ord("-"), ord("0") + numbers, ord(".")
    found[:, 35 : 35 + len(suffix)] = np.frombuffer(suffix, np.uint8)
    found[:, _SIZE] = _octal(sizes, _SIZE_DIGITS)
    # Only these differ from a header of nothing.
    changed = found[:, _NAME].sum(axis=1, dtype=np.int64) + found[:, _SIZE].sum(axis=1, dtype=np.int64)
    found[:, 148:154] = _octal(changed + _REST, 6)
    return found


def _octal(numbers: npt.NDArray[np.int64], digits: int) -> npt.NDArray[np.uint8]:
    return ((numbers[:, None] >> (3 * np.arange(digits)[::-1])) & 7).astype(np.uint8) + np.uint8(ord("0"))


class _Window:
    """Bytes of a tar that were read, by their places in it."""

    def __init__(self, moved: int, data: memoryview) -> None:
        self._moved, self._data = moved, data

    def read(self, at: int, size: int) -> bytes:
        return bytes(self._data[at + self._moved : at + self._moved + size])


def _renamed(
    data: memoryview, moved: npt.NDArray[np.int64], jobs: Jobs, part: slice, tally: dict[str, int]
) -> list[bytes | memoryview]:
    """Give a window's samples member by member."""
    parts: list[bytes | memoryview] = []
    for row, by in zip(range(part.start, part.stop), moved.tolist(), strict=True):
        window: Any = _Window(by, data)
        uid, first, uses = b"%016x%016x" % tuple(jobs.uids[row].tolist()), int(jobs.first[row]), int(jobs.uses[row])
        names = [b"%b-%d" % (uid, number) for number in range(first, first + uses)]
        found = []
        for member in read_members(window, int(jobs.spans[row, 0]), int(jobs.spans[row, 1])):
            split = split_name(member.name)
            if split is None:
                continue
            if not _SUFFIX.fullmatch(split[1]) or len(names[-1]) + 1 + len(split[1]) > NAME_BYTES:
                tally["odd_suffix"] += uses
                continue
            found.append((split[1], member.size, data[member.data + by : member.end + by]))
        for name in names:
            for suffix, size, content in found:
                parts.append(header(b"%b.%b" % (name, suffix), size))
                parts.append(content)
        tally["samples"] += uses
        tally["members"] += uses * len(found)
    return parts
