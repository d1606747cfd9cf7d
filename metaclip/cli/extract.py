"""`metaclip extract`: extract the pairs of WAT and WARC files to a pool."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import LostInputs


@click.command(
    "extract",
    epilog="""\b
Examples:
  metaclip extract crawl/*.warc.wat.gz --out pool/
  metaclip extract https://data.commoncrawl.org/crawl-data/CC-MAIN-2024-10/wat.paths.gz --sample 100 --out pool/
  metaclip extract pages.warc.gz --captions --srcset --lang en --out pool/
  metaclip extract crawl/*.warc.wat.gz --matched list.txt --out pool/      (only pairs that match an entry)
Then metaclip curate pool/ --out run/. No image is fetched: the command for img2dataset is printed.""",
)
@click.argument("crawl", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the pool.")
@click.option("--recipe", metavar="FILE", help="TOML with a table [extract]; flags override it.")
@click.option(
    "--prefix", metavar="URL", help="What precedes the paths of a list.  [default: that of Common Crawl]"
)
@click.option("--first", type=options.Number(), metavar="N", help="Take only the first N files.")
@click.option(
    "--sample",
    type=options.Number(),
    metavar="N",
    help="Take N files, drawn by --seed without replacement.",
)
@click.option("--seed", type=int, default=None, help="Seed of the sample.  [default: 0]")
@click.option("--titles", is_flag=True, default=None, help="Take the titles of images as texts too.")
@click.option(
    "--captions", is_flag=True, default=None, help="Take the captions of figures as texts too (WARC)."
)
@click.option(
    "--lazy",
    is_flag=True,
    default=None,
    help="Take addresses from data-src and similar attributes (WARC).",
)
@click.option("--srcset", is_flag=True, default=None, help="Take the largest image of a srcset (WARC).")
@click.option(
    "--min-text",
    type=int,
    default=None,
    metavar="N",
    help="Minimum length of a text in characters.  [default: 1]",
)
@click.option(
    "--max-text",
    type=int,
    default=None,
    metavar="N",
    help="Maximum length of a text in characters.  [default: 1000]",
)
@click.option("--identify/--no-identify", default=None, help="Identify languages.  [default: yes]")
@click.option("--lang", metavar="L", help="Keep only these languages: en, or en,de.")
@click.option(
    "--min-lang-score",
    type=float,
    default=None,
    metavar="S",
    help="Keep only texts identified with this score.",
)
@click.option("--blocked-domains", metavar="FILE", help="Domains to leave out, one per line.")
@click.option("--opt-out", metavar="FILE", help="Domains and addresses that opted out, one per line.")
@click.option(
    "--ignore-noai",
    is_flag=True,
    default=None,
    help="Keep pages that opt out by noai, noimageai, noimageindex, noml or tdm-reservation.",
)
@click.option(
    "--agents",
    metavar="NAMES",
    help="Agents whose opt-outs are honoured beside those for all.  [default: CCBot,img2dataset]",
)
@click.option(
    "--robots",
    metavar="FOLDER",
    help="WARC files of robots.txt files (or their list): leave out what they disallow to --agents.",
)
@click.option("--blocked-words", metavar="FILE", help="Words; texts with one are left out. One per line.")
@click.option(
    "--dedupe", type=click.Choice(["uid", "url", "none"]), default=None,
    help="Keep only the first of pairs that have this in common.  [default: uid]",
)  # fmt: skip
@click.option(
    "--matched",
    metavar="LIST",
    help="Write only pairs that match an entry of this query list, and count the others.",
)
@options.rule_options
@options.run_option_flags
@options.part_option("Extract", "files")
@options.memory_option
def command(crawl: tuple[str, ...], out: str, recipe: str | None, **flags: Any) -> None:
    """Extract the pairs of CRAWL: WAT or WARC files, folders, globs, addresses, or a list of these (wat.paths.gz)."""
    from metaclip.extract.extract import extract_part
    from metaclip.extract.settings import ExtractSettings
    from metaclip.stage.runner import lost_message

    table = options.read_recipe(recipe)["extract"]
    given = {**flags, "rule": {**(table.get("rule") or {}), **options.rule(flags)} or None}
    settings = options.override(ExtractSettings, table, given, alternatives=("first", "sample"))
    with options.run_options(flags) as run_options:
        made = extract_part(crawl, out, settings, run_options, flags["memory"])
    if made is None:
        options.show_part_done(flags["part"], "makes the pool")
        return
    curate = []
    if settings.matched is not None:
        curate = ["--metadata", settings.matched, *options.rule_arguments(settings.text_rule)]
    _show(made.path, made.funnel, curate)
    if lost := made.record["lost"]:
        raise LostInputs(lost_message(lost, made.record["wanted"]))


def _show(path: Path, funnel: Mapping[str, int], curate: Sequence[str]) -> None:
    """Print what became of the images, and the commands that use the pool; `curate` are arguments of the first one."""
    from metaclip.extract.filters import REASONS

    seen = max(1, funnel["images_seen"])
    click.echo(f"images    {funnel['images_seen']:>14,}   {funnel['alt_nonempty']:,} with a text in alt")
    if funnel["more_texts"]:
        click.echo(f"texts     {funnel['more_texts']:>14,}   further ones of these images")
    for reason, meaning in REASONS.items():
        if funnel.get(reason):
            click.echo(f"  -       {funnel[reason]:>14,}   {reason}: {meaning}")
    click.echo(f"pairs     {funnel['pairs']:>14,}   {100 * funnel['pairs'] / seen:.1f}% of images")
    if not funnel["pairs"]:
        why = (
            "the reasons above say why"
            if funnel["images_seen"]
            else "the files hold no page with an image"
        )
        click.echo(f"\nno pair is left, so there is nothing to curate; {why}")
        return
    pool = shlex.quote(str(path))
    images = shlex.quote(str(path).rstrip("/") + "-images")
    click.echo(f"\nnext      {' '.join(['metaclip curate', pool, *map(shlex.quote, curate)])} --out run/")
    click.echo(
        f"images    img2dataset --url_list {pool} --input_format parquet --url_col url --caption_col text "
        f"--save_additional_columns '[\"uid\"]' --output_format webdataset --output_folder {images}"
    )
