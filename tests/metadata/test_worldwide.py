"""The recipes of many languages: large enough, free of lists under the GPL alone, and what they say they make."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from metaclip import Metadata, lint
from metaclip.matching.matcher import Matcher
from metaclip.matching.text_rule import TextRule
from metaclip.metadata import list_digest
from metaclip.metadata.build_languages import LARGE, SMALL
from metaclip.metadata.build_recipe import BuildRecipe, read
from tests.processes import environment

FOLDER = Path(__file__).parents[2] / "metadata"
RECIPE, WITH_GPL = FOLDER / "worldwide.toml", FOLDER / "worldwide_gpl.toml"


def sizes(recipe: BuildRecipe) -> dict[str, int]:
    """Return the number of entries of each language."""
    return {code: known.entries or 0 for code, known in recipe.languages.items()}


def is_gpl_alone(licence: str) -> bool:
    """Return whether a licence leaves no choice but the GPL or the AGPL."""
    choices = re.split(r" OR |; ", licence)
    return all(re.match(r"A?GPL-", choice) for choice in choices)


def test_the_recipe_is_large() -> None:
    """At least 30 languages have 100,000 entries, and 60 have 10,000; each has its digest, and so has the list."""
    recipe = read(RECIPE)
    assert sum(size >= LARGE for size in sizes(recipe).values()) >= 30
    assert sum(size >= SMALL for size in sizes(recipe).values()) >= 60
    assert recipe.digest
    assert all(known.entries and known.digest for known in recipe.languages.values())


def test_licences() -> None:
    """No source of the recipe is under the GPL alone; those of the other recipe's own are under it, or under the EUPL."""
    default, extended = read(RECIPE), read(WITH_GPL)
    assert not [one for one in default.sources if is_gpl_alone(one.common.licence or "")]
    more = extended.sources[len(default.sources) :]
    assert more
    assert all(is_gpl_alone(one.common.licence or "") or one.common.licence == "EUPL-1.1" for one in more)


def test_the_documented_table() -> None:
    """The README shows the number of entries of each language as the recipe has it."""
    text = (FOLDER / "README.md").read_text()
    for code, size in sizes(read(RECIPE)).items():
        assert re.search(rf"^{code} +{size:,} ", text, re.MULTILINE), code


def test_english_is_the_shipped_list() -> None:
    """English is the shipped list, entry for entry."""
    english = read(RECIPE).languages["en"]
    assert (english.entries, english.digest) == (500_000, read(FOLDER / "english.toml").digest)


TEXTS = {
    "ja": ("東京タワーの写真です", {"写真", "東京", "タワー"}),
    "lv": ("Rīgas pilsētas karte un kaķis", {"pilsētas", "karte", "kaķis", "un"}),
    "th": ("ภาพถ่ายของแมวในกรุงเทพมหานคร", {"แมว", "กรุงเทพมหานคร", "ภาพถ่าย"}),
}


@pytest.mark.network
@pytest.mark.slow
def test_three_languages(tmp_path: Path) -> None:
    """The recipe makes the lists of three languages again, in a fresh process; they are clean, and match texts."""
    pytest.importorskip("icu4py", reason="needs metaclip[worldwide]")
    out = tmp_path / "three.parquet"
    command = ["build", str(RECIPE), "--languages", ",".join(TEXTS), "--out", str(out)]
    subprocess.run(
        [sys.executable, "-m", "metaclip", *command],
        env=environment(PYTHONHASHSEED="3"),
        check=True,
    )
    made, recipe = Metadata.read(out), read(RECIPE)
    assert set(made.languages) == set(TEXTS)
    matcher = Matcher(made, TextRule(unspaced_scripts="fixed"))
    for language, (text, expected) in TEXTS.items():
        of_language = made.of_language(language)
        assert list_digest(of_language.entries) == recipe.languages[language].digest
        assert of_language.entries[:100].to_pylist() == [str(number) for number in range(100)]
        found = {made[row] for row in matcher.match([text], languages=[language])[0].as_py()}
        assert expected <= found
        kinds = set(lint(of_language)["kind"].to_pylist())
        assert kinds <= {"case", "one character", "long"}
