"""How the commands of this folder end: with the exit codes of `metaclip.errors`, and without a traceback."""

from __future__ import annotations

import sys

import click

from metaclip.errors import INTERRUPTED, MetaclipError


def run_command(made: click.Command, name: str) -> None:
    """Run a command, and leave the process with its exit code."""
    try:
        made.main(prog_name=f"python -m training.{name}", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except MetaclipError as error:
        click.echo(f"{name}: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"{name}: interrupted; the same command continues", err=True)
        sys.exit(INTERRUPTED)
