"""Compares evaluated models: one row for each file of results, one column for each figure.

    python -m training.compare models/*/results.jsonl

prints a Markdown table. A row has the name of the file's folder; of a suite stand there ImageNet and the averages, of other
tasks their first figure. A task that was evaluated several times counts with its last result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from metaclip.errors import MetaclipError
from metaclip.training.evaluation.results import read_results
from training.commands import run_command


def figures(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of a model by the name of their column."""
    suites = {result["task"]: result for result in results if result.get("kind") == "suite"}
    if not suites:
        return {result["task"]: next(iter(result["metrics"].values())) for result in results}
    found = {}
    for suite in suites.values():
        if "imagenet1k" in suite["scores"]:
            found["ImageNet"] = suite["scores"]["imagenet1k"]["score"]
        found |= {name.replace("_", " "): value for name, value in suite["metrics"].items()}
        found["tasks"] = float(suite["averaged"])
    return found


def table(paths: Sequence[str | os.PathLike[str]]) -> str:
    """Return the table of some files of results. Raise MetaclipError for a file without any."""
    rows = {}
    for path in map(Path, paths):
        if not (found := read_results(path)):
            raise MetaclipError(f"{path} has no results; evaluate the model first")
        rows[path.resolve().parent.name] = figures(found)
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = ["| set | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        lines.append(
            f"| {name} | " + " | ".join(_shown(column, row.get(column)) for column in columns) + " |"
        )
    return "\n".join(lines)


def _shown(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if column == "tasks" else f"{value:.4f}"


@click.command()
@click.argument("results", nargs=-1, required=True)
def command(results: tuple[str, ...]) -> None:
    """Print a table of models from their files of RESULTS."""
    click.echo(table(results))


if __name__ == "__main__":
    run_command(command, "compare")
