"""`metaclip build`: build a query list from a recipe."""

from __future__ import annotations

from typing import Any

import click

from metaclip.cli import options


@click.command(
    "build",
    epilog="""\b
Examples:
  metaclip build metadata/toy.toml --out toy.parquet
  metaclip build metadata/english.toml --out english.parquet
Fetched files stay in the cache folder; metadata/README.md lists the files
to put there by hand on a machine without a network.""",
)
@click.argument("recipe")
@click.option("--out", required=True, metavar="FILE", help="The list: a parquet file.")
@options.engine_options
@click.option("--quiet", is_flag=True, help="Do not print the sources while they run.")
def command(recipe: str, out: str, quiet: bool, **flags: Any) -> None:
    """Build the query list of RECIPE: a TOML file with a table [build] and its sources."""
    from metaclip.matching.text_rule import PAPER
    from metaclip.metadata import build

    read = build.read(recipe)
    build.check_out(out)

    def note(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    with options.engine(flags) as engine:
        table, contributions = build.build(read, PAPER, note, engine)
    build.write(table, out)
    click.echo(build.render(table, contributions))
