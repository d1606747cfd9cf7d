"""The table as a picture: each arm's accuracy on all, head and tail classes, each seed a dot, the mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metaclip.errors import MetaclipError
from metaclip.storage.files import atomic_write
from training.balance_study.summary import FIGURES, Row

_TITLES = {"all": "all classes", "head": "head classes", "tail": "tail classes"}


def write_plot(path: Path, rows: Sequence[Row], chance: float) -> None:
    """Write the plot as SVG. Raise MetaclipError where altair is not installed."""
    try:
        import altair as alt
    except ImportError:
        raise MetaclipError(
            "the plot needs altair; install it with: pip install 'metaclip[cards]'"
        ) from None
    order = [row.arm for row in rows]
    means: list[dict[str, Any]] = []
    dots: list[dict[str, Any]] = []
    for row in rows:
        for name in FIGURES:
            one, of = row.figures[name], {"arm": row.arm, "of": _TITLES[name]}
            half = 0.0 if math.isnan(one.half) else one.half
            means.append(
                {
                    **of,
                    "mean": one.mean,
                    "low": max(0.0, one.mean - half),
                    "high": min(1.0, one.mean + half),
                }
            )
            dots += [{**of, "accuracy": value} for value in row.values[name]]
    y = alt.Y("arm:N", sort=order, title=None)
    axis = alt.Axis(format="%")
    panels = []
    for title in _TITLES.values():
        here = alt.datum.of == title
        base = alt.Chart(alt.Data(values=means)).transform_filter(here)
        bars = base.mark_rule(size=2).encode(
            y=y, x=alt.X("low:Q", axis=axis, title="zero-shot accuracy"), x2="high:Q"
        )
        points = base.mark_point(filled=True, size=60).encode(y=y, x="mean:Q")
        seeds = (
            alt.Chart(alt.Data(values=dots))
            .transform_filter(here)
            .mark_tick(opacity=0.5)
            .encode(y=y, x="accuracy:Q")
        )
        line = (
            alt.Chart(alt.Data(values=[{"x": chance}]))
            .mark_rule(strokeDash=[4, 3], color="#888")
            .encode(x="x:Q")
        )
        panels.append(
            (line + bars + seeds + points).properties(title=title, width=220, height=24 * len(rows))
        )
    with atomic_write(path) as temporary:
        alt.hconcat(*panels).save(str(temporary), format="svg")
