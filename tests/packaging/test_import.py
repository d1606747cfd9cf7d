"""Light until used: what `import metaclip`, `metaclip --help` and a small run load, and how long the help takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 1.5
"""Seconds for the help, on a machine that runs other tests meanwhile; tests/bench holds the real figure."""


MODULES = 49
"""Modules of metaclip that a run of the toy pool may load, packages included."""

ROOT = Path(__file__).parents[2]


def loaded(folder: Path, *arguments: str) -> set[str]:
    """Run Python in a process of its own; return the names of all modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in times}


def packages(folder: Path, *arguments: str) -> set[str]:
    """Run Python in a process of its own; return the top-level names of all modules that it imported."""
    return {name.partition(".")[0] for name in loaded(folder, *arguments)}


def test_import_is_light(tmp_path: Path) -> None:
    """`import metaclip` loads no torch or ray."""
    modules = packages(tmp_path, "-c", "import metaclip")
    assert "metaclip" in modules
    assert not modules & {"torch", "ray"}


def test_help_is_light(tmp_path: Path) -> None:
    """`metaclip --help` loads nothing that computes."""
    modules = packages(tmp_path, "-m", "metaclip", "--help")
    assert {"metaclip", "click"} <= modules
    assert not modules & {"pyarrow", "numpy", "torch", "ray"}


def test_help_is_quick(tmp_path: Path) -> None:
    """`metaclip --help` is there before one looks for it: median of three, interpreter included."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "metaclip", "--help"], cwd=tmp_path, capture_output=True, check=True
        )
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < PATIENCE


def test_a_run_loads_what_it_uses(tmp_path: Path) -> None:
    """`metaclip curate` of a jsonl pool loads few modules of ours: no readers of other pools, and nothing of other verbs."""
    pool, words = ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt"
    modules = loaded(
        tmp_path,
        "-m",
        "metaclip",
        "curate",
        str(pool),
        "--metadata",
        str(words),
        "--t",
        "20",
        "--out",
        "run",
    )
    ours = {name for name in modules if name.partition(".")[0] == "metaclip"}
    assert len(ours) <= MODULES, sorted(ours)
    assert "metaclip.pool.jsonl" in ours
    assert not ours & {
        "metaclip.pool.tars",
        "metaclip.pool.delimited",
        "metaclip.engine.ray",
        "metaclip.curate.balancer",
    }
    assert not {
        name
        for name in ours
        if name.split(".")[1:2] in (["card"], ["extract"], ["reshard"], ["training"])
    }
