"""The files of a pool: found by a file, a folder or a glob, on this machine or in a store."""

from __future__ import annotations

import errno
import os
import socket
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from metaclip import MetaclipError, Run, curate
from metaclip.pool.files import find_files
from tests import commands
from tests.pool.small_pools import (
    LIST,
    ROWS,
    TEXT_FORMS,
    TEXTS,
    URLS,
    curated,
    rows_of,
    write_lines,
    write_parquet,
)


def tree(folder: Path) -> list[str]:
    """Write one row into each of many files; return the names of those that belong to a pool, in order."""
    names = ["a.parquet", "b/c.parquet", "b/d/e.PARQUET", "f.pq"]
    for name in (*names, ".hidden.parquet", "_part.parquet", "b/.h/x.parquet", "b/_t/y.parquet"):
        write_parquet(folder / name, {"text": [name]})
    for name in ("_SUCCESS", "00000_stats.json", "notes.txt", "z.parquet.gz"):
        (folder / name).write_text("no pool")
    return names


def test_a_folder(tmp_path: Path) -> None:
    """A folder is all files of a pool's kind below it, sorted, without those hidden by a dot or an underscore."""
    names = tree(tmp_path)
    assert [file.name for file in find_files(tmp_path)] == names
    assert [row["text"] for row in rows_of(tmp_path)] == names
    assert [file.name for file in find_files(f"{tmp_path}/")] == names


def test_a_folder_of_hidden_files_is_empty(tmp_path: Path) -> None:
    """A hidden file does not make a folder a pool, but may be named itself."""
    hidden = write_parquet(tmp_path / "_a.parquet", {"text": ["a"]})
    with pytest.raises(MetaclipError, match="there is no pool in .*parquet.*jsonl"):
        find_files(tmp_path)
    assert [file.name for file in find_files(hidden)] == ["_a.parquet"]


def test_folders_that_are_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Links to files and folders elsewhere are part of a pool; each file is read once, and what is left out is named."""
    write_parquet(tmp_path / "store" / "x" / "a.parquet", {"text": ["a"]})
    write_parquet(tmp_path / "store" / "b.parquet", {"text": ["b"]})
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "folder").symlink_to(tmp_path / "store" / "x")
    (pool / "link.parquet").symlink_to(tmp_path / "store" / "b.parquet")
    assert [file.name for file in find_files(pool)] == ["folder/a.parquet", "link.parquet"]
    assert [file.name for file in find_files(f"{pool}/*/*.parquet")] == ["folder/a.parquet"]
    assert capsys.readouterr().err == ""
    (pool / "folder" / "loop").symlink_to(pool)
    (pool / "same").symlink_to(pool / "folder")
    (pool / "again.parquet").symlink_to(tmp_path / "store" / "x" / "a.parquet")
    write_parquet(pool / "own" / "c.parquet", {"text": ["c"]})
    (pool / "a_link").symlink_to(pool / "own")
    (pool / "hard.parquet").hardlink_to(pool / "own" / "c.parquet")
    assert [file.name for file in find_files(pool)] == ["again.parquet", "hard.parquet", "link.parquet"]
    named = [pool / "own" / "c.parquet", pool / "a_link" / "c.parquet", pool / "own"]
    assert [file.name for file in find_files(named)] == ["own/c.parquet"]
    said = capsys.readouterr().err
    assert "2 files that lead to files which other paths lead to are left out" in said
    assert f"(first: {pool}/folder/loop)" in said
    assert f"(first: {pool}/a_link)" in said


def test_hidden_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of a pool's form that are left out for their names are counted on standard error; others are not."""
    for name in ("a.parquet", "_b.parquet", ".c/d.parquet"):
        write_parquet(tmp_path / name, {"text": ["a"]})
    (tmp_path / "_SUCCESS").touch()
    assert [file.name for file in find_files(tmp_path)] == ["a.parquet"]
    assert "2 files whose names, or whose folders' names, begin with . or _" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe would be waited for without end: it is refused by name, alone or in a folder."""
    write_parquet(tmp_path / "a.parquet", {"text": ["a"]})
    monkeypatch.chdir(tmp_path)
    if kind == "pipe":
        os.mkfifo("b.jsonl")
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("b.jsonl")
    for pool in (tmp_path, tmp_path / "b.jsonl"):
        with pytest.raises(MetaclipError, match=r"b\.jsonl is no file but a pipe, a socket or a device"):
            find_files(pool)


def test_globs(tmp_path: Path) -> None:
    """A glob goes as deep as it says."""
    tree(tmp_path)
    assert [file.name for file in find_files(f"{tmp_path}/*.parquet")] == ["a.parquet"]
    assert [file.name for file in find_files(f"{tmp_path}/**/*.parquet")] == ["a.parquet", "b/c.parquet"]
    assert [file.name for file in find_files(f"{tmp_path}/b/?.parquet")] == ["c.parquet"]
    assert [file.name for file in find_files(f"{tmp_path}/[af].p*")] == ["a.parquet", "f.pq"]


@pytest.mark.parametrize("store", ["", "memory://"])
def test_folders_with_the_name_of_a_file(store: str, tmp_path: Path) -> None:
    """A folder that Spark calls a parquet file is read like one, under a glob too."""
    data = write_parquet(tmp_path / "p.parquet", {"text": ["a"]}).read_bytes()
    place = f"{store}{tmp_path}/out"
    for name in (
        "x.parquet/part-0.parquet",
        "x.parquet/_SUCCESS",
        "y.parquet/z=1/part-0.parquet",
        "other/part-0.parquet",
    ):
        with fsspec.open(f"{place}/{name}", "wb", auto_mkdir=True) as file:
            file.write(data)
    wanted = ["x.parquet/part-0.parquet", "y.parquet/z=1/part-0.parquet"]
    assert [file.name for file in find_files(f"{place}/*.parquet")] == wanted
    assert [file.name for file in find_files([f"{place}/x.parquet", f"{place}/y.parquet"])] == wanted


def test_a_name_that_looks_like_a_glob(tmp_path: Path) -> None:
    """A file or a folder with the characters of a glob in its name is that file or folder, also by a file:// address."""
    folder = tmp_path / "a [1] *?"
    path = write_parquet(folder / "a[1]%.parquet", {"text": ["a"]})
    for given in (path, folder, path.as_uri(), f"FILE://{urllib.parse.quote(str(folder))}/"):
        assert [file.path for file in find_files(given)] == [str(path)]


