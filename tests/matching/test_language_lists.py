"""Matching against lists with languages: for each text the naive algorithm over the lists of its language."""

from __future__ import annotations

import pickle
import random
import threading
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import naive
from metaclip import Matcher, MetaclipError, Metadata, TextRule
from metaclip.curate.draw import DrawSums, draw_rows, probabilities, stream_key
from metaclip.curate.language_thresholds import LanguageThresholds
from metaclip.matching import MATCHES, count_matches, ids_and_offsets, language_lists
from metaclip.matching.text_rule import PAPER
from tests import oracle
from tests.backends import BACKENDS, needs_library

ALPHABETS = {
    "en": ["a", "dog", "hot", " ", " ", ".", "'"],
    "de": ["a", "hund", "Ä", "A\u0308", " ", " ", ","],
    "ja": ["猫", "カ", "メ", "ラ", "の", "ｶ", "\u3099", "。", "a", " "],
    "ko": ["가", "나", "\u1100\u1161", "고양이", " ", "a"],
    "th": ["แ", "ม", "ว", "่", "ก", "า", " ", "a"],
    "lo": ["ແ", "ມ", "ວ", " "],
    "km": ["ឆ", "្", "ម", "ា", " "],
    "my": ["က", "ြ", "ော", "င", "်", " "],
    "bo": ["ཞ", "ི", "་", "མ", " "],
    "rcf": ["a", "zwazo", " "],
}
"""Few symbols for each language, so that matches are frequent: spaced scripts, and each script without spaces."""
ROUTES = {
    "en": "en", "en-GB": "en", "simple": "en", "de": "de", "DE_at": "de", "ja": "ja", "ja-Latn": "ja", "ko": "ko", "kor": "ko",
    "th": "th", "tha": "th", "lo": "lo", "km": "km", "my": "my", "mya": "my", "bo": "bo", "rcf": "rcf", "fr": None, "": None,
    None: None,
}  # fmt: skip
"""Codes with their lists, written by hand; None is "other", which is `rcf` here, the one list of no identified language."""
RULES = [
    PAPER,
    *(
        TextRule(unspaced_scripts=table, nfc=nfc)
        for table in ("published", "fixed")
        for nfc in (False, True)
    ),
]


def wanted(
    words: dict[str, list[str]], text: str | None, code: str | None, rule: TextRule, also: str | None = None,
    only: tuple[str, ...] | None = None,
) -> list[int] | None:  # fmt: skip
    """Match one text by the naive algorithm, against one list after the other."""
    if text is None:
        return None
    own = ROUTES[code] or "rcf"
    ids, first = [], 0
    for language, entries in words.items():
        if (language == own and (only is None or own in only)) or language == also:
            ids += [first + i for i in oracle.match(entries, text, rule)]
        first += len(entries)
    return ids


def list_of(words: dict[str, list[str]]) -> Metadata:
    languages = [language for language, entries in words.items() for _ in entries]
    return Metadata([entry for entries in words.values() for entry in entries], language=languages)


def random_problem(
    rng: random.Random, texts: int
) -> tuple[dict[str, list[str]], list[str | None], list[str | None]]:
    """Return a list with languages, texts and their codes; half of the entries are slices of texts."""

    def string(language: str, longest: int) -> str:
        return "".join(rng.choices(ALPHABETS[language], k=rng.randint(0, longest)))

    codes: list[str | None] = rng.choices([*ROUTES], k=texts)
    languages = [ROUTES[code] or rng.choice([*ALPHABETS]) for code in codes]
    made: list[str | None] = [string(language, 12) for language in languages]
    words: dict[str, list[str]] = {}
    for language in rng.sample([*ALPHABETS], len(ALPHABETS)):
        entries = [string(language, 4) for _ in range(3)]
        for text, of in zip(made, languages, strict=True):
            if of == language and text:
                begin = rng.randrange(len(text))
                entries.append(text[begin : begin + rng.randint(1, 4)].strip(" ") or text)
        words[language] = [*dict.fromkeys(entries)]
    return words, [None if rng.random() < 0.05 else text for text in made], codes


