"""Options that several verbs share, and how flags and recipes become settings.

A flag that changes the result has the name of a key of the recipe and overrides it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TypeVar

import click

from metaclip.errors import MetaclipError

Command = TypeVar("Command", bound=Callable[..., Any])

_SUFFIXES: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}

RULE_FLAGS: Final = {
    "space_entries": 'Space punctuation inside entries as in texts, so that "St. Louis" can match.',
    "fold_spaces": "Treat several spaces in a row as one.",
    "unicode_separators": "Treat all Unicode whitespace and punctuation as separators.",
    "nfc": "Compare in Unicode normal form C (composed).",
    "unescape_html": "Resolve HTML entities such as &amp; in texts.",
    "fold_case": "Compare without regard to case.",
    "longest_only": "Drop matches that lie inside longer matches.",
}
"""The settings of the text rule that are on or off, with their help; `--unspaced-scripts` is the other one."""


class Number(click.ParamType[float]):
    """A number, with or without a suffix: 400M; a whole one, unless `whole` is false."""

    name = "number"

    def __init__(self, whole: bool = True) -> None:
        """Choose which numbers are read."""
        self._whole = whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number."""
        text = str(value).replace("_", "").replace(",", "").strip().lower()
        factor = _SUFFIXES.get(text[-1:], 1)
        try:
            number = float(text[:-1] if factor > 1 else text) * factor
            if self._whole and not number.is_integer():
                raise ValueError
        except ValueError:
            kind = "a whole number" if self._whole else "a number"
            self.fail(f"{value!r} is not {kind} such as 1000, 20k or 400M", param, ctx)
        return int(number) if self._whole else number


class Share(click.ParamType[float]):
    """A share: 0.06, or 6%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the share."""
        text = str(value).strip()
        try:
            number = Decimal(text.removesuffix("%"))
            return float(number / 100 if text.endswith("%") else number)
        except ArithmeticError:
            self.fail(f"{value!r} is not a share such as 0.06 or 6%", param, ctx)


