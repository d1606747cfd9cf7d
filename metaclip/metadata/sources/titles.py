"""Wikipedia's titles, and places by population, from packages: a substitute for titles by page views.

Vital articles have their case. Popular articles are in lower case, and `metaclip.metadata.sources.casing` restores their
case. Parentheses at the end are removed, as in "Table (furniture)", since no text has them. Places are countries, states
and cities, largest first; of several places with one name the largest counts.

Cost: vital titles 0.02 s, popular ones 4 s, places 0.6 s.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import casing, packages
from metaclip.metadata.sources.packages import Package

_SYMBOL: Final = re.compile("([0-9A-Z]+):([0-9A-Z]+)")
_PIECES: Final = re.compile("([^0-9A-Z,]+)([0-9A-Z]+|,|$)")


@dataclasses.dataclass(frozen=True)
class VitalSettings:
    """A file of titles with their case."""

    package: Package
    member: str
    """A JSON object whose keys are titles."""


@dataclasses.dataclass(frozen=True)
class PopularSettings:
    """A file of titles in lower case, and running text with the case of their words."""

    package: Package
    member: str
    """JavaScript that exports one string, see `unpack_trie`."""
    text: Package
    """A package with running English text."""
    text_member: str
    """Its file: a JSON object of objects with "title" and "extract"."""


@dataclasses.dataclass(frozen=True)
class PlaceSettings:
    """Files of places."""

    package: Package
    cities: str
    """A JSON object of objects with "name" and "population"."""
    countries: str
    """The same for countries."""
    states: str
    """A JSON object of objects with "name"; states come after the countries."""


def vital(settings: VitalSettings) -> Candidates:
    """Return the titles in the file's order, without scores."""
    found = _read_object(settings.package, settings.member)
    titles = dict.fromkeys(map(casing.without_parentheses, found))
    return _candidates(titles, f"{settings.package}, {settings.member}", len(found))


def popular(settings: PopularSettings) -> Candidates:
    """Return the titles with their case restored, in the order of their lower-case code points, without scores."""
    where = f"{settings.package}, {settings.member}"
    source = packages.read(settings.package, settings.member).decode("utf-8", "replace")
    try:
        titles = unpack_trie(source[source.index("`") + 1 : source.rindex("`")])
    except ValueError as error:
        raise MetaclipError(
            f"{where} is no list packed by efrt ({one_line(error)}); check the recipe's member"
        ) from None
    articles = _read_object(settings.text, settings.text_member).values()
    try:
        known = {str(article["title"]).lower(): str(article["title"]) for article in articles}
        phrases, words = casing.usual_forms((str(article["extract"]) for article in articles), titles)
    except (KeyError, TypeError) as error:
        raise MetaclipError(
            f"{settings.text}, {settings.text_member}: an article without {one_line(error)}"
        ) from None
    restored = dict.fromkeys(casing.restore(title, known, phrases, words) for title in titles)
    return _candidates(restored, where, len(titles))


def places(settings: PlaceSettings) -> Candidates:
    """Return countries, then states, then cities, each by descending population, then by code points.

    The score is the population, null where it is not known, as for states.
    """
    populations: dict[str, float | None] = {}
    rows = 0
    for member in (settings.countries, settings.states, settings.cities):
        found: dict[str, float | None] = {}
        try:
            for place in _read_object(settings.package, member).values():
                rows += 1
                size = float(place["population"]) if "population" in place else None
                name = casing.without_parentheses(place["name"])
                found[name] = max(size or 0.0, found.get(name) or 0.0) or size
        except (KeyError, TypeError, ValueError) as error:
            raise MetaclipError(
                f"{settings.package}, {member}: a place without {one_line(error)}; check the recipe"
            ) from None
        for name in sorted(found, key=lambda name: (-(found[name] or 0.0), name)):
            populations.setdefault(name, found[name])
    return _candidates(populations, f"{settings.package}, {settings.cities}", rows)


def _read_object(package: Package, member: str) -> dict[str, Any]:
    try:
        found = json.loads(packages.read(package, member))
    except (ValueError, RecursionError) as error:
        raise MetaclipError(
            f"{package}, {member} is not valid JSON ({one_line(error)}); check the recipe"
        ) from None
    if not isinstance(found, dict):
        raise MetaclipError(f"{package}, {member} holds a JSON {type(found).__name__}, must be an object")
    return found


def _candidates(scores: Mapping[str, float | None], where: str, rows: int) -> Candidates:
    """Return the keys as candidates, but for an empty one, with their scores; `rows` were read."""
    kept = {entry: score for entry, score in scores.items() if entry}
    return Candidates.of(
        kept, {"read": where, "rows": rows, "left_out": {"repeated": rows - len(kept)}}, kept.values()
    )


def unpack_trie(packed: str) -> list[str]:
    """Return the words of a trie packed by the JavaScript library efrt, sorted by code points.

    The format is ``true¦`` and nodes separated by ";", the first of which may be symbols, ``code:reference``. A node is
    "!" if a word ends there, then pairs of a piece of text and a reference in [0-9A-Z] to the node that continues it, by
    symbol or relative to this node; "," instead of a reference ends the word. Cost: 0.1 s for 38,041 titles. Raise
    ValueError for text of another format.
    """
    category, found, trie = packed.partition("¦")
    if not found or category != "true" or "|" in trie:
        raise ValueError(f"begins with {packed[:20]!r}, not with one list of words, 'true¦'")
    nodes = trie.split(";")
    symbols = []
    while nodes and (symbol := _SYMBOL.fullmatch(nodes[0])):
        symbols.append(trie_reference(symbol[2]))
        del nodes[0]
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
            code = trie_reference(reference)
            target = symbols[code] if code < len(symbols) else at + code + 1 - len(symbols)
            if target <= at:
                raise ValueError(f"node {at} refers back to node {target}")
            open_nodes.append((target, before + piece))
    return sorted(words)


def trie_reference(code: str) -> int:
    """Return the number of a reference: 0, 1, ..., 9, A, ..., Z, 00, 01, ..., ZZ, 000, ... count from 0."""
    return int(code, 36) + sum(int(36**digits) for digits in range(1, len(code)))
