"""`metaclip inspect`: look at downloaded images."""

from __future__ import annotations

import shlex
from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import LostInputs, with_flags


@click.command(
    "inspect",
    epilog="""\b
Examples:
  metaclip inspect tars/ --out seen/
  metaclip inspect tars/ --out seen/ --min-bytes 5000 --max-aspect 3 --near-duplicates
  metaclip inspect tars/ --out seen/ --against imagenet/ --against cifar10.parquet
  metaclip inspect cifar10.zip --hashes-only --out cifar10.parquet
  metaclip inspect s3://bucket/tars/ --out seen/ --part 3/100
If it is interrupted, the same command continues from there. With --overwrite, other
filters are applied to the table, without reading an image again.""",
)
@click.argument("tars", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the table and the subset.")
@click.option("--recipe", metavar="FILE", help="TOML with a table [inspect]; flags override it.")
@click.option("--text-column", metavar="C", help="Text of samples, if not .txt, text, caption or alt.")
@click.option("--url-column", metavar="C", help="Url field of samples without a uid, if not url.")
@click.option("--uid-column", metavar="C", help="Field of .json with the uid, if not uid.")
@click.option("--min-bytes", type=options.Number(), metavar="N", help="Leave out images of fewer bytes.")
@click.option(
    "--min-side",
    type=options.Number(),
    metavar="N",
    help="Leave out images whose shorter side has fewer pixels.",
)
@click.option(
    "--max-aspect",
    type=float,
    metavar="R",
    help="Leave out images whose longer side is over R times the shorter.",
)
@click.option("--single-colour", is_flag=True, default=None, help="Leave out images of a single colour.")
@click.option(
    "--max-texts",
    type=options.Number(),
    metavar="N",
    help="Leave out placeholders: the same image under over N different texts.",
)
@click.option(
    "--exact-duplicates", is_flag=True, default=None, help="Leave out images with the bytes of another."
)
@click.option(
    "--near-duplicates",
    is_flag=True,
    default=None,
    help="Leave out images that look like one that stays.",
)
@click.option(
    "--distance",
    type=int,
    metavar="D",
    help="Bits of 64 in which both hashes of near-duplicates may differ.  [default: 4]",
)
@click.option(
    "--against",
    multiple=True,
    metavar="SET",
    help="Leave out images near one of an evaluation set: a folder, zip, tars, or hashes. May be repeated.",
)
@click.option("--split", metavar="S", help="The split of these sets.  [default: test]")
@click.option(
    "--test-distance",
    type=int,
    metavar="D",
    help="Bits of 128 in which hashes near those of a set may differ.  [default: 17]",
)
@click.option(
    "--mirrored", is_flag=True, default=None, help="Leave out images near a mirrored image of a set, too."
)
@click.option(
    "--hashes-only",
    is_flag=True,
    help="Write the hashes of the images of evaluation sets, TARS, to the file --out, and nothing else.",
)
@click.option(
    "--keep", type=click.Choice(["first", "matches"]), default=None,
    help="Which duplicate stays: the first, or the one that matches most entries.  [default: first]",
)  # fmt: skip
@click.option(
    "--metadata",
    metavar="LIST",
    help="The query list of --keep matches.  [default: the shipped list]",
)
@options.run_option_flags
@options.part_option("Inspect", "tars")
@options.memory_option
def command(
    tars: tuple[str, ...],
    out: str,
    recipe: str | None,
    against: tuple[str, ...],
    hashes_only: bool,
    **flags: Any,
) -> None:
    """Look at the images of TARS (tars, folders or globs), and leave out those that are broken or filtered, and duplicates.

    Nothing but broken images is left out unless an option asks for it. An image that several reasons would leave out has the
    first: it is broken, a filter in the order below, marked by a hook of the recipe, near an evaluation image, a placeholder,
    an exact duplicate, a near-duplicate.

    Writes a row for each image, what became of it, and seen/subset.npy: the uids that stay, for curate and reshard.
    """
    from metaclip.inspect.inspect import inspect_part
    from metaclip.inspect.settings import MEANING, InspectSettings
    from metaclip.stage.runner import lost_message

    if hashes_only:
        _hash_sets(tars, out, flags["split"] or "test", flags["workers"])
        return
    settings = options.override(
        InspectSettings, options.read_recipe(recipe)["inspect"], {**flags, "against": against or None}
    )
    with options.run_options(flags) as run_options:
        made = inspect_part(
            list(tars), out=out, settings=settings, memory=flags["memory"], options=run_options
        )
    if made is None:
        options.show_part_done(flags["part"])
        return
    funnel, places = made.funnel, {name: place for place, name in enumerate(MEANING)}
    kept = funnel["kept"]
    # Hooks stand behind the filters; a record that is read again has another order.
    names = sorted(funnel, key=lambda name: places.get(name, places["placeholder"]))
    shown = {name.replace("_", " "): funnel[name] for name in names if funnel[name] or name == "kept"}
    shown |= {f"  to blur: {name}": n for name, n in made.record["blurred"].items() if n}
    for name, samples in shown.items():
        click.echo(f"{name:<18} {samples:>14,}")
    if kept:
        subset = made.path / "subset.npy"
        click.echo(f"\nnext      metaclip curate {shlex.join(tars)} --subset {subset} --out run/")
    if lost := made.record["lost"]:
        raise LostInputs(lost_message(lost, made.record["wanted"]))


def _hash_sets(sets: tuple[str, ...], out: str, split: str, workers: int | None) -> None:
    """Write the hashes of evaluation sets."""
    from metaclip.engine import default_workers
    from metaclip.errors import import_extra
    from metaclip.inspect.evaluation_hashes import hash_sets

    import_extra("PIL", "images", "inspecting images")
    images, broken = hash_sets(sets, out, split, workers or default_workers())
    click.echo(f"hashes    {images:>14,}   {out}; give it as --against")
    for line in broken:
        click.echo(f"metaclip: left out: {with_flags(line)}", err=True)
