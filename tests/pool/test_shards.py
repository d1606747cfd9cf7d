"""Pools in the forms that other tools write: read completely, in order, and every dropped row counted."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip import MatchSettings, MetaclipError, RunOptions, curate
from metaclip.curate.inputs import columns_of
from metaclip.errors import BrokenInput
from metaclip.pool import delimited, jsonl, shards
from metaclip.pool.columns import Columns, DroppedRows, plain_texts, usable_texts
from metaclip.pool.files import find_files
from metaclip.pool.shards import read_batches
from tests import commands
from tests.pool.small_pools import (
    LIST,
    MATCHING,
    MD5,
    ROWS,
    TEXT_FORMS,
    TEXTS,
    URLS,
    N,
    curated,
    rows_of,
    shards_of,
    write_lines,
    write_parquet,
)
from tests.training.shards import write_tar

# The neighbours' forms ------------------------------------------------------------------------------------------------

FORMATS: dict[str, tuple[dict[str, Any], Columns]] = {
    "laion-400m": (
        {"SAMPLE_ID": pa.array(range(N), pa.int64()), "URL": URLS, "TEXT": TEXTS, "HEIGHT": pa.array([100] * N, pa.int32()),
         "WIDTH": pa.array([200] * N, pa.int32()), "LICENSE": ["?"] * N, "NSFW": ["UNLIKELY"] * N, "similarity": [0.3] * N},
        Columns("TEXT", "URL", None),
    ),
    "laion-5b": (
        {"URL": URLS, "TEXT": TEXTS, "WIDTH": [1] * N, "HEIGHT": [2] * N, "similarity": [0.3] * N,
         "hash": pa.array([-(1 << 62) + i for i in range(N)], pa.int64()), "punsafe": pa.array([0.1] * N, pa.float32()),
         "pwatermark": pa.array([0.2] * N, pa.float32()), "LANGUAGE": ["en"] * N},
        Columns("TEXT", "URL", None),
    ),
    "datacomp": (
        {"uid": [f"{i:x}" for i in range(10, 10 + N)], "url": URLS, "text": TEXTS, "original_width": [1] * N,
         "original_height": [2] * N, "clip_b32_similarity_score": [0.2] * N, "clip_l14_similarity_score": [0.3] * N,
         "face_bboxes": [[[0.0, 0.1, 0.2, 0.3]]] * N, "sha256": ["ab" * 32] * N},
        Columns("text", "url", "uid"),
    ),
    "cc2dataset": (
        {"uid": MD5, "url": URLS, "alt": TEXTS, "cc_filename": ["crawl-data/x.wat.gz"] * N, "page_url": ["https://example.org"] * N},
        Columns("alt", "url", "uid"),
    ),
    "img2dataset": (
        {"caption": TEXTS, "url": URLS, "key": [f"{i:09d}" for i in range(N)], "status": ["success"] * N,
         "error_message": pa.nulls(N, pa.string()), "width": [256] * N, "height": [256] * N, "original_width": [500] * N,
         "original_height": [500] * N, "exif": ["{}"] * N, "sha256": ["cd" * 32] * N},
        Columns("caption", "url", None, "status"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_neighbours_form(name: str, tmp_path: Path) -> None:
    """The parquet of another tool is read as it is: columns are found, all others are kept, uids equal its own."""
    columns, found = FORMATS[name]
    pool = write_parquet(tmp_path / "part-0.parquet", columns)
    assert columns_of(find_files(pool)[0], MatchSettings()) == found
    table = curated(pool, tmp_path / "run").curated
    assert table.drop_columns(["uid", "matches", "keep_probability"]).equals(
        pa.table(columns).take(MATCHING).drop_columns([] if found.uid is None else ["uid"])
    )
    uids = MD5 if found.uid is None else columns["uid"]
    assert table["uid"].to_pylist() == [uids[i] for i in MATCHING]


def test_uids_join_with_cc2datasets(tmp_path: Path) -> None:
    """A pool without uids gets those that cc2dataset gives: md5 of alt and url."""
    columns, _ = FORMATS["cc2dataset"]
    with_uid = write_parquet(tmp_path / "with.parquet", columns)
    without = write_parquet(
        tmp_path / "without.parquet", {k: v for k, v in columns.items() if k != "uid"}
    )
    one, other = curated(with_uid, tmp_path / "one"), curated(without, tmp_path / "other")
    assert one.curated["uid"].to_pylist() == other.curated["uid"].to_pylist()


def test_failed_downloads_are_counted(tmp_path: Path) -> None:
    """Rows that img2dataset could not download are dropped and counted, also if they have no text."""
    columns = dict(FORMATS["img2dataset"][0])
    columns["status"] = ["success", "failed_to_download", "success", "failed_to_resize", None, "success"]
    columns["caption"] = [*TEXTS[:4], None, None]
    run = curated(write_parquet(tmp_path / "p.parquet", columns), tmp_path / "run")
    funnel = run.account["funnel"]
    assert {k: v for k, v in funnel.items() if v} == {
        "rows": 6, "not_downloaded": 3, "null_text": 1, "no_match": 1, "matched": 1, "kept": 1,
    }  # fmt: skip
    assert run.curated["caption"].to_pylist() == TEXTS[:1]


def test_a_status_of_ones_own_is_a_column_as_any(tmp_path: Path) -> None:
    """Without img2dataset's other columns, `status` has no special meaning."""
    pool = write_parquet(tmp_path / "p.parquet", {"text": TEXTS, "status": ["draft"] * N})
    assert len(curated(pool, tmp_path / "run").curated) == len(MATCHING)


