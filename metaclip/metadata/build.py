"""Builds a query list from a recipe: runs its sources in order, merges their candidates, checks and writes the list.

Law: the same recipe gives the same list in the same order, on every machine and with any hash seed of Python, and the same
bytes with the same pyarrow.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.arguments import PATH, check_types
from metaclip.engine import Engine, Progress
from metaclip.errors import MetaclipError, one_line
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import list_digest
from metaclip.metadata.build_languages import keep, read_kept, render_languages, run_languages
from metaclip.metadata.build_recipe import BuildRecipe, read
from metaclip.metadata.candidates import Candidates, Contribution, SourceLimits, merge
from metaclip.stage.runner import RunOptions
from metaclip.storage.files import atomic_write

_SMALL: Final = 1 << 20


@dataclasses.dataclass(frozen=True)
class BuiltList:
    """A query list that was built and written."""

    path: str
    table: pa.Table
    """entry, language if the list has several, source, score, rank, as the file has them."""
    contributions: list[Contribution]
    """What each source gave; empty for a list from the cache."""
    recipe: BuildRecipe

    def __repr__(self) -> str:
        """Show the composition of the list."""
        if self.recipe.languages:
            return render_languages(self.table, self.recipe, self.contributions)
        return render(self.table, self.contributions)


def build(
    recipe: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    languages: Sequence[str] | None = None,
    options: RunOptions | None = None,
) -> BuiltList:
    """Build the query list of a recipe, a TOML file, and write it to `out`, a parquet file.

    `languages` are the codes of those languages of the recipe that the list shall have, by default all. A list of languages
    whose digest the recipe has is kept in the cache folder, and read from there the next time. The engine of
    `options` counts dumps; `options.progress` shows the sources on standard error. Raise MetaclipError for a recipe that
    cannot be read, for a language that it does not have, and as `run_sources` and `run_languages` do.

    >>> from metaclip import build
    >>> build("metadata/toy.toml", out="toy.parquet").table.num_rows
    167
    """
    check_types(
        recipe=(recipe, PATH),
        out=(out, PATH),
        languages=(languages, Sequence | None),
        options=(options, RunOptions | None),
    )
    made, options = read(recipe), options or RunOptions()
    if languages is not None:
        made = made.of_languages(languages)
    check_out(out)
    kept = read_kept(made) if made.languages else None
    if kept is not None:
        table, contributions = kept, list[Contribution]()
    elif made.languages:
        table, contributions = run_languages(made, PAPER, options.progress, options.active_engine)
    else:
        progress = Progress("build", None, options.progress)
        table, contributions = run_sources(made, PAPER, progress.show, options.active_engine)
    write(table, out)
    if made.languages and kept is None:
        keep(made, Path(out))
    return BuiltList(os.fspath(out), table, contributions, made)


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
    level = 19 if len(table) <= _SMALL else 9  # minutes against seconds for 10 M entries, and 10% smaller
    try:
        with atomic_write(Path(path)) as temporary:
            pq.write_table(
                table, temporary, compression="zstd", compression_level=level, use_dictionary=["language", "source"],
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
