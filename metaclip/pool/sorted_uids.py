"""Sorting uids out of core: sorted runs, one a shard, merged in blocks of bounded memory.

A run is an ``.npy`` file of uint64[n, k]: the two halves of a uid, then whatever goes with it. Blocks are cut between
different uids, so equal ones always meet in one block.
Cost: 0.15 us a uid a pass.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from metaclip.engine.threads import in_order
from metaclip.errors import MetaclipError
from metaclip.storage.files import atomic_write, temporary_path

SUBSET: Final = np.dtype("u8,u8")
"""DataComp's subset format: (high, low) of each uid, sorted."""

Rows = npt.NDArray[np.uint64]
_BLOCK: Final = 1 << 19
FAN_IN: Final = 128
"""Runs merged at once: each is an open file, and is read in pieces of _BLOCK / FAN_IN rows or longer."""


def sort_rows(rows: Rows) -> Rows:
    """Sort uint64[n, k] by its first two columns."""
    order = np.argsort(rows[:, 0])
    rows = rows[order]
    high = rows[:, 0]
    ties = np.flatnonzero(high[1:] == high[:-1])
    if len(ties):  # rare among hashes: sort again by both halves, only where they are needed
        touched = np.union1d(ties, ties + 1)
        part = rows[touched]
        keys = tuple(part[:, column] for column in range(part.shape[1] - 1, -1, -1))
        rows[touched] = part[np.lexsort(keys)]
    return rows


def write_run(path: Path, rows: Rows) -> None:
    """Write a sorted run, whole or not at all."""
    write_rows(path, sort_rows(rows))


def write_rows(path: Path, rows: Rows) -> None:
    """Write uint64[n, k] as an ``.npy`` file, whole or not at all."""
    rows = np.ascontiguousarray(rows, np.uint64)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        _write_header(file, rows.shape, rows.dtype)
        # np.save writes through C's stdio: its error does not say that the disk is full.
        file.write(rows.tobytes())


def load_array(path: Path, mmap_mode: Literal["r"] | None = None) -> npt.NDArray[Any]:
    """Load an ``.npy`` file as `numpy.load` does, from any thread.

    numpy parses the header with `ast.literal_eval`, which fails at random if two threads call it at once (CPython issue
    106905, in Python 3.11 and 3.12).
    """
    with _header_lock:
        array: npt.NDArray[Any] = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    return array


_header_lock = threading.Lock()


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def merge_runs(paths: Sequence[Path], block: int = _BLOCK, fan_in: int = FAN_IN, threads: int = 1) -> Iterator[Rows]:
    """Give the rows of sorted runs in order, in blocks of about `block` rows; equal uids stand in one block.

    `threads` sort blocks ahead of the one that is given, each in its own memory.

    More than `fan_in` runs are merged into longer ones first, under temporary names beside them: so the reads are as few
    and as long for 100,000 runs as for 100, for one more pass over the disk.
    """
    with contextlib.ExitStack() as made:
        while len(paths) > fan_in:
            groups = [paths[i : i + fan_in] for i in range(0, len(paths), fan_in)]
            paths = [_merged(group, block, made, threads) for group in groups]
        yield from _merge(paths, block, threads)


def _merged(paths: Sequence[Path], block: int, made: contextlib.ExitStack, threads: int) -> Path:
    """Merge runs into one that is removed with `made`."""
    path = temporary_path(paths[0])
    made.callback(path.unlink, missing_ok=True)
    with path.open("wb") as file:
        with contextlib.ExitStack() as opened:
            runs = [opened.enter_context(_Run(path)) for path in paths]
            shape = (sum(map(len, runs)), max(run.width for run in runs))
        _write_header(file, shape, np.dtype(np.uint64))
        for rows in _merge(paths, block, threads):
            file.write(rows.data)
    return path


