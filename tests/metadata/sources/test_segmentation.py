"""Words of any language: with blanks by letters and marks, without blanks by ICU; pairs are joined as texts write them."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.matching.text_rule import TextRule
from metaclip.metadata.sources import segmentation
from metaclip.metadata.sources.segmentation import BY_ICU, joined, segmenter, segmenter_version


@pytest.mark.parametrize(
    ("language", "text", "phrases"),
    [
        ("hi", "हिन्दी भाषा, और", [["हिन्दी", "भाषा"], ["और"]]),
        ("de", "Die Katze (heute): ein-mal", [["Die", "Katze"], ["heute"], ["ein-mal"]]),
        ("fr", "l’été d'or\nfin", [["l’été", "d'or"], ["fin"]]),
        ("fa", "می\u200cخواهم", [["می\u200cخواهم"]]),
        ("ko", "한국어 사전", [["한국어", "사전"]]),
        ("en", "-- ' _", []),
    ],
)
def test_with_blanks(language: str, text: str, phrases: list[list[str]]) -> None:
    """Combining marks and joiners belong to words, signs and line ends divide phrases, the case stays."""
    assert list(segmenter(language)(text)) == phrases


@pytest.mark.extra
@pytest.mark.parametrize(
    ("language", "text", "phrases"),
    [
        ("ja", "東京都の写真。カメラ", [["東京", "都", "の", "写真"], ["カメラ"]]),
        ("th", "แมวกินปลา (สวย)", [["แมว", "กิน", "ปลา"], ["สวย"]]),
        ("zh", "我爱北京\n照片 NHK", [["我", "爱", "北京"], ["照片", "NHK"]]),
        ("km", "សួស្តីពិភពលោក", [["សួស្តី", "ពិភពលោក"]]),
        ("lo", "ສະບາຍດີ ໂລກ", [["ສະບາຍດີ", "ໂລກ"]]),
    ],
)
def test_without_blanks(language: str, text: str, phrases: list[list[str]]) -> None:
    """ICU finds the words; signs and line ends divide phrases, blanks do not."""
    pytest.importorskip("icu4py", reason="needs metaclip[worldwide]")
    assert list(segmenter(language)(text)) == phrases


@given(st.text("aé한é\u0301\u093fक9 -'’,.\n\u200d_", max_size=12))
def test_words_are_in_the_text(text: str) -> None:
    """A naive scan of characters agrees: a word begins with a letter or digit, and goes on over marks and joiners."""
    words = list(itertools.chain.from_iterable(segmenter("fr")(text)))
    pieces, at = [], 0
    while at < len(text):
        end = at
        if text[at].isalnum():
            while end < len(text) and _continues(text, end):
                end += 1
            pieces.append(text[at:end])
        at = max(at + 1, end)
    assert words == pieces


def _continues(text: str, at: int) -> bool:
    def inside(char: str) -> bool:
        return char.isalnum() or unicodedata.category(char)[0] == "M" or char in segmentation.JOINERS

    return inside(text[at]) or (text[at] in "'’-" and at + 1 < len(text) and inside(text[at + 1]))


@pytest.mark.parametrize(
    "pair", [("東京", "写真"), ("写真", "NHK"), ("แมว", "กิน"), ("new", "york"), ("한국어", "사전")]
)
def test_pairs_match_where_they_stand(pair: tuple[str, str]) -> None:
    """A joined pair is found where its words stand side by side, in the form that the language gives them."""
    rule = TextRule(unspaced_scripts="fixed")
    text = rule.text(f"the {pair[0]}{'' if joined(*pair) == ''.join(pair) else ' '}{pair[1]} of")
    assert (rule.entry(joined(*pair)) or "-") in text


def test_words_with_blanks_need_no_icu() -> None:
    """What finds the words of a language with blanks is named by nothing."""
    assert segmenter_version("hi") is None


@pytest.mark.extra
def test_icu_is_named() -> None:
    """What finds the words of other languages is named with its version."""
    pytest.importorskip("icu4py", reason="needs metaclip[worldwide]")
    assert str(segmenter_version("th")).startswith("ICU ")


@pytest.mark.parametrize("language", sorted(BY_ICU))
def test_without_icu(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    """Without ICU the message names the extra that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "icu4py.breakers", None)
    with pytest.raises(MetaclipError, match=r"needs the package icu4py; .*\.\[worldwide\]"):
        segmenter(language)