@pytest.mark.parametrize("codec", ["", "gz", "bz2", "zst", "lz4"])
@pytest.mark.parametrize("form", TEXT_FORMS)
def test_texts_of_every_form_and_codec(form: str, codec: str, tmp_path: Path) -> None:
    """csv, tsv and jsonl are read, each compressed in any way, as what was written."""
    path = tmp_path / f"pairs.{form}{codec and f'.{codec}'}"
    with pa.output_stream(str(path), compression="detect") as file:
        file.write(TEXT_FORMS[form](ROWS))
    assert rows_of(path) == ROWS
    assert rows_of(path, ["text", "url"]) == [{"text": row["text"], "url": row["url"]} for row in ROWS]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl.gz"])
def test_a_curated_folder_is_a_pool(form: str, tmp_path: Path) -> None:
    """A set curated from any form can be curated again with the same uids."""
    path = tmp_path / f"pairs.{form}"
    if form == "parquet":
        write_parquet(path, {"url": URLS, "text": TEXTS})
    else:
        with pa.output_stream(str(path), compression="detect") as file:
            file.write(TEXT_FORMS[form.split(".")[0]](ROWS))
    first = curated(path, tmp_path / "run")
    again = curated(tmp_path / "run" / "curated", tmp_path / "again")
    assert again.curated.equals(first.curated)
    assert [MD5[i] for i in MATCHING] == again.curated["uid"].to_pylist()


# Reading --------------------------------------------------------------------------------------------------------------


