"""The threshold: a tail share is its definition, a target is hit, and settings that mean nothing are refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip import MetaclipError, curate
from metaclip.curate.settings import BalanceSettings
from metaclip.curate.threshold import (
    balance_command,
    resolve,
    solve_tail_share,
    solve_target,
    tail_share,
    threshold_hints,
)


def by_definition(counts: Iterable[int], share: float) -> float:
    """The largest value among the counts whose tail share is at most `share`."""
    counts = list(counts)
    return float(max(v for v in counts if v and sum(c for c in counts if c < v) / sum(counts) <= share))


@pytest.mark.parametrize(
    ("counts", "share", "t"),
    [
        ([5, 5, 5], 0.5, 5),  # all equal: none is below
        ([5, 5, 5], 0, 5),
        ([0, 0, 7], 0.06, 7),
        ([1, 2, 3, 4], 0, 1),
        ([1, 2, 3, 4], 0.1, 2),  # 1 / 10 is just the share
        ([1, 2, 3, 4], 0.0999, 1),
        ([1, 2, 3, 4], 0.3, 3),
        ([1, 2, 3, 4], 0.6, 4),
        ([1, 2, 3, 4], 0.999, 4),
        ([2, 2, 2, 94], 0.06, 94),  # ties count together
        ([2, 2, 2, 93], 0.06, 2),
        ([10**15, 1], 0, 1),
    ],
)
def test_tail_share_table(counts: list[int], share: float, t: float) -> None:
    """The t of a tail share is the largest count whose tail holds at most that share: ties, equal counts, share 0."""
    assert by_definition(counts, share) == t
    assert solve_tail_share(np.array(counts, np.uint64), share) == t


@given(
    st.lists(st.integers(0, 30) | st.integers(0, 10**9), min_size=1, max_size=40).filter(any),
    st.floats(0, 0.999),
)
@settings(max_examples=300)
def test_tail_share_is_its_definition(counts: list[int], share: float) -> None:
    """For any counts, t is the definition's, its share is at most what was asked, and the next count's is more."""
    values = np.array(counts, np.uint64)
    t = solve_tail_share(values, share)
    assert t == by_definition(counts, share)
    assert tail_share(values, t) <= share
    above = [count for count in counts if count > t]
    assert not above or tail_share(values, min(above)) > share
    assert tail_share(values, t) == sum(c for c in counts if c < t) / sum(counts)


def _realistic(
    n: int, n_entries: int, seed: int
) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.uint64]]:
    """Matches of texts over entries whose counts fall as 1 / rank; about 3.5 a text."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, n_entries + 1)
    sizes = rng.poisson(2.5, n) + 1
    drawn = rng.choice(n_entries, int(sizes.sum()), p=weights / weights.sum())
    rows = [np.unique(part) for part in np.split(drawn, np.cumsum(sizes)[:-1])]
    return rows, np.bincount(np.concatenate(rows), minlength=n_entries).astype(np.uint64)


def test_target_pairs_is_hit() -> None:
    """On counts with a long tail, any target is hit within 1% in three passes, and a larger one takes a larger t."""
    rows, counts = _realistic(4000, 3000, 0)
    passes = 0

    def expect(thresholds: npt.NDArray[np.float64]) -> list[float]:
        nonlocal passes
        passes += 1
        return [exact(t) for t in thresholds.tolist()]

    def exact(t: float) -> float:
        dropped = 1.0 - np.minimum(1.0, t / np.maximum(counts, 1))
        return len(rows) - math.fsum(np.multiply.reduceat(dropped[np.concatenate(rows)], starts).tolist())

    starts = np.cumsum([0, *map(len, rows[:-1])])
    before = 0.0
    for target in (1, 10, 100, 1000, 2000, 3000, 3900, 3999):
        passes = 0
        t = solve_target(counts, target, len(rows), expect)
        assert passes <= 3
        assert exact(t) == pytest.approx(target, rel=0.01)
        assert t > before
        before = t
    for target in (4000, 4001, 10**12):
        assert solve_target(counts, target, len(rows), expect) == counts.max()


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"t": 0}, "t is 0"),
        ({"t": -1.5}, "t is -1.5"),
        ({"t": math.nan}, "t is nan"),
        ({"t": math.inf}, "t is inf"),
        ({"tail_share": 1}, "tail_share is 1"),
        ({"tail_share": -0.1}, "tail_share is -0.1"),
        ({"tail_share": math.nan}, "tail_share is nan"),
        ({"target_pairs": 0}, "target_pairs is 0"),
        ({"t": 20, "tail_share": 0.1}, "t = 20 and tail_share = 0.1 are given, must be one of them"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
    ],
)
def test_settings_that_mean_nothing(tmp_path: Path, given_settings: dict[str, Any], message: str) -> None:
    """A t, share, number or seed that the law does not know is refused with its value, before anything is read."""
    with pytest.raises(ValueError, match=message):
        BalanceSettings(**given_settings)
    with pytest.raises(MetaclipError, match=message):
        curate(tmp_path / "nothing.parquet", ["dog"], out=tmp_path / "run", **given_settings)
    assert not (tmp_path / "run").exists()