def test_one_pool_however_it_is_named(tmp_path: Path) -> None:
    """A folder, a glob of it and its files one by one are the same pool, by names, paths and order."""
    folder = tmp_path / "pool"
    paths = [write_parquet(folder / f"{name}.parquet", {"text": [name]}) for name in "abc"]
    wanted = find_files(folder)
    assert (
        find_files(paths) == find_files(f"{folder}/*.parquet") == find_files(f"file://{folder}") == wanted
    )
    assert [file.name for file in wanted] == ["a.parquet", "b.parquet", "c.parquet"]


def test_files_of_one_name_are_two(tmp_path: Path) -> None:
    """Files that have one name in two folders stay apart: each curated row comes from its own file."""
    paths = [
        write_parquet(tmp_path / year / "p.parquet", {"url": [year], "text": [f"dog {year}"]})
        for year in ("1", "2")
    ]
    assert [file.name for file in find_files(paths)] == ["1/p.parquet", "2/p.parquet"]
    rows = curated(paths, tmp_path / "run").curated.to_pylist()
    assert sorted((row["url"], row["text"]) for row in rows) == [("1", "dog 1"), ("2", "dog 2")]


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    """A file that stands in two of the paths is one file of the pool."""
    path = write_parquet(tmp_path / "p.parquet", {"text": ["dog"]})
    assert len(find_files([path, tmp_path, f"{tmp_path}/*.parquet"])) == 1


@pytest.mark.parametrize("form", ["parquet", "jsonl", "jsonl.gz", "csv"])
def test_a_pool_behind_fsspec(form: str, tmp_path: Path) -> None:
    """A pool in a store that fsspec opens is curated to the same pairs as a local one."""
    local, remote = tmp_path / f"p.{form}", f"memory://{tmp_path.name}/deep/p.{form}"
    if form == "parquet":
        write_parquet(local, {"url": URLS, "text": TEXTS}, row_group_size=2)
    else:
        with pa.output_stream(str(local), compression="detect") as file:
            file.write(TEXT_FORMS[form.split(".")[0]](ROWS))
    with fsspec.open(remote, "wb") as file:
        file.write(local.read_bytes())
    here = curated(local, tmp_path / "here")
    for i, place in enumerate((remote, remote.rpartition("/")[0], remote.replace("p.", "*."))):
        there = curated(place, tmp_path / f"there{i}")
        assert there.curated.equals(here.curated)
        assert there.account["result_digest"] == here.account["result_digest"]
        assert [item["name"] for item in there.account["inputs"]] == [f"p.{form}"]


