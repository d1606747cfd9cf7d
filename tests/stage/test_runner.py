"""The runner runs what is not finished, marks it, records losses and splits work into parts, on threads and processes.

A toy verb squares the numbers in the files of a pool and sums the squares. What holds here holds for every verb that uses
the runner; the tests of a verb need only show that it does.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from metaclip.engine.contract import TRIES, PortableStep, ProgressCallback
from metaclip.engine.local import Local
from metaclip.engine.progress import Progress
from metaclip.errors import BrokenInput, Interrupted, LostInputs, MetaclipError
from metaclip.stage.folder import Folder
from metaclip.stage.runner import RunOptions, Task, lost_message, run, run_in_parts
from metaclip.stage.stage import Stage, StageSpec
from metaclip.storage.files import atomic_write
from metaclip.storage.ownership import ALL, Part

SQUARES = StageSpec("squares", ("squares", "sum.txt"))
N = 12


@dataclasses.dataclass(frozen=True)
class Square(PortableStep):
    """Squares the number in a file; other contents are orders: fail, be broken, kill the worker, wait."""

    stage: Stage

    def __call__(self, path: Path, progress: ProgressCallback) -> tuple[dict[str, Any], Sequence[Path]]:
        with path.with_suffix(".tries").open("a") as tries:
            tries.write("x")
        progress(1, 0)
        order = path.read_text()
        if order == "fail":
            raise MetaclipError(f"{path} fails")
        if order == "interrupt":
            raise Interrupted("interrupted")
        if order == "broken":
            raise BrokenInput(f"{path} is broken")
        if order == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if order.startswith("slow"):
            time.sleep(0.05)
        while order == "wait":
            path.with_suffix(".alive").touch()
            progress(0, 0)
            time.sleep(0.01)
        square = int(order.split()[-1]) ** 2
        output = self.stage.folder / "squares" / f"{path.stem}.txt"
        with atomic_write(output) as temporary:
            temporary.write_text(str(square))
        return {"square": square}, [output]


def square(
    pool: Path, out: Path, *, holds_gil: bool = False, part: Part = ALL, overwrite: bool = False, workers: int = 2,
    **more: Any,
) -> int | None:  # fmt: skip
    """The toy verb: write the squares of a pool and return their sum, None while other parts have work left."""
    stage = Stage(Folder(out), SQUARES)
    paths = sorted(pool.glob("*.txt"))
    tasks = [
        Task(path.stem, path, str(path), index, {"index": index, "name": path.name}, path.stat().st_size)
        for index, path in enumerate(paths)
    ]
    options = RunOptions(engine=Local(workers), part=part, overwrite=overwrite)

    def begin(overwrite: bool) -> Mapping[str, dict[str, Any]]:
        stage.begin({"pool": [path.name for path in paths]}, overwrite)
        return {task.name: marker for task in tasks if (marker := stage.marker(task.name)) is not None}

    def work(tasks: Sequence[Task[Path]]) -> None:
        with Progress("square", None, shown=False) as progress:
            for _ in run(stage, Square(stage), tasks, options, progress, holds_gil=holds_gil, **more):
                pass

    def finish() -> int:
        markers = [stage.marker(task.name) or {} for task in tasks]
        total = sum(marker.get("square", 0) for marker in markers)
        with atomic_write(stage.folder / "sum.txt") as temporary:
            temporary.write_text(str(total))
        stage.finish({"sum": total}, complete=all(markers))
        return total

    return run_in_parts(stage, tasks, options, begin=begin, work=work, finish=finish)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Twelve files with the numbers 0 to 11."""
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(N):
        (folder / f"{number:02}.txt").write_text(str(number))
    return folder


on_both = pytest.mark.parametrize("holds_gil", [False, True], ids=["threads", "processes"])
TOTAL = sum(number**2 for number in range(N))


def give(pool: Path, **orders: str) -> None:
    """Write orders into files of the pool: ``_03="broken"``."""
    for name, order in orders.items():
        (pool / f"{name.removeprefix('_')}.txt").write_text(order)


def tries(pool: Path) -> list[int]:
    """How often each item was run."""
    paths = [pool / f"{number:02}.tries" for number in range(N)]
    return [len(path.read_text()) if path.exists() else 0 for path in paths]


def marked(out: Path) -> set[str]:
    return {path.stem for path in (out / ".state" / "squares").glob("??.json")}


def outputs(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in [*out.glob("squares/*"), out / "sum.txt"]}


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def worker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shard")]


# --- what is run


