"""The difference of two cards: settings, figures, and entries that gained or lost; as data, as Markdown, as a page.

Entries are compared by their text, since two lists may number them differently; by shares of the kept pairs as well as by
numbers, since two sets may be of different size.

The page is one file of HTML that looks like the explorer. It holds no script and its policy lets none run; its style
stands in it, under its digest. Every text of a card is escaped and isolated in its own direction; characters that a
reader would not see are shown as numbers.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.card.publish import read_card
from metaclip.curate.account import MEANING, escaped
from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import atomic_write

MOST_CHANGES: Final = 25
_FIGURES: Final = ("funnel", "entries", "pairs")
_SETTINGS: Final = (
    "list.digest.", "rule.", "balance.t.", "balance.seed.", "recipe.match.limit.", "semantics.", "versions."
)  # fmt: skip
_INVISIBLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""As in the explorer's page.js: controls, bidi marks, zero widths, halves of surrogate pairs."""
_STYLE: Final = """
tbody th { min-width: 8rem; overflow-wrap: break-word; }
#figures td, .change td { white-space: nowrap; }
#figures bdi, thead bdi { overflow-wrap: normal; }
#set tbody td { overflow-wrap: anywhere; }
svg.bar { display: inline-block; width: 7rem; height: .7rem; margin-left: .5rem; }
svg .up { fill: var(--yes); }
svg .down { fill: var(--no); }
.scroll { overflow-x: auto; }
@media (max-width: 36rem) { svg.bar { display: none; } tbody th { min-width: 6rem; } }
"""


@dataclasses.dataclass(frozen=True)
class Difference:
    """What differs from the first card to the second."""

    names: tuple[str, str]
    settings: list[tuple[str, Any, Any]]
    """(field, first, second) of the settings that determine a set, where they differ."""
    figures: list[tuple[str, float, float]]
    """(field, first, second) of the funnel, entries, pairs and the tail share, all of them."""
    entries: pa.Table
    """entry, count, count_after, kept, kept_after, share, share_after of each entry whose count or kept differs."""
    only: tuple[int, int]
    """Numbers of entries in the first list alone, and in the second alone."""
    removed: tuple[int, int] | None = None
    """(matched pairs, kept pairs) taken out from the first to the second, if that is a later version of the first."""


def diff(first: Path, second: Path) -> Difference:
    """Compare two cards. Raise MetaclipError if one cannot be read."""
    one, other = read_card(first), read_card(second)
    flat_one, flat_other = dict(_flatten(one)), dict(_flatten(other))
    settings = [
        (name, flat_one.get(name), flat_other.get(name))
        for name in flat_one | flat_other
        if f"{name}.".startswith(_SETTINGS) and flat_one.get(name) != flat_other.get(name)
    ]
    figures = sorted(
        (name for name in flat_one | flat_other if name.partition(".")[0] in _FIGURES), key=_figure_order
    )
    tables = _read_entries(first), _read_entries(second)
    joined = tables[0].join(tables[1], "entry", join_type="full outer", right_suffix="_after")
    columns = {"entry": joined["entry"]}
    columns |= {
        name: pc.fill_null(joined[name], 0) for name in ("count", "count_after", "kept", "kept_after")
    }
    for suffix, card in (("", one), ("_after", other)):
        columns[f"share{suffix}"] = pc.divide(
            columns[f"kept{suffix}"].cast(pa.float64()), max(1, card["pairs"]["kept"])
        )
    differs = (pc.not_equal(columns[name], columns[f"{name}_after"]) for name in ("count", "kept"))
    names = str(one["name"]), str(other["name"])
    if names[0] == names[1]:  # versions of one set
        names = f"{names[0]} {one['result_digest'][:8]}", f"{names[1]} {other['result_digest'][:8]}"
    return Difference(
        names, settings,
        [(name, flat_one.get(name, 0), flat_other.get(name, 0)) for name in [*figures, "balance.tail_share"]],
        pa.table(columns).filter(pc.or_(*differs)).sort_by("entry"),
        (joined["count_after"].null_count, joined["count"].null_count), _removed_between(one, other),
    )  # fmt: skip


