"""Checks a query list: entries that can never match, duplicates up to spelling, and entries that look wrong.

An entry is dead under a text rule if no text matches it. To decide that, `alive` makes the texts that match the entry if
any text does: the entry itself, and the entry without the spaces around marks (the rule adds these to texts), each also
with its character references escaped; it then applies the rule to them. So "alive" always has a witness; that "dead" is
right too is held by tests, exhaustively for short entries. Under the paper's rule an entry is dead in the three cases of
REFERENCE.md: it has a tab or line end, a mark inside a longer token, or two marks in a row.

Doubles are entries that are equal in Unicode's composed form (NFC) with folded spaces. Entries that only case folding makes
equal are a kind of their own: they are intended where titles keep their case and words are in lower case. In a list with
languages, both are sought within each language: the same entry in two of them is no fault.

Cost: 1.5 s for 500,000 entries.
"""

from __future__ import annotations

import collections
import dataclasses
import html
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from metaclip.arguments import check_type
from metaclip.engine import Progress
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata, MetadataLike, as_metadata

LONGEST: Final = 100
"""Characters; the longest name in WordNet 3.0 has 71."""

_SHOWN: Final = 10  # findings of a kind in a report for readers
KINDS: Final[dict[str, str]] = {
    "dead": "can never match under the rule",
    "double": "is the same as an earlier entry but for Unicode form or spaces",
    "case": "is the same as an earlier entry but for case",
    "markup": "holds remains of markup",
    "quote": "has a quote glued to a word",
    "hidden": "holds a control or invisible character, or a space other than ' '",
    "sign": "holds no letter and no digit",
    "edge": "begins or ends with a space, or holds two in a row",
    "one character": "is one character",
    "long": f"has over {LONGEST} characters",
}
"""The kinds of findings with their meaning, most serious first."""

