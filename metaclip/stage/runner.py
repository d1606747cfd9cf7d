"""The stage runner: run a step on the items that are not finished, mark them, record losses, split work into parts.

A stage is a function ``step(item, progress) -> (marker, files)``, a `Stage` (its name and fingerprint in a folder) and
what combines the results, which is plain code of the stage. Every verb that can be interrupted runs on these functions:

    run            run a step on tasks, on any engine; yield each task with its marker
    run_in_parts   the course of a stage that a job array may share: begin, run, and combine when nothing is left

Law: a step writes its files whole (`metaclip.storage.files.atomic_write`) and depends on the fingerprint and its item
alone. The worker writes the marker, after the files: it sees the sizes of what it has just written, and a driver that
dies loses no finished item. So a killed process, a lost worker or a lost machine cost only items without a marker, and
running the same command again gives the same bytes as a run that was never interrupted.

An item whose input cannot be read (`BrokenInput`), or on which workers died (`WorkerDied`), is recorded as lost, costs no
other item, and is tried again by the next run. Any other error ends the run; finished items stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from metaclip.arguments import check_types
from metaclip.engine import Engine, Item, Progress, ProgressCallback, WorkerDied, map_grouped
from metaclip.engine.local import Local
from metaclip.errors import BadSetting, BrokenInput, LostInputs, MetaclipError
from metaclip.stage.folder import ALL, Part
from metaclip.stage.stage import Stage

Outcome = TypeVar("Outcome")

_FEW: Final = 3  # files that a message names
Marker = dict[str, Any]
StageStep = Callable[[Item, ProgressCallback], tuple[Marker, Sequence[Path]]]
"""Returns what the marker of an item says, and the files that prove it; they are in place."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a stage is run; nothing here changes its result.

    >>> from metaclip import RunOptions, curate
    >>> curate("curation/toy_pool.jsonl", ["dog"], t=20, out="run_of_one", options=RunOptions(workers=1))
    Run('run_of_one': 24 kept of 42 matched pairs, t = 20)
    """

    workers: int | None = None
    """Number of threads, or of processes for steps that hold the GIL; None for the number of CPUs."""
    part: Part = ALL
    overwrite: bool = False
    """Replace another run in the output folder."""
    allow_lost: bool = False
    """Continue without inputs that cannot be read."""
    progress: bool | None = None
    """Whether to show progress; None shows it if standard error is a terminal."""
    engine: Engine | None = None
    """The engine that runs the steps, with workers of its own; None for this machine."""

    def __post_init__(self) -> None:
        check_types(
            workers=(self.workers, int | None), overwrite=(self.overwrite, bool),
            allow_lost=(self.allow_lost, bool), progress=(self.progress, bool | None),
        )  # fmt: skip
        if self.workers is not None and self.workers < 1:
            raise BadSetting(f"workers is {self.workers}, must be at least 1")
        if self.engine is not None and not callable(getattr(self.engine, "map", None)):
            raise TypeError(f"engine must be an engine, such as Ray(), not {self.engine!r:.80}")

    @functools.cached_property
    def active_engine(self) -> Engine:
        """The given engine, or the local one."""
        return self.engine or Local(self.workers)

    @property
    def threads(self) -> int:
        """The number of threads for work in this process."""
        return Local(self.workers).workers


@dataclasses.dataclass(frozen=True)
class Task(Generic[Item]):
    """An item of a stage, and what the runner needs to know of it."""

    name: str
    """The name of its marker."""
    item: Item
    source: str = ""
    """The path that messages name."""
    turn: int = 0
    """Decides to which part of a job array the task belongs."""
    lost: Mapping[str, Any] | None = None
    """What is recorded, beside the error, if the input cannot be read; None if that ends the run."""
    weight: int = 0
    """Bytes of input, roughly: small tasks are sent to workers in groups."""


@dataclasses.dataclass(frozen=True)
class _MarkedStep(Generic[Item]):
    """Runs a step in a worker and marks the task as finished; returns the marker as it was written."""

    stage: Stage
    step: StageStep[Item]

    def __call__(self, task: Task[Item], progress: ProgressCallback) -> Marker:
        marker, files = self.step(task.item, progress)
        return self.stage.mark(task.name, marker, files)


def run(
    stage: Stage, step: StageStep[Item], tasks: Iterable[Task[Item]], options: RunOptions, progress: Progress, *,
    group: int = 0, holds_gil: bool = False,
) -> Iterator[tuple[Task[Item], Marker | None]]:  # fmt: skip
    """Run a step on tasks; yield each task with its marker as it is finished, or with None if its input was lost.

    Tasks may be a generator that continues as results are yielded. With `group`, tasks of together at most so many bytes
    are sent to a worker at once; `tasks` is a sequence then. `holds_gil` says that the step does not run in parallel
    threads. Raise what a step raises, except for inputs of tasks that may be lost.
    """
    engine, marked = options.active_engine, _MarkedStep(stage, step)
    if group:
        results = map_grouped(
            engine,
            marked,
            list(tasks),
            progress.advance,
            weight=lambda task: task.weight,
            max_weight=group,
            holds_gil=holds_gil,
        )
    else:
        results = engine.map(marked, tasks, progress.advance, holds_gil=holds_gil)
    # Closed here, not when a traceback lets go of this frame: workers must have ended before the caller continues.
    finished: set[str] = set()
    with contextlib.closing(results), _telling_what_is_left(tasks, finished):
        for task, result in results:
            finished.add(task.name)
            if task.lost is not None and isinstance(result, BrokenInput | WorkerDied):
                error = str(result) if isinstance(result, BrokenInput) else f"{task.source}: {result}"
                stage.mark_lost(task.name, **task.lost, error=error)
                progress.show(error)
                yield task, None
            elif isinstance(result, BaseException):
                raise result
            else:
                stage.add_marker(task.name, result)
                yield task, result


@contextlib.contextmanager
def _telling_what_is_left(tasks: Iterable[Task[Any]], finished: Set[str]) -> Iterator[None]:
    """Let the KeyboardInterrupt of a block say which tasks, not yet `finished`, the same command does again."""
    try:
        yield
    except KeyboardInterrupt:
        if not isinstance(tasks, Sequence):
            raise
        left = dict.fromkeys(task.source for task in tasks if task.name not in finished and task.source)
        raise KeyboardInterrupt(
            f"{len(finished)} of {len(tasks)} tasks are finished and stay; the same command does the others, each from its "
            "start" + (f": {', '.join(left)}" if 0 < len(left) <= _FEW else "")
        ) from None


def run_in_parts(
    stage: Stage, tasks: Sequence[Task[Any]], options: RunOptions, *,
    begin: Callable[[bool], Mapping[str, Marker]],
    work: Callable[[Sequence[Task[Any]]], None],
    finish: Callable[[], Outcome],
) -> Outcome | None:  # fmt: skip
    """Run a stage, or one part of it in a job array; return what `finish` returns, None while other parts have work left.

    ``begin(overwrite)`` begins or resumes the stage and returns the markers of finished tasks by name; ``work(tasks)`` runs
    those of this part that are left; ``finish()`` combines the results. The part that leaves no task unfinished calls it.
    Raise LostInputs for a part that is finished except for inputs that it could not read.
    """
    part, names = options.part, {task.name for task in tasks}
    if options.overwrite and not part.whole:
        raise MetaclipError(
            "`RunOptions(overwrite=True)` replaces what all parts did, so not with `RunOptions(part=...)`; "
            "choose another `out=...`"
        )
    with stage.folder.owned(part):
        done = begin(options.overwrite)
        mine = [task for task in tasks if part.takes(task.turn)]
        work([task for task in mine if task.name not in done])
        if part.whole:
            return finish()
        left, lost = names - stage.finished_or_lost(), stage.lost()
    if not left:
        # Other parts may arrive here too: the first combines the results, the next ones find them.
        with stage.folder.owned(wait=True):
            if names <= begin(False).keys() | stage.lost().keys():
                return finish()
    if of_this_part := [lost[task.name] for task in mine if task.name in lost]:
        raise LostInputs(
            lost_message(of_this_part, len({task.lost["index"] for task in mine if task.lost}))
        )
    return None


def lost_message(
    lost: Sequence[Mapping[str, Any]], wanted: int, without: str = "", again: str = "run the same command again",
) -> str:  # fmt: skip
    """List inputs that were lost, of so many, and the next step: what reads them `again`, and what goes on `without` them."""
    lines = [f"{len({item['index'] for item in lost})} of {wanted} inputs were lost:"]
    lines += [f"  {item['error']}" for item in lost]
    last = f"mend them and {again} (it reads just these)"
    return "\n".join([*lines, last + (f", or go on without them: {without}" if without else "")])
