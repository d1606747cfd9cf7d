"""`metaclip card`: publish what is in a curated set."""

from __future__ import annotations

from typing import Any

import click


@click.command(
    "card",
    epilog="""\b
Examples:
  metaclip card run/ --out data_cards/my_set --license cc-by-4.0 --contact data@example.org
Then open data_cards/my_set/README.md, or upload the folder to a static host.""",
)
@click.argument("run")
@click.option("--out", required=True, metavar="FOLDER", help="The card's folder.")
@click.option("--name", metavar="NAME", help="What the set is called.  [default: the folder's name]")
@click.option("--license", metavar="ID", help="Licence of the card's figures: an SPDX identifier.")
@click.option("--contact", metavar="TEXT", help="Where somebody asks for a pair to be removed.")
@click.option("--url", metavar="URL", help="Where the card is published.")
@click.option("--blocked-words", metavar="LIST", help="Captions with one of these words are no samples.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Threads.  [default: one a processor]")
def command(run: str, out: str, name: str | None, blocked_words: str | None, workers: int | None, **about: Any) -> None:
    """Publish what is in RUN, a balanced run: figures, plots, samples, for readers and for programs."""
    from pathlib import Path

    from metaclip import chain
    from metaclip.card.publish import About
    from metaclip.chain.publishing import card
    from metaclip.metadata.entries import Metadata

    blocked = None if blocked_words is None else Metadata.read(blocked_words)
    made = card(
        run, out, About(name or Path(out).resolve().name, **about), blocked=blocked, work=chain.Work(workers=workers)
    )
    click.echo(f"card of {made['pairs']['kept']:,} pairs in {out}: read README.md; result {made['result_digest'][:16]}")
