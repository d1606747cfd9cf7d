"""Workers, nodes or the driver of Ray are lost: the command, or the same command again, has the same result."""

from __future__ import annotations

import contextlib
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

TIMES = 3
"""How many workers are killed."""
FILES, ROWS = 200, 200
"""The size of the pool: many files with few texts each, so that a kill hits some of them in the middle."""


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


def test_interrupted(large: Path, words: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Ctrl-C: exit code 130 and one line, no process or file of Ray is left, and the local engine can resume the run."""
    before, run = leftovers(), tmp_path / "run"
    with start(*on_ray(large, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
        until(lambda: done(run) >= 5 or process.code is not None, "shards")
        others = below(process.pid)
        process.send(signal.SIGINT)
        assert process.wait() == 130
        # On a busy machine, a line of Ray's own log may come before ours.
        said = [line for line in process.err.splitlines() if line and not line.startswith("[")]
        assert len(said) == 1
        assert said[0].startswith("metaclip: interrupted; ")
    assert 0 < done(run) < 2 * FILES
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "the end of Ray")
    assert leftovers() <= before
    assert not list(run.rglob("*.tmp"))
    with start(*curate(large, words, run), into=tmp_path) as process:
        assert process.wait() == 0, process.err
    holds(run, undisturbed)


def test_workers_are_killed(large: Path, words: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Workers are killed by SIGKILL one after the other, in both stages: the command succeeds with the same result."""
    rng, run, killed = random.Random(3), tmp_path / "run", 0
    with start(*on_ray(large, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
        for i in range(TIMES):
            goal = 4 + i * (2 * FILES - 20) // TIMES
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
    assert killed >= TIMES * 3 // 4, "the kills hit no work"
    holds(run, undisturbed)


def test_the_driver_is_killed(large: Path, words: Path, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL of the driver: Ray ends too, finished shards stay, and the same command ends with the same result.

    That is the result of the local engine; nothing is written to standard error, and no file of Ray is left.
    """
    run, goal = tmp_path / "run", FILES + 20
    with start(*on_ray(large, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
        until(lambda: done(run) >= goal or process.code is not None, f"shard {goal}")
        others = [
            pid for pid, line in below(process.pid).items() if "Agent" not in line
        ]  # Ray's agents take a minute
        kill(process.pid)
        assert process.wait() == -signal.SIGKILL
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "the end of Ray")
    assert 0 < done(run) < 2 * FILES, "the kill hit no work"
    before, of_killed = made(run, "match"), leftovers()
    with start(*on_ray(large, words, run, "--workers", 2), into=tmp_path, cold=True) as process:
        assert process.wait() == 0, process.err
        assert process.err == ""
    assert leftovers() <= of_killed
    holds(run, undisturbed)
    assert before.items() <= made(run, "match").items(), "a finished shard was made again"


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
def test_a_node_is_lost(
    large: Path, words: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two nodes is lost with its running tasks: the other node runs its shards too."""
    run, goal = tmp_path / "run", 3
    with cluster(2, monkeypatch) as (made_of, (first, _)), contextlib.ExitStack() as opened:
        command = on_ray(large, words, run, "--address", made_of.address)
        process: Running = opened.enter_context(start(*command, into=tmp_path, cold=True))
        until(lambda: done(run) >= goal or process.code is not None, f"shard {goal}")
        assert process.code is None, process.err
        made_of.remove_node(first, allow_graceful=False)
        assert 0 < done(run) < 2 * FILES, "the loss hit no work"
        assert process.wait() == 0, process.err
    holds(run, undisturbed)