def test_batches_are_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards read in batches, one after the other, are the file as pyarrow reads it, whole or some columns of it."""
    monkeypatch.setattr(shards, "BATCH_ROWS", 7)
    monkeypatch.setattr(shards, "SHARD_ROWS", 50)
    columns = {
        "text": [f"text {i}" for i in range(203)],
        "l": [[i] * (i % 4) for i in range(203)],
        "s": [{"a": i, "b": None} for i in range(203)],
        "d": pa.array([str(i % 3) for i in range(203)]).dictionary_encode(),
    }
    path = write_parquet(tmp_path / "p.parquet", columns, row_group_size=20)
    cut = shards_of(path)
    assert [(shard.first, shard.rows) for shard in cut] == [
        (0, 40),
        (40, 40),
        (80, 40),
        (120, 40),
        (160, 43),
    ]
    for some in (None, ["text"], ["s", "text"]):
        batches = [batch for shard in cut for batch in read_batches(shard, some, DroppedRows())]
        assert max(map(len, batches)) <= 7
        plain = pq.read_table(path, columns=some)
        assert pa.Table.from_batches(batches).select(plain.column_names).equals(plain)


def test_real_pairs(data_folder: Path) -> None:
    """Real pairs are read as pyarrow reads them."""
    path = data_folder / "alt_text_10k.parquet"
    (shard,) = shards_of(path)
    assert pa.Table.from_batches(list(read_batches(shard, None, DroppedRows()))).equals(
        pq.read_table(path)
    )


def test_large_texts(tmp_path: Path) -> None:
    """A text of 10 MB, of characters of several bytes too, is a row as any in every form."""
    texts = ["dog", "犬 dog " * 1_250_000, "dog"]
    rows = [{"text": text, "n": str(i)} for i, text in enumerate(texts)]
    write_parquet(tmp_path / "p.parquet", {"text": texts, "n": ["0", "1", "2"]})
    for form, write in TEXT_FORMS.items():
        (tmp_path / f"p.{form}").write_bytes(write(rows))
    for form in ("parquet", *TEXT_FORMS):
        assert rows_of(tmp_path / f"p.{form}") == rows


@pytest.mark.parametrize("limit", [1, 29, 30, 31, 99, 100, 101, 250, 300, 1000])
@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_limit(form: str, limit: int, tmp_path: Path) -> None:
    """A limit takes the first rows of the pool, over files and row groups, and none beyond."""
    rows = [{"url": str(i), "text": f"dog {i}"} for i in range(300)]
    for i in range(3):
        part = rows[100 * i : 100 * (i + 1)]
        path = tmp_path / "pool" / f"{i}.{form}"
        if form == "parquet":
            write_parquet(path, pa.Table.from_pylist(part).to_pydict(), row_group_size=30)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(TEXT_FORMS[form](part))
    run = curated(tmp_path / "pool", tmp_path / "run", MatchSettings(limit=limit))
    assert run.account["funnel"]["rows"] == min(limit, 300)
    assert sorted(map(int, run.curated["url"].to_pylist())) == list(range(min(limit, 300)))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_limit_counts_no_malformed_row_beyond(form: str, tmp_path: Path) -> None:
    """Under a limit, only the malformed rows before its last row are counted."""
    good, bad = ("u,dog", "u") if form == "csv" else ('{"url": "u", "text": "dog"}', "{")
    lines = ["url,text"] * (form == "csv") + [bad, good, good, bad, bad, good, bad, good]
    pool = write_lines(tmp_path / f"p.{form}", lines)
    for limit, malformed in ((1, 1), (2, 1), (3, 3), (4, 4), (9, 4)):
        run = curated(pool, tmp_path / f"run{limit}", MatchSettings(limit=limit))
        funnel = run.account["funnel"]
        assert (funnel["rows"], funnel["malformed_row"]) == (min(4, limit) + malformed, malformed)
        assert len(run.curated) == min(4, limit)


# Rows that cannot be used ---------------------------------------------------------------------------------------------


def invalid_strings(values: Sequence[bytes | None], kind: pa.DataType) -> pa.Array:
    """Make a string array of bytes that are not all UTF-8, as Arrow reads them from parquet."""
    binary = pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()
    return pa.array(values, binary).view(kind)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), "dictionary"], ids=str)
def test_invalid_utf8_in_parquet(kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts in parquet that are not UTF-8 are counted and named on standard error; the rows around them stay."""
    values = [b"dog 0", b"dog \xff", None, b"dog 3", b"", b"\xc3(dog ", b"caf\xc3\xa9 dog"]
    texts = invalid_strings(values, pa.string() if kind == "dictionary" else kind)
    if kind == "dictionary":
        indices = pa.array([None if value is None else i for i, value in enumerate(values)], pa.int32())
        texts = pa.DictionaryArray.from_arrays(indices, texts.fill_null("never"))
    pool = write_parquet(tmp_path / "p.parquet", {"text": texts, "url": [str(i) for i in range(7)]})
    run = curated(pool, tmp_path / "run")
    assert run.curated["url"].to_pylist() == ["0", "3", "6"]
    funnel = run.account["funnel"]
    assert (funnel["invalid_utf8"], funnel["null_text"], funnel["empty_text"]) == (2, 1, 1)
    assert (
        f"{pool}: 2 rows left out: text that is not valid UTF-8 (first: row 1)" in capsys.readouterr().err
    )


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "jsonl with mixed types"])
def test_invalid_utf8_in_text_files(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of text files that are not UTF-8 are counted; the rows around them stay, also if another column is not UTF-8."""
    rows = [
        (b"dog \xff", b"0"),
        (b"dog", b"1"),
        (b"dog", b"\xff"),
        (b"caf\xe9 dog", b"3"),
        ("café dog".encode(), b"4"),
    ]
    if form.startswith("jsonl"):
        extra = [b"1", b'"x"'] if "mixed" in form else [b"1", b"2"]
        lines = [
            b'{"text": "%s", "url": "%s", "n": %s}' % (*row, extra[i % 2]) for i, row in enumerate(rows)
        ]
    else:
        tab = b"\t" if form == "tsv" else b","
        lines = [tab.join(row) for row in ((b"text", b"url"), *rows)]
    pool = write_lines(tmp_path / f"p.{form.split()[0]}", lines)
    run = curated(pool, tmp_path / "run")
    assert run.curated["url"].to_pylist() == ["1", "\ufffd", "4"]
    assert run.account["funnel"]["invalid_utf8"] == 2
    assert f"{pool}: 2 rows left out" in capsys.readouterr().err


CSV_CASES: dict[str, tuple[bytes, list[tuple[str, str]], int]] = {
    "plain": (b"url,text\na,b\nc,d\n", [("a", "b"), ("c", "d")], 0),
    "windows": (b"\xef\xbb\xbfurl,text\r\na,b\r\nc,d\r\n", [("a", "b"), ("c", "d")], 0),
    "old macs": (b"url,text\ra,b\rc,d\r", [("a", "b"), ("c", "d")], 0),
    "no last line end": (b"url,text\na,b", [("a", "b")], 0),
    "quotes": (
        b'"url","text"\n"a,1","b ""c"" d"\ne,f "g" h\n',
        [("a,1", 'b "c" d'), ("e", 'f "g" h')],
        0,
    ),
    "lines inside": (b'url,text\na,"b\r\n\nc"\nd,e\n', [("a", "b\r\n\nc"), ("d", "e")], 0),
    "names with lines": (b'"u\nv",url,text\n1,a,b\n2,c,d\n', [("a", "b"), ("c", "d")], 0),
    "blank lines": (b"\n\nurl,text\n\na,b\n\n\nc,d\n\n", [("a", "b"), ("c", "d")], 0),
    "too few, too many": (b"url,text\nx\na,b\nx,y,z\nc,d\n", [("a", "b"), ("c", "d")], 2),
    "malformed and not UTF-8": (
        b"url,text\n\xff\na,b\n\xe9,\xe9,\xe9\nc,d\n",
        [("a", "b"), ("c", "d")],
        2,
    ),
    "numbers and dates": (b"url,text\n1,2020-01-01\n02,3.50\n", [("1", "2020-01-01"), ("02", "3.50")], 0),
    "nothing guessed": (
        b"url,text\nNULL,NA\n,\ntrue,nan\n",
        [("NULL", "NA"), ("", ""), ("true", "nan")],
        0,
    ),
    "a byte 0": (b"url,text\na,b\x00c\n", [("a", "b\x00c")], 0),
    "names alone": (b"url,text", [], 0),
    "a quote never closed": (b'url,text\na,b\nc,"d\ne,f\ng,h\n', [("a", "b"), ("e", "f"), ("g", "h")], 1),
    "a quote never closed, earlier": (b'url,text\na,b\n"c,d\ne,f\n', [("a", "b"), ("e", "f")], 1),
    "a quote never closed, after worse": (b'url,text\nx\na,b\nx,y,z\nc,"d', [("a", "b")], 3),
    "a quote never closed, at once": (b'url,text\nc,"', [], 1),
    "quotes that do not match": (b'url,text\na,"b\nc,d\ne,"f\ng,h\n', [("c", "d"), ("g", "h")], 2),
    "text behind a quote": (b'url,text\na,"b" c\nd,e\n', [("a", "b c"), ("d", "e")], 0),
    "a quote that closes late": (b'url,text\na,"b\nc,d\ne,f"', [("a", "b\nc,d\ne,f")], 0),
}


@pytest.mark.parametrize("name", CSV_CASES)
def test_csv(name: str, tmp_path: Path) -> None:
    """Every csv that programs write is read as it was meant, as strings; malformed rows are counted."""
    data, rows, malformed = CSV_CASES[name]
    path = tmp_path / "p.csv"
    path.write_bytes(data)
    for columns in (["url", "text"], None):
        dropped = DroppedRows()
        assert [(row["url"], row["text"]) for row in rows_of(path, columns, dropped)] == rows
        assert dropped.counts == ({"malformed_row": malformed} if malformed else {})


def test_where_a_quote_was_not_closed(tmp_path: Path) -> None:
    """A row with an unclosed quote is named, but not beyond a limit, and costs no other row; nor does one that is too long."""
    path = tmp_path / "p.csv"
    lines = [f"http://x/{i},dog {i}\n" for i in range(1000)]
    lines[500] = 'http://x/500,"dog\n'
    path.write_text("url,text\n" + "".join(lines))
    dropped = DroppedRows()
    assert len(rows_of(path, ["text"], dropped)) == 999
    assert dropped.places == {"malformed_row": "row 502: a quote that is never closed"}
    run = curated(path, tmp_path / "run", MatchSettings(limit=500))
    assert "malformed_row" not in {reason for reason, rows in run.account["funnel"].items() if rows}
    path.write_text("url,text\n" + "".join(lines[:500]) + "x" * (70 << 20) + "\n" + "".join(lines[501:]))
    dropped = DroppedRows()
    assert len(rows_of(path, ["text"], dropped)) == 999
    assert dropped.places == {"malformed_row": "row 502: it has over 16777216 bytes"}


TSV_CASES: dict[str, tuple[bytes, list[tuple[str, str]], int]] = {
    "not quoted": (b'text\turl\n"best\t1\na dog\t2\n"worst\t3\n', [('"best', "1"), ("a dog", "2"), ('"worst', "3")], 0),
    "a quote before a tab": (b'text\turl\n"a\t1\nb\t2\nsay "c"\t3\n', [('"a', "1"), ("b", "2"), ('say "c"', "3")], 0),
    "text behind a quote": (b'text\turl\n"a" b\t1\n', [('"a" b', "1")], 0),
    "quoted": (b'text\turl\n"a\tb"\t1\n"c ""d"""\t2\n', [("a\tb", "1"), ('c "d"', "2")], 0),
    "quoted, with lines": (b'text\turl\n"a\nb"\t1\n"c\n\nd\te"\t2\n', [("a\nb", "1"), ("c\n\nd\te", "2")], 0),
    "too few, too many": (b'text\turl\n"a\nb\t1\nc\t"2\t3\nd\t4\n', [("b", "1"), ("d", "4")], 2),
}  # fmt: skip


