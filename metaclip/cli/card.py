"""`metaclip card`: publish the figures of a curated set, check and compare what was published, take pairs out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import click

from metaclip.errors import FAILED, with_flags


class _Card(click.Group):
    """A group whose first word may be a run instead of a command: `metaclip card run/` makes its card."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a word that is not a command as the run of `make`."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["make", *args])


@click.group(
    "card",
    cls=_Card,
    epilog="""\b
Examples:
  metaclip card run/ --out data_cards/my_set --license cc-by-4.0 --contact data@example.org
  metaclip card verify data_cards/my_set --run run/
  metaclip card diff data_cards/my_set data_cards/another
  metaclip card push data_cards/my_set user/my_set --run run/
  metaclip card remove run/ --out run_2/ --urls gone.txt --card data_cards/my_set --card-out data_cards/my_set_2
  metaclip card apply data_cards/my_set_2/removed.parquet curated/ --out curated_2/
Then open data_cards/my_set/index.html, or upload the folder to a static host.""",
)
def command() -> None:
    """Publish a balanced run as a card: figures, plots and samples, for readers and for programs.

    `metaclip card RUN --out FOLDER` is short for `metaclip card make RUN --out FOLDER`.
    """


_blocked = click.option(
    "--blocked-words", metavar="LIST", help="List of words; captions with one are not samples."
)
_workers = click.option(
    "--workers",
    type=click.IntRange(1),
    default=None,
    help="Number of threads.  [default: number of CPUs]",
)


def _words(path: str | None) -> Any:
    from metaclip.metadata import Metadata

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
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the card.")
@click.option("--name", metavar="NAME", help="Name of the set.  [default: the folder's name]")
@click.option(
    "--license",
    metavar="ID",
    help="Licence of the card's figures, by its SPDX identifier or the Hub's: Apache-2.0.",
)
@click.option("--contact", metavar="TEXT", help="Where to ask for the removal of a pair.")
@click.option("--url", metavar="URL", help="Where the card is published.")
@click.option(
    "--look-ups/--no-look-ups",
    default=None,
    help="Whether the page can look up urls and uids.  [default: for up to 500,000 matched pairs]",
)
@click.option(
    "--samples/--no-samples",
    default=None,
    help="Whether the card shows some captions of each entry.  [default: yes]",
)
@click.option(
    "--classes",
    multiple=True,
    metavar="NAMES",
    help="File of a benchmark's class names, one per line; the card says how often captions contain them.",
)
@_blocked
@_workers
@click.option("--overwrite", is_flag=True, help="Replace the card of another set in the folder.")
def make(
    run: str, out: str, classes: tuple[str, ...], workers: int | None, overwrite: bool, **stated: Any
) -> None:
    """Make the card of RUN, a balanced run.

    If FOLDER holds a card of this run already, its name, licence, contact, url and classes stay unless others
    are given, and it shows captions or not as before.
    """
    from metaclip.card.publish import card
    from metaclip.stage.runner import RunOptions

    options = RunOptions(workers=workers, overwrite=overwrite)
    made = card(run, out=out, classes=classes, options=options, **stated)
    kept, digest = made.fields["pairs"]["kept"], made.fields["result_digest"][:16]
    click.echo(f"card of {kept:,} pairs, result {digest}: open {made.path / 'index.html'}")


@command.command(
    "verify",
    epilog="""\b
Examples:
  metaclip card verify data_cards/my_set
  metaclip card verify data_cards/my_set --run run/ --blocked-words blocked.txt""",
)
@click.argument("folder")
@click.option(
    "--run",
    metavar="RUN",
    help="Run that the card was made from.  [default: verify files and digests only]",
)
@_blocked
@_workers
def verify(folder: str, run: str | None, blocked_words: str | None, workers: int | None) -> None:
    """Compute every figure of a card again, from the run's matches up; exit with 2 if one differs.

    Without the run, compare the card's files, counts and fields with its digests.
    """
    from metaclip.card.verify import own_differences, verify
    from metaclip.stage.runner import RunOptions
    from metaclip.storage.files import as_path

    if run is None:
        with as_path(folder).local_folder() as local:
            found = own_differences(local)
    else:
        found = verify(folder, run, blocked=_words(blocked_words), options=RunOptions(workers=workers))
    for line in found:
        click.echo(with_flags(line), err=True)
    if found:
        click.echo(
            f"metaclip: {len(found)} things in {folder} do not follow from {run or 'its digests'}; make the card again",
            err=True,
        )
        sys.exit(FAILED)
    click.echo(
        f"every figure of {folder} follows from {run}"
        if run
        else f"the files of {folder} agree with its digests"
    )


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
    """Show the differences between card FIRST and card SECOND, as Markdown."""
    from metaclip.card import diff

    click.echo(diff.render_markdown(diff.diff(Path(first), Path(second))))


