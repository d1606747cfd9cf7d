"""Recipes of query lists: what a list is built of.

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

A list of several languages names them, in the list's order:

    [build.languages]
    ja = { entries = 240_315, digest = "..." }   # of this language's entries, as of a list of its own; checked if given
    th = {}

    [[build.sources]]
    source = "word"
    for_language = "th"                # what it gives entries to; without it all languages, or those that the source knows
    skip = ["en"]                      # instead of for_language: all but these
    up_to = 251_465                    # it gives new entries until its language has so many
    ...

    [build]
    extends = "other.toml"             # a recipe whose languages and sources come first

A source one of whose settings holds "{language}" stands for one source for each language, in which the code replaces it.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from metaclip import recipe as recipes
from metaclip.engine import Engine
from metaclip.errors import MetaclipError
from metaclip.metadata.candidates import Candidates, SourceLimits
from metaclip.metadata.languages import is_language_code


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
    by_language: bool = False
    """Whether the function takes codes of languages and returns candidates for each that it knows."""
    uses_language: bool = False
    """Whether the function takes the language of its candidates, None in a list without languages."""


KINDS: Final = {
    "numbers": SourceKind("lists", "NumberSettings", "numbers"),
    "list": SourceKind("lists", "ListSettings", "entries_of_list", paths=("path",)),
    "wordnet": SourceKind("wordnet", "WordnetSettings", "candidates", paths=("folder",)),
    "word list": SourceKind("lists", "WordListSettings", "words"),
    "words": SourceKind("words", "WordSettings", "unigrams"),
    "pairs": SourceKind("words", "PairSettings", "bigrams"),
    "vital titles": SourceKind("titles", "VitalSettings", "vital"),
    "popular titles": SourceKind("titles", "PopularSettings", "popular"),
    "places": SourceKind("titles", "PlaceSettings", "places"),
    "dump unigrams": SourceKind(
        "ngrams", "NgramSettings", "candidates", ("unigram",), uses_engine=True, uses_language=True
    ),
    "dump bigrams": SourceKind(
        "ngrams", "NgramSettings", "candidates", ("bigram",), uses_engine=True, uses_language=True
    ),
    "pageviews": SourceKind("pageviews", "PageviewSettings", "candidates"),
    "category": SourceKind("category", "CategorySettings", "candidates"),
    "word frequencies": SourceKind(
        "word_frequencies", "FrequencySettings", "candidates", by_language=True
    ),
    "spelling dictionary": SourceKind("hunspell", "HunspellSettings", "candidates"),
    "cldr names": SourceKind("cldr", "NameSettings", "candidates", by_language=True),
    "place names": SourceKind("place_names", "PlaceNameSettings", "candidates", by_language=True),
}


_PLACEHOLDER: Final = "{language}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceSettings(SourceLimits):
    """The keys that every source has; the others are the settings of its kind."""

    kind: str
    licence: str | None = None
    gives: int | None = None
    for_language: str | None = None
    """The language of its candidates."""
    skip: tuple[str, ...] = ()
    """Languages that it gives nothing to."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, must be one of {', '.join(KINDS)}")
        if self.for_language is not None and self.skip:
            raise ValueError("for_language and skip are given; skip is for sources of several languages")
        recipes.check_minimums(self, budget=1, up_to=1)


@dataclasses.dataclass(frozen=True)
class LanguageSettings:
    """What is known of the list of a language; checked."""

    entries: int | None = None
    digest: str | None = None
    """The digest of its entries, as if they were a list without languages."""


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
        made: Candidates = self._call(engine)
        return made

    def by_language(
        self, languages: Collection[str], engine: Engine | None = None
    ) -> dict[str, Candidates]:
        """Run the source for those of these languages that it has; return its candidates by language."""
        wanted = [
            code
            for code in languages
            if self.common.for_language in (None, code) and code not in self.common.skip
        ]
        if not wanted:
            return {}
        if KINDS[self.common.kind].by_language:
            made: dict[str, Candidates] = self._call(engine, wanted)
            return made
        return dict.fromkeys(wanted, self.candidates(engine))

    def _call(self, engine: Engine | None, *arguments: Any) -> Any:
        kind = KINDS[self.common.kind]
        function: Callable[..., Any] = getattr(kind_module(kind), kind.function)
        named: dict[str, Any] = {"engine": engine} if kind.uses_engine else {}
        if kind.uses_language:
            named["language"] = self.common.for_language
        return function(self.settings, *kind.arguments, *arguments, **named)


@dataclasses.dataclass(frozen=True)
class BuildRecipe:
    """The table [build] of a recipe."""

    total: int | None = None
    digest: str | None = None
    sources: tuple[Source, ...] = ()
    languages: Mapping[str, LanguageSettings] = dataclasses.field(default_factory=dict)
    """The languages of the list, in its order; empty for a list without languages."""

    def of_languages(self, codes: Collection[str]) -> BuildRecipe:
        """Return the recipe for some of its languages. Raise MetaclipError for a language that it does not have."""
        for code in codes:
            if code not in self.languages:
                raise MetaclipError(
                    f"the recipe has no language {code!r}; "
                    f"languages: {', '.join(self.languages) or 'none, it makes a list without languages'}"
                )
        kept = {code: known for code, known in self.languages.items() if code in codes}
        digest = self.digest if len(kept) == len(self.languages) else None
        return dataclasses.replace(self, languages=kept, digest=digest)


