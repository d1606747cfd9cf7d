"""Matching during extraction: the pool of matching pairs is curated to the result of the whole pool, and no other list takes it."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from metaclip import ExtractSettings, MatchSettings, Run, TextRule, balance, curate, extract, match, plan
from metaclip.errors import BrokenInput, MetaclipError
from metaclip.extract.extract import EXTRACT, MEMORY, extract_part
from metaclip.extract.extract_file import ExtractStep
from metaclip.extract.settings import read_entries, read_lists
from metaclip.matching.matched_files import MatchedFile, read_matched_file
from metaclip.stage.folder import Folder, Part
from metaclip.stage.runner import RunOptions
from metaclip.stage.stage import Stage
from tests.commands import done, refused
from tests.crawls import image, packed, photos, wat

pytest.importorskip("isal", reason="needs metaclip[crawl]")
LIST = ["dog", "hot dog", "photo"]
HERE = RunOptions(1, progress=False)
"""In this process: to begin others takes longer than this work."""
Images = list[tuple[str, str]]


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    (tmp_path / "list.txt").write_text("".join(f"{entry}\n" for entry in LIST))
    return tmp_path / "list.txt"


def write_crawl(folder: Path, files: list[Images]) -> Path:
    folder.mkdir()
    for i, images in enumerate(files):
        page = wat(f"https://e.org/{i}/", [image(url, text) for url, text in images])
        (folder / f"{i}.warc.wat.gz").write_bytes(packed([page]))
    return folder


def both(folder: Path, crawl: Path, entries: Path, **given: Any) -> tuple[Path, Path]:
    """Extract a crawl as a whole, and only what matches; return both pools."""
    for name, matched in (("whole", None), ("matching", str(entries))):
        wanted = ExtractSettings(identify=False, matched=matched, **given)
        extract(crawl, out=folder / name, settings=wanted, options=HERE)
    return folder / "whole", folder / "matching"


def result(pool: Path, out: Path) -> dict[str, Any]:
    """Curate a pool; return what came out: figures, the kept uids, the bytes of counts and of the subset."""
    run = curate(pool, LIST, out=out, t=2, options=HERE)
    return {
        "digest": run.account["result_digest"],
        "funnel": run.account["funnel"],
        "kept": sorted(pq.read_table(out / "curated")["uid"].to_pylist()),
        "counts": (out / "counts.parquet").read_bytes(),
        "subset": (out / "curated.npy").read_bytes(),
        "repeated": (out / "duplicates.npy").read_bytes(),
    }


# Two pairs have the uid md5("photo http://a/http://b/"), and only one of them matches "photo" as a word.
TEXT = st.sampled_from(
    ["a dog", "hot dog", "a cat", "photo", "photos", "a photo of a dog", "", "photo http://a/", "photo "]
)
URL = st.sampled_from(["/1.jpg", "/2.jpg", "/3.jpg", "/4.svg", "http://b/", "http://a/http://b/"])
FILES = st.lists(st.lists(st.tuples(URL, TEXT), max_size=8), min_size=1, max_size=3)


@pytest.mark.parametrize("native", [True, False])
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
@given(files=FILES, dedupe=st.sampled_from(["uid", "url", "none"]))
def test_the_result_is_that_of_the_whole_pool(native: bool, files: list[Images], dedupe: str) -> None:
    """Counts, uids, draw, funnel and result digest are those of the whole pool, whichever pairs repeat others."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
        if not native:
            patch.setattr(sys.modules[ExtractStep.__module__], "load", lambda: None)
        folder = Path(name)
        (folder / "list.txt").write_text("".join(f"{entry}\n" for entry in LIST))
        crawl = write_crawl(folder / "crawl", [[("/0.jpg", "the dog of a photo")], *files])
        whole, matching = both(folder, crawl, folder / "list.txt", dedupe=dedupe)
        first, second = result(whole, folder / "run"), result(matching, folder / "run_of_matching")
        assert second == first
        rows = sum(pq.read_metadata(path).num_rows for path in matching.glob("*.parquet"))
        assert rows == first["funnel"]["matched"]
        funnels = [
            json.loads((pool / "manifest.json").read_text())["funnel"] for pool in (whole, matching)
        ]
        assert funnels[1].pop("unmatched") == first["funnel"]["no_match"]
        assert funnels[1].pop("pairs") == funnels[0].pop("pairs") - first["funnel"]["no_match"]
        assert funnels[1] == funnels[0]


def test_real_pages(data_folder: Path, tmp_path: Path) -> None:
    """So it is for a thousand real pages and the real list."""
    entries = data_folder / "entries_500k.txt.gz"
    crawl = data_folder / "wat" / "web-pages.warc.wat.gz"
    whole, matching = both(tmp_path, crawl, entries)
    runs = [
        curate(pool, entries, out=tmp_path / f"run_{pool.name}", t=20, options=HERE)
        for pool in (whole, matching)
    ]
    assert runs[0].account["result_digest"] == runs[1].account["result_digest"]
    assert runs[0].account["funnel"]["no_match"] > 1000


@pytest.fixture
def matching(tmp_path: Path, entries: Path) -> Path:
    files = [[("/1.jpg", "a dog"), ("/2.jpg", "a cat")], [("/3.jpg", "a fish")], [("/1.jpg", "a Photo")]]
    return both(tmp_path, write_crawl(tmp_path / "crawl", files), entries)[1]


@pytest.mark.parametrize(
    ("other", "given", "says"),
    [
        (
            ["dog"],
            {},
            "match another query list .* name that list: `metadata=...`, or extract the crawl again",
        ),
        (LIST, {"rule": TextRule(fold_case=True)}, r"another text rule \(fold_case is False and True\)"),
        (
            LIST,
            {"text_column": "page_url"},
            "in the column text, not page_url: leave `text_column=...` out",
        ),
    ],
)
@pytest.mark.parametrize("verb", [match, plan])
def test_another_list_or_rule_is_refused(
    matching: Path, tmp_path: Path, verb: Any, other: list[str], given: dict[str, Any], says: str
) -> None:
    """Pairs that another list or rule would match are not in the pool, so neither takes it; nothing is left behind."""
    where = {"out": tmp_path / "run"} if verb is match else {}
    with pytest.raises(MetaclipError, match=f"000000.parquet was extracted with `matched=...` .*{says}"):
        verb(matching, other, settings=MatchSettings(**given), **where)
    assert not (tmp_path / "run").exists()


def test_the_command_line(tmp_path: Path, entries: Path) -> None:
    """The list and the rule are flags or keys of a recipe; the next command is printed, and the wrong one ends with 2."""
    crawl = write_crawl(tmp_path / "crawl", [[("/1.jpg", "a Dog"), ("/2.jpg", "a cat")]])
    (tmp_path / "r.toml").write_text(
        '[extract]\nmatched = "list.txt"\nidentify = false\nrule.fold_case = true\n'
    )
    said = done("extract", crawl, "--recipe", tmp_path / "r.toml", "--out", tmp_path / "pool").out
    assert "1   unmatched: text that matches no entry" in said
    assert f"metaclip curate {tmp_path}/pool --metadata {entries} --fold-case --out run/" in said
    said = refused("curate", tmp_path / "pool", "--metadata", entries, "--out", tmp_path / "run")
    assert "fold_case is True and False" in said
    done("curate", tmp_path / "pool", "--metadata", entries, "--fold-case", "--out", tmp_path / "run")
    page = (tmp_path / "run" / "card.md").read_text()
    assert "1 pairs that match an entry, 1 that match none and were not written" in page
    assert "| 2 | rows |" in page
    said = refused("extract", crawl, "--fold-case", "--out", tmp_path / "other")
    assert "rule is given without matched; name the query list" in said
    (tmp_path / "r.toml").write_text('[extract]\nmatched = "list.txt"\nrule.fold_cases = true\n')
    assert "did you mean 'fold_case'" in refused(
        "extract", crawl, "--recipe", tmp_path / "r.toml", "--out", tmp_path / "x"
    )


def test_the_pool_is_made_by_one_list(matching: Path, tmp_path: Path, entries: Path) -> None:
    """A pool is not continued with another list or without one; its files say what they are made by."""
    for other in (None, str(tmp_path / "other.txt")):
        (tmp_path / "other.txt").write_text("cat\n")
        with pytest.raises(MetaclipError, match=r"holds another run: .*matched"):
            extract(
                tmp_path / "crawl", out=matching, settings=ExtractSettings(identify=False, matched=other)
            )
    found = [
        read_matched_file(pq.read_schema(path).metadata, "x")
        for path in sorted(matching.glob("*.parquet"))
    ]
    assert [(one.pairs, one.unmatched) for one in found if one] == [(1, 1), (0, 1), (0, 1)]
    manifest = json.loads((matching / "manifest.json").read_text())
    assert manifest["list"] == found[0].list if found[0] else None
    assert manifest["settings"]["extract"]["matched"] == str(entries)