@command.command(
    "push",
    epilog="""\b
Examples:
  metaclip card push data_cards/my_set user/my_set --run run/
  metaclip card push data_cards/my_set user/my_set --private
The token is that of `hf auth login`, or HF_TOKEN. Files of an earlier card in the repository are replaced, other files stay.""",
)
@click.argument("folder")
@click.argument("repository")
@click.option(
    "--run",
    metavar="RUN",
    help="Run that the card was made from: verify every figure by it first.  [default: verify files and digests]",
)
@click.option("--private", is_flag=True, help="Create the repository as a private one.")
@_blocked
@_workers
def push(
    folder: str, repository: str, run: str | None, private: bool, blocked_words: str | None, workers: int | None
) -> None:  # fmt: skip
    """Verify a card, and push FOLDER to REPOSITORY, a dataset repository of the Hugging Face Hub, in one commit."""
    from metaclip.card.push import push
    from metaclip.stage.runner import RunOptions

    blocked = _words(blocked_words)
    options = RunOptions(workers=workers)
    address = push(folder, repository, run=run, private=private, blocked=blocked, options=options)
    click.echo(f"pushed {folder}: {address}")


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
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the next version of the run.")
@click.option("--uids", metavar="FILE", help="Uids of pairs to take out.")
@click.option(
    "--urls", metavar="FILE", help="Urls of pairs to take out, exactly as the pool writes them."
)
@click.option(
    "--domains",
    metavar="FILE",
    help="Domains whose pairs to take out, with those of all hosts below them.",
)
@click.option(
    "--card", metavar="CARD", help="Card of RUN; its name, licence, contact and url are taken over."
)
@click.option("--card-out", metavar="FOLDER", help="Folder of the next version's card.")
@_blocked
@_workers
@click.option("--overwrite", is_flag=True, help="Replace another run in the output folder.")
def remove(
    run: str, out: str, uids: str | None, urls: str | None, domains: str | None, card: str | None, card_out: str | None,
    blocked_words: str | None, workers: int | None, overwrite: bool,
) -> None:  # fmt: skip
    """Make the next version of RUN, and of its card, without some pairs; no other pair's draw changes."""
    from metaclip.card.class_coverage import ClassNames
    from metaclip.card.publish import CardInfo, make_card, read_card_of
    from metaclip.card.removal import remove as removal
    from metaclip.card.removal.removed_list import REMOVED_LIST
    from metaclip.card.removal.request import read_request
    from metaclip.curate.run import Run
    from metaclip.stage.runner import RunOptions

    if card is not None and card_out is None:
        raise click.UsageError(
            "--card names the card of RUN; name the folder of the next one too: --card-out"
        )
    request = read_request(uids, urls, domains)
    before = None if card is None else read_card_of(Path(card), Run(run))
    made = removal.remove(run, request, out, RunOptions(workers=workers, overwrite=overwrite))
    version = made.account["removed"]["versions"][-1]
    click.echo(f"taken out {version['pairs']:>10,}   matched pairs, {version['kept']:,} of them kept")
    for what, n in version["asked"].items():
        if n:
            where = "" if what == "uids" else _SEARCHED_URLS[version["urls"]]
            click.echo(f"{what:9} {n:>10,}   asked, {version['found'][what]:,} found{where}")
    click.echo(
        f"kept      {made.account['pairs']['kept']:>10,}   pairs stay, each by its old probability and draw"
    )
    digest, parent = made.account["result_digest"][:16], version["parent"][:16]
    click.echo(f"result    {digest}   of {parent}; the list: {made.path / REMOVED_LIST}")
    if card_out is not None:
        name = Path(card_out).resolve().name
        info = CardInfo(name) if before is None else CardInfo.of_card(Path(card or ""), before)
        lists = [] if before is None else ClassNames.of_card(before)
        again = RunOptions(workers=workers, overwrite=overwrite)
        make_card(made, card_out, info, blocked=_words(blocked_words), classes=lists, options=again)
        click.echo(
            f"card      {card_out}: {REMOVED_LIST} in it is what others take out of a copy, with metaclip card apply"
        )


_SEARCHED_URLS: Final = {
    "matched": "",
    "kept": " (looked for among the kept pairs: the run has no other urls)",
    None: " (the run has no urls)",
}
"""Where urls and domains were looked for, by what the account of a run says of its urls."""


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
@click.option("--out", required=True, metavar="PATH", help="Where to write the copy without these pairs.")
def apply(removed: str, copy: str, out: str) -> None:
    """Remove the pairs in REMOVED (a card's removed.parquet) from COPY, a subset file, a parquet file or a folder of them."""
    from metaclip.card.removal.removed_list import apply_removal

    went, stay = apply_removal(removed, copy, out)
    click.echo(f"{went:,} rows went, {stay:,} stay in {out}")
