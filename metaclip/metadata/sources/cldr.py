"""Names of things in 100 languages and more, from the Unicode CLDR: emoji, languages, scripts, countries, regions.

The packages are those of CLDR's JSON on npm: ``annotations/LOCALE/annotations.json`` (keywords and names of characters),
``main/LOCALE/*.json`` of the locale names, ``subdivisions/LOCALE/LOCALE.json`` (states, provinces). A locale belongs to the
language of its first part: zh-Hant to zh, sr-Latn to sr. Names that a locale does not translate, which are their own codes, and
what stands in parentheses are left out.

The candidates are the names, then their words, then their pairs of neighbouring words, so that "red apple" gives "apple" too;
each of these by descending number of occurrences, then by code points. The score is that number.

Cost: 14 s for the 1.1 M candidates of 118 languages.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

import msgspec

from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import packages
from metaclip.metadata.sources.packages import Package
from metaclip.metadata.sources.segmentation import BY_ICU, joined, segmenter

_CODES: Final = {"nb": "no", "fil": "tl"}
"""The codes of CLDR's locales that are not those of lists."""
_MEMBERS: Final = r"package/(?:annotations|main|subdivisions)/(?P<locale>\w+(?:-\w+)*)/[\w-]+\.json"
_NAMED: Final = frozenset({"languages", "scripts", "territories", "variants", "subdivisions"})
_ASIDE: Final = re.compile(r"\s*[(\uff08\u0f3c].*?[)\uff09\u0f3d]")


@dataclasses.dataclass(frozen=True)
class NameSettings:
    """Packages of CLDR's JSON files."""

    packages: tuple[Package, ...]


def candidates(settings: NameSettings, languages: Collection[str]) -> dict[str, Candidates]:
    """Return names, their words and their pairs of words for each language that CLDR has."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for package in settings.packages:
        for member, data in packages.matching_members(package, _MEMBERS):
            language = member["locale"].partition("-")[0]
            if (language := _CODES.get(language, language)) in languages:
                counts[language].update(_names(data, f"{package}, {member[0]}"))
    read = ", ".join(map(str, settings.packages))
    return {language: _ranked(names, language, read) for language, names in counts.items() if names}


def _names(data: bytes, where: str) -> Iterator[str]:
    """Yield the names in a file, as often as it has them."""
    try:
        open_tables = [msgspec.json.decode(data, type=dict[str, Any])]
    except (ValueError, RecursionError) as error:
        raise MetaclipError(f"{where} is not valid JSON ({one_line(error)}); check the recipe") from None
    while open_tables:
        for key, value in open_tables.pop().items():
            if not isinstance(value, dict):
                continue
            if key in _NAMED:
                yield from _cleaned(
                    name for code, name in value.items() if isinstance(name, str) and name != code
                )
            elif "default" in value or "tts" in value:
                yield from _cleaned(itertools.chain(value.get("default", ()), value.get("tts", ())))
            else:
                open_tables.append(value)


def _cleaned(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if clean := " ".join(unicodedata.normalize("NFC", _ASIDE.sub("", name)).split()):
            yield clean


def _ranked(names: collections.Counter[str], language: str, read: str) -> Candidates:
    segment, join = segmenter(language), joined if language in BY_ICU else "{} {}".format
    words, pairs = collections.Counter[str](), collections.Counter[str]()
    for name in sorted(names):
        for phrase in segment(name):
            words.update(phrase)
            pairs.update(itertools.starmap(join, itertools.pairwise(phrase)))
    scores: dict[str, float] = {}
    for counts in (names, words, pairs):
        for entry in sorted(counts, key=lambda entry: (-counts[entry], entry)):
            scores.setdefault(entry, float(counts[entry]))
    return Candidates.of(scores, {"read": read}, scores.values())
