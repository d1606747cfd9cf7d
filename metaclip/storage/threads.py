"""Threads for work that runs without the GIL or waits for a store."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Outcomes = queue.SimpleQueue[tuple[Any, Any, BaseException | None]]
"""Finished calls: the item, and the result or the error. It is a queue in C: an interrupt leaves no lock of it held."""


@contextlib.contextmanager
def without_interrupt() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM, where they have a handler, to the end of the block.

    Python raises KeyboardInterrupt between any two instructions of the main thread, also while it holds a lock of the
    standard library that other threads then wait for without end.
    """
    handlers: dict[int, Any] = {}
    delayed: list[tuple[int, Any]] = []
    try:
        if threading.current_thread() is threading.main_thread():
            number: int
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(handler := signal.getsignal(number)):
                    handlers[number] = handler
                    signal.signal(number, lambda *caught: delayed.append(caught))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in delayed:
            handlers[number](number, frame)


class ThreadPool:
    """Threads that call functions; made by `thread_pool`."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        """Use the threads of an executor."""
        self._executor = executor

    def submit(
        self, function: Callable[[Item], object], item: Item, outcomes: Outcomes | None = None
    ) -> Outcomes:
        """Call ``function(item)`` in a thread; return the queue, a new one if none is given, that gets its outcome."""
        into: Outcomes = queue.SimpleQueue() if outcomes is None else outcomes

        def call() -> None:
            try:
                into.put((item, function(item), None))
            except BaseException as error:
                into.put((item, None, error))

        with without_interrupt():
            self._executor.submit(call)
        return into


@contextlib.contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPool]:
    """Open a pool of threads; at its end, calls that have not begun are dropped and running ones are waited for.

    A generator may own the pool, and the traceback of an error may keep the generator alive. Whichever thread collects
    garbage next then closes the pool, and a thread of the pool itself cannot wait for itself.
    """
    own: set[int] = set()
    executor = concurrent.futures.ThreadPoolExecutor(
        threads, thread_name_prefix="shard", initializer=lambda: own.add(threading.get_ident())
    )
    try:
        yield ThreadPool(executor)
    finally:
        executor.shutdown(wait=threading.get_ident() not in own, cancel_futures=True)


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in the order of the items, with up to `threads` calls ahead of the caller.

    With one thread, the calls run in the thread of the caller.
    """
    if threads <= 1:
        yield from map(function, items)
        return

    def first() -> Result:
        _, result, error = ahead.popleft().get()
        if error is None:
            return result  # type: ignore[no-any-return]
        try:
            raise error
        finally:
            del error  # whose traceback holds this frame

    with thread_pool(threads) as pool:
        ahead: collections.deque[Outcomes] = collections.deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > threads:
                yield first()
        while ahead:
            yield first()


def map_parallel(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """Return ``function(item)`` for all items, in order, computed by up to `threads` threads."""
    return list(map_ordered(function, items, min(threads, len(items))))
