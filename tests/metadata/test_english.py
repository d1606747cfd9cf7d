"""The shipped list: composed as the published one, clean, and what its recipe makes again."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from metaclip import Metadata
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import build, lint, list_digest, shipped_list
from metaclip.metadata.sources.words import is_explicit
from tests.processes import environment

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "metadata" / "english.toml"


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Read the shipped list, as a table."""
    return pq.read_table(shipped_list())


@pytest.fixture(scope="module")
def entries(table: pa.Table) -> dict[str, list[str]]:
    """Return the entries of each source."""
    found: dict[str, list[str]] = {}
    for entry, source in zip(table["entry"].to_pylist(), table["source"].to_pylist(), strict=True):
        found.setdefault(source, []).append(entry)
    return found


def test_it_is_the_checkouts() -> None:
    """In a checkout the shipped list is the file in metadata/."""
    assert shipped_list() == ROOT / "metadata" / "english.parquet"


def test_composition(table: pa.Table, entries: dict[str, list[str]]) -> None:
    """500,000 unique entries in the paper's order and numbers; titles and places share the row of titles."""
    assert table.num_rows == len(set(table["entry"].to_pylist())) == 500_000
    assert {source: len(of_source) for source, of_source in entries.items()} == {
        "number": 100, "wordnet": 86_554, "unigram": 251_465, "bigram": 100_646, "title": 42_419, "place": 18_816,
    }  # fmt: skip
    assert list(entries) == ["number", "wordnet", "unigram", "bigram", "title", "place"]
    assert entries["number"] == [str(number) for number in range(100)]
    assert shipped_list().stat().st_size < 5 << 20


def test_the_recipe_says_so(table: pa.Table) -> None:
    """The recipe has the file's digest, and the number that each source gave."""
    recipe = build.read(RECIPE)
    assert recipe.total == 500_000
    assert recipe.digest == list_digest(table["entry"]) == Metadata.read(shipped_list()).digest
    counts: Counter[str] = Counter()
    for source in recipe.sources:
        assert source.common.gives is not None
        counts[source.common.source] += source.common.gives
    assert counts == Counter(table["source"].to_pylist())


def test_scores_and_ranks(table: pa.Table) -> None:
    """Within a kind of source ranks ascend from 1; words have counts that descend, pairs scores that do."""
    for source in ("unigram", "bigram"):
        of_source = table.filter(pc.equal(table["source"], source))
        scores, ranks = of_source["score"].to_pylist(), of_source["rank"].to_pylist()
        assert scores == sorted(scores, reverse=True)
        assert ranks == sorted(ranks)
    assert table["score"].slice(0, 86_654).null_count == 86_654
    assert pc.min(table["rank"]).as_py() == 1


def test_everything_can_match(table: pa.Table) -> None:
    """No entry is dead under the paper's rule."""
    assert [entry for entry in table["entry"].to_pylist() if not lint.alive(entry, PAPER)] == []


def test_it_is_clean(entries: dict[str, list[str]]) -> None:
    """Outside WordNet's own rows: no markup, no glued quotes, nothing hidden, no stray spaces, no spam."""
    metadata = Metadata(
        [entry for source, rows in entries.items() if source != "wordnet" for entry in rows]
    )
    wrong = [
        one for one in lint.findings(metadata, PAPER, {}) if one.kind not in ("case", "one character")
    ]
    assert wrong == []
    signs = {char for entry in metadata.entries.to_pylist() for char in entry if not char.isalnum()}
    assert not signs & set('<>[]{}|\\=_"`~@^;')
    assert not [pair for pair in entries["bigram"] if is_explicit(pair)]
    assert all(len(pair.split(" ")) == 2 for pair in entries["bigram"])
    assert not {"hot sex", "xxx porn", "free porn", "teen pics"} & set(entries["bigram"])


def test_case(entries: dict[str, list[str]]) -> None:
    """Words and pairs are lower-case; titles and places have their capitals."""
    for source in ("wordnet", "unigram", "bigram"):
        assert all(entry == entry.lower() for entry in entries[source])
    titles, places = set(entries["title"]), set(entries["place"])
    assert {"Taj Mahal", "Eiffel Tower", "Houston Rockets", "Star Wars", "NASA"} <= titles
    assert {"United States", "Texas", "Austin", "Baden-Baden"} <= titles | places
    assert sum(title != title.lower() for title in titles) > 0.99 * len(titles)


def test_it_matches_real_texts(data_folder: Path, table: pa.Table) -> None:
    """At least 62% of real alt texts match under the paper's rule, 95% with case folding: by entries of one word alone."""
    texts = pq.read_table(data_folder / "alt_text_10k.parquet")["TEXT"].to_pylist()
    entries = [entry for entry in table["entry"].to_pylist() if " " not in entry]
    for rule, least in ((PAPER, 0.62), (TextRule(fold_case=True), 0.95)):
        padded = {rule.entry(entry) for entry in entries}
        matched = [
            any(f" {word} " in padded for word in rule.text(text)[1:-1].split(" ")) for text in texts
        ]
        assert sum(matched) / len(texts) >= least, rule


@pytest.mark.network
@pytest.mark.slow
def test_the_recipe_makes_it_again(tmp_path: Path) -> None:
    """In fresh processes with two hash seeds and an empty cache the recipe makes this file, byte for byte."""
    for seed in ("3", "4"):
        changed = {"PYTHONHASHSEED": seed, "METACLIP_CACHE": str(tmp_path / "cache")}
        out = tmp_path / f"{seed}.parquet"
        subprocess.run(
            [sys.executable, "-m", "metaclip", "build", str(RECIPE), "--out", str(out)],
            env=environment(**changed), check=True,
        )  # fmt: skip
        made = Metadata.read(out)
        assert made.digest == build.read(RECIPE).digest
        assert pq.read_table(out).equals(pq.read_table(shipped_list()))
        # Another version of pyarrow writes other bytes for the same table.
        if pq.read_metadata(out).created_by == pq.read_metadata(shipped_list()).created_by:
            assert (
                hashlib.sha256(out.read_bytes()).digest()
                == hashlib.sha256(shipped_list().read_bytes()).digest()
            )
