"""Damaged files of every kind, for some seconds of random ones: refused, or read with a funnel that adds up (tests/faults/fuzz.py)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CORE = ("pool", "tar", "list", "subset", "run", "automaton")
"""The kinds that need no extra."""


def fuzz(*arguments: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    """Run the fuzzer in a process of its own, whose memory it bounds; `fault` is code that runs before."""
    run = f"import sys\nfrom tests.faults import fuzz\n{fault}\nfuzz.command(sys.argv[1:])"
    return subprocess.run([sys.executable, "-c", run, *arguments], capture_output=True, text=True)


def test_damaged_files() -> None:
    """The same random files each time, of the kinds that need no extra."""
    done = fuzz("5", "1", *CORE)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]
    assert "pool read" in done.stdout
    assert "pool refused" in done.stdout


@pytest.mark.slow
@pytest.mark.extra
def test_damaged_files_of_every_kind() -> None:
    """The same random files each time; ``python -m tests.faults.fuzz SECONDS`` tries others."""
    pytest.importorskip("torch", reason="needs the extra train")
    done = fuzz(os.environ.get("METACLIP_READER_FUZZ_SECONDS", "60"), "50000000")
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]


FAULTS = {
    "rows that nobody counted": "from metaclip.pool import delimited\n"
    "delimited.DelimitedReader._drop_malformed = lambda self, what: None",
    "ZeroDivisionError": "from metaclip.pool import jsonl\njsonl.read_blocks = lambda *a: 1 / 0",
    "MiB more memory": "from metaclip.curate import match_shard as match\ntexts = match.usable_texts\n"
    "match.usable_texts = lambda *a: b'x' * (1 << 29) and texts(*a)",
}


@pytest.mark.slow
@pytest.mark.parametrize("says", FAULTS)
def test_it_finds_faults(says: str) -> None:
    """A reader with a fault does not pass."""
    done = fuzz("60", "1", "pool", fault=FAULTS[says])
    assert done.returncode != 0
    assert says in done.stderr
