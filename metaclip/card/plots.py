"""The plots of a card, as SVG for its README.md.

    ranks        counts by rank, before and after balancing (both axes logarithmic)
    cumulative   share of all counts in entries up to a count, with t marked: the paper's figure
    kept         pairs kept against pairs expected, by entry
    sources      share of entries, counts and kept pairs by source of the list
    funnel       the pool's rows by what became of them
    thresholds   pairs and tail share against t

Made by altair and vl-convert (extra `cards`), which need neither a browser nor the network. Long lists are thinned to a
few hundred points, evenly spaced in the logarithm of the rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.card.threshold_grid import ThresholdGrid
from metaclip.curate.account import MEANING
from metaclip.curate.threshold import WEIGHT
from metaclip.engine import Progress
from metaclip.errors import import_extra
from metaclip.notebook import ranks, thinned
from metaclip.storage.files import atomic_write

TITLES: Final = {
    "ranks": "Counts by rank, before and after balancing",
    "cumulative": "Share of all counts in entries up to a count",
    "kept": "Pairs kept against pairs expected, by entry",
    "sources": "Shares by source of the list",
    "funnel": "What became of the pool's rows",
    "thresholds": "Pairs and tail share at other t",
}
_WIDTH, _HEIGHT = 560, 320


def import_altair() -> Any:
    """Import altair, and what renders its charts. Raise MetaclipError where one of them is not installed."""
    import_extra("vl_convert", "cards", "drawing a card's plots")
    return import_extra("altair", "cards", "drawing a card's plots")


def write_plots(
    folder: Path,
    account: Mapping[str, Any],
    entries: pa.Table,
    grid: ThresholdGrid,
    shown: bool | None = None,
) -> list[str]:
    """Write ``plots/<name>.svg``; return the names of the files. `shown` is that of `Progress`."""
    (folder / "plots" / "index.html").unlink(missing_ok=True)  # of a card made by an earlier version
    charts = {f"plots/{name}.svg": chart for name, chart in make_charts(account, entries, grid).items()}
    with Progress("draw", len(charts), shown, unit="plots") as progress:
        for name, chart in charts.items():
            with atomic_write(folder / name) as temporary:
                chart.save(str(temporary), format="svg")
            progress.advance(1, 0)
    return list(charts)


def make_charts(account: Mapping[str, Any], entries: pa.Table, grid: ThresholdGrid) -> dict[str, Any]:
    """Return the charts by name. Raise MetaclipError where altair is not installed."""
    alt = import_altair()
    counts, kept, t = (
        entries["count"].to_numpy(),
        entries["kept"].to_numpy(),
        float(account["balance"]["t"]),
    )

    def chart(rows: list[dict[str, Any]], **sizes: int) -> Any:
        return alt.Chart(alt.Data(values=rows)).properties(
            **{"width": _WIDTH, "height": _HEIGHT, **sizes}
        )

    varied = account["balance"].get("t_by")
    by = "" if varied is None else f" times {varied}" if varied == WEIGHT else f" by {varied}"

    def at_t() -> Any:
        line = alt.Chart(alt.Data(values=[{"t": t, "label": f"t = {t:,.15g}{by}"}]))
        rule = line.mark_rule(strokeDash=[4, 3], color="#666").encode(x="t:Q")
        return rule + line.mark_text(align="left", dx=4, y=8, color="#666").encode(
            x="t:Q", text="label:N"
        )

    log, axis = alt.Scale(type="log"), alt.Axis(labelOverlap="greedy", labelSeparation=8)
    ranks = chart([*_by_rank("before", counts), *_by_rank("after (kept)", kept)]).mark_line().encode(
        x=alt.X("rank:Q", scale=log, title="rank of the entry", axis=axis),
        y=alt.Y("count:Q", scale=log, title="pairs that match it"),
        color=alt.Color("set:N", title=None, sort=["before", "after (kept)"], legend=alt.Legend(orient="top-right")),
        tooltip=["set:N", "rank:Q", "count:Q"],
    )  # fmt: skip
    cumulative = chart(_cumulative(counts)).mark_line(interpolate="step-after").encode(
        x=alt.X("count:Q", scale=log, title="count of the entry"),
        y=alt.Y("share:Q", axis=alt.Axis(format="%"), title="share of all counts in entries up to it"),
        tooltip=["count:Q", alt.Tooltip("share:Q", format=".2%")],
    )  # fmt: skip
    points = chart(_expected_kept(entries)).mark_circle(size=22, opacity=0.6).encode(
        x=alt.X("expected:Q", scale=log, title="expected"), y=alt.Y("kept:Q", scale=log, title="kept"),
        tooltip=["entry:N", "count:Q", "expected:Q", "kept:Q"],
    )  # fmt: skip
    sources = chart(_by_source(entries), height=36 * len(account["list"]["sources"]) + 40).mark_bar().encode(
        y=alt.Y("source:N", title=None), yOffset=alt.YOffset("of:N", sort=["entries", "counts", "kept"]),
        x=alt.X("share:Q", axis=alt.Axis(format="%"), title="share"),
        color=alt.Color("of:N", title="share of", sort=["entries", "counts", "kept"]),
        tooltip=["source:N", "of:N", "number:Q", alt.Tooltip("share:Q", format=".2%")],
    )  # fmt: skip
    steps = [
        {"step": name, "rows": account["funnel"][name]} for name in MEANING if account["funnel"].get(name)
    ]
    funnel = chart(steps, height=24 * len(steps)).mark_bar().encode(
        y=alt.Y("step:N", sort=None, title=None), x=alt.X("rows:Q", title="rows"), tooltip=["step:N", "rows:Q"]
    )  # fmt: skip
    other = [
        {"t": a, "pairs": b, "tail_share": c}
        for a, b, c in zip(
            grid.thresholds.tolist(), grid.pairs.tolist(), grid.tail_share.tolist(), strict=True
        )
    ]
    lines = (
        chart(other, height=_HEIGHT // 2)
        .mark_line(point=True)
        .encode(x=alt.X("t:Q", scale=log, title="t"))
    )
    tips = [
        alt.Tooltip("t:Q"),
        alt.Tooltip("pairs:Q", format=",.0f"),
        alt.Tooltip("tail_share:Q", format=".2%"),
    ]
    pairs = lines.encode(
        y=alt.Y("pairs:Q", title="pairs expected", axis=alt.Axis(format="~s")), tooltip=tips
    )
    shares = lines.encode(
        y=alt.Y("tail_share:Q", title="tail share", axis=alt.Axis(format="%")), tooltip=tips
    )
    return {
        "ranks": ranks, "cumulative": cumulative + at_t(), "kept": points, "sources": sources, "funnel": funnel,
        "thresholds": alt.vconcat(pairs + at_t(), shares + at_t()),
    }  # fmt: skip


def _by_rank(name: str, values: npt.NDArray[Any]) -> list[dict[str, Any]]:
    return [
        {"set": name, "rank": int(rank), "count": int(n)} for rank, n in zip(*ranks(values), strict=True)
    ]


def _cumulative(counts: npt.NDArray[Any]) -> list[dict[str, Any]]:
    ranked = np.sort(counts[counts > 0])
    shares = np.cumsum(ranked) / max(1, ranked.sum())
    # Thinned from the largest count down: there the curve has its detail.
    chosen = (len(ranked) - 1 - thinned(len(ranked)))[::-1]
    return [{"count": int(ranked[i]), "share": float(shares[i])} for i in chosen]


def _expected_kept(entries: pa.Table) -> list[dict[str, Any]]:
    table = entries.select(["entry", "count", "expected", "kept"])
    table = table.filter((pc.field("expected") > 0) & (pc.field("kept") > 0))
    order = np.argsort(-table["count"].to_numpy().astype(np.int64), kind="stable")
    return list(table.take(order[thinned(len(order))]).to_pylist())


def _by_source(entries: pa.Table) -> list[dict[str, Any]]:
    named = entries["source"].combine_chunks().fill_null("unnamed").to_numpy(zero_copy_only=False)
    columns = {
        "entries": np.ones(len(entries)),
        "counts": entries["count"].to_numpy(),
        "kept": entries["kept"].to_numpy(),
    }
    sums = {
        (source, of): int(v[named == source].sum())
        for source in sorted(set(named))
        for of, v in columns.items()
    }
    return [
        {"source": source, "of": of, "number": number, "share": number / max(1, int(columns[of].sum()))}
        for (source, of), number in sums.items()
    ]
