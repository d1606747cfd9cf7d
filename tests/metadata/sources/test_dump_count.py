"""Counting a dump: the counts of a plain count of the same text, whatever the parts, workers and memory; resumable."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import re
import resource
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from metaclip.engine.local import Local
from metaclip.errors import MetaclipError
from metaclip.metadata.sources import dump, dump_count, wikitext
from metaclip.stage.stage import FinishedStage
from tests import dumps
from tests.dumps import Made

pytest.importorskip("mwxml", reason="needs metaclip[build]")
pytest.importorskip("mwparserfromhell", reason="needs metaclip[build]")

WORDS = ["the", "dog", "cat's", "x-ray", "3", "of", "été", "the", "of", "the"]


def articles(number: int, length: int = 60) -> list[Made]:
    """Pages of every kind."""
    made = []
    for i in range(number):
        text = " ".join(f"{WORDS[(i * j + j // 3) % len(WORDS)]}{'.' * (j % 11 == 5)}" for j in range(length))
        made.append(
            Made(f"Article {i}", f"{text}\n* [[Article {i}|{text[:20]}]] {{{{template|hidden}}}} <ref>hidden</ref>")
        )
        if i % 5 == 0:
            made.append(Made(f"Redirect {i}", "#REDIRECT [[Article 1]] hidden", redirect=f"Article {i}"))
        if i % 6 == 0:
            made.append(Made(f"Talk:{i}", "hidden", namespace=1))
    return [*made, Made("Empty", ""), Made("Gone", None), Made("Map", "hidden", model="json")]


def plain_count(files: list[Path]) -> tuple[Counter[str], Counter[str]]:
    """Count the same text once more, by other means: ten lines that share nothing with the counting but the text."""
    words, pairs, extract = Counter[str](), Counter[str](), wikitext.extractor(wikitext.NamespaceNames())
    for path in files:
        for page in dump.pages(path, 0, path.stat().st_size):
            if page.namespace == 0 and page.redirect is None and page.model == "wikitext":
                text = re.sub(r"[\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029]", "|", extract(page.text).lower())
                text = re.sub(r"(?<![^\W_])['’-]|['’-](?![^\W_])", "|", text)  # those that join nothing
                pieces = re.sub(r"[^\w\s'’-]|_", "|", text).split("|")
                words.update(word for piece in pieces for word in piece.split())
                pairs.update(f"{a} {b}" for piece in map(str.split, pieces) for a, b in itertools.pairwise(piece))
    return words, pairs


def counts_of(found: FinishedStage, name: str) -> Counter[str]:
    table = pq.read_table(found.path / name)
    return Counter(dict(zip(table["key"].to_pylist(), table["count"].to_pylist(), strict=True)))


def content(folder: Path) -> dict[str, Any]:
    """What a count left: its tables and its record, without sizes of files."""
    tables = {name: pq.read_table(folder / name).to_pydict() for name in dump_count.OUTPUTS}
    record = dict(dump_count.open_counts(folder).record)
    return {**tables, "record": {key: record[key] for key in record if key not in ("files", "fingerprint")}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dump of two files, a single stream and a multistream."""
    folder = tmp_path_factory.mktemp("dump")
    pages = articles(300)
    dumps.write(folder / "enwiki-pages-articles1.xml-p1p200.bz2", pages[:200], level=1)
    dumps.write(folder / "enwiki-pages-articles2.xml-p201p400.bz2", pages[200:], streams_of=20)
    return folder


