"""The query list: its forms, its identity, and one clear line for each way a file can be wrong."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata import Metadata, as_metadata

ENTRIES = [
    "dog",
    "a photo of",
    "café",
    "猫",
    " edge ",
    "Dog",
    "tab\there",
    "\u2028",
    "\x0b",
    "🐶",
    "NUL\0",
    '"',
    "\\",
]


def _txt(path: Path, entries: list[str]) -> Path:
    path.write_bytes("".join(f"{entry}\n" for entry in entries).encode())
    return path


def _json(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps(entries, ensure_ascii=len(entries) % 2 == 0))
    return path


def _parquet(path: Path, entries: Any, **columns: Any) -> Path:
    pq.write_table(pa.table({"entry": entries, **columns}), path)
    return path


def _gzipped(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def refused(path: Path | str, *parts: str) -> None:
    """Reading gives one line that names the file and each of `parts`."""
    with pytest.raises(MetaclipError) as caught:
        Metadata.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for part in parts:
        assert part in message


# --- forms and identity


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", [_txt, _json, _parquet])
def test_every_form_is_one_list(tmp_path: Path, form: Any, zipped: bool) -> None:
    """txt, json and parquet, plain or gzipped, give the same entries in the same order, and one digest."""
    path = form(tmp_path / f"list.{form.__name__[1:]}", ENTRIES)
    read = Metadata.read(_gzipped(path) if zipped else path)
    assert read.entries.to_pylist() == ENTRIES
    assert (
        read.digest == hashlib.sha256("\n".join(ENTRIES).encode()).hexdigest() == Metadata(ENTRIES).digest
    )
    assert len(read) == len(ENTRIES)
    assert read[3] == "猫"
    assert read.source.null_count == read.score.null_count == len(ENTRIES)


def test_order_is_identity() -> None:
    """The same entries in another order are another list."""
    assert Metadata(["a", "b"]).digest != Metadata(["b", "a"]).digest
    assert (
        Metadata(["a", "b"]).digest
        == Metadata(("a", "b")).digest
        == Metadata(pa.array(["a", "b"])).digest
    )
    assert Metadata(["ab"]).digest != Metadata(["a", "b"]).digest


def test_line_end_inside_an_entry_is_refused(tmp_path: Path) -> None:
    """Entries are joined by line ends into the identity: with one inside an entry, two lists would share it."""
    with pytest.raises(MetaclipError, match=r"row 1: .*line end"):
        Metadata(["a", "b\nc"])
    refused(_json(tmp_path / "list.json", ["a", "b", "c\nd"]), "row 2", "line end")


def test_parquet_carries_source_and_score(tmp_path: Path) -> None:
    """Source and score stand beside their entries, also where a column is dictionary-encoded or of another width."""
    path = _parquet(
        tmp_path / "list.parquet",
        pa.array(["b", "a"], pa.large_string()),
        score=pa.array([1.5, None], pa.float32()),
        source=pa.array(["wordnet", "titles"]).dictionary_encode(),
        other=[1, 2],
    )
    read = Metadata.read(path)
    assert read.entries.to_pylist() == ["b", "a"]
    assert read.source.to_pylist() == ["wordnet", "titles"]
    assert read.score.to_pylist() == [1.5, None]
    assert (read.entries.type, read.source.type, read.score.type) == (
        pa.string(),
        pa.string(),
        pa.float64(),
    )


def test_parquet_of_several_row_groups(tmp_path: Path) -> None:
    """A list may come in pieces."""
    entries = [f"entry {i}" for i in range(1000)]
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"entry": pa.array(entries).dictionary_encode()}), path, row_group_size=70)
    assert Metadata.read(path).entries.to_pylist() == entries


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    """Windows' line ends, a byte order mark and a missing last line end change nothing."""
    path = tmp_path / "list.txt"
    for data in (b"dog\r\ncat\r\n", b"\xef\xbb\xbfdog\ncat\n", b"dog\ncat", b"\xef\xbb\xbfdog\r\ncat"):
        path.write_bytes(data)
        assert Metadata.read(path).entries.to_pylist() == ["dog", "cat"]
    (tmp_path / "list.json").write_bytes(b'\xef\xbb\xbf["dog", "cat"]\r\n')
    assert Metadata.read(tmp_path / "list.json").entries.to_pylist() == ["dog", "cat"]


