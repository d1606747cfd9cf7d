"""Words and pairs of a dump as candidates: counts, PMI and NPMI by their formulas, order, thresholds, limits."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip import recipe
from metaclip.engine.local import Local
from metaclip.errors import MetaclipError
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import dump_count, ngrams, string_counts
from metaclip.metadata.sources.ngrams import NgramSettings
from tests import dumps
from tests.dumps import Made

pytest.importorskip("mwxml", reason="needs metaclip[build]")
pytest.importorskip("mwparserfromhell", reason="needs metaclip[build]")

TEXT = """
the hot dog, the hot dog, a hot day, the dog, the day.
New York, New York, New York, York.
of the of the of the of the of the of the
hapax legomenon
"""


def rows(found: Candidates) -> list[tuple[str, float]]:
    return list(zip(found.entries.to_pylist(), found.scores.to_pylist(), strict=True))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> NgramSettings:
    """Settings of a small dump's finished count."""
    folder = tmp_path_factory.mktemp("ngrams")
    path = dumps.write(folder / "d.xml.bz2", [Made("A", TEXT), Made("B", "hot dog")])
    dump_count.count(str(path), "enwiki", folder / "c", engine=Local(1))
    return NgramSettings(counts=str(folder / "c"), min_count=1)


def test_words_by_count(settings: NgramSettings) -> None:
    """Words by count, ties by the lesser word, of the minimum count; the facts say of what."""
    found = ngrams.candidates(dataclasses.replace(settings, min_count=3), "unigram")
    assert rows(found) == [
        ("the", 10.0),
        ("of", 6.0),
        ("dog", 4.0),
        ("hot", 4.0),
        ("york", 4.0),
        ("new", 3.0),
    ]
    assert found.facts["tokens"] == 10 + 6 + 4 + 4 + 4 + 3 + 2 + 1 + 1 + 1
    assert found.facts["passed"] == 6
    assert found.facts["unigrams"] == 10
    assert found.facts["left_out"] == {"below the thresholds": 4}
    assert found.facts["pages"]["article"] == 2
    assert found.facts["dump"][0]["name"] == "d.xml.bz2"
    assert found.facts["licence"]


def test_pairs_by_each_measure(settings: NgramSettings) -> None:
    """Pairs by count, PMI and NPMI: each score is its formula of the counts."""
    total, of = (
        36,
        {"new": 3, "york": 4, "hot": 4, "dog": 4, "of": 6, "the": 10, "hapax": 1, "legomenon": 1},
    )
    together = {"of the": 6, "the of": 5, "hot dog": 3, "new york": 3, "the hot": 2, "hapax legomenon": 1}

    def pmi(pair: str) -> float:
        a, b = pair.split()
        return math.log2(together[pair] * total / (of[a] * of[b]))

    by_count = rows(ngrams.candidates(dataclasses.replace(settings, rank="count"), "bigram"))
    assert by_count[:5] == [
        ("of the", 6.0),
        ("the of", 5.0),
        ("hot dog", 3.0),
        ("new york", 3.0),
        ("the hot", 2.0),
    ]
    assert "dog the" not in dict(by_count)  # a comma stands between
    by_pmi = rows(ngrams.candidates(dataclasses.replace(settings, rank="pmi"), "bigram"))
    by_npmi = rows(ngrams.candidates(settings, "bigram"))
    assert by_pmi[0] == ("hapax legomenon", round(pmi("hapax legomenon"), 6))
    assert by_npmi[0] == ("hapax legomenon", 1.0)
    for pair, count in together.items():
        assert dict(by_pmi)[pair] == pytest.approx(pmi(pair), abs=1e-6)
        assert dict(by_npmi)[pair] == pytest.approx(pmi(pair) / -math.log2(count / total), abs=1e-6)
    for found in (by_count, by_pmi, by_npmi):
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
        assert len(found) == len(by_count)


def test_thresholds_and_limits(settings: NgramSettings) -> None:
    """Minimum count, PMI and NPMI each leave out what is below; a limit keeps the best and tells how many passed."""
    all_of_them = rows(ngrams.candidates(dataclasses.replace(settings, rank="pmi"), "bigram"))
    for least in (2.0, 3.17, 5.0):
        found = ngrams.candidates(dataclasses.replace(settings, rank="pmi", min_pmi=least), "bigram")
        assert rows(found) == [row for row in all_of_them if row[1] >= least]
    found = ngrams.candidates(dataclasses.replace(settings, min_npmi=0.6, min_count=2), "bigram")
    assert {entry for entry, _ in rows(found)} == {"new york", "hot dog", "of the"}
    found = ngrams.candidates(dataclasses.replace(settings, rank="pmi", limit=2), "bigram")
    assert rows(found) == all_of_them[:2]
    assert found.facts["passed"] == len(all_of_them)


