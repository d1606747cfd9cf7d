"""The engine of processes: as the one of threads, and a worker that dies disturbs nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaclip.engine.contract import TRIES, Stop, WorkerDied
from metaclip.engine.processes import run
from metaclip.errors import Interrupted, MetaclipError


def square(x: int) -> int:
    return x * x


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pids: set[int]) -> bool:
    """Wait until none of some processes is left."""
    end = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(alive, pids))


def pid_of(_: object) -> int:
    time.sleep(0.02)
    return os.getpid()


class Fragile:
    """Dies on some items: always, or the first so many times."""

    def __init__(self, folder: Path, deaths: dict[int, int]) -> None:
        self.folder, self.deaths = folder, deaths

    def __call__(self, x: int) -> int:
        marks = self.folder / f"{x}.tries"
        with marks.open("a") as file:
            file.write("x")
        if len(marks.read_text()) <= self.deaths.get(x, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if x == 7:
            raise MetaclipError("seven")
        return x

    def tries(self, x: int) -> int:
        return len((self.folder / f"{x}.tries").read_text())


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_is_done_once(workers: int) -> None:
    """Each item comes back with its result; workers are used again, and are gone at the end."""
    assert sorted(run(square, range(40), workers, Stop())) == [(x, x * x) for x in range(40)]
    pids = {int(pid) for _, pid in run(pid_of, range(12), workers, Stop()) if isinstance(pid, int)}
    assert 1 <= len(pids) <= workers
    assert gone(pids)
    assert list(run(square, [], workers, Stop())) == []


def test_a_worker_that_dies_costs_its_item_a_try(tmp_path: Path) -> None:
    """A killed worker is noticed and its item done by another; others' items are done once; errors travel."""
    step = Fragile(tmp_path, {2: 1, 5: 2, 9: 100})
    results = dict(run(step, range(12), 2, Stop()))
    assert {x: result for x, result in results.items() if not isinstance(result, BaseException)} == {
        x: x for x in range(12) if x not in (7, 9)
    }
    assert str(results[7]) == "seven"
    assert isinstance(results[9], WorkerDied)
    assert "SIGKILL" in str(results[9])
    assert [step.tries(x) for x in range(12)] == [1, 1, 2, 1, 1, 3, 1, 1, 1, TRIES, 1, 1]


def test_a_caller_that_leaves_leaves_no_process() -> None:
    """A caller that goes away in the middle takes the workers with it."""
    found = run(pid_of, range(1000), 2, Stop())
    pids = {int(pid) for _, pid in (next(found), next(found), next(found)) if isinstance(pid, int)}
    found.close()  # type: ignore[attr-defined]
    assert gone(pids)


def test_stop_ends_the_work() -> None:
    """Where work is to stop, the caller is told so, and no worker is left."""
    stop = Stop()
    pids: set[int] = set()

    def options() -> None:
        for _, pid in run(pid_of, range(1000), 2, stop):
            assert isinstance(pid, int)
            pids.add(pid)
            stop.set()

    with pytest.raises(Interrupted):
        options()
    assert gone(pids)


def test_little_is_under_way() -> None:
    """Items are drawn only as work proceeds."""
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for drawn in range(1, 10_001):  # noqa: UP028 - who draws is watched
            yield drawn

    found = run(square, items(), 2, Stop())
    for done in range(1, 20):
        next(found)
        assert drawn <= done + 2
    found.close()  # type: ignore[attr-defined]


def test_workers_end_with_who_started_them(tmp_path: Path) -> None:
    """A driver that is killed leaves no worker behind, though they sleep."""
    (tmp_path / "driver.py").write_text(
        "import os, sys, time\n"
        "from metaclip.engine.contract import Stop\n"
        "from metaclip.engine.processes import run\n"
        "def step(x):\n"
        "    open(sys.argv[1] + f'/{os.getpid()}.pid', 'w').close()\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    list(run(step, range(4), 2, Stop()))\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    driver = subprocess.Popen([sys.executable, tmp_path / "driver.py", tmp_path], env=environ)
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    pids = {int(path.stem) for path in tmp_path.glob("*.pid")}
    assert len(pids) == 2
    driver.kill()
    driver.wait()
    assert gone(pids)
