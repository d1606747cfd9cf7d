"""Words of 41 languages by frequency, from the data of the package wordfreq: a substitute for counting Wikipedias.

wordfreq (R. Speer, data of 2021, CC BY-SA 4.0) combines Wikipedia, subtitles, news, books, web and social media. Its words are in
lower case, and its files have the words in classes of a hundredth of a decade, ``[header, [words of 10^0], [words of 10^-0.01],
...]`` as gzipped MessagePack, "cB" version 1. It writes every number of several digits with zeros, so words with two digits in a
row are left out: texts have other numbers. Chinese is in simplified characters.

The score is the Zipf scale: the decimal logarithm of the occurrences in 10^9 words. Words of a class are in the order of code
points.

Cost: 15 s for the 5.9 M words of 44 lists.
"""

from __future__ import annotations

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Collection
from typing import Final

import msgspec

from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import packages
from metaclip.metadata.sources.packages import Package
from metaclip.storage.files import gunzip

_CODES: Final = {"no": "nb", "tl": "fil", "bs": "sh", "hr": "sh", "sr": "sh"}
"""The codes of wordfreq, where they are not those of lists. Bosnian, Croatian and Serbian share "sh", in Latin letters."""
_NUMBER: Final = re.compile(r"\d[\d.,\u066b\u066c]*\d")
_HEADER: Final = {"format": "cB", "version": 1}


@dataclasses.dataclass(frozen=True)
class FrequencySettings:
    """The package, and how many of its words are candidates."""

    package: Package
    limit: int = 251_465
    """The maximum number of words of a language: of English, the published list has as many."""


def candidates(settings: FrequencySettings, languages: Collection[str]) -> dict[str, Candidates]:
    """Return the words of each language that the package has, most frequent first; the large list where there are two."""
    codes = {_CODES.get(language, language) for language in languages}
    pattern = rf"wordfreq/data/(?P<size>large|small)_(?P<code>{'|'.join(map(re.escape, sorted(codes)))})\.msgpack\.gz"
    found: dict[str, tuple[str, bytes]] = {}
    for match, data in packages.matching_members(settings.package, pattern):
        if match["size"] == "large" or match["code"] not in found:
            found[match["code"]] = (match[0], data)
    made = dict[str, Candidates]()
    for code, (name, data) in found.items():
        where = f"{settings.package}, {name}"
        words = _words(gunzip(data, where), where, settings.limit)
        made |= {language: words for language in languages if _CODES.get(language, language) == code}
    return made


def _words(data: bytes, where: str, limit: int) -> Candidates:
    try:
        header, *classes = msgspec.msgpack.decode(data, type=list[dict[str, str | int] | list[str]])
        if header != _HEADER or not all(isinstance(words, list) for words in classes):
            raise ValueError(f"its header is {header!r:.80}, must be {_HEADER}")
    except ValueError as error:
        raise MetaclipError(
            f"{where} is no list of words of wordfreq ({one_line(error)}); check the recipe"
        ) from None
    left_out, scores = collections.Counter(number=0, no_word=0, limit=0), dict[str, float]()
    for decibels, words in enumerate(classes):
        for word in sorted(unicodedata.normalize("NFC", word) for word in words):
            if _NUMBER.search(word):
                left_out["number"] += 1
            elif not any(map(str.isalpha, word)):
                left_out["no_word"] += 1
            elif len(scores) == limit:
                left_out["limit"] += 1
            else:
                scores.setdefault(word, (900 - decibels) / 100)
    reasons = {
        "numbers of several digits": left_out["number"],
        "without a letter": left_out["no_word"],
        "beyond the limit": left_out["limit"],
    }
    return Candidates.of(scores, {"read": where, "left_out": reasons}, scores.values())
