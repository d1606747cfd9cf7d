"""What a plan says is what a run takes, in sizes to the byte where they can be; and costs grow as their law says."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip import curate
from metaclip.curate.measure import Measured
from metaclip.curate.plan import amount, duration, estimate, plan, size
from metaclip.engine.local import Local
from metaclip.errors import MetaclipError
from metaclip.pool.sorted_uids import FAN_IN
from metaclip.stage.runner import RunOptions
from tests import commands
from tests.runs import write_list, write_pool

MEASURED = Measured(
    pairs=1000, matched=700, kept=200, input_bytes=90_000, match_seconds=0.5, balance_seconds=0.25, sum_seconds=0.001,
    sort_seconds=0.01, matched_bytes=20_000, partial_bytes=9_000, curated_bytes=30_000, wall=0.8, start=3.0, memory=3 << 28,
)  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 500 entries."""
    return write_list(tmp_path_factory.mktemp("list") / "list.txt")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of eight files with different numbers of rows."""
    folder = tmp_path_factory.mktemp("pool") / "pool"
    folder.mkdir()
    for i in range(8):
        (made,) = write_pool(folder / f"{i}", 1, 8000 + 800 * i, seed=i).iterdir()
        made.rename(folder / f"{i}.parquet")
        (folder / f"{i}").rmdir()
    return folder


ONE = RunOptions(engine=Local(1))


def test_what_was_measured_is_what_a_run_takes(pool: Path, words: Path, tmp_path: Path) -> None:
    """With all shards measured: the run's pairs and matched pairs, its bytes in matched/ and the pool's bytes."""
    found = plan(pool, words, shards=8, options=ONE)
    run = curate(pool, words, out=tmp_path / "run", t=60, options=ONE)
    assert found.counted
    assert (found.pairs, found.shards, found.measured_shards) == (86_400, 8, 8)
    (whole,) = found.estimates
    assert whole.pairs == found.measured.pairs == run.match["funnel"]["rows"]
    assert whole.matched == found.measured.matched == run.match["funnel"]["matched"]
    assert found.measured.matched_bytes == sum(path.stat().st_size for path in run.path.glob("matched/*"))
    assert whole.input_bytes == sum(path.stat().st_size for path in pool.iterdir())
    assert whole.kept_disk < whole.most_disk
    assert 0 < found.measured.kept < found.measured.matched
    assert found.measured.match_seconds > 0 < found.measured.balance_seconds


def test_some_shards_stand_for_all(pool: Path, words: Path) -> None:
    """Three of eight, drawn by the seed: the same again by the same one; the whole from them, about right."""
    one, again = (plan(pool, words, seed=1, options=ONE) for _ in range(2))
    assert one.measured_shards == 3
    assert one.measured.pairs == again.measured.pairs < 86_400
    assert (
        len({plan(pool, words, shards=1, seed=seed, options=ONE).measured.pairs for seed in range(6)}) > 1
    )
    (whole,) = one.estimates
    assert whole.pairs == 86_400
    actual = plan(pool, words, shards=8, options=ONE).measured
    assert whole.matched == pytest.approx(actual.matched, rel=0.02)
    assert whole.input_bytes == pytest.approx(actual.input_bytes, rel=0.1)


def test_kept_pairs_do_not_depend_on_files(words: Path, tmp_path: Path) -> None:
    """A pool in one file, in two hundred files, and in memory: the pairs that are kept are those of a run, about."""
    (whole,) = write_pool(tmp_path / "whole", 1, 10_000, seed=5).iterdir()
    table = pq.read_table(whole)
    (tmp_path / "parts").mkdir()
    for i in range(200):
        pq.write_table(table.slice(50 * i, 50), tmp_path / "parts" / f"{i:03}.parquet")
    run = curate(whole, words, out=tmp_path / "run", options=ONE)
    assert run.balance is not None
    for pool in (whole, tmp_path / "parts", table):
        (found,) = plan(pool, words, options=ONE).estimates
        assert found.pairs == 10_000
        assert found.kept == pytest.approx(run.balance["kept"], rel=0.01)


def test_a_pool_whose_rows_are_not_counted(words: Path, tmp_path: Path) -> None:
    """Of lines of JSON the number of pairs is estimated from bytes, and said to be."""
    for i in range(4):
        texts = [
            json.dumps({"text": f"word{j % 1000} word{i}", "uid": f"{i * 10_000 + j:032x}"})
            for j in range(10_000)
        ]
        (tmp_path / f"{i}.jsonl").write_text("\n".join(texts))
    found = plan(tmp_path, words, shards=2, options=ONE)
    assert not found.counted
    assert found.pairs == pytest.approx(40_000, rel=0.01)
    found = plan(tmp_path / "0.jsonl", words, options=ONE)
    assert (found.counted, found.pairs) == (True, 10_000)  # all of it was measured


def test_a_plan_leaves_nothing(
    pool: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the pool nor in the folder of temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in pool.iterdir()}
    plan(pool, words, options=ONE)
    assert {path: path.stat().st_mtime_ns for path in pool.iterdir()} == before
    assert not list(tmp_path.iterdir())


def test_nothing_matches(pool: Path) -> None:
    """Of what matches nothing there is nothing to plan."""
    with pytest.raises(MetaclipError, match="none of the .* pairs that were measured matches any entry"):
        plan(pool, ["elsewhere"], options=ONE)


@given(pairs=st.integers(10_000, 10**11), workers=st.integers(1, 5000), shards=st.integers(1, 10**6))
def test_costs_grow_with_pairs_and_work_is_shared(pairs: int, workers: int, shards: int) -> None:
    """Core seconds and bytes are proportional to pairs; workers shorten what they share, and neither start nor sum.

    No more workers have work than there are shards.
    """
    one = estimate(MEASURED, pairs, workers, shards)
    twice = estimate(MEASURED, 2 * pairs, workers, 2 * shards)
    busy = min(workers, shards)
    assert twice.core_seconds == pytest.approx(2 * one.core_seconds)
    assert twice.kept_disk == pytest.approx(2 * one.kept_disk, rel=1e-3)
    assert twice.add_seconds >= 2 * one.add_seconds * (1 - 1e-9)
    assert one.worker_memory == twice.worker_memory == MEASURED.memory
    alone = estimate(MEASURED, pairs, 1, shards)
    fixed = MEASURED.start + one.add_seconds
    assert (one.wall_seconds - fixed) * busy == pytest.approx(alone.wall_seconds - fixed)
    assert one.core_seconds == alone.core_seconds
    assert one.most_disk >= one.kept_disk


@pytest.mark.parametrize(
    ("shards", "passes"), [(1, 1), (FAN_IN, 1), (FAN_IN + 1, 2), (FAN_IN**2, 2), (FAN_IN**2 + 1, 3)]
)
def test_many_runs_are_merged_in_passes(shards: int, passes: int) -> None:
    """Uids are gone through once for each factor of the fan-in; with more than one pass, they need room besides."""
    one = estimate(MEASURED, 1000, 1, shards)
    assert one.add_seconds == pytest.approx(passes * MEASURED.sort_seconds)
    assert one.most_disk - one.kept_disk == MEASURED.partial_bytes + (
        16 * MEASURED.matched if passes > 1 else 0
    )


def test_measured_shards_add_up() -> None:
    """All but start and memory, of which the largest counts."""
    other = dataclasses.replace(MEASURED, start=4.0, memory=1, pairs=5)
    both = Measured.of([MEASURED, other])
    assert (both.pairs, both.start, both.memory, both.wall) == (1005, 4.0, 3 << 28, 1.6)


def test_numbers_for_a_reader() -> None:
    """Three digits and a unit."""
    assert [amount(n) for n in (7, 999, 128_000_000, 12_800_000_000)] == ["7", "999", "128 M", "12.8 G"]
    assert [size(n) for n in (1500, 2_000_000, 3_210_000_000, 4_000_000_000_000)] == [
        "1.5 kB",
        "2 MB",
        "3.21 GB",
        "4 TB",
    ]
    assert [duration(s) for s in (3.21, 65, 3661, 90_000)] == [
        "3.2 s",
        "1 min 5 s",
        "1 h 1 min",
        "1 d 1 h",
    ]


def test_on_the_command_line(pool: Path, words: Path) -> None:
    """A row for each number of pairs and of workers; the same as JSON."""
    flags = ["--pairs", "128M", "--pairs", "88G", "--workers", 2, "--workers", 100, "--shards", 1]
    table = commands.done("plan", pool, "--metadata", words, *flags).out
    rows = [
        line.split(" | ")[:2]
        for line in table.splitlines()
        if line.startswith("| ") and "---" not in line
    ][1:]
    assert [[cell.strip("| ") for cell in row] for row in rows] == [
        list(pair) for pair in itertools.product(["128 M", "88 G"], ["2", "100"])
    ]
    assert "assumed" in table
    found = json.loads(commands.done("plan", pool, "--metadata", words, *flags, "--json").out)
    assert [one["pairs"] for one in found["estimates"]] == [128_000_000] * 2 + [88_000_000_000] * 2
    assert len(found["assumptions"]) >= 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not know a process's own peak")
def test_the_memory_of_who_asks_is_not_a_workers(pool: Path, words: Path) -> None:
    """A plan that is asked for from a large process, as a notebook is, measures what it takes itself."""
    ballast = np.ones(800 << 20, np.uint8)
    asked = [
        sys.executable,
        "-m",
        "metaclip",
        "plan",
        pool,
        "--metadata",
        words,
        "--shards",
        "1",
        "--json",
    ]
    done = subprocess.run(list(map(str, asked)), check=True, capture_output=True, text=True)
    assert 50e6 < json.loads(done.stdout)["estimates"][0]["worker_memory"] < 0.75 * ballast.nbytes


def test_a_pool_of_extract_is_a_pool(tmp_path: Path) -> None:
    """The folder that `metaclip extract` leaves has a manifest too, and is no run."""
    pool = tmp_path / "pool"
    shutil.copytree(Path(__file__).parents[1] / "golden" / "pool_extracted", pool)
    found = plan(pool, ["a", "the", "photo"], options=ONE)
    assert not found.combined
    assert found.measured.matched
