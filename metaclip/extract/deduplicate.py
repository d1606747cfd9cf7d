"""Finds the pairs that occur more than once, out of core.

1. The keys of each file are written in sorted runs of a million pairs, each key once (`KeyRunWriter`); the rows that repeat a
   key of their run are written beside it.
2. The keys are divided into ranges, such that a range of all runs fits in memory. In each range, the first row of each key
   stays, in the order of files and rows; the positions of the others are written (`find_duplicates`).
3. The rows to leave out of a file are those that its runs repeat, and those of all ranges (`duplicate_rows`).

Law: the first pair with its key stays, in the order (file, row), whatever the number of runs, ranges or workers. A key has
128 bits: the uid, or md5 of the url; pairs with equal keys are considered equal.

Cost: 24 bytes per pair on disk, 8 for a repeated one; 0.26 us per pair. Memory: 80 bytes per key of a range (10 M keys: 0.8
GB). A run has each key once, so that a pair that occurs everywhere makes no range large.

Where only some pairs of a file are written, the others have keys too, so that the pair that stays does not depend on it. Their
order is kept in positions instead of rows: 2 r + 1 for the pair in row r of the file, 2 r for pairs that are not written
and precede it (`positions_of`, `split_positions`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from metaclip.pool.sorted_uids import load_array, load_between, write_rows
from metaclip.pool.uid import Uids
from metaclip.storage.files import iter_local_copies

RUN_KEYS: Final = 1 << 20
KEY_BYTES: Final = 100
"""Memory per key of a range while duplicates are found."""
ROW_BITS: Final = 40
"""The position of a pair is file << 40 | row: a trillion rows per file, sixteen million files."""
_KEY_SPAN: Final = 1 << 64


class KeyRunWriter:
    """Writes the keys of a file in sorted runs, and beside each the rows that repeat a key of the run."""

    def __init__(self, folder: Path, name: str, run_keys: int = RUN_KEYS) -> None:
        """Begin at the first row; `name` is that of the file's pairs, `run_keys` the number of rows of a run."""
        self._folder, self._name, self._run_keys = folder, name, run_keys
        self._keys: list[npt.NDArray[np.uint64]] = []
        self._held = 0
        self._next = 0
        self.runs: list[int] = []
        """The number of keys of each run."""

    def add(self, keys: Uids, positions: npt.NDArray[np.uint64] | None = None) -> None:
        """Add the keys of the next rows: uint64[n, 2]. Their positions, uint64[n], are the numbers of the rows by default."""
        if positions is None:
            positions = np.arange(self._next, self._next + len(keys), dtype=np.uint64)
        self._next += len(keys)
        while len(keys):
            size = self._run_keys - self._held
            self._keys.append(np.column_stack([keys[:size], positions[:size]]))
            self._held += len(keys[:size])
            keys, positions = keys[size:], positions[size:]
            if self._held == self._run_keys:
                self.flush()

    def flush(self) -> None:
        """Write the keys that are held as a run, if there are any; called after the last row."""
        if not self._held:
            return
        kept, repeated = split_repeated(np.concatenate(self._keys))
        keys_path, rows_path = run_paths(self._folder, self._name, len(self.runs))
        write_rows(rows_path, np.sort(repeated)[:, None])
        write_rows(keys_path, kept)
        self.runs.append(len(kept))
        self._keys, self._held = [], 0


def positions_of(written: npt.NDArray[np.bool_], first: int) -> npt.NDArray[np.uint64]:
    """Return the positions of pairs of which only some are `written`, to rows from the row `first`: uint64[n]."""
    rows = first + np.cumsum(written) - written
    return (2 * rows + written).astype(np.uint64)


def split_positions(positions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    """Split such positions, sorted: (the rows of pairs that are written, the number of the other pairs)."""
    rows = positions[positions % 2 == 1] // 2
    return rows, len(positions) - len(rows)


def run_paths(folder: Path, name: str, run: int) -> tuple[Path, Path]:
    """Return the paths of a run: its keys, and the rows that repeat a key."""
    return folder / f"{name}.{run:04d}.keys.npy", folder / f"{name}.{run:04d}.same.npy"


def run_files(folder: Path, name: str, runs: int) -> list[Path]:
    """Return the paths of all runs of a file."""
    return [path for run in range(runs) for path in run_paths(folder, name, run)]


def positions_path(folder: Path, key_range: int) -> Path:
    """Return the path of the positions of the duplicates of a range of keys."""
    return folder / f"part-{key_range:05d}.places.npy"


def split_repeated(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Split uint64[n, 3] of (high, low, position): (the first row of each key, sorted by key; the positions of the others).

    Equal keys must be in the order of their positions: a stable sort keeps it.
    """
    keys = keys[np.argsort(keys[:, 0], kind="stable")]
    high, low = keys[:, 0], keys[:, 1]
    same_high = high[1:] == high[:-1]
    differ_in_low = same_high & (low[1:] != low[:-1])
    if differ_in_low.any():  # hardly ever, since keys are hashes
        rows = np.flatnonzero(np.isin(high, high[1:][differ_in_low]))
        ties = keys[rows]
        keys[rows] = ties[np.lexsort((ties[:, 2], ties[:, 1], ties[:, 0]))]
    repeated = np.zeros(len(keys), np.bool_)
    repeated[1:] = same_high & (keys[1:, 1] == keys[:-1, 1])
    return keys[~repeated], keys[repeated, 2]


def range_count(keys: int, memory: int, workers: int) -> int:
    """Return the number of ranges to divide `keys` keys into, so that one range per worker fits in `memory` bytes."""
    return max(1, -(-keys * workers * KEY_BYTES // memory))


def find_duplicates(folder: Path, runs: Mapping[str, int], key_range: int, ranges: int) -> int:
    """Write the positions of the duplicates in one of `ranges` ranges of keys; return their number.

    `runs` has the number of runs of each file by its name, which is its index.
    """
    begin, end = _KEY_SPAN * key_range // ranges, _KEY_SPAN * (key_range + 1) // ranges
    names = [name for name in sorted(runs, key=int) for _ in range(runs[name])]
    paths = [
        run_paths(folder, name, run)[0] for name in sorted(runs, key=int) for run in range(runs[name])
    ]
    pieces = [np.zeros((0, 3), np.uint64)]
    for name, path in zip(names, iter_local_copies(paths), strict=True):
        piece = load_between(path, 3, begin, end)
        piece[:, 2] |= np.uint64(int(name) << ROW_BITS)
        pieces.append(piece)
    _, positions = split_repeated(np.concatenate(pieces))
    write_rows(positions_path(folder, key_range), np.sort(positions)[:, None])
    return len(positions)


def duplicate_rows(folder: Path, name: str, runs: int, ranges: int) -> npt.NDArray[np.int64]:
    """Return the rows (or positions) of a file whose keys occur earlier: int64[n], sorted."""
    run_rows = [run_paths(folder, name, run)[1] for run in range(runs)]
    pieces = [
        np.zeros(0, np.uint64),
        *(load_array(path, 1)[:, 0] for path in iter_local_copies(run_rows)),
    ]
    begin, end = int(name) << ROW_BITS, (int(name) + 1) << ROW_BITS
    for path in iter_local_copies([positions_path(folder, key_range) for key_range in range(ranges)]):
        pieces.append(load_between(path, 1, begin, end)[:, 0] & np.uint64((1 << ROW_BITS) - 1))
    return np.sort(np.concatenate(pieces)).astype(np.int64)
