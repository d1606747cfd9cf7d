"""What another t would give: expected pairs and tail share over a grid of t, in all and by entry.

Made with the card, so that a reader can move t without the pool. Each point is the sum over matched pairs of P(keep) at
its t, in integers of 2^-32, so that it does not depend on how the pool was cut. Pools of over 20 million
matched pairs are sampled by a hash of the uid, and the sums scaled; `share` says by how much.
Cost: 0.3 us a matched pair and 24 points; 96 MB for 500,000 entries.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from metaclip.curate.draw import FIXED_POINT, expect_rows, uniforms
from metaclip.curate.matched_files import read_matched
from metaclip.curate.threshold import tail_share
from metaclip.matching.matches import ids_of

POINTS: Final = 24
MOST_PAIRS: Final = 20_000_000
_SEED: Final = 0x67726964  # of the sample, not of any draw


@dataclasses.dataclass(frozen=True)
class Grid:
    """Expectations under each of k thresholds."""

    thresholds: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.float64]
    """float64[k]: expected number of pairs."""
    tail_share: npt.NDArray[np.float64]
    """float64[k]: the part of all counts that entries below t hold."""
    expected: npt.NDArray[np.float64]
    """float64[k, n]: expected pairs of each entry."""
    share: float = 1.0
    """The share of matched pairs that was looked at."""


def thresholds_of(counts: npt.NDArray[np.uint64], t: float) -> npt.NDArray[np.float64]:
    """Give the grid: t itself, and round numbers from 1 to the largest count, evenly in the logarithm."""
    highest = max(2.0, float(counts.max()), t)
    steps = np.geomspace(1.0, highest, POINTS - 1)
    rounded = {min(highest, _two_digits(float(step))) for step in steps}
    return np.array(sorted(rounded | {highest, float(t)}))


def _two_digits(x: float) -> float:
    unit = 10.0 ** max(0, math.floor(math.log10(x)) - 1)
    return round(x / unit) * unit


def grid_shard(
    path: Path, counts: npt.NDArray[np.uint64], thresholds: npt.NDArray[np.float64], share: float
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Sum a file of matched/: (uint64[k] of all pairs, uint64[n, k] by entry), in units of 1 / FIXED_POINT."""
    sums, by_entry = np.zeros(len(thresholds), np.uint64), np.zeros((len(counts), len(thresholds)), np.uint64)
    for _, uids, matches in read_matched(path):
        chosen = matches.filter(uniforms(_SEED, 0, uids) < share) if share < 1.0 else matches
        values, offsets = ids_of(chosen)
        expect_rows(values, offsets, counts, thresholds, sums, by_entry)
    return sums, by_entry


def finish(
    counts: npt.NDArray[np.uint64], thresholds: npt.NDArray[np.float64], share: float,
    sums: npt.NDArray[np.uint64], by_entry: npt.NDArray[np.uint64],
) -> Grid:  # fmt: skip
    """Make the grid of what the shards add up to."""
    shares = np.array([tail_share(counts, t) for t in thresholds.tolist()])
    unit = np.float64(1.0 / (FIXED_POINT * share))
    return Grid(thresholds, sums * unit, shares, np.ascontiguousarray(by_entry.T) * unit, share)


def share_of(matched: int) -> float:
    """Give the share of so many matched pairs that is looked at."""
    return min(1.0, MOST_PAIRS / max(1, matched))
