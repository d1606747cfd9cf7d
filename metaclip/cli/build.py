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
  metaclip build metadata/worldwide.toml --languages ja,th,zh --out list.parquet
The folder metadata/ of metaclip's repository has recipes: toy.toml, english.toml, worldwide.toml and others.
Fetched files stay in the cache folder; metadata/README.md lists the files
to put there by hand on a machine without a network.""",
)
@click.argument("recipe")
@click.option("--out", required=True, metavar="FILE", help="The list: a parquet file.")
@click.option(
    "--languages",
    metavar="CODES",
    help="Build only these languages of a recipe that has several, e.g. ja,th,zh.  [default: all]",
)
@options.engine_options
def command(recipe: str, out: str, languages: str | None, **flags: Any) -> None:
    """Build the query list of RECIPE: a TOML file with a table [build] and its sources."""
    from metaclip.metadata.build import build

    with options.run_options(flags) as run_options:
        shown = dataclasses.replace(run_options, progress=True)
        codes = None if languages is None else [code.strip() for code in languages.split(",")]
        click.echo(repr(build(recipe, out=out, languages=codes, options=shown)))
