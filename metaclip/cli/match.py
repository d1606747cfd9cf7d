"""`metaclip match`: find the entries of a query list in a pool, and count them."""

from __future__ import annotations

from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import LostInputs


@click.command(
    "match",
    epilog="""\b
Examples:
  metaclip match pairs.parquet --metadata list.txt --out run/
  metaclip balance run/
As a job array of 100, then once without --part to combine the results:
  metaclip match pool/ --out run/ --part $I/100""",
)
@click.argument("pool", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="The run folder.")
@options.match_options
@options.run_option_flags
@options.part_option("Match", "shards")
def command(pool: tuple[str, ...], out: str, recipe: str | None, **flags: Any) -> None:
    """Find the entries of a query list in POOL, and count them; `metaclip balance` takes it from there."""
    settings = options.match_settings(flags, options.read_recipe(recipe)["match"])
    from metaclip.curate.match import lost_inputs_message, match_part
    from metaclip.curate.threshold import balance_command

    with options.run_options(flags) as run_options:
        run = match_part(list(pool), out=out, settings=settings, options=run_options)
    if run is None:
        options.show_part_done(flags["part"])
        return
    funnel, counts = run.match["funnel"], run.counts.values
    share, each = 100 * funnel["matched"] / funnel["rows"], counts.sum() / funnel["matched"]
    click.echo(f"rows      {funnel['rows']:>14,}")
    click.echo(f"matched   {funnel['matched']:>14,}   {share:.1f}% of rows, {each:.1f} entries each")
    click.echo(f"entries   {len(counts):>14,}   {int((counts == 0).sum()):,} at zero")
    following = balance_command(out, counts, funnel["matched"])
    if texts := run.match.get("texts"):
        searched, none = sum(map(bool, texts.values())), funnel.get("no_list", 0)
        click.echo(
            f"languages {len(texts):>14,}   {searched:,} with texts; {none:,} texts in none of them"
        )
        share_of = "the t of each language by the default tail share of English"
        following = f"metaclip balance {out}   ({share_of}; or --t, --target-pairs)"
    click.echo(f"\nnext      {following}")
    if run.match["lost"]:
        raise LostInputs(lost_inputs_message(run, f"metaclip balance {out} --allow-lost"))
