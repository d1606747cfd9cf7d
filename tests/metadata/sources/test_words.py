"""Words and pairs of words from counts: cleaned, ranked, without spam."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources import words
from metaclip.metadata.sources.packages import Package
from metaclip.metadata.sources.string_counts import pmi
from metaclip.metadata.sources.words import is_explicit
from metaclip.storage.files import cache_folder


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of archives, empty."""
    monkeypatch.setenv("METACLIP_CACHE", str(tmp_path))
    (tmp_path / "sources").mkdir()
    return tmp_path / "sources"


def shelve(folder: Path, name: str, files: dict[str, str | bytes]) -> Package:
    """Put an archive of these files among the fetched ones."""
    path = folder / f"{name}-1.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return Package("npm", name, "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("dog", "dog"), ("o'brien", "o'brien"), ("covid-19", "covid-19"), ("r&amp;b", "r&b"), ("and/or", "and/or"),
        ("c++", "c++"), ("c#", "c#"), ("café", "café"), ("1970s", "1970s"), ("m*a*s*h", "m*a*s*h"), ("18th-century", "18th-century"),
        ("pe\u030dh", "pe\u030dh"), ("hawai\u02bbi", "hawai\u02bbi"), ("facade", "facade"), ("decade", "decade"), ("100000", "100000"),
        ("", ""), ("'s", ""), ("n't", ""), ("\u2019s", ""), ("lt;br&gt", ""), ("--", ""), ("u.s", ""), ("1,000", ""), ("10:00", ""),
        ('style="text', ""), ("colspan", ""), ("colspan=9", ""), ("formula_1", ""), ("e9e9e9", ""), ("ffffff", ""), ("dcdcdc", ""),
        ("t]he", ""), ("us$1", ""), ("dog'", ""), ("'dog", ""), ("magazine\"s", ""), ("-52", ""), ("i\u0307zmir", ""), ("hawai`i", ""),
    ],
)  # fmt: skip
def test_clean_words(raw: str, clean: str) -> None:
    """Words stay as they are, references are resolved; clitics, markup, colours, signs and dead numbers go."""
    assert words.clean_word(raw) == clean


@pytest.mark.parametrize("packed", [False, True])
def test_unigrams(packed: bool, sources: Path) -> None:
    """Words come by count, then code points; one that is met twice counts as a whole; what goes is counted by reason."""
    lines = "the;900\n'at;50\ncat;70\nr&amp;b;60\nbee;70\nr&b;20\nrare;9\n;800\n"
    made = shelve(sources, "counts", {"list": gzip.compress(lines.encode()) if packed else lines})
    found = words.unigrams(words.WordSettings(made, "list", min_count=10))
    assert found.entries.to_pylist() == ["the", "r&b", "bee", "cat"]
    assert found.scores.to_pylist() == [900.0, 80.0, 70.0, 70.0]
    assert found.facts["rows"] == 8
    assert found.facts["left_out"] == {"count": 1, "no word": 2, "repeated": 1}


def test_bad_counts(sources: Path) -> None:
    """A line without a count is named by file and line; so is broken gzip."""
    made = shelve(
        sources,
        "counts",
        {"list": "the;900\ndog\n", "minus": "dog;-1\n", "gz": gzip.compress(b"a;1\n" * 99)[:-9]},
    )
    with pytest.raises(MetaclipError, match=r"counts@1\.0, list, line 2: 'dog'"):
        words.unigrams(words.WordSettings(made, "list"))
    with pytest.raises(MetaclipError, match="line 1: 'dog;-1'"):
        words.unigrams(words.WordSettings(made, "minus"))
    with pytest.raises(MetaclipError, match="broken gzip"):
        words.unigrams(words.WordSettings(made, "gz"))


# Pairs ----------------------------------------------------------------------------------------------------------------


def pairs(sources: Path, lines: str, **other: int) -> words.PairSettings:
    """Return settings over a small corpus of 1,000,000 words."""
    known = {"hot": 1000, "dog": 2000, "new": 9000, "york": 500, "of": 40000, "porn": 700, "the": 946800}
    files: dict[str, str | bytes] = {
        "pairs": lines,
        "words": "".join(f"{word}\t{count}\n" for word, count in known.items()),
        "spelling": "hot\ndog\nnew\nof\nporn\nthe\n",
    }
    more = shelve(sources, "dictionary", {"names": "\ufeffyork 7\n"})
    return words.PairSettings(
        shelve(sources, "corpus", files), "pairs", "words", "spelling", more, "names", **other
    )


def test_bigrams(sources: Path) -> None:
    """Pairs come by normalised PMI, computed by hand here; a pair that stands there twice is added up."""
    settings = pairs(sources, "new york\t300\nnew york\t100\nhot dog\t200\nof the\t39000\n", min_count=10)
    found = words.bigrams(settings)
    assert found.entries.to_pylist() == ["new york", "hot dog", "of the"]
    expected = [
        math.log2(400 * 1e6 / (9000 * 500)) / -math.log2(400 / 1e6),
        math.log2(200 * 1e6 / (1000 * 2000)) / -math.log2(200 / 1e6),
        math.log2(39000 * 1e6 / (40000 * 946800)) / -math.log2(39000 / 1e6),
    ]
    assert found.scores.to_pylist() == pytest.approx(expected, abs=1e-6)
    assert found.facts["left_out"] == {"repeated": 1}


def test_what_is_no_bigram(sources: Path) -> None:
    """Rare pairs, unknown words, doubled words and spam are left out and counted."""
    lines = "hot dog\t200\nnew dog\t9\ndog dog\t50\n<s> dog\t500\nnew zqx\t90\nhot porn\t60\n"
    found = words.bigrams(pairs(sources, lines, min_count=10))
    assert found.entries.to_pylist() == ["hot dog"]
    assert found.facts["left_out"] == {
        "repeated": 0, "count": 1, "one word twice": 1, "not in a dictionary": 2, "explicit": 1,
    }  # fmt: skip


def test_normalised_pmi() -> None:
    """It is 1 for words that are never apart, 0 for chance, below it for what avoids each other."""
    counts = np.array([[100, 100, 100], [1, 1000, 1000], [1, 9000, 9000]], np.int64)
    never_apart, chance, avoiding = pmi(*counts.T, 10**6)[1].tolist()
    assert never_apart == 1
    assert chance == 0
    assert avoiding < 0


@pytest.mark.parametrize(
    ("pair", "spam"),
    [
        ("hot porn", True), ("zoo sex", True), ("teen pics", True), ("mature women", True), ("lesbian horse", True), ("Porn Hot", True),
        ("hot dog", False), ("same sex", False), ("sex education", False), ("lesbian rights", False), ("gay marriage", False),
        ("teen pregnancy", False), ("naked eye", False), ("asian food", False), ("teenage girl", False), ("pregnant woman", False),
        ("young women", False), ("breast cancer", False), ("art gallery", False),
    ],
)  # fmt: skip
def test_spam(pair: str, spam: bool) -> None:
    """Pornographic pairs are known; words that only say who people are, or what bodies are, leave nothing out."""
    assert is_explicit(pair) == spam


def test_the_cache_is_the_tests_own(sources: Path) -> None:
    """The archives of these tests stand in their own cache."""
    assert cache_folder() / "sources" == sources
