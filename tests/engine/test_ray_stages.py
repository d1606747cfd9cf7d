"""Every stage on Ray leaves what it leaves on this machine: extract, match, balance with a solved t, the count of a dump."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metaclip import RunOptions, balance, match
from metaclip.curate.plan import plan
from metaclip.engine import Engine
from metaclip.engine.local import Local
from metaclip.engine.ray import Ray
from metaclip.extract.extract import extract
from metaclip.extract.settings import ExtractSettings
from metaclip.metadata.sources import dump_count
from tests import dumps
from tests.crawls import packed, photos, response
from tests.runs import holds, write_list, write_pool

pytest.importorskip("ray", reason="needs metaclip[ray]")
pytestmark = [pytest.mark.extra, pytest.mark.xdist_group("ray")]


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def test_match_and_balance(ray_here: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, with paths relative to a folder that workers are not in, t solved by passes over the matches."""
    monkeypatch.chdir(tmp_path)
    write_pool(Path("pool"), 6, 400)
    write_list(Path("list.txt"))
    for name, engine in (("local", Local(1)), ("ray", ray_here)):
        options = RunOptions(engine=engine)
        run = match("pool", "list.txt", out=name, options=options)
        balance(run, target_pairs=700, options=options)
    holds(Path("ray"), Path("local"))
    (whole,) = plan("pool", "list.txt", shards=1, options=RunOptions(engine=ray_here)).estimates
    assert (whole.pairs, whole.workers) == (2400, 2)


@pytest.mark.parametrize("excluding", [False, True])
def test_extract(ray_here: Ray, tmp_path: Path, excluding: bool) -> None:
    """The pool, byte for byte, duplicates taken out across files; also with a list to match and files of robots.txt."""
    pytest.importorskip("isal", reason="needs metaclip[crawl]")
    crawl = tmp_path / "crawl"
    crawl.mkdir()
    for i in range(6):
        (crawl / f"{i}.warc.wat.gz").write_bytes(
            packed(photos(7 * (i + j), 12, "https://example.org/p") for j in range(3))
        )
    settings = ExtractSettings(identify=False)
    if excluding:
        rules = "user-agent: *\ndisallow: /photo-1"
        answer = response("https://example.org/robots.txt", rules, content_type="text/plain")
        (tmp_path / "robots.warc.gz").write_bytes(packed([answer]))
        (tmp_path / "list.txt").write_text("photo of number 2\n")
        settings = replace(
            settings, matched=str(tmp_path / "list.txt"), robots=str(tmp_path / "robots.warc.gz")
        )
    made = {
        name: extract(crawl, out=tmp_path / name, settings=settings, options=RunOptions(engine=engine))
        for name, engine in (("local", Local(1)), ("ray", ray_here))
    }
    assert made["ray"].funnel == made["local"].funnel
    assert made["ray"].funnel["duplicate"] > 0
    for reason in ("robots_image", "unmatched"):
        assert (made["ray"].funnel.get(reason, 0) > 0) is excluding
    assert contents(tmp_path / "ray", "*.parquet") == contents(tmp_path / "local", "*.parquet") != {}


def test_the_count_of_a_dump(ray_here: Ray, tmp_path: Path) -> None:
    """Words, pairs of words and redirects, byte for byte."""
    pytest.importorskip("mwxml", reason="needs metaclip[build]")
    pages = [dumps.Made(f"Article {i}", f"the dog {i % 7} of the x-ray {i % 3} runs") for i in range(200)]
    path = tmp_path / "enwiki-pages-articles.xml.bz2"
    dumps.write(path, pages, streams_of=20)

    def count(name: str, engine: Engine) -> dict[str, bytes]:
        dump_count.count(str(path), "enwiki", tmp_path / name, shard_bytes=1000, engine=engine)
        return contents(tmp_path / name, "*.parquet")

    assert count("ray", ray_here) == count("local", Local(1)) != {}