def test_form_is_told_by_name_then_content(tmp_path: Path) -> None:
    """A parquet file is known by its first bytes; a txt list may begin with the same letters."""
    _parquet(tmp_path / "list", ["dog"])
    assert Metadata.read(tmp_path / "list").entries.to_pylist() == ["dog"]
    assert Metadata.read(_txt(tmp_path / "list.txt", ["PAR1", "dog"])).entries.to_pylist() == [
        "PAR1",
        "dog",
    ]
    assert Metadata.read(_json(tmp_path / "LIST.JSON", ["dog"])).entries.to_pylist() == ["dog"]
    (tmp_path / "zipped.txt").write_bytes(gzip.compress(b"dog\n"))
    assert Metadata.read(tmp_path / "zipped.txt").entries.to_pylist() == ["dog"]


def test_any_form_a_caller_has(tmp_path: Path) -> None:
    """A Metadata, a path, or strings are all a list."""
    path = _txt(tmp_path / "list.txt", ["dog", "cat"])
    metadata = Metadata(["dog", "cat"])
    assert as_metadata(metadata) is metadata
    for value in (path, str(path), ["dog", "cat"], (entry for entry in ("dog", "cat"))):
        assert as_metadata(value).digest == metadata.digest


def test_repr_shows_what_it_is() -> None:
    """A list shows its size, its first entries and its digest."""
    assert repr(Metadata(["dog", "cat"])).startswith("Metadata(2 entries: 'dog', 'cat'; digest ")
    assert "'c', ...;" in repr(Metadata(list("abcd")))


# --- duplicates


def test_duplicates_name_both_rows(tmp_path: Path) -> None:
    """An entry that stands there twice is an error with both places: lines of a txt file, rows of the others."""
    entries = ["dog", "cat", "cow", "cat"]
    refused(_txt(tmp_path / "list.txt", entries), "rows 2 and 4", "'cat'")
    refused(_json(tmp_path / "list.json", entries), "rows 1 and 3", "'cat'")
    refused(_parquet(tmp_path / "list.parquet", entries), "rows 1 and 3", "'cat'")
    with pytest.raises(MetaclipError, match="rows 1 and 3"):
        Metadata(entries)


def test_duplicates_are_folded_on_request(tmp_path: Path) -> None:
    """On request the first of each stays, with its source, and the order with it."""
    entries = ["dog", "cat", "dog", "cow", "cat", "dog"]
    path = _parquet(tmp_path / "list.parquet", entries, source=list("abcdef"), score=[0, 1, 2, 3, 4, 5])
    read = Metadata.read(path, fold_duplicates=True)
    assert read.entries.to_pylist() == ["dog", "cat", "cow"]
    assert read.source.to_pylist() == ["a", "b", "d"]
    assert read.score.to_pylist() == [0.0, 1.0, 3.0]
    assert read.digest == Metadata(["dog", "cat", "cow"]).digest
    assert len(Metadata.read(_txt(tmp_path / "list.txt", entries), fold_duplicates=True)) == 3


def test_what_differs_is_no_duplicate() -> None:
    """Case, spaces, normal form and NULs make different entries."""
    assert len(Metadata(["dog", "Dog", "dog ", " dog", "dog\0", "é", "e\u0301"])) == 7


# --- what is wrong with a file


def test_no_entries(tmp_path: Path) -> None:
    """A list needs an entry."""
    refused(_txt(tmp_path / "list.txt", []), "no entries")
    refused(_gzipped(tmp_path / "list.txt"), "no entries")
    refused(_json(tmp_path / "list.json", []), "no entries")
    refused(_parquet(tmp_path / "list.parquet", pa.array([], pa.string())), "no entries")
    with pytest.raises(MetaclipError, match="no entries"):
        Metadata([])


def test_empty_entry(tmp_path: Path) -> None:
    """An empty line or string is named by its place."""
    refused(_txt(tmp_path / "list.txt", ["dog", "", "cat"]), "row 2", "empty")
    refused(_txt(tmp_path / "end.txt", ["dog", "cat", ""]), "row 3", "empty")
    refused(_json(tmp_path / "list.json", ["dog", ""]), "row 1", "empty")
    refused(_parquet(tmp_path / "list.parquet", ["", "dog"]), "row 0", "empty")


def test_null_entry(tmp_path: Path) -> None:
    """A null is no entry."""
    refused(_parquet(tmp_path / "list.parquet", ["dog", None, "cat"]), "row 1", "null")
    refused(_json(tmp_path / "list.json", ["dog", None]), "row 1", "None is not a string")
    with pytest.raises(MetaclipError, match="row 1: the entry is null"):
        Metadata(["dog", None])  # type: ignore[list-item]


