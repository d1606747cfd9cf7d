"""Threads: results in the order of their items, few calls ahead, errors in their place, and no thread left running."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time

import pytest

from metaclip.storage.threads import map_ordered, map_parallel, thread_pool
from tests import interrupts
from tests.processes import environment


def left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shard")]


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 200])
def test_results_come_map_ordered(n: int, threads: int) -> None:
    """Like `map`, however long each call takes."""

    def square(x: int) -> int:
        time.sleep(random.random() / 2000)
        return x * x

    assert list(map_ordered(square, range(n), threads)) == [x * x for x in range(n)]
    assert map_parallel(square, range(n), threads) == [x * x for x in range(n)]
    assert not left()


@pytest.mark.parametrize("threads", [1, 3])
def test_little_is_ahead(threads: int) -> None:
    """An endless iterator of items is advanced only as results are taken."""
    drawn: list[int] = []

    def items() -> itertools.chain[int]:
        return itertools.chain.from_iterable([drawn.append(x) or x] for x in itertools.count())  # type: ignore[func-returns-value]

    results = map_ordered(lambda x: x, items(), threads)
    for taken in range(1, 20):
        next(results)
        assert len(drawn) <= taken + threads
    results.close()
    assert not left()


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_in_its_place(threads: int) -> None:
    """The results before it are yielded first."""

    def step(x: int) -> int:
        if x == 5:
            raise ValueError("five")
        return x

    results = map_ordered(step, range(50), threads)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert not left()


def test_a_thread_of_the_pool_may_end_it() -> None:
    """It does not wait for itself; the other threads end by themselves."""
    opened = thread_pool(2)
    pool = opened.__enter__()
    outcome = pool.submit(lambda _: opened.__exit__(None, None, None), None).get(timeout=30)
    assert outcome == (None, False, None)
    end = time.monotonic() + 30
    while left():
        assert time.monotonic() < end


@pytest.mark.parametrize("work", interrupts.WORK)
def test_ctrl_c_at_every_moment(work: str) -> None:
    """An interrupt of the main thread leaves no lock held that a thread then waits for, wherever it comes."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.interrupts", work],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
