"""External sorting of uids: one sorted run per shard, merged in blocks of bounded memory.

A run is an ``.npy`` file of uint64[n, k]: the two halves of a uid, then the values that belong to it. Blocks are cut
between different uids, so equal uids are always in one block.
Cost: 0.15 us per uid and pass.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from metaclip.errors import MetaclipError, damaged, one_line
from metaclip.storage.files import as_path, atomic_write
from metaclip.storage.threads import map_ordered

SUBSET: Final = np.dtype("u8,u8")
"""DataComp's subset format: (high, low) of each uid, sorted."""

UidRows = npt.NDArray[np.uint64]
"""uint64[n, k]: the high and the low half of a uid, then k - 2 values that belong to it."""
_BLOCK: Final = 1 << 19
FAN_IN: Final = 128
"""Number of runs merged at once: each is an open file, and is read in pieces of at least _BLOCK / FAN_IN rows."""


def sort_rows(rows: UidRows) -> UidRows:
    """Sort uint64[n, k] by its first two columns."""
    order = np.argsort(rows[:, 0])
    rows = rows[order]
    high = rows[:, 0]
    ties = np.flatnonzero(high[1:] == high[:-1])
    if len(ties):  # rare among hashes: only these rows are sorted by both halves
        touched = np.union1d(ties, ties + 1)
        part = rows[touched]
        keys = tuple(part[:, column] for column in range(part.shape[1] - 1, -1, -1))
        rows[touched] = part[np.lexsort(keys)]
    return rows


def write_run(path: Path, rows: UidRows) -> None:
    """Sort rows by uid and write them as a run, whole or not at all."""
    write_rows(path, sort_rows(rows))


def write_rows(path: Path, rows: UidRows) -> None:
    """Write uint64[n, k] as an ``.npy`` file, whole or not at all."""
    with atomic_write(path) as temporary:
        _write_blocks(temporary, [rows], rows.shape[1])


def load_array(
    path: Path, columns: int | None = None, mmap_mode: Literal["r"] | None = None
) -> npt.NDArray[Any]:
    """Load an ``.npy`` file that we wrote: uint64[n, columns], or SUBSET[n] without `columns`.

    Raise MetaclipError if it holds anything else.
    """
    try:
        return read_array(path, columns, mmap_mode)
    except (OSError, ValueError) as error:
        raise damaged(path, one_line(error, 160)) from None


def read_array(
    path: Path, columns: int | None = None, mmap_mode: Literal["r"] | None = None
) -> npt.NDArray[Any]:
    """Load any ``.npy`` file of uint64[n, columns], or of SUBSET[n] without `columns`. Raise ValueError for any other."""
    with path.open("rb") as file:
        rows, offset = _read_header(file, columns)
    shape, dtype = _layout(rows, columns)
    if not rows:
        return np.empty(shape, dtype)
    if mmap_mode is None:
        return np.fromfile(path, dtype, offset=offset).reshape(shape)
    return np.memmap(path, dtype, mmap_mode, offset, shape)


def load_between(path: Path, columns: int, begin: int, end: int) -> npt.NDArray[np.uint64]:
    """Load the rows of a sorted file of `columns` columns whose first one is in [begin, end)."""
    rows = load_array(path, columns, "r")
    first, last = (bisect.bisect_left(rows[:, 0], bound) for bound in (begin, end))
    return np.array(rows[first:last])


_header_lock = threading.Lock()


def _read_header(file: IO[bytes], columns: int | None) -> tuple[int, int]:
    """Read the header of an ``.npy`` file; return its number of rows, and the number of bytes before them.

    Raise ValueError unless the file has that many rows of `columns` uint64, or of SUBSET without `columns`.
    """
    try:
        # numpy parses it with `ast.literal_eval`, which fails at random if two threads call it at once (CPython issue
        # 106905, in Python 3.11 and 3.12).
        with _header_lock:
            major, _ = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            )
            shape, is_fortran, dtype = read(file)
    except Exception as error:  # numpy raises errors of any kind: of syntax, of the tokenizer, of memory
        raise ValueError(one_line(error, 120)) from None
    if not shape or (shape, dtype) != _layout(shape[0], columns) or is_fortran:
        must = "u8,u8 in shape (n,)" if columns is None else f"uint64 in shape (n, {columns})"
        raise ValueError(f"it holds {dtype} in shape {shape}, must hold {must}")
    offset, size = file.tell(), os.fstat(file.fileno()).st_size
    if shape[0] * dtype.itemsize * (columns or 1) != size - offset:
        raise ValueError(f"it has {size - offset} bytes of rows where its header names {shape[0]} rows")
    return shape[0], offset


