"""The runner runs what is not finished, marks it, records losses and splits work into parts, on every engine.

The toy verb of `tests.stage.squares` stands for all verbs. What holds here holds for every verb that uses the runner; the
tests of a verb need only show that it does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from metaclip.engine import TRIES, Engine, Progress
from metaclip.engine.local import Local
from metaclip.errors import BrokenInput, Interrupted, LostInputs, MetaclipError
from metaclip.stage.folder import Folder, InUse, Part
from metaclip.stage.runner import RunOptions, Task, lost_message, run
from metaclip.stage.stage import Stage
from tests.processes import environment, largest_file
from tests.stage.squares import SQUARES, Square, square, wait_until

N = 12
TOTAL = sum(number**2 for number in range(N))
TWO = Local(2)

on_this_machine = pytest.mark.parametrize("engine", ["threads", "processes"], indirect=True)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Twelve files with the numbers 0 to 11."""
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(N):
        (folder / f"{number:02}.txt").write_text(str(number))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The run folder of the test, not yet made."""
    return tmp_path / "out"


def give(pool: Path, order: str, *numbers: int) -> None:
    """Write an order before the numbers of some files."""
    for number in numbers:
        (pool / f"{number:02}.txt").write_text(f"{order} {number}")


def tries(pool: Path) -> list[int]:
    """Return how often each item was run."""
    paths = [path.with_suffix(".tries") for path in sorted(pool.glob("*.txt"))]
    return [len(path.read_text()) if path.exists() else 0 for path in paths]


def forget_tries(pool: Path) -> None:
    for path in pool.glob("*.tries"):
        path.unlink()


def marked(out: Path) -> set[str]:
    return {path.stem for path in (out / ".state" / "squares").glob("??.json")}


def outputs(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in [*out.glob("squares/*"), out / "sum.txt"]
    }


def all_files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def worker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shard")]


def lost_items(pool: Path, out: Path) -> dict[str, dict[str, Any]]:
    stage = Stage(Folder(out), SQUARES)
    stage.begin({"pool": [path.name for path in sorted(pool.glob("*.txt"))]})
    return stage.lost()


@contextlib.contextmanager
def begun_stage(out: Path) -> Iterator[tuple[Stage, Progress]]:
    """A stage that has begun in a folder which is owned for the length of the block."""
    stage = Stage(Folder(out), SQUARES)
    with stage.folder.owned(), Progress("square", None, shown=False) as progress:
        stage.begin({})
        yield stage, progress


# --- what is run


def test_only_items_that_are_not_finished_are_run(
    pool: Path, out: Path, tmp_path: Path, engine: Engine
) -> None:
    """Every item is run once; the same command again runs none; every engine writes the same bytes."""
    for _ in range(2):
        assert square(pool, out, engine) == TOTAL
        assert tries(pool) == [1] * N
    square(pool, tmp_path / "one", Local(1))
    assert len(outputs(out)) == N + 1
    assert outputs(out) == outputs(tmp_path / "one")


def test_a_marker_proves_the_files_of_its_item(pool: Path, out: Path) -> None:
    """An item with a file that is gone or has another size is run again, and only that one."""
    square(pool, out, TWO)
    undisturbed = outputs(out)
    (out / "squares" / "03.txt").unlink()
    (out / "squares" / "05.txt").write_text("250")
    (out / ".state" / "squares" / "07.json").write_text("{")
    assert square(pool, out, TWO) == TOTAL
    assert [number for number, tried in enumerate(tries(pool)) if tried == 2] == [3, 5, 7]
    assert outputs(out) == undisturbed


def test_another_fingerprint_is_refused_and_can_be_replaced(pool: Path, out: Path) -> None:
    """A pool with another file is another run, and nothing is touched; with overwrite, all items are run."""
    square(pool, out, TWO)
    before = all_files(out)
    (pool / "12.txt").write_text("12")
    with pytest.raises(MetaclipError, match='pool: "12.txt" is new'):
        square(pool, out, TWO)
    assert all_files(out) == before
    assert square(pool, out, TWO, overwrite=True) == TOTAL + 144
    assert tries(pool) == [2] * N + [1]


@on_this_machine
def test_tasks_may_be_a_generator_that_continues_as_results_come(
    pool: Path, out: Path, engine: Engine
) -> None:
    """Results can decide on further tasks."""
    results: list[int] = []

    def tasks() -> Iterator[Task[Path]]:
        for number in range(N):
            assert (
                results or number <= 4
            )  # at most two tasks per worker are taken before the first result
            yield Task(f"{number:02}", pool / f"{number:02}.txt")

    with begun_stage(out) as (stage, progress):
        for _, marker in run(stage, Square(stage), tasks(), RunOptions(engine=engine), progress):
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


def test_small_tasks_are_sent_in_groups(pool: Path, out: Path) -> None:
    """A few groups instead of 200 items; each is marked alone, and one that is broken costs no other.

    Each is marked by the worker as soon as its files are in place: the second one waits for the marker of the first.
    """
    orders = {"001": "after_000", "017": "broken"}
    for name in [f"{number:03}" for number in range(200)]:
        (pool / f"{name}.txt").write_text(f"{orders.get(name, '')} 1")
    engine = CountingEngine(2)
    tasks = [
        Task(path.stem, path, str(path), lost={"index": 0}, weight=1)
        for path in sorted(pool.glob("???.txt"))
    ]
    with begun_stage(out) as (stage, progress):
        results = run(stage, Square(stage), tasks, RunOptions(engine=engine), progress, group=50)
        found = {task.name: marker for task, marker in results}
    assert engine.given == 17
    assert [name for name, marker in found.items() if marker is None] == ["017"]
    assert stage.lost().keys() == {"017"}
    assert len(found) == 200
    assert all(stage.marker(name) == marker for name, marker in found.items())


# --- errors and losses


@on_this_machine
def test_an_item_that_fails_ends_the_run_and_keeps_finished_ones(
    pool: Path, out: Path, engine: Engine
) -> None:
    """Its error is raised; finished items stay marked, and the corrected command runs only the others."""
    give(pool, "fail", 8)
    with pytest.raises(MetaclipError, match=r"08\.txt fails"):
        square(pool, out, engine)
    done = marked(out)
    assert len(done) >= 5
    assert "08" not in done
    give(pool, "", 8)
    assert square(pool, out, engine) == TOTAL
    assert all(tries(pool)[int(name)] == 1 for name in done)


def test_a_broken_input_is_recorded_as_lost_and_tried_again(
    pool: Path, out: Path, engine: Engine
) -> None:
    """It costs no other item; the next run tries it alone, and a corrected one is lost no longer."""
    give(pool, "broken", 3)
    for count in (1, 2):
        assert square(pool, out, engine) == TOTAL - 9
        assert tries(pool) == [count if number == 3 else 1 for number in range(N)]
        lost = {"03": {"index": 3, "name": "03.txt", "error": f"{pool / '03.txt'} is broken"}}
        assert lost_items(pool, out) == lost
    give(pool, "", 3)
    assert square(pool, out, engine) == TOTAL
    assert lost_items(pool, out) == {}


def test_an_item_on_which_workers_die_is_lost_and_tried_again(
    pool: Path, out: Path, engine_of_processes: Engine
) -> None:
    """It costs no other item; the message names its file and how the workers ended; the next run tries it alone.

    An item on which a worker died once is only run again.
    """
    give(pool, "kill", 3)
    give(pool, "kill_once", 8)
    assert square(pool, out, engine_of_processes) == TOTAL - 9
    assert tries(pool) == [{3: TRIES, 8: 2}.get(number, 1) for number in range(N)]
    lost = lost_items(pool, out)
    assert lost.keys() == {"03"}
    assert str(pool / "03.txt") in lost["03"]["error"]
    assert f"died {TRIES} times (" in lost["03"]["error"]
    give(pool, "", 3)
    assert square(pool, out, engine_of_processes) == TOTAL
    assert tries(pool) == [{3: TRIES + 1, 8: 2}.get(number, 1) for number in range(N)]


def test_a_task_that_may_not_be_lost_ends_the_run(pool: Path, out: Path) -> None:
    """Without a record for its loss, a broken input raises."""
    give(pool, "broken", 0)
    with begun_stage(out) as (stage, progress):
        with pytest.raises(BrokenInput):
            list(
                run(stage, Square(stage), [Task("00", pool / "00.txt")], RunOptions(workers=1), progress)
            )
        assert stage.lost() == {}


def test_the_message_of_lost_inputs_counts_inputs() -> None:
    """Two shards of one input are one input; the flag is named only where there is one."""
    lost = [{"index": 1, "error": "a is broken"}, {"index": 1, "error": "a is broken too"}]
    assert lost_message(lost, 3) == (
        "1 of 3 inputs were lost:\n  a is broken\n  a is broken too\n"
        "mend them and run the same command again (it reads just these)"
    )
    assert "--allow-lost" in lost_message(lost, 3, "--allow-lost")


@on_this_machine
def test_a_full_disk_ends_the_run_in_one_line(
    pool: Path, out: Path, tmp_path: Path, engine: Engine
) -> None:
    """The error names the folder and the next step; finished items stay, no unfinished file does; the rest can follow."""
    give(pool, "long", 6, 7)
    square(pool, tmp_path / "undisturbed", TWO)
    forget_tries(pool)
    one_line = r"^\S+: no room left \([^\n]*run the same command again$"
    with largest_file(20_000), pytest.raises(MetaclipError, match=one_line):
        square(pool, out, engine)
    done = marked(out)
    assert done
    assert not done & {"06", "07"}
    assert not list(out.rglob("*.tmp"))
    assert square(pool, out, engine) == TOTAL
    assert all(tries(pool)[int(name)] == 1 for name in done)
    assert outputs(out) == outputs(tmp_path / "undisturbed")


# --- interruptions


@pytest.mark.parametrize(
    ("engine", "others"),
    [("threads", "wait"), ("threads", "slow"), ("processes", "slow")],
    indirect=["engine"],
)
def test_no_worker_runs_on_after_an_error(pool: Path, out: Path, engine: Engine, others: str) -> None:
    """When `run` has raised, no thread writes on, though the traceback still refers to the generator of results."""
    give(pool, others, 0, 2, 3, 4)
    give(pool, "fail", 1)
    with pytest.raises(MetaclipError, match="fails") as caught:
        square(pool, out, engine)
    assert worker_threads() == []
    begun, files = tries(pool), all_files(out)
    if others == "wait":
        assert begun[4:] == [0] * 8  # nothing else was begun
    for path in pool.glob("*.alive"):
        path.unlink()
    time.sleep(0.2)
    assert (tries(pool), all_files(out)) == (begun, files)
    assert not list(pool.glob("*.alive"))
    assert caught.tb is not None  # held until here


@on_this_machine
def test_ctrl_c_leaves_finished_items_marked(pool: Path, out: Path, engine: Engine) -> None:
    """SIGINT while items run: they end, no thread is left, and the same command runs only what has no marker."""
    give(pool, "slow", *range(N))

    def interrupt() -> None:
        wait_until(lambda: len(marked(out)) >= 3)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    watcher = threading.Thread(target=interrupt)
    try:
        watcher.start()
        with pytest.raises(KeyboardInterrupt):
            square(pool, out, engine)
    finally:
        watcher.join()
        signal.signal(signal.SIGINT, before)
    assert worker_threads() == []
    done = marked(out)
    assert 3 <= len(done) < N
    assert square(pool, out, engine) == TOTAL
    assert all(tries(pool)[int(name)] == 1 for name in done)


@on_this_machine
def test_an_interrupted_step_is_no_loss(pool: Path, out: Path, engine: Engine) -> None:
    """Interrupted ends the run, with the exit code of an interruption; nothing is recorded as lost."""
    give(pool, "interrupt", 3)
    with pytest.raises(Interrupted) as caught:
        square(pool, out, engine)
    assert caught.value.exit_code == 130
    assert lost_items(pool, out) == {}


def _killed_before_rename(pool: Path, out: Path, number: int) -> None:
    """Run the toy verb in this process, which kills itself when it renames its n-th file."""
    rename, renamed = os.replace, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal renamed
        if renamed == number:
            os.kill(os.getpid(), signal.SIGKILL)
        renamed += 1
        rename(source, target)

    os.replace = replace
    square(pool, out, Local(1))


def test_killed_at_any_write(tmp_path: Path) -> None:
    """SIGKILL before each file that a run writes: marked items are whole, and the same command ends with the same bytes."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for number in range(3):
        (pool / f"{number:02}.txt").write_text(str(number))
    square(pool, tmp_path / "undisturbed", Local(1))
    renames = 0
    while True:
        forget_tries(pool)
        out = tmp_path / str(renames)
        process = multiprocessing.get_context("fork").Process(
            target=_killed_before_rename, args=(pool, out, renames)
        )
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        done = marked(out)
        assert len(done) == min(max(0, renames - 1) // 2, 3)
        assert all((out / "squares" / f"{name}.txt").read_text() == str(int(name) ** 2) for name in done)
        assert square(pool, out, Local(1)) == 5
        assert all(tries(pool)[int(name)] == 1 for name in done)
        assert outputs(out) == outputs(tmp_path / "undisturbed")
        assert all_files(out) == all_files(tmp_path / "undisturbed")
        renames += 1
    assert renames == 9  # the fingerprint, three files and their markers, the sum, the manifest


@on_this_machine
def test_a_killed_driver_continues_to_the_same_bytes(
    pool: Path, out: Path, tmp_path: Path, engine: Engine
) -> None:
    """After SIGKILL in the middle, the same command runs only the rest and leaves what an undisturbed run leaves.

    While the driver lives, another command is refused and names it; once it is dead, the folder is free at once.
    """
    square(pool, tmp_path / "undisturbed", TWO)
    forget_tries(pool)
    give(pool, "slow", *range(N))
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.engines import Local, Processes\n"
        "from tests.stage.squares import square\n"
        "if __name__ == '__main__':\n"
        f"    square(Path(sys.argv[1]), Path(sys.argv[2]), {type(engine).__name__}(2))\n"
    )
    with subprocess.Popen([sys.executable, script, pool, out], env=environment()) as driver:
        wait_until(lambda: len(marked(out)) >= 3 or driver.poll() is not None)
        with pytest.raises(InUse, match=f"in use by process {driver.pid} on "):
            square(pool, out, engine)
        driver.kill()
    done = marked(out)
    assert 3 <= len(done) < N, "the kill hit no work"
    assert square(pool, out, engine) == TOTAL
    assert all(tries(pool)[int(name)] == 1 for name in done)
    assert outputs(out) == outputs(tmp_path / "undisturbed")
    assert not list(out.rglob("*.tmp"))


