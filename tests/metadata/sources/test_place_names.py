"""Names of places: given to languages by their script and the languages of their countries, largest place first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources.place_names import PlaceNameSettings, candidates, script_of
from tests.metadata.sources.conftest import Shelve

PLACES = {
    "1": {"name": "Moskva", "countrycode": "RU", "population": 9, "alternatenames": ["Москва", "มอสโก", "MOW", "モスクワ"]},
    "2": {"name": "Sofia", "countrycode": "BG", "population": 5, "alternatenames": ["София", "Soфia", ""]},
    "3": {"name": "Bern", "countrycode": "CH", "population": 3, "alternatenames": ["Berne", "Берн"]},
    "4": {"name": "Biel (Bienne)", "countrycode": "CH", "population": 4, "alternatenames": []},
    "5": {"name": "Neustadt", "countrycode": "DE", "population": 1},
    "6": {"name": "Neustadt", "countrycode": "AT", "population": 4},
}  # fmt: skip
SCRIPTS = {
    "bg": ["Cyrl"], "ru": ["Cyrl"], "tt": ["Cyrl"], "de": ["Latn"], "fr": ["Latn"], "gsw": ["Latn"], "th": ["Thai"],
    "nod": ["Thai"], "ja": ["Jpan"], "th-alt-secondary": ["Latn"],
}  # fmt: skip
COUNTRIES = {
    "RU": {"ru": ("official", 94), "tt": ("official_regional", 3)},
    "BG": {"bg": ("official", 67), "ru": (None, 19)},
    "CH": {"de": ("official", 76), "fr": ("official", 39), "gsw": (None, 66)},
    "DE": {"de": ("official", 91)},
    "AT": {"de": ("official", 97)},
    "TH": {"th": ("official", 80), "nod": (None, 10)},
    "JP": {"ja": ("official", 95)},
}


def settings(shelve: Shelve, places: Any = PLACES) -> PlaceNameSettings:
    shares = {
        country: {
            "languagePopulation": {
                code: {
                    "_populationPercent": str(share),
                    **({"_officialStatus": status} if status else {}),
                }
                for code, (status, share) in languages.items()
            }
        }
        for country, languages in COUNTRIES.items()
    }
    tables = {
        "languageData": {code: {"_scripts": found} for code, found in SCRIPTS.items()},
        "territoryInfo": shares,
    }
    cldr = {
        f"package/supplemental/{name}.json": json.dumps({"supplemental": {name: table}})
        for name, table in tables.items()
    }
    package = shelve("g", {"cities.json": json.dumps(places)})
    return PlaceNameSettings(package, "cities.json", shelve("cldr-core", cldr))


def test_names(shelve: Shelve) -> None:
    """A script of one language is enough; others need the country too, Latin names also the place's main name."""
    found = candidates(settings(shelve), ["bg", "ru", "tt", "de", "fr", "gsw", "th", "nod", "ja"])
    assert {language: one.entries.to_pylist() for language, one in sorted(found.items())} == {
        "bg": ["София"],
        "de": ["Biel", "Neustadt", "Bern"],
        "fr": ["Biel", "Bern"],
        "gsw": ["Biel", "Bern"],
        "ja": ["モスクワ"],
        "ru": ["Москва"],
        "th": ["มอสโก"],
    }
    assert found["de"].scores.to_pylist() == [4.0, 4.0, 3.0]


def test_some_languages(shelve: Shelve) -> None:
    """Languages that are not asked for are left out, and change nothing for the others."""
    assert list(candidates(settings(shelve), ["th", "xx"])) == ["th"]


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("Zürich 2", "Latn"),
        ("東京", "Hani"),
        ("さいたま市", "Kana"),
        ("서울", "Hang"),
        ("Москва (Moscow)", None),
        ("123", None),
        ("", None),
    ],
)
def test_scripts(name: str, script: str | None) -> None:
    """The script of a name is that of all its letters; kana and kanji are one."""
    assert script_of(name) == script


@pytest.mark.parametrize("places", [[], {"1": {"name": "x"}}, {"1": {"name": 3, "countrycode": "DE"}}])
def test_no_places(shelve: Shelve, places: Any) -> None:
    """A file of another form is an error that names it."""
    with pytest.raises(MetaclipError, match=r"g@1\.0, cities\.json holds no places"):
        candidates(settings(shelve, places), ["de"])