def check_draw(
    words: dict[str, list[str]], matches: pa.Array, right: list[list[int] | None], rng: random.Random
) -> None:
    """Compare counts, probabilities and draws with the naive algorithm, with a t of each language."""
    lists, t = list_of(words), {language: rng.uniform(0.5, 9) for language in words}
    each = LanguageThresholds(1.0, t).by_entry(lists.languages)
    wanted_counts = naive.counts([ids or [] for ids in right], len(lists))
    counts = count_matches(matches, len(lists))
    assert counts.tolist() == wanted_counts
    p, languages = probabilities(counts, each), [language for language in words for _ in words[language]]
    wanted_p = [naive.probability(n, t[of]) for n, of in zip(wanted_counts, languages, strict=True)]
    assert p.tolist() == wanted_p
    rows, uids = matches.drop_null(), [f"{rng.getrandbits(128):032x}" for ids in right if ids is not None]
    numbers = np.array([[int(uid[:16], 16), int(uid[16:], 16)] for uid in uids], np.uint64).reshape(-1, 2)
    sums = DrawSums(len(lists))
    drawn, keep = draw_rows(*ids_and_offsets(rows), p, numbers, stream_key(7, 0), sums)
    wanted = [naive.keep_probability(ids, wanted_p) for ids in right if ids is not None]
    assert drawn.tolist() == wanted
    assert keep.tolist() == [naive.draw(7, 0, uid) < one for uid, one in zip(uids, wanted, strict=True)]


def check_problem(seed: int, texts: int, backends: tuple[str, ...]) -> int:
    """Compare every backend with the oracle on one random problem; return the number of texts that match something."""
    rng = random.Random(seed)
    words, made, codes = random_problem(rng, texts)
    rule, also = rng.choice(RULES), rng.choice([None, "en", "rcf"])
    only = rng.choice([None, ("en", "ja", "th"), ("rcf",)])
    right = [wanted(words, *pair, rule, also, only) for pair in zip(made, codes, strict=True)]
    for backend in backends:
        options: dict[str, Any] = {"backend": backend, "cache": False}
        matcher = Matcher(list_of(words), rule, languages=only, also=[also] if also else (), **options)
        matches = matcher.match(made, codes)
        matches.validate(full=True)
        assert matches.type == MATCHES
        assert matches.to_pylist() == right, (seed, backend)
        check_draw(words, matches, right, rng)
    return sum(map(bool, right))


def test_random_cases_of_mixed_languages() -> None:
    """Every backend finds what the naive algorithm finds, in ten languages, with "other", further and left-out lists."""
    found = sum(check_problem(seed, 40, BACKENDS) for seed in range(250))
    assert found > 2_000


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_four_hundred_thousand_random_cases(part: int) -> None:
    """400,000 texts of mixed languages, matched and drawn, with the default backend; 3 minutes."""
    found = sum(
        check_problem(seed, 100, BACKENDS[:1]) for seed in range(1000 * part + 1000, 1000 * part + 2000)
    )
    assert found > 15_000


@given(st.data())
@settings(max_examples=60)
def test_any_form_of_column(data: st.DataObject) -> None:
    """Slices, chunks and dictionaries of texts and of languages give the same rows; one text at a time gives the same ids."""
    words, texts, codes = random_problem(random.Random(data.draw(st.integers(0, 10**6))), 12)
    rule = data.draw(st.sampled_from(RULES))
    matcher = Matcher(list_of(words), rule, cache=False)
    right = [wanted(words, *pair, rule) for pair in zip(texts, codes, strict=True)]
    begin = data.draw(st.integers(0, len(texts)))
    column, languages = pa.array(texts, pa.string()), pa.array(codes, pa.string())
    assert matcher.match(column[begin:], languages[begin:]).to_pylist() == right[begin:]
    assert (
        matcher.match(column.cast(pa.large_string()), languages.dictionary_encode()).to_pylist() == right
    )
    assert (
        matcher.match(column.dictionary_encode(), languages.cast(pa.large_string())).to_pylist() == right
    )
    chunks = pa.chunked_array([column[:begin], column[begin:]]), pa.chunked_array([languages])
    assert matcher.match(*chunks).to_pylist() == right
    for text, code, ids in zip(texts, codes, right, strict=True):
        if text is not None:
            assert matcher.find(text, code) == ids


SCRIPTS = [
    # script, text, entries, ids by the published table, ids by the fixed one
    ("katakana", "新しいカメラを買う", ["カメラ", "カメ", "メガネ"], [], [0, 1]),
    ("half-width katakana", "新ｶﾒﾗ", ["ｶﾒﾗ"], [], [0]),
    ("hiragana", "ねこがいる", ["ねこ", "いぬ"], [], [0]),
    ("Han", "黒猫と犬", ["猫", "黒猫", "鳥"], [0, 1], [0, 1]),
    ("Hangul", "고양이가 잔다", ["고양이", "잔다", "개"], [1], [0, 1]),
    ("Thai", "แมวดำนอน", ["แมว", "หมา", "แมวดำ"], [0, 2], [0, 2]),
    ("Lao", "ແມວດຳ", ["ແມວ", "ໝາ"], [0], [0]),
    ("Khmer", "ឆ្មាខ្មៅ", ["ឆ្មា", "ឆ្កែ"], [0], [0]),
    ("Burmese", "ကြောင်အနက်", ["ကြောင်", "ခွေး"], [0], [0]),
    ("Tibetan", "ཞི་མི་ནག་པོ", ["ཞི་མི", "ཁྱི"], [0], [0]),
    ("mixed", "犬のphoto", ["犬", "photo", "犬のphoto"], [0, 2], [0, 2]),
]  # fmt: skip