def test_not_utf8(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are named by their line, in parquet by their row."""
    (tmp_path / "list.txt").write_bytes(b"dog\ncat\ncaf\xe9\nmore\n")
    refused(tmp_path / "list.txt", "line 3", "UTF-8")
    refused(_gzipped(tmp_path / "list.txt"), "line 3", "UTF-8")
    (tmp_path / "list.json").write_bytes(b'["dog",\n"caf\xe9"]')
    refused(tmp_path / "list.json", "line 2", "UTF-8")
    (tmp_path / "wide.txt").write_bytes("dog\n".encode("utf-16"))
    refused(tmp_path / "wide.txt", "line 1", "UTF-8")
    column = pa.array([b"dog", b"caf\xe9"]).view(pa.string())
    refused(_parquet(tmp_path / "list.parquet", column), "UTF8", "index 1")


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    """JSON can write half a surrogate pair, which is no character; a whole pair is one."""
    (tmp_path / "list.json").write_text(r'["dog", "\ud83d\udc36"]')
    assert Metadata.read(tmp_path / "list.json").entries.to_pylist() == ["dog", "🐶"]
    (tmp_path / "half.json").write_text(r'["dog", "a\ud800"]')
    refused(tmp_path / "half.json", "row 1", r"'a\ud800'", "surrogate")
    with pytest.raises(MetaclipError, match="row 0"):
        Metadata(["\udfff"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"dog": 3}', "JSON dict"),
        ('"dog"', "JSON str"),
        ("null", "JSON NoneType"),
        ('["dog", 3]', "row 1: 3 is not a string"),
        ('["dog", ["cat"]]', "row 1: ['cat'] is not a string"),
        ('["dog", true]', "row 1: True is not a string"),
        ('["dog",\n\n "cat"', "line 3"),
        ('["dog", "cat",]', "line 1"),
        ("", "line 1"),
        ('["tab\there"]', "line 1"),
        ("[" * 100_000, "flat list"),
        ("[1" + "0" * 10_000 + "]", "flat list"),
    ],
    ids=str,
)
def test_json_of_another_shape(tmp_path: Path, text: str, part: str) -> None:
    """JSON that is no flat list of strings is named by what it is, broken JSON by its line."""
    (tmp_path / "list.json").write_text(text)
    refused(tmp_path / "list.json", part)


def test_long_json_values_are_cut(tmp_path: Path) -> None:
    """A message stays a line one can read."""
    (tmp_path / "list.json").write_text(json.dumps(["dog", list(range(100_000))]))
    with pytest.raises(MetaclipError) as caught:
        Metadata.read(tmp_path / "list.json")
    assert len(str(caught.value)) < 1000


def test_parquet_of_another_shape(tmp_path: Path) -> None:
    """A parquet file without the column, with another type, twice the column, or cut off is named."""
    pq.write_table(pa.table({"text": ["dog"], "n": [1]}), tmp_path / "other.parquet")
    refused(tmp_path / "other.parquet", "no column 'entry'", "text, n")
    refused(_parquet(tmp_path / "number.parquet", [1, 2]), "int64", "must be string")
    refused(_parquet(tmp_path / "score.parquet", ["dog"], score=["high"]), "'score'", "double")
    pq.write_table(pa.table([["dog"], ["cat"]], ["entry", "entry"]), tmp_path / "twice.parquet")
    refused(tmp_path / "twice.parquet", "parquet")
    data = _parquet(tmp_path / "list.parquet", ["dog", "cat"]).read_bytes()
    for cut in (data[:-1], data[:20], b"", b"garbage\n"):
        (tmp_path / "cut.parquet").write_bytes(cut)
        refused(tmp_path / "cut.parquet", "parquet")
    # Every single damaged byte gives a list or a clear line, never a traceback.
    for at in range(len(data)):
        (tmp_path / "cut.parquet").write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        with contextlib.suppress(MetaclipError):
            Metadata.read(tmp_path / "cut.parquet")


def test_broken_gzip(tmp_path: Path) -> None:
    """A gzip file that is cut off or damaged is named as such."""
    data = gzip.compress("\n".join(f"entry {i * i}" for i in range(1000)).encode())
    for number, broken in enumerate(
        (data[:-1], data[:-9], data[:30], data[:2], data[:500] + b"\0\0\0" + data[503:])
    ):
        path = tmp_path / f"{number}.txt.gz"
        path.write_bytes(broken)
        refused(path, "broken gzip")


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there, or is a folder, is named."""
    refused(tmp_path / "none.txt", "no file")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder")
    refused("nosuch://host/list.txt")


def test_columns_of_another_length_are_refused() -> None:
    """A source stands beside each entry."""
    with pytest.raises(ValueError, match="1 rows beside 2 entries"):
        Metadata(["dog", "cat"], ["wordnet"])


def test_real_list(data_folder: Path) -> None:
    """The real list is read whole."""
    metadata = Metadata.read(data_folder / "entries_500k.txt.gz")
    assert len(metadata) == 500_000
    assert metadata.entries.null_count == 0