@pytest.mark.parametrize("name", TSV_CASES)
def test_tsv(name: str, tmp_path: Path) -> None:
    """Quotes of captions are characters, and those of programs that quote are quotes; no row swallows others."""
    data, rows, malformed = TSV_CASES[name]
    path = tmp_path / "p.tsv"
    path.write_bytes(data)
    dropped = DroppedRows()
    assert [(row["text"], row["url"]) for row in rows_of(path, None, dropped)] == rows
    assert dropped.counts == ({"malformed_row": malformed} if malformed else {})


@pytest.mark.parametrize("name", ["p.csv", "p.tsv.gz"])
def test_no_quoting(name: str, tmp_path: Path) -> None:
    """With --quoting none, a quote is a character wherever it stands, when the pool is read again and of the names, too."""
    tab = "," if "csv" in name else "\t"
    texts = ['"', '" a dog "', 'a cat "on', '" a dog', 'a cat "', '""']
    rows = [(text, str(i)) for i, text in enumerate(texts)]
    lines = [tab.join(("text", '"url"')), *(tab.join(row) for row in rows), tab.join('"abc')]
    data = "\n".join(lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    unquoted = MatchSettings(quoting="none", url_column='"url"')
    run = curated(tmp_path / name, tmp_path / "run", unquoted)
    assert (run.account["funnel"]["rows"], run.account["funnel"]["malformed_row"]) == (7, 1)
    kept = [(row["text"], row['"url"']) for row in run.curated.to_pylist()]
    assert kept == [row for row in rows if "dog" in row[0] or "cat" in row[0]]
    with pytest.raises(MetaclipError, match="quoting is 'all', must be 'auto' or 'none'"):
        MatchSettings(quoting="all")
    command = (
        "match",
        tmp_path / name,
        "--metadata",
        write_lines(tmp_path / "list.txt", LIST),
        "--quoting",
        "none",
    )
    assert commands.done(*command, "--url-column", '"url"', "--out", tmp_path / "again").out.split()[
        :2
    ] == ["rows", "7"]


@pytest.mark.parametrize("with_text", [False, True])
def test_other_columns_that_are_not_utf8(with_text: bool, tmp_path: Path) -> None:
    """Bytes that are not UTF-8 in a url, a uid or another column do not reach parquet as strings, which readers refuse."""
    rows = [
        b"text,url,uid,more",
        b"a dog,http://e/\xff,\xe9,\xed\xa0\x80",
        b"a cat,http://e/2,7,ok",
        b"a \xff dog,u,8,x",
    ]
    path = write_lines(tmp_path / "p.csv", rows)
    run = curated(path, tmp_path / "run", MatchSettings(with_text=with_text))
    assert run.account["funnel"]["invalid_utf8"] == 1
    found = run.curated.select(["text", "url", "uid", "more"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("a dog", "http://e/\ufffd", "\ufffd", "\ufffd\ufffd\ufffd"), ("a cat", "http://e/2", "7", "ok"),
    ]  # fmt: skip
    for file in [*run.path.glob("matched/*"), *run.path.glob("curated/*")]:
        pq.read_table(file).validate(full=True)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """Where url or uid may stand in a column of another name: which columns there are, and the option that names one."""
    words = write_lines(tmp_path / "list.txt", LIST)
    pool = write_parquet(
        tmp_path / "pool" / "p.parquet", {"text": TEXTS, "image_url": URLS, "id": list(range(N))}
    )
    said = commands.done("match", pool, "--metadata", words, "--out", tmp_path / "run").err
    assert "has no url column: looked for 'url', found 'image_url'; uids do not depend on urls" in said
    assert "name the column with --url-column" in said
    assert "has no uid column: looked for 'uid', found 'image_url', 'id'" in said
    named = ("--url-column", "image_url", "--uid-column", "id")
    again = commands.done("match", pool, "--metadata", words, "--out", tmp_path / "other", *named)
    assert "looked for" not in again.err
    plain = write_parquet(tmp_path / "plain" / "p.parquet", {"text": TEXTS, "url": URLS})
    third = commands.done("match", plain, "--metadata", words, "--out", tmp_path / "third")
    assert "looked for" not in third.err


@pytest.mark.parametrize("fields", [{}, {"url": "http://e/1", "sha256": "0"}, {"url": "http://e/1"}])
def test_tars_without_uids_are_named(tmp_path: Path, fields: dict[str, str]) -> None:
    """Tars have lost the uids of their pool if img2dataset was not told to carry them along: what to do stands on stderr."""
    words = write_lines(tmp_path / "list.txt", LIST)
    hint = "a uid is the md5 of text and url, unless you name the column with --uid-column; if their pool had uids, download "
    for command, uids in (("match", {}), ("curate", {}), ("match", {"uid": "1"})):
        tars = tmp_path / f"{command}{len(uids)}"
        members = {"txt": TEXTS[0].encode(), "json": json.dumps(fields | uids).encode()}
        tars.mkdir()
        write_tar(tars / "0.tar", [(f"0.{suffix}", data) for suffix, data in members.items()])
        said = commands.done(
            command, tars, "--metadata", words, "--out", tmp_path / f"run_{tars.name}"
        ).err
        if uids:
            assert "--save_additional_columns" not in said
            continue
        found = "'sha256'" if "sha256" in fields else "none"
        assert f"no uid column: looked for 'uid', found {found}; {hint}" in said
        assert "with img2dataset --save_additional_columns '[\"uid\"]' to carry them along" in said


@settings(max_examples=200)
@given(
    st.lists(st.text(st.sampled_from("\"'x ,é\r"), max_size=6), min_size=1, max_size=30),
    st.sampled_from([40, 1 << 20]),
)
def test_tsv_without_quoting_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], block: int
) -> None:
    """Any captions in lines of two fields are as many rows, with their urls; texts that no quotes enclose are unchanged."""
    texts = [text.replace("\r", "") for text in texts]
    path = tmp_path_factory.mktemp("tsv") / "p.tsv"
    path.write_text("text\turl\n" + "".join(f"{text}\t{i}\n" for i, text in enumerate(texts)), newline="")
    dropped = DroppedRows()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK", block)
        rows = rows_of(path, None, dropped)
    assert [row["url"] for row in rows] == [str(i) for i in range(len(texts))]
    assert not dropped.counts
    for row, text in zip(rows, texts, strict=True):
        if not (text.startswith('"') and text.endswith('"')):
            assert row["text"] == text


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("p.csv", b"", "it is empty"),
        ("p.csv", b"\n\n", "it is empty"),
        ("p.csv.gz", b"", "it is empty"),
        ("p.jsonl", b"", "it is empty"),
        ("p.jsonl", b"not json\n", "it is empty"),
        ("p.csv", b"\xff\xfeu\x00,\x00", "it is UTF-16"),
        ("p.csv", b"text\xe9,url\na,b\n", "'utf-8' codec can't decode"),
        ("p.csv", b'"text,url\na,b\n', "the row of column names has a quote that is never closed"),
        ("p.csv.gz", b"text\na\n", "zlib inflate failed"),
        ("p.parquet", b"", "Parquet file size is 0 bytes"),
        ("p.parquet", b"PAR1 and more PAR1", ""),
    ],
)
def test_files_that_cannot_be_read(name: str, data: bytes, says: str, tmp_path: Path) -> None:
    """A file that is empty or of another form is named with what is wrong."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MetaclipError) as error:
        curated(tmp_path / name, tmp_path / "run")
    form = name.split(".")[1]
    assert f"{tmp_path / name} cannot be read as {form} ({says}" in str(error.value)


@pytest.mark.parametrize("codec", ["gz", "bz2", "zst", "lz4"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_truncated_compression(form: str, codec: str, tmp_path: Path) -> None:
    """A compressed file that is truncated anywhere is refused, and the rows already read do not count."""
    path = tmp_path / f"p.{form}.{codec}"
    with pa.output_stream(str(path), compression="detect") as file:
        file.write(TEXT_FORMS[form](ROWS * 200))
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 5, len(whole) // 2, 30, 1):
        path.write_bytes(whole[:size])
        with pytest.raises(BrokenInput, match=rf"p\.{form}\.{codec} cannot be read"):
            rows_of(path)


JSON_CASES: dict[str, tuple[list[str | bytes], list[str | None], int]] = {
    "malformed lines": (
        ["{", '{"text": "a"}', "[1]", "5", '"x"', "null", '{"text": "b"}', "{'text': 'c'}"],
        ["a", "b"],
        6,
    ),
    "two objects in a line": (['{"text": "a"}{"text": "b"}', '{"text": "c"}'], ["c"], 1),
    "an object over lines": (['{"text":', '"a"}', '{"text": "c"}'], ["c"], 2),
    "blank lines": (["", '{"text": "a"}', "  ", "\t", '{"text": "b"}', ""], ["a", "b"], 0),
    "windows": ([b'\xef\xbb\xbf{"text": "a"}\r', b'{"text": "b"}\r'], ["a", "b"], 0),
    "a text is missing": (
        ['{"n": 1}', '{"text": null}', '{"text": "a"}', "{}"],
        [None, None, "a", None],
        0,
    ),
    "a text is a number": (
        ['{"text": "a"}', '{"text": 5}', '{"text": [1, "é"]}'],
        ["a", "5", '[1, "é"]'],
        0,
    ),
    "escapes": (
        [r'{"text": "\u00e9\ud83d\ude00\n"}', r'{"te\u0078t": "b\u0000"}'],
        ["é😀\n", "b\x00"],
        0,
    ),
    "control characters": (['{"text": "a\tb\x01"}'], ["a\tb\x01"], 0),
    "a key twice": (['{"text": "a", "text": "b"}'], ["b"], 0),
    "not JSON by the letter": (
        ['{"text": "a", "n": NaN}', '{"text": "b", "n": Infinity}', '{"text": "c",}'],
        ["a", "b"],
        1,
    ),
    "dates stay strings": (
        ['{"text": "2020-01-01"}', '{"text": "2021-12-31"}'],
        ["2020-01-01", "2021-12-31"],
        0,
    ),
    "a key that is not UTF-8": (['{"text": "a"}', b'{"text": "b", "\xff": 1}'], ["a", "b"], 0),
    "deep": (['{"text": "a"}', '{"text": "b", "n": ' + "[" * 100_000 + "]" * 100_000 + "}"], ["a"], 1),
    "deep enough": (['{"text": "a", "n": ' + '{"n": ' * 99 + "1" + "}" * 99 + "}"], ["a"], 0),
    "brackets in a text": (['{"text": "' + "[{" * 500 + '"}'], ["[{" * 500], 0),
    "large numbers": (
        ['{"text": "a", "n": ' + "9" * 5000 + "}", '{"text": "b", "n": 1e999}'],
        ["a", "b"],
        0,
    ),
}


@pytest.mark.parametrize("name", JSON_CASES)
@pytest.mark.parametrize("other", ["", '{"text": "z", "n": "s"}', '{"text": "z", "n": [1]}', "{"])
def test_jsonl(name: str, other: str, tmp_path: Path) -> None:
    """A line is a row exactly if it is an object, whatever stands in other columns and lines, and whichever are read."""
    lines, texts, malformed = JSON_CASES[name]
    if other:
        lines, texts, malformed = (
            [*lines, other],
            [*texts, *["z"][: other != "{"]],
            malformed + (other == "{"),
        )
    path = write_lines(tmp_path / "p.jsonl", lines)
    for columns in (["text"], None):
        dropped = DroppedRows()
        assert [row["text"] for row in rows_of(path, columns, dropped)] == texts
        assert dropped.counts.get("malformed_row", 0) == malformed


def test_values_of_mixed_types(tmp_path: Path) -> None:
    """A column of one kind of values has its type; of several kinds, each value stands there as its JSON text."""
    mixed = ["s", 1, 2.5, True, None, [1, "a"], {"k": "é"}, 10**30]
    same = [
        {
            "i": i,
            "f": i / 2 if i % 2 else i,
            "l": [i],
            "o": {"a": i},
            "d": "2020-01-01",
            "b": str(1 << 70 + i),
        }
        for i in range(8)
    ]
    rows = [{"text": f"dog {i}", "m": value, "e": {}} for i, value in enumerate(mixed)]
    pool = write_lines(
        tmp_path / "p.jsonl",
        [
            json.dumps(row | others | {"b": int(others["b"])})
            for row, others in zip(rows, same, strict=True)
        ],
    )
    made = curated(pool, tmp_path / "run").curated
    assert made["m"].to_pylist() == ["s", "1", "2.5", "true", None, '[1, "a"]', '{"k": "é"}', str(10**30)]
    assert made.select(list(same[0])).to_pylist() == same
    assert made["e"].to_pylist() == ["{}"] * 8


LONG = [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**18 * 12345, 10**400]


@pytest.mark.parametrize("rest", [[], [5], [0.5], [None], [-1]], ids=str)
@pytest.mark.parametrize("end", [".jsonl", ".tar"])
def test_long_integers_keep_their_values(rest: list[Any], end: str, tmp_path: Path) -> None:
    """An integer beyond 64 bits is its digits, as a uid, as another field and in a list; it never becomes a float."""
    values = [*LONG[:-1], *rest]
    rows: list[Any] = [{"text": "a dog", "uid": v, "n": v, "l": [v], "o": {"v": v}} for v in values]
    path = tmp_path / f"p{end}"
    if end == ".tar":
        files = [(f"{i}.json", json.dumps(row)) for i, row in enumerate(rows)]
        write_tar(path, files)
    else:
        write_lines(path, list(map(json.dumps, rows)))
    made = curated(path, tmp_path / "run").curated
    given = [v if isinstance(v, int) else None for v in values]
    for v, uid, n, listed, o in zip(
        given, *(made[name].to_pylist() for name in ("uid", "n", "l", "o")), strict=True
    ):
        if v is not None:
            assert (n, json.loads(listed), json.loads(o)) == (str(v), [v], {"v": v})
            assert uid == str(v)


def test_integers_of_hundreds_of_digits(tmp_path: Path) -> None:
    """Digits that Python refuses to convert are kept as text."""
    path = write_lines(tmp_path / "p.jsonl", [f'{{"text": "a", "n": {"7" * n}}}' for n in (1, 350, 5000)])
    assert [row["n"] for row in rows_of(path)] == ["7", "7" * 350, "7" * 5000]


@pytest.mark.parametrize("end", [".jsonl", ".jsonl.gz", ".jsonl.bz2"])
def test_a_line_that_is_too_long(end: str, tmp_path: Path) -> None:
    """A line of more than 16 MB is a malformed row, whichever blocks it is in; the lines around it are rows."""
    most = 1 << 24

    def line(text: str, size: int = 0) -> bytes:
        row = json.dumps({"text": text}).encode()
        return row[:-2] + b"x" * (size - len(row)) + row[-2:] + b"\n"

    lines = [
        line("a"),
        line("b", most),
        line("c"),
        line("d", most + 1),
        line("e", 5 * most),
        line("f"),
        b"{" * (2 * most),
    ]
    path = tmp_path / f"p{end}"
    with pa.output_stream(str(path), compression="detect") as file:
        file.write(b"".join(lines))
    dropped = DroppedRows()
    assert [row["text"][0] for row in rows_of(path, ["text"], dropped)] == ["a", "b", "c", "f"]
    assert dropped.counts == {"malformed_row": 3}
    assert dropped.places == {"malformed_row": f"line 4: over {most} bytes"}


def test_types_do_not_depend_on_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value has one form, whether its block was read by Arrow or line by line."""
    lines = [
        json.dumps({"text": f"dog {i}", "l": [i / 2], "o": {"a": [{}]}, "d": ["2020-01-01"]})
        for i in range(10)
    ]
    lines += [
        "{",
        '{"text": "dog", "l": [5]}',
        '{"text": 5, "l": [], "d": ["x"]}',
        '{"text": "dog", "new": {"x": 1}}',
    ]
    pool = write_lines(tmp_path / "p.jsonl", lines)
    (shard,) = shards_of(pool)
    whole = pa.Table.from_batches(list(read_batches(shard, None, DroppedRows())))
    for size in (100, 200, 500):
        monkeypatch.setattr(jsonl, "_BLOCK", size)
        assert pa.Table.from_batches(list(read_batches(shard, None, DroppedRows()))).equals(whole)
    assert whole.schema.field("l").type == pa.list_(pa.float64())
    assert whole["o"].to_pylist()[0] == '{"a": [{}]}'


