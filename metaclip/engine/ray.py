"""The Ray engine: each item is a task of Ray Core, on one machine or on a cluster.

Without an address, the engine starts Ray on this machine for as long as it is open, without its dashboard and without its
usage reports; with an address, it uses the running cluster. (From 2.60 on, Ray refuses other users by default, by a token
that it creates in ~/.ray.) The nodes need metaclip, and the same paths for input and output (a shared file system or a
store).

Law: that of `metaclip.engine`. Ray runs a task again if its worker or its node was lost, `TRIES` times in all; what
a step raises is its result, and is not tried again. At most two tasks per worker are under way, so that the scheduler
never holds 100,000 shards; tasks are spread over the nodes. The step is put into Ray's object store once: each node fetches
it once, and the workers of a node share its arrays without a copy. When a driver ends, however it does, its tasks end too.

Cost: 4 s to start Ray on this machine, 1.5 s to stop it; 1 to 2 s to start each worker, besides what its step compiles;
2 ms per task.
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
from collections.abc import Iterable
from typing import Any, Final

from metaclip.engine import (
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
from metaclip.errors import MetaclipError, install_hint, one_line

_TASKS_PER_WORKER: Final = 2  # under way at once
_POLL_SECONDS: Final = 1.0  # between checks for Ctrl-C
_CANCEL_SECONDS: Final = 30.0  # for cancelled tasks to end
_CONNECT_SECONDS: Final = 10.0  # for a cluster to answer: Ray itself tries for minutes
_CLEANUP_SECONDS: Final = 5.0  # in which Ray's last processes may still write to its folder
_OBJECT_STORE_BYTES: Final = 256 << 20  # on this machine: for an automaton, a list, sums under way
_USAGE_REPORTS: Final = "RAY_USAGE_STATS_ENABLED"
_END: Any = object()


class Ray:
    """An engine on Ray: a context manager that starts or connects Ray for the first item, and stops it at the end."""

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        """Set the address of a cluster ("auto", "host:6379", "ray://host:10001"); None starts Ray on this machine.

        `workers` is the number of tasks that run at once; None for one per CPU.
        """
        self._address, self._max_workers = address, workers
        self._open = contextlib.ExitStack()
        self._ray: Any = None  # the module, once it is connected
        self._owns_connection = False

    def __repr__(self) -> str:
        """Show the address and the workers that were asked for."""
        return f"Ray(address={self._address!r}, workers={self._max_workers})"

    def __enter__(self) -> Ray:
        """Import Ray, to fail early; nothing is started yet."""
        _import_ray()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what was started here."""
        self._stop()

    @property
    def workers(self) -> int:
        """Number of tasks that run at once: on a cluster, the number of CPUs that it has now, unless one was given."""
        if self._max_workers is not None or self._address is None:
            return self._max_workers or default_workers()
        return max(1, int(self._connected().cluster_resources().get("CPU", 1)))

    def map(
        self,
        step: Step[Item, Result],
        items: Iterable[Item],
        progress: ProgressCallback = ignore_progress,
        *,
        holds_gil: bool = False,
    ) -> Results[Item, Result]:
        """Run the step as `metaclip.engine.Engine.map` does; a task is one item."""
        source = iter(items)
        if (first := next(source, _END)) is _END:
            return
        source = itertools.chain([first], source)
        ray = self._connected()
        stored = ray.put(ReportingStep(step))
        remote = ray.remote(_run_task).options(
            num_cpus=1, max_retries=TRIES - 1, retry_exceptions=False, scheduling_strategy="SPREAD"
        )
        # On a cluster, a task that waits may run at once, so a given number of workers bounds the tasks under way.
        ahead = 1 if self._max_workers is not None and self._address is not None else _TASKS_PER_WORKER
        running: dict[Any, Item] = {}
        try:
            while True:
                room = ahead * self.workers - len(running)  # below 0 if a node was lost
                for item in itertools.islice(source, max(0, room)):
                    running[remote.remote([stored], item)] = item
                if not running:
                    return
                done, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
                for task in done:
                    (rows, kept), result = self._outcome(task)
                    progress(rows, kept)
                    yield running.pop(task), result
        finally:
            if running:
                self._cancel(list(running))

    def _cancel(self, running: list[Any]) -> None:
        """End running tasks by closing the connection, if it is ours; the next call of `map` connects again.

        ray.cancel is avoided where possible: if a task ends at the same moment, Ray may abort this process.
        """
        if self._owns_connection:
            self._stop()
            return
        for task in running:
            self._ray.cancel(task, force=True)
        self._ray.wait(running, num_returns=len(running), timeout=_CANCEL_SECONDS)

    def _stop(self) -> None:
        self._ray = None
        self._open.close()

    def _outcome(self, task: Any) -> tuple[tuple[int, int], Any]:
        """Return the progress of a finished task, (rows, kept), and its result or the error that ended it."""
        failures = self._ray.exceptions
        try:
            outcome: tuple[tuple[int, int], Any] = self._ray.get(task)
            return outcome
        except failures.RayTaskError as error:  # not raised by the step, but by pickling it or its result
            if isinstance(error.cause, ImportError):
                raise MetaclipError(
                    f"a worker of Ray cannot import what it needs ({one_line(error.cause, 120)}); "
                    "install metaclip, of this version, on all nodes"
                ) from error
            return (0, 0), RuntimeError(one_line(error.cause or error))
        except failures.RayError as error:
            what = one_line(error, 120)
            died = WorkerDied(
                f"the worker or its node died {TRIES} times ({what}); check its memory, or leave this input out"
            )
            return (0, 0), died

    def _connected(self) -> Any:
        """Return the module `ray`, connected."""
        if self._ray is None:
            ray = _import_ray()
            if self._address is not None:
                _check_reachable(self._address)
            self._owns_connection = not ray.is_initialized()
            if self._owns_connection:
                self._connect(ray)
            self._ray = ray
        return self._ray

    def _connect(self, ray: Any) -> None:
        with contextlib.ExitStack() as opened:
            settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
            if self._address is None:
                folder = tempfile.mkdtemp(prefix="metaclip-ray-")
                opened.callback(_remove_folder, folder)
                if (before := os.environ.get(_USAGE_REPORTS)) is not None:
                    opened.callback(os.environ.update, {_USAGE_REPORTS: before})
                opened.callback(os.environ.pop, _USAGE_REPORTS)
                os.environ[_USAGE_REPORTS] = "0"  # inherited by the processes of Ray
                settings |= {
                    "address": "local", "num_cpus": self.workers, "include_dashboard": False, "_temp_dir": folder,
                    "object_store_memory": _OBJECT_STORE_BYTES, "_system_config": {"task_oom_retries": TRIES - 1},
                }  # fmt: skip
            else:
                settings["address"] = self._address
            opened.callback(ray.shutdown)
            sigterm_handler = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(**settings)
            except (OSError, RuntimeError, ValueError) as error:
                where = self._address or "this machine"
                raise MetaclipError(
                    f"Ray does not answer on {where} ({one_line(error, 160)}); check `address=...` and `ray status`"
                ) from error
            if threading.current_thread() is threading.main_thread():
                signal.signal(
                    signal.SIGTERM, sigterm_handler
                )  # Ray replaces it by one that exits at once
            self._open = opened.pop_all()


def _remove_folder(folder: str) -> None:
    """Remove Ray's folder, to which its last processes may still write for a moment."""
    end = time.monotonic() + _CLEANUP_SECONDS
    while os.path.lexists(folder) and time.monotonic() < end:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise MetaclipError(f"the engine ray is not installed; {install_hint('ray')}") from None


def _check_reachable(address: str) -> None:
    """Raise MetaclipError if nothing answers at an address of the form host:port."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise MetaclipError(
            f"no Ray cluster answers at {address} ({one_line(error, 80)}); check `address=...`, and run `ray status` on its head"
        ) from None


def _run_task(step: list[Any], item: Any) -> Any:
    """Run the step on an item: the function of a task. The step is in a list, or Ray would fetch it for each task."""
    return _fetch_step(step[0])(item)


@functools.lru_cache(maxsize=1)
def _fetch_step(step: Any) -> Any:
    """Return the step; a worker keeps it, with its cached properties, from task to task."""
    return _import_ray().get(step)
