"""Tars as a pool: every sample a row, in order, as `tarfile` and webdataset read it; and whatever is wrong is said."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip import MatchSettings, MetaclipError, Run, curate
from metaclip.errors import BrokenInput
from metaclip.pool import tars
from metaclip.pool.columns import DroppedRows
from metaclip.pool.files import find_files
from metaclip.pool.shards import Shard, read_batches
from metaclip.pool.tar_format import END, NAME_BYTES, ForwardReader, header, padded, read_members
from metaclip.pool.uid import uid_of
from tests import commands
from tests.training.shards import Content, jpeg, read_tar, sample, uid, write_shards, write_tar

LIST = ["dog", "cat", "photo"]


def rows_of(
    path: Any,
    columns: list[str] | None = None,
    dropped: DroppedRows | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    found = dropped or DroppedRows()
    shards = [Shard(file, i, rows=limit) for i, file in enumerate(find_files(path))]
    return [
        row
        for shard in shards
        for batch in read_batches(shard, columns, found)
        for row in batch.to_pylist()
    ]


def curated(pool: Any, out: Path, **settings: Any) -> Run:
    return curate(pool, LIST, out=out, t=1e9, settings=MatchSettings(**settings))


def our_members(data: bytes) -> list[tuple[str, bytes]]:
    stream = ForwardReader(io.BytesIO(data))
    return [
        (m.name.decode("utf-8", "surrogateescape"), stream.read(m.data, m.size))
        for m in read_members(stream.read)
    ]


# The format -----------------------------------------------------------------------------------------------------------

NAMES = st.text(st.sampled_from("ab/.é\u4e2d-_ 0"), min_size=1, max_size=300).filter(
    lambda name: not name.endswith("/") and name.strip("/") == name and "//" not in name
)


@settings(max_examples=60)
@given(
    files=st.lists(st.tuples(NAMES, st.binary(max_size=1100)), max_size=6),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_of_tarfile(
    files: list[tuple[str, bytes]], form: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Names of any length and content of any size are read as `tarfile` wrote and reads them, in GNU's form and in pax."""
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", files, form)
    assert our_members(path.read_bytes()) == read_tar(path) == files


