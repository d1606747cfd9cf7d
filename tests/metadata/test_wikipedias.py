"""Lists of several Wikipedias, from small dumps of Japanese, Thai and Chinese and their page views."""

from __future__ import annotations

import gzip
import itertools
import math
import re
from collections import Counter
from pathlib import Path

import pytest

from metaclip import Metadata, build
from metaclip.engine.local import Local
from metaclip.errors import MetaclipError
from metaclip.matching.matcher import Matcher
from metaclip.matching.text_rule import TextRule
from metaclip.metadata.sources import dump_count, ngrams
from metaclip.metadata.sources.ngrams import NgramSettings
from metaclip.metadata.sources.pageviews import PageviewSettings
from metaclip.metadata.sources.segmentation import segmenter
from metaclip.stage.runner import RunOptions
from tests import dumps
from tests.dumps import Made

pytest.importorskip("mwxml", reason="needs metaclip[build]")
pytest.importorskip("mwparserfromhell", reason="needs metaclip[build]")
pytest.importorskip("icu4py", reason="needs metaclip[worldwide]")

pytestmark = pytest.mark.extra

RECIPE = Path(__file__).parents[2] / "metadata" / "worldwide_wikipedia.toml"
TEXTS = {
    "ja": ["'''東京都'''は[[日本]]の首都。東京都の写真はカメラで撮る。", "富士山は日本の山。東京都。"],
    "th": ["'''แมว'''กินปลา แมวกินข้าว", "หมากินปลาและแมว"],
    "zh": ["'''北京'''是中国的首都。我爱北京。", "NHK 电视台在中国。北京是城市。"],
}
WORDS = {
    "ja": {"東京": 3, "都": 3, "日本": 2, "の": 3, "カメラ": 1},
    "th": {"แมว": 3, "กิน": 3, "ปลา": 2, "หมา": 1},
    "zh": {"北京": 3, "中国": 2, "NHK": 1},
}
VIEWS = "ja 東京都 60 0\nja 姫路城 5 0\nja 特別:検索 900 0\nth แมว 9 0\nzh 北京 3 0\nzh NHK_电视台 2 0\nen Dog 80 0\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write dumps and page views."""
    folder = tmp_path_factory.mktemp("wikipedias")
    for language, texts in TEXTS.items():
        dumps.write(
            folder / f"{language}wiki-20240101-pages-articles-multistream.xml.bz2",
            [Made(f"{number}", text) for number, text in enumerate(texts)],
            streams_of=1,
            beginning=dumps.head(f"{language}wiki", language),
        )
    (folder / "pageviews").mkdir()
    with gzip.open(folder / "pageviews" / "pageviews-20230101-000000.gz", "wt", encoding="utf-8") as file:
        file.write(VIEWS)
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Metadata:
    """Build the recipe's list of the three languages, without the shares that small dumps would not reach."""
    text = RECIPE.read_text()
    for pattern, other in (
        (r"(?m)^share = .*", "share = 1.0"),
        (r"(?m)^(first|last|days|url) = .*\n", ""),
        (r'(?m)^(dump|counts|files) = "', rf'\g<1> = "{folder}/'),
        (r'kind = "numbers"', 'kind = "numbers"\nlast = 1'),
    ):
        text, found = re.subn(pattern, other, text)
        assert found, pattern
    (folder / "r.toml").write_text(text)
    out = folder / "list.parquet"
    build(folder / "r.toml", out=out, languages=list(TEXTS), options=RunOptions(engine=Local(1)))
    return Metadata.read(out)


def entries(made: Metadata, language: str, source: str) -> dict[str, float]:
    """Return the entries of a language that are of a source, with their scores."""
    found = made.of_language(language)
    columns = (found.entries, found.source, found.score)
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return {entry: score for entry, named, score in rows if named == source}


@pytest.mark.parametrize("language", TEXTS)
def test_words(made: Metadata, language: str) -> None:
    """The words that ICU finds are entries, in their case, with their counts."""
    words = entries(made, language, "unigram")
    assert {word: words.get(word) for word in WORDS[language]} == WORDS[language]


@pytest.mark.parametrize("language", TEXTS)
def test_pairs(made: Metadata, language: str) -> None:
    """Pairs are neighbours in the texts by PMI, as a naive count has them, joined without a blank."""
    texts = (re.sub(r"'{3}|\[\[|\]\]", "", text) for text in TEXTS[language])
    phrases = list(itertools.chain.from_iterable(map(segmenter(language), texts)))
    words = Counter(itertools.chain.from_iterable(phrases))
    pairs = Counter(itertools.chain.from_iterable(map(itertools.pairwise, phrases)))
    expected: dict[str, float] = {}
    for (first, second), count in pairs.items():
        pmi = round(math.log2(count * words.total() / (words[first] * words[second])), 6)
        expected[first + second] = max(pmi, expected.get(first + second, -math.inf))
    already = {*entries(made, language, "number"), *entries(made, language, "unigram")}
    found = entries(made, language, "bigram")
    assert found == {entry: score for entry, score in expected.items() if entry not in already}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_titles(made: Metadata) -> None:
    """Titles are by views of the language's own wiki; those that are entries already are left out."""
    assert entries(made, "ja", "title") == {"姫路城": 5.0}
    assert entries(made, "zh", "title") == {"NHK 电视台": 2.0}
    assert entries(made, "th", "title") == {}  # แมว is a word already


def test_it_matches_running_text(made: Metadata) -> None:
    """Under the fixed table of scripts the entries of a language are found inside its sentences."""
    matcher = Matcher(made, TextRule(unspaced_scripts="fixed"))
    texts = ["これは東京都のカメラです", "เขารักแมวกินปลา", "他在北京看电视台"]
    matches = matcher.match(texts, languages=["ja", "th", "zh"]).to_pylist()
    found = [{made[row] for row in of_text} for of_text in matches]
    assert {"東京", "東京都", "カメラ"} <= found[0]
    assert {"แมว", "แมวกิน", "กินปลา", "ปลา"} <= found[1]
    assert {"北京"} <= found[2]


def test_words_of_a_language_are_another_count(made: Metadata, folder: Path) -> None:
    """A folder with counts of one way to find words refuses to be used for another."""
    dump = str(folder / "thwiki-20240101-pages-articles-multistream.xml.bz2")
    with pytest.raises(MetaclipError, match=r"words.* name another folder with the key counts"):
        dump_count.count(dump, "thwiki", folder / "wikipedia-counts" / "th", engine=Local(1))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_share(made: Metadata, folder: Path, share: float) -> None:
    """A share bounds the candidates by the number of all words."""
    settings = NgramSettings(counts=str(folder / "wikipedia-counts" / "ja"), min_count=1, share=share)
    found = ngrams.candidates(settings, "unigram", language="ja")
    assert len(found.entries) == int(share * found.facts["unigrams"])


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_a_share(share: float) -> None:
    """A share is over 0 and at most 1."""
    for settings in (NgramSettings, PageviewSettings):
        with pytest.raises(ValueError, match="share is"):
            settings(share=share)
