"""`metaclip explain`: what a text matches, and whether it is kept and why."""

from __future__ import annotations

from typing import Any

import click

from metaclip.cli import options


@click.command(
    "explain",
    epilog="""\b
Examples:
  metaclip explain "a photo of a dog on skis" --run run/
  metaclip explain "a photo of a dog" --run run/ --url https://example.org/dog.jpg
  metaclip explain "St. Louis" --metadata list.txt --space-entries""",
)
@click.argument("text")
@click.option("--run", metavar="FOLDER", help="A balanced run: its list, rule, counts, t and seed.")
@click.option("--metadata", metavar="LIST", help="A query list, without a run.  [default: the shipped list]")
@click.option("--url", help="The pair's url: with the text it makes the uid.")
@click.option("--uid", help="The pair's uid, where it has one of its own.")
@click.option("--t", type=float, metavar="T", help="Another t than the run's.")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), help="Another seed than the run's.")
@click.option("--epoch", type=click.IntRange(0), default=0, show_default=True, help="The epoch of an online draw.")
@options.rule_options
def command(text: str, run: str | None, metadata: str | None, url: str | None, uid: str | None, **flags: Any) -> None:
    """Show what TEXT matches, with counts and probabilities, and whether the pair is kept and why."""
    from metaclip.curate import explain

    rule = {name: flags[name] for name in (*options.RULE_FLAGS, "unspaced_scripts") if flags[name] is not None}
    found = explain.explain(
        text,
        run=run,
        metadata=metadata,
        rule=rule,
        url=url,
        uid=uid,
        t=flags["t"],
        seed=flags["seed"],
        epoch=flags["epoch"],
    )
    click.echo(explain.render(found))
