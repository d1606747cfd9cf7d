"""`metaclip plan`: estimate what curating a pool will take."""

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
  metaclip plan run_may/ run_june/                    (balancing runs together)
  metaclip plan pool/ --pairs 12.8G --workers 16 --workers 256
  metaclip plan "s3://bucket/pool/*.parquet" --engine ray --address auto --json
Nothing is kept; run metaclip curate afterwards.""",
)
@click.argument("pool", nargs=-1, required=True)
@options.match_options
@click.option(
    "--pairs",
    type=options.Number(),
    multiple=True,
    metavar="N",
    help="Number of pairs to estimate for, e.g. 12.8G.  [default: all]",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    multiple=True,
    metavar="N",
    help="Number of workers to estimate for.  [default: the engine's]",
)
@options.engine_name_options
@click.option(
    "--shards", type=click.IntRange(1), default=3, show_default=True, help="Number of shards to measure."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed by which the measured shards are drawn."
)
@click.option("--json", "as_json", is_flag=True, help="Print seconds, bytes and pairs as JSON.")
def command(
    pool: tuple[str, ...], recipe: str | None, pairs: tuple[int, ...], workers: tuple[int, ...], shards: int, seed: int,
    as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Measure a few shards of POOL, and estimate what curating it takes: core time, wall time, memory, disk.

    For folders of runs, estimate what balancing them together takes.
    """
    settings = options.match_settings(flags, options.read_recipe(recipe)["match"])
    from metaclip.curate import plan as planning

    with options.run_options({**flags, "workers": None}) as run_options:
        found = planning.plan(
            list(pool),
            settings=settings,
            pairs=pairs,
            workers=workers,
            shards=shards,
            seed=seed,
            options=run_options,
        )
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else planning.render(found))
