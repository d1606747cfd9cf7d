"""The command line: one module for each verb, found by a fixed table; a verb imports what is heavy when it is called.

`metaclip --help` imports only this module and click.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
import sys
from typing import Any, Final

import click

from metaclip import __version__
from metaclip.errors import (
    FAILED,
    INTERRUPTED,
    MetaclipError,
    did_you_mean,
    on_command_line,
    one_line,
    with_flags,
)

VERBS: Final = {
    "build": "Build a query list from WordNet, Wikipedia etc., by a recipe.",
    "lint": "Check a query list for entries that can never match.",
    "extract": "Extract a pool of pairs from the WAT and WARC files of a crawl.",
    "inspect": "Look at downloaded images: hashes, duplicates, evaluation sets.",
    "curate": "Match and balance a pool, and write its account, in one go.",
    "plan": "Estimate what curating a pool takes, from a few shards.",
    "match": "Find the entries of a query list in a pool, and count them.",
    "balance": "Draw the curated pairs of a matched run, with any t.",
    "reshard": "Write the samples of tars that are in a subset to new tars.",
    "train": "Train CLIP by a recipe, on tars balanced offline or online.",
    "evaluate": "Evaluate a model: zero-shot classification, retrieval.",
    "explain": "Show what a text matches, and whether and why it is kept.",
    "card": "Publish the card of a curated set, or check one.",
}
"""Each verb with its line in the help; the verb `x` is `command` in `metaclip.cli.x`."""


class _Verbs(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            ctx.fail(
                f"No such verb {name!r}{did_you_mean(name, VERBS)}; the verbs are {', '.join(VERBS)}"
            )
        command: click.Command = importlib.import_module(f"metaclip.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
From a pool to a curated set in one line:
  metaclip curate pairs.parquet --out run/
then read run/card.md. Exit codes: 0 done; 2 usage error, bad input,
nothing produced; 3 finished except for the inputs that are listed;
130 interrupted (the same command continues).""",
)
@click.version_option(
    __version__, "-V", "--version", prog_name="metaclip", message="%(prog)s %(version)s"
)
def group() -> None:
    """Balance pools of image-text pairs by metadata: the method of "Demystifying CLIP Data", exact and restartable."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with the codes of `metaclip.errors`."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        given = _checked(sys.argv[1:] if arguments is None else arguments)
        with on_command_line():
            group.main(given or ["--help"], prog_name="metaclip", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.UsageError as error:
        verb = error.ctx.command_path if error.ctx else "metaclip"
        message = " ".join(error.format_message().split()).removesuffix(".")
        click.echo(f"{verb}: {message}. See {verb} --help.", err=True)
        sys.exit(error.exit_code)
    except MetaclipError as error:
        click.echo(f"metaclip: {with_flags(str(error))}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        # click raises Abort from the interrupt, whose message says what the same command does again.
        left = str(error) or str(error.__cause__ or "") or "the same command goes on from here"
        click.echo(f"metaclip: interrupted; {left}", err=True)
        sys.exit(INTERRUPTED)
    except MemoryError as error:
        what = f"there is not enough memory ({one_line(error)})"
        click.echo(
            f"metaclip: {what}; use fewer --workers, or a machine with more, and run the same command again",
            err=True,
        )
        sys.exit(FAILED)
    except SystemExit as exit_:  # click's, for a reader that went away, such as `| head`
        cause = exit_.__context__
        if not (isinstance(cause, OSError) and cause.errno == errno.EPIPE):
            raise
        _drop_output()
        sys.exit(128 + signal.SIGPIPE)  # as of a program that the signal ends
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _drop_output()
        click.echo(
            f"metaclip: standard output cannot be written ({one_line(error)}); the same command shows it again",
            err=True,
        )
        sys.exit(FAILED)


def _drop_output() -> None:
    """Discard what standard output still holds: Python would try to write it again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _checked(arguments: list[str]) -> list[str]:
    """Return the arguments, ~ as the home folder also where a shell leaves it: behind an option's =, and in quotes.

    Raise MetaclipError for an argument that no recipe, manifest or card could hold.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise MetaclipError(
                f"the argument {argument!a} is not valid UTF-8; rename the file, or correct the text"
            ) from None
    return [
        re.sub(
            r"^(--[a-z-]+=)?(~[^/ ]*)(?=/|$)",
            lambda found: (found[1] or "") + os.path.expanduser(found[2]),
            argument,
        )
        for argument in arguments
    ]


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
