"""The processes that a command has started, found by their parents, and killing them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def below(pid: int) -> dict[int, str]:
    """Return the command lines of all descendants of a process, by pid."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text()
            lines[int(folder.name)] = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found, more = set(), {pid}
    while more := {child for child, parent in parents.items() if parent in more} - found:
        found |= more
    return {child: lines[child] for child in found}


def workers(pid: int) -> list[int]:
    """Return the worker processes of a command, oldest first: workers of Ray, or processes spawned by Python."""
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
    """Kill a process by SIGKILL; return whether it existed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