def _flatten(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner


def _figure_order(name: str) -> tuple[int, int, str]:
    """Order figures: the funnel in its steps, then entries, then pairs."""
    section, _, step = name.partition(".")
    return _FIGURES.index(section), list(MEANING).index(step) if step in MEANING else 0, name


def _read_entries(folder: Path) -> pa.Table:
    path = folder / "entries.parquet"
    try:
        return pq.read_table(path, columns=["entry", "count", "kept"])
    except (OSError, pa.ArrowException) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); fetch it again") from None


def _removed_between(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[int, int] | None:
    versions = second.get("removed", {"versions": []})["versions"]
    for i, version in enumerate(versions):
        if version["parent"] == first["result_digest"]:
            return sum(later["pairs"] for later in versions[i:]), sum(
                later["kept"] for later in versions[i:]
            )
    return None


def sentences(found: Difference) -> list[str]:
    """Return sentences on what tables do not show: a later version, lists of other entries, how many entries differ."""
    result = []
    if found.removed is not None:
        pairs, kept = found.removed
        result.append(
            f"The second is a later version of the first, with {pairs:,} matched pairs taken out, {kept:,} of them kept "
            "ones; no other pair's draw changed."
        )
    if any(found.only):
        result.append(
            f"{found.only[0]:,} entries stand in the first list alone, {found.only[1]:,} in the second alone."
        )
    return [
        *result,
        f"{len(found.entries):,} entries have another count or another number of kept pairs.",
    ]


def largest_changes(found: Difference, *, lost: bool = False) -> list[dict[str, Any]]:
    """Return up to 25 entries whose share of the kept pairs rose most, or fell most if `lost`; ties by entry."""
    change = found.entries["share_after"].to_numpy() - found.entries["share"].to_numpy()
    order = np.argsort(change if lost else -change, kind="stable")[:MOST_CHANGES]
    order = order[(change[order] < 0) if lost else (change[order] > 0)]
    return list(found.entries.take(order).to_pylist())


def format_number(value: float, *, sign: bool = False) -> str:
    """Format a figure: whole ones without a point, small ones such as shares with four digits after it."""
    plus = "+" if sign and value else ""
    digits = 0 if value == int(value) else 1 if abs(value) >= 10 else 4
    return f"{value:{plus},.{digits}f}"


def render_markdown(found: Difference) -> str:
    """Return a difference as Markdown."""
    a, b = (escaped(name) for name in found.names)
    lines = [f"# {a} and {b}", ""]
    if found.settings:
        lines += ["Set otherwise:", "", f"| | {a} | {b} |", "|---|---|---|"]
        lines += [
            f"| {name} | {escaped(one)} | {escaped(other)} |" for name, one, other in found.settings
        ]
    else:
        lines.append("Nothing that determines the set was set otherwise.")
    lines += ["", f"| | {a} | {b} | change |", "|---|---:|---:|---:|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _figure_cells(found)]
    for sentence in sentences(found):
        lines += ["", sentence]
    for title, rows in (
        ("Gained most", largest_changes(found)),
        ("Lost most", largest_changes(found, lost=True)),
    ):
        if rows:
            lines += ["", f"## {title}, as a share of the kept pairs", ""]
            lines += ["| entry | kept | | share | |", "|---|---:|---:|---:|---:|"]
            lines += [
                f"| {escaped(row['entry'])} | {row['kept']:,} | {row['kept_after']:,} | {100 * row['share']:.3f}% "
                f"| {100 * row['share_after']:.3f}% |"
                for row in rows
            ]
    return "\n".join([*lines, ""])


def _figure_cells(found: Difference) -> Iterator[tuple[str, str, str, str]]:
    for name, one, other in found.figures:
        yield name, format_number(one), format_number(other), format_number(other - one, sign=True)


def write_page(path: Path, found: Difference) -> None:
    """Write the page. Raise MetaclipError if it cannot be written."""
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(render_page(found), encoding="utf-8")
    except OSError as error:
        raise MetaclipError(
            f"{path} cannot be written ({one_line(error)}); choose another --page"
        ) from None


def render_page(found: Difference) -> str:
    """Return a difference as HTML."""
    style = (resources.files("metaclip.card.explorer") / "page" / "style.css").read_text(
        encoding="utf-8"
    ) + _STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    a, b = (_shown(name) for name in found.names)
    title = " and ".join(
        html.escape(_INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", name)) for name in found.names
    )
    settings = "<p>Nothing that determines the set was set otherwise.</p>"
    if found.settings:
        cells = (map(_shown, row) for row in found.settings)
        settings = _table("set", "What determines the set, where it is not the same", ["", a, b], cells)
    # A field's path may break after a point or an underscore.
    figures = (
        [re.sub(r"([._])", r"\1<wbr>", _shown(name)), *rest] for name, *rest in _figure_cells(found)
    )
    parts = [
        '<!doctype html>\n<html lang="en" data-ready="yes">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f'<title>{title} - what differs</title>\n<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>',
        f"<header>\n<h1>{a} and {b}</h1>",
        f"<p>What differs from the first card to the second. {html.escape(' '.join(sentences(found)))}</p>\n</header>\n<main>",
        *_section("set", "What was set otherwise", settings),
        *_section(
            "figures", "What became of the rows",
            _table("figures", "Funnel, entries, pairs and tail share", ["", a, b, "change"], figures),
        ),
    ]  # fmt: skip
    heads = ["Entry", f"kept, {a}", f"kept, {b}", f"share, {a}", f"share, {b}", "change"]
    for name, what, verb in (("gained", "Gained most", "rose"), ("lost", "Lost most", "fell")):
        if rows := largest_changes(found, lost=name == "lost"):
            caption = f"Entries whose share of the kept pairs {verb} most"
            parts += _section(name, what, _table(name, caption, heads, _change_cells(rows), "change"))
    return "\n".join([*parts, "</main>\n</body>\n</html>", ""])


def _shown(text: Any) -> str:
    """Return a text from outside as HTML: escaped, isolated, invisible characters as their numbers."""
    shown = _INVISIBLE.sub(
        lambda found: f'<span class="escape">U+{ord(found[0]):04X}</span>', html.escape(str(text))
    )
    return f"<bdi>{shown}</bdi>"


def _section(name: str, title: str, content: str) -> list[str]:
    return [
        f'<section aria-labelledby="{name}-title">\n<h2 id="{name}-title">{title}</h2>',
        content,
        "</section>",
    ]


def _change_cells(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    largest = max(abs(row["share_after"] - row["share"]) for row in rows)
    for row in rows:
        change = row["share_after"] - row["share"]
        bar = (
            f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="{"up" if change > 0 else "down"}" width="{100 * abs(change) / largest:.1f}" height="8"></rect></svg>'
        )
        shares = (f"{100 * row[part]:.3f}%" for part in ("share", "share_after"))
        yield [
            _shown(row["entry"]),
            f"{row['kept']:,}",
            f"{row['kept_after']:,}",
            *shares,
            f"{100 * change:+.3f}% {bar}",
        ]


def _table(
    name: str, caption: str, heads: Sequence[str], rows: Iterable[Iterable[str]], kind: str = ""
) -> str:
    """Return a table of cells of HTML, which scrolls by itself if it is wider than the screen."""
    # A telephone has no room for the numbers of kept pairs.
    classes = [' class="more"' if kind == "change" and i in (1, 2) else "" for i in range(len(heads))]
    head = "".join(
        f'<th scope="col"{of}>{cell}</th>' if cell else "<td></td>"
        for cell, of in zip(heads, classes, strict=True)
    )
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td{of}>{cell}</td>" for cell, of in zip(rest, classes[1:], strict=True))
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    body = "\n".join(lines)
    opened = f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(caption)}">'
    return (
        f'{opened}<table id="{name}" class="{kind}">\n<caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )
