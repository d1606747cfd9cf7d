"""The contract of engines: what carries shards to steps, on whatever machines, knows nothing else.

A step is a function of an item, ``step(item, progress)``, that can be sent to another process: a function of a module, or
a frozen dataclass whose fields are what it needs (`PortableStep`). An engine has one way to run it, `Engine.map`; `fold` and
`map_grouped` are built on that one, so they hold for every engine.

Law: each item comes back once, in any order, with the step's result or with what it raised; an item on which workers died
comes back as a `WorkerDied` after `TRIES`. A step is run again where a worker or its machine was lost, so what it writes
it writes whole (`metaclip.storage.files`), and the same each time. Few items are under way at a time: a generator of
100,000 is drawn from only as work proceeds.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from metaclip.errors import Interrupted, MetaclipError

Item = TypeVar("Item")
Result = TypeVar("Result")

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called by a step with (rows read, rows that came through) as it proceeds; raises Interrupted where work is to stop."""
Step: TypeAlias = Callable[[Item, ProgressCallback], Result]

Results: TypeAlias = Generator[tuple[Item, Result | BaseException], None, None]
"""Items with their results, or the exceptions that steps raised; closing it ends the work that runs, and waits for it."""

TRIES: Final = 3
"""How often an item is given to a worker that dies."""


class WorkerDied(MetaclipError):
    """An item on which a worker died, each time it was tried."""


def ignore_progress(rows: int, through: int) -> None:
    """Hear what a step tells, and do nothing."""


class Engine(Protocol):
    """What carries items to a step."""

    @property
    def workers(self) -> int:
        """How many items are worked on at once."""

    def map(
        self,
        step: Step[Item, Result],
        items: Iterable[Item],
        progress: ProgressCallback = ignore_progress,
        *,
        holds_gil: bool = False,
    ) -> Results[Item, Result]:
        """Run the step on each item; give (item, result or what it raised) as they finish.

        What steps tell comes to `tell` in this process, as it is told or when the item is finished. `holds_gil` says that
        threads would not share this step's work. When the caller leaves, what runs is ended, and waited for.
        """


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


class PortableStep:
    """A base for frozen dataclasses that are steps: what they make of their fields (cached properties) does not travel."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is made on arrival."""
        names = {field.name for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in self.__dict__.items() if name in names}


@dataclasses.dataclass(frozen=True)
class ReportingStep(Generic[Item, Result]):
    """A step in another process: what it tells, and what it raises, comes back with its result."""

    step: Step[Item, Result]

    def __call__(self, item: Item) -> tuple[tuple[int, int], Result | BaseException]:
        """Run the step: (what it told in all, result or what it raised)."""
        told = [0, 0]

        def progress(rows: int, through: int) -> None:
            told[0] += rows
            told[1] += through

        try:
            result: Result | BaseException = self.step(item, progress)
        except Exception as error:
            result = error
        return (told[0], told[1]), result


def default_workers() -> int:
    """Give the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- adding up in the workers


def fold(
    engine: Engine, step: Callable[[Item], Result], items: Sequence[Item], add: Callable[[Result, Result], Result]
) -> Result | None:
    """Add up what a step gives for each item; None where there is none. `add` is associative and commutative.

    Workers add up runs of items, so that some sums a worker come back, not one an item. Raise what a step raises.
    """
    total: Result | None = None
    size = -(-len(items) // (_SUMS * engine.workers)) or 1
    runs = [items[begin : begin + size] for begin in range(0, len(items), size)]
    for _, result in engine.map(_Fold(step, add), runs):
        if isinstance(result, BaseException):
            raise result
        total = result if total is None else add(total, result)
    return total


_SUMS: Final = 4  # a worker: one would leave workers idle at the end


@dataclasses.dataclass(frozen=True)
class _Fold(Generic[Item, Result]):
    step: Callable[[Item], Result]
    add: Callable[[Result, Result], Result]

    def __call__(self, items: Sequence[Item], progress: ProgressCallback) -> Result:
        def each() -> Iterator[Result]:
            for item in items:
                progress(0, 0)
                yield self.step(item)

        return functools.reduce(self.add, each())


# --- small items


def map_grouped(
    engine: Engine,
    step: Step[Item, Result],
    items: Sequence[Item],
    progress: ProgressCallback = ignore_progress,
    *,
    weight: Callable[[Item], int],
    enough: int,
) -> Results[Item, Result]:
    """Do as `Engine.map`, with many small items carried at once: neighbours of together at most `enough`, by `weight`.

    A group on which workers died is carried again item by item, so that one item costs no other.
    """
    again: list[Item] = []
    groups = grouped(items, weight, min(enough, sum(map(weight, items)) // (_GROUPS * engine.workers)))
    for group, results in engine.map(_Each(step), groups, progress):
        if isinstance(results, WorkerDied) and len(group) > 1:
            again += group
        elif isinstance(results, BaseException):
            yield from ((item, results) for item in group)
        else:
            yield from zip(group, results, strict=True)
    if again:
        yield from engine.map(step, again, progress)


_GROUPS: Final = 8  # a worker, at least: so that all end at about the same time


def grouped(items: Iterable[Item], weight: Callable[[Item], int], enough: int) -> Iterator[list[Item]]:
    """Give neighbours together as long as they weigh at most `enough`."""
    group: list[Item] = []
    weighs = 0
    for item in items:
        more = weight(item)
        if group and weighs + more > enough:
            yield group
            group, weighs = [], 0
        group.append(item)
        weighs += more
    if group:
        yield group


@dataclasses.dataclass(frozen=True)
class _Each(Generic[Item, Result]):
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
