"""Functions on this machine's processes: for work in Python, which threads do not share.

A worker ends with the process that started it, however that ends: it waits for the end of a pipe that only the parent
holds open. So whoever leaves, by Ctrl-C, by an error or killed, leaves no worker behind; what a worker was writing stands
under a temporary name.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TypeVar

from metaclip.errors import MetaclipError

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """Give the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    """Call a picklable `function` with each item in `workers` processes; give (item, result) as they finish.

    One worker is this process. What a call raises is raised here, when those that finished before are given; running
    calls are ended. Raise MetaclipError if a worker is killed.
    """
    if workers <= 1:
        for item in items:
            yield item, function(item)
        return
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    source = iter(items)
    running: dict[concurrent.futures.Future[Result], Item] = {}
    with concurrent.futures.ProcessPoolExecutor(workers, context, _end_with, (watched,)) as pool:
        try:
            while True:
                for item in itertools.islice(source, 2 * workers - len(running)):
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in sorted(done, key=lambda one: one.exception() is not None):
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise MetaclipError(
                "a worker process was killed, as when memory runs out; what is finished is kept: "
                "run the same command again, with fewer workers"
            ) from None
        finally:
            if running:
                held.close()  # ends the workers at once
            pool.shutdown(wait=True, cancel_futures=True)
            held.close()
            watched.close()


def _end_with(watched: Connection) -> None:
    """Make this worker end when the parent does, and let the parent alone answer Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait, args=(watched,), daemon=True).start()


def _wait(watched: Connection) -> None:
    try:
        watched.recv()
    except (EOFError, OSError):
        os._exit(1)
