"""The local engine: each item is processed once, few are under way, and a caller that leaves leaves nothing running."""

from __future__ import annotations

import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metaclip.engine import ProgressCallback, default_workers
from metaclip.engine.local import Local
from metaclip.errors import Interrupted
from tests.processes import environment


def worker_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("shard")}


def identity(x: int, progress: ProgressCallback) -> int:
    return x


def square(x: int, progress: ProgressCallback) -> int:
    return x * x


def test_workers_are_what_this_process_may_use() -> None:
    """The default is the number of CPUs that this process may run on."""
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
    assert Local().workers == default_workers()


# --- threads


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 500])
def test_every_item_is_done_once(n: int, workers: int) -> None:
    """Each item comes back with its result, whatever the number of workers; falsy items and results too."""
    called: list[int] = []

    def step(x: int, progress: ProgressCallback) -> int:
        called.append(x)
        time.sleep(random.random() / 5000)
        return x * x

    given = list(Local(workers).map(step, range(n)))
    assert sorted(given) == [(x, x * x) for x in range(n)]
    assert sorted(called) == list(range(n))
    assert not worker_threads()


def test_items_of_uneven_length_come_in_the_order_they_end() -> None:
    """A long item delays no other: results come as they are ready, and are the same."""
    first = threading.Event()

    def step(x: int, progress: ProgressCallback) -> int:
        if x == 0:
            first.wait(60)
        return x

    given = []
    for item, _ in Local(2).map(step, range(6)):
        given.append(item)
        if len(given) == 5:
            first.set()
    assert given[-1] == 0
    assert sorted(given) == list(range(6))


@pytest.mark.parametrize("workers", [1, 3])
def test_little_is_under_way(workers: int) -> None:
    """A generator of a million items is advanced only as work proceeds: at most two items per worker ahead."""
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for drawn in range(1, 1_000_001):  # noqa: UP028 - the test watches how far it is advanced
            yield drawn

    furthest = 0
    for done, _ in enumerate(itertools.islice(Local(workers).map(identity, items()), 50)):
        furthest = max(furthest, drawn - done)
    assert workers <= furthest <= 2 * workers


def test_at_most_the_workers_run_at_once() -> None:
    """No more calls run at the same time than there are workers, and as many do."""
    lock, running, most = threading.Lock(), 0, 0

    def step(_: int, progress: ProgressCallback) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    list(Local(3).map(step, range(30)))
    assert most == 3


def test_a_caller_that_leaves_leaves_no_threads() -> None:
    """After an error of the caller, running calls are stopped and waited for, and waiting ones do not begin.

    A stopped call raises what the command line knows: exit code 130, and the next step.
    """
    begun, ended, errors = [], [], []

    def step(x: int, progress: ProgressCallback) -> None:
        begun.append(x)
        try:
            while x:
                progress(0, 0)
                time.sleep(0.001)
        except Interrupted as error:
            errors.append(error)
            raise
        finally:
            ended.append(x)

    def fail() -> None:
        for _ in Local(2).map(step, range(100)):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert sorted(begun) == sorted(ended)
    assert len(begun) <= 4
    assert {(str(error), error.exit_code) for error in errors} == {
        ("interrupted; the same command goes on from here", 130)
    }
    assert not worker_threads()


def test_an_error_of_the_source_leaves_no_threads() -> None:
    """If the next item cannot be had, running calls are waited for, and the error goes up."""

    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(Local(1).map(identity, items()))
    assert not worker_threads()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_work_between_batches(number: int) -> None:
    """Ctrl-C and SIGTERM (as the command line handles it) end long steps: stopped, waited for, no thread left."""
    ended = []

    def step(x: int, progress: ProgressCallback) -> None:
        if x == 1:
            time.sleep(0.05)  # the other one has begun
            os.kill(os.getpid(), number)
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                progress(0, 0)
                time.sleep(0.001)
        except Interrupted:
            ended.append(x)
            raise

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(Local(2).map(step, range(50)))
    finally:
        signal.signal(number, before)
    assert time.monotonic() - began < 30
    assert sorted(ended) == [0, 1]
    assert not worker_threads()


def test_a_thread_of_the_pool_may_collect_what_was_left() -> None:
    """A dropped generator is closed by whichever thread collects garbage: a thread of the pool cannot wait for itself."""
    begun, closed = threading.Event(), []

    def step(x: int, progress: ProgressCallback) -> int:
        if x == 1:
            begun.wait(30)
            results.close()
            closed.append(x)
        return x

    results = Local(2).map(step, range(2))
    assert next(results) == (0, 0)
    begun.set()
    end = time.monotonic() + 30
    while worker_threads():
        assert time.monotonic() < end
    assert closed == [1]


# --- processes


def in_processes(workers: int) -> Callable[..., Iterator[tuple[int, object]]]:
    return functools.partial(Local(workers).map, holds_gil=True)


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


def pid_of(_: object, progress: ProgressCallback) -> int:
    time.sleep(0.02)
    return os.getpid()


def test_processes_are_used_again_and_end() -> None:
    """Each item comes back with its result; at most as many processes as workers do all of them, and none is left."""
    map_ = in_processes(3)
    assert sorted(map_(square, range(40))) == [(x, x * x) for x in range(40)]
    pids = {int(str(pid)) for _, pid in map_(pid_of, range(12))}
    assert 1 <= len(pids) <= 3
    assert os.getpid() not in pids
    assert gone(pids)
    assert not worker_threads()
    assert list(map_(square, [])) == []


@pytest.mark.parametrize(("workers", "items"), [(1, [1, 2]), (3, [1])])
def test_one_worker_or_one_item_needs_no_process(workers: int, items: list[int]) -> None:
    """The step runs in this process and this thread, so that Ctrl-C interrupts it."""
    assert list(in_processes(workers)(lambda _, __: (os.getpid(), threading.get_ident()), items)) == [
        (item, (os.getpid(), threading.get_ident())) for item in items
    ]


def test_a_caller_that_leaves_leaves_no_process() -> None:
    """A caller that leaves in the middle takes the workers with it, and the threads that watch them."""
    found = Local(2).map(pid_of, range(1000), holds_gil=True)
    pids = {int(str(pid)) for _, pid in (next(found), next(found), next(found))}
    found.close()
    assert gone(pids)
    assert not worker_threads()


def sleep_long(x: int, progress: ProgressCallback) -> int:
    if x:
        time.sleep(600)
    return os.getpid()


def test_a_caller_that_leaves_does_not_wait_for_steps_in_processes() -> None:
    """Workers are killed where they are."""
    began = time.monotonic()
    found = Local(2).map(sleep_long, range(10), holds_gil=True)
    next(found)
    found.close()
    assert time.monotonic() - began < 60
    assert not worker_threads()


def test_a_worker_dies_with_who_started_it(tmp_path: Path) -> None:
    """A driver that is killed leaves no worker behind, though they sleep."""
    (tmp_path / "driver.py").write_text(
        "import os, sys, time\n"
        "from metaclip.engine.local import Local\n"
        "def step(x, progress):\n"
        "    open(sys.argv[1] + f'/{os.getpid()}.pid', 'w').close()\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    list(Local(2).map(step, range(4), holds_gil=True))\n"
    )
    driver = subprocess.Popen([sys.executable, tmp_path / "driver.py", tmp_path], env=environment())
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    pids = {int(path.stem) for path in tmp_path.glob("*.pid")}
    assert len(pids) == 2
    driver.kill()
    driver.wait()
    assert gone(pids)
