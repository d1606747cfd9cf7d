"""Builds a query list by a recipe: sources in order, merged, checked, written.

A recipe has a table [build] and in it an array [[build.sources]], a table a source:

    [build]
    total = 500_000                    # exact; without it whatever comes
    digest = "..."                     # of the list; checked

    [[build.sources]]
    source = "unigram"                 # its name in the list
    kind = "words"                     # what makes candidates: a row of KINDS, whose settings are the other keys
    budget = 251_465                   # exactly so many new entries; without it all, or what fills the total
    gives = 251_465                    # what it gave when the recipe was written; checked
    licence = "..."                    # of what is read

Law: the same recipe gives the same list, order and all, on every machine and with any seed of Python's hashes, and with
the same pyarrow the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip import recipe
from metaclip.engine.contract import Engine
from metaclip.errors import MetaclipError, one_line
from metaclip.metadata import lint
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.merge import Given, Share, merge
from metaclip.storage.files import atomic_write


@dataclasses.dataclass(frozen=True)
class Kind:
    """What makes candidates: a function of settings in a module, imported when it is used."""

    module: str
    settings: str
    function: str
    arguments: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """The settings that are paths relative to the recipe's folder."""
    carried: bool = False
    """Whether an engine carries its work."""


KINDS: Final = {
    "numbers": Kind("lists", "NumberSettings", "numbers"),
    "list": Kind("lists", "ListSettings", "another", paths=("path",)),
    "wordnet": Kind("wordnet", "WordnetSettings", "candidates", paths=("folder",)),
    "words": Kind("words", "WordSettings", "unigrams"),
    "pairs": Kind("words", "PairSettings", "bigrams"),
    "vital titles": Kind("titles", "VitalSettings", "vital"),
    "popular titles": Kind("titles", "PopularSettings", "popular"),
    "places": Kind("titles", "PlaceSettings", "places"),
    "dump unigrams": Kind("ngrams", "NgramSettings", "candidates", ("unigram",), carried=True),
    "dump bigrams": Kind("ngrams", "NgramSettings", "candidates", ("bigram",), carried=True),
    "pageviews": Kind("pageviews", "PageviewSettings", "candidates"),
    "category": Kind("category", "CategorySettings", "candidates"),
}


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """The keys that every source has; the others are the settings of its kind."""

    source: str
    kind: str
    licence: str | None = None
    budget: int | None = None
    gives: int | None = None
    trusted: bool = False
    """Keep its entries however they look, as WordNet's own."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, must be one of {', '.join(KINDS)}")
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"budget is {self.budget}, must be at least 1")


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of a recipe."""

    given: SourceSettings
    settings: Any
    where: str
    """Its place in the recipe, for messages."""

    def candidates(self, engine: Engine | None = None) -> Candidates:
        """Run the source."""
        kind = KINDS[self.given.kind]
        make: Callable[..., Candidates] = getattr(_module(kind), kind.function)
        carried = {"engine": engine} if kind.carried else {}
        return make(self.settings, *kind.arguments, **carried)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The table [build] of a recipe."""

    sources: Sequence[Source]
    total: int | None = None
    digest: str | None = None


def read(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe. Raise MetaclipError for what is missing, unknown, or of another type, naming the key."""
    name, tables = os.fspath(path), recipe.read(path)
    if set(tables) != {"build"} or not isinstance(tables["build"], Mapping):
        found = ", ".join(tables) or "none"
        raise MetaclipError(f"{name}: the tables are {found}; a recipe of a list has one table [build]")
    table = dict(tables["build"])
    sources = table.pop("sources", None)
    if not isinstance(sources, list) or not sources:
        raise MetaclipError(
            f"{name}, [build]: sources is {sources!r:.80}, must be tables [[build.sources]], at least one"
        )
    head = recipe.settings(_Head, table, f"{name}, [build]")
    made = [
        _source(source, f"{name}, [[build.sources]] {number}", Path(path).parent)
        for number, source in enumerate(sources, 1)
    ]
    return Recipe(made, head.total, head.digest)


@dataclasses.dataclass(frozen=True)
class _Head:
    total: int | None = None
    digest: str | None = None