def test_a_long_name_in_ustars_prefix(tmp_path: Path) -> None:
    """A ustar name of over 100 bytes stands in two fields."""
    name = "a" * 80 + "/" + "b" * 80 + ".jpg"
    path = write_tar(tmp_path / "x.tar", [(name, b"1")], tarfile.USTAR_FORMAT)
    assert our_members(path.read_bytes()) == [(name, b"1")]


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    """Folders, pipes and devices are no members, links have no bytes, and what follows them is read."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (
            tarfile.DIRTYPE,
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.FIFOTYPE,
            tarfile.CHRTYPE,
        ):
            info = tarfile.TarInfo(f"k{kind.decode()}")
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0
            tar.addfile(info)
        info = tarfile.TarInfo("a.txt")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"dog"))
    assert our_members(path.read_bytes()) == [("k2", b""), ("k1", b""), ("a.txt", b"dog")]


def test_a_size_beyond_eight_gibibytes() -> None:
    """Sizes that octal digits cannot hold are read and written in base 256."""
    size = (1 << 33) + 5
    head = header(b"a.jpg", size)
    assert tarfile.TarInfo.frombuf(head, "utf-8", "strict").size == size
    assert [
        m.size for m in read_members(ForwardReader(io.BytesIO(head)).read, end=512 + padded(size))
    ] == [size]


@given(
    name=st.binary(min_size=1, max_size=NAME_BYTES).filter(
        lambda n: b"\0" not in n and not n.endswith(b"/")
    ),
    size=st.integers(0, 1 << 34),
)
def test_a_header_is_tarfiles(name: bytes, size: int) -> None:
    """`header` makes a header with the length, checksum, name and size that `tarfile` reads."""
    head = header(name, size)
    assert len(head) == 512
    info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    assert (info.name.encode("utf-8", "surrogateescape"), info.size, info.isreg()) == (name, size, True)


def test_a_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """A tar that was cut at any block, between two members too, is an error and not a shorter tar."""
    whole = write_shards(tmp_path, [3])[0].read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    assert len(our_members(whole + END)) == 9
    for cut in range(0, len(whole) + 1, 256):
        with pytest.raises(ValueError, match=r"cut off|in the middle of a member"):
            our_members(whole[:cut])


@pytest.mark.parametrize("place", [0, 124, 150, 511])
def test_a_damaged_header_is_refused(place: int, tmp_path: Path) -> None:
    """A header whose sum does not fit is an error that names the place."""
    data = bytearray(write_shards(tmp_path, [2])[0].read_bytes())
    data[place] ^= 0x15
    with pytest.raises(ValueError, match="no tar header at byte 0"):
        our_members(bytes(data))


def test_no_tar_at_all() -> None:
    """Bytes that are not a tar are refused."""
    with pytest.raises(ValueError, match="no tar header"):
        our_members(b"\xff\xd8\xff" * 700)


# Samples --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("000.jpg", ("000", "jpg")),
        ("000.seg.PNG", ("000", "seg.png")),
        ("a/b.c/000.jpg", ("a/b.c/000", "jpg")),
        ("../../000.jpg", ("../../000", "jpg")),
        ("/000.jpg", ("/000", "jpg")),
        ("000", None),
        ("a.b/000", None),
        (".jpg", None),
        ("a/.jpg", None),
        ("__meta__/000.jpg", None),
        ("__x__", None),
        ("000.", ("000", "")),
    ],
)
def test_a_name_is_split_as_webdataset_does(name: str, parts: tuple[str, str] | None) -> None:
    """Key and suffix part at the first dot of the last part of a name."""
    found = tars.split_name(name.encode())
    assert (found and tuple(part.decode() for part in found)) == parts


def test_names_are_split_as_by_webdataset_itself(tmp_path: Path) -> None:
    """Samples are those that webdataset makes of the same tar: keys, suffixes, contents."""
    iterators = pytest.importorskip("webdataset.tariterators")
    files: list[tuple[str, Content]] = [
        ("a/1.jpg", b"1"), ("a/1.txt", "dog"), ("b/1.jpg", b"2"), ("b/1.cls.TXT", "3"), ("b/1.txt", "cat"), ("noext", b"x"),
        ("c.d/2.txt", "photo"), ("__m__/3.txt", "x"), ("4.json", {"uid": "ab"}),
    ]  # fmt: skip
    path = write_tar(tmp_path / "x.tar", files)
    with path.open("rb") as stream:
        found = iterators.group_by_keys(iterators.tar_file_expander([{"url": "x", "stream": stream}]))
        theirs = [{key: value for key, value in sample.items() if key != "__url__"} for sample in found]
    data = path.read_bytes()
    ours = [
        {
            "__key__": s.key.decode(),
            **{x.decode(): data[m.data : m.data + m.size] for x, m in s.members.items()},
        }
        for s in tars.read_samples(io.BytesIO(data))
    ]
    assert ours == theirs


def test_a_suffix_that_comes_again_begins_a_sample(tmp_path: Path) -> None:
    """Two samples of one key that follow each other stay two."""
    path = write_tar(tmp_path / "x.tar", [("1.txt", "dog"), ("1.json", {}), ("1.txt", "cat")])
    assert [row["text"] for row in rows_of(path)] == ["dog", "cat"]


# Rows -----------------------------------------------------------------------------------------------------------------


def test_img2datasets_tars(tmp_path: Path) -> None:
    """Text, url, uid and all other fields come through; the text is the .txt, and the uid upstream's."""
    write_shards(tmp_path / "tars", [3, 0, 2])
    assert rows_of(tmp_path / "tars") == [
        {"__key__": f"{n:09d}", "text": f"a photo of dog {n}", "uid": uid(n), "json.caption": f"a photo of dog {n}",
         "url": f"https://example.org/{n}.jpg", "key": f"{n:09d}", "status": "success", "error_message": None, "width": 12, "height": 10}
        for n in range(5)
    ]  # fmt: skip
    run = curated(tmp_path / "tars", tmp_path / "run")
    assert run.curated["uid"].to_pylist() == [uid(n) for n in range(5)]
    assert run.curated["width"].to_pylist() == [12] * 5


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst", ".TAR"])
def test_every_codec(suffix: str, tmp_path: Path) -> None:
    """A compressed tar, where nothing can be skipped by a seek, has the same rows."""
    plain = write_shards(tmp_path / "plain", [5])[0]
    other = tmp_path / f"other{suffix}"
    with pa.output_stream(str(other), compression="detect") as file:
        file.write(plain.read_bytes())
    assert rows_of(other) == rows_of(plain)


