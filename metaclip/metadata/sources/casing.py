"""Restores the case of lower-case titles from titles with a known case and from running text.

The first of these rules that applies decides: the title is known with its case; the form that most of its occurrences in
the text have; word by word, the form that most occurrences inside sentences have, and a capital for other words, except for
small words: a word that no text has belongs more often to a name ("Naruhito") than to a concept. A title begins with a
capital, as in Wikipedia, unless its first word has one inside ("iPhone").

Known errors: concepts that the text does not have get the case of names ("Trapezoidal Rule").
"""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

PARENTHESES: Final = r" \([^()]*\)$"
"""The regular expression of what distinguishes articles of one name: "Table (furniture)"."""
_TOKEN: Final = re.compile(r"[^\W_]+(?:['\u2019.&-][^\W_]+)*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\s\"'\u201d\u2019)]+")
_SMALL_WORD: Final = re.compile(
    "a|an|and|as|at|by|de|del|der|di|du|for|from|in|la|of|on|or|the|to|van|von|vs|with|y"
)
_NUMERAL: Final = re.compile(
    "ii|iv|vi|ix|(?=...)(?:xl|lx{1,3}|l(?=v)|x{0,3})(?:ix|iv|v?i{0,3})"
)  # not Li, Xi, Liv
_VOWEL: Final = re.compile("[^b-df-hj-np-tv-xz]")  # or a character that is no English letter
_LONGEST: Final = 6  # words of a title that is searched as a whole


def usual_forms(texts: Iterable[str], titles: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the usual forms of the lower-case `titles` that occur in texts, and of all words: dicts by lower-case form.

    The first word of a sentence is no evidence for a word. Of equally frequent forms the first by code points wins.
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
                        phrases[form.lower()][form if at else _without_initial_capital(form)] += 1
    return _most_frequent(phrases), _most_frequent(words)


def _without_initial_capital(form: str) -> str:
    """Remove the capital that begins a sentence if the words after the first show that the form is not a name."""
    first, _, rest = form.partition(" ")
    return f"{first.lower()} {rest}" if rest.islower() else form


def _most_frequent(forms: Mapping[str, collections.Counter[str]]) -> dict[str, str]:
    return {word: min(counts, key=lambda form: (-counts[form], form)) for word, counts in forms.items()}


def restore(
    title: str, known: Mapping[str, str], phrases: Mapping[str, str], words: Mapping[str, str]
) -> str:
    """Restore the case of a lower-case title from titles that are `known` and from the usual forms of phrases and words."""
    if title in known:
        return known[title]
    if (form := phrases.get(title)) is None:
        form = " ".join(_name_form(word, at, words) for at, word in enumerate(title.split(" ")))
    first = form.partition(" ")[0]
    return form if first != first.lower() else form[:1].upper() + form[1:]


def _name_form(word: str, at: int, words: Mapping[str, str]) -> str:
    """Return the form of a word in a name: that of the text if it has a capital, else with one unless it is small."""
    if at and _SMALL_WORD.fullmatch(word):
        return word
    if (form := words.get(word, word)) != word:
        return form
    first, *more = re.split("([-\u2013])", word)
    # Surnames of two parts have two capitals (Rees-Mogg), the short syllables of Korean given names have one (Hye-ri).
    return _capital(first) + "".join(
        words.get(part, _capital(part) if len(part) > 3 else part) for part in more
    )


def _capital(word: str) -> str:
    """Capitalize a word, and the rest after the prefix of a name (O'Neill, McCartney); NBC and XIV have only capitals."""
    for prefix in ("o'", "d'", "mc"):
        if word.startswith(prefix) and len(word) > len(prefix) + 2:
            return prefix.capitalize() + word[len(prefix)].upper() + word[len(prefix) + 1 :]
    if _NUMERAL.fullmatch(word) or not _VOWEL.search(word):
        return word.upper()
    return word[:1].upper() + word[1:]


def without_parentheses(title: str) -> str:
    """Remove the `PARENTHESES` of a title."""
    return re.sub(PARENTHESES, "", title)