# --- parts of a job array


def test_parts_run_each_item_once_and_the_last_one_combines(
    pool: Path, out: Path, tmp_path: Path, engine: Engine
) -> None:
    """Parts return None until no item is left; the result is that of one run."""
    found = [square(pool, out, engine, part=Part(i, 3)) for i in (2, 3, 1)]
    assert found == [None, None, TOTAL]
    assert tries(pool) == [1] * N
    square(pool, tmp_path / "whole", Local(1))
    assert outputs(out) == outputs(tmp_path / "whole")


def test_parts_that_overlap_or_are_missing(pool: Path, out: Path) -> None:
    """Parts of arrays of other lengths run only what is left, and a command without a part runs that of missing parts."""
    assert square(pool, out, TWO, part=Part(1, 3)) is None
    assert square(pool, out, TWO, part=Part(2, 2)) is None
    assert tries(pool) == [int(number % 3 == 0 or number % 2 == 1) for number in range(N)]
    assert not (out / "sum.txt").exists()
    assert square(pool, out, TWO) == TOTAL
    assert tries(pool) == [1] * N


def test_parts_that_run_at_once_combine_once(pool: Path, tmp_path: Path) -> None:
    """Each item is run once; at least one part returns the result, and a later one finds it."""
    for attempt in range(5):
        forget_tries(pool)
        out = tmp_path / str(attempt)
        with ThreadPoolExecutor(3) as threads:
            parts = [Part(number, 3) for number in (1, 2, 3)]
            results = list(
                threads.map(lambda part, out=out: square(pool, out, Local(1), part=part), parts)
            )
        assert tries(pool) == [1] * N
        assert TOTAL in results
        assert set(results) <= {None, TOTAL}
        assert square(pool, out, TWO, part=Part(2, 3)) == TOTAL