def _layout(rows: int, columns: int | None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the dtype of uint64[rows, columns], or of SUBSET[rows] without `columns`."""
    return ((rows,), SUBSET) if columns is None else ((rows, columns), np.dtype(np.uint64))


def _write_blocks(path: Path, blocks: Iterable[UidRows], columns: int | None) -> int:
    """Write blocks of rows as one file of uint64[n, columns], or of SUBSET[n] without `columns`; return n."""
    rows = 0
    with path.open("wb") as file:
        _write_header(file, rows, columns)
        for block in blocks:
            # np.save writes through C's stdio, whose error does not say that the disk is full.
            file.write(np.ascontiguousarray(block[:, : columns or 2], np.uint64).data)
            rows += len(block)
        file.seek(0)
        _write_header(file, rows, columns)  # it takes as many bytes for any number of rows
    return rows


def _write_header(file: IO[bytes], rows: int, columns: int | None) -> None:
    shape, dtype = _layout(rows, columns)
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def merge_runs(
    paths: Sequence[Path], block: int = _BLOCK, fan_in: int = FAN_IN, threads: int = 1, columns: int = 2
) -> Iterator[UidRows]:
    """Yield the rows of sorted runs in order, in blocks of about `block` rows; equal uids are in one block.

    `columns` is the width of the runs. `threads` threads sort the next blocks ahead, each in its own memory.

    More than `fan_in` runs are first merged into longer ones, in temporary files beside them: at the cost of one more pass
    over the disk, reads are as few and as long for 100,000 runs as for 100.
    """
    with contextlib.ExitStack() as temporary_files:
        while len(paths) > fan_in:
            groups = [paths[i : i + fan_in] for i in range(0, len(paths), fan_in)]
            paths = [_merge_to_run(group, columns, block, threads, temporary_files) for group in groups]
        yield from _merge(paths, columns, block, threads)


def _merge_to_run(
    paths: Sequence[Path], columns: int, block: int, threads: int, temporary_files: contextlib.ExitStack
) -> Path:
    """Merge runs into one run, a temporary file."""
    path = as_path(paths[0]).temporary()
    temporary_files.callback(path.unlink, missing_ok=True)
    _write_blocks(path, _merge(paths, columns, block, threads), columns)
    return path


def _merge(paths: Sequence[Path], columns: int, block: int, threads: int) -> Iterator[UidRows]:
    with contextlib.ExitStack() as opened:
        runs = [run for path in paths if len(run := opened.enter_context(_Run(path, columns)))]
        if not runs:
            return
        n_blocks = -(-sum(map(len, runs)) // block)
        samples = sort_rows(_sample(runs, max(1, block // 64)))
        bounds = [tuple(map(int, samples[len(samples) * i // n_blocks])) for i in range(1, n_blocks)]

        def pieces() -> Iterator[tuple[list[int], list[int]]]:
            begins = [0] * len(runs)
            for bound in [*bounds, None]:
                starts = zip(runs, begins, strict=True)
                ends = [
                    len(run) if bound is None else bisect.bisect_left(run, bound, begin)
                    for run, begin in starts
                ]
                if ends != begins:  # bounds may be equal
                    yield begins, ends
                begins = ends

        yield from map_ordered(lambda piece: sort_rows(_read(runs, *piece)), pieces(), threads)


def _read(runs: Sequence[_Run], begins: Sequence[int], ends: Sequence[int]) -> UidRows:
    """Read the rows [begin, end) of each run into one array."""
    rows = np.empty((sum(ends) - sum(begins), runs[0].width), np.uint64)
    filled = 0
    for run, begin, end in zip(runs, begins, ends, strict=True):
        run.read(begin, rows[filled : filled + end - begin])
        filled += end - begin
    return rows


def _sample(runs: Sequence[_Run], step: int) -> UidRows:
    """Take one uid of every `step` rows, counted through all runs, so that many short runs are sampled like a long one.

    The position within each `step` changes by the golden ratio, so that it cannot be in phase with the lengths of runs.
    """
    ends = np.cumsum([len(run) for run in runs])
    strata = np.arange(-(-int(ends[-1]) // step))
    rows = np.minimum(
        step * strata + (0x9E3779B9 * strata & 0xFFFFFFFF) * step // (1 << 32), ends[-1] - 1
    )
    cuts = np.searchsorted(rows, [0, *ends.tolist()])
    begins = ends - [len(run) for run in runs]
    parts = zip(runs, begins, itertools.pairwise(cuts), strict=True)
    return np.array(
        [run[row] for run, begin, (i, j) in parts for row in (rows[i:j] - begin).tolist()], np.uint64
    )


class _Run(Sequence[tuple[int, int]]):
    """A sorted run as the sequence of its uids.

    It is read, not memory-mapped: touched pages of a map count as memory of this process, and here they are spread over
    the whole file.
    """

    def __init__(self, path: Path, columns: int) -> None:
        self._path, self.width = path, columns
        self._file = path.open("rb", buffering=0)
        try:
            self._rows, self._header = _read_header(self._file, columns)
        except ValueError as error:
            self._file.close()
            raise damaged(path, one_line(error, 160)) from None

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

    def read(self, begin: int, rows: UidRows) -> None:
        """Read rows from `begin` on into `rows`, a C-contiguous array (a single row may have fewer columns)."""
        offset, left = self._header + begin * self.width * 8, rows.reshape(-1).view(np.uint8)
        while len(left):
            n = os.preadv(self._file.fileno(), [left.data], offset)
            if not n:
                raise MetaclipError(f"{self._path} is shorter than it was; run the same command again")
            offset, left = offset + n, left[n:]


@contextlib.contextmanager
def sorted_writer(path: Path, columns: int) -> Iterator[Callable[[UidRows], None]]:
    """Yield a function that takes rows of uint64[n, columns] in any order; at the end of the block, write them as one run.

    Memory: a million rows, and one block while they are merged; more rows are kept in temporary files below $TMPDIR.
    """
    with tempfile.TemporaryDirectory(prefix="metaclip-") as folder:
        runs: list[Path] = []
        held: list[UidRows] = [np.zeros((0, columns), np.uint64)]

        def add(rows: UidRows) -> None:
            held.append(rows)
            if sum(map(len, held)) >= 2 * _BLOCK:
                flush()

        def flush() -> None:
            runs.append(Path(folder, f"{len(runs)}.npy"))
            write_run(runs[-1], np.concatenate(held))
            held[1:] = []

        yield add
        flush()
        with atomic_write(path) as temporary:
            _write_blocks(temporary, merge_runs(runs, columns=columns), columns)


def write_subset(path: Path, blocks: Iterable[UidRows], rows: int | None = None) -> int:
    """Write sorted blocks of uids in DataComp's subset format; return their number. Raise MetaclipError if it is not `rows`."""
    with atomic_write(path) as temporary:
        written = _write_blocks(temporary, blocks, None)
        if rows is not None and written != rows:
            raise MetaclipError(
                f"{path}: {written} uids where markers count {rows}; a file in .state is damaged: run the command again "
                "with `RunOptions(overwrite=True)`"
            )
    return written


def duplicate_uids(block: UidRows) -> UidRows:
    """Return the uids that occur more than once in a sorted block, each once: uint64[m, 2]."""
    same = (block[1:, 0] == block[:-1, 0]) & (block[1:, 1] == block[:-1, 1])
    duplicates: UidRows = block[1:, :2][same & ~np.concatenate([[False], same])[:-1]]
    return duplicates


class UidSet:
    """A set of uids with a vectorised membership test."""

    def __init__(self, uids: UidRows) -> None:
        """Make the set from uint64[n, 2], distinct uids."""
        hashes = _hash(uids)
        order = np.argsort(hashes)
        self._hashes, self._uids = hashes[order], uids[order]

    def __len__(self) -> int:
        """Return the number of uids."""
        return len(self._uids)

    def contains(self, uids: UidRows) -> npt.NDArray[np.bool_]:
        """Return for each uid whether it is in the set: bool[n]."""
        found = np.zeros(len(uids), np.bool_)
        if not len(self):
            return found
        hashes = _hash(uids)
        rows, slots = np.arange(len(uids)), np.searchsorted(self._hashes, hashes)
        while len(rows):  # once, unless 64-bit hashes collide
            near = slots < len(self)
            rows, slots = rows[near], slots[near]
            near = self._hashes[slots] == hashes[rows]
            rows, slots = rows[near], slots[near]
            same = (self._uids[slots] == uids[rows]).all(axis=1)
            found[rows[same]] = True
            rows, slots = rows[~same], slots[~same] + 1
        return found


def _hash(uids: UidRows) -> npt.NDArray[np.uint64]:
    x = uids[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ uids[:, 1]
    return (x ^ x >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