def test_an_integer_in_a_column_of_floats() -> None:
    """An integer that no float is exactly becomes the nearest one, inside a list too."""
    schema = pa.schema([("x", pa.float64()), ("l", pa.list_(pa.float64()))])
    block = b'{"x": 1.5, "l": [1.5]}\n{\n{"x": %d, "l": [%d]}\n' % (1 << 70, (1 << 60) + 1)
    table = jsonl.parse_block(block, schema, lambda reason, place: None)
    assert table.to_pylist()[1] == {"x": 2.0**70, "l": [2.0**60]}


words = st.sampled_from(
    ["dog", "a cat", "none", "", "é photo", 'say "dog"', "dog\\n", "2020-01-01", "[[", "}{"]
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(allow_nan=False), words,
    st.lists(st.integers(0, 3), max_size=2), st.dictionaries(st.sampled_from("ab"), words, max_size=2),
)  # fmt: skip
objects = st.builds(
    lambda text, others: {"text": text, **others},
    words,
    st.dictionaries(st.sampled_from(["n", "m", "url"]), values, max_size=3),
).map(lambda row: json.dumps(row, ensure_ascii=False).encode())
broken = st.sampled_from(
    [b"", b" ", b"{", b"}", b"[]", b"null", b'{"text": "x"} {"text": "y"}', b'{"text":', b'"x"}', b"{\xff}", b"\xff", b'{"a" "b"}',
     b'{"text": "caf\xe9"}', b"\r", b'{"text": "x"}\r', b'  {"text": "x"} ', b'{"n": 01}']
)  # fmt: skip
json_lines = st.lists(st.one_of(objects, objects, broken), max_size=25)


