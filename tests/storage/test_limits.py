"""What is read as a whole has a limit: a small compressed file that becomes gigabytes is refused, with the limit named."""

from __future__ import annotations

import bz2
import gzip
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources import dump
from metaclip.metadata.sources.packages import members_of
from metaclip.metadata.sources.pageviews import PageviewSettings, count_file
from metaclip.storage.files import MAX_FILE, gunzip, read_bytes
from tests import dumps

GIGABYTE = 1 << 30


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gigabyte of "a" in a megabyte of gzip."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(1 << 10):
            file.write(b"a" * (1 << 20))
    return path


def refused(*arguments: object, memory: int = 3 * GIGABYTE) -> str:
    """Run metaclip in little memory; it must exit with code 2 and one line. Return the line."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    command = [sys.executable, "-m", "metaclip", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=limit, timeout=100, check=False
    )
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        lambda bomb, folder: ("curate", folder / "p.csv", "--metadata", bomb, "--out", folder / "run"),
        lambda bomb, folder: ("lint", bomb),
        lambda bomb, folder: ("extract", _named(bomb, folder / "wat.paths.gz"), "--out", folder / "pool"),
        lambda bomb, folder: ("extract", bomb, "--opt-out", _sparse(folder / "urls.txt"), "--out", folder / "pool"),
        lambda bomb, folder: ("curate", folder / "p.csv", "--recipe", _sparse(folder / "r.toml"), "--out", folder / "run"),
    ],
    ids=["query list", "lint", "paths", "opt-out list", "recipe"],
)  # fmt: skip
def test_a_file_that_becomes_gigabytes(
    arguments: Callable[..., tuple[object, ...]], bomb: Path, tmp_path: Path
) -> None:
    """Lists and recipes are refused, with their name and the limit, before memory is full."""
    (tmp_path / "p.csv").write_text("text\na dog\n")
    line = refused(*arguments(bomb, tmp_path))
    assert "256 MiB" in line or "16 MiB" in line


def _named(bomb: Path, path: Path) -> Path:
    path.symlink_to(bomb)
    return path


def _sparse(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(8 * GIGABYTE)
    return path


def test_a_memory_error_is_one_line(tmp_path: Path) -> None:
    """Where memory ends all the same, that is said in one line."""
    path = tmp_path / "list.txt"
    path.write_bytes(b"a" * (MAX_FILE - 1))
    assert "memory" in refused("lint", path, memory=GIGABYTE)


def test_at_the_limit() -> None:
    """The limit itself is read."""
    assert len(gunzip(gzip.compress(bytes(MAX_FILE), 1), "x")) == MAX_FILE
    with pytest.raises(MetaclipError, match="x holds more than 256 MiB"):
        gunzip(gzip.compress(bytes(MAX_FILE + 1), 1), "x")


def test_many_members_take_linear_time() -> None:
    """A file of many small gzip members is not copied once for each of them."""
    assert gunzip(gzip.compress(b"ab") * 200_000, "x") == b"ab" * 200_000


def test_a_file_without_end() -> None:
    """A device that never ends is refused."""
    with pytest.raises(MetaclipError, match="/dev/zero holds more than 256 MiB"):
        read_bytes("/dev/zero", "the list")


def test_a_list_whose_parquet_becomes_gigabytes(tmp_path: Path) -> None:
    """A parquet of a few kB that holds one long entry millions of times is refused while it is read."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 20_000])
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"entry": long.cast(pa.large_string())}), path)
    assert path.stat().st_size < 100_000
    assert "1024 MiB" in refused("lint", path)


def test_a_member_of_an_archive(tmp_path: Path) -> None:
    """A member of a wheel that is larger than it looks is refused."""
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("words.txt", bytes(MAX_FILE + 1))
    with pytest.raises(MetaclipError, match=r"words.txt holds more than 256 MiB"):
        members_of(path.read_bytes(), ["words.txt"], "x.whl")


def test_a_page_of_a_dump(tmp_path: Path) -> None:
    """A page of a gigabyte, 1 kB of bzip2, is refused with the limit."""
    pytest.importorskip("mwxml", reason="needs metaclip[build]")
    path = tmp_path / "enwiki-pages-articles.xml.bz2"
    text = dumps.head().encode() + b"<page><title>x</title><text>" + b"a" * (200 << 20)
    path.write_bytes(bz2.compress(text + b"</text></page></mediawiki>"))
    with pytest.raises(MetaclipError, match="over 64 MiB"):
        list(dump.pages(path, 0, path.stat().st_size))


def test_a_line_of_pageviews(tmp_path: Path) -> None:
    """A line without end is refused."""
    path = tmp_path / "pageviews.gz"
    path.write_bytes(gzip.compress(b"en Dog 1 0\n" + bytes(1 << 28), 1))
    with pytest.raises(MetaclipError, match="a line of over 1 MiB"):
        count_file(
            path,
            lambda *_: None,
            settings=PageviewSettings(),
            folder=tmp_path,
        )
