"""A dump is downloaded from Wikimedia by its status, and checked against it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources import dump
from metaclip.storage.download import PublishedFile, fetch
from metaclip.storage.retries import RetryPolicy
from tests.http_servers import files, serving

QUICK = RetryPolicy(tries=4, first_wait=0.001, longest_wait=0.2, timeout=10)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """An empty folder of a publisher."""
    (tmp_path / "published").mkdir()
    return tmp_path / "published"


def test_a_dump_by_its_status(published: Path, tmp_path: Path) -> None:
    """The files of the articles are fetched and checked by what dumpstatus.json says; a second time needs no network."""
    names = [
        "enwiki-1-pages-articles-multistream1.xml-p1p9.bz2",
        "enwiki-1-pages-articles-multistream2.xml-p10p19.bz2",
    ]
    listed: dict[str, Any] = {
        name: {
            "size": len(name) * 1000,
            "url": f"/enwiki/1/{name}",
            "sha1": hashlib.sha1(name.encode() * 1000).hexdigest(),
        }
        for name in names
    }
    for name in names:
        (published / name).write_bytes(name.encode() * 1000)
    others = {
        "enwiki-1-pages-articles-multistream-index1.txt-p1p9.bz2": {},
        "../../pages-articles.bz2": {},
    }
    status = {"version": "0.8", "jobs": {
        "articlesdump": {"status": "done", "files": {"enwiki-1-pages-articles.xml.bz2": {}}},
        "articlesmultistreamdump": {"status": "done", "files": {**listed, **others}},
    }}  # fmt: skip
    (published / "dumpstatus.json").write_text(json.dumps(status))
    with serving(files(published)) as server:
        dump.download(server.address, tmp_path / "dump", retry=QUICK)
    assert sorted(path.name for path in (tmp_path / "dump").iterdir()) == ["dumpstatus.json", *names]
    dump.download(server.address, tmp_path / "dump", retry=QUICK)
    status["jobs"]["articlesmultistreamdump"]["status"] = "in-progress"  # type: ignore[index]
    with pytest.raises(MetaclipError, match="is 'in-progress', not done"):
        dump.published_files(status, "https://x/")
    for other in ({}, [], {"jobs": {}}, {"jobs": {"articlesdump": {"status": "done", "files": {}}}}):
        with pytest.raises(MetaclipError, match="lists no files of pages-articles"):
            dump.published_files(other, "https://x/")


@pytest.mark.network
def test_wikimedias_own_server(tmp_path: Path) -> None:
    """The dump of a small wiki is found in the publisher's index, and arrives as published."""
    fetch(PublishedFile("https://dumps.wikimedia.org/index.json", "index.json"), tmp_path / "index.json")
    status = json.loads((tmp_path / "index.json").read_text())["wikis"]["tyvwiki"]
    if status["jobs"]["articlesmultistreamdump"]["status"] != "done":
        pytest.skip("the wiki is being dumped just now")
    name = next(iter(status["jobs"]["articlesmultistreamdump"]["files"]))
    date = name.split("-")[1]
    dump.download(f"https://dumps.wikimedia.org/tyvwiki/{date}/", tmp_path / "dump")
    assert [path.name for path in (tmp_path / "dump").glob("*pages-articles*.bz2")]
