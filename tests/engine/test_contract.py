"""Every engine keeps the contract: threads, processes and Ray give the same results for the same steps."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import operator
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaclip.engine import (
    TRIES,
    Engine,
    PortableStep,
    ProgressCallback,
    WorkerDied,
    fold,
    grouped,
    map_grouped,
)
from metaclip.engine.ray import Ray
from metaclip.errors import MetaclipError
from tests.engines import WORKERS, Processes


def square(x: int | None, progress: ProgressCallback) -> int | None:
    if x is None:
        return None
    progress(x, 1)
    if x == 13:
        raise MetaclipError("thirteen")
    return x * x


def test_every_item_comes_back_once(engine: Engine) -> None:
    """Each item comes back with its result or its exception, also None; the progress that steps report adds up."""
    reported: list[tuple[int, int]] = []
    given = list(engine.map(square, [*range(40), None], lambda *numbers: reported.append(numbers)))
    results = {x: result for x, result in given if x != 13}
    assert results == {x: None if x is None else x * x for x in [*range(40), None] if x != 13}
    assert [(type(result), str(result)) for x, result in given if x == 13] == [
        (MetaclipError, "thirteen")
    ]
    assert len(given) == 41
    assert (sum(rows for rows, _ in reported), sum(through for _, through in reported)) == (
        sum(range(40)),
        40,
    )
    assert list(engine.map(square, [])) == []


def test_little_is_under_way(engine: Engine) -> None:
    """A generator of 100,000 items is advanced only as work proceeds: at most two items per worker ahead."""
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for drawn in range(1, 100_001):  # noqa: UP028 - who draws is watched
            yield drawn

    for done, _ in enumerate(itertools.islice(engine.map(square, items()), 30)):
        assert drawn - done <= 2 * WORKERS + 1


def beginning(x: int, progress: ProgressCallback, folder: Path) -> None:
    (folder / f"{x}.begun").touch()
    for _ in range(600):
        time.sleep(0.05)
        progress(0, 0)
        (folder / "alive").touch()


def test_a_caller_that_leaves_leaves_nothing_running(engine: Engine, tmp_path: Path) -> None:
    """When the caller closes the results, running steps are ended and waited for, and no other one begins."""
    step = functools.partial(_quick_once, folder=tmp_path)
    found = engine.map(step, range(50))
    next(found)
    _until(lambda: len(list(tmp_path.glob("*.begun"))) >= 1)
    found.close()  # type: ignore[attr-defined]
    (tmp_path / "alive").unlink(missing_ok=True)
    begun = len(list(tmp_path.glob("*.begun")))
    time.sleep(0.5)
    assert not (tmp_path / "alive").exists()
    assert len(list(tmp_path.glob("*.begun"))) == begun <= 2 * WORKERS


def _quick_once(x: int, progress: ProgressCallback, folder: Path) -> None:
    if x:
        beginning(x, progress, folder)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@dataclasses.dataclass(frozen=True)
class Fragile(PortableStep):
    """Kills its worker on some items the first so many times; notes each try, and each time that it was unpickled."""

    folder: Path
    deaths: dict[int, int]
    rows: Any = None

    @functools.cached_property
    def arrived(self) -> bool:
        self._note("arrived")
        return True

    def __call__(self, x: int, progress: ProgressCallback) -> int:
        assert self.arrived
        if self._note(str(x)) <= self.deaths.get(x, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if x == 7:
            raise MetaclipError("seven")
        return x if self.rows is None else int(self.rows[x])

    def _note(self, name: str) -> int:
        with (self.folder / f"{name}.tries").open("a") as file:
            file.write("x")
        return self.tries(name)

    def tries(self, name: object) -> int:
        return len((self.folder / f"{name}.tries").read_text())


def test_a_worker_that_dies_costs_its_item_a_try(engine_of_processes: Engine, tmp_path: Path) -> None:
    """The item is run again; WorkerDied is the result of one on which workers die each time; an exception is not retried."""
    step = Fragile(tmp_path, {2: 1, 9: 100})
    results = dict(engine_of_processes.map(step, range(12)))
    assert {x: result for x, result in results.items() if not isinstance(result, BaseException)} == {
        x: x for x in range(12) if x not in (7, 9)
    }
    assert str(results[7]) == "seven"
    assert isinstance(results[9], WorkerDied)
    assert f"died {TRIES} times" in str(results[9])
    assert "SIGKILL" in str(results[9]) or not isinstance(engine_of_processes, Processes)
    assert [step.tries(x) for x in (7, 9, 2)] == [1, TRIES, 2]


def test_a_step_arrives_once_a_worker(engine_of_processes: Engine, tmp_path: Path) -> None:
    """A cached property of a step is computed once per worker, not once per item; arrays in the step arrive."""
    step = Fragile(tmp_path, {}, rows=np.arange(100_000))
    assert dict(engine_of_processes.map(step, [5, *range(100, 130)])) == {
        x: x for x in (5, *range(100, 130))
    }
    assert 1 <= step.tries("arrived") <= WORKERS


def ones(x: int, n: int) -> Any:
    return np.full(n, x, np.uint64)


@pytest.mark.parametrize("n", [0, 1, 5, 300])
def test_fold_adds_up_in_the_workers(engine: Engine, n: int) -> None:
    """The result is the sum over all items; each worker returns a few partial sums, not one per item."""
    back = 0

    def add(one: Any, other: Any) -> Any:
        return one + other

    class Watched:
        workers = WORKERS

        def map(self, step: Any, items: Any, *more: Any, **named: Any) -> Any:
            nonlocal back
            for each in engine.map(step, items, *more, **named):
                back += 1
                yield each

    total = fold(Watched(), functools.partial(ones, n=1000), range(n), operator.add)
    if n == 0:
        assert total is None
    else:
        assert total is not None
        assert total.tolist() == [sum(range(n))] * 1000
    assert back <= 4 * WORKERS


def raising(x: int) -> int:
    raise MetaclipError(f"no {x}")


def test_fold_raises_what_a_step_raises(engine: Engine) -> None:
    """There is no sum if a part of it is missing: the exception of the step is raised."""
    with pytest.raises(MetaclipError, match="no "):
        fold(engine, raising, range(3), operator.add)


def test_small_items_are_sent_in_groups(engine: Engine) -> None:
    """Each item comes back once, with its own result or exception, and the reported progress adds up."""
    reported: list[int] = []
    given = list(
        map_grouped(
            engine,
            square,
            range(300),
            lambda rows, _: reported.append(rows),
            weight=lambda _: 1,
            max_weight=10,
        )
    )
    assert sorted(x for x, _ in given) == list(range(300))
    assert {x: result for x, result in given if x != 13} == {x: x * x for x in range(300) if x != 13}
    assert str(dict(given)[13]) == "thirteen"
    assert sum(reported) == sum(range(300))


def test_one_of_a_group_that_kills_costs_no_other(tmp_path: Path) -> None:
    """A group on which workers died is run again item by item: only the item that kills is lost."""
    step = Fragile(tmp_path, {9: 100})
    items = range(8, 8 + 4 * 8 * WORKERS)
    results = dict(map_grouped(Processes(WORKERS), step, items, weight=lambda _: 1, max_weight=4))
    assert isinstance(results.pop(9), WorkerDied)
    assert results == {x: x for x in items if x != 9}
    assert step.tries(9) == 2 * TRIES


@pytest.mark.parametrize(
    ("weights", "max_weight", "wanted"),
    [
        ([], 5, []),
        ([9], 5, [[9]]),
        ([1, 1, 1, 1, 1, 1], 3, [[1, 1, 1], [1, 1, 1]]),
        ([2, 2, 9, 1, 4], 5, [[2, 2], [9], [1, 4]]),
        ([0, 0, 0], 0, [[0, 0, 0]]),
        ([1, 1], 0, [[1], [1]]),
    ],
)
def test_neighbours_stay_together_up_to_a_weight(
    weights: list[int], max_weight: int, wanted: list[list[int]]
) -> None:
    """Groups keep the order and weigh at most the maximum; a heavier item is alone in its group."""
    assert list(grouped(weights, lambda weight: weight, max_weight)) == wanted


# --- Ray alone


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Ray is not installed, the message says how to install it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MetaclipError, match=r"pip install -e '.\[ray\]'"), Ray():
        pass


def variable(name: str, progress: ProgressCallback) -> str | None:
    return os.environ.get(name)


@pytest.mark.extra
@pytest.mark.xdist_group("ray")
def test_ray_reports_nothing_and_leaves_our_signals(ray_here: Ray) -> None:
    """Usage reports are off in every process of Ray, and the signal handlers of this process are unchanged."""
    before = signal.getsignal(signal.SIGTERM)
    assert dict(ray_here.map(variable, ["RAY_USAGE_STATS_ENABLED"])) == {"RAY_USAGE_STATS_ENABLED": "0"}
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.extra
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs metaclip[ray]")
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer(scheme: str) -> None:
    """The error comes at once, with the address and the next step; Ray itself would try for minutes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
    begin = time.monotonic()
    with (
        pytest.raises(MetaclipError, match=f"no Ray cluster answers at {address} .*check `address=.*`"),
        Ray(address) as engine,
    ):
        list(engine.map(square, [1]))
    assert time.monotonic() - begin < 30


class Sealed:
    """A result that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("sealed")


def sealed(x: int, progress: ProgressCallback) -> Sealed:
    return Sealed()


def test_a_result_that_cannot_be_pickled_is_an_error(engine_of_processes: Engine) -> None:
    """The error names the reason, comes once, and the engine continues."""
    ((_, result),) = (pair for pair in engine_of_processes.map(sealed, iter([1])))
    assert isinstance(result, RuntimeError)
    assert "sealed" in str(result)


@pytest.mark.extra
@pytest.mark.xdist_group("ray")
def test_a_cluster_that_becomes_smaller(ray_here: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    """If fewer workers are left than tasks are under way, no task is added until there is room; all are done."""
    monkeypatch.setattr(Ray, "workers", 4)
    given = ray_here.map(square, range(30))
    done = [next(given)]
    monkeypatch.setattr(Ray, "workers", 1)
    done += given
    assert sorted(x for x, _ in done) == list(range(30))
