"""The naive algorithm imports nothing of the package and runs as its first lines say; other tests check its laws."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from curation import naive

SCRIPT = Path(naive.__file__)


def test_leans_on_nothing() -> None:
    """An oracle that imported what it judges would judge nothing."""
    imports = [
        node
        for node in ast.walk(ast.parse(SCRIPT.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert [ast.unparse(node) for node in imports] == ["import argparse", "import hashlib"]


def test_runs_as_its_first_line_says(tmp_path: Path) -> None:
    """The script prints each entry's count, then the texts that are kept; entries of the tail keep all of theirs."""
    texts = [f"dog number {i}" for i in range(100)] + ["a cat, a dog", "dog-house", "cat"]
    (tmp_path / "list.txt").write_text("dog\ncat\nSt. Louis\r\n")
    (tmp_path / "texts.txt").write_text("\n".join(texts))

    def run(*options: str) -> list[str]:
        command = [
            sys.executable,
            str(SCRIPT),
            str(tmp_path / "list.txt"),
            str(tmp_path / "texts.txt"),
            *options,
        ]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout.split("\n")

    assert run("--t", "101")[:-1] == ["101\tdog", "2\tcat", "0\tSt. Louis", "", *texts[:101], "cat"]
    some = run("--t", "10")[4:-1]
    assert some[-2:] == ["a cat, a dog", "cat"]
    assert 2 < len(some) < 40
    assert run("--t", "10", "--seed", "1")[4:-1] != some
    assert set(some) <= set(run("--t", "20")[4:-1])