@pytest.fixture(scope="module")
def counted(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dump counted by one worker, in one part a file, all in memory."""
    out = tmp_path_factory.mktemp("counts") / "c"
    dump_count.count(str(made), "enwiki", out, engine=Local(1))
    return out


def test_the_counts_are_those_of_a_plain_count(made: Path, counted: Path) -> None:
    """Every word and every pair of every article, and nothing else."""
    found = dump_count.open_counts(counted)
    words, pairs = plain_count(sorted(made.iterdir()))
    assert counts_of(found, "unigrams.parquet") == words
    assert counts_of(found, "bigrams.parquet") == pairs
    assert found.record["tokens"] == sum(words.values())
    assert "hidden" not in words
    assert {"cat's", "x-ray", "été"} <= words.keys()
    assert found.record["unigrams"] == len(words)
    assert found.record["bigrams"] == len(pairs)


def test_the_counts_of_a_real_dump(data_folder: Path, tmp_path: Path) -> None:
    """The same on a real dump, in parts, with 20,000 strings in memory at a time."""
    path = data_folder / "enwiki-sample.xml.bz2"
    found = dump_count.count(
        str(path), "enwiki", tmp_path / "c", engine=Local(1), memory=3_000_000, shard_bytes=500_000
    )
    words, pairs = plain_count([path])
    assert counts_of(found, "unigrams.parquet") == words
    assert counts_of(found, "bigrams.parquet") == pairs
    assert found.record["tokens"] == 482_459
    assert found.record["funnel"] == {
        "pages": 206, "other_namespace": 1, "redirect": 99, "not_wikitext": 0, "no_text": 0, "unparsable": 0, "article": 106,
    }  # fmt: skip


def test_what_became_of_each_page(made: Path, counted: Path) -> None:
    """The funnel adds up, redirects are listed in order, the dump's files stand with size and digest."""
    record = dump_count.open_counts(counted).record
    assert record["funnel"] == {
        "pages": 413, "other_namespace": 50, "redirect": 60, "not_wikitext": 1, "no_text": 2, "unparsable": 0, "article": 300,
    }  # fmt: skip
    redirects = dump_count.read_redirects(counted).to_pylist()
    assert redirects == [{"title": f"Redirect {i}", "target": f"Article {i}"} for i in range(0, 300, 5)]
    assert [file["name"] for file in record["dump"]] == sorted(path.name for path in made.iterdir())
    assert all(len(file["sha256"]) == 64 for file in record["dump"])


@pytest.mark.parametrize(
    ("workers", "memory", "shard_bytes"), [(1, 3000, 20_000), (1, 20_000, 1 << 20), (2, 40_000, 5000)]
)
def test_parts_workers_and_memory_change_nothing(
    made: Path, counted: Path, tmp_path: Path, workers: int, memory: int, shard_bytes: int
) -> None:
    """Many parts, two processes, one string in memory: the same tables and the same record."""
    dump_count.count(str(made), "enwiki", tmp_path / "c", engine=Local(workers), memory=memory, shard_bytes=shard_bytes)
    assert content(tmp_path / "c") == content(counted)
    assert not list((tmp_path / "c").rglob("*.tmp"))
    assert not list((tmp_path / "c").rglob(".state/dump/*.parquet"))


def _count(where: str, out: str, workers: int) -> None:
    dump_count.count(where, "enwiki", out, engine=Local(workers), shard_bytes=2000)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_it_goes_on_from_the_finished_parts(made: Path, counted: Path, tmp_path: Path, workers: int) -> None:
    """Killed with some parts done, run again: those are not done again, the result is the same, no worker stays."""
    out = tmp_path / "c"
    process = multiprocessing.get_context("spawn").Process(target=_count, args=(str(made), str(out), workers))
    process.start()
    state = out / ".state" / "dump"
    until(lambda: len(list(state.glob("*-*.json"))) >= 3)
    children = children_of(process.pid or 0)
    assert process.exitcode is None
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    for child in children:
        until(lambda child=child: not is_alive(child))  # type: ignore[misc]
    stamps = {path.name: path.stat().st_mtime_ns for path in state.glob("*-*.json")}
    assert 3 <= len(stamps) < made_parts(made)
    dump_count.count(str(made), "enwiki", out, engine=Local(workers), shard_bytes=2000)
    again = {path.name: path.stat().st_mtime_ns for path in state.glob("*-*.json")}
    assert {name: again[name] for name in stamps} == stamps
    assert len(again) == made_parts(made)
    assert content(out) == content(counted)
    assert not list(out.rglob("*.tmp"))


def made_parts(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 2000) for path in folder.iterdir())


