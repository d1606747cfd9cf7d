"""CLDR's names: those that a locale translates, by language, with their words and pairs of words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources.cldr import NameSettings, candidates
from tests.metadata.sources.conftest import Shelve


def annotations(**names: dict[str, list[str]]) -> str:
    return json.dumps({"annotations": {"identity": {"language": "x"}, "annotations": names}})


def display(locale: str, **tables: Any) -> str:
    return json.dumps(
        {"main": {locale: {"identity": {"language": locale}, "localeDisplayNames": tables}}}
    )


def test_names(shelve: Shelve) -> None:
    """Keywords by the number of characters that have them, names of countries, then words, then pairs; each once."""
    files = {
        "package/annotations/de/annotations.json": annotations(
            a={"default": ["Gesicht", "Rotes Haus am See"], "tts": ["Gesicht"]}, b={"default": ["Haus"]}
        ),
        "package/main/de/territories.json": display(
            "de", territories={"ZZ": "ZZ", "FR": "Frankreich (Republik)"}
        ),
        "package/main/de-AT/languages.json": display(
            "de-AT", languages={"de": "Haus"}, keys={"k": "Kalender"}
        ),
        "package/main/root.json": "no JSON",
    }
    found = candidates(NameSettings((shelve("c", files),)), ["de", "fr"])
    assert list(found) == ["de"]
    rows = list(zip(found["de"].entries.to_pylist(), found["de"].scores.to_pylist(), strict=True))
    assert rows == [
        ("Gesicht", 2.0), ("Haus", 2.0), ("Frankreich", 1.0), ("Rotes Haus am See", 1.0),
        ("Rotes", 1.0), ("See", 1.0), ("am", 1.0),
        ("Haus am", 1.0), ("Rotes Haus", 1.0), ("am See", 1.0),
    ]  # fmt: skip


def test_locales(shelve: Shelve) -> None:
    """Locales count for the language of their first part; Norwegian and Filipino have another code in lists."""
    files = {
        f"package/main/{locale}/scripts.json": display(locale, scripts={"Xxxx": f"name {locale[-1]}"})
        for locale in ("sr", "sr-Latn", "nb", "fil", "de")
    }
    found = candidates(NameSettings((shelve("c", files),)), ["sr", "no", "tl"])
    assert sorted(found) == ["no", "sr", "tl"]
    assert found["sr"].entries[:2].to_pylist() == ["name n", "name r"]


@pytest.mark.extra
def test_pairs_without_blanks(shelve: Shelve) -> None:
    """In scripts without blanks ICU finds the words of names, and pairs have none."""
    pytest.importorskip("icu4py", reason="needs metaclip[worldwide]")
    files = {"package/annotations/ja/annotations.json": annotations(a={"default": ["東京都の写真"]})}
    found = candidates(NameSettings((shelve("c", files),)), ["ja"])["ja"]
    assert found.entries.to_pylist() == [
        "東京都の写真",
        "の",
        "写真",
        "東京",
        "都",
        "の写真",
        "東京都",
        "都の",
    ]


def test_pairs_of_shan(shelve: Shelve) -> None:
    """ICU knows no Shan: words and pairs are what stands between blanks."""
    files = {"package/annotations/shn/annotations.json": annotations(a={"default": ["ၼႃႈ ၽႃ လမ်"]})}
    found = candidates(NameSettings((shelve("c", files),)), ["shn"])["shn"]
    assert found.entries.to_pylist() == ["ၼႃႈ ၽႃ လမ်", "လမ်", "ၼႃႈ", "ၽႃ", "ၼႃႈ ၽႃ", "ၽႃ လမ်"]


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_no_names(shelve: Shelve, text: str) -> None:
    """A file that is no JSON object is an error that names it."""
    package = shelve("c", {"package/main/de/territories.json": text})
    with pytest.raises(
        MetaclipError, match=r"c@1\.0, package/main/de/territories\.json is not valid JSON"
    ):
        candidates(NameSettings((package,)), ["de"])