class LanguageThreshold(click.ParamType[tuple[str, float]]):
    """The t of a language: ja=5000, or ja=5k."""

    name = "threshold"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Read the code and the number."""
        language, is_given, t = str(value).partition("=")
        if not (language and is_given):
            self.fail(f"{value!r} is not a language and its t such as ja=5000", param, ctx)
        return language, Number(whole=False).convert(t, param, ctx)


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
"""Flags of the text rule."""

match_options = _stack(
    click.option(
        "--metadata",
        metavar="LIST",
        help="The query list: txt, json or parquet.  [default: the shipped list]",
    ),
    click.option(
        "--recipe", metavar="FILE", help="TOML with tables [match] and [balance]; flags override it."
    ),
    click.option(
        "--text-column", metavar="C", help="Name of the text column, if not text, caption or alt."
    ),
    click.option("--url-column", metavar="C", help="Name of the url column, if not url."),
    click.option("--uid-column", metavar="C", help="Name of the uid column, if not uid."),
    click.option(
        "--quoting",
        type=click.Choice(["auto", "none"]),
        default=None,
        help="In csv and tsv: 'none' if quotes are ordinary characters.  [default: auto]",
    ),
    click.option("--limit", type=Number(), metavar="N", help="Read only the first N rows."),
    click.option(
        "--subset", metavar="FILE", help="Leave out rows whose uid is not in it, e.g. seen/subset.npy."
    ),
    click.option(
        "--language-column",
        metavar="C",
        help="Name of the column of languages, if not lang or language; for a list with languages.",
    ),
    click.option(
        "--identify",
        is_flag=True,
        default=None,
        help="Identify the language of each text instead of reading it.",
    ),
    click.option(
        "--languages", metavar="L", help="Search only the lists of these languages, e.g. en,de,other."
    ),
    click.option(
        "--also",
        metavar="L",
        help="Search texts of all languages for the entries of these languages too, e.g. en.",
    ),
    click.option("--with-text", is_flag=True, default=None, help="Write url and text to matched/ too."),
    click.option(
        "--fold-duplicates", is_flag=True, default=None, help="Keep the first of duplicate entries."
    ),
    rule_options,
)
"""Flags that determine matches."""

balance_options = _stack(
    click.option(
        "--t",
        type=Number(whole=False),
        metavar="T",
        help="The threshold: entries with larger counts are thinned.",
    ),
    click.option(
        "--tail-share",
        type=Share(),
        metavar="S",
        help="Solve t for this share of the tail: 0.06, or 6%.  [default: 0.06]",
    ),
    click.option(
        "--target-pairs", type=Number(), metavar="N", help="Solve t for this number of pairs, e.g. 400M."
    ),
    click.option(
        "--weights",
        metavar="FILE",
        help="csv or parquet file with columns entry and weight, a factor on t for each entry.",
    ),
    click.option(
        "--t-by-language",
        type=click.Choice(["largest", "nearest", "one"]),
        default=None,
        help="How the t of a language follows from English's tail share.  [default: largest]",
    ),
    click.option(
        "--t-language",
        type=LanguageThreshold(),
        multiple=True,
        metavar="L=T",
        help="The t of a language, e.g. ja=5000; may be given several times.",
    ),
    click.option("--seed", type=int, default=None, help="Seed of the draw.  [default: 0]"),
)
"""Flags that determine the draw."""

engine_name_options = _stack(
    click.option(
        "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
        help="Where shards are processed: on this machine or on a Ray cluster.",
    ),
    click.option(
        "--address", metavar="A",
        help="Address of the Ray cluster: 'auto' or host:port.  [default: start Ray on this machine]",
    ),
)  # fmt: skip
"""Which engine processes shards."""

engine_options = _stack(
    engine_name_options,
    click.option(
        "--workers", type=click.IntRange(1), default=None,
        help="Number of shards processed in parallel.  [default: number of CPUs]",
    ),
)  # fmt: skip
"""Which engine processes shards, and how many at a time."""

run_option_flags = _stack(
    engine_options,
    click.option("--overwrite", is_flag=True, help="Replace another run in the output folder."),
)
"""Flags that do not change the result."""

memory_option = click.option(
    "--memory",
    type=Number(),
    default="2G",
    show_default=True,
    metavar="BYTES",
    help="Memory for finding duplicates.",
)


def part_option(verb: str, items: str) -> Callable[[Command], Command]:
    """Return `--part`, of a verb that a job array can run; `items` are what its parts divide."""
    return click.option(
        "--part", metavar="I/N", help=f"{verb} only this part of the {items}, e.g. 3/100."
    )


def show_part_done(part: str, then: str = "combines them") -> None:
    """Report that a part is done and others are not; `then` is what the command without --part does."""
    click.echo(f"part {part} is done; when all are, the same command without --part {then}")


def engine(flags: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
    """Return the engine that `engine_options` name, which runs for the length of a block; of None for this machine."""
    if flags["engine"] == "ray":
        from metaclip.engine.ray import Ray

        return Ray(flags["address"], flags["workers"])
    if flags["address"] is not None:
        raise MetaclipError(
            f"--address {flags['address']} is the address of a Ray cluster; add --engine ray"
        )
    return contextlib.nullcontext()


@contextlib.contextmanager
def run_options(flags: Mapping[str, Any]) -> Iterator[Any]:
    """Make RunOptions of flags, with an engine that runs until the end of the block."""
    from metaclip.stage.folder import ALL, Part
    from metaclip.stage.runner import RunOptions

    part = Part.parse(flags["part"]) if flags.get("part") else ALL
    given = {name: flags[name] for name in ("overwrite", "allow_lost") if name in flags}
    with engine(flags) as active_engine:
        yield RunOptions(flags["workers"], part=part, engine=active_engine, **given)


def read_recipe(path: str | None) -> dict[str, dict[str, Any]]:
    """Read the tables of a recipe; paths in it are relative to its folder. Without a recipe all tables are empty."""
    made: dict[str, dict[str, Any]] = {name: {} for name in ("extract", "inspect", "match", "balance")}
    if path is None:
        return made
    from metaclip import recipe
    from metaclip.curate.settings import BalanceSettings, MatchSettings
    from metaclip.extract.settings import PATH_SETTINGS, ExtractSettings
    from metaclip.inspect.settings import InspectSettings

    tables = recipe.read(path)
    recipe.tables(
        tables,
        path,
        {
            "extract": ExtractSettings,
            "inspect": InspectSettings,
            "match": MatchSettings,
            "balance": BalanceSettings,
        },
    )
    made |= {name: dict(table) for name, table in tables.items()}
    for table, key in (
        ("inspect", "metadata"),
        ("match", "metadata"),
        ("balance", "weights"),
        ("match", "subset"),
        *(("extract", name) for name in PATH_SETTINGS),
    ):
        if key in made[table]:
            made[table][key] = recipe.path_in(path, made[table][key])
    if "against" in made["inspect"]:
        made["inspect"]["against"] = [recipe.path_in(path, one) for one in made["inspect"]["against"]]
    for hook in made["inspect"].get("hooks", ()):
        hook["scores"] = recipe.path_in(path, hook["scores"])
    return made


def override(
    kind: Any, table: Mapping[str, Any], flags: Mapping[str, Any], alternatives: Collection[str] = ()
) -> Any:
    """Make settings of a recipe's table, with flags over it; one of the `alternatives` replaces another."""
    from metaclip import recipe

    names = [field.name for field in dataclasses.fields(kind)]
    given = {name: flags[name] for name in names if flags.get(name) is not None}
    replaced = set(alternatives) if given.keys() & set(alternatives) else set()
    kept = {name: value for name, value in table.items() if name not in replaced}
    return recipe.settings(kind, {**kept, **given}, "the command line")


