"""Neighbours: the entries that occur with an entry more often than chance would have it.

The law, for an entry e seen in n captions and an entry f that occurs in m of these:

    lift(e, f) = (m / n) / (count[f] / pairs)          1: as often as in all matched pairs
    score      = m * ln(lift)                          high for entries that are frequent there, and not just everywhere

The `MOST_NEIGHBOURS` best with m >= 2 and lift >= 2 are kept, ties by entry id, without those that contain e or that e
contains: these occur together by how they are written. An entry is seen in all its captions if it has at most
`MOST_SEEN`, and else in about `MOST_SEEN` of them, those whose hash of the uid is lowest: the same ones whatever the
shards, and in any order. Captions of more than `MOST_ENTRIES` entries are lists, and are left out.

Out of core: a pass over the matches for each range of entries of which at most `MOST_KEYS` occurrences are expected.
Cost: 2 us a matched pair and pass; 16 bytes for an occurrence in a pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.curate.draw import uniforms
from metaclip.curate.tables import matched_rows
from metaclip.engine import Progress

MOST_NEIGHBOURS: Final = 8
MOST_SEEN: Final = 256
MOST_ENTRIES: Final = 64
MOST_KEYS: Final = 16_000_000
_LEAST_TOGETHER: Final = 2
_LEAST_LIFT: Final = 2.0  # words that occur everywhere have less
_OTHERS_EXPECTED: Final = 6  # other entries in a caption, for an estimate of the number of keys
_CANDIDATES: Final = 4 * MOST_NEIGHBOURS  # of the best neighbours, tested for containing the entry
_SAMPLE_SEED: Final = 0x6E656172  # independent of any draw


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The neighbours of entry i are at ``offsets[i]:offsets[i + 1]``, best first."""

    offsets: npt.NDArray[np.int64]
    entry: npt.NDArray[np.uint32]
    together: npt.NDArray[np.uint32]
    """Number of the captions seen that contain both."""
    lift: npt.NDArray[np.float64]
    seen: npt.NDArray[np.uint32]
    """uint32[number of entries]: number of captions of the entry that were seen."""

    def of(self, entry_id: int) -> list[tuple[int, int, float]]:
        """Return (entry, together, lift) of one entry's neighbours."""
        part = slice(self.offsets[entry_id], self.offsets[entry_id + 1])
        columns = (column[part].tolist() for column in (self.entry, self.together, self.lift))
        return list(zip(*columns, strict=True))


def find_neighbours(
    files: Sequence[Path],
    entries: pa.Array,
    counts: npt.NDArray[np.uint64],
    pairs: int,
    most_keys: int = MOST_KEYS,
    shown: bool | None = None,
) -> Neighbours:
    """Find the neighbours of every entry in files of ``matched/``; `pairs` is the number of matched pairs.

    `shown` is that of `Progress`.
    """
    n, padded = len(counts), [f" {entry} " for entry in entries.to_pylist()]
    shares = np.minimum(1.0, MOST_SEEN / np.maximum(counts, 1).astype(np.float64))
    seen, found = np.zeros(n, np.uint32), []
    ranges = [*_ranges(np.minimum(counts, MOST_SEEN).astype(np.int64) * _OTHERS_EXPECTED, most_keys)]
    with Progress("neighbours", len(ranges) * len(files), shown, unit="files") as progress:
        for low, high in ranges:
            parts = [np.zeros(0, np.uint64)]
            for path in files:
                parts += _pair_keys(path, shares, low, high, seen)
                progress.advance(1, 0)
            keys = np.concatenate(parts)
            parts.clear()
            keys.sort()
            found.append(_best(keys, n, seen, counts, pairs, padded))
    owner, entry, together, lift = (np.concatenate(column) for column in zip(*found, strict=True))
    offsets = np.searchsorted(owner, np.arange(n + 1)).astype(np.int64)
    return Neighbours(offsets, entry.astype(np.uint32), together.astype(np.uint32), lift, seen)


def _ranges(keys: npt.NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Split the entries into ranges of at most `most` expected keys, or of one entry."""
    ends = np.cumsum(keys)
    low = 0
    while low < len(keys):
        before = int(ends[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + most, "right")))
        yield low, high
        low = high


def _pair_keys(
    path: Path, shares: npt.NDArray[np.float64], low: int, high: int, seen: npt.NDArray[np.uint32]
) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield owner * n + other for each pair of entries in a caption, owners low to high; count captions in `seen`."""
    for uids, values, offsets in matched_rows(path):
        size = np.diff(offsets)
        row = np.repeat(np.arange(len(size)), size)
        sampled = (values >= low) & (values < high) & (size <= MOST_ENTRIES)[row]
        sampled &= uniforms(_SAMPLE_SEED, 0, uids)[row] < shares[values]
        owner, row = values[sampled], row[sampled]
        seen += np.bincount(owner, minlength=len(seen)).astype(np.uint32)
        width = size[row]
        place = np.arange(int(width.sum())) - np.repeat(np.cumsum(width) - width, width)
        other = values[np.repeat(offsets[:-1][row], width) + place].astype(np.uint64)
        owner = np.repeat(owner, width).astype(np.uint64)
        differs = other != owner
        yield owner[differs] * np.uint64(len(shares)) + other[differs]


def _best(
    keys: npt.NDArray[np.uint64], n: int, seen: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint64], pairs: int,
    padded: Sequence[str],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:  # fmt: skip
    """Choose the neighbours from sorted keys: (owner, entry, together, lift), by owner, best first."""
    begins = (
        np.flatnonzero(np.diff(keys, prepend=keys[:1] + np.uint64(1)))
        if len(keys)
        else np.zeros(0, np.int64)
    )
    together = np.diff(begins, append=len(keys))
    owner, entry = (part.astype(np.int64) for part in np.divmod(keys[begins], np.uint64(n)))
    lift = together / seen[owner] * (pairs / np.maximum(counts[entry], 1).astype(np.float64))
    good = np.flatnonzero((together >= _LEAST_TOGETHER) & (lift >= _LEAST_LIFT))
    order = good[np.lexsort((entry[good], -together[good] * np.log(lift[good]), owner[good]))]
    owner, entry, together, lift = owner[order], entry[order], together[order], lift[order]
    rows = _first_of_each(owner, _CANDIDATES)
    texts = (
        (padded[mine], padded[other])
        for mine, other in zip(owner[rows].tolist(), entry[rows].tolist(), strict=True)
    )
    rows = rows[np.array([mine not in other and other not in mine for mine, other in texts], np.bool_)]
    rows = rows[_first_of_each(owner[rows], MOST_NEIGHBOURS)]
    return owner[rows], entry[rows], together[rows], lift[rows]


def _first_of_each(ids: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Return the indices of the first `most` occurrences of each of sorted ids."""
    return np.flatnonzero(np.arange(len(ids)) - np.searchsorted(ids, ids) < most)
