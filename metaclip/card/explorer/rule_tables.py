"""Tables by which a page follows a text rule exactly: the entries' forms, and Python's tables of characters.

Options of the text rule depend on Unicode and on HTML's names, and a browser may have another version of these. So the
tables are part of the page, made by the functions that matched; the paper's rule needs none.
Cost: none for the paper's rule; else 2 us an entry, and half a second for each table.
"""

from __future__ import annotations

import html
import html.entities
import itertools
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from metaclip.matching.text_rule import BLANKS, MARKS, PAPER, TextRule


def rule_tables(rule: TextRule, entries: Sequence[str]) -> dict[str, Any] | None:
    """Return the tables that law.js uses beside a text, None for the paper's rule.

    `forms` are [entry_id, padded form] of entries whose form is not the entry between two spaces (null: it can match
    nothing); `separators`, `folded` and `names` map strings, `numbers` a character reference's number; `unassigned` are
    ranges of code points. Only those that the rule needs are present.
    """
    if rule == PAPER:
        return None
    forms = ((i, entry, rule.entry(entry)) for i, entry in enumerate(entries))
    tables: dict[str, Any] = {"forms": [[i, form] for i, entry, form in forms if form != f" {entry} "]}
    if rule.unicode_separators:
        spaced = TextRule(unicode_separators=True).clean_text
        known = f"{MARKS}{BLANKS} "
        tables["separators"] = {c: spaced(c) for c in _characters() if c not in known and spaced(c) != c}
    if rule.fold_case:
        tables["folded"] = {c: c.casefold() for c in _characters() if c.casefold() != c}
    if rule.unescape_html:
        read = ((point, html.unescape(f"&#{point};")) for point in range(sys.maxunicode + 1))
        tables["numbers"] = {str(point): text for point, text in read if text != chr(point)}
        tables["names"] = html.entities.html5
    if rule.nfc:
        tables["unassigned"] = list(_unassigned())
    return tables


def _characters() -> Iterator[str]:
    """Return every character, without the halves of surrogate pairs."""
    return (chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000)


def _unassigned() -> Iterator[tuple[int, int]]:
    """Yield the ranges of code points that this Python's Unicode does not know."""
    points = (i for i in range(sys.maxunicode + 1) if unicodedata.category(chr(i)) == "Cn")
    for _, group in itertools.groupby(enumerate(points), key=lambda item: item[1] - item[0]):
        run = [point for _, point in group]
        yield run[0], run[-1]
