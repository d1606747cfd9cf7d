"""The local engine: shards to functions on this machine's threads. It knows nothing of matching.

Threads, because the kernels, Arrow and hashing run without the GIL. At most two shards a worker are under way, so that
a pool of any size costs no memory here.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from metaclip.errors import Interrupted

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stop:
    """Tells running work to stop: a step asks it between batches."""

    def __init__(self) -> None:
        """Begin with go."""
        self._event = threading.Event()

    def set(self) -> None:
        """Ask all work to stop."""
        self._event.set()

    def check(self) -> None:
        """Raise Interrupted if work is to stop."""
        if self._event.is_set():
            raise Interrupted("interrupted; the same command goes on from here")


def default_workers() -> int:
    """Give the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, stop: Stop
) -> Iterator[tuple[Item, Result | BaseException]]:
    """Call `function` with each item in `workers` threads; give (item, result or what it raised) as they finish.

    When the caller leaves (Ctrl-C, an error of its own), running calls are asked to stop and waited for.
    """
    source = iter(items)
    running: dict[concurrent.futures.Future[Result], Item] = {}
    with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="shard") as pool:
        try:
            while True:
                for item in itertools.islice(source, 2 * workers - len(running)):
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    yield running.pop(future), future.result() if error is None else error
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)  # what runs is waited for at the end of the block
