"""The contract of engines: an engine runs a step on items, in threads, in processes or on other machines.

A step is a function of an item, ``step(item, progress)``, that can be sent to another process: a function of a module, or
a frozen dataclass with fields for everything it needs (`PortableStep`). An engine has one method, `Engine.map`, and says how
many items it processes at once, `Engine.workers`; `fold` and `map_grouped` need no more, so they work with every engine. To
add one, write a module beside `metaclip.engine.ray` and name it in ``metaclip/cli/options.py``.

Law: each item comes back once, in any order, with the result of the step or with the exception that it raised. An item
comes back with `WorkerDied` if workers died on it `TRIES` times. A step runs again if its worker or machine was lost, so
it must write whole files (`metaclip.storage.files`) and the same bytes each time. At most a few items per worker are under
way: a generator of 100,000 items is advanced only as work proceeds.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from metaclip.errors import Interrupted, MetaclipError, for_caller, printable
from metaclip.storage.threads import without_interrupt

Item = TypeVar("Item")
Result = TypeVar("Result")

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called by a step with the numbers of rows read and rows kept since its last call, from any thread; raises Interrupted
when the step must stop."""
Step: TypeAlias = Callable[[Item, ProgressCallback], Result]

Results: TypeAlias = Generator[tuple[Item, Result | BaseException], None, None]
"""Items with their results or the exceptions that steps raised; closing it ends the running steps and waits for them."""

TRIES: Final = 3
"""Number of times an item is given to a worker if the workers die."""


class WorkerDied(MetaclipError):
    """Each worker that was given an item died."""


def ignore_progress(rows: int, kept: int) -> None:
    """Do nothing: a progress callback for steps that nobody watches."""


class Engine(Protocol):
    """Runs steps on items."""

    @property
    def workers(self) -> int:
        """Number of items processed in parallel."""

    def map(
        self,
        step: Step[Item, Result],
        items: Iterable[Item],
        progress: ProgressCallback = ignore_progress,
        *,
        holds_gil: bool = False,
    ) -> Results[Item, Result]:
        """Run the step on each item; yield each item, with its result or the exception raised, as it is finished.

        `progress` is called in this process: when the step calls it, or once an item is finished. `holds_gil` says that
        the step does not run in parallel threads. When the caller closes the generator, or stops because of an error,
        running steps are ended and waited for.
        """


class PortableStep:
    """A base for frozen dataclasses that are steps: their fields are pickled, their cached properties are not."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields; each worker computes the cached properties itself."""
        names = {field.name for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in self.__dict__.items() if name in names}


@dataclasses.dataclass(frozen=True)
class ReportingStep(Generic[Item, Result]):
    """A step for another process: returns the progress and the exception of a step along with its result."""

    step: Step[Item, Result]

    def __call__(self, item: Item) -> tuple[tuple[int, int], Result | BaseException]:
        """Run the step; return (rows read, rows kept) in all, and the result or the exception that the step raised."""
        rows = kept = 0

        def progress(more_rows: int, more_kept: int) -> None:
            nonlocal rows, kept
            rows, kept = rows + more_rows, kept + more_kept

        try:
            result: Result | BaseException = self.step(item, progress)
        except Exception as error:
            result = error
        return (rows, kept), result


def default_workers() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- sums