def json_oracle(lines: Sequence[bytes]) -> tuple[list[bytes | None], int]:
    """Read lines of JSON in plain Python: (texts, malformed lines)."""
    texts: list[bytes | None] = []
    malformed = 0
    for line in lines:
        try:
            row = (
                json.loads(line.decode("utf-8", "surrogateescape"), strict=False)
                if line.strip()
                else None
            )
            if row is not None:
                texts.append(
                    None if row.get("text") is None else row["text"].encode("utf-8", "surrogateescape")
                )
            else:
                malformed += bool(line.strip())
        except (ValueError, AttributeError):
            malformed += 1
    return texts, malformed


@settings(max_examples=300)
@given(json_lines, st.sampled_from([40, 400, 1 << 24]), st.sampled_from([1, 3, 1000]))
def test_jsonl_agrees_with_plain_python(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], block: int, rows: int
) -> None:
    """For any lines, cut into blocks anywhere, both passes over a jsonl file see the rows that plain Python sees."""
    path = write_lines(tmp_path_factory.mktemp("jsonl") / "p.jsonl", lines)
    wanted, malformed = json_oracle(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "_BLOCK", block)
        patch.setattr(shards, "BATCH_ROWS", rows)
        for columns in (["text"], None):
            dropped = DroppedRows()
            batches = [
                batch for shard in shards_of(path) for batch in read_batches(shard, columns, dropped)
            ]
            texts = [
                t
                for batch in batches
                if "text" in batch.schema.names
                for t in batch["text"].cast(pa.binary()).to_pylist()
            ]
            # Without any row that has a text, there is no such column.
            assert texts == wanted or (columns is None and not any(wanted))
            assert dropped.counts.get("malformed_row", 0) == malformed


