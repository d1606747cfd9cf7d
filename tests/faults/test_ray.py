"""Workers, nodes or the driver of Ray are lost: the command, or the same command again, has the same result."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.victims import below, kill, workers
from tests.processes import Running, start, until
from tests.runs import curate, holds, made, markers, undisturbed_run, write_pool

pytest.importorskip("ray", reason="needs metaclip[ray]")
pytestmark = [pytest.mark.extra, pytest.mark.xdist_group("ray")]

TIMES = 8
FILES, ROWS = 200, 200
"""The size of the pool: so few texts per file that no process, each of which is cold, compiles a kernel."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of many files, so that a kill hits some of them."""
    return write_pool(tmp_path_factory.mktemp("large") / "pool", FILES, ROWS)


@pytest.fixture(scope="module")
def undisturbed(large: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of the local engine."""
    return undisturbed_run(large, words, tmp_path_factory.mktemp("undisturbed"))


def on_ray(large: Path, words: Path, run: Path, *more: Any) -> list[Any]:
    return curate(large, words, run, "--engine", "ray", *more)


def done(run: Path) -> int:
    return len(markers(run, "match")) + len(markers(run, "balance"))


def leftovers() -> set[str]:
    """Return the names of Ray's folders among the temporary files."""
    return {path.name for path in Path(tempfile.gettempdir()).glob("metaclip-ray-*")}


def test_the_run_of_the_local_engine(large: Path, words: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The bytes are equal, no file of Ray is left, and the output on the screen is the same."""
    before = leftovers()
    with start(*on_ray(large, words, tmp_path / "run", "--workers", 2), into=tmp_path, cold=True) as process:
        assert process.wait() == 0, process.err
        assert process.err == ""
    holds(tmp_path / "run", undisturbed)
    assert leftovers() <= before


def test_interrupted(large: Path, words: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Ctrl-C: exit code 130 and one line, no process or file of Ray is left, and the local engine can resume the run."""
    before, run = leftovers(), tmp_path / "run"
    with start(*on_ray(large, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
        until(lambda: done(run) >= 5 or process.code is not None, "shards")
        others = below(process.pid)
        process.send(signal.SIGINT)
        assert process.wait() == 130
        assert process.err.strip() == "metaclip: interrupted; the same command goes on from here"
    assert 0 < done(run) < 2 * FILES
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "the end of Ray")
    assert leftovers() <= before
    assert not list(run.rglob("*.tmp"))
    with start(*curate(large, words, run), into=tmp_path) as process:
        assert process.wait() == 0, process.err
    holds(run, undisturbed)


@pytest.mark.parametrize("times", [pytest.param(3, id="few"), pytest.param(TIMES, id="many", marks=pytest.mark.slow)])
def test_workers_are_killed(large: Path, words: Path, undisturbed: Path, tmp_path: Path, times: int) -> None:
    """Workers are killed by SIGKILL one after the other, in both stages: the command succeeds with the same result."""
    rng, run, killed = random.Random(times), tmp_path / "run", 0
    with start(*on_ray(large, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
        for i in range(times):
            goal = 4 + i * (2 * FILES - 20) // times
            until(lambda g=goal: done(run) >= g or process.code is not None, f"shard {goal}")
            time.sleep(rng.random() / 50)
            hit = workers(process.pid)
            if hit and done(run) < 2 * FILES:
                killed += kill(hit[0])
        code = process.wait()
    if code == 3:  # one shard was hit each time that it was tried: the same command tries it again
        assert "times (" in process.err
        with start(*on_ray(large, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
            code = process.wait()
    assert code == 0, process.err
    assert killed >= times * 3 // 4, "the kills hit no work"
    holds(run, undisturbed)


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[] if s < 1 else [pytest.mark.slow]) for s in range(2)])
def test_the_driver_is_killed(large: Path, words: Path, undisturbed: Path, tmp_path: Path, seed: int) -> None:
    """SIGKILL of the driver: Ray ends too, finished shards stay, and the same command ends with the same result."""
    rng, run = random.Random(seed), tmp_path / "run"
    goal = rng.randrange(1, 2 * FILES - 8)
    with start(*on_ray(large, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
        until(lambda: done(run) >= goal or process.code is not None, f"shard {goal}")
        others = [pid for pid, line in below(process.pid).items() if "Agent" not in line]  # Ray's agents take a minute
        kill(process.pid)
        assert process.wait() == -signal.SIGKILL
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "the end of Ray")
    assert 0 < done(run) < 2 * FILES, "the kill hit no work"
    before = made(run, "match")
    with start(*on_ray(large, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
        assert process.wait() == 0, process.err
    holds(run, undisturbed)
    assert before.items() <= made(run, "match").items(), "a finished shard was made again"


def test_one_corrupt_shard_among_fifty(words: Path, tmp_path: Path) -> None:
    """It is listed, the other 49 are finished, the exit code is 3."""
    pool, run = write_pool(tmp_path / "pool", 50, 50), tmp_path / "run"
    path = pool / "031.parquet"
    path.write_bytes(b"PAR1" + b"\xff" * 196 + path.read_bytes()[200:])
    with start(*on_ray(pool, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
        assert process.wait() == 3, process.err
        assert "1 of 50 inputs were lost" in process.err
        assert str(path) in process.err
    assert len(markers(run, "match")) == 49
    assert json.loads((run / ".state" / "match" / "000031-0000.lost.json").read_text())["index"] == 31


# --- nodes


@contextlib.contextmanager
def cluster(nodes: int, patch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[Any]]]:
    """Start a cluster on this machine: a head without CPUs, and nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="r-")
    patch.setenv("RAY_TMPDIR", folder)
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made, [made.add_node(num_cpus=1) for _ in range(nodes)]
    finally:
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("goal", [3, FILES + 20])
def test_a_node_is_lost(
    large: Path, words: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: int
) -> None:
    """One of two nodes is lost with its running tasks, in the first or second stage: the other node runs its shards too."""
    run = tmp_path / "run"
    with cluster(2, monkeypatch) as (made_of, (first, _)), contextlib.ExitStack() as opened:
        command = on_ray(large, words, run, "--address", made_of.address)
        process: Running = opened.enter_context(start(*command, into=tmp_path, cold=True))
        until(lambda: done(run) >= goal or process.code is not None, f"shard {goal}")
        assert process.code is None, process.err
        made_of.remove_node(first, allow_graceful=False)
        assert 0 < done(run) < 2 * FILES, "the loss hit no work"
        assert process.wait() == 0, process.err
    holds(run, undisturbed)
