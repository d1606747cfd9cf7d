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
  metaclip card remove run/ --out run_2/ --urls gone.txt --card data_cards/my_set --card-out data_cards/my_set_2
  metaclip card apply data_cards/my_set_2/removed.parquet curated/ --out curated_2/
Then open data_cards/my_set/README.md, or upload the folder to a static host.""",
)
def command() -> None:
    """Publish what is in a balanced run: figures, plots and samples, for readers and for programs.

    `metaclip card RUN --out FOLDER` is short for `metaclip card make RUN --out FOLDER`.
    """


_blocked = click.option("--blocked-words", metavar="LIST", help="Captions with one of these words are no samples.")
_classes = click.option(
    "--classes", multiple=True, metavar="NAMES", help="Tell how a benchmark's class names, one a line, are covered."
)
_workers = click.option("--workers", type=click.IntRange(1), default=None, help="Threads.  [default: one a processor]")


def _words(path: str | None) -> Any:
    from metaclip.metadata.entries import Metadata

    return None if path is None else Metadata.read(path)


@command.command(
    "make",
    epilog="""\b
Examples:
  metaclip card make run/ --out data_cards/my_set --name "My set" --license cc-by-4.0
  metaclip card make run/ --out data_cards/my_set --blocked-words blocked.txt --contact data@example.org
  metaclip card make run/ --out data_cards/my_set --classes imagenet.txt --classes food101.txt""",
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
@click.option(
    "--plots-page/--no-plots-page",
    default=True,
    help="Whether to write the plots as a page too: 1 MB.",
    show_default=True,
)
@_classes
@_blocked
@_workers
def make(
    run: str, out: str, name: str | None, classes: tuple[str, ...], blocked_words: str | None, workers: int | None,
    **about: Any,
) -> None:  # fmt: skip
    """Make the card of RUN, a balanced run."""
    from metaclip.card.card import card
    from metaclip.card.classes import Classes
    from metaclip.card.publish import About
    from metaclip.stage.options import RunOptions

    said = About(name or Path(out).resolve().name, **about)
    lists = [Classes.read(path) for path in classes]
    made = card(run, out, said, blocked=_words(blocked_words), classes=lists, options=RunOptions(workers=workers))
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
    from metaclip.card.card import verify
    from metaclip.stage.options import RunOptions

    found = verify(folder, run, blocked=_words(blocked_words), options=RunOptions(workers=workers))
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
  metaclip card diff data_cards/v1 data_cards/v2 > changes.md
  metaclip card diff data_cards/v1 data_cards/v2 --page changes.html""",
)
@click.argument("first")
@click.argument("second")
@click.option("--page", metavar="FILE", help="Write a page, one file of HTML, instead of Markdown.")
def diff(first: str, second: str, page: str | None) -> None:
    """Show, as Markdown or as a page, what differs from card FIRST to card SECOND."""
    from metaclip.card import diff, diff_page

    found = diff.diff(Path(first), Path(second))
    if page is None:
        click.echo(diff.render(found))
    else:
        diff_page.write(Path(page), found)
        click.echo(f"{page}: open it in a browser; it asks nothing of the network")


@command.command(
    "remove",
    epilog="""\b
Examples:
  metaclip card remove run/ --out run_2/ --uids gone.txt
  metaclip card remove run/ --out run_2/ --urls urls.txt --domains hosts.txt \\
      --card data_cards/my_set --card-out data_cards/my_set_2
Each file has one uid, url or domain a line; a domain stands for all hosts below it.""",
)
@click.argument("run")
@click.option("--out", required=True, metavar="FOLDER", help="The next version of the run.")
@click.option("--uids", metavar="FILE", help="Take out the pairs with these uids.")
@click.option(
    "--urls", metavar="FILE", help="Take out the pairs with these urls, letter by letter as the pool writes them."
)
@click.option(
    "--domains", metavar="FILE", help="Take out the pairs whose urls are of these hosts, or of hosts below them."
)
@click.option("--card", metavar="CARD", help="The card of RUN: its name, licence, contact and url are taken over.")
@click.option("--card-out", metavar="FOLDER", help="Make the next version's card here.")
@_blocked
@_workers
@click.option("--overwrite", is_flag=True, help="Replace another run in the output folder.")
def remove(
    run: str, out: str, uids: str | None, urls: str | None, domains: str | None, card: str | None, card_out: str | None,
    blocked_words: str | None, workers: int | None, overwrite: bool,
) -> None:  # fmt: skip
    """Make the next version of RUN, and of its card, without some pairs; no other pair's draw changes."""
    from metaclip.card import card as publishing
    from metaclip.card import remove as removing
    from metaclip.card.removal import NAME, read_wanted
    from metaclip.stage.options import RunOptions

    run_options = RunOptions(workers=workers, overwrite=overwrite)
    if card is not None and card_out is None:
        raise click.UsageError("--card names the card of RUN; name the folder of the next one too: --card-out")
    wanted = read_wanted(uids, urls, domains)
    about = None if card_out is None else publishing.about_next(run, card, card_out)
    made = removing.remove(run, wanted, out, run_options)
    last = made.account["removed"]["versions"][-1]
    click.echo(f"taken out {last['pairs']:>10,}   matched pairs, {last['kept']:,} of them kept")
    for what, n in last["asked"].items():
        if n:
            click.echo(f"{what:9} {n:>10,}   asked, {last['found'][what]:,} found" + _among(what, last["urls"]))
    click.echo(f"kept      {made.account['pairs']['kept']:>10,}   pairs stay, each by its old probability and draw")
    click.echo(
        f"result    {made.account['result_digest'][:16]}   of {last['parent'][:16]}; the list: {made.path / NAME}"
    )
    if about is not None and card_out is not None:
        lists = [] if card is None else publishing.classes_of(card)
        again = RunOptions(workers=workers)
        publishing.card(made, card_out, about, blocked=_words(blocked_words), classes=lists, options=again)
        click.echo(f"card      {card_out}: {NAME} in it is what others take out of a copy, with metaclip card apply")


def _among(what: str, urls: str | None) -> str:
    if what == "uids" or urls == "matched":
        return ""
    return " (looked for among the kept pairs: the run has no other urls)" if urls else " (the run has no urls)"


@command.command(
    "apply",
    epilog="""\b
Examples:
  metaclip card apply my_set_2/removed.parquet curated/ --out curated_2/
  metaclip card apply my_set_2/removed.parquet subset.npy --out subset_2.npy
  metaclip reshard tars/ --subset subset_2.npy --out tars_2/      (what is in tars follows)""",
)
@click.argument("removed")
@click.argument("copy")
@click.option("--out", required=True, metavar="PATH", help="Where the copy without these pairs is written.")
def apply(removed: str, copy: str, out: str) -> None:
    """Take what REMOVED lists (a card's removed.parquet) out of COPY, a subset file, a parquet file or a folder of them."""
    from metaclip.card import remove as removing

    went, stay = removing.apply(removed, copy, out)
    click.echo(f"{went:,} rows went, {stay:,} stay in {out}")
