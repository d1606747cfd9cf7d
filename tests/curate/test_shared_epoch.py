"""An epoch that is set in one process is that of its workers, however they were started; a copy keeps its own."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from metaclip.curate.shared_epoch import MAX_EPOCH, SharedEpoch

METHODS = ["fork", "forkserver", "spawn"]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def answer(epoch: SharedEpoch, connection: Any) -> None:
    """Answer each message with the epoch, until the last one."""
    while connection.recv():
        connection.send(epoch.get())


def ask_after(epoch: SharedEpoch, connection: Any) -> None:
    """Start a worker of this worker, and pass on what it says."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=answer, args=(epoch, theirs))
    process.start()
    while connection.recv():
        ours.send(True)
        connection.send(ours.recv())
    ours.send(False)
    process.join()


def worker(method: str, epoch: SharedEpoch, target: Callable[..., None] = answer) -> tuple[Any, Any]:
    ours, theirs = multiprocessing.Pipe()
    process: Any = multiprocessing.get_context(method)
    process = process.Process(target=target, args=(epoch, theirs))
    process.start()
    return process, ours


def said(connection: Any) -> int:
    connection.send(True)
    assert connection.poll(60)
    return int(connection.recv())


@pytest.mark.parametrize("method", METHODS)
def test_workers_see_it_change(method: str) -> None:
    """A worker that lives on reads each number that is set after it was started."""
    epoch = SharedEpoch(3)
    process, connection = worker(method, epoch)
    try:
        for number in (None, 4, MAX_EPOCH, 0):
            if number is not None:
                epoch.set(number)
            assert said(connection) == epoch.get() == (3 if number is None else number)
    finally:
        connection.send(False)
        process.join(60)


def test_workers_of_workers() -> None:
    """What a worker starts sees it, too."""
    epoch = SharedEpoch()
    process, connection = worker("spawn", epoch, ask_after)
    try:
        assert said(connection) == 0
        epoch.set(5)
        assert said(connection) == 5
    finally:
        connection.send(False)
        process.join(60)


@pytest.mark.parametrize("method", METHODS)
def test_the_memory_of_a_worker_is_not_used_again(method: str) -> None:
    """A worker keeps its epoch when the process that started it drops the epoch and makes others."""
    epoch = SharedEpoch(3)
    process, connection = worker(method, epoch)
    try:
        assert said(connection) == 3
        del epoch
        gc.collect()
        others = [SharedEpoch(7) for _ in range(50)]
        assert said(connection) == 3
        assert {other.get() for other in others} == {7}
    finally:
        connection.send(False)
        process.join(60)


@pytest.mark.parametrize("duplicate", [lambda epoch: pickle.loads(pickle.dumps(epoch)), copy.deepcopy])
def test_a_copy_is_its_own(duplicate: Callable[[SharedEpoch], SharedEpoch]) -> None:
    """Pickled for anything but a process that starts, it is a number, and later changes reach neither side."""
    epoch = SharedEpoch(3)
    other = duplicate(epoch)
    epoch.set(4)
    assert other.get() == 3
    other.set(9)
    assert epoch.get() == 4


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's list of open files")
def test_it_leaves_nothing_open() -> None:
    """An epoch that is dropped gives its file descriptor back."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        SharedEpoch(1)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
