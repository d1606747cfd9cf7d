"""Threads for what runs without the GIL: a pool that whoever leaves it may close, and results in the order of their items."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def thread_pool(workers: int) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Open a pool of threads; at the end what was not begun is dropped, and what runs is waited for.

    A generator may hold it, and an error of the generator's caller may hold the generator: then whichever thread collects
    garbage next ends the pool, and a thread of the pool itself cannot wait for itself.
    """
    own: set[int] = set()
    pool = concurrent.futures.ThreadPoolExecutor(
        workers, thread_name_prefix="shard", initializer=lambda: own.add(threading.get_ident())
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=threading.get_ident() not in own, cancel_futures=True)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Do as `map`, with up to `threads` calls ahead of the result that is given; one thread is the caller's own."""
    if threads == 1:
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
