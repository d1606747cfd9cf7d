"""Processes to kill: those that a command started, found by their parents."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def below(pid: int) -> dict[int, str]:
    """Give the processes that a process started, and those that these started: pid to command line."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text()
            lines[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found, more = set(), {pid}
    while more := {child for child, parent in parents.items() if parent in more} - found:
        found |= more
    return {child: lines[child] for child in found}


def workers(pid: int) -> list[int]:
    """Give the processes of a command that work on shards, oldest first: those of Ray, or those that Python spawned."""
    found = [
        child
        for child, line in below(pid).items()
        if line.startswith("ray::_run_task") or "multiprocessing.spawn import spawn_main" in line
    ]
    return sorted(found, key=_age)


def _age(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return 0


def kill(pid: int) -> bool:
    """Kill a process by SIGKILL; tell whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
