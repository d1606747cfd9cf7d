"""Light until used: what `import metaclip` and `metaclip --help` load, and how long the help takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 1.5
"""Seconds for the help, on a machine that runs other tests meanwhile; tests/bench holds the real figure."""


def loaded(folder: Path, *arguments: str) -> set[str]:
    """Run Python in a process of its own; give the top-level names of all modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in times}


def test_import_is_light(tmp_path: Path) -> None:
    """`import metaclip` loads no torch, ray or numba."""
    modules = loaded(tmp_path, "-c", "import metaclip")
    assert "metaclip" in modules
    assert not modules & {"torch", "ray", "numba"}


def test_help_is_light(tmp_path: Path) -> None:
    """`metaclip --help` loads nothing that computes."""
    modules = loaded(tmp_path, "-m", "metaclip", "--help")
    assert {"metaclip", "click"} <= modules
    assert not modules & {"numba", "llvmlite", "pyarrow", "numpy", "torch", "ray"}


def test_help_is_quick(tmp_path: Path) -> None:
    """`metaclip --help` is there before one looks for it: median of three, interpreter included."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "metaclip", "--help"], cwd=tmp_path, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < PATIENCE
