"""Counting a dump: the counts of a plain count of the same text, whatever the parts, workers and memory; resumable."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
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
from tests.processes import largest_file

pytest.importorskip("mwxml", reason="needs metaclip[build]")
pytest.importorskip("mwparserfromhell", reason="needs metaclip[build]")

WORDS = ["the", "dog", "cat's", "x-ray", "3", "of", "été", "the", "of", "the"]


def articles(number: int, length: int = 60) -> list[Made]:
    """Pages of every kind."""
    made = []
    for i in range(number):
        text = " ".join(
            f"{WORDS[(i * j + j // 3) % len(WORDS)]}{'.' * (j % 11 == 5)}" for j in range(length)
        )
        made.append(
            Made(
                f"Article {i}",
                f"{text}\n* [[Article {i}|{text[:20]}]] {{{{template|hidden}}}} <ref>hidden</ref>",
            )
        )
        if i % 5 == 0:
            made.append(Made(f"Redirect {i}", "#REDIRECT [[Article 1]] hidden", redirect=f"Article {i}"))
        if i % 6 == 0:
            made.append(Made(f"Talk:{i}", "hidden", namespace=1))
    return [*made, Made("Empty", ""), Made("Gone", None), Made("Map", "hidden", model="json")]


def texts_of(files: list[Path]) -> list[str]:
    """Return the texts of all articles."""
    extract = wikitext.extractor(wikitext.NamespaceNames())
    pages = (page for path in files for page in dump.pages(path, 0, path.stat().st_size))
    articles = (
        page
        for page in pages
        if page.namespace == 0 and page.redirect is None and page.model == "wikitext"
    )
    return [extract(page.text) for page in articles]


def plain_count(texts: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Count texts by other means: a few lines that share nothing with the counting."""
    words, pairs = Counter[str](), Counter[str]()
    for text in texts:
        text = re.sub(r"[\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029]", "|", text.lower())
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
    return {
        **tables,
        "record": {key: record[key] for key in record if key not in ("files", "fingerprint")},
    }


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
    words, pairs = plain_count(texts_of(sorted(made.iterdir())))
    assert counts_of(found, "unigrams.parquet") == words
    assert counts_of(found, "bigrams.parquet") == pairs
    assert found.record["tokens"] == sum(words.values())
    assert "hidden" not in words
    assert {"cat's", "x-ray", "été"} <= words.keys()
    assert found.record["unigrams"] == len(words)
    assert found.record["bigrams"] == len(pairs)


def test_the_counts_of_a_real_dump(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on a real dump, in parts, with 20,000 strings in memory at a time.

    Its articles take seconds to parse, so the plain count is given the texts that the counting parsed.
    """
    path = data_folder / "enwiki-sample.xml.bz2"
    texts, extractor = list[str](), wikitext.extractor

    def noting_extractor(names: wikitext.NamespaceNames) -> Callable[[str], str]:
        extract = extractor(names)

        def note(page: str) -> str:
            texts.append(extract(page))
            return texts[-1]

        return note

    monkeypatch.setattr(wikitext, "extractor", noting_extractor)
    found = dump_count.count(
        str(path), "enwiki", tmp_path / "c", engine=Local(1), memory=3_000_000, shard_bytes=500_000
    )
    words, pairs = plain_count(texts)
    assert counts_of(found, "unigrams.parquet") == words
    assert counts_of(found, "bigrams.parquet") == pairs
    assert found.record["tokens"] == 482_459
    assert len(texts) == 106
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
    dump_count.count(
        str(made), "enwiki", tmp_path / "c", engine=Local(workers), memory=memory, shard_bytes=shard_bytes
    )
    assert content(tmp_path / "c") == content(counted)
    assert not list((tmp_path / "c").rglob("*.tmp"))
    assert not list((tmp_path / "c").rglob(".state/dump/*.parquet"))


def test_a_single_stream_is_said_to_take_one_core(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One note names the files of a single stream that have several shards, and no others."""
    dump_count.count(str(made), "enwiki", tmp_path / "c", engine=Local(1), shard_bytes=3000)
    notes = [line for line in capsys.readouterr().err.splitlines() if "single bzip2 stream" in line]
    assert len(notes) == 1
    assert "enwiki-pages-articles1.xml-p1p200.bz2: a single bzip2 stream is read by one core" in notes[0]
    assert "articles2" not in notes[0]
    dump_count.count(str(made), "enwiki", tmp_path / "d", engine=Local(1))
    assert "single bzip2 stream" not in capsys.readouterr().err


def test_a_finished_count_is_taken_as_it_is(made: Path, counted: Path, tmp_path: Path) -> None:
    """Called again, nothing is counted; another dump, and a folder of something else, are refused by name."""
    before = {path.name: path.stat().st_mtime_ns for path in counted.iterdir()}
    dump_count.count(str(made), "enwiki", counted, engine=Local(1))
    assert {path.name: path.stat().st_mtime_ns for path in counted.iterdir()} == before
    with pytest.raises(
        MetaclipError, match=r"holds another run: dump: .*articles2.* is gone; name another folder"
    ):
        dump_count.count(str(made / "*articles1*"), "enwiki", counted, engine=Local(1))
    with pytest.raises(MetaclipError, match="holds no finished count"):
        dump_count.open_counts(tmp_path)


def test_a_damaged_part_is_named_and_the_others_are_kept(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that fails its check ends the count with one line; once it is whole, only the rest is counted."""
    monkeypatch.setattr(
        dump, "_TAIL_BYTES", 100
    )  # as in a large file, the damage is not in what is looked at first
    folder = tmp_path / "dump"
    folder.mkdir()
    path = folder / "enwiki-pages-articles.xml.bz2"
    whole = (made / "enwiki-pages-articles2.xml-p201p400.bz2").read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\0" * 8 + whole[middle + 8 :])
    with pytest.raises(
        MetaclipError, match=r"pages-articles\.xml\.bz2 is damaged: the stream at byte"
    ) as caught:
        dump_count.count(str(folder), "enwiki", tmp_path / "c", engine=Local(1), shard_bytes=1000)
    assert "\n" not in str(caught.value)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").glob(".state/dump/*-*.json")}
    assert len(kept) > 1
    path.write_bytes(whole)
    dump_count.count(str(folder), "enwiki", tmp_path / "c", engine=Local(1), shard_bytes=1000)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (
        counts_of(dump_count.open_counts(tmp_path / "c"), "unigrams.parquet")
        == plain_count(texts_of([path]))[0]
    )


def test_a_dump_without_articles_is_an_error(tmp_path: Path) -> None:
    """A dump that gives nothing is one clear line."""
    path = dumps.write(tmp_path / "d.xml.bz2", [Made("Talk:A", "x", namespace=1), Made("B", "!?")])
    with pytest.raises(MetaclipError, match="none of the 2 pages is an article with a word in it"):
        dump_count.count(str(path), "enwiki", tmp_path / "c", engine=Local(1))


def test_a_full_disk_is_said(made: Path, counted: Path, tmp_path: Path) -> None:
    """A file of counts that finds no room is one clear line; with room again, the same call ends well."""
    with largest_file(1500), pytest.raises(MetaclipError, match=r"^[^\n]*no room left[^\n]*$"):
        dump_count.count(str(made), "enwiki", tmp_path / "c", engine=Local(1), shard_bytes=4000)
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
