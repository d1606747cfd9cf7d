"""`metaclip card`: publish what is in a curated set, and check what was published."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from metaclip.errors import FAILED


class _Card(click.Group):
    """A group whose first word may be a run instead of a command: `metaclip card run/` makes its card."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take a word that is no command as the run of `make`."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["make", *args])


@click.group(
    "card",
    cls=_Card,
    epilog="""\b
Examples:
  metaclip card run/ --out data_cards/my_set --license cc-by-4.0 --contact data@example.org
  metaclip card verify data_cards/my_set --run run/
  metaclip card diff data_cards/my_set data_cards/another
Then open data_cards/my_set/README.md, or upload the folder to a static host.""",
)
def command() -> None:
    """Publish what is in a balanced run: figures, plots and samples, for readers and for programs.

    `metaclip card RUN --out FOLDER` is short for `metaclip card make RUN --out FOLDER`.
    """


_blocked = click.option("--blocked-words", metavar="LIST", help="Captions with one of these words are no samples.")
_workers = click.option("--workers", type=click.IntRange(1), default=None, help="Threads.  [default: one a processor]")


def _words(path: str | None) -> Any:
    from metaclip.metadata.entries import Metadata

    return None if path is None else Metadata.read(path)


@command.command(
    "make",
    epilog="""\b
Examples:
  metaclip card make run/ --out data_cards/my_set --name "My set" --license cc-by-4.0
  metaclip card make run/ --out data_cards/my_set --blocked-words blocked.txt --contact data@example.org""",
)
@click.argument("run")
@click.option("--out", required=True, metavar="FOLDER", help="The card's folder.")
@click.option("--name", metavar="NAME", help="What the set is called.  [default: the folder's name]")
@click.option("--license", metavar="ID", help="Licence of the card's figures: an SPDX identifier.")
@click.option("--contact", metavar="TEXT", help="Where somebody asks for a pair to be removed.")
@click.option("--url", metavar="URL", help="Where the card is published.")
@click.option(
    "--look-ups/--no-look-ups",
    default=None,
    help="Whether the page can say if a url or uid is in.  [default: small sets]",
)
@_blocked
@_workers
def make(run: str, out: str, name: str | None, blocked_words: str | None, workers: int | None, **about: Any) -> None:
    """Make the card of RUN, a balanced run."""
    from metaclip.card.publish import About
    from metaclip.chain.publishing import card
    from metaclip.chain.work import Work

    said = About(name or Path(out).resolve().name, **about)
    made = card(run, out, said, blocked=_words(blocked_words), work=Work(workers=workers))
    click.echo(f"card of {made['pairs']['kept']:,} pairs in {out}: read README.md; result {made['result_digest'][:16]}")


@command.command(
    "verify",
    epilog="""\b
Examples:
  metaclip card verify data_cards/my_set --run run/
  metaclip card verify data_cards/my_set --run run/ --blocked-words blocked.txt""",
)
@click.argument("folder")
@click.option("--run", required=True, metavar="RUN", help="The run that the card was made from.")
@_blocked
@_workers
def verify(folder: str, run: str, blocked_words: str | None, workers: int | None) -> None:
    """Make every figure of a card again, from the run's matches up; exit with 2 where one differs."""
    from metaclip.chain.publishing import verify
    from metaclip.chain.work import Work

    found = verify(folder, run, blocked=_words(blocked_words), work=Work(workers=workers))
    for line in found:
        click.echo(line, err=True)
    if found:
        click.echo(f"metaclip: {len(found)} things in {folder} do not follow from {run}; make the card again", err=True)
        sys.exit(FAILED)
    click.echo(f"every figure of {folder} follows from {run}")


@command.command(
    "diff",
    epilog="""\b
Examples:
  metaclip card diff data_cards/small data_cards/large
  metaclip card diff data_cards/v1 data_cards/v2 > changes.md""",
)
@click.argument("first")
@click.argument("second")
def diff(first: str, second: str) -> None:
    """Show, as Markdown, what differs from card FIRST to card SECOND."""
    from metaclip.card import diff

    click.echo(diff.render(diff.diff(Path(first), Path(second))))