@on_both
def test_only_items_that_are_not_finished_are_run(pool: Path, tmp_path: Path, holds_gil: bool) -> None:
    """Every item once; the same command again runs none."""
    for _ in range(2):
        assert square(pool, tmp_path / "out", holds_gil=holds_gil) == TOTAL
        assert tries(pool) == [1] * N
    assert len(outputs(tmp_path / "out")) == N + 1


def test_a_marker_proves_the_files_of_its_item(pool: Path, tmp_path: Path) -> None:
    """An item with a file that is gone or has another size is run again, and only that one."""
    out = tmp_path / "out"
    square(pool, out)
    undisturbed = outputs(out)
    (out / "squares" / "03.txt").unlink()
    (out / "squares" / "05.txt").write_text("250")
    (out / ".state" / "squares" / "07.json").write_text("{")
    assert square(pool, out) == TOTAL
    assert [number for number, tried in enumerate(tries(pool)) if tried == 2] == [3, 5, 7]
    assert outputs(out) == undisturbed


def test_another_fingerprint_is_refused_and_can_be_replaced(pool: Path, tmp_path: Path) -> None:
    """A pool with another file is another run; with overwrite, all items are run."""
    square(pool, tmp_path / "out")
    (pool / "12.txt").write_text("12")
    with pytest.raises(MetaclipError, match='pool: "12.txt" is new'):
        square(pool, tmp_path / "out")
    assert square(pool, tmp_path / "out", overwrite=True) == TOTAL + 144
    assert tries(pool) == [2] * N


@on_both
def test_tasks_may_be_a_generator_that_continues_as_results_come(tmp_path: Path, pool: Path, holds_gil: bool) -> None:
    """Results can decide on further tasks."""
    stage = Stage(Folder(tmp_path / "out"), SQUARES)
    results: list[int] = []

    def tasks() -> Iterator[Task[Path]]:
        for number in range(N):
            assert results or number <= 4  # at most two tasks per worker are taken before the first result
            yield Task(f"{number:02}", pool / f"{number:02}.txt")

    with stage.folder.owned(), Progress("square", None, shown=False) as progress:
        stage.begin({})
        for _, marker in run(stage, Square(stage), tasks(), RunOptions(engine=Local(2)), progress, holds_gil=holds_gil):
            assert marker is not None
            results.append(marker["square"])
    assert sum(results) == TOTAL


# --- small items


class CountingEngine(Local):
    """Counts how many items it was given: tasks, or groups of them."""

    given = 0

    def map(self, step: Any, items: Any, *more: Any, **options: Any) -> Any:
        items = list(items)
        self.given += len(items)
        return super().map(step, items, *more, **options)


@on_both
def test_small_tasks_are_sent_in_groups(pool: Path, tmp_path: Path, holds_gil: bool) -> None:
    """A few groups instead of 200 items; each is marked alone, and one that is broken or kills costs no other."""
    orders = {17: "broken"} | ({30: "kill"} if holds_gil else {})
    for number in range(200):
        (pool / f"{number:03}.txt").write_text(orders.get(number, "1"))
    stage, engine = Stage(Folder(tmp_path / "out"), SQUARES), CountingEngine(2)
    tasks = [Task(path.stem, path, str(path), lost={"index": 0}, weight=1) for path in sorted(pool.glob("???.txt"))]
    with stage.folder.owned(), Progress("square", None, shown=False) as progress:
        stage.begin({})
        found = dict(
            (task.name, marker)
            for task, marker in run(
                stage, Square(stage), tasks, RunOptions(engine=engine), progress, group=50, holds_gil=holds_gil
            )
        )
    assert engine.given == (17 + 12 if holds_gil else 17)  # the group of the worker that died is run item by item
    assert {name for name, marker in found.items() if marker is None} == {f"{number:03}" for number in orders}
    assert stage.lost().keys() == {f"{number:03}" for number in orders}
    assert len(found) == 200
    assert all(stage.marker(name) == marker for name, marker in found.items())


# --- errors and losses


@on_both
def test_an_item_that_fails_ends_the_run_and_keeps_finished_ones(pool: Path, tmp_path: Path, holds_gil: bool) -> None:
    """Its error is raised; finished items stay marked, and the corrected command runs only the others."""
    out = tmp_path / "out"
    give(pool, _08="fail")
    with pytest.raises(MetaclipError, match=r"08\.txt fails"):
        square(pool, out, holds_gil=holds_gil)
    done = marked(out)
    assert len(done) >= 5
    assert "08" not in done
    give(pool, _08="8")
    assert square(pool, out, holds_gil=holds_gil) == TOTAL
    assert all(tries(pool)[int(name)] == 1 for name in done)