def rule(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the text rule that flags give."""
    return {
        name: flags[name] for name in (*RULE_FLAGS, "unspaced_scripts") if flags.get(name) is not None
    }


def rule_arguments(rule: Any) -> list[str]:
    """Return the flags that give a text rule."""
    from metaclip.matching.text_rule import PAPER

    given = dataclasses.asdict(rule)
    changed = {name: value for name, value in given.items() if value != getattr(PAPER, name)}
    return [
        word
        for name, value in changed.items()
        for word in (f"--{name.replace('_', '-')}", *([] if value is True else [value]))
    ]


def match_settings(flags: Mapping[str, Any], table: Mapping[str, Any]) -> Any:
    """Make MatchSettings of a recipe's table [match], with flags over it."""
    from metaclip.curate.settings import MatchSettings

    given = {**table.get("rule", {}), **rule(flags)}
    return override(MatchSettings, table, {**flags, "rule": given or None})


def balance_settings(flags: Mapping[str, Any], table: Mapping[str, Any]) -> Any:
    """Make BalanceSettings of a recipe's table [balance], with flags over it."""
    from metaclip.curate.settings import BalanceSettings

    of_languages = {**table.get("t_language", {}), **dict(flags["t_language"])} or None
    flags = {**flags, "t_language": of_languages}
    return override(BalanceSettings, table, flags, ("t", "tail_share", "target_pairs"))


def _varied(balance: Mapping[str, Any]) -> str:
    """Return by what t varies, to stand behind it; nothing for one t."""
    by = balance.get("t_by")
    return "" if by is None else f", times the {by} of each entry" if by == "weight" else f", by {by}"


def show_result(run: Any) -> None:
    """Print the figures of a balanced run, and where to find more."""
    account = run.account
    pairs, balance, entries = account["pairs"], account["balance"], account["entries"]
    rows = account["funnel"]["rows"]
    click.echo(f"rows      {rows:>14,}")
    click.echo(f"matched   {pairs['matched']:>14,}   {100 * pairs['matched'] / rows:.1f}% of rows")
    click.echo(
        f"kept      {pairs['kept']:>14,}   expected {pairs['expected']:,.1f} ± {pairs['deviation']:,.1f}"
    )
    click.echo(
        f"t         {balance['t']:>14g}   tail share {100 * balance['tail_share']:.2f}% (asked: {balance['asked']})"
        + _varied(balance)
    )
    parts = f"{entries['zero']:,} at zero, {entries['tail']:,} tail, {entries['head']:,} head"
    click.echo(f"entries   {account['list']['entries']:>14,}   {parts}")
    if pairs["repeated_rows"]:
        click.echo(
            f"repeated  {pairs['repeated_rows']:>14,}   matched rows whose uid stands on an earlier row"
        )
    click.echo(
        f"\nresult    {account['result_digest'][:16]}   read {run.path / 'card.md'}; pairs in {run.path / 'curated'}"
    )
