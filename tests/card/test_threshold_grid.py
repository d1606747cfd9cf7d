"""The grid of thresholds: its expectations are those of a run balanced at each t."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from curation import naive
from metaclip import Run, balance, curate
from metaclip.card import threshold_grid
from metaclip.card.threshold_grid import (
    ThresholdGrid,
    choose_thresholds,
    make_grid,
    places_of,
    relative_slopes,
    sampled_share,
    sum_file,
)
from metaclip.curate.threshold import tail_share

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The toy pool, balanced."""
    out = tmp_path_factory.mktemp("grid") / "run"
    return curate(ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt", out=out, t=20)


def grid_of(run: Run, share: float = 1.0) -> ThresholdGrid:
    counts = run.counts.values
    thresholds = choose_thresholds(counts, run.t, run.thresholds)
    slope = relative_slopes(counts, run.t, run.thresholds)
    places = places_of(slope)
    parts = [
        sum_file(path, slope, thresholds, share, places)
        for path in sorted((run.matched / "matched").glob("*.parquet"))
    ]
    sums, by_entry = (sum(part[i] for part in parts) for i in (0, 1))
    return make_grid(counts, thresholds, share, sums, by_entry, run.t, run.thresholds, places)


def test_the_entries_that_change_most(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a longer list, those of the largest counts have the numbers that all have of a shorter one; the others have none."""
    whole, counts = grid_of(run), run.counts.values
    for most in (1, 9, len(counts) - 1):
        monkeypatch.setattr(threshold_grid, "MOST_ENTRIES", most)
        grid = grid_of(run)
        found, known = grid.expected_of(0, len(counts))
        assert known.sum() == most
        assert min(counts[known]) >= max(counts[~known])
        assert np.array_equal(found[known], whole.expected.T[known])
        part, part_known = grid.expected_of(5, 20)
        assert np.array_equal(part[part_known], found[5:20][known[5:20]])
        assert np.array_equal(grid.pairs, whole.pairs)


def test_each_point_is_the_balance_at_that_t(run: Run, tmp_path: Path) -> None:
    """Pairs, tail share and each entry's expected number are those of a run balanced at the point's t."""
    grid = grid_of(run)
    assert len(grid.thresholds) > 5
    for i, t in enumerate(grid.thresholds.tolist()):
        other = balance(run, out=tmp_path / str(i), t=t)
        assert grid.pairs[i] == pytest.approx(other.balance["expected"], abs=1e-5)
        assert grid.tail_share[i] == other.account["balance"]["tail_share"]
        np.testing.assert_allclose(grid.expected[i], other.entries["expected"].to_numpy(), atol=1e-6)


def test_with_weights_a_point_moves_all_thresholds_by_one_factor(run: Run, tmp_path: Path) -> None:
    """Each point is the set balanced at its t with the same weights; at its own t the tail share is exactly its own."""
    weights = {"a": 0.3, "dog": 7, "of": 1 / 3, "photo": 11.1}
    weighted = balance(run, out=tmp_path / "weighted", t=7, weights=weights)
    grid, counts = grid_of(weighted), run.counts.values
    assert 7 in grid.thresholds
    for i, t in enumerate(grid.thresholds.tolist()):
        other = balance(run, out=tmp_path / str(i), t=t, weights=weights)
        assert grid.pairs[i] == pytest.approx(other.balance["expected"], abs=1e-5)
        below, above = (tail_share(counts, other.thresholds * (1 + off)) for off in (-1e-12, 1e-12))
        assert (
            below <= grid.tail_share[i] <= above
        )  # a count may be just t[e], which is rounded otherwise
        np.testing.assert_allclose(grid.expected[i], other.entries["expected"].to_numpy(), atol=1e-6)
        if t == 7:
            assert grid.tail_share[i] == weighted.account["balance"]["tail_share"]
    assert grid.pairs[-1] == weighted.account["pairs"]["matched"]


def test_each_point_is_the_law(run: Run) -> None:
    """Each point is the sum of P(keep) as plain Python computes it."""
    grid = grid_of(run)
    counts = run.counts.values.tolist()
    rows = [row for path in sorted((run.path / "matched").glob("*.parquet")) for row in _matches(path)]
    for i, t in enumerate(grid.thresholds.tolist()):
        p = [naive.probability(count, t) for count in counts]
        assert grid.pairs[i] == pytest.approx(
            sum(naive.keep_probability(ids, p) for ids in rows), abs=1e-5
        )


def _matches(path: Path) -> list[list[int]]:
    import pyarrow.parquet as pq

    found: list[list[int]] = pq.read_table(path)["matches"].to_pylist()
    return found


def test_the_runs_t_is_a_point_and_points_ascend(run: Run) -> None:
    """The grid holds t, 1 and the largest count, in order; larger t keeps more."""
    grid = grid_of(run)
    assert run.t in grid.thresholds
    assert grid.thresholds[0] == 1
    assert grid.thresholds[-1] == run.counts.values.max()
    for values in (grid.thresholds, grid.pairs, grid.tail_share):
        assert (np.diff(values) >= 0).all()
    assert (np.diff(grid.expected, axis=0) >= -1e-6).all()


@pytest.mark.parametrize(("counts", "t"), [([0, 0, 1], 1), ([5], 1e9), ([2**40, 3], 0.25), ([1] * 9, 20)])
def test_grids_of_odd_counts(counts: list[int], t: float) -> None:
    """A grid contains its t and the largest count, whatever they are."""
    points = choose_thresholds(np.array(counts, np.uint64), t)
    assert t in points
    assert points[-1] == max(2, t, *counts)
    assert len(points) <= 26
    assert (np.diff(points) > 0).all()


def test_a_sample_estimates_the_whole(run: Run) -> None:
    """Large pools are sampled by uid, and the sums scaled."""
    whole, half = grid_of(run), grid_of(run, 0.5)
    assert half.share == 0.5
    n = whole.pairs[-1]
    assert abs(half.pairs - whole.pairs).max() < 5 * np.sqrt(
        n
    )  # 2 * sqrt(n * 0.5 * 0.5) is one deviation
    assert (half.pairs != whole.pairs).any()
    assert sampled_share(1000) == 1
    assert sampled_share(0) == 1
    assert sampled_share(80_000_000) == 0.25