def _merge(paths: Sequence[Path], block: int, threads: int) -> Iterator[Rows]:
    with contextlib.ExitStack() as opened:
        runs = [run for path in paths if len(run := opened.enter_context(_Run(path)))]
        if not runs:
            return
        n_blocks = -(-sum(map(len, runs)) // block)
        samples = sort_rows(_sample(runs, max(1, block // 64)))
        bounds = [tuple(map(int, samples[len(samples) * i // n_blocks])) for i in range(1, n_blocks)]

        def pieces() -> Iterator[tuple[list[int], list[int]]]:
            begins = [0] * len(runs)
            for bound in [*bounds, None]:
                starts = zip(runs, begins, strict=True)
                ends = [len(run) if bound is None else bisect.bisect_left(run, bound, begin) for run, begin in starts]
                if ends != begins:  # bounds may be equal
                    yield begins, ends
                begins = ends

        yield from in_order(lambda piece: sort_rows(_read(runs, *piece)), pieces(), threads)


def _read(runs: Sequence[_Run], begins: Sequence[int], ends: Sequence[int]) -> Rows:
    """Read rows [begin, end) of each run, one after the other."""
    rows = np.empty((sum(ends) - sum(begins), runs[0].width), np.uint64)
    filled = 0
    for run, begin, end in zip(runs, begins, ends, strict=True):
        run.read(begin, rows[filled : filled + end - begin])
        filled += end - begin
    return rows


def _sample(runs: Sequence[_Run], step: int) -> Rows:
    """Take one uid of each `step`, counted through all runs, so that many short runs are sampled as one long run is.

    Where in each `step` changes by the golden ratio: no length of runs that are each sorted is in step with it.
    """
    ends = np.cumsum([len(run) for run in runs])
    strata = np.arange(-(-int(ends[-1]) // step))
    places = np.minimum(step * strata + (0x9E3779B9 * strata & 0xFFFFFFFF) * step // (1 << 32), ends[-1] - 1)
    cuts = np.searchsorted(places, [0, *ends.tolist()])
    begins = ends - [len(run) for run in runs]
    parts = zip(runs, begins, itertools.pairwise(cuts), strict=True)
    return np.array([run[place] for run, begin, (i, j) in parts for place in (places[i:j] - begin).tolist()], np.uint64)


class _Run(Sequence[tuple[int, int]]):
    """A sorted run as the sequence of its uids.

    Read, never mapped: pages of a map that were touched count as this process's memory, and here they come from all over
    the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        np.lib.format.read_magic(self._file)
        (self._rows, self.width), _, _ = np.lib.format.read_array_header_1_0(self._file)
        self._header = self._file.tell()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: Any) -> Any:
        uid = np.empty((1, 2), np.uint64)
        self.read(row, uid)
        return tuple(uid[0].tolist())

    def read(self, begin: int, rows: Rows) -> None:
        """Fill C-contiguous `rows` (or their first columns, where it is one row) with those from `begin` on."""
        place, left = self._header + begin * self.width * 8, rows.reshape(-1).view(np.uint8)
        while len(left):
            n = os.preadv(self._file.fileno(), [left.data], place)
            if not n:
                raise MetaclipError(f"{self._path} is shorter than it was; run the same command again")
            place, left = place + n, left[n:]


def write_subset(path: Path, blocks: Iterator[Rows], rows: int) -> None:
    """Write sorted blocks of uids, `rows` in all, in DataComp's subset format."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        _write_header(file, (rows,), SUBSET)
        written = 0
        for uids in blocks:
            file.write(np.ascontiguousarray(uids[:, :2]).tobytes())
            written += len(uids)
        if written != rows:
            raise AssertionError(f"{path}: {written} uids written, {rows} expected")


def repeated(block: Rows) -> Rows:
    """Give each uid that stands more than once in a sorted block, once: uint64[m, 2]."""
    same = (block[1:, 0] == block[:-1, 0]) & (block[1:, 1] == block[:-1, 1])
    first = same & ~np.concatenate([[False], same[:-1]]) if len(same) else same
    return block[:-1][first][:, :2] if len(same) else block[:0, :2]


class UidSet:
    """A set of uids that answers for many at once."""

    def __init__(self, uids: Rows) -> None:
        """Take uint64[n, 2], distinct."""
        hashes = _hash(uids)
        order = np.argsort(hashes)
        self._hashes, self._uids = hashes[order], uids[order]

    def __len__(self) -> int:
        """Give the number of uids."""
        return len(self._uids)

    def contains(self, uids: Rows) -> npt.NDArray[np.bool_]:
        """Tell for each uid whether it is in the set: bool[n]."""
        found = np.zeros(len(uids), np.bool_)
        if not len(self):
            return found
        hashes = _hash(uids)
        rows, places = np.arange(len(uids)), np.searchsorted(self._hashes, hashes)
        while len(rows):  # once, but for the uids whose 64-bit hashes collide
            near = places < len(self)
            rows, places = rows[near], places[near]
            near = self._hashes[places] == hashes[rows]
            rows, places = rows[near], places[near]
            same = (self._uids[places] == uids[rows]).all(axis=1)
            found[rows[same]] = True
            rows, places = rows[~same], places[~same] + 1
        return found


def _hash(uids: Rows) -> npt.NDArray[np.uint64]:
    x = uids[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ uids[:, 1]
    return (x ^ x >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