def test_no_counts_no_t() -> None:
    """Where nothing matched there is no t to solve, and the message says so."""
    with pytest.raises(MetaclipError, match="no text matched any entry"):
        resolve(BalanceSettings(), np.zeros(3, np.uint64), 0, lambda thresholds: [])


def hints(settings: BalanceSettings, counts: list[int], matched: int = 100) -> str:
    """The hints of settings for a pool with these counts, resolved as a run resolves them."""
    array = np.array(counts, np.uint64)
    t = resolve(settings, array, matched, lambda grid: [matched * t / max(counts) for t in grid])
    return "\n".join(threshold_hints(settings, t, array, matched))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (BalanceSettings(t=20_000), "t = 20,000 balances nothing here: the largest count is 900; a tail share of 0.06 would be t = 400: use `tail_share=0.06` or `t=400`"),
        (BalanceSettings(t=900), "t = 900 balances nothing here"),
        (BalanceSettings(t=1), "t = 1: about one pair of each entry stays"),
        (BalanceSettings(target_pairs=100), "a target of 100 pairs balances nothing here: 100 pairs match"),
        (BalanceSettings(tail_share=0), "t = 10, the smallest count: no entry is in the tail; `target_pairs=80`"),
        (BalanceSettings(), "the default, a tail share of 0.06, comes to t = 400 on this small pool; `target_pairs=80`"),
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_without_effect_is_named(settings: BalanceSettings, words: str) -> None:
    """One sentence says what was resolved and what to try."""
    found = hints(settings, [0, 10, 20, 400, 900])
    assert words in found
    assert found.count("\n") == 0


def test_a_hint_is_not_what_was_asked() -> None:
    """A hint leads on: not to the target that was given, nor to a t below 2."""
    asked = hints(BalanceSettings(target_pairs=1), [1, 1, 5, 9])
    assert "a larger target keeps" in asked
    assert "target_pairs=" not in asked
    assert "use `tail_share" not in hints(BalanceSettings(t=20_000), [1, 1, 1, 9])


def test_no_hint_without_reason() -> None:
    """A threshold that was chosen and thins something needs no comment, nor the default on a large pool."""
    for chosen in (
        BalanceSettings(t=50),
        BalanceSettings(target_pairs=50),
        BalanceSettings(tail_share=0.3),
    ):
        assert hints(chosen, [0, 10, 20, 400, 900]) == ""
    assert hints(BalanceSettings(), [0, 10, 20, 400, 900], matched=2_000_000) == ""


def test_nothing_can_be_thinned() -> None:
    """Where all counts are equal, no t is suggested."""
    assert hints(BalanceSettings(), [0, 7, 7]) == "t = 7 balances nothing here: no count is larger than 7"
    assert (
        hints(BalanceSettings(t=9), [0, 7, 7]) == "t = 9 balances nothing here: no count is larger than 7"
    )


def test_the_next_step_suits_the_pool() -> None:
    """After matching, the default is advised with the t that it comes to, unless nothing would be in the tail."""
    assert "(t = 400, by the default tail share of 0.06;" in balance_command(
        "run/", np.array([0, 10, 20, 400, 900], np.uint64), 100
    )
    small = balance_command("run/", np.array([1, 1, 5], np.uint64), 6)
    assert small.startswith("metaclip balance run/ --target-pairs 4   ")
    assert "is t = 1 here, with no entry in the tail" in small
