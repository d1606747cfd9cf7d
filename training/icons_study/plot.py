"""The tables as pictures: accuracy against t, and against the pairs kept, for all classes and for each group of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from metaclip.errors import import_extra
from metaclip.storage.files import atomic_write
from training.icons_study.summary import FIGURES, Row

_COLOURS: Final = {
    "raw": "#888888",
    "matched": "#000000",
    "offline": "#1f77b4",
    "online": "#d62728",
    "repeat": "#2ca02c",
}

_TICKS: Final = {"t": [10, 30, 100, 300, 1_000, 3_000], "pairs": [100_000, 150_000, 200_000, 300_000]}


def write_plot(path: Path, rows: Sequence[Row], x: Literal["t", "pairs"]) -> None:
    """Write the accuracy of the arms as SVG: a panel for each figure, means with their intervals over seeds.

    Against t, raw and matched, which have none, are lines across, and repetition is left out. Raise MetaclipError where
    altair is not installed.
    """
    alt = import_extra("altair", "cards", "the plots")
    colour = alt.Color(
        "way:N", title=None, scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values()))
    )
    panels = []
    for name in FIGURES:
        values = [_point(row, name, x) for row in rows]
        if x == "t":
            values = [value for value in values if value["way"] != "repeat"]
        points = [value for value in values if value["x"] is not None]
        across = [value for value in values if value["x"] is None]
        place = alt.X(
            "x:Q", title="t" if x == "t" else "pairs kept", scale=alt.Scale(type="log", nice=False, padding=12),
            axis=alt.Axis(format="~s", values=_TICKS[x], grid=False),
        )  # fmt: skip
        base = alt.Chart(alt.Data(values=points)).encode(x=place, color=colour)
        axis = alt.Y(
            "mean:Q",
            title="mean accuracy by class, %" if name == FIGURES[0] else None,
            scale=alt.Scale(zero=False),
        )
        layers: list[Any] = [
            alt.Chart(alt.Data(values=across))
            .mark_rule(strokeDash=[4, 3])
            .encode(y="mean:Q", color=colour),
            base.mark_rule().encode(y="low:Q", y2="high:Q"),
            base.mark_point(filled=True, size=50).encode(y=axis),
        ]
        if x == "t":
            layers.append(base.mark_line().encode(y=axis))
        panels.append(alt.layer(*layers).properties(title=f"{name} classes", width=200, height=220))
    with atomic_write(path) as temporary:
        alt.hconcat(*panels).save(str(temporary), format="svg")


def _point(row: Row, name: str, x: str) -> dict[str, Any]:
    one = row.figures[name]
    half = 0.0 if math.isnan(one.half) else one.half
    place = row.pairs if x == "pairs" else row.t if row.way in ("offline", "online") else None
    return {
        "way": row.way, "x": place, "mean": 100 * one.mean, "low": 100 * (one.mean - half), "high": 100 * (one.mean + half),
    }  # fmt: skip
