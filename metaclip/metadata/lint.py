"""Checks a query list: entries that can never match, doubles, suspicious ones.

An entry is dead under a text rule if no text matches it. To decide that, a text is made that matches it if any does: the
entry itself, or the entry without the spaces around marks (as a text's own are set apart), each with its character
references escaped; what the rule says of these is the answer. So "alive" always has a witness; that "dead" is right too is
held by tests, exhaustively for short entries. Under the paper's rule it comes to REFERENCE.md's three cases: a tab or line
end; a mark inside a longer token; two marks in a row.

Doubles are entries that Unicode's composed form (NFC) and folded spaces make the same, and, apart from them, those that
case folding does: the latter are on purpose where titles keep their case and words have none.

Cost: 500,000 entries in 3 s.
"""

from __future__ import annotations

import collections
import dataclasses
import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from metaclip.metadata import clean
from metaclip.metadata.entries import Metadata

LONGEST: Final = 100
"""Characters; the longest name in WordNet 3.0 has 71."""


class Rule(Protocol):
    """What is asked of a text rule (`metaclip.matching.text_rule.TextRule`, which stands above this layer)."""

    def text(self, text: str) -> str:
        """Give the form of a text in which entries are looked for."""

    def entry(self, entry: str) -> str | None:
        """Give the form of an entry that is looked for, None for one that cannot match."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One entry that something is wrong with."""

    row: int
    entry: str
    kind: str
    """dead, double, case, or a kind of `KINDS`."""
    note: str
    """The rule under which a dead entry would match; the row of a double's first; what is suspicious."""


KINDS: Final[dict[str, str]] = {
    "dead": "can never match under the rule",
    "double": "is the same as an earlier entry but for Unicode form or spaces",
    "case": "is the same as an earlier entry but for case",
    **clean.MEANING,
    "one character": "is one character",
    "long": f"has over {LONGEST} characters",
}
"""The kinds of findings, gravest first."""


def alive(entry: str, rule: Rule) -> bool:
    """Tell whether there is a text that an entry matches under a rule."""
    form = rule.entry(entry)
    return form is not None and any(form in rule.text(text) for text in _witnesses(entry, form, rule))


def _witnesses(entry: str, form: str, rule: Rule) -> Iterator[str]:
    yield entry
    yield html.escape(entry)
    # A mark comes with a space on each side in texts: taking these from the entry gives a text that gets them back.
    marks = {char for char in set(form) if rule.text(char).strip(" ") == char and len(rule.text(f"a{char}a")) > 5}
    if marks:
        set_apart = f" ?([{re.escape(''.join(sorted(marks)))}]) ?"
        for spaced in (form.strip(" "), entry):
            yield (unspaced := re.sub(set_apart, r"\1", spaced))
            yield html.escape(unspaced)


def findings(metadata: Metadata, rule: Rule, others: Mapping[str, Rule]) -> list[Finding]:
    """Find what is wrong with a list under a rule, gravest kind first, by row within a kind.

    `others` are the rules to try on a dead entry, by name.
    """
    entries: list[str] = metadata.entries.to_pylist()
    found = [*_dead(entries, rule, others), *_doubles(entries), *_suspicious(entries)]
    order = list(KINDS)
    return sorted(found, key=lambda finding: (order.index(finding.kind), finding.row))


def _dead(entries: Sequence[str], rule: Rule, others: Mapping[str, Rule]) -> Iterator[Finding]:
    for row, entry in enumerate(entries):
        if not alive(entry, rule):
            name = next((name for name, other in others.items() if alive(entry, other)), None)
            yield Finding(row, entry, "dead", f"matches with {name}" if name else "matches under no rule")


def _doubles(entries: Sequence[str]) -> Iterator[Finding]:
    forms: tuple[tuple[str, Callable[[str], str]], ...] = (("double", _composed), ("case", _folded))
    doubled = set[int]()
    for kind, normal in forms:
        first: dict[str, int] = {}
        for row, entry in enumerate(entries):
            earlier = first.setdefault(normal(entry), row)
            if earlier != row and row not in doubled:
                doubled.add(row)
                yield Finding(row, entry, kind, f"row {earlier}, {entries[earlier]!r:.80}")


def _composed(entry: str) -> str:
    return " ".join((entry if entry.isascii() else unicodedata.normalize("NFC", entry)).split())


def _folded(entry: str) -> str:
    return unicodedata.normalize("NFC", _composed(entry).casefold())


def _suspicious(entries: Sequence[str]) -> Iterator[Finding]:
    for row, entry in enumerate(entries):
        kind = clean.fault(entry) or ("one character" if len(entry) == 1 else "long" if len(entry) > LONGEST else None)
        if kind is not None:
            yield Finding(row, entry, kind, "")


def as_json(metadata: Metadata, rule: Mapping[str, Any], found: Sequence[Finding]) -> dict[str, Any]:
    """Give the findings for a program: the list's digest, the rule, numbers of findings by kind, each finding."""
    counts = collections.Counter(finding.kind for finding in found)
    return {
        "list": metadata.digest,
        "entries": len(metadata),
        "rule": dict(rule),
        "counts": {kind: counts[kind] for kind in KINDS},
        "findings": [dataclasses.asdict(finding) for finding in found],
    }


def render(metadata: Metadata, found: Sequence[Finding], limit: int) -> str:
    """Give the findings for a reader: a table of kinds, then the first `limit` of each kind."""
    by_kind: dict[str, list[Finding]] = collections.defaultdict(list)
    for finding in found:
        by_kind[finding.kind].append(finding)
    lines = [f"entries        {len(metadata):>9,}   digest {metadata.digest[:16]}"]
    lines += [f"{kind:<13}  {len(by_kind.get(kind, ())):>9,}   {meaning}" for kind, meaning in KINDS.items()]
    for kind, of_kind in by_kind.items():
        lines += ["", f"{kind}:"] if limit else []
        lines += [
            f"  row {finding.row:<7} {finding.entry!r:.80}  {finding.note}".rstrip() for finding in of_kind[:limit]
        ]
        if limit and len(of_kind) > limit:
            lines.append(f"  ... and {len(of_kind) - limit:,} more (--limit, --json)")
    return "\n".join(lines)
