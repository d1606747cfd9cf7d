"""A toy verb for the tests of the runner: it squares the numbers in the files of a pool and sums the squares.

It stands in a module of its own because worker processes import it, and imports nothing that would slow them down.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metaclip.engine import Engine, PortableStep, Progress, ProgressCallback
from metaclip.errors import BrokenInput, Interrupted, MetaclipError
from metaclip.stage.folder import ALL, Folder, Part
from metaclip.stage.runner import RunOptions, Task, run, run_in_parts
from metaclip.stage.stage import Stage, StageSpec
from metaclip.storage.files import atomic_write

SQUARES = StageSpec("squares", ("squares", "sum.txt"))
LONG = 50_000
"""The number of spaces that the order "long" adds to an output."""


@dataclasses.dataclass(frozen=True)
class Square(PortableStep):
    """Squares the number that ends a file; the words before it are orders: fail, be broken, kill the worker, wait."""

    stage: Stage

    def __call__(self, path: Path, progress: ProgressCallback) -> tuple[dict[str, Any], Sequence[Path]]:
        with path.with_suffix(".tries").open("a") as tries:
            tries.write("x")
        progress(1, 0)
        *orders, number = path.read_text().split()
        for order in orders:
            self.obey(order, path, progress)
        square = int(number) ** 2
        output = self.stage.folder / "squares" / f"{path.stem}.txt"
        with atomic_write(output) as temporary:
            temporary.write_text(str(square) + " " * (LONG if "long" in orders else 0))
        return {"square": square}, [output]

    def obey(self, order: str, path: Path, progress: ProgressCallback) -> None:
        if order == "fail":
            raise MetaclipError(f"{path} fails")
        if order == "interrupt":
            raise Interrupted("interrupted")
        if order == "broken":
            raise BrokenInput(f"{path} is broken")
        if order == "kill" or (order == "kill_once" and path.with_suffix(".tries").read_text() == "x"):
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "slow":
            time.sleep(0.05)
        end = time.monotonic() + 60
        while order == "wait" and time.monotonic() < end:
            path.with_suffix(".alive").touch()
            progress(0, 0)
            time.sleep(0.01)
        if order.startswith("after_"):
            wait_until((self.stage.path / f"{order.removeprefix('after_')}.json").exists)


def square(
    pool: Path, out: Path, engine: Engine, *, part: Part = ALL, overwrite: bool = False
) -> int | None:
    """Write the squares of a pool and return their sum, None while other parts have work left."""
    stage = Stage(Folder(out), SQUARES)
    paths = sorted(pool.glob("*.txt"))
    tasks = [
        Task(path.stem, path, str(path), index, {"index": index, "name": path.name})
        for index, path in enumerate(paths)
    ]
    options = RunOptions(engine=engine, part=part, overwrite=overwrite)

    def begin(overwrite: bool) -> Mapping[str, dict[str, Any]]:
        stage.begin({"pool": [path.name for path in paths]}, overwrite)
        return {task.name: marker for task in tasks if (marker := stage.marker(task.name)) is not None}

    def work(tasks: Sequence[Task[Path]]) -> None:
        with Progress("square", None, shown=False) as progress:
            for _ in run(stage, Square(stage), tasks, options, progress):
                pass

    def finish() -> int:
        markers = [stage.marker(task.name) or {} for task in tasks]
        total = sum(marker.get("square", 0) for marker in markers)
        with atomic_write(stage.folder / "sum.txt") as temporary:
            temporary.write_text(str(total))
        stage.finish({"sum": total}, complete=all(markers))
        return total

    return run_in_parts(stage, tasks, options, begin=begin, work=work, finish=finish)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until a condition holds. Raise AssertionError after a minute."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)
