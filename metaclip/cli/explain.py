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
  metaclip explain "St. Louis" --metadata list.txt --space-entries
  metaclip explain "ein Hund" --run run/ --language de          (a list with languages)""",
)
@click.argument("text")
@click.option(
    "--run", metavar="FOLDER", help="Balanced run, whose list, rule, counts, t and seed are used."
)
@click.option(
    "--metadata", metavar="LIST", help="Query list, if there is no run.  [default: the shipped list]"
)
@click.option(
    "--language",
    metavar="L",
    help="Language of the text, for a list with languages.  [default: identify it]",
)
@click.option("--url", help="Url of the pair; the uid is computed from it and the text.")
@click.option("--uid", help="Uid of the pair, if the pool has one.")
@click.option(
    "--t",
    type=options.Number(whole=False),
    metavar="T",
    help="Threshold, if not the t of the run; with weights, what they multiply.",
)
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), help="Seed, if not the seed of the run.")
@click.option(
    "--epoch", type=click.IntRange(0), default=0, show_default=True, help="Epoch of an online draw."
)
@options.rule_options
def command(text: str, run: str | None, metadata: str | None, **flags: Any) -> None:
    """Show what TEXT matches, with counts and probabilities, and whether the pair is kept and why."""
    from metaclip.curate.explain import explain
    from metaclip.matching.text_rule import TextRule

    given = {name: flags[name] for name in ("language", "url", "uid", "t", "seed", "epoch")}
    rule = TextRule(**changes) if (changes := options.rule(flags)) else None
    click.echo(repr(explain(text, run=run, metadata=metadata, rule=rule, **given)))
