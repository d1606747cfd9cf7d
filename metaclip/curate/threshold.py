"""The threshold t: one number, or one for each entry; its tail share, and what t is solved from.

    t[e] = fl(t * weight[e])        float64; without weights t[e] = t

A tail share and a number of pairs are reached by one factor on all t[e], which is t. The candidates of a tail share are
fl(count / weight), or the next float below where the product with the weight exceeds the count (`head_limits`).
Cost: 40 ms for the tail share of 500,000 entries, 90 ms with weights.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.curate.draw import Thresholds
from metaclip.curate.settings import DEFAULT_TAIL_SHARE, BalanceSettings
from metaclip.errors import MetaclipError

WEIGHT: Final = "weight"
LANGUAGE: Final = "language"
LANGUAGE_AND_WEIGHT: Final = "language and weight"
"""What varies t from entry to entry, as accounts state it."""
_THRESHOLDS: Final = 64
_PASSES: Final = 3
SMALL_POOL: Final = 1_000_000
"""Matched pairs below which the default threshold is worth a word."""


def entry_thresholds(t: float, weight: Thresholds) -> Thresholds:
    """Return t[e] = fl(t * weight[e]): one number for one weight, else float64[n].

    Raise MetaclipError if one of them is not a finite number above 0.
    """
    with np.errstate(over="ignore", under="ignore"):
        made = t * weight
    if isinstance(made, np.ndarray) and not ((made > 0) & np.isfinite(made)).all():
        i = int(np.argmin((made > 0) & np.isfinite(made)))
        raise MetaclipError(
            f"the threshold of entry {i} comes to {t:g} * {np.broadcast_to(weight, made.shape)[i]:g} = {made[i]:g}, must be a "
            "finite number above 0; choose another t, or weights of less different size"
        )
    return made


def scaled(thresholds: Thresholds, base: float, t: float) -> Thresholds:
    """Return the thresholds of a set, whose t is `base`, at another t: t itself, or fl(fl(t / base) * t[e])."""
    return entry_thresholds(t / base, thresholds) if isinstance(thresholds, np.ndarray) else t


def column_thresholds(entries: pa.Table, base: float) -> Thresholds:
    """Return the thresholds that a table of entries was drawn by: its column t, or `base` if it has none."""
    return entries["t"].to_numpy() if "t" in entries.column_names else base


def t_of_entry(by: str) -> str:
    """Return in words what the t of an entry is, where it varies by what an account states as `t_by`."""
    if by == WEIGHT:
        return "t times its weight"
    return "the t of its language" + (" times its weight" if by == LANGUAGE_AND_WEIGHT else "")


def vector_digest(values: Thresholds) -> str | None:
    """Identify weights, or thresholds by entry: sha256 of the values as little-endian float64, in the list's order.

    One number for all entries has none.
    """
    return (
        hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()
        if isinstance(values, np.ndarray)
        else None
    )


# --- solving t


def tail_share(counts: npt.NDArray[np.uint64], t: Thresholds) -> float:
    """Return the tail share: the share of all counts that entries with a count below their t hold."""
    total = int(counts.sum())
    return int(counts[counts < t].sum()) / total if total else 0.0


def solve_tail_share(counts: npt.NDArray[np.uint64], share: float, weight: Thresholds = 1.0) -> float:
    """Return the largest t of `head_limits` whose tail share is at most `share`: a count, if there are no weights."""
    limits = np.unique(head_limits(counts, weight))

    def share_at(t: float) -> float:
        with np.errstate(over="ignore"):
            return tail_share(counts, t * weight)

    # The share grows with t, and that of the lowest limit is 0.
    return float(limits[bisect.bisect_right(limits, share, key=share_at) - 1])


def head_limits(counts: npt.NDArray[np.uint64], weight: Thresholds) -> npt.NDArray[np.float64]:
    """Return a t for each entry with a count, up to which it is in the head: fl(count / weight).

    Where fl(t * weight) exceeds the count, t is the next float below, so that count < t[e] does not hold.
    """
    found = counts > 0
    count, factor = counts[found].astype(np.float64), np.broadcast_to(weight, counts.shape)[found]
    with np.errstate(over="ignore"):
        t = np.minimum(count / factor, sys.float_info.max)
        while (above := t * factor > count).any():
            t[above] = np.nextafter(t[above], 0.0)
    return np.asarray(t)


def whole_from(counts: npt.NDArray[np.uint64], weight: Thresholds = 1.0) -> float:
    """Return a t from which on every entry is kept whole: the largest count / weight, rounded up."""
    t = float(head_limits(counts, weight).max())
    while (counts > t * weight).any():
        t = math.nextafter(t, math.inf)
    return t


def solve_target(
    counts: npt.NDArray[np.uint64],
    target: int,
    matched: int,
    expect: Callable[[npt.NDArray[np.float64]], list[float]],
    weight: Thresholds = 1.0,
) -> float:
    """Return a t with which about `target` of the `matched` pairs are expected.

    `expect` makes one pass over the matches and returns the expected number for each of many t. Three passes narrow t to
    one part in 10,000 or better; the t of the grid that comes nearest is returned.
    """
    highest = whole_from(counts, weight)
    if target >= matched:
        return highest
    # Each entry adds at most its t to the expected number.
    most = float(np.broadcast_to(weight, counts.shape)[counts > 0].sum())
    low, high = min(target / most, highest), highest
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
    weight: Thresholds = 1.0,
) -> float:
    """Return the t that the settings ask for: with weights, the t that they multiply. Raise MetaclipError if no text matched."""
    if not counts.any():
        raise MetaclipError(
            "no text matched any entry, so there is nothing to balance; check the list and the text column"
        )
    if settings.t is not None:
        return settings.t
    if settings.target_pairs is not None:
        return solve_target(counts, settings.target_pairs, matched, expect, weight)
    share = DEFAULT_TAIL_SHARE if settings.tail_share is None else settings.tail_share
    return solve_tail_share(counts, share, weight)


def balance_command(run: str, counts: npt.NDArray[np.uint64], matched: int) -> str:
    """Return the command that balances a run with these counts, and what it does: by the default, unless it is useless here."""
    t = solve_tail_share(counts, DEFAULT_TAIL_SHARE)
    if tail_share(counts, t):
        default = f"the default tail share of {DEFAULT_TAIL_SHARE:g}"
        return f"metaclip balance {run}   (t = {t:,g}, by {default}; or --t, --target-pairs)"
    return (
        f"metaclip balance {run} --target-pairs {_four_fifths(matched)}   (four fifths of the matched pairs; "
        f"the default, a tail share of {DEFAULT_TAIL_SHARE:g}, is t = {t:g} here, with no entry in the tail)"
    )


def _four_fifths(matched: int) -> int:
    """Return four fifths of the matched pairs: more than the default keeps of most small pools."""
    return max(1, matched * 4 // 5)


def threshold_hints(
    settings: BalanceSettings,
    t: float,
    counts: npt.NDArray[np.uint64],
    matched: int,
    weight: Thresholds = 1.0,
) -> list[str]:
    """Return sentences that say where the settings, resolved to `t`, have no effect or an unexpected one, and what to try.

    `counts` are those of all entries, `matched` the number of matched pairs.
    """
    highest, default = int(counts.max(initial=0)), f"{DEFAULT_TAIL_SHARE:g}"
    one_t, thresholds = not isinstance(weight, np.ndarray), t * weight
    other = f"`target_pairs={_four_fifths(matched)}` keeps four fifths of the matched pairs"
    if settings.target_pairs is not None and settings.target_pairs >= matched:
        return [
            f"a target of {settings.target_pairs:,} pairs balances nothing here: {matched:,} pairs match; {other}"
        ]
    if not (counts > thresholds).any():
        solved = solve_tail_share(counts, DEFAULT_TAIL_SHARE, weight) if highest else t
        if not (counts > solved * weight).any():
            why = (
                f"no count is larger than {highest:,}"
                if one_t
                else "no count is larger than t times its weight"
            )
            return [f"t = {t:,g} balances nothing here: {why}"]
        why = (
            f"the largest count is {highest:,}" if one_t else "no count is larger than t times its weight"
        )
        if np.max(solved * weight) < 2:
            return [f"t = {t:,g} balances nothing here: {why}; {other}"]
        return [
            f"t = {t:,g} balances nothing here: {why}; a tail share of {default} would be "
            f"t = {solved:,g}: use `tail_share={default}` or `t={solved:g}`"
        ]
    is_default = settings == BalanceSettings(seed=settings.seed, weights=settings.weights)
    asked = f"the default, a tail share of {default}, comes to " if is_default else ""
    if np.max(thresholds) < 2:
        if settings.target_pairs is not None:
            other = "a larger target keeps the pairs of more entries whole"
        return [
            f"{asked}t = {t:g}: about one pair of each entry stays, and more only through others; {other}"
        ]
    if settings.t is None and not tail_share(counts, thresholds):
        smallest = ", the smallest count" if one_t else ""
        return [f"{asked}t = {t:g}{smallest}: no entry is in the tail; {other}"]
    if is_default and matched < SMALL_POOL:
        return [f"{asked}t = {t:g} on this small pool; {other}, and `t=...` takes any other threshold"]
    return []
