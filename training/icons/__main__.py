"""The command of the pool: `python -m training.icons POOL/`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from metaclip.errors import INTERRUPTED, MetaclipError
from metaclip.stage.runner import RunOptions
from training.icons.pool import write_pool

PINNED = (
    "academicons", "charm", "covid", "eva", "fe", "feather", "gis", "grommet-icons", "humbleicons", "maki", "mdi-light",
    "octicon", "radix-icons", "simple-line-icons", "wi",
)  # fmt: skip


@click.command(epilog="Run it from the checkout's root; it needs pip install -e '.[icons]'.")
@click.argument("pool", metavar="POOL")
@click.option(
    "--sets", default="", metavar="A,B,...", help="Only these sets; 'pinned' for the 15 of the tests."
)
@click.option(
    "--pixels", type=click.IntRange(8, 512), default=32, show_default=True, help="Side of an image."
)
@click.option(
    "--package", metavar="FOLDER", help="Folder of the package's archive.  [default: the cache]"
)
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: number of CPUs]")
@click.option("--overwrite", is_flag=True, help="Replace another pool there.")
def command(
    pool: str, sets: str, pixels: int, package: str | None, workers: int | None, overwrite: bool
) -> None:
    """Fetch the icons, render them, and write a pool of tars and an evaluation set."""
    begin = time.monotonic()
    chosen = PINNED if sets == "pinned" else tuple(filter(None, sets.split(",")))
    record = write_pool(
        pool, sets=chosen, pixels=pixels, archives=None if package is None else Path(package),
        options=RunOptions(workers=workers, overwrite=overwrite),
    )  # fmt: skip
    dropped = ", ".join(f"{reason} {number:,}" for reason, number in record["dropped"].items() if number)
    click.echo(
        f"{record['pairs']:,} pairs; {record['classes']:,} classes with {record['held_out_images']:,} images of "
        f"{record['held_out_sets']} of {record['sets']} sets held out\nleft out: {dropped or 'none'}\n"
        f"{pool}   {time.monotonic() - begin:.0f} s"
    )


def run_command(made: Callable[..., Any], name: str) -> None:
    """Run a command of training/; leave the process with the exit codes of `metaclip.errors`."""
    try:
        made.main(prog_name=f"python -m training.{name}", standalone_mode=False)  # type: ignore[attr-defined]
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


if __name__ == "__main__":
    run_command(command, "icons")
