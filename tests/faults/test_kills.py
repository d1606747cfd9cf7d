"""The driver or a worker is killed at any moment: the same command ends with the result of an uninterrupted run."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.faults.victims import kill, workers
from tests.processes import start, until
from tests.runs import FILES, curate, holds, made, markers, write_pool

TIMES = 20
FEW = 3
SEEDS = [pytest.param(seed, marks=[] if seed < FEW else [pytest.mark.slow]) for seed in range(TIMES)]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_driver_is_killed(large: Path, words: Path, undisturbed: Path, tmp_path: Path, seed: int) -> None:
    """SIGKILL at a random moment, when some shards are finished: the next run has the same result and repeats no shard."""
    rng, run = random.Random(seed), tmp_path / "run"
    goal, delay = rng.randrange(1, 2 * FILES - 1), rng.random() / 50
    command = curate(large, words, run, "--workers", rng.choice([1, 2, 3]))

    def done() -> int:
        return len(markers(run, "match")) + len(markers(run, "balance"))

    with start(*command, into=tmp_path) as process:
        until(lambda: done() >= goal or process.code is not None, f"shard {goal}")
        time.sleep(delay)
        kill(process.pid)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert 0 < done() < 2 * FILES, "the kill hit no work"
    before = {stage: made(run, stage) for stage in ("match", "balance")}
    with start(*command, into=tmp_path) as process:
        assert process.wait() == 0, process.err
    holds(run, undisturbed)
    for stage, left in before.items():
        assert left.items() <= made(run, stage).items(), "a finished shard was made again"


# --- workers, where work is done in processes


def extract(crawl: Path, out: Path, *more: Any) -> list[Any]:
    return ["extract", crawl, "--no-identify", "--out", out, *more]


def pairs(pool: Path) -> list[dict[str, Any]]:
    """Return the pairs of a pool in its order."""
    return [row for path in sorted(pool.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def extracted(pool: Path) -> int:
    return len(list(pool.glob(".state/extract/??????.json")))


@pytest.fixture(scope="module")
def pool(crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool of an uninterrupted extraction."""
    folder = tmp_path_factory.mktemp("pool")
    with start(*extract(crawl, folder / "pool", "--workers", 1), into=folder) as process:
        assert process.wait() == 0, process.err
    return folder / "pool"


@pytest.mark.parametrize("times", [pytest.param(FEW, id="few"), pytest.param(TIMES, id="many", marks=pytest.mark.slow)])
def test_workers_are_killed(crawl: Path, pool: Path, tmp_path: Path, times: int) -> None:
    """Workers are killed by SIGKILL in the middle of files, one after the other: the command continues and succeeds."""
    rng, out, killed = random.Random(times), tmp_path / "pool", 0
    with start(*extract(crawl, out, "--workers", 2), into=tmp_path) as process:
        for i in range(times):
            goal = 1 + i * 50 // times  # of 60 files
            until(lambda g=goal: extracted(out) >= g or process.code is not None, f"file {goal}")
            time.sleep(rng.random() / 20)
            hit = workers(process.pid)
            if hit and extracted(out) < 60:
                killed += kill(hit[0])  # the oldest: a file that is tried again is mostly with a young one
        code = process.wait()
    if code == 3:  # one file was hit three times: it is left out, and the same command tries it again
        assert "the worker died 3 times" in process.err
        with start(*extract(crawl, out, "--workers", 2), into=tmp_path) as process:
            code = process.wait()
    assert code == 0, process.err
    assert killed >= times * 3 // 4, "the kills hit no work"
    assert pairs(out) == pairs(pool)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[] if s < 1 else [pytest.mark.slow]) for s in range(5)])
def test_the_driver_of_workers_is_killed(crawl: Path, pool: Path, tmp_path: Path, seed: int) -> None:
    """SIGKILL of the driver while its workers write: no worker survives, and the same command makes the same pool."""
    rng, out = random.Random(seed), tmp_path / "pool"
    goal = rng.randrange(1, 55)
    with start(*extract(crawl, out, "--workers", 2), into=tmp_path) as process:
        until(lambda: extracted(out) >= goal or process.code is not None, f"file {goal}")
        hit = workers(process.pid)
        kill(process.pid)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert hit
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in hit), "the end of its workers")
    assert 0 < extracted(out) < 60, "the kill hit no work"
    with start(*extract(crawl, out, "--workers", 2), into=tmp_path) as process:
        assert process.wait() == 0, process.err
    assert pairs(out) == pairs(pool)
    assert not list(out.rglob("*.tmp"))


# --- bad luck with inputs and disks


@pytest.mark.parametrize("where", ["torn", "truncated"])
def test_one_corrupt_shard_among_fifty(words: Path, tmp_path: Path, where: str) -> None:
    """It is listed, the other 49 are finished, the exit code is 3; once corrected, the same command reads it alone."""
    source, run = write_pool(tmp_path / "pool", 50, 50), tmp_path / "run"
    path = source / "031.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] if where == "truncated" else b"PAR1" + b"\xff" * 196 + whole[200:])
    with start(*curate(source, words, run), into=tmp_path) as process:
        assert process.wait() == 3, process.err
        assert "1 of 50 inputs were lost" in process.err
        assert str(path) in process.err
    before = made(run, "match")
    assert len(before) == 49
    path.write_bytes(whole)
    with start(*curate(source, words, run), into=tmp_path) as process:
        assert process.wait() == 0, process.err
    after = made(run, "match")
    assert {name for name in after if after[name] != before.get(name)} == {"000031-0000"}


@pytest.mark.slow
def test_a_full_disk_under_workers(crawl: Path, pool: Path, tmp_path: Path) -> None:
    """Workers cannot write: exit code 2, one line, no unfinished file; with free space, the result is that of a normal run."""
    out = tmp_path / "pool"
    largest = max(path.stat().st_size for path in pool.glob("*.parquet")) // 2
    with start(*extract(crawl, out, "--workers", 2), into=tmp_path, largest_file=largest) as process:
        assert process.wait() == 2
        assert process.err.count("\n") == 1
        assert "no room left" in process.err
        assert not list(out.rglob("*.tmp"))
    with start(*extract(crawl, out, "--workers", 2), into=tmp_path) as process:
        assert process.wait() == 0, process.err
    assert pairs(out) == pairs(pool)