@pytest.mark.parametrize(("script", "text", "entries", "published", "fixed"), SCRIPTS)
def test_scripts_without_spaces(
    script: str, text: str, entries: list[str], published: list[int], fixed: list[int]
) -> None:
    """By the published table kana and Hangul need spaces around them, by the fixed one they do not; the oracle agrees."""
    for table, ids in (("none", None), ("published", published), ("fixed", fixed)):
        rule = TextRule(unspaced_scripts=table)  # type: ignore[arg-type]
        naive = oracle.match(entries, text, rule)
        for backend in BACKENDS:
            found = Matcher(
                Metadata(entries, language=["x"] * len(entries)), rule, backend=backend, cache=False
            )  # type: ignore[arg-type]
            assert found.match([text], ["x"]).to_pylist() == [naive]
        if ids is not None:
            assert naive == ids, script


def test_nfc_on_request() -> None:
    """A voiced kana and a Hangul syllable that are written in parts match their composed forms under NFC, and only then."""
    entries, parts = ["ガム", "가"], ["ガム", "가"]
    texts = [unicodedata.normalize("NFD", part) for part in parts]
    assert texts != parts
    lists = Metadata(entries, language=["ja", "ko"])
    for nfc, right in ((False, [[], []]), (True, [[0], [1]])):
        matcher = Matcher(lists, TextRule(unspaced_scripts="fixed", nfc=nfc), cache=False)
        assert matcher.match(texts, ["ja", "ko"]).to_pylist() == right


@needs_library
def test_automata_are_opened_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An automaton is opened, once, when a text of its language comes; its file is that of the part as a list of its own."""
    opened = []
    of_language = Metadata.of_language

    def of_language_seen(self: Metadata, language: str) -> Metadata:
        opened.append(language)
        return of_language(self, language)

    monkeypatch.setattr(Metadata, "of_language", of_language_seen)
    lists = Metadata(["dog", "Hund", "chien"], language=["en", "de", "fr"])
    matcher = Matcher(lists, cache=tmp_path)
    assert not list(tmp_path.iterdir())
    assert matcher.match(["Hund", "dog"], ["de", "de"]).to_pylist() == [[1], []]
    assert opened == ["de"]
    Matcher(["Hund"], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    threads = [
        threading.Thread(target=matcher.match, args=(["dog"] * 50, ["en", "fr"] * 25)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(opened) == ["de", "en", "fr"]


def test_a_matcher_can_be_pickled() -> None:
    """With its choice of languages."""
    matcher = Matcher(Metadata(["dog", "Hund"], language=["en", "de"]), languages=["de"], also=["en"])
    other = pickle.loads(pickle.dumps(matcher))
    texts, codes = ["dog Hund", "dog"], ["de", "xx"]
    assert (
        other.match(texts, codes).to_pylist() == matcher.match(texts, codes).to_pylist() == [[0, 1], [0]]
    )


def test_languages_that_are_missing_or_too_many() -> None:
    """A list with languages needs them of every text; a list without ignores those of texts, and has none to choose from."""
    lists, one = Metadata(["dog"], language=["en"]), Matcher(["dog"], cache=False)
    with pytest.raises(MetaclipError, match="give the language of each text"):
        Matcher(lists, cache=False).match(["dog"])
    with pytest.raises(ValueError, match="2 languages beside 1 texts"):
        Matcher(lists, cache=False).match(["dog"], ["en", "en"])
    assert one.match(["dog"], ["fr"]).to_pylist() == [[0]]
    assert one.find("dog", "fr") == [0]
    assert one.routing is None
    for option in ({"languages": ["en"]}, {"also": ["en"]}):
        with pytest.raises(MetaclipError, match="languages are chosen, but the query list has none"):
            Matcher(["dog"], **option)


def test_no_texts() -> None:
    """An empty column and one of nulls match nothing."""
    matcher = Matcher(Metadata(["dog"], language=["en"]), cache=False)
    assert matcher.match([], []).to_pylist() == []
    assert matcher.match([None, None], ["en", "xx"]).to_pylist() == [None, None]
    assert language_lists.MATCHES == MATCHES
