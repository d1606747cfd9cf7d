"""Plots: the figures of the run, no script in an SVG, nothing fetched by the page, the same bytes each time."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from metaclip import Run, curate
from metaclip.card.grid import finish, grid_shard, thresholds_of
from metaclip.card.plots import NAMES, make_charts, write_plots

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
    thresholds = thresholds_of(counts, run.t)
    parts = [grid_shard(path, counts, thresholds, 1.0) for path in sorted((out / "matched").glob("*.parquet"))]
    grid = finish(counts, thresholds, 1.0, sum(a for a, _ in parts), sum(b for _, b in parts))
    return run.account, run.entries, grid


TAGS = ["html", "head", "meta", "style", "script", "body", "div", "script"]
"""All that the page has, none of them with an address."""


def tags_of(page: Path) -> list[str]:
    """The page's elements as a browser finds them: a script ends at the first ``</script``, whatever it is part of."""
    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert not {"src", "href"} & {name for name, _ in attrs}
            found.append(tag)

    Parser().feed(page.read_text(encoding="utf-8"))
    return found


def rows(chart: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chart.to_dict()["data"]["values"]
    return found


def test_the_charts_show_the_runs_figures(inputs: tuple[Any, Any, Any]) -> None:
    """Ends of the curves, bars and points are the account's own numbers."""
    account, entries, grid = inputs
    charts = make_charts(account, entries, grid)
    assert tuple(charts) == NAMES
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
        assert (row["count"], row["kept"], row["expected"]) == (entry["count"], entry["kept"], entry["expected"])
    assert sum(row["number"] for row in rows(charts["sources"]) if row["of"] == "kept") == account["sums"]["kept"]


def test_files(inputs: tuple[Any, Any, Any], tmp_path: Path) -> None:
    """Each SVG is whole, without script or link; the page loads nothing; twice the same bytes."""
    first, second = tmp_path / "a", tmp_path / "b"
    names = write_plots(first, *inputs)
    assert names == [f"plots/{name}.svg" for name in NAMES] + ["plots/index.html"]
    write_plots(second, *inputs)
    for name in names[:-1]:
        text = (first / name).read_text(encoding="utf-8")
        assert text == (second / name).read_text(encoding="utf-8")
        root = ET.fromstring(text)  # our own file
        assert root.tag.endswith("svg")
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert not tags & {"script", "image", "foreignObject"}
    assert tags_of(first / names[-1]) == TAGS


def test_hostile_entries(inputs: tuple[Any, Any, Any], tmp_path: Path) -> None:
    """An entry of markup changes nothing on a plot or on the page."""
    account, entries, grid = inputs
    hostile = pa.array([f"</script><script>alert({i})</script>" for i in range(len(entries))])
    index = entries.column_names.index("entry")
    write_plots(tmp_path, account, entries.set_column(index, "entry", hostile), grid)
    assert tags_of(tmp_path / "plots" / "index.html") == TAGS
    assert "\\u003c/script>\\u003cscript>alert(" in (tmp_path / "plots" / "index.html").read_text(encoding="utf-8")
