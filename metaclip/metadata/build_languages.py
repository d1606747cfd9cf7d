"""Builds a list of several languages: runs each source for all of them, then merges and checks one after the other.

Law: the list of a language does not depend on which other languages are built with it. So a recipe has the digest of each
language's entries, and a build of some languages is checked as strictly as one of all.

Memory: the candidates of all languages as Arrow arrays, and those of one language as Python strings.
"""

from __future__ import annotations

import collections
import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.engine import Engine, Progress
from metaclip.errors import MetaclipError
from metaclip.matching.text_rule import TextRule
from metaclip.metadata import list_digest
from metaclip.metadata.build_recipe import BuildRecipe
from metaclip.metadata.candidates import LANGUAGE_SCHEMA, Contribution, merge_languages
from metaclip.metadata.languages import language_ranges
from metaclip.storage.files import atomic_write, cache_folder

LARGE: Final = 100_000
"""The number of entries from which on a language's list has the words that texts have most, and most of its names."""
SMALL: Final = 10_000
"""The number below which a list is too small to balance with: it has names, but few words."""


def run_languages(
    made: BuildRecipe, rule: TextRule, shown: bool | None = None, engine: Engine | None = None
) -> tuple[pa.Table, list[Contribution]]:
    """Run a recipe's sources for its languages and merge their candidates, as `build.run_sources` does without languages.

    Return the list (a table of `metaclip.metadata.candidates.LANGUAGE_SCHEMA`, languages in the recipe's order) and the
    contribution of each source over all languages. `shown` shows a progress bar (None: on a terminal). Raise MetaclipError
    if a source cannot be read, if a language has no entry, and for another number of entries or another digest than the
    recipe says.
    """
    tables, totals = list[pa.Table](), dict[str, Contribution]()
    with Progress("build", len(made.sources) + len(made.languages), shown, "steps") as progress:
        offers = []
        for source in made.sources:
            progress.show(
                f"{source.common.source}: {source.common.kind} {source.common.for_language or ''}".rstrip()
            )
            offers.append((source.common, source.by_language(made.languages, engine)))
            progress.advance(1, 0)
        for language, table, contributions in merge_languages(offers, made.languages, rule):
            _check(made, language, table)
            tables.append(table)
            for one in contributions:
                earlier = totals.get(one.source)
                totals[one.source] = one if earlier is None else _add(earlier, one)
            progress.advance(1, 0)
    table = pa.concat_tables(tables)  # in pieces: one piece would take the memory twice
    found = list_digest(table["entry"], _ranges(table))
    if made.digest not in (None, found):
        raise MetaclipError(
            f"the list's digest is {found}, the recipe says {made.digest}; a source has changed, or correct the recipe"
        )
    return table, list(totals.values())


def read_kept(made: BuildRecipe) -> pa.Table | None:
    """Return the list of a recipe from the cache, where `keep` put it; None if it is not there, or damaged.

    A recipe without a digest has none there: the digest is what says that a list is the recipe's.
    """
    with contextlib.suppress(OSError, pa.ArrowException, MetaclipError):
        table = pq.read_table(_kept_path(made), schema=LANGUAGE_SCHEMA, partitioning=None)
        if list_digest(table["entry"], _ranges(table)) == made.digest:
            return table
    return None


def keep(made: BuildRecipe, path: Path) -> None:
    """Copy the list that was built of a recipe to the cache; do nothing if that fails, or if the recipe has no digest."""
    if made.digest is not None:
        with contextlib.suppress(OSError), atomic_write(_kept_path(made)) as temporary:
            shutil.copyfile(path, temporary)


def _kept_path(made: BuildRecipe) -> Path:
    return cache_folder() / "lists" / f"{made.digest}.parquet"


def _check(made: BuildRecipe, language: str, table: pa.Table) -> None:
    known = made.languages[language]
    for what, found, expected in (
        ("number of entries", len(table), known.entries),
        ("digest", list_digest(table["entry"]), known.digest),
    ):
        if expected not in (None, found):
            raise MetaclipError(
                f"the {what} of the language {language!r} is {found}, the recipe says {expected}; "
                "a source or the version of ICU has changed, or correct the recipe"
            )


def _add(first: Contribution, second: Contribution) -> Contribution:
    return Contribution(
        first.source,
        first.candidates + second.candidates,
        first.new + second.new,
        dict(collections.Counter(first.left_out) + collections.Counter(second.left_out)),
        first.facts,
    )


def _ranges(table: pa.Table) -> dict[str, range]:
    return language_ranges(table["language"].combine_chunks(), "the list", 0)


def render_languages(table: pa.Table, made: BuildRecipe, contributions: Sequence[Contribution]) -> str:
    """Return the composition of a list for readers: entries by language and source, the largest language first, and the total.

    Below it stand the languages that are short of `LARGE` and `SMALL`, with the sources that they have; the licence of each
    source; what was left out; and the digest.
    """
    by_language = {code: collections.Counter[str]() for code in made.languages}
    for row in table.group_by(["language", "source"]).aggregate([([], "count_all")]).to_pylist():
        by_language[row["language"]][row["source"]] = row["count_all"]
    total = sum(by_language.values(), collections.Counter[str]())
    names = [
        name for name in dict.fromkeys(source.common.source for source in made.sources) if total[name]
    ]
    ranked = sorted(by_language.items(), key=lambda item: (-item[1].total(), item[0]))
    lines = [" ".join([f"{'language':<9} {'entries':>10}", *(f"{name:>10}" for name in names)])]
    for language, found in [*ranked, ("total", total)]:
        cells = (f"{found[name]:>10,}" if found[name] else " " * 10 for name in names)
        lines.append(" ".join([f"{language:<9} {found.total():>10,}", *cells]).rstrip())
    lines += ["", *_shortfalls(by_language, names), ""]
    lines += [f"licence of {name}: {licence}" for name, licence in _licences(made)]
    for one in contributions:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in one.left_out.items())
        lines += [f"left out of {one.source}: {reasons}"] if reasons else []
    return "\n".join([*lines, f"digest {list_digest(table['entry'], _ranges(table))}"])


def _shortfalls(
    by_language: Mapping[str, collections.Counter[str]], names: Sequence[str]
) -> Iterator[str]:
    """Yield how many languages have enough entries, and which ones have not, by the sources that they have."""
    for least in (LARGE, SMALL):
        short: dict[str, list[str]] = collections.defaultdict(list)
        for language, found in by_language.items():
            if found.total() < least:
                short[", ".join(name for name in names if found[name])].append(language)
        enough = len(by_language) - sum(map(len, short.values()))
        yield f"{enough} languages have {least:,} entries or more"
        for sources, languages in short.items():
            yield f"short of that, with {sources} only: {', '.join(sorted(languages))}"


def _licences(made: BuildRecipe) -> list[tuple[str, str]]:
    """Return each source with its licence; of sources of one name, those of one licence with their languages."""
    languages: dict[tuple[str, str], dict[str, None]] = collections.defaultdict(dict)
    for one in (source.common for source in made.sources):
        if one.licence is not None and (one.for_language is None or one.for_language in made.languages):
            codes = [] if one.for_language is None else [one.for_language]
            languages[one.source, one.licence] |= dict.fromkeys(codes)
    return [
        (f"{name} ({', '.join(codes)})" if codes else name, licence)
        for (name, licence), codes in languages.items()
    ]
