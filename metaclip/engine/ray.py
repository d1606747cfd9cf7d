"""The engine of many machines: shards to steps as tasks of Ray Core. It knows nothing of matching.

Without an address Ray is started on this machine for as long as the engine is open, without its dashboard and without its
reports of use; with one, the cluster there is used as it is. (Of itself Ray keeps others out by the token that it makes in
~/.ray, from 2.60 on.) metaclip must be installed on its nodes, and input and output must have the same paths there (a shared
file system, or a store).

Law: that of `metaclip.engine.contract`. Ray runs a task again where its worker or its node was lost, `TRIES` times in all;
what a step raises is its result, and is not tried again. At most two tasks a worker are under way, so that 100,000 shards
do not lie in the scheduler; they are spread over the nodes. The step is put into Ray's memory once: a node fetches it once,
and arrays in it are shared by its workers without a copy. A driver that ends, however it does, takes its tasks along.

Cost: 4 s to start on this machine, 1.5 s to stop; 1 to 2 s for each worker to begin, besides what its step compiles; 2 ms
a task.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from metaclip.engine.contract import (
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
from metaclip.errors import MetaclipError, one_line

_AHEAD: Final = 2  # tasks under way, for each worker
_LOOK: Final = 1.0  # seconds between looks at whether the caller was interrupted
_PATIENCE: Final = 30.0  # seconds for tasks that are stopped to end
_ANSWER: Final = 10.0  # seconds for a cluster to answer: Ray itself tries for minutes
_LAST_WORDS: Final = 5.0  # seconds in which Ray's folder may be written to after Ray has stopped
_STORE: Final = 256 << 20  # bytes of Ray's memory on this machine: an automaton, a list, sums under way


class Ray:
    """An engine on a Ray cluster; a context, which starts Ray when there is the first work, and stops it at the end."""

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        """Name a cluster ("auto", "host:6379", "ray://host:10001"), None for one on this machine while the engine is open.

        `workers` bounds the tasks that run at once; None for one a processor.
        """
        self._address, self._given = address, workers
        self._open = contextlib.ExitStack()
        self._ray: Any = None
        self._ours = False  # whether the connection was made here, or found

    def __enter__(self) -> Ray:
        """Find Ray; nothing is started yet."""
        _installed()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what was started."""
        self._stop()

    @property
    def workers(self) -> int:
        """How many tasks run at once: on a cluster, so many as it has processors now."""
        if self._given is not None or self._address is None:
            return self._given or default_workers()
        return max(1, int(self._started().cluster_resources().get("CPU", 1)))

    def map(
        self,
        step: Step[Item, Result],
        items: Iterable[Item],
        progress: ProgressCallback = ignore_progress,
        *,
        holds_gil: bool = False,
    ) -> Results[Item, Result]:
        """Do as `metaclip.engine.contract.Engine.map`."""
        source = iter(items)
        if (first := next(source, _NONE)) is _NONE:
            return
        source = itertools.chain([first], source)
        ray = self._started()
        carried = ray.put(ReportingStep(step))
        carry = ray.remote(_carry).options(
            num_cpus=1, max_retries=TRIES - 1, retry_exceptions=False, scheduling_strategy="SPREAD"
        )
        ahead = 1 if self._given is not None and self._address is not None else _AHEAD  # there, what waits may run
        running: dict[Any, Item] = {}
        try:
            while True:
                room = ahead * self.workers - len(running)  # below 0 where a node was lost
                for item in itertools.islice(source, max(0, room)):
                    running[carry.remote([carried], item)] = item
                if not running:
                    return
                done, _ = ray.wait(list(running), timeout=_LOOK)
                for task in done:
                    told, result = self._outcome(task)
                    progress(*told)
                    yield running.pop(task), result
        finally:
            if running:
                self._end(list(running))

    def _end(self, running: list[Any]) -> None:
        """End the tasks that run: with the connection, where it is ours, and it is made again for the next work.

        Not by ray.cancel, where that can be avoided: if a task ends just then, Ray may abort this process.
        """
        if self._ours:
            self._stop()
            return
        for task in running:
            self._ray.cancel(task, force=True)
        self._ray.wait(running, num_returns=len(running), timeout=_PATIENCE)

    def _stop(self) -> None:
        self._ray = None
        self._open.close()

    def _outcome(self, task: Any) -> tuple[tuple[int, int], Any]:
        """Give what a finished task told, and its result or what became of it."""
        failures = self._ray.exceptions
        try:
            outcome: tuple[tuple[int, int], Any] = self._ray.get(task)
            return outcome
        except failures.RayTaskError as error:  # not of the step: the step could not arrive, or its result not leave
            if isinstance(error.cause, ImportError):
                raise MetaclipError(
                    f"a worker of Ray cannot import what it needs ({one_line(error.cause, 120)}); "
                    "install metaclip, of this version, on all nodes"
                ) from error
            return (0, 0), RuntimeError(one_line(error.cause or error))
        except failures.RayError as error:
            what = one_line(error, 120)
            died = WorkerDied(f"the worker or its node died {TRIES} times ({what}); look at memory, or leave it out")
            return (0, 0), died

    def _started(self) -> Any:
        """Give the module `ray`, connected."""
        if self._ray is None:
            ray = _installed()
            if self._address is not None:
                _refuse_silent(self._address)
            self._ours = not ray.is_initialized()
            if self._ours:
                self._connect(ray)
            self._ray = ray
        return self._ray

    def _connect(self, ray: Any) -> None:
        with contextlib.ExitStack() as opened:
            settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
            if self._address is None:
                folder = tempfile.mkdtemp(prefix="metaclip-ray-")
                opened.callback(_removed, folder)
                opened.enter_context(_environment(_PRIVATE))
                settings |= {
                    "address": "local", "num_cpus": self.workers, "include_dashboard": False, "_temp_dir": folder,
                    "object_store_memory": _STORE, "_system_config": {"task_oom_retries": TRIES - 1},
                }  # fmt: skip
            else:
                settings["address"] = self._address
            opened.callback(ray.shutdown)
            try:
                with _own_signals():
                    ray.init(**settings)
            except (OSError, RuntimeError, ValueError) as error:
                where = self._address or "this machine"
                raise MetaclipError(
                    f"Ray does not answer on {where} ({one_line(error, 160)}); check --address, or ray status"
                ) from error
            self._open = opened.pop_all()


def _removed(folder: str) -> None:
    """Remove Ray's folder: its last processes may write there for a moment after Ray has stopped."""
    end = time.monotonic() + _LAST_WORDS
    while os.path.lexists(folder) and time.monotonic() < end:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


_NONE: Any = object()
_PRIVATE: Final = {"RAY_USAGE_STATS_ENABLED": "0"}


def _installed() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise MetaclipError("the engine ray is not installed; pip install 'metaclip[ray]'") from None


def _refuse_silent(address: str) -> None:
    """Raise MetaclipError if nothing answers at an address of the form host:port."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()
    except (OSError, OverflowError) as error:
        raise MetaclipError(
            f"no Ray cluster answers at {address} ({one_line(error, 80)}); check --address, and its head by: ray status"
        ) from None


def _carry(step: list[Any], item: Any) -> Any:
    """Run the step on an item: a task. The step comes in a list, for Ray would fetch it anew for each task."""
    return _arrived(step[0])(item)


@functools.lru_cache(maxsize=1)
def _arrived(step: Any) -> Any:
    """Give the step; kept in a worker's process from task to task, with what it made on arrival."""
    return _installed().get(step)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of this process, which Ray's processes inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our answer to SIGTERM, which Ray replaces by an exit without an end."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
