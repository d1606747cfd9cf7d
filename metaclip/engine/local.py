"""The local engine: threads of this process, or worker processes for steps that hold the GIL.

Law: that of `metaclip.engine`. The compiled library, Arrow and hashing run without the GIL, so threads share the work of
most steps. For the others, each thread has a worker process that runs the step. A worker process that dies (killed, out
of memory, a crash in a library) costs its item one try, is replaced, and disturbs no other item. Worker processes end
with the process that started them, however that ends.

A step, items and results are pickled between these processes only; the step is sent once to each worker, so that its
cached properties are computed once. Cost: 0.5 s to start a worker process (it imports what the step needs). Workers are
spawned, so a script that runs such a step needs the usual ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sized
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Generic

from metaclip.engine import (
    TRIES,
    Item,
    ProgressCallback,
    ReportingStep,
    Result,
    Results,
    Step,
    WorkerDied,
    default_workers,
    ignore_progress,
)
from metaclip.errors import Interrupted
from metaclip.storage.threads import Outcomes, thread_pool

_INTERRUPTED: Final = "interrupted; the same command goes on from here"


class Local:
    """An engine that runs steps on this machine."""

    def __init__(self, workers: int | None = None) -> None:
        """Set the number of workers; None for one per CPU."""
        self.workers = workers or default_workers()

    def map(
        self,
        step: Step[Item, Result],
        items: Iterable[Item],
        progress: ProgressCallback = ignore_progress,
        *,
        holds_gil: bool = False,
    ) -> Results[Item, Result]:
        """Run the step as `metaclip.engine.Engine.map` does.

        A step that holds the GIL runs in the calling thread if there is one worker or at most one item.
        """
        if not holds_gil:
            return _map_threads(step, items, progress, self.workers)
        if self.workers == 1 or (isinstance(items, Sized) and len(items) <= 1):
            return _map_here(step, items, progress)
        return _map_processes(step, items, progress, self.workers)


def _map_here(
    step: Step[Item, Result], items: Iterable[Item], progress: ProgressCallback
) -> Results[Item, Result]:
    for item in items:
        try:
            result: Result | BaseException = step(item, progress)
        except Exception as error:  # KeyboardInterrupt goes to the caller
            result = error
        yield item, result


def _map_threads(
    step: Step[Item, Result], items: Iterable[Item], progress: ProgressCallback, workers: int
) -> Results[Item, Result]:
    stopped = threading.Event()

    def report(rows: int, through: int) -> None:
        if stopped.is_set():
            raise Interrupted(_INTERRUPTED)
        progress(rows, through)

    return _map(lambda item: step(item, report), items, workers, stopped.set)


def _map_processes(
    step: Step[Item, Result], items: Iterable[Item], progress: ProgressCallback, workers: int
) -> Results[Item, Result]:
    with contextlib.closing(_WorkerProcesses(ReportingStep(step), progress)) as processes:
        yield from _map(processes, items, workers, processes.kill)


def _map(
    function: Callable[[Item], Result | BaseException],
    items: Iterable[Item],
    workers: int,
    stop: Callable[[], object],
) -> Results[Item, Result]:
    """Call `function` in `workers` threads; yield each item with its result, or the error raised, as it is finished.

    At most two items per worker are under way. When the caller leaves (Ctrl-C, an error of its own), `stop` is called,
    which must make running calls end, and they are waited for.
    """
    source, outcomes, running = iter(items), Outcomes(), 0
    with thread_pool(workers) as pool:
        try:
            while True:
                for item in itertools.islice(source, 2 * workers - running):
                    pool.submit(function, item, outcomes)
                    running += 1
                if not running:
                    return
                item, result, error = outcomes.get()
                running -= 1
                yield item, result if error is None else error
        finally:
            stop()


class _WorkerProcesses(Generic[Item, Result]):
    """Runs a step in worker processes: one for each thread that calls this object."""

    def __init__(self, step: ReportingStep[Item, Result], progress: ProgressCallback) -> None:
        self._step, self._progress = step, progress
        self._workers: dict[int, _Worker] = {}
        self._killed = False
        self._lock = (
            threading.Lock()
        )  # multiprocessing starts and joins processes from one thread at a time only

    def __call__(self, item: Item) -> Result | BaseException:
        """Run the step on an item in the worker of this thread; try again if the worker dies."""
        thread, ending = threading.get_ident(), ""
        for _ in range(TRIES):
            with self._lock:
                if self._killed:
                    raise Interrupted(_INTERRUPTED)
                worker = self._workers.get(thread) or self._workers.setdefault(
                    thread, _Worker(self._step)
                )
            try:
                (rows, through), result = worker.run(item)
            except (EOFError, OSError):
                with self._lock:
                    ending = self._workers.pop(thread).end()
            else:
                self._progress(rows, through)
                return result  # type: ignore[no-any-return]
        return WorkerDied(
            f"the worker died {TRIES} times ({ending}); check its memory, or leave this input out"
        )

    def kill(self) -> None:
        """Kill the workers where they are; the files they were writing have temporary names."""
        with self._lock:
            self._killed = True
            for worker in self._workers.values():
                worker.process.kill()

    def close(self) -> None:
        """Wait for the end of the workers."""
        with self._lock:
            for worker in self._workers.values():
                worker.end()


class _Worker:
    """A worker process."""

    def __init__(self, step: ReportingStep[Any, Any]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, step), daemon=True)
        self.process.start()
        theirs.close()  # so that this process sees when the worker closes its end

    def run(self, item: Any) -> Any:
        """Run the step on an item; return what `ReportingStep` returns. Raise EOFError or OSError if the worker died."""
        with contextlib.suppress(OSError):  # a worker that is gone is noticed below
            self._connection.send(item)
        wait([self._connection, self.process.sentinel])
        if not self._connection.poll():  # a result sent before the worker died would be there
            raise EOFError
        return self._connection.recv()

    def end(self) -> str:
        """Kill the process, wait for its end, and return how it ended."""
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"exit code {code}"
        return (
            f"signal {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"signal {-code}"
        )


def _serve(connection: Connection, step: ReportingStep[Any, Any]) -> None:
    """Run the step on each item that is received, until the connection is closed."""
    # Ctrl-C goes to the whole process group: the process that started this one handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = connection.recv()
            try:
                outcome: Any = step(item)
            except BaseException as error:
                outcome = (0, 0), error
            try:
                connection.send(outcome)
            except OSError:
                return
            except Exception as error:  # the outcome cannot be pickled
                connection.send(((0, 0), RuntimeError(f"{type(error).__name__}: {error}")))


def _exit_with(parent: Any) -> None:
    """End this process when the one that started it ends, even if that was killed."""
    parent.join()
    os._exit(1)
