"""A command that produced nothing leaves nothing: the corrected command finds a free folder."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import curate
from metaclip.errors import MetaclipError
from tests import commands
from tests.golden import make
from tests.processes import start, until

REMOVE = ("card", "remove", "run", *make.ONE)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with the inputs of the golden files and a run, in which commands run."""
    folder = make.place(tmp_path.resolve() / "golden")
    monkeypatch.chdir(folder)
    (folder / "none.txt").write_text("matches nothing at all\n")
    (folder / "strange.txt").write_text("https://example.org/no-such-url\n")
    (folder / "broken.parquet").write_bytes(b"PAR1 and no more")
    np.save(folder / "other.npy", np.zeros(1, "u8,u8"))
    (folder / "broken.tar").write_bytes(b"no tar")
    (folder / "empty.warc.gz").write_bytes(b"")
    (folder / "mixed").mkdir()
    pq.write_table(pa.table({"uid": ["a"]}), folder / "mixed" / "a.parquet")
    pq.write_table(pa.table({"x": ["a"]}), folder / "mixed" / "b.parquet")
    return folder


FAILING: dict[str, tuple[Any, ...]] = {
    "curate, a list that matches nothing": ("curate", "inputs/toy_pool.jsonl", "--metadata", "none.txt", "--out", "a/out"),
    "match, a list that matches nothing": ("match", "inputs/toy_pool.jsonl", "--metadata", "none.txt", "--out", "a/out"),
    "match, a pool that cannot be read": ("match", "broken.parquet", "--metadata", "inputs/toy.txt", "--out", "a/out"),
    "reshard, a subset of other pairs": ("reshard", "inputs/tars", "--subset", "other.npy", "--out", "a/out"),
    "reshard, tars that cannot be read": ("reshard", "broken.tar", "--subset", "inputs/subset.npy", "--out", "a/out"),
    "extract, no crawl": ("extract", "empty.warc.gz", "--out", "a/out"),
    "remove, an unknown url": (*REMOVE, "--urls", "strange.txt", "--out", "a/out"),
    "apply, a table without uids": ("card", "apply", "removed/removed.parquet", "mixed", "--out", "a/out"),
    "combine, the same pool twice": ("balance", "run", "run", "--t", 20, "--out", "a/out"),
    "card, a damaged run": ("card", "half", "--out", "a/out"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
def test_nothing_is_left(name: str, place: Path) -> None:
    """Neither the folder of the result, nor the one above it that was made for it; but one that was there stays."""
    if name.startswith("extract"):
        pytest.importorskip("isal", reason="needs metaclip[crawl]")
    before = set(place.rglob("*"))
    commands.refused(*FAILING[name])
    assert set(place.rglob("*")) == before
    (place / "a").mkdir()
    commands.refused(*FAILING[name])
    assert set(place.rglob("*")) == {*before, place / "a"}


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("isal.isal_zlib", ("extract", "inputs/crawl", "--no-identify", *make.ONE)),
        ("altair", ("card", "run")),
    ],
)
def test_a_missing_extra_leaves_nothing(
    module: str, command: tuple[Any, ...], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the extra is named that must be installed, nothing is written."""
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    before = set(place.rglob("*"))
    assert "pip install -e '.[" in commands.refused(*command, "--out", "a/out")
    assert set(place.rglob("*")) == before


def test_a_table_that_matches_nothing(place: Path) -> None:
    """A pool in memory, which is written to the run folder, goes with it."""
    with pytest.raises(MetaclipError, match="none of the 2 rows matches"):
        curate(pa.table({"text": ["a dog", "a cat"]}), ["nothing else"], t=1, out=place / "out")
    assert not (place / "out").exists()
    curate(pa.table({"text": ["a dog", "a cat"]}), ["dog"], t=1, out=place / "out")


def test_what_a_killed_command_left_claims_nothing(place: Path) -> None:
    """A fingerprint without a finished item, as kill -9 leaves it, is no other run."""
    state = place / "out" / ".state" / "match"
    state.mkdir(parents=True)
    (state / "fingerprint.json").write_text('{"list": "of another run"}')
    commands.done(
        "curate", "inputs/toy_pool.jsonl", "--metadata", "inputs/toy.txt", "--t", 20, "--out", "out"
    )


def test_all_differences_are_named_without_digests(place: Path) -> None:
    """Another list and another limit are told in one line: the file by its name, the setting by both values."""
    line = commands.refused(
        "match", "inputs/toy_pool.jsonl", "--metadata", "none.txt", "--limit", 9, "--out", "run"
    )
    assert "run holds another run: limit: null -> 9; metadata: none.txt has changed; choose" in line


def test_another_t_is_answered_with_balance(place: Path) -> None:
    """A run at another t needs no matching: the message names the command that balances into another folder."""
    line = commands.refused(
        "curate", "inputs/toy_pool.jsonl", "--metadata", "inputs/toy.txt", "--t", 30, "--out", "run"
    )
    assert "t: 20 -> 30; metaclip balance run --out FOLDER" in line
    assert "choose another --out" not in line


def test_match_names_a_command_that_skips_lost_inputs(place: Path) -> None:
    """`metaclip match` has no flag to go on without lost inputs; the next command has."""
    (place / "pool").mkdir()
    (place / "pool" / "a.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"text": ["a dog"]}), place / "pool" / "b.parquet")
    done = commands.call("match", "pool", "--metadata", "inputs/toy.txt", "--out", "out")
    assert done.code == 3
    assert done.err.endswith("or go on without them: metaclip balance out --allow-lost\n")
    assert commands.call("balance", "out", "--t", 1, "--allow-lost").code == 0


def test_an_interrupted_large_file_is_said_to_begin_again(tmp_path: Path) -> None:
    """Ctrl-C in the only file of a pool says that it is read again from its start."""
    pool, line = tmp_path / "pool.jsonl", '{"text": "a dog and a cat"}\n'
    pool.write_text(line * 1_000_000)
    (tmp_path / "list.txt").write_text("dog\ncat\n")
    command = (
        "match",
        pool,
        "--metadata",
        tmp_path / "list.txt",
        "--out",
        tmp_path / "run",
        "--workers",
        2,
    )
    with start(*command, into=tmp_path) as process:
        written = tmp_path / "run" / "matched"
        until(lambda: written.exists() or process.code is not None, "the first rows")
        process.send(signal.SIGINT)
        assert process.wait() == 130, process.err
    said = process.err.strip()
    assert (
        "of 2 tasks are finished and stay; the same command does the others, each from its start: "
        in said
    )
    assert said.endswith(str(pool))
