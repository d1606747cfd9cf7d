"""The local engine: everything is done once, little is under way, and whoever leaves leaves nothing running."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from metaclip.engine.contract import Stop, default_workers
from metaclip.engine.local import run
from metaclip.errors import Interrupted


def workers() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("shard")}


@pytest.mark.parametrize("n_workers", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 500])
def test_every_item_is_done_once(n: int, n_workers: int) -> None:
    """Each item comes back with its result, whatever the number of workers; falsy items and results too."""
    called: list[int] = []

    def square(x: int) -> int:
        called.append(x)
        time.sleep(random.random() / 5000)
        return x * x

    given = list(run(square, range(n), n_workers, Stop()))
    assert sorted(given) == [(x, x * x) for x in range(n)]
    assert sorted(called) == list(range(n))
    assert not workers()


def test_none_is_an_item() -> None:
    """An item that is None ends nothing."""
    assert sorted(run(repr, [None, 0, None], 1, Stop()), key=repr) == [(0, "0"), (None, "None"), (None, "None")]


def test_items_of_uneven_length_come_in_the_order_they_end() -> None:
    """A long item holds up nobody: results come as they are ready, and are the same."""
    first = threading.Event()

    def step(x: int) -> int:
        if x == 0:
            first.wait(60)
        return x

    given = []
    for item, _ in run(step, range(6), 2, Stop()):
        given.append(item)
        if len(given) == 5:
            first.set()
    assert given[-1] == 0
    assert sorted(given) == list(range(6))


@pytest.mark.parametrize("n_workers", [1, 3])
def test_little_is_under_way(n_workers: int) -> None:
    """A generator of a million items is drawn from only as work proceeds: at most two items a worker ahead."""
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for drawn in range(1, 1_000_001):  # noqa: UP028 - who draws is watched
            yield drawn

    furthest = 0
    for done, _ in enumerate(itertools.islice(run(lambda x: x, items(), n_workers, Stop()), 50)):
        furthest = max(furthest, drawn - done)
    assert n_workers <= furthest <= 2 * n_workers


def test_at_most_the_workers_run_at_once() -> None:
    """No more calls run at the same time than there are workers, and as many do."""
    lock, running, most = threading.Lock(), 0, 0

    def step(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    list(run(step, range(30), 3, Stop()))
    assert most == 3


def test_exceptions_come_back_with_their_items() -> None:
    """What one item raises is its result, and the others are done."""

    def step(x: int) -> int:
        if x % 3 == 0:
            raise ValueError(x)
        return x

    given = dict(run(step, range(10), 2, Stop()))
    assert {x for x, result in given.items() if isinstance(result, ValueError)} == {0, 3, 6, 9}
    assert [given[x] for x in (1, 2, 4)] == [1, 2, 4]
    assert str(given[6]) == "6"


def test_a_caller_that_leaves_leaves_no_threads() -> None:
    """An error of the caller: running calls are asked to stop and waited for, waiting ones are not begun."""
    stop, begun, ended = Stop(), [], []

    def step(x: int) -> None:
        begun.append(x)
        try:
            while x:
                stop.check()
                time.sleep(0.001)
        finally:
            ended.append(x)

    def options() -> None:
        for _ in run(step, range(100), 2, stop):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        options()
    assert sorted(begun) == sorted(ended)
    assert len(begun) <= 4
    assert not workers()


def test_an_error_of_the_source_leaves_no_threads() -> None:
    """Items that cannot be had: what runs is waited for, and the error goes up."""

    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(run(lambda x: x, items(), 1, Stop()))
    assert not workers()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_work_between_batches(number: int) -> None:
    """Ctrl-C and SIGTERM (as the command line takes it) end long work: asked to stop, waited for, no thread left."""
    stop, ended = Stop(), []

    def step(x: int) -> None:
        if x == 1:
            time.sleep(0.05)  # the other one is begun
            os.kill(os.getpid(), number)
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                stop.check()
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
            list(run(step, range(50), 2, stop))
    finally:
        signal.signal(number, before)
    assert time.monotonic() - began < 30
    assert sorted(ended) == [0, 1]
    assert not workers()


def test_a_thread_of_the_pool_may_collect_what_was_left() -> None:
    """What the caller dropped is closed by whichever thread collects garbage: one of the pool cannot wait for itself."""
    begun, closed = threading.Event(), []

    def step(x: int) -> int:
        if x == 1:
            begun.wait(30)
            carried.close()  # type: ignore[attr-defined]
            closed.append(x)
        return x

    carried = run(step, range(2), 2, Stop())
    assert next(carried) == (0, 0)
    begun.set()
    end = time.monotonic() + 30
    while workers():
        assert time.monotonic() < end
    assert closed == [1]


def test_stop_says_that_the_command_goes_on() -> None:
    """Work that is asked to stop raises what the command line knows: code 130, and the next step."""
    stop = Stop()
    stop.check()
    stop.set()
    with pytest.raises(Interrupted, match="the same command goes on from here") as raised:
        stop.check()
    assert raised.value.exit_code == 130


def test_workers_are_what_this_process_may_use() -> None:
    """The default is the number of processors that this process may run on."""
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