def test_the_last_part_waits_for_the_others(pool: Path, out: Path) -> None:
    """A part that leaves no item combines the results only when no other part owns the folder any more."""
    square(pool, out, TWO, part=Part(1, 2))
    with ThreadPoolExecutor(1) as threads:
        with Folder(out).owned(Part(3, 3)):
            last = threads.submit(square, pool, out, TWO, part=Part(2, 2))
            wait_until(lambda: len(marked(out)) == N)
            time.sleep(0.2)
            assert not last.done()
            assert not (out / "sum.txt").exists()
        assert last.result() == TOTAL


def test_the_last_part_combines_only_what_is_whole(pool: Path, out: Path) -> None:
    """If the file of another part's item is gone, no result is combined until that part has run again."""
    square(pool, out, TWO, part=Part(1, 2))
    (out / "squares" / "02.txt").unlink()
    assert square(pool, out, TWO, part=Part(2, 2)) is None
    assert not (out / "sum.txt").exists()
    assert square(pool, out, TWO, part=Part(1, 2)) == TOTAL
    assert tries(pool) == [2 if number == 2 else 1 for number in range(N)]


def test_one_command_owns_the_folder(pool: Path, out: Path) -> None:
    """Beside another command, nothing is run; beside a part, only other parts are."""
    with Folder(out).owned():
        for part in (Part(), Part(1, 2)):
            with pytest.raises(InUse, match=f"in use by process {os.getpid()} on "):
                square(pool, out, TWO, part=part)
    with Folder(out).owned(Part(1, 2)):
        for part in (Part(), Part(1, 2)):
            with pytest.raises(InUse, match=f"in use by part 1/2, process {os.getpid()} on "):
                square(pool, out, TWO, part=part)
        assert tries(pool) == [0] * N
        assert square(pool, out, TWO, part=Part(2, 2)) is None
    assert tries(pool) == [number % 2 for number in range(N)]


