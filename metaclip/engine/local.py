"""The local engine: shards to steps on this machine. It knows nothing of matching.

Threads, because the kernels, Arrow and hashing run without the GIL; processes (`metaclip.engine.processes`) for steps that
hold it. At most two shards a worker are under way, so that a pool of any size costs no memory here.
"""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Callable, Iterable

from metaclip.engine.contract import Item, ProgressCallback, Result, Results, Step, ignore_progress
from metaclip.engine.contract import Stop as Stop
from metaclip.engine.processes import Processes
from metaclip.engine.threads import thread_pool


class Local(Processes):
    """An engine of processes where a step holds the GIL, and of threads where it does not."""

    def map(
        self,
        step: Step[Item, Result],
        items: Iterable[Item],
        progress: ProgressCallback = ignore_progress,
        *,
        holds_gil: bool = False,
    ) -> Results[Item, Result]:
        """Do as `metaclip.engine.contract.Engine.map`."""
        if holds_gil:
            return super().map(step, items, progress)
        stop = Stop()

        def tell_on(rows: int, through: int) -> None:
            stop.check()
            progress(rows, through)

        return run(lambda item: step(item, tell_on), items, self.workers, stop)


def run(function: Callable[[Item], Result], items: Iterable[Item], workers: int, stop: Stop) -> Results[Item, Result]:
    """Call `function` with each item in `workers` threads; give (item, result or what it raised) as they finish.

    When the caller leaves (Ctrl-C, an error of its own), running calls are asked to stop and waited for.
    """
    source = iter(items)
    running: dict[concurrent.futures.Future[Result], Item] = {}
    with thread_pool(workers) as pool:
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
