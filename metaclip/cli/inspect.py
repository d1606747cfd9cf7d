"""`metaclip inspect`: look at downloaded images."""

from __future__ import annotations

from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import LostInputs


@click.command(
    "inspect",
    epilog="""\b
Examples:
  metaclip inspect tars/ --out seen/
  metaclip inspect s3://bucket/tars/ --out seen/ --part 3/100
If it is interrupted, the same command continues from there.""",
)
@click.argument("tars", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the table.")
@click.option("--recipe", metavar="FILE", help="TOML with a table [inspect]; flags override it.")
@click.option("--text-column", metavar="C", help="Text of samples, if not .txt, text, caption or alt.")
@click.option("--url-column", metavar="C", help="Url field of samples without a uid, if not url.")
@click.option("--uid-column", metavar="C", help="Field of .json with the uid, if not uid.")
@options.run_option_flags
@click.option("--part", metavar="I/N", help="Inspect only this part of the tars, e.g. 3/100.")
def command(tars: tuple[str, ...], out: str, recipe: str | None, **flags: Any) -> None:
    """Look at the images of TARS (tars, folders or globs): sizes, formats, hashes, and what is broken."""
    from metaclip.inspect.inspect import inspect_part
    from metaclip.inspect.settings import InspectSettings
    from metaclip.stage.runner import lost_message

    settings = options.override(InspectSettings, options.read_recipe(recipe)["inspect"], flags)
    with options.run_options(flags) as run_options:
        made = inspect_part(list(tars), out=out, settings=settings, options=run_options)
    if made is None:
        click.echo(
            f"part {flags['part']} is done; when all are, the same command without --part combines them"
        )
        return
    for name, samples in made.funnel.items():
        if samples:
            click.echo(f"{name.replace('_', ' '):<18} {samples:>14,}")
    if lost := made.record["lost"]:
        raise LostInputs(lost_message(lost, made.record["wanted"]))