def test_mixed_forms_are_refused(tmp_path: Path) -> None:
    """A pool of several forms is refused, naming them."""
    write_parquet(tmp_path / "a.parquet", {"text": ["a"]})
    write_lines(tmp_path / "b.jsonl", ['{"text": "b"}'])
    with pytest.raises(MetaclipError, match="mixes jsonl and parquet files; give one kind by a glob"):
        find_files(tmp_path)


@pytest.mark.parametrize(
    "place", ["nowhere", "nowhere.parquet", "nowhere/*.parquet", "empty", "notes.txt"]
)
def test_no_pool(place: str, tmp_path: Path) -> None:
    """A path without a pool is named in the error."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(MetaclipError, match=f"there is no pool (at|in) .*{place.replace('*', '.')}"):
        find_files(tmp_path / place)


def test_no_path_at_all() -> None:
    """An empty list of paths is no pool."""
    with pytest.raises(MetaclipError, match="no pool is given"):
        find_files([])


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the pool that cannot be read is an error, not skipped."""
    tree(tmp_path)
    scan = os.scandir

    def denied(path: str) -> Any:
        if path.endswith("/b/d"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(MetaclipError, match="cannot be listed .*Permission denied.*/b/d"):
        find_files(tmp_path)


def test_a_store_that_does_not_exist() -> None:
    """A protocol that fsspec does not know is one line that names the pool."""
    with pytest.raises(MetaclipError, match=r"the pool nosuch://x/y\.parquet cannot be listed"):
        find_files("nosuch://x/y.parquet")


def test_a_dangling_link(tmp_path: Path) -> None:
    """A link to a missing file costs this file: exit code 3, and the rest of the pool is matched."""
    write_parquet(tmp_path / "pool" / "a.parquet", {"text": ["a dog"]})
    (tmp_path / "pool" / "b.parquet").symlink_to(tmp_path / "gone.parquet")
    (tmp_path / "list.txt").write_text("dog\n")
    given = ["match", tmp_path / "pool", "--metadata", tmp_path / "list.txt", "--out", tmp_path / "run"]
    done = commands.call(*given)
    assert done.code == 3
    assert "1 of 2 inputs were lost" in done.err
    assert "b.parquet is gone" in done.err
    write_parquet(tmp_path / "gone.parquet", {"text": ["another dog"]})
    commands.done(*given)
    assert Run(tmp_path / "run").match["funnel"]["matched"] == 2


def test_uuids_of_parquet_are_uids(tmp_path: Path) -> None:
    """A column of parquet's UUID type is a column of uids."""
    numbers = [uuid.UUID(int=i << 120 | i) for i in range(3)]
    ids = pa.array([number.bytes for number in numbers], pa.uuid())
    write_parquet(tmp_path / "a.parquet", {"text": ["a dog"] * 3, "uid": ids})
    run = curate(tmp_path / "a.parquet", ["dog"], t=5, out=tmp_path / "run")
    assert run.curated["uid"].to_pylist() == [number.hex for number in numbers]


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    """A file whose name is not valid UTF-8 is refused by name."""
    path = write_parquet(tmp_path / "caf.parquet", {"text": ["a"]})
    path.rename(tmp_path / b"caf\xe9.parquet".decode("utf-8", "surrogateescape"))
    with pytest.raises(MetaclipError, match=r"caf\\udce9\.parquet' is not valid UTF-8.*rename"):
        find_files(tmp_path)


def test_a_run_folder_is_no_pool(tmp_path: Path) -> None:
    """A run folder given as a pool is refused with a hint at curated/, also if the run was only matched."""
    pool = write_parquet(tmp_path / "p.parquet", {"text": TEXTS})
    curated(pool, tmp_path / "run")
    with pytest.raises(
        MetaclipError,
        match="run is a run folder, not a pool; its curated pairs are the pool .*run/curated",
    ):
        find_files(tmp_path / "run")
    from metaclip import balance, match

    match(pool, LIST, out=tmp_path / "matched")
    with pytest.raises(MetaclipError, match="matched is a run folder, not a pool; balance it first"):
        find_files(tmp_path / "matched")
    balance(tmp_path / "matched", out=tmp_path / "elsewhere")
    with pytest.raises(MetaclipError, match="the pool .*elsewhere/curated"):
        find_files(tmp_path / "elsewhere")
