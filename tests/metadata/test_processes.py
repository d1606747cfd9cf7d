"""Work on processes: all results, errors as they are, no worker that outlives the work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata import processes


def square(number: int) -> int:
    if number == 13:
        raise MetaclipError("thirteen cannot be squared")
    return number * number


def end_itself(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep_if(number: int) -> int:
    time.sleep(0 if number else 600)
    return os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_each_item_once(workers: int) -> None:
    """One worker or more give a result for each item; none is fine too."""
    assert dict(processes.run(square, range(12), workers)) == {i: i * i for i in range(12)}
    assert list(processes.run(square, [], workers)) == []
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_as_it_is(workers: int) -> None:
    """What a call raises reaches the caller, and no worker stays."""
    with pytest.raises(MetaclipError, match="^thirteen cannot be squared$"):
        list(processes.run(square, [1, 13, *range(14, 40)], workers))
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_told() -> None:
    """A worker that is killed, as when memory runs out, is one clear line with the next step."""
    with pytest.raises(MetaclipError, match="a worker process was killed, .* with fewer workers"):
        list(processes.run(end_itself, [1, 2], 2))
    assert not multiprocessing.active_children()


def test_who_leaves_does_not_wait() -> None:
    """Left in the middle, running calls are ended, however long they would have taken."""
    begin = time.monotonic()
    running = processes.run(sleep_if, [1, 0], 2)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begin < 60
    assert not multiprocessing.active_children()