_APOSTROPHES: Final = "'\u2019\u2032"
"""Characters that may occur inside a word: o'clock."""
_QUOTES: Final = '"`\u00b4\u2018\u201a-\u201f\u2033\u2039\u203a\u00ab\u00bb'
"""A set of characters of a regular expression."""
_MARKUP: Final = re.compile(
    r"[<>{}|\\\[\]]"  # tags, templates, tables, links
    r"|&\#?\w+;|\b(?:lt|gt|amp|nbsp|quot);"  # character references, whole or cut
    r"|\w=|=[\"']|''|https?:|www\."  # attributes, wiki emphasis, addresses
)
_GLUED_QUOTE: Final = re.compile(
    f"(?:^| )[{_APOSTROPHES}]+[^ {_APOSTROPHES}]|[^ {_APOSTROPHES}][{_APOSTROPHES}]+(?: |$)|[^ ][{_QUOTES}]|[{_QUOTES}][^ ]"
)
_WITHIN_WORDS: Final = re.compile(
    rf"(?<=[^\W\d_]s)[{_APOSTROPHES}](?= \w)"  # bayes' theorem
    rf"|(?<= )[{_APOSTROPHES}](?=n[{_APOSTROPHES}] )|(?<= [{_APOSTROPHES}]n)[{_APOSTROPHES}](?= )"  # rock 'n' roll
)
"""Apostrophes at the edge of a word that belong to it. `fault` minds them all the same: from a
source that is not trusted, half of a quotation looks like that too."""
_HIDDEN_CATEGORIES: Final = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
_JOINER: Final = re.compile(
    "(?<=[\u0600-\u18af])(?:\u200c(?=[\u0600-\u18af])|\u200d(?=[\u0600-\u18af ]|$))"
)
"""The zero-width joiners inside words of Persian, of the languages of India, ..., where they are part of the spelling."""
_STRIDE: Final = 10_000
ORDINARY: Final = "^[0-9A-Za-z]+(?: [0-9A-Za-z]+)*$"
"""A regular expression of most entries: words of ASCII letters and digits. They match under every rule; nothing is wrong."""
_ASCII_WORDS: Final = re.compile(ORDINARY)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One entry with a problem."""

    row: int
    entry: str
    kind: str
    """A key of `KINDS`."""
    note: str
    """The rule under which a dead entry would match, or the earlier row of a double; else empty."""
    language: str | None = None
    """The language of the entry, in a list with languages."""


def lint(metadata: MetadataLike, rule: TextRule = PAPER) -> pa.Table:
    """Check a query list under a text rule; return a table with a row for each finding: row, entry, kind, note.

    Of a list with languages, there is also the column language.
    The most serious kinds come first; `KINDS` says what each means. `note` is the setting of the rule that would let a dead
    entry match, or the earlier row of a double.

    >>> from metaclip import lint
    >>> lint(["St. Louis", "dog", "Dog"]).to_pylist()[0]
    {'row': 0, 'entry': 'St. Louis', 'kind': 'dead', 'note': 'matches with space_entries'}
    """
    check_type("rule", rule, TextRule)
    entries = as_metadata(metadata)
    with Progress("lint", len(entries), unit="entries") as progress:
        found = findings(entries, rule, wider_rules(rule), progress)
    kinds = [("row", pa.int64()), ("entry", pa.string()), ("kind", pa.string()), ("note", pa.string())]
    kinds += [("language", pa.string())] if entries.languages else []
    return pa.Table.from_pylist([dataclasses.asdict(one) for one in found], pa.schema(kinds))


def wider_rules(rule: TextRule) -> dict[str, TextRule]:
    """Return the rules that differ from a rule by one setting more that is on, by the name of the setting."""
    settings = dataclasses.asdict(rule)
    return {name: TextRule(**{**settings, name: True}) for name, on in settings.items() if on is False}


def alive(entry: str, rule: TextRule) -> bool:
    """Return whether there is a text that matches an entry under a rule."""
    if _ASCII_WORDS.fullmatch(entry) or (entry.isalnum() and not rule.rewrites_text):
        return True
    form = rule.entry(entry)
    return form is not None and any(form in rule.text(text) for text in _witnesses(entry, form, rule))


def _witnesses(entry: str, form: str, rule: TextRule) -> Iterator[str]:
    yield entry
    yield html.escape(entry)
    # The rule puts a space on each side of a mark in texts: an entry without these spaces is a text that gets them back.
    marks = {
        char
        for char in set(form)
        if rule.text(char).strip(" ") == char and len(rule.text(f"a{char}a")) > 5
    }
    if marks:
        spaced_mark = f" ?([{re.escape(''.join(sorted(marks)))}]) ?"
        for spaced in (form.strip(" "), entry):
            yield (unspaced := re.sub(spaced_mark, r"\1", spaced))
            yield html.escape(unspaced)


def fault(entry: str) -> str | None:
    """Return the kind of the first thing that looks wrong in an entry, whatever the text rule; None for nothing.

    The kinds are markup, quote, hidden, sign and edge. WordNet's own names may have them, other sources' should not.
    """
    if entry.isalnum() or _ASCII_WORDS.fullmatch(entry):
        return None
    if any(
        unicodedata.category(char) in _HIDDEN_CATEGORIES and char != " "
        for char in _JOINER.sub("", entry)
    ):
        return "hidden"
    if entry.strip(" ") != entry or "  " in entry:
        return "edge"
    if _MARKUP.search(entry):
        return "markup"
    if _GLUED_QUOTE.search(entry):
        return "quote"
    return None if any(char.isalnum() for char in entry) else "sign"


def findings(
    metadata: Metadata, rule: TextRule, others: Mapping[str, TextRule], progress: Progress | None = None
) -> list[Finding]:
    """Return the problems of a list under a rule, most serious kind first, by row within a kind.

    `others` are the rules to try on a dead entry, by name; `progress` counts entries.
    """
    found: list[Finding] = []
    parts: Sequence[tuple[str | None, range]] = [*metadata.languages.items()] or [
        (None, range(len(metadata)))
    ]
    for language, ids in parts:
        found += _findings_in(metadata, ids, language, rule, others, progress)
    order = list(KINDS)
    return sorted(found, key=lambda finding: (order.index(finding.kind), finding.row))


def _findings_in(
    metadata: Metadata, ids: range, language: str | None, rule: TextRule, others: Mapping[str, TextRule],
    progress: Progress | None,
) -> Iterator[Finding]:  # fmt: skip
    """Yield the problems of the entries of one language, by row."""
    entries: list[str] = metadata.entries[ids.start : ids.stop].to_pylist()
    composed: dict[str, int] = {}
    case_folded: dict[str, int] = {}
    for row, entry in zip(ids, entries, strict=True):
        if not alive(entry, rule):
            name = next((name for name, other in others.items() if alive(entry, other)), None)
            note = f"matches with {name}" if name else "matches under no rule"
            yield Finding(row, entry, "dead", note, language)
        plain = " ".join(_nfc(entry).split())
        forms = ("double", composed, plain), ("case", case_folded, _nfc(plain.casefold()))
        for doubled, first, form in forms:
            if (earlier := first.setdefault(form, row)) != row:
                note = f"row {earlier}, {entries[earlier - ids.start]!r:.80}"
                yield Finding(row, entry, doubled, note, language)
                break
        kind = fault(entry)
        if kind == "quote":
            kind = fault(_WITHIN_WORDS.sub("", entry))
        if kind := kind or _odd_length(entry):
            yield Finding(row, entry, kind, "", language)
        if progress is not None and (row + 1) % _STRIDE == 0:
            progress.advance(_STRIDE, 0)


def _nfc(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _odd_length(entry: str) -> str | None:
    return "one character" if len(entry) == 1 else "long" if len(entry) > LONGEST else None


def as_json(metadata: Metadata, rule: Mapping[str, Any], found: Sequence[Finding]) -> dict[str, Any]:
    """Return a report for programs: the list's digest, the rule, the number of findings by kind, each finding."""
    counts = collections.Counter(finding.kind for finding in found)
    return {
        "list": metadata.digest,
        "entries": len(metadata),
        "rule": dict(rule),
        "counts": {kind: counts[kind] for kind in KINDS},
        **(
            {"languages": {row.pop("language"): row for row in by_language(metadata, found)}}
            if metadata.languages
            else {}
        ),
        "findings": [_as_dict(finding) for finding in found],
    }


def _as_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as a dict; without a language, if the list has none."""
    return {
        name: value
        for name, value in dataclasses.asdict(finding).items()
        if name != "language" or value is not None
    }


def by_language(metadata: Metadata, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return a row for each language of a list: language, entries, and the number of findings of each kind that occurs."""
    counts = collections.Counter((finding.language, finding.kind) for finding in found)
    kinds = [kind for kind in KINDS if any(kind == other for _, other in counts)]
    return [
        {"language": language, "entries": len(ids), **{kind: counts[language, kind] for kind in kinds}}
        for language, ids in metadata.languages.items()
    ]


def render(metadata: Metadata, found: Sequence[Finding]) -> str:
    """Return a report for readers: a table of kinds, then the first findings of each kind."""
    by_kind: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    for finding in found:
        by_kind[finding.kind].append(finding)
    lines = [f"entries        {len(metadata):>9,}   digest {metadata.digest[:16]}"]
    lines += [f"{kind:<13}  {len(by_kind[kind]):>9,}   {meaning}" for kind, meaning in KINDS.items()]
    if rows := by_language(metadata, found):
        shown = {name: max(len(name), 9) for name in rows[0]}
        lines += [
            "",
            "  ".join(
                f"{name:{'<' if name == 'language' else '>'}{size}}" for name, size in shown.items()
            ),
        ]
        lines += [
            "  ".join(
                f"{row[name]:<{size}}" if name == "language" else f"{row[name]:>{size},}"
                for name, size in shown.items()
            )
            for row in rows
        ]
    for kind, of_kind in by_kind.items():
        if of_kind:
            lines += ["", f"{kind}:"]
            lines += [
                f"  row {one.row:<7} {'' if one.language is None else f'{one.language} '}{one.entry!r:.80}  {one.note}".rstrip()
                for one in of_kind[:_SHOWN]
            ]
            if len(of_kind) > _SHOWN:
                lines.append(f"  ... and {len(of_kind) - _SHOWN:,} more (--json)")
    return "\n".join(lines)