def test_a_part_of_another_run_is_refused(pool: Path, out: Path) -> None:
    """All parts of a job array have one fingerprint; a part with another one names the difference and runs nothing."""
    square(pool, out, TWO, part=Part(1, 2))
    before = tries(pool)
    (pool / "12.txt").write_text("12")
    for part in (Part(2, 2), Part()):
        with pytest.raises(MetaclipError, match='holds another run: pool: "12.txt" is new'):
            square(pool, out, TWO, part=part)
    assert tries(pool) == [*before, 0]


def test_a_part_with_losses_says_so(pool: Path, out: Path) -> None:
    """Its exit code is that of lost inputs, counted among its own; others do not fail, and the last one combines the rest."""
    give(pool, "broken", 3)
    with pytest.raises(
        LostInputs, match=r"1 of 4 inputs were lost:\n  .*03\.txt is broken\nmend them"
    ) as caught:
        square(pool, out, TWO, part=Part(1, 3))
    assert caught.value.exit_code == 3
    assert square(pool, out, TWO, part=Part(2, 3)) is None
    assert square(pool, out, TWO, part=Part(3, 3)) == TOTAL - 9
    give(pool, "", 3)
    assert square(pool, out, TWO, part=Part(1, 3)) == TOTAL
    assert tries(pool) == [2 if number == 3 else 1 for number in range(N)]


def test_a_part_may_not_overwrite(pool: Path, out: Path) -> None:
    """It would remove what other parts did; nothing is touched."""
    square(pool, out, TWO, part=Part(1, 2))
    before = all_files(out)
    with pytest.raises(
        MetaclipError,
        match=r"`RunOptions\(overwrite=True\)` replaces what all parts did, so not with `RunOptions\(part=\.\.\.\)`",
    ):
        square(pool, out, TWO, part=Part(1, 2), overwrite=True)
    assert all_files(out) == before