def until(true: Any) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(path.parent.name))
    return found


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_finished_count_is_taken_as_it_is(made: Path, counted: Path, tmp_path: Path) -> None:
    """Called again, nothing is counted; another dump, and a folder of something else, are refused by name."""
    before = {path.name: path.stat().st_mtime_ns for path in counted.iterdir()}
    dump_count.count(str(made), "enwiki", counted, engine=Local(1))
    assert {path.name: path.stat().st_mtime_ns for path in counted.iterdir()} == before
    with pytest.raises(MetaclipError, match=r"holds another run: dump: .*articles2.* is gone; name another folder"):
        dump_count.count(str(made / "*articles1*"), "enwiki", counted, engine=Local(1))
    with pytest.raises(MetaclipError, match="holds no finished count"):
        dump_count.open_counts(tmp_path)


def test_a_damaged_part_is_named_and_the_others_are_kept(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that fails its check ends the count with one line; mended, only the rest is counted."""
    monkeypatch.setattr(dump, "_TAIL_BYTES", 100)  # as in a large file, the damage is not in what is looked at first
    folder = tmp_path / "dump"
    folder.mkdir()
    path = folder / "enwiki-pages-articles.xml.bz2"
    whole = (made / "enwiki-pages-articles2.xml-p201p400.bz2").read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\0" * 8 + whole[middle + 8 :])
    with pytest.raises(MetaclipError, match=r"pages-articles\.xml\.bz2 is damaged: the block at byte") as caught:
        dump_count.count(str(folder), "enwiki", tmp_path / "c", engine=Local(1), shard_bytes=1000)
    assert "\n" not in str(caught.value)
    kept = len(list((tmp_path / "c").glob(".state/dump/*-*.json")))
    assert kept > 1
    path.write_bytes(whole)
    dump_count.count(str(folder), "enwiki", tmp_path / "c", engine=Local(1), shard_bytes=1000)
    assert counts_of(dump_count.open_counts(tmp_path / "c"), "unigrams.parquet") == plain_count([path])[0]


def test_a_dump_without_articles_is_an_error(tmp_path: Path) -> None:
    """A dump that gives nothing is one clear line."""
    path = dumps.write(tmp_path / "d.xml.bz2", [Made("Talk:A", "x", namespace=1), Made("B", "!?")])
    with pytest.raises(MetaclipError, match="none of the 2 pages is an article with a word in it"):
        dump_count.count(str(path), "enwiki", tmp_path / "c", engine=Local(1))


def _count_on_a_full_disk(where: str, out: str, workers: int, told: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
    try:
        dump_count.count(where, "enwiki", out, engine=Local(workers), shard_bytes=4000)
    except MetaclipError as error:
        told.send(str(error))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_said(made: Path, counted: Path, tmp_path: Path, workers: int) -> None:
    """No room, here or in a worker, is one clear line; with room again the same call ends well."""
    context = multiprocessing.get_context("spawn")
    told, progress = context.Pipe(duplex=False)
    process = context.Process(target=_count_on_a_full_disk, args=(str(made), str(tmp_path / "c"), workers, progress))
    process.start()
    process.join(60)
    assert told.poll()
    message = told.recv()
    assert "no room left" in message
    assert "\n" not in message
    dump_count.count(str(made), "enwiki", tmp_path / "c", engine=Local(1), shard_bytes=4000)
    assert content(tmp_path / "c") == content(counted)


def test_a_folder_that_cannot_be_written(made: Path, tmp_path: Path) -> None:
    """A folder that is a file, or of something else, is one clear line."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(MetaclipError, match="file is a file"):
        dump_count.count(str(made), "enwiki", tmp_path / "file", engine=Local(1))
    with pytest.raises(MetaclipError, match="cannot be read or written"):
        dump_count.count(str(made), "enwiki", tmp_path / "file" / "c", engine=Local(1))
    with pytest.raises(MetaclipError, match="holds files that are not a metaclip run's"):
        dump_count.count(str(made), "enwiki", tmp_path, engine=Local(1))
