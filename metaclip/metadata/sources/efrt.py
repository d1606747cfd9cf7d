"""Unpacks the word lists that npm packages of the compromise family carry: a trie as one line of text.

The form is that of the library efrt (MIT): `true¦` and nodes parted by ";", the first of which may be symbols,
`code:reference`. A node is "!" if a word ends there, then pairs of a piece of text and a reference in [0-9A-Z]: to the
node that goes on, by symbol or relative to this one; "," in its place means that the word ends with the piece.

Cost: 38,041 titles in 0.1 s.
"""

from __future__ import annotations

import re
from typing import Final

_SYMBOL: Final = re.compile("([0-9A-Z]+):([0-9A-Z]+)")
_PIECES: Final = re.compile("([^0-9A-Z,]+)([0-9A-Z]+|,|$)")


def unpack(packed: str) -> list[str]:
    """Give the words of a packed trie, sorted by code points. Raise ValueError for text of another form."""
    category, found, trie = packed.partition("¦")
    if not found or category != "true" or "|" in trie:
        raise ValueError(f"begins with {packed[:20]!r}, not with one list of words, 'true¦'")
    nodes = trie.split(";")
    symbols = []
    for node in nodes:
        if not (symbol := _SYMBOL.fullmatch(node)):
            break
        symbols.append(number(symbol[2]))
    nodes = nodes[len(symbols) :]
    words, open_nodes = set[str](), [(0, "")]
    while open_nodes:
        at, before = open_nodes.pop()
        if not 0 <= at < len(nodes):
            raise ValueError(f"refers to node {at} of {len(nodes)}")
        node = nodes[at]
        if node.startswith("!"):
            words.add(before)
            node = node[1:]
        for piece, reference in _PIECES.findall(node):
            if reference in (",", ""):
                words.add(before + piece)
                continue
            code = number(reference)
            target = symbols[code] if code < len(symbols) else at + code + 1 - len(symbols)
            if target <= at:
                raise ValueError(f"node {at} refers back to node {target}")
            open_nodes.append((target, before + piece))
    return sorted(words)


def number(code: str) -> int:
    """Read a reference: 0, 1, ..., 9, A, ..., Z, 00, 01, ..., ZZ, 000, ..."""
    return int(code, 36) + sum(int(36**places) for places in range(1, len(code)))
