"""Gives lower-cased titles their capitals back, by what running text shows of them.

In this order: a title that is known with its case; the form that most of its occurrences in the text have; word by word,
the form that most occurrences inside sentences have, where all but small words take a capital, as names do: a word no text
shows is more often of a name ("Naruhito") than of a concept. A title begins with a capital, as Wikipedia has it, unless
the word has one inside ("iPhone").

It errs: what is a concept and unseen comes out as a name ("Trapezoidal Rule").
"""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

_TOKEN: Final = re.compile(r"[^\W_]+(?:['\u2019.&-][^\W_]+)*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\s\"'\u201d\u2019)]+")
_SMALL: Final = re.compile("a|an|and|as|at|by|de|del|der|di|du|for|from|in|la|of|on|or|the|to|van|von|vs|with|y")
_NUMERAL: Final = re.compile("ii|iv|vi|ix|(?=...)(?:xl|lx{1,3}|l(?=v)|x{0,3})(?:ix|iv|v?i{0,3})")  # not Li, Xi, Liv
_VOWEL: Final = re.compile("[^b-df-hj-np-tv-xz]")  # or what is no letter of English
_LONGEST: Final = 6  # words of a title that is looked for as a whole


def evidence(texts: Iterable[str], titles: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Read texts: the usual forms of those of the lower-cased `titles` that stand in them, and of all words.

    The first word of a sentence is no evidence for words. Of forms seen equally often the first in code points wins.
    """
    wanted = set(titles)
    phrases: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    words: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            spans = [found.span() for found in _TOKEN.finditer(sentence)]
            for at, (begin, end) in enumerate(spans):
                if at:
                    words[sentence[begin:end].lower()][sentence[begin:end]] += 1
                for last in range(at + 1, min(at + _LONGEST, len(spans))):
                    form = sentence[begin : spans[last][1]]
                    if form.lower() in wanted:
                        phrases[form.lower()][form if at else _begin_as_inside(form)] += 1
    return _usual(phrases), _usual(words)


def _begin_as_inside(form: str) -> str:
    """Undo the capital that a sentence begins with, where the next word shows that this is no name."""
    first, _, rest = form.partition(" ")
    return f"{first.lower()} {rest}" if rest.islower() else form


def _usual(forms: Mapping[str, collections.Counter[str]]) -> dict[str, str]:
    return {word: min(counts, key=lambda form: (-counts[form], form)) for word, counts in forms.items()}


def restore(title: str, known: Mapping[str, str], phrases: Mapping[str, str], words: Mapping[str, str]) -> str:
    """Give a lower-cased title its case back, by titles that are `known`, and the usual forms of phrases and words."""
    if title in known:
        return known[title]
    if (form := phrases.get(title)) is None:
        form = " ".join(_name(word, at, words) for at, word in enumerate(title.split(" ")))
    first = form.partition(" ")[0]
    return form if first != first.lower() else form[:1].upper() + form[1:]


def _name(word: str, at: int, words: Mapping[str, str]) -> str:
    """Write a word as in a name: as the text does where it has a capital there, else with one unless it is small."""
    if at and _SMALL.fullmatch(word):
        return word
    form = words.get(word, word)
    if form != word:
        return form
    first, *more = re.split("([-\u2013])", word)
    # Surnames of two parts have two capitals (Rees-Mogg), the short syllables of Korean given names have one (Hye-ri).
    return _capital(first) + "".join(words.get(part, _capital(part) if len(part) > 3 else part) for part in more)


def _capital(word: str) -> str:
    """Begin a word with a capital, and what follows the prefix of a name: O'Neill, McCartney; NBC and XIV have only these."""
    for prefix in ("o'", "d'", "mc"):
        if word.startswith(prefix) and len(word) > len(prefix) + 2:
            return prefix.capitalize() + word[len(prefix)].upper() + word[len(prefix) + 1 :]
    if _NUMERAL.fullmatch(word) or not _VOWEL.search(word):
        return word.upper()
    return word[:1].upper() + word[1:]


def without_tail(title: str) -> str:
    """Take off the tail in brackets that tells articles of one name apart: "Table (furniture)"."""
    return re.sub(r" \([^()]*\)$", "", title)
