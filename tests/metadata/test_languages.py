"""Query lists with languages: an entry is (language, string), and one clear line for each way a list can be wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip import MetaclipError, Metadata

ENTRIES = ["0", "dog", "chat", "0", "chat", "猫"]
LANGUAGES = ["en", "en", "en", "fr", "fr", "ja"]

CODES = st.lists(
    st.sampled_from(["en", "fr", "zh-Hant", "pt_BR", "be-x-old", "other"]), unique=True, min_size=1
)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=4)


def digest_by_definition(rows: list[tuple[str, str]]) -> str:
    lines = "\n".join(f"{language}\t{entry}" for language, entry in rows)
    return hashlib.sha256(b"\xff" + lines.encode()).hexdigest()


@given(st.data())
def test_identity(data: st.DataObject) -> None:
    """The digest is that of the lines "language TAB entry" behind the byte 0xff; each part has that of its own entries."""
    codes = data.draw(CODES)
    words = {code: data.draw(st.lists(WORDS, min_size=1, max_size=4, unique=True)) for code in codes}
    rows = [(code, word) for code in codes for word in words[code]]
    made = Metadata([word for _, word in rows], language=[code for code, _ in rows])
    assert made.digest == digest_by_definition(rows)
    assert made.language.to_pylist() == [code for code, _ in rows]
    assert [*made.languages] == codes
    for code, ids in made.languages.items():
        part = made.of_language(code)
        assert part.entries.to_pylist() == words[code] == made.entries.to_pylist()[ids.start : ids.stop]
        assert part.digest == Metadata(words[code]).digest
        assert not part.languages


def test_no_list_has_the_identity_of_another() -> None:
    """The same entries in other languages, in one language, and without languages are four lists."""
    lists = [
        Metadata(["a", "b"]), Metadata(["a", "b"], language=["en", "en"]), Metadata(["a", "b"], language=["en", "fr"]),
        Metadata(["en\ta", "en\tb"]),
    ]  # fmt: skip
    assert len({one.digest for one in lists}) == 4


def test_the_same_entry_in_two_languages() -> None:
    """An entry may stand in several languages, each time under an id of its own."""
    made = Metadata(ENTRIES, language=LANGUAGES)
    assert made.languages == {"en": range(3), "fr": range(3, 5), "ja": range(5, 6)}
    assert repr(made).startswith("Metadata(6 entries of 3 languages: '0', 'dog', 'chat', ...; digest ")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_a_parquet_file(tmp_path: Path, kind: pa.DataType) -> None:
    """A column of languages of any type of strings is read; a file without one is a list without languages."""
    table = pa.table({"entry": ENTRIES, "language": pa.array(LANGUAGES).cast(kind), "score": [1.5] * 6})
    pq.write_table(table, tmp_path / "list.parquet")
    found = Metadata.read(tmp_path / "list.parquet")
    assert found.digest == Metadata(ENTRIES, language=LANGUAGES).digest
    assert found.score.to_pylist() == [1.5] * 6
    pq.write_table(table.drop_columns("language").slice(0, 3), tmp_path / "one.parquet")
    one = Metadata.read(tmp_path / "one.parquet")
    assert (one.languages, one.language) == ({}, None)


def test_duplicates_are_folded_within_a_language(tmp_path: Path) -> None:
    """The first of each (language, entry) stays."""
    columns = {"entry": ["a", "b", "a", "a", "b", "b"], "language": ["en"] * 3 + ["fr"] * 3}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(MetaclipError, match="rows 0 and 2 are the same entry 'a'; remove one"):
        Metadata.read(tmp_path / "list.parquet")
    found = Metadata.read(tmp_path / "list.parquet", fold_duplicates=True)
    assert found.entries.to_pylist() == ["a", "b", "a", "b"]
    assert found.languages == {"en": range(2), "fr": range(2, 4)}
    with pytest.raises(MetaclipError, match="rows 3 and 4 are the same entry 'b'"):
        Metadata(["a", "b", "a", "b", "b"], language=["en", "en", "fr", "fr", "fr"])


@pytest.mark.parametrize(
    ("language", "message"),
    [
        (["en", None], "row 1: the language is null; name it, or leave the whole column out"),
        (["en", ""], "row 1: the language '' is no code such as en or zh-Hant; correct it"),
        (["e\tn", "e\tn"], "row 0: the language 'e\\\\tn' is no code"),
        (["en", "deutsche Sprache"], "row 1: the language 'deutsche Sprache' is no code"),
        (["en", "<b>"], "row 1: the language '<b>' is no code"),
        (
            ["en", "fr", "en"],
            "row 2: the language 'en' stands in two places, here and in row 0; sort the rows",
        ),
    ],
)
def test_bad_languages(tmp_path: Path, language: list[Any], message: str) -> None:
    """File, row and next step."""
    table = pa.table({"entry": [str(i) for i in range(len(language))], "language": language})
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(MetaclipError, match=f"list.parquet, {message}"):
        Metadata.read(tmp_path / "list.parquet")


def test_a_column_of_numbers(tmp_path: Path) -> None:
    """Languages that are bytes of no UTF-8 are refused by name."""
    table = pa.table({"entry": ["a"], "language": pa.array([b"\xff"])})
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(MetaclipError, match="the column 'language' is not string"):
        Metadata.read(tmp_path / "list.parquet")
