"""The command of the pool: `python -m training.icons POOL/`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from metaclip.stage.runner import RunOptions
from training.commands import run_command
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


if __name__ == "__main__":
    run_command(command, "icons")
