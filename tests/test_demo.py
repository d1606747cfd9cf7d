"""`make demo` ends in bars that show what balancing did, in colour only where that is wanted."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metaclip import curate

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy pool, as make demo makes it."""
    out = tmp_path_factory.mktemp("demo") / "run"
    curate(ROOT / "curation/toy_pool.jsonl", ROOT / "metadata/toy.txt", t=2, out=out)
    return out


def shown(run: Path, terminal: bool = False, **variables: str) -> str:
    """What the script prints, to a terminal or to a pipe."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, ROOT / "curation/demo.py", run]
    subprocess.run(command, stdout=theirs, check=True, env={**os.environ, **variables}, timeout=60)
    os.close(theirs)
    with os.fdopen(ours, "rb") as output:
        return output.read1(1 << 16).decode()


def test_the_bars_show_what_was_dropped(run: Path) -> None:
    """The bar of the most frequent entry is full width, its coloured part the pairs that were kept."""
    text = shown(run)
    assert "so 200 of 338 pairs are left" in text
    line = next(line for line in text.splitlines() if "'a'" in line)
    kept, dropped, count, left = re.search("(█+)(░+) +([0-9]+) -> ([0-9]+)", line).groups()
    assert (count, left) == ("151", "93")
    assert len(kept + dropped) == 48
    assert len(kept) == round(48 * 93 / 151)
    assert "\x1b" not in text


def test_colour_is_for_terminals_that_want_it(run: Path) -> None:
    """A terminal shows colours, unless NO_COLOR is set; one that cannot show the blocks shows other marks."""
    assert "\x1b[36m█" in shown(run, terminal=True, NO_COLOR="")
    assert "\x1b" not in shown(run, terminal=True, NO_COLOR="1")
    assert "'a' ????" in shown(run, PYTHONIOENCODING="ascii")
