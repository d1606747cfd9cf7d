"""Builds a query list from a recipe: runs its sources in order, merges their candidates, checks and writes the list.

A recipe has a table [build] with an array [[build.sources]], one table for each source:

    [build]
    total = 500_000                    # exact number of entries; without it as many as the sources give
    digest = "..."                     # of the list; checked

    [[build.sources]]
    source = "unigram"                 # its name in the list
    kind = "words"                     # what makes the candidates: a key of KINDS, whose settings are the other keys
    budget = 251_465                   # exact number of new entries; without it all, or as many as the total has room for
    gives = 251_465                    # number of new entries when the recipe was written; checked
    licence = "..."                    # of the source's data

Law: the same recipe gives the same list in the same order, on every machine and with any hash seed of Python, and the same
bytes with the same pyarrow.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip import recipe as recipes
from metaclip.arguments import PATH, check_types
from metaclip.engine import Engine, Progress
from metaclip.errors import MetaclipError, one_line
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import list_digest
from metaclip.metadata.candidates import Candidates, Contribution, SourceLimits, merge
from metaclip.stage.runner import RunOptions
from metaclip.storage.files import atomic_write


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """A kind of source: a function of settings that returns candidates, in a module that is imported when it is used."""

    module: str
    settings: str
    function: str
    arguments: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """The settings that are paths relative to the recipe's folder."""
    uses_engine: bool = False
    """Whether the function takes an engine, any engine."""


