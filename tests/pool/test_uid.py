"""Uids: hashlib's md5 and the number that upstream wrote, in every form of column, compiled or not."""

from __future__ import annotations

import hashlib
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metaclip.pool import uid as uids
from metaclip.pool.uid import (
    UID,
    from_binary,
    to_binary,
    to_hex,
    to_large_string,
    to_strings,
    uid_of,
    uids_of,
)


def md5(data: str | bytes) -> str:
    return hashlib.md5(data.encode() if isinstance(data, str) else data).hexdigest()


def by_hand(text: str, url: str | None = None, given: str | None = None) -> str:
    """The law of a uid, written out once more: 32 hex digits."""
    if given and re.fullmatch("[0-9a-fA-F]{1,32}", given):
        return f"{int(given, 16):032x}"
    return md5(given) if given else md5(text + (url or ""))


def column(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, kind or pa.string())


def hexes(texts: Any, urls: Any = None, given: Any = None) -> list[str]:
    found = uids_of(
        *(
            pa.array(part, pa.string()) if isinstance(part, list) else part
            for part in (texts, urls, given)
        )
    )
    assert found.dtype == np.uint64
    assert found.shape == (len(texts), 2)
    return to_hex(found).to_pylist()


# --- the law in plain Python

WRITTEN = [
    # given, uid
    ("91efd8562038d219f5099b42bcee1346", "91efd8562038d219f5099b42bcee1346"),
    ("91EFD8562038D219F5099B42BCEE1346", "91efd8562038d219f5099b42bcee1346"),
    ("0", "0" * 32),
    ("f", "0" * 31 + "f"),
    ("DeadBeef", "0" * 24 + "deadbeef"),
    ("1" + "0" * 16, "0" * 15 + "1" + "0" * 16),
    ("f" * 31, "0" + "f" * 31),
    ("f" * 32, "f" * 32),
    ("f" * 33, md5("f" * 33)),
    ("0" * 33, md5("0" * 33)),
    ("0x10", md5("0x10")),
    ("1_0", md5("1_0")),
    (" 1", md5(" 1")),
    ("-1", md5("-1")),
    ("91efd856-2038-d219-f509-9b42bcee1346", md5("91efd856-2038-d219-f509-9b42bcee1346")),
    ("g", md5("g")),
    ("laion:17", md5("laion:17")),
    ("１", md5("１")),  # a digit to Python's int, but no hex digit
    ("é", md5("é")),
]


def test_the_example_of_the_law() -> None:
    """The pair of the published vector has the uid that stands there, by the text and url or given as it is."""
    text, url, uid = "a photo of a dog", "http://example.org/dog.jpg", "91efd8562038d219f5099b42bcee1346"
    assert uid_of(text, url) == uid
    assert uid_of("another", None, uid) == uid
    assert hexes([text], [url]) == hexes(["another"], None, [uid]) == [uid]


@pytest.mark.parametrize(("given", "uid"), WRITTEN)
def test_upstream_ids(given: str, uid: str) -> None:
    """Up to 32 hex digits are the number they are; whatever else stands there goes through md5."""
    assert by_hand("text", "url", given) == uid
    assert uid_of("text", "url", given) == uid
    assert hexes(["text"], ["url"], [given]) == [uid]


@pytest.mark.parametrize(("url", "given"), [(None, None), ("", None), (None, ""), ("", "")])
def test_nothing_given(url: str | None, given: str | None) -> None:
    """Null and empty are the same: no id and no url, so that only the text is hashed."""
    assert uid_of("a dog", url, given) == md5("a dog")
    assert hexes(["a dog"], [url], [given]) == [md5("a dog")]


@pytest.mark.parametrize("first", range(0, 256, 16))
def test_every_byte_as_an_id(first: int) -> None:
    """Just the 22 bytes of 0-9, a-f and A-F are hex digits, alone or among others."""
    some = [bytes([byte]) for byte in range(first, first + 16)]
    given = pa.array([*some, *(b"a" + byte + b"0" for byte in some)], pa.binary())
    wanted = [
        f"{int(value, 16):032x}" if re.fullmatch(b"[0-9a-fA-F]+", value) else md5(value)
        for value in given.to_pylist()
    ]
    assert hexes(column(["text"] * 32), None, given.view(pa.string())) == wanted


@given(
    st.text(st.sampled_from("0123456789abcdefABCDEF"), max_size=36) | st.text(max_size=40),
    st.text(),
    st.text(),
)
@example("0" * 32, "", "")
@settings(max_examples=300)
def test_uid_of_is_the_law(given: str, text: str, url: str) -> None:
    """The plain form and the column form give the law's uid for any strings."""
    assert uid_of(text, url, given) == by_hand(text, url, given)
    assert hexes([text, text], [url, None], [given, None]) == [by_hand(text, url, given), by_hand(text)]


# --- md5 of columns

SCRIPTS = ["dog", "é", "猫", "𠮷", "\0", "\n", "ﾒ", " "]


