"""The driver or a worker is killed at any moment: the same command ends with the result of an uninterrupted run."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.crawls import packed, photos, response
from tests.faults.victims import kill, workers
from tests.processes import start, until
from tests.runs import FILES, curate, holds, made, markers

TIMES = 3
"""How many workers are killed."""
CRAWL_FILES = 24


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_the_driver_is_killed(
    large: Path, words: Path, undisturbed: Path, tmp_path: Path, seed: int
) -> None:
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
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crawl; some images occur in several files."""
    pytest.importorskip("isal", reason="needs metaclip[crawl]")
    folder = tmp_path_factory.mktemp("crawl")
    for i in range(CRAWL_FILES):
        pages = (photos(500 * (i + j), 800, "https://example.org/p") for j in range(2))
        (folder / f"{i:02}.warc.wat.gz").write_bytes(packed(pages))
    return folder


@pytest.fixture(scope="module", params=["all", pytest.param("excluding", marks=pytest.mark.slow)])
def options(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """No options, or a list to match and files of robots.txt, which are read into an index first."""
    if request.param == "all":
        return []
    folder = tmp_path_factory.mktemp("excluding")
    (folder / "list.txt").write_text("".join(f"number {i}\n" for i in range(0, 20_000, 3)))
    rules = "user-agent: *\n" + "".join(f"disallow: /photo-{i}\n" for i in range(100, 200))
    hosts = [f"h{i}.example" for i in range(20_000)] + ["example.org"]
    answers = (response(f"https://{host}/robots.txt", rules, content_type="text/plain") for host in hosts)
    (folder / "robots.warc.gz").write_bytes(packed(answers))
    return ["--matched", folder / "list.txt", "--robots", folder / "robots.warc.gz"]


@pytest.fixture(scope="module")
def pool(crawl: Path, options: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool of an uninterrupted extraction."""
    folder = tmp_path_factory.mktemp("pool")
    with start(*extract(crawl, folder / "pool", "--workers", 1, *options), into=folder) as process:
        assert process.wait() == 0, process.err
    return folder / "pool"


def test_workers_are_killed(crawl: Path, pool: Path, options: list[Any], tmp_path: Path) -> None:
    """Workers are killed by SIGKILL in the middle of files, one after the other: the command continues and succeeds."""
    rng, out, killed = random.Random(3), tmp_path / "pool", 0
    with start(*extract(crawl, out, "--workers", 2, *options), into=tmp_path) as process:
        for i in range(TIMES):
            goal = 1 + i * (CRAWL_FILES - 6) // TIMES
            until(lambda g=goal: extracted(out) >= g or process.code is not None, f"file {goal}")
            time.sleep(rng.random() / 20)
            hit = workers(process.pid)
            if hit and extracted(out) < CRAWL_FILES:
                killed += kill(
                    hit[0]
                )  # the oldest: a file that is tried again is mostly with a young one
        code = process.wait()
    if code == 3:  # one file was hit three times: it is left out, and the same command tries it again
        assert "the worker died 3 times" in process.err
        with start(*extract(crawl, out, "--workers", 2, *options), into=tmp_path) as process:
            code = process.wait()
    assert code == 0, process.err
    assert killed >= TIMES * 3 // 4, "the kills hit no work"
    assert pairs(out) == pairs(pool)
    assert not list(out.rglob("*.tmp"))


def test_the_driver_of_workers_is_killed(
    crawl: Path, pool: Path, options: list[Any], tmp_path: Path
) -> None:
    """SIGKILL of the driver while its workers write: no worker survives, and the same command makes the same pool."""
    out, goal = tmp_path / "pool", CRAWL_FILES // 2
    with start(*extract(crawl, out, "--workers", 2, *options), into=tmp_path) as process:
        until(lambda: extracted(out) >= goal or process.code is not None, f"file {goal}")
        hit = workers(process.pid)
        kill(process.pid)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert hit
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in hit), "the end of its workers")
    assert 0 < extracted(out) < CRAWL_FILES, "the kill hit no work"
    with start(*extract(crawl, out, "--workers", 2, *options), into=tmp_path) as process:
        assert process.wait() == 0, process.err
    assert pairs(out) == pairs(pool)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("options", ["excluding"], indirect=True)
def test_the_index_of_robots_files_is_killed(
    crawl: Path, pool: Path, options: list[Any], tmp_path: Path
) -> None:
    """SIGKILL while robots.txt files are read: the same command reads them again and makes the same pool."""
    command = extract(crawl, out := tmp_path / "pool", "--workers", 2, *options)
    with start(*command, into=tmp_path) as process:
        until(lambda: any(out.rglob("*robots*")) or process.code is not None, "the index")
        time.sleep(0.2)
        kill(process.pid)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert not any(out.rglob("index/*.rules")), "the index was complete before the kill"
    with start(*command, into=tmp_path) as process:
        assert process.wait() == 0, process.err
    assert pairs(out) == pairs(pool)
    assert not list(out.rglob("*.tmp"))