def _source(table: Any, where: str, folder: Path) -> Source:
    if not isinstance(table, Mapping):
        raise MetaclipError(f"{where} is {table!r:.80}, must be a table")
    common = {field.name for field in dataclasses.fields(SourceSettings)}
    for key in ("source", "kind"):
        if key not in table:
            raise MetaclipError(f"{where}: the key {key!r} is missing")
    given = recipe.settings(SourceSettings, {key: table[key] for key in common & table.keys()}, where)
    kind = KINDS[given.kind]
    rest = {key: value for key, value in table.items() if key not in common}
    for key in kind.paths:
        if isinstance(rest.get(key), str):
            rest[key] = os.fspath(folder / rest[key])
    wanted: type[Any] = getattr(_module(kind), kind.settings)
    missing = [
        field.name
        for field in dataclasses.fields(wanted)
        if field.name not in rest
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise MetaclipError(f"{where} ({given.kind}): missing: {', '.join(missing)}")
    return Source(given, recipe.settings(wanted, rest, f"{where} ({given.kind})"), where)


def _module(kind: Kind) -> Any:
    return importlib.import_module(f"metaclip.metadata.sources.{kind.module}")


def build(
    made: Recipe, rule: lint.Rule, note: Callable[[str], None] = lambda line: None, engine: Engine | None = None
) -> tuple[pa.Table, list[Given]]:
    """Run a recipe's sources and merge them; `rule` is the text rule under which every entry must be able to match.

    Give the list (`metaclip.metadata.merge.SCHEMA`) and what each source gave; `note` is told of each source before it
    runs; `engine` counts dumps. Raise MetaclipError where a source cannot be read, or gives another number of entries than
    the recipe says, or the list is another than the recipe's.
    """

    def offers() -> Iterator[tuple[Share, Candidates]]:
        for source in made.sources:
            note(f"{source.given.source}: {source.given.kind}")
            yield Share(source.given.source, source.given.budget, source.given.trusted), source.candidates(engine)

    table, given = merge(offers(), rule, made.total)
    for source, one in zip(made.sources, given, strict=True):
        if source.given.gives not in (None, one.new):
            raise MetaclipError(
                f"{source.where}: {source.given.source!r} gives {one.new:,} entries, the recipe says {source.given.gives:,}; "
                "its source has changed, or correct the recipe"
            )
    found = digest(table)
    if made.digest not in (None, found):
        raise MetaclipError(
            f"the list's digest is {found}, the recipe says {made.digest}; a source has changed, or correct it"
        )
    return table, given


def digest(table: pa.Table) -> str:
    r"""Give the identity of a built list: sha256 of its entries joined by "\n"."""
    return hashlib.sha256("\n".join(table["entry"].to_pylist()).encode()).hexdigest()


def check_out(path: str | os.PathLike[str]) -> None:
    """Refuse a name that is not of a parquet file, before the sources run."""
    if Path(path).suffix != ".parquet":
        raise MetaclipError(f"--out is {path}, must end in .parquet: a built list carries sources, scores and ranks")


def write(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write a built list as parquet, whole or not at all; the same list makes the same bytes with the same pyarrow."""
    check_out(path)
    out = Path(path)
    try:
        with atomic_write(out) as temporary:
            pq.write_table(
                table, temporary, compression="zstd", compression_level=19, use_dictionary=["source"],
                column_encoding={"entry": "DELTA_LENGTH_BYTE_ARRAY", "score": "BYTE_STREAM_SPLIT", "rank": "DELTA_BINARY_PACKED"},
                row_group_size=1 << 20, write_statistics=False, store_schema=False,
            )  # fmt: skip
    except OSError as error:
        raise MetaclipError(f"{out} cannot be written ({one_line(error)}); check space and permissions") from None


def render(table: pa.Table, given: Sequence[Given]) -> str:
    """Give the composition for a reader: a row a source, then the total and the digest."""
    lines = [f"{'source':<10} {'candidates':>11} {'new':>9}   left out"]
    for one in given:
        reasons = [
            f"{count:,} {reason}" for reason, count in (one.facts.get("left_out", {}) | one.left_out).items() if count
        ]
        lines.append(f"{one.share.source:<10} {one.candidates:>11,} {one.new:>9,}   {'; '.join(reasons)}".rstrip())
    return "\n".join([*lines, f"{'total':<10} {'':>11} {len(table):>9,}   digest {digest(table)}"])
