"""The table of evaluated models: a row for each, a column for each figure, and the last result of a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metaclip import MetaclipError
from training.compare import table


def write(folder: Path, *results: dict[str, Any]) -> Path:
    """Write a file of results."""
    folder.mkdir()
    path = folder / "results.jsonl"
    lines = [{"identity": str(number), **result} for number, result in enumerate(results)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def suite(score: float) -> dict[str, Any]:
    """The line of averages of a suite with one task."""
    return {
        "task": "average", "kind": "suite", "metrics": {"average": score / 2, "average_above_chance": score / 4},
        "scores": {"imagenet1k": {"score": score}}, "averaged": 37,
    }  # fmt: skip


def test_tasks(tmp_path: Path) -> None:
    """A model without a task has a dash there; a task that was evaluated twice has its last figure."""
    first, again = {"accuracy": 0.25, "accuracy_top5": 0.5}, {"accuracy": 0.75}
    a = write(
        tmp_path / "a",
        {"task": "x", "metrics": first}, {"task": "y", "metrics": first}, {"task": "x", "metrics": again},
    )  # fmt: skip
    b = write(tmp_path / "b", {"task": "y", "metrics": again})
    assert table([a, b]).splitlines() == [
        "| set | x | y |", "|---|---:|---:|", "| a | 0.7500 | 0.2500 |", "| b | - | 0.7500 |",
    ]  # fmt: skip


def test_a_suite(tmp_path: Path) -> None:
    """Of a suite stand there ImageNet, the averages and the number of tasks, and not each task."""
    task = {"task": "cifar10", "metrics": {"accuracy": 0.9}}
    path = write(tmp_path / "a", task, suite(0.5), suite(0.25))
    head, _, row = table([path]).splitlines()
    assert head == "| set | ImageNet | average | average above chance | tasks |"
    assert row == "| a | 0.2500 | 0.1250 | 0.0625 | 37 |"


def test_no_results(tmp_path: Path) -> None:
    """A model that was not evaluated is named."""
    with pytest.raises(MetaclipError, match="has no results; evaluate the model first"):
        table([tmp_path / "results.jsonl"])
