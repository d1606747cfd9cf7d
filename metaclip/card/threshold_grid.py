"""Expected pairs and tail share under other thresholds, in all and by entry.

Computed with the card, so that a reader can move t without the pool. Each point is the sum over matched pairs of P(keep) at
its t, in integers of 2^-32, so that it does not depend on how the pool was cut into files. Where t differs from entry to
entry, one factor moves all t[e]: a point at twice the t of the set has twice the t of each entry. Pools of over 20 million
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

from metaclip.curate.draw import FIXED_POINT, Thresholds, expect_rows, slopes, uniforms
from metaclip.curate.tables import read_matched
from metaclip.curate.threshold import scaled, tail_share, whole_from
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
    """float64[k]: share of all counts in entries with a count below their threshold."""
    expected: npt.NDArray[np.float64]
    """float64[k, number of entries]: expected pairs of each entry."""
    share: float = 1.0
    """Share of matched pairs that was read."""


def choose_thresholds(
    counts: npt.NDArray[np.uint64], t: float, each: Thresholds | None = None
) -> npt.NDArray[np.float64]:
    """Return t itself and round numbers from 1 to the largest count, evenly spaced in the logarithm: float64[k], ascending.

    With `each`, the thresholds of the entries, they are from where about one pair of each is kept to where all are.
    """
    least, most = 1.0, float(counts.max())
    if isinstance(each, np.ndarray) and counts.any():
        relative = each / t
        least, most = 1.0 / float(relative.max()), whole_from(counts, relative)
    highest = max(2.0 * least, most, t)
    steps = np.geomspace(least, highest, POINTS - 1).tolist()
    return np.array(sorted({min(highest, _rounded(step)) for step in steps} | {highest, float(t)}))


def _rounded(step: float) -> float:
    """Round a number to two digits, one of 1 or more to a whole one."""
    digits = 1 - math.floor(math.log10(step))
    return round(step, digits if step < 1.0 else min(0, digits))


def relative_slopes(
    counts: npt.NDArray[np.uint64], t: float, each: Thresholds
) -> npt.NDArray[np.float64]:
    """Return the probability of each entry at a threshold of 1, as `expect_rows` takes it."""
    return slopes(counts, each / t if isinstance(each, np.ndarray) else 1.0)


def sum_file(
    path: Path, slope: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64], share: float
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Sum P(keep) over a file of matched/: (uint64[k] over pairs, uint64[n, k] by entry), in units of 1 / FIXED_POINT.

    `slope` is what `relative_slopes` returns.
    """
    sums, by_entry = (
        np.zeros(len(thresholds), np.uint64),
        np.zeros((len(slope), len(thresholds)), np.uint64),
    )
    for _, uids, matches in read_matched(path):
        chosen = matches.filter(uniforms(_SAMPLE_SEED, 0, uids) < share) if share < 1.0 else matches
        values, offsets = ids_and_offsets(chosen)
        expect_rows(values, offsets, slope, thresholds, sums, by_entry)
    return sums, by_entry


def make_grid(
    counts: npt.NDArray[np.uint64], thresholds: npt.NDArray[np.float64], share: float,
    sums: npt.NDArray[np.uint64], by_entry: npt.NDArray[np.uint64], t: float, each: Thresholds,
) -> ThresholdGrid:  # fmt: skip
    """Make the grid from the sums over all files, for a set drawn at `t` with the thresholds `each`."""
    shares = np.array([tail_share(counts, scaled(each, t, other)) for other in thresholds.tolist()])
    unit = np.float64(1.0 / (FIXED_POINT * share))
    return ThresholdGrid(thresholds, sums * unit, shares, np.ascontiguousarray(by_entry.T) * unit, share)


def sampled_share(matched: int) -> float:
    """Return the share of matched pairs that is read, given their number."""
    return min(1.0, MOST_PAIRS / max(1, matched))