def read(path: str | os.PathLike[str]) -> BuildRecipe:
    """Read a recipe. Raise MetaclipError, naming the key, for a key that is missing, unknown, or of another type."""
    where, table, numbered = _read_tables(path)
    languages: dict[str, Any] = {}
    if (extended := table.pop("extends", None)) is not None:
        if not isinstance(extended, str):
            raise MetaclipError(f"{where}: extends is {extended!r:.80}, must be the path of a recipe")
        other, base, of_base = _read_tables(recipes.path_in(path, extended))
        if "extends" in base:
            raise MetaclipError(f"{other}: it extends a recipe too; extend that one")
        # What other sources add to a language changes its list, so what is known of it does not hold.
        languages = {code: {} for code in _languages(base, other)}
        numbered = of_base + numbered
    languages |= _languages(table, where)
    made = recipes.settings(BuildRecipe, {key: table[key] for key in table.keys() - {"languages"}}, where)
    known = {
        code: recipes.settings(LanguageSettings, of_language, f"{where}, languages, {code}")
        for code, of_language in languages.items()
    }
    if known and made.total is not None:
        raise MetaclipError(f"{where}: total is for a list without languages; give up_to to sources")
    read_sources = (_sources(source, at, origin, known) for at, origin, source in numbered)
    return dataclasses.replace(
        made, sources=tuple(itertools.chain.from_iterable(read_sources)), languages=known
    )


def _read_tables(
    path: str | os.PathLike[str],
) -> tuple[str, dict[str, Any], list[tuple[str, str | os.PathLike[str], Any]]]:
    """Return the position of the table [build] for messages, its keys without sources, and each source with position and file."""
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
    numbered = [
        (f"{name}, [[build.sources]] {number}", path, source) for number, source in enumerate(sources, 1)
    ]
    return f"{name}, [build]", table, numbered


def _languages(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    languages = table.get("languages", {})
    if not isinstance(languages, Mapping):
        raise MetaclipError(f"{where}: languages is {languages!r:.80}, must be a table of languages")
    for code in languages:
        if not is_language_code(code):
            raise MetaclipError(
                f"{where}, languages: {code!r:.80} is no code such as en or zh-Hant; correct it"
            )
    return dict(languages)


def _sources(
    table: Any, where: str, path: str | os.PathLike[str], languages: Collection[str]
) -> Iterator[Source]:
    """Yield the sources of a table: one for each language if a setting holds "{language}", else one."""
    if not isinstance(table, Mapping):
        raise MetaclipError(f"{where} is {table!r:.80}, must be a table")
    texts = {key: value for key, value in table.items() if isinstance(value, str)}
    if not any(_PLACEHOLDER in value for value in texts.values()):
        yield _source(table, where, path, languages)
        return
    if not languages or "for_language" in table:
        raise MetaclipError(
            f"{where}: {_PLACEHOLDER} stands for each language of the table [build.languages]; "
            f"{'remove the key for_language' if languages else 'add that table'}, or write a language in its place"
        )
    for language in languages:
        filled = {key: value.replace(_PLACEHOLDER, language) for key, value in texts.items()}
        yield _source({**table, **filled, "for_language": language}, where, path, languages)


def _source(
    table: Mapping[str, Any], where: str, path: str | os.PathLike[str], languages: Collection[str]
) -> Source:
    names = {field.name for field in dataclasses.fields(SourceSettings)}
    common = recipes.settings(SourceSettings, {key: table[key] for key in names & table.keys()}, where)
    of_languages = [*common.skip, *([common.for_language] if common.for_language is not None else [])]
    for code in of_languages:
        if code not in languages:
            raise MetaclipError(
                f"{where}: the language {code!r} is not in the table [build.languages]; add it there, or correct it"
            )
    kind = KINDS[common.kind]
    if not languages and (kind.by_language or common.up_to is not None):
        what = common.kind if kind.by_language else "up_to"
        raise MetaclipError(
            f"{where}: {what!r} is for a list of several languages; add the table [build.languages]"
        )
    if languages and (common.budget is not None or common.gives is not None):
        raise MetaclipError(
            f"{where}: budget and gives are for a list without languages; use up_to, or the source's limit"
        )
    rest = {key: value for key, value in table.items() if key not in names}
    rest |= {
        key: recipes.path_in(path, rest[key]) for key in kind.paths if isinstance(rest.get(key), str)
    }
    settings: type[Any] = getattr(kind_module(kind), kind.settings)
    return Source(common, recipes.settings(settings, rest, f"{where} ({common.kind})"), where)


def kind_module(kind: SourceKind) -> Any:
    """Import the module of a kind of source."""
    return importlib.import_module(f"metaclip.metadata.sources.{kind.module}")
