"""`metaclip plan`: measure a few shards, and say what curating the pool will take."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from metaclip.cli import options


@click.command(
    "plan",
    epilog="""\b
Examples:
  metaclip plan pool/
  metaclip plan pool/ --pairs 12.8G --workers 16 --workers 256
  metaclip plan "s3://bucket/pool/*.parquet" --engine ray --address auto --json
Nothing is kept: curate does the work.""",
)
@click.argument("pool", nargs=-1, required=True)
@options.match_options
@click.option(
    "--pairs", type=options.Number(), multiple=True, metavar="N", help="Of so many pairs: 12.8G.  [default: all]"
)
@click.option(
    "--workers", type=click.IntRange(1), multiple=True, metavar="N", help="On so many.  [default: the engine's]"
)
@options.engine_name_options
@click.option("--shards", type=click.IntRange(1), default=3, show_default=True, help="How many to measure.")
@click.option("--seed", type=int, default=0, show_default=True, help="By which they are drawn.")
@click.option("--json", "as_json", is_flag=True, help="Give seconds, bytes and pairs as JSON.")
def command(
    pool: tuple[str, ...], recipe: str | None, pairs: tuple[int, ...], workers: tuple[int, ...], shards: int, seed: int,
    as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Measure a few shards of POOL, and say what it takes to curate it: core hours, time, memory, disk."""
    match_table, _ = options.split_recipe(recipe)
    settings = options.match_settings(flags, match_table)
    from metaclip.curate import plan as planning
    from metaclip.stage.options import RunOptions

    with options.engine({**flags, "workers": None}) as engine:
        found = planning.plan(
            list(pool),
            settings=settings,
            pairs=pairs,
            workers=workers,
            shards=shards,
            seed=seed,
            options=RunOptions(engine=engine),
        )
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else planning.render(found))
