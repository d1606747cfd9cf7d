"""The columns of a pool: found by name, of every type that their role allows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import MatchSettings, MetaclipError
from metaclip.errors import BrokenInput
from metaclip.pool.columns import Columns, find_columns
from tests.pool.small_pools import MATCHING, MD5, TEXTS, URLS, N, curated, write_lines, write_parquet


def schema(*names: str, **kinds: pa.DataType) -> pa.Schema:
    """Return a schema of string columns, and of columns of other types."""
    return pa.schema([(name, pa.string()) for name in names] + list(kinds.items()))


@pytest.mark.parametrize(
    ("names", "flags", "wanted"),
    [
        (["url", "text"], {}, Columns("text", "url", None)),
        (["Caption"], {}, Columns("Caption", None, None)),
        (["ALT", "Uid", "uRl"], {}, Columns("ALT", "uRl", "Uid")),
        (["texts", "alt_text", "text"], {}, Columns("text", None, None)),
        (["text", "caption"], {"text": "caption"}, Columns("caption", None, None)),
        (["text", "caption"], {"text": "CAPTION"}, Columns("caption", None, None)),
        (
            ["title", "image", "id"],
            {"text": "title", "url": "image", "uid": "id"},
            Columns("title", "image", "id"),
        ),
        (["Text", "text"], {"text": "text"}, Columns("text", None, None)),
    ],
)
def test_columns_are_found(names: list[str], flags: dict[str, str], wanted: Columns) -> None:
    """Columns are found by name in any case of letters, or as the flags say."""
    assert find_columns(schema(*names), "p", **flags) == wanted


@pytest.mark.parametrize(
    ("names", "flags", "says"),
    [
        (
            ["url", "title"],
            {},
            ["p has no text column", "'text' or 'caption' or 'alt'", "'url', 'title'", "text_column="],
        ),
        ([], {}, ["p has no text column", "found none", "text_column="]),
        ([f"c{i}" for i in range(10_001)], {}, ["p has 10001 columns, at most 10000 are read"]),
        (["text", "Caption"], {}, ["p: 'text', 'Caption' can all be the text column", "text_column="]),
        (["TEXT", "text"], {}, ["'TEXT', 'text' can all be the text column", "text_column="]),
        (["TEXT", "Text"], {"text": "text"}, ["'TEXT', 'Text' can all be the text column"]),
        (["text", "url", "URL"], {}, ["'url', 'URL' can all be the url column", "url_column="]),
        (
            ["text"],
            {"text": "title"},
            ["p has no text column", "'title'", "found 'text'", "text_column="],
        ),
        (["text"], {"url": "link"}, ["p has no url column", "'link'", "found 'text'", "url_column="]),
        (["text"], {"uid": "id"}, ["p has no uid column", "'id'", "found 'text'", "uid_column="]),
        (["text", "text"], {"text": "text"}, ["p has 2 columns with the name 'text'", "rename"]),
        (["text", "x", "x"], {}, ["p has 2 columns with the name 'x'", "rename"]),
    ],
)
def test_columns_that_are_not_found(names: list[str], flags: dict[str, str], says: list[str]) -> None:
    """A column that is missing, or one of several, is refused with what was found, looked for, and the flag."""
    with pytest.raises(BrokenInput) as error:
        find_columns(schema(*names), "p", **flags)
    for words in says:
        assert words in str(error.value)


INTEGERS = [pa.int8(), pa.int32(), pa.int64(), pa.uint64()]
STRINGS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.null(),
    pa.dictionary(pa.int32(), pa.large_string()),
]
OTHERS = [
    pa.float64(), pa.bool_(), pa.binary(), pa.binary(8), pa.list_(pa.string()), pa.timestamp("s"),
    pa.struct([("a", pa.string())]), pa.dictionary(pa.int32(), pa.int64()),
]  # fmt: skip


@pytest.mark.parametrize("role", ["text", "url", "uid"])
def test_types_of_columns(role: str) -> None:
    """Texts and urls are strings of any kind, uids maybe integers or 16 bytes; other types are named with the flag."""
    fits = STRINGS if role != "uid" else [*STRINGS, *INTEGERS, pa.binary(16)]
    for kind in (*STRINGS, *INTEGERS, *OTHERS, pa.binary(16)):
        columns = schema(**{"text": pa.string(), role: kind})
        if kind in fits:
            assert getattr(find_columns(columns, "p"), role) == role
            continue
        with pytest.raises(BrokenInput) as error:
            find_columns(columns, "p")
        assert f"p: the {role} column '{role}' is {kind}, must be string" in str(error.value)
        assert f"{role}_column=" in str(error.value)


TEXT_TYPES = {
    "string": pa.array([*TEXTS, None, ""]),
    "large_string": pa.array([*TEXTS, None, ""], pa.large_string()),
    "string_view": pa.array([*TEXTS, None, ""], pa.string_view()),
    "dictionary": pa.array([*TEXTS, None, ""]).dictionary_encode(),
    "dictionary of large": pa.array([*TEXTS, None, ""], pa.large_string()).dictionary_encode(),
}


@pytest.mark.parametrize("name", TEXT_TYPES)
def test_every_type_of_text(name: str, tmp_path: Path) -> None:
    """Text and url columns of every string type give the same pairs; null and empty texts are counted apart."""
    texts = TEXT_TYPES[name]
    urls = pa.array([*URLS, "u", "v"]).cast(texts.type)
    pool = write_parquet(tmp_path / "p.parquet", {"text": texts, "url": urls})
    run = curated(pool, tmp_path / "run", MatchSettings(with_text=True))
    assert run.curated["uid"].to_pylist() == [MD5[i] for i in MATCHING]
    assert run.curated["text"].to_pylist() == [TEXTS[i] for i in MATCHING]
    assert run.curated["url"].to_pylist() == [URLS[i] for i in MATCHING]
    funnel = run.account["funnel"]
    assert (funnel["rows"], funnel["null_text"], funnel["empty_text"], funnel["no_match"]) == (
        N + 2,
        1,
        1,
        2,
    )
    matched = pa.concat_tables(
        [pq.read_table(path) for path in sorted((tmp_path / "run" / "matched").iterdir())]
    )
    assert matched["text"].to_pylist() == [TEXTS[i] for i in MATCHING]
    assert matched["url"].to_pylist() == [URLS[i] for i in MATCHING]


UIDS: dict[str, tuple[Any, list[str]]] = {
    "int64": (pa.array([1, 2, None, 0]), ["1", "2", "", "0"]),
    "16 bytes": (pa.array([bytes(16), b"\xff" * 16, None, bytes(15) + b"\x07"], pa.binary(16)),
                 ["0" * 32, "f" * 32, "", f"{7:032x}"]),
    "null": (pa.nulls(4), [""] * 4),
    "dictionary": (pa.array(["AB", "x", None, ""]).dictionary_encode(),
                   ["AB", "x", "", ""]),
}  # fmt: skip


@pytest.mark.parametrize("name", UIDS)
def test_every_type_of_uid(name: str, tmp_path: Path) -> None:
    """Upstream ids of every type are kept as they were written; a row without one gets md5 of text and url."""
    uids, wanted = UIDS[name]
    texts = [f"dog {i}" for i in range(4)]
    pool = write_parquet(tmp_path / "p.parquet", {"text": texts, "uid": uids})
    made = [
        uid or hashlib.md5(text.encode()).hexdigest() for uid, text in zip(wanted, texts, strict=True)
    ]
    assert curated(pool, tmp_path / "run").curated["uid"].to_pylist() == made


@pytest.mark.parametrize("values", ["[1, 2]", "[true]", '[["a"]]', '[{"a": "b"}]'])
def test_a_jsonl_text_column_that_is_not_string(values: str, tmp_path: Path) -> None:
    """A jsonl column that holds no strings is no text column."""
    pool = write_lines(
        tmp_path / "p.jsonl", [json.dumps({"text": value}) for value in json.loads(values)]
    )
    with pytest.raises(MetaclipError, match=r"p\.jsonl: the text column 'text' is .*, must be string"):
        curated(pool, tmp_path / "run")


def test_columns_of_ours_are_replaced(tmp_path: Path) -> None:
    """Columns that a curated set defines itself are replaced; others keep their order."""
    columns = {"keep_probability": [9.0] * N, "text": TEXTS, "matches": ["?"] * N, "x": list(range(N))}
    made = curated(write_parquet(tmp_path / "p.parquet", columns), tmp_path / "run").curated
    assert made.column_names == ["text", "x", "uid", "matches", "keep_probability"]
    assert made["keep_probability"].to_pylist() == [1.0] * len(MATCHING)
