"""Wikipedia's titles, and places by population, from packages: what stands in for titles by views.

Vital articles keep their case. Popular articles come lower-cased and get it back (`metaclip.metadata.sources.casing`). Tails in
brackets go, as in "Table (furniture)": no text has them. Places are countries, states and cities, largest first; of several
with one name the largest counts.

Cost: vital titles 0.02 s, popular ones 4 s, places 0.6 s.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import casing, efrt, packages
from metaclip.metadata.sources.packages import Package


@dataclasses.dataclass(frozen=True)
class VitalSettings:
    """A file of titles with their case."""

    package: Package
    member: str
    """A JSON object whose keys are titles."""


@dataclasses.dataclass(frozen=True)
class PopularSettings:
    """A file of titles without case, and text that shows it."""

    package: Package
    member: str
    """JavaScript that exports one string, packed by efrt."""
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
    """Likewise."""
    states: str
    """A JSON object of objects with "name"; they come behind the countries."""


def vital(settings: VitalSettings) -> Candidates:
    """Give the titles in the file's order, without scores."""
    found = _object(settings.package, settings.member)
    titles = dict.fromkeys(casing.without_tail(title) for title in found)
    return _candidates(titles, None, f"{settings.package}, {settings.member}", len(found))


def popular(settings: PopularSettings) -> Candidates:
    """Give the titles with their case restored, in the order of their lower-cased code points, without scores."""
    where = f"{settings.package}, {settings.member}"
    source = packages.read(settings.package, settings.member).decode("utf-8", "replace")
    try:
        titles = efrt.unpack(source[source.index("`") + 1 : source.rindex("`")])
    except ValueError as error:
        raise MetaclipError(
            f"{where} is no list packed by efrt ({one_line(error)}); check the recipe's member"
        ) from None
    articles = _object(settings.text, settings.text_member).values()
    try:
        known = {str(article["title"]).lower(): str(article["title"]) for article in articles}
        phrases, words = casing.evidence((str(article["extract"]) for article in articles), titles)
    except (KeyError, TypeError) as error:
        raise MetaclipError(f"{settings.text}, {settings.text_member}: an article without {one_line(error)}") from None
    restored = dict.fromkeys(casing.restore(title, known, phrases, words) for title in titles)
    return _candidates(restored, None, where, len(titles))


def places(settings: PlaceSettings) -> Candidates:
    """Give countries, then states, then cities, each largest population first, then by code points.

    The score is the population, null where none is known, as of states.
    """
    people: dict[str, float | None] = {}
    rows = 0
    for member in (settings.countries, settings.states, settings.cities):
        found: dict[str, float | None] = {}
        try:
            for place in _object(settings.package, member).values():
                rows += 1
                size = float(place["population"]) if "population" in place else None
                name = casing.without_tail(place["name"])
                found[name] = max(size or 0.0, found.get(name) or 0.0) or size
        except (KeyError, TypeError, ValueError) as error:
            raise MetaclipError(
                f"{settings.package}, {member}: a place without {one_line(error)}; check the recipe"
            ) from None
        for name in sorted(found, key=lambda name: (-(found[name] or 0.0), name)):
            people.setdefault(name, found[name])
    return _candidates(people, list(people.values()), f"{settings.package}, {settings.cities}", rows)


def _object(package: Package, member: str) -> dict[str, Any]:
    try:
        found = json.loads(packages.read(package, member))
    except (ValueError, RecursionError) as error:
        raise MetaclipError(f"{package}, {member} is not valid JSON ({one_line(error)}); check the recipe") from None
    if not isinstance(found, dict):
        raise MetaclipError(f"{package}, {member} holds a JSON {type(found).__name__}, must be an object")
    return found


def _candidates(entries: Iterable[str], scores: list[float | None] | None, where: str, rows: int) -> Candidates:
    array = pa.array([entry for entry in entries if entry], pa.string())
    column = pa.nulls(len(array), pa.float64()) if scores is None else pa.array(scores, pa.float64())
    facts = {"read": where, "rows": rows, "left_out": {"repeated": rows - len(array)}}
    return Candidates(array, column, facts)