def test_pairs_are_looked_up_in_batches(settings: NgramSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pairs are looked up at a time, the result is the same."""
    whole = ngrams.candidates(settings, "bigram")
    monkeypatch.setattr(ngrams, "_PAIRS", 3)
    assert rows(ngrams.candidates(settings, "bigram")) == rows(whole)


@given(
    st.lists(st.tuples(st.integers(1, 10**7), st.integers(0, 10**8), st.integers(0, 10**8)), min_size=1),
    st.integers(1, 4 * 10**9),
)
def test_the_formulas(counts: list[tuple[int, int, int]], more: int) -> None:
    """PMI and NPMI are their formulas; NPMI is from -1 to 1, and 1 where the words never stand apart."""
    c12 = np.array([c for c, _, _ in counts])
    c1, c2 = c12 + np.array([d for _, d, _ in counts]), c12 + np.array([d for _, _, d in counts])
    tokens = int(max((c1 + c2).max(), more))
    information, normalised = ngrams.pmi(c12, c1, c2, tokens)
    for i in range(len(counts)):
        exact = math.log2(int(c12[i]) * tokens) - math.log2(int(c1[i]) * int(c2[i]))
        assert information[i] == pytest.approx(exact, abs=1e-6)
        assert -1 - 1e-6 <= normalised[i] <= 1
        assert information[i] == round(float(information[i]), 6)
        if c12[i] == c1[i] == c2[i]:
            assert normalised[i] == 1
    assert ngrams.pmi(np.array([5]), np.array([5]), np.array([5]), 5)[1].tolist() == [1.0]


def test_the_papers_rule_on_a_large_count(tmp_path: Path) -> None:
    """PMI >= 30 needs 2^30 words: with so many, a pair of hapaxes passes, and none that is met twice by words met twice."""
    folder = tmp_path / "c"
    table = {"a": 1, "b": 1, "c": 2, "d": 2, "the": (1 << 30) - 6}
    write_counts(folder, table, {"a b": 1, "c d": 2, "the a": 1})
    found = ngrams.candidates(
        NgramSettings(counts=str(folder), rank="pmi", min_pmi=30, min_count=1), "bigram"
    )
    assert rows(found) == [("a b", 30.0)]
    with pytest.raises(
        MetaclipError,
        match=r"none of the 3 bigrams of .* passes min_count = 1, min_pmi = 31 \(1,073,741,824 words",
    ):
        ngrams.candidates(
            NgramSettings(counts=str(folder), rank="pmi", min_pmi=31, min_count=1), "bigram"
        )


def write_counts(folder: Path, words: dict[str, int], pairs: dict[str, int]) -> None:
    """Write a finished count by hand."""
    import pyarrow as pa

    from metaclip.stage.folder import Folder
    from metaclip.stage.stage import Stage

    run = Folder(folder)
    with run.owned():
        stage = Stage(run, dump_count.DUMP)
        stage.begin({})
        for name, counts in (
            (dump_count.UNIGRAMS, words),
            (dump_count.BIGRAMS, pairs),
            (dump_count.REDIRECTS, {}),
        ):
            columns = [pa.array(sorted(counts), pa.string()), [counts[key] for key in sorted(counts)]]
            string_counts.write_counts(folder / name, [pa.table(columns, string_counts.SCHEMA)])
        record = {key: "x" for key in ("wiki", "language", "schema", "parser", "dump", "funnel")}
        stage.finish(
            {**record, "tokens": sum(words.values()), "unigrams": len(words), "bigrams": len(pairs)}
        )


def test_from_the_dump_itself(tmp_path: Path) -> None:
    """Named a dump, candidates counts it; named no dump, it takes what is counted."""
    path = dumps.write(tmp_path / "d.xml.bz2", [Made("A", TEXT)])
    given = NgramSettings(dump=str(path), counts=str(tmp_path / "c"), min_count=2)
    first = ngrams.candidates(given, "unigram", engine=Local(1))
    path.unlink()
    assert rows(ngrams.candidates(dataclasses.replace(given, dump=None), "unigram")) == rows(first)
    with pytest.raises(MetaclipError, match="holds no finished count of a dump"):
        ngrams.candidates(NgramSettings(counts=str(tmp_path / "other")), "unigram")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"min_count": 0}, "min_count is 0, must be at least 1"),
        ({"limit": 0}, "limit is 0, must be at least 1"),
        ({"min_npmi": 1.5}, "min_npmi is 1.5, must be from -1 to 1"),
        ({"rank": "mi"}, "'mi', must be one of 'count', 'pmi', 'npmi'"),
        ({"url": "https://x"}, "url needs dump"),
        (
            {"url": "https://x", "dump": "a*.bz2"},
            "dump is the pattern 'a\\*.bz2', with url it must be the folder",
        ),
        ({"min_cout": 3}, "did you mean 'min_count'"),
    ],
)
def test_settings_are_checked(table: dict[str, object], message: str) -> None:
    """A recipe's table with a mistake is one clear line."""
    with pytest.raises(MetaclipError, match=message):
        recipe.settings(NgramSettings, table, "x.toml, [bigram]")


def test_words_have_no_pmi(settings: NgramSettings) -> None:
    """A threshold that no word has is refused."""
    with pytest.raises(MetaclipError, match="a single word has none"):
        ngrams.candidates(dataclasses.replace(settings, min_pmi=3.0), "unigram")
