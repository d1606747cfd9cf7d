"""`metaclip build`: make a query list by a recipe."""

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
What is fetched stays in the cache folder; metadata/README.md says what to
put there by hand on a machine without a network.""",
)
@click.argument("recipe")
@click.option("--out", required=True, metavar="FILE", help="The list: a parquet file.")
@options.engine_options
@click.option("--quiet", is_flag=True, help="Say nothing of the sources while they run.")
def command(recipe: str, out: str, quiet: bool, **flags: Any) -> None:
    """Make the query list of RECIPE: TOML with a table [build] and its sources."""
    from metaclip.matching.text_rule import PAPER
    from metaclip.metadata import build

    made = build.read(recipe)
    build.check_out(out)

    def note(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    with options.engine(flags) as engine:
        table, given = build.build(made, PAPER, note, engine)
    build.write(table, out)
    click.echo(build.render(table, given))
