"""The stage runner, tried on a toy stage: what is left is run, marked and combined, whatever stops it in between."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from metaclip.engine.contract import ProgressCallback, WorkerDied
from metaclip.engine.progress import Progress
from metaclip.errors import BrokenInput, Interrupted, LostInputs, MetaclipError
from metaclip.stage.folder import Folder, Part
from metaclip.stage.options import RunOptions
from metaclip.stage.runner import Marker, Task, run, run_in_parts
from metaclip.stage.stage import Stage, StageSpec

SQUARES = StageSpec("squares", ("squares", "sum.txt"), ("*.partial",))
THREADS, PROCESSES = pytest.param(False, id="threads"), pytest.param(True, id="processes")


@dataclasses.dataclass(frozen=True)
class Square:
    """The step: a number to a file with its square; numbers that are named fail in their own ways."""

    stage: Stage
    broken: int = -1
    wrong: int = -1
    deadly: int = -1

    def __call__(self, item: int, progress: ProgressCallback) -> tuple[Marker, Sequence[Path]]:
        if item == self.broken:
            raise BrokenInput(f"{item}.txt is broken")
        if item == self.wrong:
            raise ValueError(f"{item} is wrong")
        if item == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        path = self.stage.folder / "squares" / f"{item}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(item * item))
        progress(1, 1)
        return {"square": item * item}, [path]


class Toy:
    """The stage over the numbers below `n` in a folder; `ran` are the tasks that were finished by this object."""

    def __init__(
        self, folder: Path, n: int = 6, options: RunOptions | None = None, holds_gil: bool = False, **fails: int
    ) -> None:
        self.stage, self.options, self.holds_gil = Stage(Folder(folder), SQUARES), options or RunOptions(2), holds_gil
        self.tasks = [Task(f"{i:03d}", i, f"{i}.txt", i, {"index": i}) for i in range(n)]
        self.step = Square(self.stage, **fails)
        self.ran: list[str] = []

    def begin(self, overwrite: bool) -> Mapping[str, Marker]:
        self.stage.begin({"what": "squares"}, overwrite)
        return {task.name: marker for task in self.tasks if (marker := self.stage.marker(task.name)) is not None}

    def work(self, tasks: Sequence[Task[int]]) -> None:
        with Progress("square", len(tasks), shown=False) as progress:
            for task, marker in run(self.stage, self.step, tasks, self.options, progress, holds_gil=self.holds_gil):
                if marker is not None:
                    self.ran.append(task.name)

    def finish(self) -> int:
        markers = [marker for task in self.tasks if (marker := self.stage.marker(task.name)) is not None]
        total = sum(marker["square"] for marker in markers)
        (self.stage.folder / "sum.txt").write_text(str(total))
        self.stage.finish({"sum": total}, complete=len(markers) == len(self.tasks))
        return total

    def run(self) -> int | None:
        return run_in_parts(self.stage, self.tasks, self.options, begin=self.begin, work=self.work, finish=self.finish)


@pytest.mark.parametrize("holds_gil", [THREADS, PROCESSES])
def test_only_what_is_left_is_run(tmp_path: Path, holds_gil: bool) -> None:
    """A finished stage runs nothing; a removed file or marker costs its own item alone."""
    first = Toy(tmp_path, holds_gil=holds_gil)
    assert first.run() == 55
    assert sorted(first.ran) == [task.name for task in first.tasks]
    again = Toy(tmp_path)
    assert (again.run(), again.ran) == (55, [])
    (tmp_path / "squares" / "3.txt").write_text("")
    (tmp_path / ".state" / "squares" / "001.json").unlink()
    mended = Toy(tmp_path)
    assert mended.run() == 55
    assert sorted(mended.ran) == ["001", "003"]


@pytest.mark.parametrize("holds_gil", [THREADS, PROCESSES])
def test_an_error_ends_the_run_and_keeps_what_is_finished(tmp_path: Path, holds_gil: bool) -> None:
    """The error is raised, no worker goes on, and the next run does the rest."""
    threads = set(threading.enumerate())
    with pytest.raises(ValueError, match="4 is wrong"):
        Toy(tmp_path, 40, holds_gil=holds_gil, wrong=4).run()
    before = sorted(path.name for path in (tmp_path / "squares").iterdir())
    assert set(threading.enumerate()) <= threads
    assert sorted(path.name for path in (tmp_path / "squares").iterdir()) == before
    rest = Toy(tmp_path, 40)
    assert rest.run() == sum(i * i for i in range(40))
    assert 0 < len(rest.ran) < 40


@pytest.mark.parametrize("holds_gil", [THREADS, PROCESSES])
def test_a_broken_input_is_lost_and_tried_again(tmp_path: Path, holds_gil: bool) -> None:
    """It costs no other item, is recorded with its error, and is done when it is mended."""
    assert Toy(tmp_path, holds_gil=holds_gil, broken=2).run() == 55 - 4
    lost = Stage(Folder(tmp_path), SQUARES)
    lost.begin({"what": "squares"})
    assert lost.lost() == {"002": {"index": 2, "error": "2.txt is broken"}}
    mended = Toy(tmp_path)
    assert (mended.run(), mended.ran) == (55, ["002"])
    assert mended.stage.lost() == {}


def test_a_deadly_item_is_lost(tmp_path: Path) -> None:
    """An item on which workers die, each time, is lost like one that cannot be read; a task without a record ends the run."""
    assert Toy(tmp_path / "a", holds_gil=True, deadly=5).run() == 55 - 25
    stage = Stage(Folder(tmp_path / "a"), SQUARES)
    stage.begin({"what": "squares"})
    assert stage.lost()["005"]["error"].startswith("5.txt: the worker died 3 times (signal SIGKILL)")
    fatal = Toy(tmp_path / "b", holds_gil=True, deadly=5)
    fatal.tasks = [dataclasses.replace(task, lost=None) for task in fatal.tasks]
    with pytest.raises(WorkerDied):
        fatal.run()


def test_parts_share_the_work(tmp_path: Path) -> None:
    """Each item is run by one part; the last part combines; a part with a loss says so, and --overwrite is refused."""
    parts = [Toy(tmp_path / "a", options=RunOptions(1, part=Part(i, 3))) for i in (1, 2, 3)]
    assert [part.run() for part in parts] == [None, None, 55]
    assert sorted(name for part in parts for name in part.ran) == [task.name for task in parts[0].tasks]
    broken = Toy(tmp_path / "b", options=RunOptions(1, part=Part(1, 2)), broken=2)
    with pytest.raises(LostInputs, match=r"1 of 3 inputs were lost:\n  2.txt is broken"):
        broken.run()
    with pytest.raises(MetaclipError, match="--overwrite replaces what all parts did"):
        Toy(tmp_path / "b", options=RunOptions(1, part=Part(1, 2), overwrite=True)).run()


def test_an_interruption_keeps_what_is_finished(tmp_path: Path) -> None:
    """Ctrl-C between two items leaves markers, and nothing under a temporary name."""

    class Stopped(Toy):
        def work(self, tasks: Sequence[Task[int]]) -> None:
            with Progress("square", None, shown=False) as progress:
                for _ in run(self.stage, self.step, tasks, self.options, progress):
                    raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        Stopped(tmp_path, 40).run()
    assert not list(tmp_path.rglob("*.tmp"))
    rest = Toy(tmp_path, 40)
    assert rest.run() == sum(i * i for i in range(40))
    assert 0 < len(rest.ran) < 40


def test_small_tasks_are_sent_in_groups(tmp_path: Path) -> None:
    """Grouped or not, each task has its marker."""
    toy = Toy(tmp_path, 30)
    tasks = [dataclasses.replace(task, weight=10) for task in toy.tasks]
    with toy.stage.folder.owned():
        toy.begin(False)
        with Progress("square", None, shown=False) as progress:
            found: dict[str, Any] = {
                task.name: marker for task, marker in run(toy.stage, toy.step, tasks, toy.options, progress, group=50)
            }
    assert {name: marker["square"] for name, marker in found.items()} == {f"{i:03d}": i * i for i in range(30)}
