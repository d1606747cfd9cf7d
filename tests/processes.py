"""The command line in separate processes, which can be killed, locked out and run side by side.

A process imports what it uses for a second before its first shard. So most processes are forked from one that has
imported it (`tests.warm`), with their own pid, signals and locks; a `cold` process is ``python -m metaclip``, as a user
starts it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TIMEOUT = 120
"""Seconds after which a process counts as hanging, on a busy machine."""

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(["tests.warm"])


@dataclasses.dataclass
class Running:
    """A running process of the command line."""

    process: Any
    files: tuple[Path, Path]

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def out(self) -> str:
        return self.files[0].read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self.files[1].read_text(encoding="utf-8")

    @property
    def code(self) -> int | None:
        """The exit code, minus the signal's number if a signal ended the process; None while it runs."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll()
        return self.process.exitcode

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait until the process ends; return its exit code."""
        until(lambda: self.code is not None, f"the end of {self.pid}: {self.err}")
        assert self.code is not None
        return self.code


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which another process finds the package and the tests."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **more}


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; check it often."""
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end, f"timeout: {what}"
        time.sleep(0.001)


@contextlib.contextmanager
def start(
    *arguments: Any, into: Path, cold: bool = False, max_bytes: int | None = None
) -> Iterator[Running]:
    """Start ``metaclip`` with these arguments; its output goes to files in the folder `into`.

    With `max_bytes`, it cannot write a file with more bytes, as on a full disk. It is killed if it outlives the block.
    """
    number = len(list(into.glob("*.out")))
    files = into / f"{number}.out", into / f"{number}.err"
    given = [str(argument) for argument in arguments]
    with files[0].open("w") as out, files[1].open("w") as err:
        if cold:
            process: Any = subprocess.Popen(
                [sys.executable, "-m", "metaclip", *given], stdout=out, stderr=err
            )
        else:
            process = _forking.Process(
                target=_run, args=(given, files, dict(os.environ), os.getcwd(), max_bytes)
            )
            process.start()
    running = Running(process, files)
    try:
        yield running
    finally:
        if running.code is None:
            running.send(signal.SIGKILL)
            running.wait()


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process, and those that it starts, write no file of more bytes for the length of a block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _run(
    arguments: list[str], files: tuple[Path, Path], environ: dict[str, str], cwd: str, largest: int | None
) -> None:
    # A shell lets what it starts in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.update(environ)
    os.chdir(cwd)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    from metaclip.cli import main

    main(arguments)
