"""`metaclip build`: build a query list from a recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from metaclip.cli import options


@click.command(
    "build",
    epilog="""\b
Examples:
  metaclip build recipe.toml --out list.parquet
  metaclip build recipe.toml --workers 8 --out list.parquet
The folder metadata/ of metaclip's repository has recipes: toy.toml, english.toml and others.
Fetched files stay in the cache folder; metadata/README.md lists the files
to put there by hand on a machine without a network.""",
)
@click.argument("recipe")
@click.option("--out", required=True, metavar="FILE", help="The list: a parquet file.")
@options.engine_options
def command(recipe: str, out: str, **flags: Any) -> None:
    """Build the query list of RECIPE: a TOML file with a table [build] and its sources."""
    from metaclip.metadata.build import build

    with options.run_options(flags) as run_options:
        shown = dataclasses.replace(run_options, progress=True)
        click.echo(repr(build(recipe, out=out, options=shown)))
