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
@options.work_options
@click.option("--allow-lost", is_flag=True, help="Go on without inputs that cannot be read.")
def command(pool: tuple[str, ...], out: str, recipe: str | None, **flags: Any) -> None:
    """Match, balance and account for POOL: parquet, csv, jsonl or tar files, folders or globs."""
    match_table, balance_table = options.split_recipe(recipe)
    match_settings = options.match_settings(flags, match_table)
    balance_settings = options.balance_settings(flags, balance_table)
    from metaclip.chain.curating import curate
    from metaclip.chain.matching import lost_message
    from metaclip.chain.work import Work

    with options.engine(flags) as engine:
        work = Work(flags["workers"], overwrite=flags["overwrite"], allow_lost=flags["allow_lost"], engine=engine)
        run = curate(list(pool), out=out, match_settings=match_settings, balance_settings=balance_settings, work=work)
    options.show_result(run)
    if run.match["lost"]:
        click.echo(f"metaclip: {lost_message(run)}", err=True)
        sys.exit(LOST)