def test_a_remote_tar(tmp_path: Path) -> None:
    """A tar that fsspec opens has the same rows."""
    import fsspec

    path = write_shards(tmp_path, [4])[0]
    with fsspec.open("memory://tars/00000.tar", "wb") as file:
        file.write(path.read_bytes())
    assert rows_of("memory://tars") == rows_of(path)


def test_uids_are_those_of_the_table(tmp_path: Path) -> None:
    """Without a uid in .json, a tar gives the uid that the same pairs have in a table: md5 of text and url."""
    files = [file for n in range(3) for file in sample(n)]
    files = [
        (name, {k: v for k, v in content.items() if k != "uid"} if isinstance(content, dict) else content)
        for name, content in files
    ]
    run = curated(write_tar(tmp_path / "x.tar", files), tmp_path / "run")
    assert run.curated["uid"].to_pylist() == [
        uid_of(f"a photo of dog {n}", f"https://example.org/{n}.jpg") for n in range(3)
    ]


@pytest.mark.parametrize("name", ["text", "caption", "ALT"])
def test_a_tar_without_txt(name: str, tmp_path: Path) -> None:
    """Where no sample has a .txt, the text is found among the fields."""
    path = write_tar(
        tmp_path / "x.tar", [("1.jpg", b"x"), ("1.json", {name: "a dog"}), ("2.json", {"n": 1})]
    )
    run = curated(path, tmp_path / "run")
    assert run.curated[name].to_pylist() == ["a dog"]
    assert run.account["funnel"]["null_text"] == 1


def test_the_text_is_the_txt_and_any_field_by_request(tmp_path: Path) -> None:
    """The .txt comes first, a field that could be taken for it is renamed, and a flag chooses that one."""
    files = [("1.txt", "a dog"), ("1.json", {"text": "a cat", "caption": "no match", "uid": "1"})]
    path = write_tar(tmp_path / "x.tar", files)
    assert curated(path, tmp_path / "one").curated["text"].to_pylist() == ["a dog"]
    run = curated(path, tmp_path / "two", text_column="json.text")
    assert run.curated["matches"].to_pylist() == [[1]]
    assert curated(tmp_path / "one" / "curated", tmp_path / "three").curated.equals(
        curated(path, tmp_path / "one").curated
    )


def test_several_fields_that_could_be_the_text(tmp_path: Path) -> None:
    """Without a .txt, two candidates are an error that names the flag."""
    path = write_tar(tmp_path / "x.tar", [("1.json", {"text": "a", "caption": "b"})])
    with pytest.raises(BrokenInput, match="text_column="):
        curated(path, tmp_path / "run")


def test_what_is_missing_is_counted_by_reason(tmp_path: Path) -> None:
    """Broken .json, no .txt, no .json, text that is not UTF-8 or empty: each a reason, and the funnel adds up."""
    path = write_tar(tmp_path / "x.tar", [
        *sample(1), ("2.jpg", b"x"), ("2.json", b"{broken"), ("2.txt", "a dog"), ("3.json", b"[1, 2]"), ("3.txt", "a dog"),
        ("4.json", {"uid": "4"}), ("5.txt", "a dog"), ("6.txt", b"\xff dog"), ("7.txt", b""), ("8.json", b""), ("8.txt", "a dog"), *sample(9),
        ("10.json", b'{"uid": "a\xffb"}'), ("10.txt", "a cat"), ("11.jpg", b"y"),
    ])  # fmt: skip
    run = curated(path, tmp_path / "run")
    funnel = {key: rows for key, rows in run.account["funnel"].items() if rows}
    assert funnel == {
        "rows": 11,
        "malformed_row": 3,
        "null_text": 2,
        "invalid_utf8": 1,
        "empty_text": 1,
        "matched": 4,
        "kept": 4,
    }
    dropped = DroppedRows()
    rows_of(path, ["key"], dropped)
    assert dropped.places["malformed_row"].startswith("sample 2: its .json: ")


