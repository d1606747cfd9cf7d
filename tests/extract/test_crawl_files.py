"""Which files a crawl has, and the bytes of a file, read with retries until they arrive or never will."""

from __future__ import annotations

import gzip
import hashlib
import random
import time
from pathlib import Path
from typing import Any

import pytest

from metaclip import __version__
from metaclip.errors import BrokenInput, MetaclipError
from metaclip.extract import crawl_files
from metaclip.extract.crawl_files import CrawlFile, CrawlFileReader, draw_sample, find_crawl_files
from metaclip.extract.settings import ExtractSettings
from metaclip.storage.retries import RetryPolicy
from tests.crawls import served

PLAIN = ExtractSettings()
PATIENCE = crawl_files.RETRY


def find(*given: Any, **settings: Any) -> list[tuple[str, str]]:
    return [(file.name, file.path) for file in find_crawl_files(list(given), ExtractSettings(**settings))]


# Which files ----------------------------------------------------------------------------------------------------------


def test_files_folders_and_globs(tmp_path: Path) -> None:
    """A folder has its WAT and WARC files, sorted, each once, named by the path below the folder of all."""
    for name in ("b.warc.wat.gz", "a/x.warc.gz", "a/notes.txt", "c.warc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = ["a/x.warc.gz", "b.warc.wat.gz", "c.warc"]
    assert find(tmp_path) == [(name, str(tmp_path / name)) for name in names]
    assert find(tmp_path / "*.gz", tmp_path / "a", tmp_path / "b.warc.wat.gz") == [
        (name, str(tmp_path / name)) for name in ("b.warc.wat.gz", "a/x.warc.gz")
    ]
    assert find(tmp_path / "a" / "notes.txt") == [
        ("notes.txt", str(tmp_path / "a" / "notes.txt"))
    ]  # by name, whatever it is
    (tmp_path / "d [1]*").mkdir()
    odd = tmp_path / "d [1]*" / "e%[2].warc"
    odd.touch()
    assert find(odd.as_uri()) == find(odd.parent) == find(odd.parent.as_uri()) == [(odd.name, str(odd))]
    assert find("S3://bucket/x.warc.gz") == find("s3://bucket/x.warc.gz")
    file = find_crawl_files(tmp_path / "c.warc", PLAIN)[0]
    assert file.size == 1
    assert file.stamp == str((tmp_path / "c.warc").stat().st_mtime_ns)


@pytest.mark.parametrize("packed", [False, True])
def test_lists(tmp_path: Path, packed: bool) -> None:
    """A list names files by paths below a prefix, or by addresses; remote files are not requested."""
    text = b"crawl-data/CC/1.warc.wat.gz\n\ncrawl-data/CC/2.warc.wat.gz\r\nhttps://e.org/3.warc.gz\n"
    path = tmp_path / ("wat.paths.gz" if packed else "wat.paths")
    path.write_bytes(gzip.compress(text) if packed else text)
    first, second = "crawl-data/CC/1.warc.wat.gz", "crawl-data/CC/2.warc.wat.gz"
    expected = [(name, "https://data.commoncrawl.org/" + name) for name in (first, second)]
    assert find(path) == [*expected, ("https://e.org/3.warc.gz", "https://e.org/3.warc.gz")]
    assert find(path, prefix="s3://commoncrawl")[0] == (first, "s3://commoncrawl/" + first)
    assert find(path, first=1) == expected[:1]
    (tmp_path / "crawl-data" / "CC").mkdir(parents=True)
    for name in (first, second):
        (tmp_path / name).write_bytes(b"x")
    assert find(path, prefix=str(tmp_path), first=2)[1] == (second, str(tmp_path / second))


def test_samples() -> None:
    """A sample is drawn without replacement, by seed alone, in the order given; a larger one contains a smaller one."""
    files = [CrawlFile(f"{i}.warc.gz", f"/{i}") for i in range(1000)]
    drawn = draw_sample(files, 100, 0)
    assert len({file.name for file in drawn}) == 100
    assert drawn == sorted(drawn, key=files.index)
    assert set(drawn) < set(draw_sample(files, 200, 0))
    assert draw_sample(files, 100, 1) != drawn
    assert set(draw_sample(files[::-1], 100, 0)) == set(drawn)
    assert draw_sample(files, 2000, 0) == files
    assert 30 < sum(files.index(file) < 500 for file in drawn) < 70


@pytest.mark.parametrize("given", ["none.warc.gz", "*.warc.gz", "none.paths", "."])
def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """A path, glob, list or folder without a file is refused with its name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MetaclipError) as raised:
        find_crawl_files(given, PLAIN)
    assert given in str(raised.value)


def test_a_list_that_is_damaged(tmp_path: Path) -> None:
    """A list that is cut off is refused instead of being read as a shorter one."""
    path = tmp_path / "wat.paths.gz"
    path.write_bytes(gzip.compress(b"a\n" * 10_000)[:-20])
    with pytest.raises(MetaclipError, match=r"wat.paths.gz is broken gzip"):
        find_crawl_files(path, PLAIN)


# Reading --------------------------------------------------------------------------------------------------------------

DATA = random.Random(0).randbytes(300_000)


def read(file: CrawlFile) -> tuple[bytes, CrawlFileReader]:
    """Read a file."""
    reader = CrawlFileReader(file)
    return b"".join(reader.blocks()), reader


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no second between tries."""
    monkeypatch.setattr(crawl_files, "RETRY", RetryPolicy(tries=4, first_wait=0.001))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in blocks of 25,000 bytes, so that a file takes several requests."""
    monkeypatch.setattr(crawl_files, "_REMOTE_BLOCK", 25_000)


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    (tmp_path / "a.warc.gz").write_bytes(DATA)
    return tmp_path


def test_a_local_file(crawl: Path) -> None:
    """A local file is read, with its digest and size."""
    data, reader = read(find_crawl_files(crawl, PLAIN)[0])
    assert data == DATA
    assert (reader.size, reader.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.mark.usefixtures("small_blocks")
def test_an_address_is_read_by_ranges(crawl: Path) -> None:
    """A remote file is read by ranges, one request each, with an honest user agent."""
    with served(crawl) as (address, requests):
        data, _ = read(CrawlFile("a", address + "a.warc.gz"))
    assert data == DATA
    first, *others = [headers["Range"] for *_, headers in requests]
    assert first == "bytes=0-0"
    assert sorted(others) == sorted(
        f"bytes={begin}-{begin + 24_999}" for begin in range(0, 300_000, 25_000)
    )
    assert {headers["User-Agent"] for *_, headers in requests} == {f"metaclip/{__version__}"}


def test_first_blocks_are_short() -> None:
    """Each block is twice as long as the one before, up to the largest; together they are the file."""
    assert list(crawl_files._ranges(100, 8, 30)) == [(0, 8), (8, 24), (24, 54), (54, 84), (84, 100)]
    assert list(crawl_files._ranges(5, 8, 30)) == [(0, 5)]


@pytest.mark.usefixtures("small_blocks")
def test_blocks_are_requested_ahead(crawl: Path) -> None:
    """While a block is extracted, the next eight are requested, and no more, in whatever order they arrive."""
    with served(crawl, lambda request, n: time.sleep(0.05 * (n % 3))) as (address, requests):
        reader = CrawlFileReader(CrawlFile("a", address + "a.warc.gz"))
        blocks = reader.blocks()
        first = next(blocks)
        time.sleep(0.5)
        assert 1 + 8 <= len(requests) <= 1 + 9
        assert first + b"".join(blocks) == DATA


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("refusal", [500, 503, 429, -1])
def test_failures_are_tried_again(crawl: Path, refusal: int) -> None:
    """After an error of the server or a broken connection, reading continues at the byte that was reached."""
    with served(crawl, lambda request, n: refusal if n % 3 == 0 else None) as (address, requests):
        data, reader = read(CrawlFile("a", address + "a.warc.gz"))
    assert data == DATA
    assert reader.sha256 == hashlib.sha256(DATA).hexdigest()
    assert len(requests) > 7


def test_waits_grow(crawl: Path) -> None:
    """Reading gives up after the last try; the waits double (`tests/storage/test_download.py`) up to a minute."""
    with served(crawl, lambda request, n: 503) as (address, requests):
        with pytest.raises(
            BrokenInput, match=r"a\.warc\.gz .* 4 tries in a row failed .*: try again later"
        ):
            read(CrawlFile("a", address + "a.warc.gz"))
    assert len(requests) == 4
    assert [PATIENCE.pause(failures) for failures in range(1, 8)] == [1, 2, 4, 8, 16, 32, 60]
    assert PATIENCE.tries == 8


@pytest.mark.parametrize("status", [404, 403, 410])
def test_what_will_never_be_there_is_asked_for_once(crawl: Path, status: int) -> None:
    """An answer that the file does not exist, or is forbidden, is final."""
    with served(crawl, lambda request, n: status) as (address, requests):
        with pytest.raises(BrokenInput, match=str(status)):
            read(CrawlFile("a", address + "a.warc.gz"))
    assert len(requests) <= 2  # HEAD and GET


@pytest.mark.usefixtures("small_blocks")
def test_a_server_without_ranges(crawl: Path) -> None:
    """A file is read from a server without ranges, after a failure again from the start."""
    with served(crawl, lambda request, n: 0 if n != 2 else -1) as (address, _):
        data, _ = read(CrawlFile("a", address + "a.warc.gz"))
    assert data == DATA


@pytest.mark.usefixtures("small_blocks")
def test_a_file_that_changes_between_tries(crawl: Path) -> None:
    """If a remote file changes between tries, its bytes are not mixed with the earlier ones."""

    def answer(request: Any, n: int) -> int | None:
        if n == 4:
            (crawl / "a.warc.gz").write_bytes(DATA + b"more")
            return 503
        return None

    with served(crawl, answer) as (address, _):
        with pytest.raises(BrokenInput, match="was changed while it was read"):
            read(CrawlFile("a", address + "a.warc.gz"))


def test_nobody_listens() -> None:
    """An unreachable host is retried, then named."""
    with pytest.raises(BrokenInput, match=r"127\.0\.0\.1.* 4 tries in a row failed"):
        read(CrawlFile("a", "http://127.0.0.1:9/a.warc.gz"))


def test_a_store_that_is_not_installed() -> None:
    """A protocol without an installed package is refused; the message names what is missing."""
    with pytest.raises(MetaclipError, match="nostore"):
        read(CrawlFile("a", "nostore://x/a.warc.gz"))
