"""Words of spelling dictionaries in Hunspell's format, as npm's ``dictionary-*`` packages carry them in UTF-8.

``index.dic`` has one stem per line, ``stem/FLAGS`` and possibly morphology; ``index.aff`` says how flags are written (FLAG, AF)
and which affixes they allow (SFX, PFX). The candidates are the stems that are words by themselves: not those that are
forbidden, not suggested, found in compounds only, or that need an affix. With `forms`, they are followed by the forms that
one suffix or one prefix makes of a stem; forms of several affixes are left out.

Dictionaries have no frequencies. Stems come before forms, both in the order of the SHA-256 of their UTF-8, so that a limit takes
an unbiased sample and not the words with A.

Cost: 1 s for 150,000 stems; with forms 5 s (Croatian) to 17 s (Armenian, Nepali), as many rules apply to each stem. Memory:
the stems, and up to four times `limit` words.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import heapq
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import packages
from metaclip.metadata.sources.packages import Package
from metaclip.recipe import check_minimums
from metaclip.storage.files import decode_utf8

_FOLDER: Final = "package/index"
_MORPHOLOGY: Final = re.compile(r"\t.*| +[a-z]{2}:.*")
_STEM_END: Final = re.compile(r"(?<!\\)/")
_CONDITION: Final = re.compile(r"\[\^?[^\]]+\]|.")
_UNUSABLE: Final = ("FORBIDDENWORD", "ONLYINCOMPOUND", "NOSUGGEST")
_NEEDS_AFFIX: Final = ("NEEDAFFIX", "PSEUDOROOT")
_MOST_FLAGS: Final = 1 << 12
"""The longest list of flags that is read of a line."""


@dataclasses.dataclass(frozen=True)
class HunspellSettings:
    """A dictionary, and which of its words are candidates."""

    package: Package
    forms: bool = False
    """Whether the forms that affixes make of the stems are candidates too."""
    limit: int = 251_465
    """The maximum number of stems, and of forms."""

    def __post_init__(self) -> None:
        check_minimums(self, limit=1)


def candidates(settings: HunspellSettings) -> Candidates:
    """Return the words of a dictionary, without scores."""
    members = packages.members_of(
        packages.fetch(settings.package).read_bytes(),
        [f"{_FOLDER}.aff", f"{_FOLDER}.dic"],
        settings.package.file,
    )
    where = str(settings.package)
    affixes = Affixes.parse(decode_utf8(members[f"{_FOLDER}.aff"], f"{where}, index.aff"))
    lines = decode_utf8(members[f"{_FOLDER}.dic"], f"{where}, index.dic").split("\n")[1:]
    stems = [(stem, flags) for stem, flags in map(affixes.stem, lines) if stem]
    words = _sample((stem for stem, flags in stems if affixes.is_word(flags)), settings.limit)
    forms: list[str] = []
    if settings.forms:
        made = (form for stem, flags in stems for form in affixes.forms(stem, flags))
        forms = _sample(made, settings.limit)
    ranked = dict.fromkeys([*words, *forms])
    facts = {"read": f"{where}, index.dic", "rows": len(lines), "stems": len(words)}
    return Candidates.of(ranked, facts)


def _condition_part(part: str) -> str:
    """Return a character of a condition, "." for any, or a class of characters, as a regular expression."""
    if len(part) == 1:
        return part if part == "." else re.escape(part)
    negation = "^" if part[1] == "^" and len(part) > 3 else ""
    return f"[{negation}{re.escape(part[1 + len(negation) : -1])}]"


def _sample(words: Iterable[str], limit: int) -> list[str]:
    """Return the `limit` words with the smallest SHA-256, in its order."""
    held = dict[str, bytes]()
    for word in words:
        composed = unicodedata.normalize("NFC", word)
        if composed not in held:
            held[composed] = hashlib.sha256(composed.encode()).digest()
        if len(held) >= 4 * limit:
            held = {word: held[word] for word in heapq.nsmallest(limit, held, key=held.__getitem__)}
    return sorted(held, key=held.__getitem__)[:limit]


@dataclasses.dataclass(frozen=True)
class Affix:
    """A rule: a stem on whose side `condition` holds loses `strip` there and gains `add`."""

    is_suffix: bool
    strip: str
    add: str
    condition: re.Pattern[str]

    def apply(self, stem: str) -> str | None:
        """Return the form of a stem; None if the rule does not apply."""
        if self.is_suffix:
            applies = stem.endswith(self.strip) and self.condition.search(stem)
            return stem[: len(stem) - len(self.strip)] + self.add if applies else None
        applies = stem.startswith(self.strip) and self.condition.search(stem)
        return self.add + stem[len(self.strip) :] if applies else None


@dataclasses.dataclass(frozen=True)
class Affixes:
    """The content of an .aff file that says which words a .dic file has."""

    flag_form: str
    """How flags are written: a character each ("short"), two ("long"), or numbers with commas ("num")."""
    aliases: tuple[frozenset[str], ...]
    """Sets of flags that the .dic file names by their number."""
    unusable: frozenset[str]
    """The flags of stems, and of what affixes make, that are no words and have no forms: FORBIDDENWORD, ..."""
    incomplete: frozenset[str]
    """The flags of those that are words with an affix only: NEEDAFFIX."""
    rules: Mapping[str, tuple[Affix, ...]]
    """The affixes by flag, without those that make no word."""

    @classmethod
    def parse(cls, text: str) -> Affixes:
        """Parse an .aff file; lines of other forms mean nothing here."""
        form, aliases, rows = "short", list[str](), list[list[str]]()
        unusable, incomplete = set[str](), set[str]()
        for line in text.split("\n"):
            match line.split():
                case ["FLAG", name, *_]:
                    form = {"long": "long", "num": "num"}.get(name, "short")
                case ["AF", flags, *_]:
                    aliases.append(flags)
                case [name, flag, *_] if name in _UNUSABLE:
                    unusable.add(flag)
                case [name, flag, *_] if name in _NEEDS_AFFIX:
                    incomplete.add(flag)
                # The head of a class of affixes has the number of its rules, and no condition.
                case ["SFX" | "PFX", _, _, _, _, *_] as row if not row[4].startswith("#"):
                    rows.append(row[:5])
                case ["SFX" | "PFX", _, _, _] as row if row[2] not in "YN":
                    rows.append([*row, "."])
        made = cls(form, (), frozenset(unusable), frozenset(incomplete), {})
        # The first line of the aliases has their number.
        made = dataclasses.replace(made, aliases=tuple(map(made.flags, aliases[1:])))
        rules: dict[str, list[Affix]] = collections.defaultdict(list)
        for kind, flag, strip, add, condition in rows:
            rule, of_form = made._rule(kind, strip, add, condition)
            if made.is_word(of_form):
                rules[flag].append(rule)
        return dataclasses.replace(made, rules={flag: tuple(of_flag) for flag, of_flag in rules.items()})

    def _rule(self, kind: str, strip: str, add: str, condition: str) -> tuple[Affix, frozenset[str]]:
        """Return a rule, and the flags of what it makes."""
        text, _, flags = add.partition("/")
        pattern = "".join(map(_condition_part, _CONDITION.findall(condition)))
        is_suffix = kind == "SFX"
        compiled = re.compile(f"(?:{pattern})$" if is_suffix else f"^(?:{pattern})")
        strip, text = ("" if part == "0" else part for part in (strip, text))
        return Affix(is_suffix, strip, text, compiled), self.flags(flags)

    def flags(self, text: str) -> frozenset[str]:
        """Return the flags in a list of flags, or in the alias that it names."""
        if self.aliases and text.isascii() and text.isdigit() and 0 < int(text) <= len(self.aliases):
            return self.aliases[int(text) - 1]
        text = text[:_MOST_FLAGS]
        if self.flag_form == "num":
            return frozenset(filter(None, text.split(",")))
        width = 2 if self.flag_form == "long" else 1
        return frozenset(text[i : i + width] for i in range(0, len(text), width))

    def stem(self, line: str) -> tuple[str, frozenset[str]]:
        """Return the stem and the flags of a line of a .dic file; "" for an empty line."""
        word, *flags = _STEM_END.split(_MORPHOLOGY.sub("", line.rstrip("\r")), maxsplit=1)
        return word.replace("\\/", "/").strip(), self.flags("".join(flags).partition(" ")[0])

    def is_word(self, flags: frozenset[str]) -> bool:
        """Return whether a stem or a form with these flags is a word by itself."""
        return not flags & self.unusable and not flags & self.incomplete

    def forms(self, stem: str, flags: frozenset[str]) -> Iterator[str]:
        """Yield the words that one affix makes of a stem with these flags."""
        for flag in sorted(flags) if not flags & self.unusable else ():
            for affix in self.rules.get(flag, ()):
                if form := affix.apply(stem):
                    yield form