def test_parts_of_files(matching: Path, tmp_path: Path) -> None:
    """Of a file, of which another program wrote a part, nobody knows how many pairs did not match: they are not counted."""
    table = pq.read_table(matching / "000000.parquet")
    (tmp_path / "part").mkdir()
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "part" / "x.parquet")
    shutil.copy(matching / "000001.parquet", tmp_path / "part")
    run = match(tmp_path / "part", LIST, out=tmp_path / "run")
    assert run.match["funnel"]["rows"] == 3
    with pytest.raises(MetaclipError, match="another query list"):
        match(tmp_path / "part", ["a"], out=tmp_path / "other")


def test_the_first_rows(matching: Path, tmp_path: Path) -> None:
    """A limit takes the first rows of what is written, and counts nothing else."""
    funnel = match(matching, LIST, out=tmp_path / "run", settings=MatchSettings(limit=1)).match["funnel"]
    assert (funnel["rows"], funnel["matched"]) == (1, 1)


def test_combined_runs(matching: Path, tmp_path: Path) -> None:
    """Runs that are balanced together have the funnels of both, and the accounts of all extractions, each once."""
    crawl = tmp_path / "june.warc.wat.gz"
    crawl.write_bytes(packed([photos(0, 4)]))
    extract(crawl, out=tmp_path / "june", settings=ExtractSettings(identify=False))
    halves = [str(matching / f"00000{i}.parquet") for i in range(3)]
    pools: Iterator[Any] = iter(
        [halves[:1], halves[1:], tmp_path / "june", [matching, tmp_path / "june"]]
    )
    runs = []
    for i, pool in enumerate(pools):
        if i == 1:
            continue  # matches nothing by itself
        runs.append(match(pool, LIST, out=tmp_path / f"run_{i}"))
    balance(runs[:2], out=tmp_path / "together", t=5)
    account = Run(tmp_path / "together").account
    assert [one["funnel"]["pairs"] for one in account["extracted"]] == [1, 4]
    assert account["funnel"]["no_match"] == 1
    assert runs[2].match["funnel"]["no_match"] == 3


def test_damaged_metadata() -> None:
    """The record in a file is foreign data: damage costs the file, and what an older version cannot know is no damage."""
    made = MatchedFile("0" * 64, TextRule(nfc=True), 3, 4)
    assert read_matched_file(made.metadata(), "x") == made
    assert read_matched_file(None, "x") is None
    assert read_matched_file({b"other": b"x"}, "x") is None
    for data in (
        b"",
        b"{",
        b'{"list": 1}',
        b"\xff",
        b'{"list":"a","rule":{"nfc":1},"pairs":1,"unmatched":1}',
        b'{"list":"a","rule":{},"pairs":-1,"unmatched":1}',
        b"[" * 100_000,
    ):
        with pytest.raises(BrokenInput, match="x says by a damaged record"):
            read_matched_file({b"metaclip.matched": data}, "x")


def test_parts_and_what_is_made_again(matching: Path, tmp_path: Path, entries: Path) -> None:
    """Parts of a job array, a file made again and a step that was sent to a worker make the same files."""
    settings = ExtractSettings(identify=False, matched=str(entries))
    parts = tmp_path / "parts"
    for part in ("1/2", "2/2"):
        extract_part(
            tmp_path / "crawl", parts, settings, dataclasses.replace(HERE, part=Part.parse(part)), MEMORY
        )
    again = tmp_path / "again"
    shutil.copytree(matching, again)
    (again / "000000.parquet").unlink()
    (again / "manifest.json").unlink()
    extract(tmp_path / "crawl", out=again, settings=settings, options=HERE)
    for path in matching.glob("*.parquet"):
        assert (parts / path.name).read_bytes() == path.read_bytes() == (again / path.name).read_bytes()
    step = ExtractStep(
        Stage(Folder(tmp_path / "x"), EXTRACT), settings, read_lists(settings), read_entries(settings)
    )
    assert step.matcher is not None
    sent = pickle.loads(pickle.dumps(step))
    assert "matcher" not in sent.__dict__
    assert sent.matcher.find("hot dog") == [0, 1]