@on_both
def test_a_broken_input_is_recorded_as_lost_and_tried_again(pool: Path, tmp_path: Path, holds_gil: bool) -> None:
    """It costs no other item; the next run tries it alone, and a corrected one is lost no longer."""
    out = tmp_path / "out"
    give(pool, _03="broken")
    for count in (1, 2):
        assert square(pool, out, holds_gil=holds_gil) == TOTAL - 9
        assert tries(pool) == [count if number == 3 else 1 for number in range(N)]
        lost = begun(pool, out).lost()
        assert lost == {"03": {"index": 3, "name": "03.txt", "error": f"{pool / '03.txt'} is broken"}}
    give(pool, _03="3")
    assert square(pool, out, holds_gil=holds_gil) == TOTAL
    assert begun(pool, out).lost() == {}


def begun(pool: Path, out: Path) -> Stage:
    stage = Stage(Folder(out), SQUARES)
    stage.begin({"pool": [path.name for path in sorted(pool.glob("*.txt"))]})
    return stage


def test_an_item_on_which_workers_die_is_lost_and_tried_again(pool: Path, tmp_path: Path) -> None:
    """It costs no other item; the message names its file and how the workers ended; the next run tries it alone."""
    out = tmp_path / "out"
    give(pool, _03="kill")
    assert square(pool, out, holds_gil=True) == TOTAL - 9
    assert tries(pool)[3] == TRIES
    assert tries(pool).count(1) == N - 1
    (why,) = begun(pool, out).lost().values()
    assert str(pool / "03.txt") in why["error"]
    assert f"died {TRIES} times (signal SIGKILL)" in why["error"]
    give(pool, _03="3")
    assert square(pool, out, holds_gil=True) == TOTAL
    assert tries(pool).count(1) == N - 1


def test_a_task_that_may_not_be_lost_ends_the_run(pool: Path, tmp_path: Path) -> None:
    """Without a record for its loss, a broken input raises."""
    give(pool, _00="broken")
    stage = Stage(Folder(tmp_path / "out"), SQUARES)
    with stage.folder.owned(), Progress("square", None, shown=False) as progress:
        stage.begin({})
        with pytest.raises(BrokenInput):
            list(run(stage, Square(stage), [Task("00", pool / "00.txt")], RunOptions(workers=1), progress))
        assert stage.lost() == {}


def test_the_message_of_lost_inputs_counts_inputs() -> None:
    """Two shards of one input are one input; the flag is named only where there is one."""
    lost = [{"index": 1, "error": "a is broken"}, {"index": 1, "error": "a is broken too"}]
    assert lost_message(lost, 3) == (
        "1 of 3 inputs were lost:\n  a is broken\n  a is broken too\n"
        "mend them and run the same command again (it reads just these)"
    )
    assert "--allow-lost" in lost_message(lost, 3, can_skip=True)


# --- interruptions


@pytest.mark.parametrize(("holds_gil", "others"), [(False, "wait"), (False, "slow 1"), (True, "slow 1")])
def test_no_worker_runs_on_after_an_error(pool: Path, tmp_path: Path, holds_gil: bool, others: str) -> None:
    """When `run` has raised, no thread writes on, though the traceback still refers to the generator of results."""
    give(pool, _01="fail", _00=others, _02=others, _03=others, _04=others)
    with pytest.raises(MetaclipError, match="fails") as caught:
        square(pool, tmp_path / "out", holds_gil=holds_gil)
    assert worker_threads() == []
    begun, files = tries(pool), outputs_and_markers(tmp_path / "out")
    for path in pool.glob("*.alive"):
        path.unlink()
    time.sleep(0.2)
    assert (tries(pool), outputs_and_markers(tmp_path / "out")) == (begun, files)
    assert not list(pool.glob("*.alive"))
    assert caught.tb is not None  # held until here