KINDS: Final = {
    "numbers": SourceKind("lists", "NumberSettings", "numbers"),
    "list": SourceKind("lists", "ListSettings", "entries_of_list", paths=("path",)),
    "wordnet": SourceKind("wordnet", "WordnetSettings", "candidates", paths=("folder",)),
    "words": SourceKind("words", "WordSettings", "unigrams"),
    "pairs": SourceKind("words", "PairSettings", "bigrams"),
    "vital titles": SourceKind("titles", "VitalSettings", "vital"),
    "popular titles": SourceKind("titles", "PopularSettings", "popular"),
    "places": SourceKind("titles", "PlaceSettings", "places"),
    "dump unigrams": SourceKind("ngrams", "NgramSettings", "candidates", ("unigram",), uses_engine=True),
    "dump bigrams": SourceKind("ngrams", "NgramSettings", "candidates", ("bigram",), uses_engine=True),
    "pageviews": SourceKind("pageviews", "PageviewSettings", "candidates"),
    "category": SourceKind("category", "CategorySettings", "candidates"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceSettings(SourceLimits):
    """The keys that every source has; the others are the settings of its kind."""

    kind: str
    licence: str | None = None
    gives: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, must be one of {', '.join(KINDS)}")
        recipes.check_minimums(self, budget=1)


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of a recipe."""

    common: SourceSettings
    settings: Any
    """The settings of its kind."""
    where: str
    """Its position in the recipe, for messages."""

    def candidates(self, engine: Engine | None = None) -> Candidates:
        """Run the source."""
        kind = KINDS[self.common.kind]
        function: Callable[..., Candidates] = getattr(kind_module(kind), kind.function)
        return function(
            self.settings, *kind.arguments, **({"engine": engine} if kind.uses_engine else {})
        )


@dataclasses.dataclass(frozen=True)
class BuildRecipe:
    """The table [build] of a recipe."""

    total: int | None = None
    digest: str | None = None
    sources: tuple[Source, ...] = ()


def read(path: str | os.PathLike[str]) -> BuildRecipe:
    """Read a recipe. Raise MetaclipError, naming the key, for a key that is missing, unknown, or of another type."""
    name, tables = os.fspath(path), recipes.read(path)
    if set(tables) != {"build"} or not isinstance(tables["build"], Mapping):
        found = ", ".join(tables) or "none"
        raise MetaclipError(f"{name}: the tables are {found}; a recipe of a list has one table [build]")
    table = dict(tables["build"])
    sources = table.pop("sources", None)
    if not isinstance(sources, list) or not sources:
        raise MetaclipError(
            f"{name}, [build]: sources is {sources!r:.80}, must be tables [[build.sources]], at least one"
        )
    made = recipes.settings(BuildRecipe, table, f"{name}, [build]")
    numbered = [
        (f"{name}, [[build.sources]] {number}", source) for number, source in enumerate(sources, 1)
    ]
    return dataclasses.replace(
        made, sources=tuple(_source(source, where, path) for where, source in numbered)
    )


def _source(table: Any, where: str, path: str | os.PathLike[str]) -> Source:
    if not isinstance(table, Mapping):
        raise MetaclipError(f"{where} is {table!r:.80}, must be a table")
    names = {field.name for field in dataclasses.fields(SourceSettings)}
    common = recipes.settings(SourceSettings, {key: table[key] for key in names & table.keys()}, where)
    kind = KINDS[common.kind]
    rest = {key: value for key, value in table.items() if key not in names}
    rest |= {
        key: recipes.path_in(path, rest[key]) for key in kind.paths if isinstance(rest.get(key), str)
    }
    settings: type[Any] = getattr(kind_module(kind), kind.settings)
    return Source(common, recipes.settings(settings, rest, f"{where} ({common.kind})"), where)


def kind_module(kind: SourceKind) -> Any:
    """Import the module of a kind of source."""
    return importlib.import_module(f"metaclip.metadata.sources.{kind.module}")


@dataclasses.dataclass(frozen=True)
class BuiltList:
    """A query list that was built and written."""

    path: str
    table: pa.Table
    """entry, source, score, rank, as the file has them."""
    contributions: list[Contribution]
    """What each source gave."""

    def __repr__(self) -> str:
        """Show the composition of the list."""
        return render(self.table, self.contributions)


def build(
    recipe: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    options: RunOptions | None = None,
) -> BuiltList:
    """Build the query list of a recipe, a TOML file, and write it to `out`, a parquet file.

    The engine of `options` counts dumps; `options.progress` shows the sources on standard error. Raise MetaclipError for a
    recipe that cannot be read, and as `run_sources` does.

    >>> from metaclip import build
    >>> build("metadata/toy.toml", out="toy.parquet").table.num_rows
    167
    """
    check_types(recipe=(recipe, PATH), out=(out, PATH), options=(options, RunOptions | None))
    made, options = read(recipe), options or RunOptions()
    check_out(out)
    progress = Progress("build", None, options.progress)
    table, contributions = run_sources(made, PAPER, progress.show, options.active_engine)
    write(table, out)
    return BuiltList(os.fspath(out), table, contributions)


def run_sources(
    made: BuildRecipe,
    rule: TextRule,
    note: Callable[[str], None] = lambda line: None,
    engine: Engine | None = None,
) -> tuple[pa.Table, list[Contribution]]:
    """Run a recipe's sources and merge their candidates; every entry must be able to match under the text rule `rule`.

    Return the list (a table of `metaclip.metadata.candidates.SCHEMA`) and the contribution of each source. `note` is called
    with a line on each source before it runs; dumps are counted on `engine`. Raise MetaclipError if a source cannot be
    read or gives another number of entries than the recipe says, or if the list's digest is not the recipe's.
    """

    def offers() -> Iterator[tuple[SourceLimits, Candidates]]:
        for source in made.sources:
            note(f"{source.common.source}: {source.common.kind}")
            yield source.common, source.candidates(engine)

    table, contributions = merge(offers(), rule, made.total)
    for source, one in zip(made.sources, contributions, strict=True):
        if source.common.gives not in (None, one.new):
            raise MetaclipError(
                f"{source.where}: {one.source!r} gives {one.new:,} entries, the recipe says {source.common.gives:,}; "
                "its source has changed, or correct the recipe"
            )
    found = list_digest(table["entry"])
    if made.digest not in (None, found):
        raise MetaclipError(
            f"the list's digest is {found}, the recipe says {made.digest}; a source has changed, or correct the recipe"
        )
    return table, contributions


def check_out(path: str | os.PathLike[str]) -> None:
    """Raise MetaclipError for an output that is not named as a parquet file; called before the sources run."""
    if Path(path).suffix != ".parquet":
        raise MetaclipError(
            f"`out=...` is {path}, must end in .parquet: a built list carries sources, scores and ranks"
        )


def write(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write a built list as parquet, atomically; the same list gives the same bytes with the same pyarrow."""
    check_out(path)
    try:
        with atomic_write(Path(path)) as temporary:
            pq.write_table(
                table, temporary, compression="zstd", compression_level=19, use_dictionary=["source"],
                column_encoding={"entry": "DELTA_LENGTH_BYTE_ARRAY", "score": "BYTE_STREAM_SPLIT", "rank": "DELTA_BINARY_PACKED"},
                row_group_size=1 << 20, write_statistics=False, store_schema=False,
            )  # fmt: skip
    except OSError as error:
        raise MetaclipError(
            f"{path} cannot be written ({one_line(error)}); check space and permissions"
        ) from None


def render(table: pa.Table, contributions: Sequence[Contribution]) -> str:
    """Return the composition of a list for readers: a row for each source, then the total and the digest."""
    lines = [f"{'source':<10} {'candidates':>11} {'new':>9}   left out"]
    for one in contributions:
        left_out = one.facts.get("left_out", {}) | one.left_out
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        lines.append(f"{one.source:<10} {one.candidates:>11,} {one.new:>9,}   {reasons}".rstrip())
    return "\n".join(
        [*lines, f"{'total':<10} {'':>11} {len(table):>9,}   digest {list_digest(table['entry'])}"]
    )
