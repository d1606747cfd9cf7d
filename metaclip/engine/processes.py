"""Processes of this machine, for work that holds the GIL: the engine that is there for every layer.

Law: that of `metaclip.engine.contract`. A worker that dies (killed, out of memory, a crash in a library) costs its item one
try, is replaced, and nothing else is disturbed. Workers end with the process that started them, however that ends.

The function, items and results travel by pickle between these processes only; the function once a worker, so that what
it makes on arrival stays. Cost: 0.5 s a worker to begin (it imports what the function needs). Workers are spawned, so a
script of one's own that comes here needs the usual ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sized
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Generic

from metaclip.engine.contract import (
    TRIES,
    Item,
    ProgressCallback,
    ReportingStep,
    Result,
    Results,
    Step,
    Stop,
    WorkerDied,
    default_workers,
    ignore_progress,
)

_LOOK: Final = 0.2  # seconds between looks at whether to stop


class Processes:
    """An engine of processes; one worker is this process itself."""

    def __init__(self, workers: int | None = None) -> None:
        """Take so many workers; None for one a processor."""
        self.workers = workers or default_workers()

    def map(
        self,
        step: Step[Item, Result],
        items: Iterable[Item],
        progress: ProgressCallback = ignore_progress,
        *,
        holds_gil: bool = True,
    ) -> Results[Item, Result]:
        """Do as `metaclip.engine.contract.Engine.map`: here where one worker is enough, else in processes."""
        if self.workers == 1 or (isinstance(items, Sized) and len(items) <= 1):
            yield from _run_here(step, items, progress)
            return
        for item, outcome in run(ReportingStep(step), items, self.workers, Stop()):
            if isinstance(outcome, BaseException):
                yield item, outcome
            else:
                told, result = outcome
                progress(*told)
                yield item, result


def _run_here(step: Step[Item, Result], items: Iterable[Item], progress: ProgressCallback) -> Results[Item, Result]:
    for item in items:
        try:
            result: Result | BaseException = step(item, progress)
        except Exception as error:  # Ctrl-C is the caller's
            result = error
        yield item, result


def run(function: Callable[[Item], Result], items: Iterable[Item], workers: int, stop: Stop) -> Results[Item, Result]:
    """Call `function` with each item in `workers` processes; give (item, result or what it raised) as they finish.

    `function` and items must be picklable. When the caller leaves, or `stop` is set, workers are killed where they are:
    what they were writing has a temporary name, which the owner of the folder removes.
    """
    source = iter(items)
    again: deque[tuple[Item, int]] = deque()  # what is to be tried again, with how often it was
    crew: list[_Worker[Item]] = []
    try:
        while True:
            stop.check()
            busy = [worker for worker in crew if worker.item is not None]
            while len(busy) < workers:
                if again:
                    task = again.popleft()
                elif (fresh := next(source, _NONE)) is not _NONE:
                    task = (fresh, 0)
                else:
                    break
                idle = next((worker for worker in crew if worker.item is None), None)
                if idle is None:
                    crew.append(idle := _Worker(function))
                idle.give(task)
                busy.append(idle)
            if not busy:
                return
            ready = set(wait([end for worker in busy for end in worker.ends], _LOOK))
            for worker in busy:
                if ready.isdisjoint(worker.ends):
                    continue
                assert worker.item is not None
                item, tried = worker.item
                try:
                    result = worker.take()
                except (EOFError, OSError):
                    crew.remove(worker)
                    died = worker.end()
                    if tried + 1 < TRIES:
                        again.append((item, tried + 1))
                        continue
                    result = WorkerDied(f"the worker died {TRIES} times ({died}); look at memory, or leave it out")
                yield item, result
    finally:
        for worker in crew:
            worker.end()


_NONE: Any = object()


class _Worker(Generic[Item]):
    """A process that calls the function with one item after the other."""

    def __init__(self, function: Callable[[Item], Any]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here
        self.item: tuple[Item, int] | None = None

    @property
    def ends(self) -> tuple[Connection, int]:
        """What tells that there is a result, or that the process is gone."""
        return self._ours, self._process.sentinel

    def give(self, task: tuple[Item, int]) -> None:
        """Give it an item."""
        self.item = task
        with contextlib.suppress(OSError):  # it is gone: `take` finds that out
            self._ours.send(task[0])

    def take(self) -> Any:
        """Take the result of its item. Raise EOFError or OSError where it died."""
        if not self._ours.poll():  # its end alone: what it sent before would be here
            raise EOFError
        result = self._ours.recv()
        self.item = None
        return result

    def end(self) -> str:
        """Kill it, wait for its end, and say how it ended."""
        self._process.kill()
        self._process.join()
        code = self._process.exitcode
        self._process.close()
        self._ours.close()
        if code is None or code >= 0:
            return f"exit code {code}"
        return f"signal {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"signal {-code}"


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """Call the function with what comes, until nothing does."""
    # Ctrl-C goes to the whole group: the one that started us answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    for _ in itertools.count():
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = function(item)
        except BaseException as error:  # it is the item's result
            result = error
        try:
            connection.send(result)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # a result that cannot travel
            connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _end_with(parent: Any) -> None:
    """End this process when the one that started it does, even if that was killed."""
    parent.join()
    os._exit(1)