def outputs_and_markers(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


@on_both
def test_ctrl_c_leaves_finished_items_marked(pool: Path, tmp_path: Path, holds_gil: bool) -> None:
    """SIGINT while items run: they end, no thread is left, and the same command runs only what has no marker."""
    out = tmp_path / "out"
    give(pool, **{f"_{number:02}": f"slow {number}" for number in range(N)})

    def interrupt() -> None:
        wait_until(lambda: len(marked(out)) >= 3)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    watcher = threading.Thread(target=interrupt)
    try:
        watcher.start()
        with pytest.raises(KeyboardInterrupt):
            square(pool, out, holds_gil=holds_gil)
    finally:
        watcher.join()
        signal.signal(signal.SIGINT, before)
    assert worker_threads() == []
    done = marked(out)
    assert 3 <= len(done) < N
    assert square(pool, out, holds_gil=holds_gil) == TOTAL
    assert all(tries(pool)[int(name)] == 1 for name in done)


@on_both
def test_an_interrupted_step_is_no_loss(pool: Path, tmp_path: Path, holds_gil: bool) -> None:
    """Interrupted ends the run, with the exit code of an interruption; nothing is recorded as lost."""
    give(pool, _03="interrupt")
    with pytest.raises(Interrupted) as caught:
        square(pool, tmp_path / "out", holds_gil=holds_gil)
    assert caught.value.exit_code == 130
    assert begun(pool, tmp_path / "out").lost() == {}


@on_both
def test_a_killed_driver_continues_to_the_same_bytes(pool: Path, tmp_path: Path, holds_gil: bool) -> None:
    """After SIGKILL in the middle, the same command runs only the rest and leaves what an undisturbed run leaves."""
    square(pool, tmp_path / "undisturbed")
    for path in pool.glob("*.tries"):
        path.unlink()
    give(pool, **{f"_{number:02}": f"slow {number}" for number in range(N)})
    out, script = tmp_path / "out", tmp_path / "driver.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.stage.test_runner import square\n"
        "if __name__ == '__main__':\n"
        f"    square(Path(sys.argv[1]), Path(sys.argv[2]), holds_gil={holds_gil})\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, script, pool, out], env=environ) as driver:
        wait_until(lambda: len(marked(out)) >= 3 or driver.poll() is not None)
        driver.kill()
    done = marked(out)
    assert 3 <= len(done) < N, "the kill hit no work"
    assert square(pool, out, holds_gil=holds_gil) == TOTAL
    assert all(tries(pool)[int(name)] == 1 for name in done)
    assert outputs(out) == outputs(tmp_path / "undisturbed")
    assert not list(out.rglob("*.tmp"))


# --- parts of a job array


@on_both
def test_parts_run_each_item_once_and_the_last_one_combines(pool: Path, tmp_path: Path, holds_gil: bool) -> None:
    """Parts return None until no item is left; the result is that of one run."""
    found = [square(pool, tmp_path / "out", holds_gil=holds_gil, part=Part(i, 3)) for i in (2, 3, 1)]
    assert found == [None, None, TOTAL]
    assert tries(pool) == [1] * N
    square(pool, tmp_path / "whole")
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def test_parts_that_run_at_once_combine_once(pool: Path, tmp_path: Path) -> None:
    """Each item is run once; at least one part returns the result, and a later one finds it."""
    give(pool, **{f"_{number:02}": f"slow {number}" for number in range(N)})
    results: dict[int, int | None] = {}

    def work(number: int) -> None:
        results[number] = square(pool, tmp_path / "out", part=Part(number, 3), workers=1)

    threads = [threading.Thread(target=functools.partial(work, number)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tries(pool) == [1] * N
    assert set(results) == {1, 2, 3}
    assert TOTAL in results.values()
    assert set(results.values()) <= {None, TOTAL}
    assert square(pool, tmp_path / "out", part=Part(2, 3)) == TOTAL


def test_a_part_with_losses_says_so(pool: Path, tmp_path: Path) -> None:
    """Its exit code is that of lost inputs, counted among its own; the last part combines the others and notices too."""
    out = tmp_path / "out"
    give(pool, _02="broken")
    with pytest.raises(LostInputs, match=r"1 of 6 inputs were lost:\n  .*02\.txt is broken\nmend them") as caught:
        square(pool, out, part=Part(1, 2))
    assert caught.value.exit_code == 3
    assert square(pool, out, part=Part(2, 2)) == TOTAL - 4
    give(pool, _02="2")
    assert square(pool, out, part=Part(1, 2)) == TOTAL
    assert tries(pool) == [2 if number == 2 else 1 for number in range(N)]


def test_a_part_may_not_overwrite(pool: Path, tmp_path: Path) -> None:
    """It would remove what other parts did; nothing is touched."""
    square(pool, tmp_path / "out", part=Part(1, 2))
    before = outputs_and_markers(tmp_path / "out")
    with pytest.raises(MetaclipError, match="--overwrite replaces what all parts did, so not with --part"):
        square(pool, tmp_path / "out", part=Part(1, 2), overwrite=True)
    assert outputs_and_markers(tmp_path / "out") == before
