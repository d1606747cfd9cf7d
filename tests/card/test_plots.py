"""Plots: the figures of the run, no script in an SVG, the same bytes each time."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from metaclip import Run, curate
from metaclip.card.plots import TITLES, make_charts, write_plots
from metaclip.card.threshold_grid import choose_thresholds, make_grid, relative_slopes, sum_file

pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
pytestmark = pytest.mark.extra
pytest.importorskip("vl_convert", reason="needs the extra cards: pip install -e '.[cards]'")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """Account, entries and grid of the toy pool."""
    out = tmp_path_factory.mktemp("plots") / "run"
    run: Run = curate(ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt", out=out, t=20)
    counts = run.counts.values
    thresholds, slope = choose_thresholds(counts, run.t), relative_slopes(counts, run.t, run.t)
    parts = [
        sum_file(path, slope, thresholds, 1.0) for path in sorted((out / "matched").glob("*.parquet"))
    ]
    grid = make_grid(
        counts, thresholds, 1.0, sum(a for a, _ in parts), sum(b for _, b in parts), run.t, run.t
    )
    return run.account, run.entries, grid


def rows(chart: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chart.to_dict()["data"]["values"]
    return found


def test_the_charts_show_the_runs_figures(inputs: tuple[Any, Any, Any]) -> None:
    """The ends of curves, the bars and the points are the account's numbers."""
    account, entries, grid = inputs
    charts = make_charts(account, entries, grid)
    assert list(charts) == list(TITLES)
    counts = entries["count"].to_numpy()
    before = [row for row in rows(charts["ranks"]) if row["set"] == "before"]
    assert (before[0]["rank"], before[0]["count"]) == (1, counts.max())
    assert before[-1]["rank"] == np.count_nonzero(counts)
    for row in before:
        assert row["count"] == np.sort(counts)[::-1][row["rank"] - 1]
    cumulative = charts["cumulative"].layer[0].data.values
    assert cumulative[-1]["share"] == pytest.approx(1)
    for row in cumulative:
        assert row["share"] <= counts[counts <= row["count"]].sum() / counts.sum() + 1e-12
    assert {row["step"]: row["rows"] for row in rows(charts["funnel"])} == {
        name: number for name, number in account["funnel"].items() if number
    }
    for row in rows(charts["kept"]):
        entry = entries.take([entries["entry"].to_pylist().index(row["entry"])]).to_pylist()[0]
        assert (row["count"], row["kept"], row["expected"]) == (
            entry["count"],
            entry["kept"],
            entry["expected"],
        )
    assert (
        sum(row["number"] for row in rows(charts["sources"]) if row["of"] == "kept")
        == account["sums"]["kept"]
    )


TAGS = {"script", "image", "foreignObject", "a"}
"""Elements that no plot may have."""


def test_files(inputs: tuple[Any, Any, Any], tmp_path: Path) -> None:
    """Each SVG is well-formed, without script or link; plots made twice have the same bytes; an earlier version's page is removed."""
    first, second = tmp_path / "a", tmp_path / "b"
    (first / "plots").mkdir(parents=True)
    (first / "plots" / "index.html").write_text("of version 0.1")
    names = write_plots(first, *inputs)
    assert names == [f"plots/{name}.svg" for name in TITLES]
    assert {f"plots/{path.name}" for path in (first / "plots").iterdir()} == set(names)
    write_plots(second, *inputs)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert not tags_of(first / name) & TAGS


def test_hostile_entries(inputs: tuple[Any, Any, Any], tmp_path: Path) -> None:
    """Markup in an entry adds no element to a plot."""
    account, entries, grid = inputs
    hostile = pa.array([f"</script><script>alert({i})</script>" for i in range(len(entries))])
    index = entries.column_names.index("entry")
    for name in write_plots(tmp_path, account, entries.set_column(index, "entry", hostile), grid):
        assert not tags_of(tmp_path / name) & TAGS


def tags_of(plot: Path) -> set[str]:
    """Return the names of a plot's elements."""
    root = ET.fromstring(plot.read_text(encoding="utf-8"))  # our own file
    assert root.tag.endswith("svg")
    return {element.tag.rpartition("}")[2] for element in root.iter()}
