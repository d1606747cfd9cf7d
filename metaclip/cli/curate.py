"""`metaclip curate`: match, balance and account for a pool."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import LostInputs


@click.command(
    "curate",
    epilog="""\b
Examples:
  metaclip curate pairs.parquet --out run/
  metaclip curate pairs.parquet --metadata list.txt --t 20k --out run/
  metaclip curate "laion/*.parquet" --target-pairs 400M --out run/
  metaclip curate pairs.parquet --metadata worldwide.parquet --identify --unspaced-scripts fixed --out run/
  metaclip curate pairs.jsonl --recipe run/recipe.toml --out run_2/
  metaclip curate hf://datasets/user/name/data --out run/
If it is interrupted, the same command continues from there.""",
)
@click.argument("pool", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="The run folder.")
@options.match_options
@options.balance_options
@options.run_option_flags
@click.option("--allow-lost", is_flag=True, help="Continue without inputs that cannot be read.")
def command(pool: tuple[str, ...], out: str, recipe: str | None, **flags: Any) -> None:
    """Match, balance and account for POOL: parquet, csv, jsonl or tar files, folders or globs."""
    tables = options.read_recipe(recipe)
    settings = options.match_settings(flags, tables["match"])
    draw = options.balance_settings(flags, tables["balance"])
    from metaclip.curate.curate import curate
    from metaclip.curate.match import lost_inputs_message

    with options.run_options(flags) as run_options:
        run = curate(
            list(pool),
            out=out,
            settings=settings,
            options=run_options,
            **dataclasses.asdict(draw),
        )
    options.show_result(run)
    if run.match["lost"]:
        raise LostInputs(lost_inputs_message(run))
