"""Expected pairs and tail share under other thresholds, in all and by entry.

Computed with the card, so that a reader can move t without the pool. Each point is the sum over matched pairs of P(keep) at
its t, in integers of 2^-32, so that it does not depend on how the pool was cut into files. Where t differs from entry to
entry, one factor moves all t[e]: a point at twice the t of the set has twice the t of each entry. Pools of over 20 million
matched pairs are sampled by a hash of the uid, and the sums scaled; `share` says by how much.
By entry they are computed for the 500,000 that a threshold changes most: those with the smallest t[e] / count.
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
MOST_ENTRIES: Final = 500_000
_SAMPLE_SEED: Final = 0x67726964  # independent of any draw


Places = npt.NDArray[np.uint32]


@dataclasses.dataclass(frozen=True)
class ThresholdGrid:
    """What a run would keep under each of k thresholds, as expectations."""

    thresholds: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.float64]
    """float64[k]: expected number of pairs."""
    tail_share: npt.NDArray[np.float64]
    """float64[k]: share of all counts in entries with a count below their threshold."""
    expected: npt.NDArray[np.float64]
    """float64[k, m]: expected pairs of the entries with the places 0 to m - 1."""
    share: float = 1.0
    """Share of matched pairs that was read."""
    places: Places | None = None
    """The place of each entry; None: its id."""

    def expected_of(self, first: int, end: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return expected pairs of the entries [first, end), float64[end - first, k], and of which entries they are known."""
        ids = np.arange(first, end)
        places = ids if self.places is None else self.places[ids].astype(np.int64)
        known = places < self.expected.shape[1]
        return self.expected[:, np.where(known, places, 0)].T, known


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


def places_of(slope: npt.NDArray[np.float64]) -> Places | None:
    """Return the place of each entry, those that a threshold changes most first; None if all entries have a grid."""
    if len(slope) <= MOST_ENTRIES:
        return None
    places = np.empty(len(slope), np.uint32)
    places[np.argsort(slope, kind="stable")] = np.arange(len(slope), dtype=np.uint32)
    return places


def sum_file(
    path: Path, slope: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64], share: float, places: Places | None = None
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:  # fmt: skip
    """Sum P(keep) over a file of matched/: (uint64[k] over pairs, uint64[m, k] by entry), in units of 1 / FIXED_POINT.

    `slope` is what `relative_slopes` returns, `places` what `places_of` does; by entry the sums are of the first m places.
    """
    sums, by_entry = new_sums(len(slope), len(thresholds))
    if places is not None:
        slope_of = np.empty_like(slope)
        slope_of[places] = slope
        slope = slope_of
    for _, uids, matches in read_matched(path):
        chosen = matches.filter(uniforms(_SAMPLE_SEED, 0, uids) < share) if share < 1.0 else matches
        values, offsets = ids_and_offsets(chosen)
        values = values if places is None else places[values]
        expect_rows(values, offsets, slope, thresholds, sums, by_entry)
    return sums, by_entry


def new_sums(n_entries: int, points: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the sums of no file, in the shapes of `sum_file`."""
    return np.zeros(points, np.uint64), np.zeros((min(n_entries, MOST_ENTRIES), points), np.uint64)


def make_grid(
    counts: npt.NDArray[np.uint64], thresholds: npt.NDArray[np.float64], share: float,
    sums: npt.NDArray[np.uint64], by_entry: npt.NDArray[np.uint64], t: float, each: Thresholds, places: Places | None = None,
) -> ThresholdGrid:  # fmt: skip
    """Make the grid from the sums over all files, for a set drawn at `t` with the thresholds `each`."""
    shares = np.array([tail_share(counts, scaled(each, t, other)) for other in thresholds.tolist()])
    unit = np.float64(1.0 / (FIXED_POINT * share))
    expected = np.ascontiguousarray(by_entry.T) * unit
    return ThresholdGrid(thresholds, sums * unit, shares, expected, share, places)


def sampled_share(matched: int) -> float:
    """Return the share of matched pairs that is read, given their number."""
    return min(1.0, MOST_PAIRS / max(1, matched))