def test_why_a_json_is_malformed(tmp_path: Path) -> None:
    """A malformed sample is named, with what is wrong with it."""
    dropped: list[str] = []
    path = write_tar(
        tmp_path / "x.tar",
        [("1.json", b"[1]"), ("1.txt", "a"), ("2.json", b"  "), ("2.txt", "a"), ("3.txt", "a")],
    )
    (file,) = find_files(path)
    found = list(tars.read_batches(file, ["text"], lambda reason, place: dropped.append(place)))
    assert dropped == ["sample 1: its .json: a JSON list, not an object", "sample 2: its .json: empty"]
    assert [row for batch in found for row in batch["text"].to_pylist()] == ["a"]


@settings(max_examples=30)
@given(broken=st.sets(st.integers(0, 39)), limit=st.none() | st.integers(1, 45))
def test_any_samples_may_be_broken(
    broken: set[int], limit: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whichever samples are malformed, the others come through in order, the first `limit` of them with a limit."""
    files = [
        (name, b"{" if n in broken and name.endswith("json") else content)
        for n in range(40)
        for name, content in sample(n)
    ]
    dropped = DroppedRows()
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", files)
    rows = rows_of(path, ["text", "uid"], dropped, limit)
    good = [n for n in range(40) if n not in broken]
    assert [row["uid"] for row in rows] == [uid(n) for n in good][:limit]
    last = good[limit - 1] if limit is not None and limit <= len(good) else 40
    assert dropped.counts.get("malformed_row", 0) == len([n for n in broken if n < last])


def test_fields_of_several_types(tmp_path: Path) -> None:
    """A column has the type of all its values, far from the head too; what is of several kinds is text."""
    files: list[tuple[str, Content]] = []
    for n in range(5000):
        files += [
            (f"{n}.txt", "a dog"),
            (f"{n}.json", {"n": n, "late": n} if n != 4500 else {"n": 0.5, "late": "x", "new": [1]}),
        ]
    path = write_tar(tmp_path / "x.tar", files)
    rows = rows_of(path)
    assert (rows[4499]["n"], rows[4500]["n"]) == (4499.0, 0.5)
    assert (rows[4499]["late"], rows[4500]["late"]) == ("4499", "x")
    assert (rows[4499]["new"], rows[4500]["new"]) == (None, [1])
    assert [row["n"] for row in rows_of(path, ["n"])][4499:4501] == ["4499", "0.5"]


def test_what_is_in_a_tar_was_downloaded(tmp_path: Path) -> None:
    """A sample without img2dataset's status, among others that have it, is a row like these."""
    run = curated(write_tar(tmp_path / "x.tar", [*sample(1), ("2.txt", "a dog")]), tmp_path / "run")
    assert run.account["funnel"]["not_downloaded"] == 0
    assert run.curated["status"].to_pylist() == ["success", None]
    again = curated(tmp_path / "run" / "curated", tmp_path / "again")
    assert again.account["funnel"]["kept"] == 2


def test_img2datasets_folder(tmp_path: Path) -> None:
    """Where img2dataset's parquet stands beside the tar, it is the pool: it has the failures too."""
    write_shards(tmp_path / "out", [2])
    import pyarrow.parquet as pq

    table = {
        "caption": ["a dog", None],
        "key": ["0", "1"],
        "status": ["success", "failed_to_download"],
        "error_message": [None, "404"],
    }
    pq.write_table(pa.table(table), tmp_path / "out" / "00000.parquet")
    assert [file.form for file in find_files(tmp_path / "out")] == ["parquet"]
    assert [file.name for file in find_files(tmp_path / "out", form="tar")] == ["00000.tar"]
    assert [file.form for file in find_files(tmp_path / "out" / "*.tar")] == ["tar"]
    write_shards(tmp_path / "out", [2, 2])
    with pytest.raises(MetaclipError, match="mixes parquet and tar"):
        find_files(tmp_path / "out")


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_a_member_that_is_too_long(suffix: str, tmp_path: Path) -> None:
    """A .txt or .json of more than 16 MB makes its sample malformed, with the size and the limit."""
    large = b"x" * ((1 << 24) + 1)
    files = [
        (name, large if name.endswith(suffix) and n == 1 else content)
        for n in range(3)
        for name, content in sample(n)
    ]
    dropped = DroppedRows()
    rows = rows_of(write_tar(tmp_path / "x.tar.gz", files, mode="w:gz"), None, dropped)
    assert [row["uid"] for row in rows] == [uid(0), uid(2)]
    assert dropped.places == {
        "malformed_row": f"sample 000000001: its .{suffix} has 16777217 bytes, at most 16777216 are read"
    }


# What is wrong --------------------------------------------------------------------------------------------------------


def test_a_truncated_tar_is_lost_and_the_rest_is_kept(tmp_path: Path) -> None:
    """A tar that was cut off is named, and costs nothing but itself."""
    paths = write_shards(tmp_path / "tars", [3, 3])
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:5000])
    result = commands.call(
        "curate", tmp_path / "tars", "--metadata", _list(tmp_path), "--out", tmp_path / "run"
    )
    assert result.code == 3
    assert re.search(r"00001\.tar cannot be read as tar \(it .*fetch or make the file again", result.err)
    paths[1].write_bytes(whole)
    run = curated(tmp_path / "tars", tmp_path / "again")
    assert run.account["funnel"]["kept"] == 6


