"""Pairs that stand twice, found out of core: by hash in parts, each part alone.

    keys      of each file, in runs of a million pairs: sorted, each key once; the rows that this leaves out
    parts     the range of keys is cut so that a part of all runs fits the memory; in a part, of rows with one key the
              first in the order of files and rows stays, the others are written down
    gather    of each file: the rows that its runs left out, and those that the parts did

Law: what stays is the first pair with its key in the order (file, row), whatever the number of runs, parts or workers.
A key is 128 bits: the uid, or md5 of the url; equal keys are taken for equal pairs.

Cost: 24 bytes a pair on disk, 8 where it stands twice; 0.26 us a pair. Memory: 80 bytes a key of a part (10 M keys: 0.8
GB); a run has each key once, so a pair that is everywhere makes no part large.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from metaclip.pool.sorted_uids import load_array, write_rows
from metaclip.storage.files import iter_local_copies

RUN_KEYS: Final = 1 << 20
KEY_BYTES: Final = 100
"""Memory that a key of a part takes while it is looked at."""
ROW_BITS: Final = 40
"""A place is file << 40 | row: a trillion rows a file, sixteen million files."""
_SPAN: Final = 1 << 64

Rows = npt.NDArray[np.int64]


class Keys:
    """Writes a file's keys in sorted runs, and the rows whose keys a run has twice."""

    def __init__(self, state: Path, name: str, run_keys: int = RUN_KEYS) -> None:
        """Begin with the first row."""
        self._state, self._name, self._most = state, name, run_keys
        self._keys = bytearray()
        self._first = 0
        self.runs: list[int] = []
        """The number of keys of each run."""

    def add(self, key: bytes) -> None:
        """Add the key, 16 bytes, of the next row."""
        self._keys += key
        if len(self._keys) >= 16 * self._most:
            self._flush()

    def close(self) -> None:
        """Write the last run."""
        if self._keys:
            self._flush()

    def _flush(self) -> None:
        halves = np.frombuffer(bytes(self._keys), ">u8").reshape(-1, 2).astype(np.uint64)
        rows = self._first + np.arange(len(halves), dtype=np.uint64)
        kept, same = first_of_each(np.concatenate([halves, rows[:, None]], axis=1))
        keys, others = run_paths(self._state, self._name, len(self.runs))
        write_rows(others, np.sort(same)[:, None])
        write_rows(keys, kept)
        self.runs.append(len(kept))
        self._first, self._keys = self._first + len(halves), bytearray()


def run_paths(state: Path, name: str, run: int) -> tuple[Path, Path]:
    """Give the paths of a run: its keys, and the rows that it left out."""
    return state / f"{name}.{run:04d}.keys.npy", state / f"{name}.{run:04d}.same.npy"


def part_path(state: Path, part: int) -> Path:
    """Give the path of the places that a part found to stand twice."""
    return state / f"part-{part:05d}.places.npy"


def first_of_each(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Sort uint64[n, 3] of (high, low, place): (the first place of each key, sorted by key; the other places).

    Equal keys must come in the order of their places: a stable sort keeps it.
    """
    keys = keys[np.argsort(keys[:, 0], kind="stable")]
    high, low = keys[:, 0], keys[:, 1]
    same_high = high[1:] == high[:-1]
    odd = same_high & (low[1:] != low[:-1])
    if odd.any():  # among hashes hardly ever: keys that differ in their low halves alone
        rows = np.flatnonzero(np.isin(high, high[1:][odd]))
        some = keys[rows]
        keys[rows] = some[np.lexsort((some[:, 2], some[:, 1], some[:, 0]))]
    again = np.zeros(len(keys), np.bool_)
    again[1:] = same_high & (keys[1:, 1] == keys[:-1, 1])
    return keys[~again], keys[again, 2]


def parts_for(keys: int, memory: int, workers: int) -> int:
    """Give the number of parts into which so many keys are cut, so that a part for each worker fits `memory` bytes."""
    return max(1, -(-keys * workers * KEY_BYTES // memory))


def find_same(state: Path, runs: Mapping[int, tuple[str, int]], part: int, parts: int) -> int:
    """Find the pairs of one part that stand twice, and write their places down; give how many.

    `runs` has the name of each file, by its index, and its number of runs.
    """
    begin, end = _SPAN * part // parts, _SPAN * (part + 1) // parts
    pieces = [np.zeros((0, 3), np.uint64)]
    wanted = [(index, run_paths(state, name, run)[0]) for index, (name, n) in sorted(runs.items()) for run in range(n)]
    for (index, _), path in zip(wanted, iter_local_copies([path for _, path in wanted]), strict=True):
        keys = load_array(path, "r")
        first, last = (bisect.bisect_left(keys[:, 0], at) for at in (begin, end))
        piece = np.array(keys[first:last])
        piece[:, 2] |= np.uint64(index << ROW_BITS)
        pieces.append(piece)
    _, same = first_of_each(np.concatenate(pieces))
    write_rows(part_path(state, part), np.sort(same)[:, None])
    return len(same)


def gather(state: Path, name: str, index: int, runs: int, parts: int) -> Rows:
    """Give the rows of a file that stand earlier: int64[n], sorted."""
    found = [
        load_array(path)[:, 0] for path in iter_local_copies([run_paths(state, name, run)[1] for run in range(runs)])
    ]
    begin, end = index << ROW_BITS, (index + 1) << ROW_BITS
    for path in iter_local_copies([part_path(state, part) for part in range(parts)]):
        places = load_array(path, "r")[:, 0]
        first, last = (bisect.bisect_left(places, at) for at in (begin, end))
        found.append(np.array(places[first:last]) & np.uint64((1 << ROW_BITS) - 1))
    rows: Rows = np.sort(np.concatenate([np.zeros(0, np.uint64), *found])).astype(np.int64)
    return rows
