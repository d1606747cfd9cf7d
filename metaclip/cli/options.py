"""Options that several verbs share, and how flags and recipes become settings.

A flag that changes the result has the name of the recipe's key and overrides it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from metaclip.errors import MetaclipError

Command = TypeVar("Command", bound=Callable[..., Any])

_SUFFIXES: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}

RULE_FLAGS: Final = {
    "space_entries": 'Set marks inside entries apart as in texts, so that "St. Louis" can match.',
    "fold_spaces": "Treat a run of spaces as one.",
    "unicode_separators": "Treat all Unicode whitespace and punctuation as separators.",
    "nfc": "Compare in Unicode's composed normal form.",
    "unescape_html": "Resolve &amp; and the like in texts.",
    "fold_case": "Compare without regard to case.",
    "longest_only": "Leave out matches inside longer matches.",
}
"""The yes-or-no settings of the text rule, as flags; `--unspaced-scripts` is the other one."""


class Number(click.ParamType[int]):
    """A whole number, maybe with a suffix: 400M."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number."""
        text = str(value).replace("_", "").replace(",", "").strip().lower()
        factor = _SUFFIXES.get(text[-1:], 1)
        try:
            number = float(text[:-1] if factor > 1 else text) * factor
        except ValueError:
            number = float("nan")
        if not number.is_integer():
            self.fail(f"{value!r} is not a whole number such as 1000, 20k or 400M", param, ctx)
        return int(number)


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


rule_options = _stack(
    *(click.option(f"--{name.replace('_', '-')}", is_flag=True, default=None, help=text) for name, text in RULE_FLAGS.items()),
    click.option(
        "--unspaced-scripts", type=click.Choice(["none", "published", "fixed"]), default=None,
        help="Scripts whose entries match inside words: the published table or the fixed one (kana, Hangul too).",
    ),
)  # fmt: skip
"""The text rule."""

match_options = _stack(
    click.option(
        "--metadata", metavar="LIST", help="The query list: txt, json or parquet.  [default: the shipped list]"
    ),
    click.option("--recipe", metavar="FILE", help="TOML with tables [match] and [balance]; flags override it."),
    click.option("--text-column", metavar="C", help="The text column, where it is not text, caption or alt."),
    click.option("--url-column", metavar="C", help="The url column, where it is not url."),
    click.option("--uid-column", metavar="C", help="The uid column, where it is not uid."),
    click.option("--limit", type=Number(), metavar="N", help="Read only the first N rows."),
    click.option("--with-text", is_flag=True, default=None, help="Carry url and text in matched/."),
    click.option("--fold-duplicates", is_flag=True, default=None, help="Keep the first of entries that stand twice."),
    rule_options,
)
"""What determines matches."""

balance_options = _stack(
    click.option("--t", type=float, metavar="T", help="The threshold: entries with larger counts are thinned."),
    click.option("--tail-share", type=float, metavar="S", help="Solve t for this share of the tail.  [default: 0.06]"),
    click.option("--target-pairs", type=Number(), metavar="N", help="Solve t for this number of pairs: 400M."),
    click.option("--seed", type=int, default=None, help="Seed of the draw.  [default: 0]"),
)
"""What determines the draw."""

engine_name_options = _stack(
    click.option(
        "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What carries shards."
    ),
    click.option(
        "--address", metavar="A", help="Of a Ray cluster: auto, or host:port.  [default: Ray on this machine]"
    ),
)
"""What carries shards."""

engine_options = _stack(
    engine_name_options,
    click.option(
        "--workers", type=click.IntRange(1), default=None, help="Shards at a time.  [default: one a processor]"
    ),
)
"""What carries shards, and how many at a time."""

run_option_flags = _stack(
    engine_options,
    click.option("--overwrite", is_flag=True, help="Replace another run in the output folder."),
)
"""What changes nothing in the result."""


@contextlib.contextmanager
def engine(flags: Mapping[str, Any]) -> Iterator[Any]:
    """Give what `engine_options` name for the length of a block."""
    if flags["engine"] == "ray":
        from metaclip.engine.ray import Ray

        with Ray(flags["address"], flags["workers"]) as active_engine:
            yield active_engine
        return
    if flags["address"] is not None:
        raise MetaclipError(f"--address {flags['address']} is of a Ray cluster; add --engine ray")
    from metaclip.engine.local import Local

    yield Local(flags["workers"])


def split_recipe(path: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a recipe's tables [match] and [balance]; paths in it are relative to its folder."""
    if path is None:
        return {}, {}
    from metaclip import recipe
    from metaclip.curate.settings import BalanceSettings, MatchSettings
    from metaclip.extract.settings import ExtractSettings

    tables = recipe.read(path)
    recipe.tables(tables, path, {"extract": ExtractSettings, "match": MatchSettings, "balance": BalanceSettings})
    match = dict(tables.get("match", {}))
    if "metadata" in match and "://" not in match["metadata"]:
        match["metadata"] = os.fspath(Path(path).parent / match["metadata"])
    return match, dict(tables.get("balance", {}))


def match_settings(flags: Mapping[str, Any], table: Mapping[str, Any]) -> Any:
    """Put flags over a recipe's table [match]."""
    from metaclip import recipe
    from metaclip.curate.settings import MatchSettings

    names = {field.name for field in dataclasses.fields(MatchSettings)}
    merged = {**table, **{name: value for name, value in flags.items() if name in names and value is not None}}
    rule = {name: flags[name] for name in (*RULE_FLAGS, "unspaced_scripts") if flags.get(name) is not None}
    if rule or "rule" in table:
        merged["rule"] = {**table.get("rule", {}), **rule}
    return recipe.settings(MatchSettings, merged, "the command line")


def balance_settings(flags: Mapping[str, Any], table: Mapping[str, Any]) -> Any:
    """Put flags over a recipe's table [balance]; a t of one kind replaces one of another."""
    from metaclip import recipe
    from metaclip.curate.settings import BalanceSettings

    given = {name: flags[name] for name in ("t", "tail_share", "target_pairs", "seed") if flags.get(name) is not None}
    kinds = {"t", "tail_share", "target_pairs"}
    kept = {key: value for key, value in table.items() if not (key in kinds and kinds & given.keys())}
    return recipe.settings(BalanceSettings, {**kept, **given}, "the command line")


def show_result(run: Any) -> None:
    """Print what a balanced run came to, and where to look."""
    account = run.account
    pairs, balance, entries = account["pairs"], account["balance"], account["entries"]
    rows = account["funnel"]["rows"]
    click.echo(f"rows      {rows:>14,}")
    click.echo(f"matched   {pairs['matched']:>14,}   {100 * pairs['matched'] / rows:.1f}% of rows")
    click.echo(f"kept      {pairs['kept']:>14,}   expected {pairs['expected']:,.1f} ± {pairs['deviation']:,.1f}")
    click.echo(
        f"t         {balance['t']:>14g}   tail share {100 * balance['tail_share']:.2f}% (asked: {balance['asked']})"
    )
    parts = f"{entries['zero']:,} at zero, {entries['tail']:,} tail, {entries['head']:,} head"
    click.echo(f"entries   {account['list']['entries']:>14,}   {parts}")
    if pairs["repeated_rows"]:
        click.echo(f"repeated  {pairs['repeated_rows']:>14,}   matched rows whose uid stands on an earlier row")
    click.echo(
        f"\nresult    {account['result_digest'][:16]}   read {run.path / 'card.md'}; pairs in {run.path / 'curated'}"
    )