def fold(
    engine: Engine,
    step: Callable[[Item], Result],
    items: Sequence[Item],
    add: Callable[[Result, Result], Result],
) -> Result | None:
    """Return the sum of the step's results over all items; None if there are no items.

    `add` must be associative and commutative. Each worker returns a few partial sums instead of one result per item. Raise
    what a step raises.
    """
    total: Result | None = None
    size = -(-len(items) // (_SUMS_PER_WORKER * engine.workers)) or 1
    runs = [items[begin : begin + size] for begin in range(0, len(items), size)]
    for _, result in engine.map(_Fold(step, add), runs):
        if isinstance(result, BaseException):
            raise result
        total = result if total is None else add(total, result)
    return total


_SUMS_PER_WORKER: Final = 4  # one would leave workers idle at the end


@dataclasses.dataclass(frozen=True)
class _Fold(Generic[Item, Result]):
    step: Callable[[Item], Result]
    add: Callable[[Result, Result], Result]

    def __call__(self, items: Sequence[Item], progress: ProgressCallback) -> Result:
        def results() -> Iterator[Result]:
            for item in items:
                progress(0, 0)  # raises Interrupted when the step must stop
                yield self.step(item)

        return functools.reduce(self.add, results())


# --- groups of small items


def map_grouped(
    engine: Engine,
    step: Step[Item, Result],
    items: Sequence[Item],
    progress: ProgressCallback = ignore_progress,
    *,
    weight: Callable[[Item], int],
    max_weight: int,
    holds_gil: bool = False,
) -> Results[Item, Result]:
    """Run the step like `Engine.map`, but send neighbours to a worker together if they weigh at most `max_weight`.

    If workers died on a group, its items are run again one by one, so that an item on which workers die costs no other.
    """
    again: list[Item] = []
    share = sum(map(weight, items)) // (_GROUPS_PER_WORKER * engine.workers)
    for group, results in engine.map(
        _GroupStep(step), grouped(items, weight, min(max_weight, share)), progress, holds_gil=holds_gil
    ):
        if isinstance(results, WorkerDied) and len(group) > 1:
            again += group
        elif isinstance(results, BaseException):
            yield from ((item, results) for item in group)
        else:
            yield from zip(group, results, strict=True)
    if again:
        yield from engine.map(step, again, progress, holds_gil=holds_gil)


_GROUPS_PER_WORKER: Final = 8  # at least, so that all workers finish at about the same time


def grouped(
    items: Iterable[Item], weight: Callable[[Item], int], max_weight: int
) -> Iterator[list[Item]]:
    """Yield lists of neighbours that together weigh at most `max_weight`; a heavier item is alone in its list."""
    group: list[Item] = []
    total = 0
    for item in items:
        if group and total + weight(item) > max_weight:
            yield group
            group, total = [], 0
        group.append(item)
        total += weight(item)
    if group:
        yield group


@dataclasses.dataclass(frozen=True)
class _GroupStep(Generic[Item, Result]):
    step: Step[Item, Result]

    def __call__(self, items: Sequence[Item], progress: ProgressCallback) -> list[Result | BaseException]:
        results: list[Result | BaseException] = []
        for item in items:
            try:
                results.append(self.step(item, progress))
            except Interrupted:
                raise
            except Exception as error:
                results.append(error)
        return results


# --- progress


class Progress:
    """A progress bar on standard error that counts rows from any number of threads; a context manager.

    Without a terminal there is no bar, unless it is asked for.
    """

    def __init__(
        self, verb: str, total: int | None, shown: bool | None = None, unit: str = "rows"
    ) -> None:
        """Set the total number of units (None: unknown); `shown` None shows the bar if standard error is a terminal."""
        self._verb, self._total, self._unit = verb, total, unit
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._lock, self._kept = threading.Lock(), 0
        self._word = "matched" if verb == "match" else "kept"
        self._bar: Any = None

    def __enter__(self) -> Progress:
        """Show the bar."""
        if self._shown:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._verb,
                total=self._total,
                unit=f" {self._unit}",
                unit_scale=True,
                smoothing=0.1,
                file=sys.stderr,
            )
        return self

    def advance(self, rows: int, kept: int) -> None:
        """Add rows read, and rows matched or kept."""
        with self._lock:
            self._kept += kept
            if self._bar is not None:
                self._bar.update(rows)
                if self._kept:
                    self._bar.set_postfix_str(f"{self._kept:,} {self._word}", refresh=False)

    def show(self, line: str) -> None:
        """Print a line above the bar if a bar is shown."""
        if self._shown:
            self.note(line)

    def note(self, line: str) -> None:
        """Print a line on standard error, above the bar if a bar is shown."""
        line = printable(for_caller(line))
        with without_interrupt(), self._lock:
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        """Close the bar and leave it on the screen."""
        if self._bar is not None:
            self._bar.close()
