"""The threshold t: given, or solved for a share of the tail or for a number of pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.curate.settings import DEFAULT_TAIL_SHARE, BalanceSettings
from metaclip.errors import MetaclipError

_THRESHOLDS: Final = 64
_PASSES: Final = 3


def tail_share(counts: npt.NDArray[np.uint64], t: float) -> float:
    """Return the tail share: the share of all counts that entries with a count below t hold."""
    total = int(counts.sum())
    return int(counts[counts < t].sum()) / total if total else 0.0


def solve_tail_share(counts: npt.NDArray[np.uint64], share: float) -> float:
    """Return the largest value among the counts whose tail share is at most `share`."""
    values, times = np.unique(counts[counts > 0], return_counts=True)
    sums = values * times.astype(np.uint64)
    below, total = np.cumsum(sums) - sums, int(sums.sum())
    # The share of the smallest count is 0.
    shares = zip(values.tolist(), below.tolist(), strict=True)
    return float(max(value for value, under in shares if under / total <= share))


def solve_target(
    counts: npt.NDArray[np.uint64],
    target: int,
    matched: int,
    expect: Callable[[npt.NDArray[np.float64]], list[float]],
) -> float:
    """Return a t with which about `target` of the `matched` pairs are expected.

    `expect` makes one pass over the matches and returns the expected number for each of many t. Three passes narrow t to
    one part in 10,000 or better; the t of the grid that comes nearest is returned.
    """
    highest = float(counts.max())
    if target >= matched:
        return highest
    # Each entry adds at most t to the expected number.
    low, high = min(target / np.count_nonzero(counts), highest), highest
    tried: list[tuple[float, float]] = []
    for _ in range(_PASSES):
        grid = np.geomspace(low, high, _THRESHOLDS)
        expected = expect(grid)
        tried += [(abs(number - target), t) for t, number in zip(grid.tolist(), expected, strict=True)]
        index = min(max(1, int(np.searchsorted(expected, target))), _THRESHOLDS - 1)
        low, high = float(grid[index - 1]), float(grid[index])
    return min(tried, key=lambda pair: pair[0])[1]


def resolve(
    settings: BalanceSettings,
    counts: npt.NDArray[np.uint64],
    matched: int,
    expect: Callable[[Any], list[float]],
) -> float:
    """Return the t that the settings ask for. Raise MetaclipError if no text matched."""
    if not counts.any():
        raise MetaclipError(
            "no text matched any entry, so there is nothing to balance; check the list and the text column"
        )
    if settings.t is not None:
        return settings.t
    if settings.target_pairs is not None:
        return solve_target(counts, settings.target_pairs, matched, expect)
    return solve_tail_share(
        counts, DEFAULT_TAIL_SHARE if settings.tail_share is None else settings.tail_share
    )
