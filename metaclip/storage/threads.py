"""Threads for work that runs without the GIL or waits for a store."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def thread_pool(threads: int) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Open a pool of threads; at its end, calls that have not begun are dropped and running ones are waited for.

    A generator may own the pool, and the traceback of an error may keep the generator alive. Whichever thread collects
    garbage next then closes the pool, and a thread of the pool itself cannot wait for itself.
    """
    own: set[int] = set()
    pool = concurrent.futures.ThreadPoolExecutor(
        threads, thread_name_prefix="shard", initializer=lambda: own.add(threading.get_ident())
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=threading.get_ident() not in own, cancel_futures=True)


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in the order of the items, with up to `threads` calls ahead of the caller.

    With one thread, the calls run in the thread of the caller.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    with thread_pool(threads) as pool:
        ahead: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def map_parallel(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """Return ``function(item)`` for all items, in order, computed by up to `threads` threads."""
    return list(map_ordered(function, items, min(threads, len(items))))
