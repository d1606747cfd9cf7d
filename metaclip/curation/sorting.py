"""Sorting uids out of core: sorted runs, one a shard, merged in blocks of bounded memory.

A run is an ``.npy`` file of uint64[n, k]: the two halves of a uid, then whatever goes with it. Blocks are cut between
different uids, so equal ones always meet in one block.
Cost: 0.15 us a uid a pass.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.shard.files import replacing

SUBSET: Final = np.dtype("u8,u8")
"""DataComp's subset format: (high, low) of each uid, sorted."""

Rows = npt.NDArray[np.uint64]
_BLOCK: Final = 1 << 20


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
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
        # np.save writes through C's stdio: its error does not say that the disk is full.
        file.write(rows.tobytes())


def merge_runs(paths: Sequence[Path], block: int = _BLOCK) -> Iterator[Rows]:
    """Give the rows of sorted runs in order, in blocks of about `block` rows; equal uids stand in one block."""
    opened = [(path, run) for path, run in zip(paths, map(_open_run, paths), strict=True) if len(run)]
    if not opened:
        return
    runs = [run for _, run in opened]
    n_blocks = -(-sum(map(len, runs)) // block)
    samples = sort_rows(_sample(runs, max(1, block // 64)))
    bounds = [tuple(map(int, samples[len(samples) * i // n_blocks])) for i in range(1, n_blocks)]
    begins = [0] * len(runs)
    for bound in [*bounds, None]:
        starts = zip(runs, begins, strict=True)
        ends = [len(run) if bound is None else _place(run, bound, begin) for run, begin in starts]
        spans = zip(opened, begins, ends, strict=True)
        part = [_read_rows(*item, begin, end) for item, begin, end in spans if end > begin]
        if part:
            yield sort_rows(np.concatenate(part))
        begins = ends


def _open_run(path: Path) -> Rows:
    """Map a run into memory. The file is closed at once: there may be more runs than files a process may hold open."""
    with pa.memory_map(str(path)) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        rows: Rows = np.frombuffer(file.read_buffer(), dtype).reshape(shape)
    return rows


def _read_rows(path: Path, run: Rows, begin: int, end: int) -> Rows:
    """Read rows from the file, not through the map: pages of a map that were read count as this process's memory."""
    header = path.stat().st_size - run.nbytes
    count, width = end - begin, run.shape[1]
    return np.fromfile(path, np.uint64, count * width, offset=header + begin * width * 8).reshape(count, width)


def _sample(runs: Sequence[Rows], step: int) -> Rows:
    """Take one uid of each `step`, counted through all runs, so that many short runs are sampled as one long run is.

    Where in each `step` changes by the golden ratio: no length of runs that are each sorted is in step with it.
    """
    ends = np.cumsum([len(run) for run in runs])
    strata = np.arange(-(-int(ends[-1]) // step))
    places = np.minimum(step * strata + (0x9E3779B9 * strata & 0xFFFFFFFF) * step // (1 << 32), ends[-1] - 1)
    cuts = np.searchsorted(places, [0, *ends.tolist()])
    begins = ends - [len(run) for run in runs]
    parts = zip(runs, begins, itertools.pairwise(cuts), strict=True)
    return np.concatenate([run[places[i:j] - begin, :2] for run, begin, (i, j) in parts])


def _place(run: Rows, bound: tuple[int, ...], begin: int) -> int:
    """Find the first row at or after `begin` that is not below `bound`."""
    return bisect.bisect_left(_Keys(run), bound, begin, len(run))


class _Keys:
    def __init__(self, run: Rows) -> None:
        self.run = run

    def __len__(self) -> int:
        return len(self.run)

    def __getitem__(self, row: int) -> Any:
        return (int(self.run[row, 0]), int(self.run[row, 1]))


def write_subset(path: Path, blocks: Iterator[Rows], rows: int) -> None:
    """Write sorted blocks of uids, `rows` in all, in DataComp's subset format."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(SUBSET), "fortran_order": False, "shape": (rows,)}
        )
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
