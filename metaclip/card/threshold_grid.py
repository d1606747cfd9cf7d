"""Expected pairs and tail share under other thresholds, in all and by entry.

Computed with the card, so that a reader can move t without the pool. Each point is the sum over matched pairs of P(keep) at
its t, in integers of 2^-32, so that it does not depend on how the pool was cut into files. Pools of over 20 million
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

from metaclip.curate.draw import FIXED_POINT, expect_rows, slopes, uniforms
from metaclip.curate.run import read_matched
from metaclip.curate.settings import tail_share
from metaclip.matching import ids_and_offsets

POINTS: Final = 24
MOST_PAIRS: Final = 20_000_000
_SAMPLE_SEED: Final = 0x67726964  # independent of any draw


@dataclasses.dataclass(frozen=True)
class ThresholdGrid:
    """What a run would keep under each of k thresholds, as expectations."""

    thresholds: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.float64]
    """float64[k]: expected number of pairs."""
    tail_share: npt.NDArray[np.float64]
    """float64[k]: share of all counts in entries below the threshold."""
    expected: npt.NDArray[np.float64]
    """float64[k, number of entries]: expected pairs of each entry."""
    share: float = 1.0
    """Share of matched pairs that was read."""


def choose_thresholds(counts: npt.NDArray[np.uint64], t: float) -> npt.NDArray[np.float64]:
    """Return t itself and round numbers from 1 to the largest count, evenly spaced in the logarithm: float64[k], ascending."""
    highest = max(2.0, float(counts.max()), t)
    steps = np.geomspace(1.0, highest, POINTS - 1).tolist()
    two_digits = {min(highest, round(step, min(0, 1 - math.floor(math.log10(step))))) for step in steps}
    return np.array(sorted(two_digits | {highest, float(t)}))


def sum_file(
    path: Path, counts: npt.NDArray[np.uint64], thresholds: npt.NDArray[np.float64], share: float
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Sum P(keep) over a file of matched/: (uint64[k] over pairs, uint64[n, k] by entry), in units of 1 / FIXED_POINT."""
    sums, by_entry = (
        np.zeros(len(thresholds), np.uint64),
        np.zeros((len(counts), len(thresholds)), np.uint64),
    )
    slope = slopes(counts)
    for _, uids, matches in read_matched(path):
        chosen = matches.filter(uniforms(_SAMPLE_SEED, 0, uids) < share) if share < 1.0 else matches
        values, offsets = ids_and_offsets(chosen)
        expect_rows(values, offsets, slope, thresholds, sums, by_entry)
    return sums, by_entry


def make_grid(
    counts: npt.NDArray[np.uint64], thresholds: npt.NDArray[np.float64], share: float,
    sums: npt.NDArray[np.uint64], by_entry: npt.NDArray[np.uint64],
) -> ThresholdGrid:  # fmt: skip
    """Make the grid from the sums over all files."""
    shares = np.array([tail_share(counts, t) for t in thresholds.tolist()])
    unit = np.float64(1.0 / (FIXED_POINT * share))
    return ThresholdGrid(thresholds, sums * unit, shares, np.ascontiguousarray(by_entry.T) * unit, share)


def sampled_share(matched: int) -> float:
    """Return the share of matched pairs that is read, given their number."""
    return min(1.0, MOST_PAIRS / max(1, matched))
