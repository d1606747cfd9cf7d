"""A crawl on S3, and a pool written to S3, equal the local ones, also in parts and after a loss."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from metaclip.stage.folder import Folder
from metaclip.storage.remote import RemotePath
from tests import commands
from tests.crawls import packed, photos
from tests.remote.conftest import Through
from tests.remote.servers import key_of

pytest.importorskip("isal", reason="needs metaclip[crawl]")
pytestmark = pytest.mark.extra

FILES = 5


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local files of pages; some images occur in several of them."""
    folder = tmp_path_factory.mktemp("crawl")
    for i in range(FILES):
        pages = [photos(7 * (i + j), 12, "https://example.org/p") for j in range(5)]
        (folder / f"{i}.warc.wat.gz").write_bytes(packed(pages))
    return folder


@pytest.fixture(scope="module")
def wanted(crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The local pool of the crawl."""
    commands.done(*extract(crawl, tmp_path_factory.mktemp("wanted") / "pool"))
    return tmp_path_factory.getbasetemp() / "wanted0" / "pool"


@pytest.fixture
def there(crawl: Path, store: RemotePath) -> RemotePath:
    """The crawl on S3."""
    for path in crawl.iterdir():
        (store / "crawl" / path.name).upload(path)
    return store / "crawl"


def extract(crawl: Any, out: Any, *more: Any) -> list[Any]:
    return ["extract", "--no-identify", "--workers", 1, str(crawl), "--out", str(out), *more]


def pairs(pool: Any) -> dict[str, str]:
    """The sha256 of each file of a pool without the column that names the crawl's file, and the funnel."""
    import pyarrow.parquet as pq

    with Folder(pool).path.local_folder() as here:
        tables = {
            path.name: pq.read_table(path).drop_columns(["source_file"])
            for path in here.glob("*.parquet")
        }
        found = {
            name: hashlib.sha256(str(table.to_pylist()).encode()).hexdigest()
            for name, table in tables.items()
        }
        return found | {"funnel": json.dumps(json.loads((here / "manifest.json").read_text())["funnel"])}


@pytest.mark.parametrize("how", ["folder", "glob", "list", "here"])
def test_the_pool_is_the_same(
    how: str, crawl: Path, there: RemotePath, wanted: Path, store: RemotePath, tmp_path: Path
) -> None:
    """A folder, a glob, a list of addresses and a local crawl give the same pool on S3; nothing else is left there."""
    source: Any = {
        "folder": there,
        "glob": there / "*.gz",
        "list": store / "wat.paths.gz",
        "here": crawl,
    }[how]
    if how == "list":
        names = "".join(f"{there}/{i}.warc.wat.gz\n" for i in range(FILES))
        (store / "wat.paths.gz").put(gzip.compress(names.encode()))
    done = commands.done(*extract(source, store / "pool"))
    assert pairs(store / "pool") == pairs(wanted)
    left = [
        name
        for name in (store / "pool").sizes()
        if name.startswith(".state") and not name.endswith(".json")
    ]
    assert left == []
    if how == "folder":
        assert commands.done(*extract(source, store / "pool")).out == done.out
        commands.done(*extract(source, tmp_path / "pool"))
        assert pairs(tmp_path / "pool") == pairs(wanted)
        commands.done(
            "curate", str(store / "pool"), "--metadata", Path(__file__).parents[2] / "metadata" / "toy.txt", "--t", 5,
            "--out", str(store / "run"),
        )  # fmt: skip


@pytest.mark.slow
def test_parts_of_a_job_array(there: RemotePath, wanted: Path, store: RemotePath) -> None:
    """Two parts, each with worker processes, make the same pool; the last one writes it."""
    commands.done(*extract(there, store / "pool", "--part", "1/2", "--workers", 2))
    assert not (store / "pool" / "manifest.json").exists()
    commands.done(*extract(there, store / "pool", "--part", "2/2", "--workers", 2))
    assert pairs(store / "pool") == pairs(wanted)


def test_a_file_that_is_refused_is_lost_and_retried(
    there: RemotePath, wanted: Path, store: RemotePath, through: Through
) -> None:
    """A file that is refused is listed, exit code 3; the same command reads it once it is allowed."""
    with through(
        lambda request: (403, "AccessDenied") if key_of(request).endswith("/3.warc.wat.gz") else None
    ):
        done = commands.call(*extract(there, store / "pool"))
    assert done.code == 3
    assert "1 of 5 inputs were lost" in done.err
    assert f"{there}/3.warc.wat.gz: access is refused" in done.err
    commands.done(*extract(there, store / "pool"))
    assert pairs(store / "pool") == pairs(wanted)


def test_what_is_wrong_is_one_line(store: RemotePath, crawl: Path) -> None:
    """A folder without a crawl, a missing bucket and an address with a secret are each reported in one line."""
    (store / "x.txt").put(b"x")
    assert f"there is no crawl in {store}" in commands.refused(*extract(store, store / "pool"))
    assert "there is no such bucket" in commands.refused(*extract(crawl, "s3://nobucket/pool"))
    assert "holds a password" in commands.refused(*extract("s3://a:b@bucket/x.wat.gz", store / "pool"))
