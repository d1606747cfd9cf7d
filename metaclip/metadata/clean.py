"""What an entry must not look like, unless WordNet itself says so: markup, glued quotes, characters that nobody sees.

`fault` is asked twice: by the merge, which leaves such candidates out, and by `metaclip lint`, which points at them. What
can never match is another question, and a text rule's (`metaclip.metadata.lint`).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal

Fault = Literal["markup", "quote", "hidden", "sign", "edge"]

MEANING: Final[dict[str, str]] = {
    "markup": "holds remains of markup",
    "quote": "has a quote glued to a word",
    "hidden": "holds a control or invisible character, or a space other than ' '",
    "sign": "holds no letter and no digit",
    "edge": "begins or ends with a space, or holds two in a row",
}

_APOSTROPHES: Final = "'\u2019\u2032"
"""These may stand inside a word: o'clock."""
_QUOTES: Final = '"`\u00b4\u2018\u201a-\u201f\u2033\u2039\u203a\u00ab\u00bb'
"""As part of a regular expression."""
_MARKUP: Final = re.compile(
    r"[<>{}|\\\[\]]"  # tags, templates, tables, links
    r"|&\#?\w+;|\b(?:lt|gt|amp|nbsp|quot);"  # character references, whole or cut
    r"|\w=|=[\"']|''|https?:|www\."  # attributes, wiki emphasis, addresses
)
_GLUED: Final = re.compile(
    f"(?:^| )[{_APOSTROPHES}]+[^ {_APOSTROPHES}]|[^ {_APOSTROPHES}][{_APOSTROPHES}]+(?: |$)|[^ ][{_QUOTES}]|[{_QUOTES}][^ ]"
)
_HIDDEN: Final = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
_PLAIN: Final = re.compile("[0-9A-Za-z]+(?: [0-9A-Za-z]+)*")


def fault(entry: str) -> Fault | None:
    """Name what is wrong with an entry's looks, None for nothing."""
    if _PLAIN.fullmatch(entry):
        return None
    if any(unicodedata.category(char) in _HIDDEN and char != " " for char in entry):
        return "hidden"
    if entry.strip(" ") != entry or "  " in entry:
        return "edge"
    if _MARKUP.search(entry):
        return "markup"
    if _GLUED.search(entry):
        return "quote"
    return None if any(char.isalnum() for char in entry) else "sign"