def test_a_truncated_gzip(tmp_path: Path) -> None:
    """A compressed tar that was cut off is named too."""
    data = gzip.compress(write_shards(tmp_path, [3])[0].read_bytes())
    (tmp_path / "x.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(BrokenInput, match="x.tar.gz cannot be read as tar"):
        rows_of(tmp_path / "x.tar.gz")


def test_tars_without_texts(tmp_path: Path) -> None:
    """Tars of images alone are refused with what was found and looked for."""
    path = write_tar(tmp_path / "x.tar", [("1.jpg", jpeg()), ("1.cls", b"3")])
    line = commands.refused("curate", path, "--metadata", _list(tmp_path), "--out", tmp_path / "run")
    assert "none of its first 1 samples has a .txt or a .json, the first has .jpg, .cls" in line
    only = write_tar(tmp_path / "y.tar", [("1.jpg", jpeg()), ("1.json", {"uid": "1"})])
    line = commands.refused("curate", only, "--metadata", _list(tmp_path), "--out", tmp_path / "run2")
    assert "y.tar has no text column" in line


def test_names_that_leave_the_folder_are_values(tmp_path: Path) -> None:
    """Whatever a member is called, nothing is written by its name."""
    path = write_tar(
        tmp_path / "tars" / "x.tar",
        [("../../evil.txt", "a dog"), ("/abs/evil.txt", "a cat"), ("a/../b.txt", "a photo")],
    )
    run = curated(path, tmp_path / "run")
    assert run.curated["__key__"].to_pylist() == ["../../evil", "/abs/evil", "a/../b"]
    assert not list(tmp_path.rglob("*evil*"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "tars"]


def test_a_tar_in_which_no_download_succeeded(tmp_path: Path) -> None:
    """An empty tar is a pool of no rows; a file of no bytes is none."""
    write_shards(tmp_path / "tars", [0, 2])
    assert curated(tmp_path / "tars", tmp_path / "run").account["funnel"]["rows"] == 2
    (tmp_path / "tars" / "00000.tar").write_bytes(b"")
    with pytest.raises(MetaclipError, match="00000.tar cannot be read as tar"):
        curated(tmp_path / "tars", tmp_path / "run2")


def test_cc12m(data_folder: Path) -> None:
    """A real shard of CC12M: 32 samples, as `tarfile` reads them."""
    path = data_folder / "images" / "cc12m-train-0000.tar"
    rows = rows_of(path)
    theirs = {name: data for name, data in read_tar(path) if name.endswith(".txt")}
    assert {f"{row['__key__']}.txt": row["text"].encode() for row in rows} == theirs
    assert len(rows) == 32
    assert all(row["url"].startswith("http") and row["width"] for row in rows)


def _list(folder: Path) -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(LIST) + "\n")
    return path
