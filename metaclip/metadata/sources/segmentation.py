"""Finds the words of a text in any language, and joins neighbouring words as texts of the language write them.

In most languages words are separated by blanks. A word is then a run of letters, digits and combining marks, possibly joined
by single hyphens or apostrophes, in the case that the text has. (`wikitext.phrases`, which the English lists are counted with,
knows no combining marks: it would cut a word of Hindi at each vowel sign.)

Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and others (`UNSPACED`) have no blanks between words. ICU finds the words
there, mostly by dictionaries; in Tibetan and Dzongkha it finds syllables. It knows no Shan: its words are what stands between
blanks. The result depends on the version of ICU: the extra `worldwide` installs one, and the digests in a recipe hold it to that.

Two neighbouring words are joined by a blank, unless one of them touches the other with a character of a script that is
written without blanks. The text rule (`unspaced_scripts`) draws the same line at the edges of an entry.

Cost on one core: 2 M characters/s with blanks, 2 M (Japanese) to 4 M (Thai) with ICU.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Final

from metaclip.errors import import_extra
from metaclip.matching.routing import UNSPACED
from metaclip.matching.text_rule import SCRIPTS

JOINERS: Final = "\u200c\u200d"
"""The two joiners that scripts of Arabic and of India write inside words."""
BY_ICU: Final = UNSPACED - {"shn"}
"""The languages whose words ICU finds."""
_BLANKS: Final = r"[^\S\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+"


def segmenter(language: str) -> Callable[[str], Iterator[list[str]]]:
    """Return a function from a text of a language to its words, in runs with only blanks, or nothing, between them.

    Raise MetaclipError if the language needs ICU and it is not installed.

    >>> list(segmenter("hi")("हिन्दी भाषा, और"))
    [['हिन्दी', 'भाषा'], ['और']]
    """
    if language not in BY_ICU:
        return _spaced_phrases
    breakers: Any = import_extra("icu4py.breakers", "worldwide", f"finding the words of {language!r}")
    return functools.partial(_unspaced_phrases, breakers.WordBreaker, language)


def segmenter_version(language: str) -> str | None:
    """Return what finds the words of a language, with its version; None for a language with blanks between words."""
    if language not in BY_ICU:
        return None
    icu: Any = import_extra("icu4py", "worldwide", f"finding the words of {language!r}")
    return f"ICU {icu.icu_version}"


def joined(first: str, second: str) -> str:
    """Join two neighbouring words as a text has them: with a blank, unless one has an unspaced script where they meet.

    >>> joined("new", "york"), joined("東京", "写真"), joined("写真", "NHK")
    ('new york', '東京写真', '写真NHK')
    """
    return first + ("" if _is_unspaced(first[-1]) or _is_unspaced(second[0]) else " ") + second


@functools.cache
def _is_unspaced(char: str) -> bool:
    scripts = (ranges for name, ranges in SCRIPTS["fixed"].items() if name != "Hangul")
    return any(low <= ord(char) <= high for ranges in scripts for low, high in ranges)


def _spaced_phrases(text: str) -> Iterator[list[str]]:
    for found in _phrase().finditer(text):
        yield found[0].split()


def _unspaced_phrases(word_breaker: Any, language: str, text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words: list[str] = []
        for piece in word_breaker(line, language):
            if any(map(str.isalnum, piece)):
                words.append(piece)
            elif words and not piece.isspace():
                yield words
                words = []
        if words:
            yield words


@functools.cache
def _phrase() -> re.Pattern[str]:
    """Return the pattern of words with only blanks between them; takes 0.3 s."""
    marks = (char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char)[0] == "M")
    letter = rf"(?:[^\W_]|[{''.join(marks)}{JOINERS}])"
    word = rf"[^\W_]{letter}*(?:['\u2019-]{letter}+)*"
    return re.compile(rf"{word}(?:{_BLANKS}{word})*")
