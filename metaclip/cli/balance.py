"""`metaclip balance`: draw the curated pairs of a matched run."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from metaclip.cli import options


@click.command(
    "balance",
    epilog="""\b
Examples:
  metaclip balance run/
  metaclip balance run/ --t 50000 --out run_50k/      (matches nothing again)
  metaclip balance run/ --target-pairs 400M --out run_400m/
  metaclip balance run/ --weights birds.csv --out run_birds/   (more of some entries, fewer of others)
  metaclip balance run/ --t 170k --t-by-language nearest --t-language ja=5k --out run_ja/   (a list with languages)
  metaclip balance run_may/ run_june/ --out run/      (several runs as one)""",
)
@click.argument("run", nargs=-1, required=True)
@click.option(
    "--out",
    metavar="FOLDER",
    help="Another folder for the result; needed for several runs.  [default: the run's own]",
)
@click.option("--recipe", metavar="FILE", help="TOML with a table [balance]; flags override it.")
@options.balance_options
@options.run_option_flags
@click.option("--allow-lost", is_flag=True, help="Balance even if the run lost inputs.")
def command(run: tuple[str, ...], out: str | None, recipe: str | None, **flags: Any) -> None:
    """Draw the curated pairs of RUN, a folder that `metaclip match` or `metaclip curate` made.

    Several runs with the same query list and text rule are combined into --out without matching anything again: their counts
    are added, t is resolved on the sums, and the pairs are those of one run over all pools.
    """
    draw = options.balance_settings(flags, options.read_recipe(recipe)["balance"])
    from metaclip.curate.balance import balance

    with options.run_options(flags) as run_options:
        balanced = balance(run, out=out, options=run_options, **dataclasses.asdict(draw))
    options.show_result(balanced)
