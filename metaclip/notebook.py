"""What a notebook shows of runs, lists and cards: tables and a plot, as HTML that loads nothing and runs no script.

Every string from outside is escaped here (`table`), so that a caption or an entry cannot become markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_POINTS: Final = 400
_WIDTH, _HEIGHT = 480, 240
_COLOURS: Final = ("#4c78a8", "#f58518")


def thinned(n: int) -> npt.NDArray[np.int64]:
    """Return a few hundred indices below n, evenly spaced in the logarithm."""
    return np.unique(np.geomspace(1, n, _POINTS).astype(np.int64)) - 1 if n else np.zeros(0, np.int64)


def ranks(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return ranks, from 1, and the values above 0 that have them, thinned."""
    ranked = np.sort(values[values > 0])[::-1]
    chosen = thinned(len(ranked))
    return chosen + 1, ranked[chosen]


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; numbers are written with commas, strings escaped."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><caption>{html.escape(title)}</caption><tr>{cells}</tr>{lines}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        shown = f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
        return f'<td style="text-align: right">{shown}</td>'
    if isinstance(value, int):
        return f'<td style="text-align: right">{value:,}</td>'
    return f'<td style="text-align: left">{html.escape("" if value is None else str(value))}</td>'


def ranks_plot(title: str, series: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return an inline SVG of values by rank, both axes logarithmic, with a line for each series."""
    lines = {name: ranks(values) for name, values in series.items()}
    right = max(1.0, *(float(np.log10(rank[-1])) for rank, _ in lines.values() if len(rank)), 0)
    logs = {name: np.log10(values.astype(np.float64)) for name, (_, values) in lines.items()}
    top = max([1.0, *(float(log.max()) for log in logs.values() if len(log))])
    low = min([0.0, *(float(log.min()) for log in logs.values() if len(log))])
    shapes = [f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>']
    for (name, (rank, _)), colour in zip(lines.items(), _COLOURS, strict=False):
        x = np.log10(rank) / right * _WIDTH
        y = (top - logs[name]) / (top - low) * _HEIGHT
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        place = 16 + 14 * _COLOURS.index(colour)
        shapes.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes.append(
            f'<text x="{_WIDTH - 8}" y="{place}" text-anchor="end" font-size="12" fill="{colour}">{html.escape(name)}</text>'
        )
    axes = f"{title}: rank to {10**right:,.0f} across, {10**low:,.3g} to {10**top:,.0f} upwards, both logarithmic"
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    label = html.escape(axes)
    return (
        f'<figure><svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" {size}>{"".join(shapes)}</svg>'
        f"<figcaption>{label}</figcaption></figure>"
    )


def entries_tables(title: str, figures: Mapping[str, Any], entries: Any) -> str:
    """Return what a run and a card show: figures, counts by rank before and after balancing, and the largest entries.

    `entries` is an Arrow table with the columns entry and count, and kept where pairs were drawn.
    """
    names = [
        name
        for name in ("entry", "source", "count", "probability", "kept")
        if name in entries.column_names
    ]
    most = entries.select(names).take(
        np.argsort(-entries["count"].to_numpy().astype(np.int64), kind="stable")[:10]
    )
    series: dict[str, Any] = {
        name: entries[name].to_numpy() for name in ("count", "kept") if name in names
    }
    return (
        table(title, ("figure", "value"), figures.items())
        + ranks_plot("Counts by rank of the entry", series)
        + table("Entries with the largest counts", names, (row.values() for row in most.to_pylist()))
    )
