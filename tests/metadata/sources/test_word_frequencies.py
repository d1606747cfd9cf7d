"""wordfreq's words: by frequency, without its zeros for numbers, under the codes of lists."""

from __future__ import annotations

import gzip
from typing import Any

import msgspec
import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources.word_frequencies import FrequencySettings, candidates
from tests.metadata.sources.conftest import Shelve

HEADER = {"format": "cB", "version": 1}


def packed(*content: Any) -> bytes:
    return gzip.compress(msgspec.msgpack.encode(list(content)), mtime=0)


def test_words(shelve: Shelve) -> None:
    """Words in the order of their classes, then of code points, with their Zipf score; numbers and signs are left out."""
    data = packed(
        HEADER, [], *[[]] * 99, ["und", "der"], ["00", "4v4", "0.00", "x00", "'"], ["cafe\u0301", "und"]
    )
    package = shelve("w", {"wordfreq/data/large_de.msgpack.gz": data})
    found = candidates(FrequencySettings(package), ["de", "fr"])
    assert list(found) == ["de"]
    assert found["de"].entries.to_pylist() == ["der", "und", "4v4", "café"]
    assert found["de"].scores.to_pylist() == [8.0, 8.0, 7.99, 7.98]
    left_out = {"numbers of several digits": 3, "without a letter": 1, "beyond the limit": 0}
    assert found["de"].facts["left_out"] == left_out


@pytest.mark.parametrize("order", [("large", "small"), ("small", "large")])
def test_the_large_list(shelve: Shelve, order: tuple[str, str]) -> None:
    """Of two lists of a language the large one is read, wherever it stands."""
    files = {f"wordfreq/data/{size}_fi.msgpack.gz": packed(HEADER, [size]) for size in order}
    assert candidates(FrequencySettings(shelve("w", files)), ["fi"])["fi"].entries.to_pylist() == [
        "large"
    ]


def test_codes(shelve: Shelve) -> None:
    """Bosnian, Croatian and Serbian share a list; Norwegian and Tagalog have another code in wordfreq."""
    files = {
        f"wordfreq/data/small_{code}.msgpack.gz": packed(HEADER, [code]) for code in ("sh", "nb", "fil")
    }
    found = candidates(FrequencySettings(shelve("w", files)), ["bs", "hr", "sr", "no", "tl"])
    shown = {language: one.entries.to_pylist() for language, one in found.items()}
    assert shown == {"bs": ["sh"], "hr": ["sh"], "sr": ["sh"], "no": ["nb"], "tl": ["fil"]}


def test_the_limit(shelve: Shelve) -> None:
    """The limit keeps the most frequent words."""
    package = shelve("w", {"wordfreq/data/small_de.msgpack.gz": packed(HEADER, ["b", "a"], ["c"])})
    found = candidates(FrequencySettings(package, limit=2), ["de"])["de"]
    assert found.entries.to_pylist() == ["a", "b"]
    assert found.facts["left_out"]["beyond the limit"] == 1


@pytest.mark.parametrize(
    "data",
    [
        packed({"format": "cB", "version": 2}, ["a"]),
        packed(),
        packed(HEADER, [1]),
        packed(HEADER, HEADER),
        gzip.compress(b"\xc1", mtime=0),
    ],
    ids=["version", "empty", "no words", "two headers", "no MessagePack"],
)
def test_another_format(shelve: Shelve, data: bytes) -> None:
    """A file of another form is an error that names it."""
    with pytest.raises(
        MetaclipError, match=r"w@1\.0, wordfreq/data/small_de.* is no list of words of wordfreq"
    ):
        candidates(FrequencySettings(shelve("w", {"wordfreq/data/small_de.msgpack.gz": data})), ["de"])
