"""`metaclip curate`: match, balance and account for a pool."""

from __future__ import annotations

import sys
from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import LOST


@click.command(
    "curate",
    epilog="""\b
Examples:
  metaclip curate pairs.parquet --metadata list.txt --t 20000 --out run/
  metaclip curate "laion/*.parquet" --target-pairs 400M --out run/
  metaclip curate pairs.jsonl --recipe curation/toy.toml --out run/
Stopped at any point, the same command goes on from there.""",
)
@click.argument("pool", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="The run folder.")
@options.match_options
@options.balance_options
@options.run_option_flags
@click.option("--allow-lost", is_flag=True, help="Go on without inputs that cannot be read.")
def command(pool: tuple[str, ...], out: str, recipe: str | None, **flags: Any) -> None:
    """Match, balance and account for POOL: parquet, csv, jsonl or tar files, folders or globs."""
    match_table, balance_table = options.split_recipe(recipe)
    match_settings = options.match_settings(flags, match_table)
    balance_settings = options.balance_settings(flags, balance_table)
    from metaclip.curate.curate import curate
    from metaclip.curate.match import lost_inputs_message
    from metaclip.stage.options import RunOptions

    with options.engine(flags) as engine:
        run_options = RunOptions(
            flags["workers"], overwrite=flags["overwrite"], allow_lost=flags["allow_lost"], engine=engine
        )
        run = curate(
            list(pool), out=out, match_settings=match_settings, balance_settings=balance_settings, options=run_options
        )
    options.show_result(run)
    if run.match["lost"]:
        click.echo(f"metaclip: {lost_inputs_message(run)}", err=True)
        sys.exit(LOST)
