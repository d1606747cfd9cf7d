"""The difference of two cards as a page: one file of HTML that looks as the explorer does.

It holds no script, and its policy lets none run; its style stands in it, under its digest. Every text of a card is
escaped, shown within its own direction, and what a reader would not see as a number.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from metaclip.card.diff import Difference, gained, number, sentences
from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import atomic_write

_UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""As in the explorer's page.js: controls, bidi marks, zero widths, half pairs."""
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


_KEPT: Final = (1, 2)
"""Columns of changes that a telephone has no room for."""


def write(path: Path, found: Difference) -> None:
    """Write the page. Raise MetaclipError where it cannot be written."""
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(render(found), encoding="utf-8")
    except OSError as error:
        raise MetaclipError(f"{path} cannot be written ({one_line(error)}); choose another --page") from None


def render(found: Difference) -> str:
    """Write a difference as HTML."""
    style = (resources.files("metaclip.card.explorer") / "page" / "style.css").read_text(encoding="utf-8") + _STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    a, b = (shown(name) for name in found.names)
    title = " and ".join(html.escape(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", name)) for name in found.names)
    parts = [
        '<!doctype html>\n<html lang="en" data-ready="yes">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f'<title>{title} - what differs</title>\n<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>',
        f"<header>\n<h1>{a} and {b}</h1>",
        f"<p>What differs from the first card to the second. {html.escape(' '.join(sentences(found)))}</p>\n</header>\n<main>",
        '<section aria-labelledby="set-title">\n<h2 id="set-title">What was set otherwise</h2>',
        _settings(found, a, b),
        '</section>\n<section aria-labelledby="figures-title">\n<h2 id="figures-title">What became of the rows</h2>',
        _table(
            "figures", "Funnel, entries, pairs and tail share", ["", a, b, "change"],
            ([_path(name), number(one), number(two), number(two - one, sign=True)] for name, one, two in found.figures),
        ),
        "</section>",
    ]  # fmt: skip
    for name, what, rows in (
        ("gained", "Gained most", gained(found)),
        ("lost", "Lost most", gained(found, lost=True)),
    ):
        if rows:
            parts.append(f'<section aria-labelledby="{name}-title">\n<h2 id="{name}-title">{what}</h2>')
            said = f"Entries whose share of the kept pairs {'rose' if name == 'gained' else 'fell'} most"
            parts += [_changes(name, said, rows, a, b), "</section>"]
    return "\n".join([*parts, "</main>\n</body>\n</html>", ""])


def shown(text: Any) -> str:
    """Show a text from outside as HTML: escaped, isolated, what is unseen as its number."""
    pieces, at = [], 0
    for found in _UNSEEN.finditer(str(text)):
        pieces.append(html.escape(str(text)[at : found.start()]))
        pieces.append(f'<span class="escape">U+{ord(found[0]):04X}</span>')
        at = found.end()
    return f"<bdi>{''.join(pieces)}{html.escape(str(text)[at:])}</bdi>"


def _path(name: str) -> str:
    """Show a field's path, which may break after a point or a low line."""
    return re.sub(r"([._])", r"\1<wbr>", shown(name))


def _settings(found: Difference, a: str, b: str) -> str:
    if not found.settings:
        return "<p>Nothing that determines the set was set otherwise.</p>"
    rows = ([shown(name), shown(one), shown(two)] for name, one, two in found.settings)
    return _table("set", "What determines the set, where it is not the same", ["", a, b], rows)


def _changes(name: str, caption: str, rows: Sequence[dict[str, Any]], a: str, b: str) -> str:
    most = max(abs(row["share_after"] - row["share"]) for row in rows)

    def cells() -> Iterable[list[str]]:
        for row in rows:
            change = row["share_after"] - row["share"]
            width = 100 * abs(change) / most
            bar = (
                f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
                f'<rect class="{"up" if change > 0 else "down"}" width="{width:.1f}" height="8"></rect></svg>'
            )
            shares = [f"{100 * row[part]:.3f}%" for part in ("share", "share_after")]
            yield [
                shown(row["entry"]),
                f"{row['kept']:,}",
                f"{row['kept_after']:,}",
                *shares,
                f"{100 * change:+.3f}% {bar}",
            ]

    heads = ["Entry", f"kept, {a}", f"kept, {b}", f"share, {a}", f"share, {b}", "change"]
    return _table(name, caption, heads, cells(), "change")


def _table(name: str, caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Write a table; its cells are HTML. It scrolls by itself where it is wider than the screen."""
    kinds = [' class="more"' if kind == "change" and i in _KEPT else "" for i in range(len(heads))]
    named = zip(heads, kinds, strict=True)
    head = "".join(f'<th scope="col"{of}>{cell}</th>' if cell else "<td></td>" for cell, of in named)

    def line(first: str, *rest: str) -> str:
        cells = "".join(f"<td{of}>{cell}</td>" for cell, of in zip(rest, kinds[1:], strict=True))
        return f'<tr><th scope="row">{first}</th>{cells}</tr>'

    body = "\n".join(line(*row) for row in rows)
    opened = f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(caption)}">'
    return (
        f'{opened}<table id="{name}" class="{kind}">\n<caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )
