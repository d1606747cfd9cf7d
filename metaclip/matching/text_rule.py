"""The text rule: the definition of an entry matching a text.

The law (Demystifying CLIP Data, section 3.2): a text is padded with one space at each end, each of ``, . ; : ? ! ` `` is
set between spaces, tabs and line ends become spaces; an entry is padded with one space at each end; an entry matches if
its padded form is a substring of the padded text. This module is that law in plain strings: `text` and `entry` define the
rule for every backend, and the compiled library must agree with them on every input.

The options, all off by default, widen the law. Each is part of an automaton's identity and is recorded in the card.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import re
import sys
import unicodedata
from typing import Final, Literal

from metaclip.arguments import check_fields

MARKS: Final = ",.;:?!`"
BLANKS: Final = "\t\n\r"

Scripts = Literal["none", "published", "fixed"]

# Scripts written without spaces between words, as ranges of code points (Unicode blocks).
_PUBLISHED_SCRIPTS: Final = {
    "Thai": [(0x0E00, 0x0E7F)],
    "Lao": [(0x0E80, 0x0EFF)],
    "Tibetan": [(0x0F00, 0x0FFF)],
    "Myanmar": [(0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)],
    "Khmer": [(0x1780, 0x17FF), (0x19E0, 0x19FF)],
    "Han": [(0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF),
            (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)],
}  # fmt: skip
# The published table lacks these, so an entry such as "カメラ" never matches inside a Japanese sentence.
_MISSING_SCRIPTS: Final = {
    "Hiragana": [(0x3040, 0x309F), (0x1B100, 0x1B16F)],
    "Katakana": [(0x30A0, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)],
    "Hangul": [(0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC)],
}  # fmt: skip
SCRIPTS: Final[dict[str, dict[str, list[tuple[int, int]]]]] = {
    "none": {},
    "published": _PUBLISHED_SCRIPTS,
    "fixed": {**_PUBLISHED_SCRIPTS, **_MISSING_SCRIPTS},
}

_FIRST_UNSPACED: Final = "\u0e00"

_SPACE_MARKS: Final = str.maketrans({**{m: f" {m} " for m in MARKS}, **dict.fromkeys(BLANKS, " ")})


@functools.cache
def _other_separators() -> dict[int, str]:
    """Map Unicode's whitespace and punctuation, except the marks and blanks of the paper's rule, to their spaced forms."""
    table = {}
    for point in range(sys.maxunicode + 1):
        char = chr(point)
        if char in MARKS or char in BLANKS or char == " ":
            continue
        if char.isspace():
            table[point] = " "
        elif unicodedata.category(char).startswith("P"):
            table[point] = f" {char} "
    return table


_LONG_NUMBER: Final = re.compile("&#([0-9]{8,})")
_LONG_TEXT: Final = 1000


@functools.cache
def _mark_runs() -> re.Pattern[str]:
    """Return the pattern of long runs of characters that decompose into combining marks; takes half a second."""
    points = map(chr, range(sys.maxunicode + 1))
    marks = "".join(
        char for char in points if unicodedata.combining(unicodedata.normalize("NFD", char)[0])
    )
    return re.compile(f"[{marks}]{{32,}}")


def _in_order(run: re.Match[str]) -> str:
    marks = "".join(unicodedata.normalize("NFD", mark) for mark in run[0])
    return "".join(sorted(marks, key=unicodedata.combining))


def _compose(text: str) -> str:
    """Return NFC in linear time: Python alone needs hours for a megabyte of unordered combining marks."""
    if len(text) > _LONG_TEXT:  # a shorter one takes milliseconds at most
        text = _mark_runs().sub(_in_order, text)
    return unicodedata.normalize("NFC", text)


@dataclasses.dataclass(frozen=True)
class TextRule:
    """How texts and entries are prepared before matching; the default is the paper's rule.

    >>> from metaclip import TextRule
    >>> TextRule().text("Hello, dog"), TextRule(fold_case=True).text("Hello, dog")
    (' Hello ,  dog ', ' hello ,  dog ')
    """

    space_entries: bool = False
    """Set marks and blanks inside an entry between spaces, as in a text, so that "St. Louis" can match."""
    fold_spaces: bool = False
    """Treat a run of spaces as one, in texts and entries, so that "hot dog" matches in "hot  dog"."""
    unicode_separators: bool = False
    """Treat all Unicode whitespace as blanks and all Unicode punctuation as marks."""
    nfc: bool = False
    """Convert texts and entries to Unicode's composed normal form (NFC)."""
    unescape_html: bool = False
    """Resolve HTML character references (``&amp;``) in texts."""
    fold_case: bool = False
    """Compare without regard to case (Unicode case folding, in texts and entries)."""
    longest_only: bool = False
    """Ignore an occurrence that lies inside an occurrence of a longer entry."""
    unspaced_scripts: Scripts = "none"
    """Scripts at whose characters an entry gets no space at its edge: none, the published table, or the fixed one
    (with kana and Hangul)."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def identity(self) -> str:
        """All settings as JSON in a fixed order: equal if and only if two rules are equal."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @property
    def rewrites_text(self) -> bool:
        """Whether `clean_text` can change a text."""
        return self.unescape_html or self.nfc or self.fold_case or self.unicode_separators

    def clean_text(self, text: str) -> str:
        """Apply to a text all steps before the spacing of the paper's marks."""
        if self.unescape_html:
            # Python refuses to parse numbers of thousands of digits; a number of eight digits is not a character.
            text = html.unescape(
                _LONG_NUMBER.sub(lambda found: "&#" + (found[1].lstrip("0")[:8] or "0"), text)
            )
        text = self._fold(text)
        return text.translate(_other_separators()) if self.unicode_separators else text

    def clean_entry(self, entry: str) -> str:
        """Apply to an entry all steps before its padding."""
        entry = self._fold(entry)
        if self.space_entries:
            if self.unicode_separators:
                entry = entry.translate(_other_separators())
            entry = entry.translate(_SPACE_MARKS)
        return re.sub(" +", " ", entry).strip(" ") if self.fold_spaces else entry

    def text(self, text: str) -> str:
        """Return the padded, spaced form of a text, in which padded entries are searched."""
        padded = f" {self.clean_text(text).translate(_SPACE_MARKS)} "
        return re.sub(" +", " ", padded) if self.fold_spaces else padded

    def entry(self, entry: str) -> str | None:
        """Return the padded form of an entry, or None if no token is left of it, so that it cannot match."""
        entry = self.clean_entry(entry)
        if self.fold_spaces and not entry:
            return None
        return self._edge(entry[:1]) + entry + self._edge(entry[-1:])

    def _fold(self, text: str) -> str:
        if self.nfc:
            text = _compose(text)
        if self.fold_case:
            text = text.casefold()
            # Case folding can break the normal form.
            if self.nfc:
                text = _compose(text)
        return text

    def _edge(self, char: str) -> str:
        if char < _FIRST_UNSPACED:  # true for the empty string, too
            return " "
        point = ord(char)
        ranges = (r for script in SCRIPTS[self.unspaced_scripts].values() for r in script)
        return "" if any(low <= point <= high for low, high in ranges) else " "


PAPER: Final = TextRule()
"""The rule of "Demystifying CLIP Data", as published."""