fields = st.sampled_from(
    [
        b"dog",
        b"",
        b"a cat",
        b'"x, y"',
        b'"line\nend"',
        b'say "hi"',
        b'"caf\xe9"',
        "é".encode(),
        b"\xff",
        b"1",
        b"#",
    ]
)
csv_lines = st.lists(st.lists(fields, min_size=1, max_size=4).map(b",".join) | st.just(b""), max_size=40)


@settings(max_examples=300)
@given(csv_lines, st.sampled_from([150, 1 << 24]), st.sampled_from([1, 3, 1000]))
def test_csv_agrees_with_plain_python(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], block: int, rows: int
) -> None:
    """For any rows, cut into blocks anywhere, both passes over a csv file see the rows of three fields, in order."""
    path = write_lines(tmp_path_factory.mktemp("csv") / "p.csv", [b"url,text,n", *lines])
    plain = list(filter(None, csv.reader(io.StringIO(b"\n".join(lines).decode("latin-1"), newline=""))))
    wanted = [row[1].encode("latin-1") for row in plain if len(row) == 3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK", block)
        patch.setattr(shards, "BATCH_ROWS", rows)
        for columns in (["text"], None):
            dropped = DroppedRows()
            batches = [
                batch for shard in shards_of(path) for batch in read_batches(shard, columns, dropped)
            ]
            assert [t for batch in batches for t in batch["text"].cast(pa.binary()).to_pylist()] == wanted
            assert dropped.counts.get("malformed_row", 0) == len(plain) - len(wanted)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_curated_rows_keep_their_url(form: str, tmp_path: Path) -> None:
    """Among thousands of malformed rows, every curated row has the url and the other columns of its own text."""
    lines: list[bytes] = [b"url,text,n"] if form == "csv" else []
    for i in range(5000):
        if form == "csv":
            lines.append(
                [
                    b"%d,dog %d,%d" % (i, i, i),
                    b"%d,none,x" % i,
                    b"%d,dog" % i,
                    b"",
                    b"\xff,\xff",
                    b'%d,"dog %d",7' % (i, i),
                ][i * 7 % 6]
            )
        else:
            n = [b"1", b'"s"', b"[]", b"null"][i * 5 % 4]
            lines.append(
                [
                    b'{"url": "%d", "text": "dog %d", "n": %s}' % (i, i, n),
                    b'{"url": "%d", "text": "none"}' % i,
                    b"{",
                    b"",
                    b"[%d]" % i,
                ][i * 7 % 5]
            )
    run = curated(write_lines(tmp_path / f"p.{form}", lines), tmp_path / "run")
    rows = run.curated.to_pylist()
    assert len(rows) == sum(b"dog " in line for line in lines) > 900
    assert all(row["text"] == f"dog {row['url']}" for row in rows)
    assert all(row["uid"] == hashlib.md5((row["text"] + row["url"]).encode()).hexdigest() for row in rows)
    assert run.account["funnel"]["malformed_row"] == (
        sum(line.count(b",") == 1 for line in lines) if form == "csv" else 2000
    )


def test_malformed_rows_are_noted(tmp_path: Path) -> None:
    """Malformed rows are named on standard error, with file, number and the first place; the command ends well."""
    (tmp_path / "list.txt").write_text("dog\n")
    pool = write_lines(tmp_path / "p.csv", ["url,text", "a,dog", "b", "c,dog", "d,e,f", "g,dog"])
    result = commands.done(
        "curate", pool, "--metadata", tmp_path / "list.txt", "--t", 2, "--out", tmp_path / "run"
    )
    assert result.err.splitlines() == [
        f"{pool}: 2 rows left out: line or row that is not of the file's form (first: row 3: 2 columns expected, 1 found)"
    ]


def test_files_of_different_columns(tmp_path: Path) -> None:
    """Each file's columns are found on their own; a file without a text column is lost, the others are not."""
    write_parquet(tmp_path / "pool" / "a.parquet", {"TEXT": ["dog a"], "URL": ["a"]})
    write_parquet(tmp_path / "pool" / "b.parquet", {"caption": ["dog b"]})
    write_parquet(tmp_path / "pool" / "c.parquet", {"title": ["dog c"]})
    run = curate(tmp_path / "pool", LIST, out=tmp_path / "run", t=5, options=RunOptions(allow_lost=True))
    assert run.account["funnel"]["kept"] == 2
    assert [item["name"] for item in run.match["lost"]] == ["c.parquet"]
    assert "c.parquet has no text column" in run.match["lost"][0]["error"]


@pytest.mark.parametrize("rows", [1, 4000])
def test_objects_of_any_number_of_names(rows: int, tmp_path: Path) -> None:
    """Fields that differ from object to object, ids as names, are refused before a table of columns times rows is made."""
    with (tmp_path / "p.jsonl").open("w") as file:
        for row in range(rows):
            fields = {f"k{row}_{i}": i for i in range(400_000 // rows)}
            file.write(json.dumps({"text": "a dog", **fields}) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "metaclip", "match", tmp_path / "p.jsonl", "--out", tmp_path / "run"],
        capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )  # fmt: skip
    assert done.returncode == 2
    assert "objects have over 10,000 fields of different names" in done.stderr


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_one_long_value_in_every_row(tmp_path: Path, kind: pa.DataType) -> None:
    """A parquet of some kB that repeats one value of 20 kB in 100,000 rows is read in batches that fit into memory."""
    texts = pa.DictionaryArray.from_arrays(
        pa.array([0] * 99_999 + [1], pa.int32()), ["x" * 20_000, "dog"]
    )
    path = tmp_path / "p.parquet"
    schema = pa.schema([("text", texts.type), ("n", pa.int64())])
    with pq.ParquetWriter(path, schema.set(0, pa.field("text", kind)), compression="zstd") as writer:
        for first in range(0, 100_000, 10_000):
            some = texts.slice(first, 10_000)
            some = some if kind == texts.type else some.cast(kind)
            writer.write_batch(
                pa.record_batch([some, pa.array(range(first, first + 10_000))], writer.schema)
            )
    assert path.stat().st_size < 1 << 20
    [shard] = shards_of(path)
    rows, last = 0, None
    for batch in read_batches(shard, ["text"], DroppedRows()):
        texts = plain_texts(batch.column("text"))
        assert texts.nbytes <= 1 << 27
        rows, last = rows + len(batch), texts[-1].as_py()
    assert (rows, last) == (100_000, "dog")


def test_a_text_over_the_limit_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of parquet has the limit of a line of jsonl: it is a malformed row, named by its place."""
    monkeypatch.setattr("metaclip.pool.columns.MAX_ROW", 100)
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"text": ["a dog", None, "dog" * 40, "a cat"], "n": [1, 2, 3, 4]}), path)
    [shard] = shards_of(path)
    dropped = DroppedRows()
    [batch] = read_batches(shard, None, dropped)
    texts = usable_texts(batch, Columns("text", None, None), 0, dropped)
    assert texts.to_pylist() == ["a dog", None, None, "a cat"]
    assert dropped.counts == {"null_text": 1, "malformed_row": 1}
    assert dropped.places["malformed_row"] == "row 2: its text has over 100 bytes"