def some_text(size: int) -> str:
    """A text of about this many bytes, of all kinds of characters."""
    unit = "".join(SCRIPTS)
    text = (f"{size} " + unit * (size // len(unit.encode()) + 1)).encode()[:size]
    return text.decode(errors="ignore")


BOUNDS = [
    0,
    1,
    3,
    4,
    54,
    55,
    56,
    57,
    63,
    64,
    65,
    118,
    119,
    120,
    121,
    127,
    128,
    129,
    183,
    184,
    4086,
    4087,
    4088,
    4096,
]


@pytest.mark.parametrize("compiled", [False, True])
def test_every_length(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """Texts of 0 to 200 bytes and more, cut anywhere between text and url, have hashlib's md5."""
    if not compiled:
        monkeypatch.setattr(uids, "load", lambda: None)
    whole = ["x" * n for n in range(201)] + [some_text(n) for n in [*range(201), *BOUNDS, 5000, 20_000]]
    assert hexes(whole) == [md5(text) for text in whole]
    cut = [(text[: len(text) * k // 4], text[len(text) * k // 4 :]) for text in whole for k in range(5)]
    texts, urls = [list(part) for part in zip(*cut, strict=True)]
    assert hexes(texts, urls) == [md5(text + url) for text, url in cut]


def test_many_rows() -> None:
    """More rows than a pack holds, of all lengths mixed, with nulls: each row has its own md5."""
    rng = np.random.default_rng(0)
    sizes = rng.choice([*range(130), *BOUNDS], 20_011)
    texts = [f"{i}" + some_text(int(size)) for i, size in enumerate(sizes)]
    urls = [
        None if i % 7 == 0 else "" if i % 7 == 1 else f"http://example.org/{i % 100}.jpg"
        for i in range(len(texts))
    ]
    assert hexes(texts, urls) == [md5(text + (url or "")) for text, url in zip(texts, urls, strict=True)]
    assert hexes(texts) == [md5(text) for text in texts]
    # As ids of another form: only some rows come to md5, from a column that holds others too.
    given = [f"{i:x}" if i % 2 else text or "-" for i, text in enumerate(texts)]
    assert hexes(["-"] * len(texts), None, given) == [by_hand("-", None, value) for value in given]


def test_rows_of_one_length() -> None:
    """Any number of rows of one length fills the vector registers rightly: 1 to 100 rows, and thousands."""
    for n in [*range(1, 101), 8191, 8192, 8193]:
        texts = [f"{i:07}" for i in range(n)]
        assert hexes(texts) == [md5(text) for text in texts]


@given(st.lists(st.tuples(st.text(max_size=80), st.none() | st.text(max_size=80)), max_size=12))
@settings(max_examples=150)
def test_compiled_md5_is_hashlibs(pairs: list[tuple[str, str | None]]) -> None:
    """The compiled path gives hashlib's md5 for any texts and urls."""
    texts, urls = [text for text, _ in pairs], [url for _, url in pairs]
    assert hexes(texts, urls) == [md5(text + (url or "")) for text, url in pairs]


# --- forms of columns

FORMS = {
    "string": lambda a: a,
    "large_string": lambda a: a.cast(pa.large_string()),
    "dictionary": lambda a: a.dictionary_encode(),
    "large dictionary": lambda a: a.cast(pa.large_string()).dictionary_encode(),
    "string_view": lambda a: a.cast(pa.string_view()),
    "binary": lambda a: a.cast(pa.binary()),
    "slice": lambda a: pa.concat_arrays([column(["x", None, "yy"]), a, column(["z"])]).slice(3, len(a)),
    "large slice": lambda a: pa.concat_arrays([column(["x"]), a]).cast(pa.large_string()).slice(1),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_columns(monkeypatch: pytest.MonkeyPatch, form: str, compiled: bool) -> None:
    """Ids and urls give the same uids as string, large_string, dictionary, view, bytes or a slice of these."""
    if not compiled:
        monkeypatch.setattr(uids, "load", lambda: None)
    texts = ["a dog", "", "猫", "a dog", "x" * 70, "y", "z"]
    urls = ["http://a", None, "", "http://b", "http://c", None, "http://d"]
    given = [None, None, None, "ABC", "not hex", "", "0" * 40]
    wanted = [by_hand(*row) for row in zip(texts, urls, given, strict=True)]
    assert hexes(column(texts), FORMS[form](column(urls)), FORMS[form](column(given))) == wanted
    for plain in ("string", "large_string", "slice", "large slice"):
        assert hexes(FORMS[plain](column(texts)), FORMS[form](column(urls)), None) == [
            by_hand(text, url) for text, url in zip(texts, urls, strict=True)
        ]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (pa.array([1, 10, 2**63 - 1, -1, None]), ["1", "10", str(2**63 - 1), md5("-1"), md5("t")]),
        (pa.array([2**64 - 1, None], pa.uint64()), [str(2**64 - 1), md5("t")]),
        (pa.array([1, 2], pa.int64()).dictionary_encode(), ["1", "2"]),
        (pa.nulls(3), [md5("t")] * 3),
        (pa.array([b"ab\xff", None], pa.binary()), [md5(b"ab\xff"), md5("t")]),
        (pa.array([b"f" * 32], pa.binary(32)), ["f" * 32]),
    ],
    ids=["int64", "uint64", "dictionary of ints", "null", "bytes", "32 bytes"],
)
def test_other_types_of_ids(given: pa.Array, wanted: list[str]) -> None:
    """An id that is a number counts as its decimal digits, bytes as the text they are; a null is none."""
    assert hexes(column(["t"] * len(given)), None, given) == [uid.rjust(32, "0") for uid in wanted]


def test_uids_as_16_bytes() -> None:
    """Sixteen bytes, and parquet's UUIDs, are the number itself, read big-endian, also sliced or as a dictionary."""
    numbers = [0, 1, 2**64, 2**128 - 1, int("91efd8562038d219f5099b42bcee1346", 16)]
    data = [*(n.to_bytes(16, "big") for n in numbers), None]
    wanted = [*(f"{n:032x}" for n in numbers), md5("tu")]
    plain = pa.array(data, UID)
    forms = [plain, pa.array([b"x" * 16, *data], UID).slice(1), plain.dictionary_encode()]
    forms.append(pa.array([None if d is None else uuid.UUID(bytes=d).bytes for d in data], pa.uuid()))
    for ids in forms:
        assert hexes(column(["t"] * 6), column(["u"] * 6), ids) == wanted
        assert to_strings(ids, uids_of(column(["t"] * 6), column(["u"] * 6), ids)).to_pylist() == wanted


def test_matched_uids_are_read_back(tmp_path: Path) -> None:
    """Uids written to parquet as fixed_size_binary[16], or as hex, are the same uids when they are read."""
    wanted = uids_of(column([some_text(n) for n in range(100)]), None, None)
    pq.write_table(
        pa.table({"bytes": to_binary(wanted), "hex": to_hex(wanted)}), tmp_path / "uids.parquet"
    )
    table = pq.read_table(tmp_path / "uids.parquet").combine_chunks()
    for name in ("bytes", "hex"):
        assert (uids_of(column(["t"] * 100), None, table[name].chunk(0)) == wanted).all()


@given(st.lists(st.integers(0, 2**128 - 1), max_size=8), st.integers(0, 3))
def test_round_trip(numbers: list[int], skip: int) -> None:
    """Binary and hex hold the 128 bits as they are, big-endian, and give them back, sliced or not."""
    found = np.array([divmod(n, 2**64) for n in numbers], np.uint64).reshape(-1, 2)
    assert to_hex(found).to_pylist() == [f"{n:032x}" for n in numbers]
    assert to_binary(found).to_pylist() == [n.to_bytes(16, "big") for n in numbers]
    to_hex(found).validate(full=True)
    to_binary(found).validate(full=True)
    assert from_binary(to_binary(found)).tolist() == found.tolist()
    assert from_binary(to_binary(found).slice(skip)).tolist() == found[skip:].tolist()
    assert uids_of(column([""] * len(numbers)), None, to_hex(found)).tolist() == found.tolist()


def test_no_rows() -> None:
    """No rows give no uids, whatever the columns."""
    for ids in (None, column([]), column([], UID), column([], pa.int64()), pa.nulls(0)):
        for urls in (None, column([])):
            assert uids_of(column([]), urls, ids).shape == (0, 2)


def test_as_written() -> None:
    """Ids that the pool gives are kept as strings; a missing id is replaced by the uid."""
    given = ["ABC", None, "", "laion:17", "0" * 40]
    found = uids_of(column(["t"] * 5), None, column(given))
    wanted = ["ABC", md5("t"), md5("t"), "laion:17", "0" * 40]
    for form in ("string", "large_string", "dictionary", "string_view", "slice"):
        written = to_strings(FORMS[form](column(given)), found)
        assert written.type == pa.string()
        assert written.to_pylist() == wanted
    assert to_strings(pa.array([5, None]), found[:2]).to_pylist() == ["5", to_hex(found[1:2])[0].as_py()]
    assert (
        to_strings(pa.array([b"\xff", None], pa.binary()), found[:2]).to_pylist()
        == to_hex(found[:2]).to_pylist()
    )


def test_strings_keep_bytes() -> None:
    """Bytes that are not UTF-8, in a string or binary column, are hashed as they stand."""
    raw = pa.array([b"\xff", None, b"dog"], pa.binary())
    for kind in (raw, raw.view(pa.string()), raw.cast(pa.large_binary())):
        assert to_large_string(kind).cast(pa.large_binary()).to_pylist() == [b"\xff", None, b"dog"]
        assert hexes(column(["t"] * 3), kind) == [md5(b"t\xff"), md5("t"), md5("tdog")]
