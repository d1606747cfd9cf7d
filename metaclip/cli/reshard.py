"""`metaclip reshard`: write the samples of a subset to new tars."""

from __future__ import annotations

import sys
from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import LOST


@click.command(
    "reshard",
    epilog="""\b
Examples:
  metaclip reshard tars/ --subset run/curated.npy --out curated_tars/
Where many pairs never arrived, balance again on those that did:
  metaclip curate tars/ --out run_arrived/
  metaclip reshard tars/ --subset run_arrived/curated.npy --out curated_tars/
If it is interrupted, the same command continues from there.""",
)
@click.argument("tars", nargs=-1, required=True)
@click.option(
    "--subset",
    required=True,
    metavar="FILE",
    help="Uids to write: a run's curated.npy, or a subset of DataComp.",
)
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the new tars.")
@click.option(
    "--shard-size",
    type=options.Number(),
    metavar="N",
    help="Number of samples per tar.  [default: 10000]",
)
@click.option(
    "--text-column", metavar="C", help="Text of samples without a uid, if not .txt, text, caption or alt."
)
@click.option("--url-column", metavar="C", help="Url field of samples without a uid, if not url.")
@click.option("--uid-column", metavar="C", help="Field of .json with the uid, if not uid.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=None,
    help="Number of threads or processes.  [default: number of CPUs]",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace the result of another reshard in the output folder."
)
@click.option("--allow-lost", is_flag=True, help="Continue without tars that cannot be read.")
def command(
    tars: tuple[str, ...],
    subset: str,
    out: str,
    workers: int | None,
    overwrite: bool,
    allow_lost: bool,
    **flags: Any,
) -> None:
    """Write the samples of TARS (tars, folders or globs) that are in a subset to new tars, as DataComp's resharder does."""
    from metaclip.reshard import reshard as resharding
    from metaclip.reshard.index import NO_UID
    from metaclip.stage.runner import RunOptions

    made = resharding.reshard(
        list(tars),
        subset=subset,
        out=out,
        options=RunOptions(workers=workers, overwrite=overwrite, allow_lost=allow_lost),
        **{name: value for name, value in flags.items() if value is not None},
    )
    record = made.record
    click.echo(f"samples   {record['funnel']['samples']:>14,}")
    if record["funnel"]["malformed_json"]:
        malformed = record["funnel"]["malformed_json"]
        click.echo(
            f"  -       {malformed:>14,}   their .json is no JSON object, or a member is a link or too large"
        )
    click.echo(f"written   {record['written']:>14,}   of {record['subset']:,} in the subset")
    if record["odd_suffix"]:
        click.echo(
            f"  -       {record['odd_suffix']:>14,}   members left out: their suffix is no plain one"
        )
    if record["missing"]:
        click.echo(
            f"missing   {record['missing']:>14,}   uids that no sample has: {made.path / 'missing.npy'}"
        )
        if record["without_uid"]:
            without_uid = NO_UID.format(f"{record['without_uid']} samples")
            click.echo(f"metaclip: {without_uid}", err=True)
    if record["missing"]:
        then = f"to balance what arrived: metaclip curate {' '.join(tars)} --out run_arrived/"
    else:
        then = f"to train on them: metaclip train RECIPE --tars {made.path} --out model/"
    click.echo(f"\nnext      tars in {made.path}; {then}")
    if record["lost"]:
        click.echo(f"metaclip: went on without {len(record['lost'])} tars that cannot be read", err=True)
        sys.exit(LOST)
