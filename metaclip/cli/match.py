"""`metaclip match`: find the entries of a query list in a pool, and count them."""

from __future__ import annotations

import sys
from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import LOST


@click.command(
    "match",
    epilog="""\b
Examples:
  metaclip match pairs.parquet --metadata list.txt --out run/
  metaclip balance run/ --t 20000
As a job array of 100, then once without --part to add up:
  metaclip match pool/ --out run/ --part $I/100""",
)
@click.argument("pool", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="The run folder.")
@options.match_options
@options.run_option_flags
@click.option("--part", metavar="I/N", help="Do only this part of the shards: 3/100.")
def command(pool: tuple[str, ...], out: str, recipe: str | None, part: str | None, **flags: Any) -> None:
    """Find the entries of a query list in POOL, and count them; `metaclip balance` takes it from there."""
    match_table, _ = options.split_recipe(recipe)
    settings = options.match_settings(flags, match_table)
    from metaclip.curate.match import lost_inputs_message, match_part
    from metaclip.stage.options import RunOptions
    from metaclip.storage.ownership import Part

    parsed = Part.parse(part) if part else Part()
    with options.engine(flags) as engine:
        run_options = RunOptions(workers=flags["workers"], part=parsed, overwrite=flags["overwrite"], engine=engine)
        run = match_part(list(pool), out=out, settings=settings, options=run_options)
    if run is None:
        click.echo(f"part {part} is done; when all are, the same command without --part adds them up")
        return
    funnel = run.match["funnel"]
    counts = run.counts.values
    click.echo(f"rows      {funnel['rows']:>14,}")
    share, each = 100 * funnel["matched"] / funnel["rows"], counts.sum() / funnel["matched"]
    click.echo(f"matched   {funnel['matched']:>14,}   {share:.1f}% of rows, {each:.1f} entries each")
    click.echo(f"entries   {len(counts):>14,}   {int((counts == 0).sum()):,} at zero")
    click.echo(f"\nnext      metaclip balance {out} --t 20000 (or --tail-share, --target-pairs)")
    if run.match["lost"]:
        click.echo(f"metaclip: {lost_inputs_message(run)}", err=True)
        sys.exit(LOST)
