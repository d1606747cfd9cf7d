"""The settings that determine the pairs of a crawl (the table [extract] of a recipe), and the lists that they name."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal

from metaclip.arguments import check_fields
from metaclip.errors import BadSetting, MetaclipError
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata
from metaclip.recipe import check_minimums
from metaclip.storage.files import read_lines

SEMANTICS: Final = 2
"""Raised when the same input would give other pairs."""

Dedupe = Literal["uid", "url", "none"]
LIST_SETTINGS: Final = ("blocked_domains", "opt_out", "blocked_words")
"""Settings that name a file of lines."""
PATH_SETTINGS: Final = (*LIST_SETTINGS, "matched", "robots")
"""Settings that name a file; a recipe's paths are relative to its folder."""
_LATER: Final = ("matched", "rule", "robots")
"""Settings that earlier pools lack: records and fingerprints name them only if they are given."""


@dataclasses.dataclass(frozen=True)
class ExtractSettings:
    """What determines the pairs of a crawl: the table [extract] of a recipe."""

    prefix: str = "https://data.commoncrawl.org/"
    """What precedes the paths of a list that have no scheme."""
    first: int | None = None
    """Take only this number of files, the first ones."""
    sample: int | None = None
    """Take this number of files, drawn by `seed` without replacement; a larger sample contains a smaller one."""
    seed: int = 0
    titles: bool = False
    """Take the title of an image as a text too."""
    captions: bool = False
    """Take the caption of the figure around an image as a text too (not from a WAT)."""
    lazy: bool = False
    """Take the address of an image from data-src and similar attributes if there is one (not from a WAT)."""
    srcset: bool = False
    """Take the largest image of a srcset (not from a WAT)."""
    min_text: int = 1
    """Minimum length of a text, in characters."""
    max_text: int = 1000
    """Maximum length of a text, in characters."""
    identify: bool = True
    """Identify the language of each text."""
    lang: str | None = None
    """Keep only these languages, as lid.176 names them: "en", or "en,de"."""
    min_lang_score: float = 0.0
    """Keep only texts whose language is identified with at least this score."""
    blocked_domains: str | None = None
    """A file of domains whose images and pages are left out."""
    opt_out: str | None = None
    """A file of domains and addresses whose owners do not want to be in the pool."""
    blocked_words: str | None = None
    """A file of words and phrases; texts that contain one are left out."""
    ignore_noai: bool = False
    """Keep what pages opt out by noai, noimageai, noimageindex, noml or tdm-reservation."""
    agents: str = "CCBot,img2dataset"
    """Names of agents whose opt-outs are honoured beside those for all agents, and to whom `robots` must allow everything."""
    dedupe: Dedupe = "uid"
    """What two pairs must have in common for the later one to be left out."""
    matched: str | None = None
    """A query list: only pairs whose text matches an entry are written; the others are counted."""
    rule: TextRule | None = None
    """The text rule of `matched`; None stands for the paper's."""
    robots: str | None = None
    """WARC files of robots.txt files (a folder, a file, a glob, a list): pages and images that they disallow are left out."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.first is not None and self.sample is not None:
            raise BadSetting("first and sample are both given; give one")
        check_minimums(self, first=1, sample=1, min_text=1, max_text=1)
        if self.max_text < self.min_text:
            raise BadSetting(f"max_text is {self.max_text}, must be at least min_text, {self.min_text}")
        if not 0 <= self.min_lang_score <= 1:
            raise BadSetting(f"min_lang_score is {self.min_lang_score}, must be between 0 and 1")
        if not self.identify and (self.lang is not None or self.min_lang_score > 0):
            raise BadSetting("lang and min_lang_score need identify = true")
        if self.rule is not None and self.matched is None:
            raise BadSetting("rule is given without matched; name the query list, or leave the rule out")
        if self.lang is not None and not self.languages:
            raise BadSetting('lang is empty; name languages as "en" or "en,de", or leave it out')

    @functools.cached_property
    def languages(self) -> frozenset[str]:
        """The languages to keep; empty for all."""
        return frozenset(filter(None, (self.lang or "").lower().replace(" ", "").split(",")))

    @property
    def text_rule(self) -> TextRule:
        """The rule by which `matched` matches."""
        return self.rule or PAPER

    @property
    def record(self) -> dict[str, Any]:
        """The settings as manifests have them; those that earlier records lack only if they are given."""
        record = dataclasses.asdict(self)
        return {name: value for name, value in record.items() if name not in _LATER or value is not None}


DEFAULTS: Final = ExtractSettings()


def read_lists(settings: ExtractSettings) -> dict[str, list[str]]:
    """Read the files that settings name: the lines of each of `LIST_SETTINGS`, none where no file is named.

    Raise MetaclipError if a file is missing or is not UTF-8.
    """
    lists: dict[str, list[str]] = {name: [] for name in LIST_SETTINGS}
    for name, lines in lists.items():
        if (path := getattr(settings, name)) is not None:
            found = read_lines(path, f"{name.replace('_', '-')} list", may_be_empty=True)
            lines += [line for line in found if not line.startswith("#")]
    return lists


def read_entries(settings: ExtractSettings) -> Metadata | None:
    """Read the query list that the settings name, each entry once; None if they name none.

    Raise MetaclipError for a list with languages.
    """
    if settings.matched is None:
        return None
    entries = Metadata.read(settings.matched, fold_duplicates=True)
    if entries.languages:
        raise MetaclipError(
            f"{settings.matched} has languages, and extract matches by a list without; give one, or leave `matched=...` out and "
            "match the pool by its column lang"
        )
    return entries


def fingerprint(
    settings: ExtractSettings,
    lists: Mapping[str, list[str]],
    names: list[str],
    entries: Metadata | None = None,
    robots: str | None = None,
) -> dict[str, Any]:
    """Return everything that determines the pairs, except for the bytes of the input files (their markers hold digests).

    `robots` is the identity of the index of robots.txt files.
    """
    table = settings.record
    for name in ("prefix", "first", "sample", "seed", *PATH_SETTINGS):  # the names and digests cover them
        table.pop(name, None)
    if robots is not None:
        table["robots"] = robots
    if entries is not None:
        table |= {"matched": entries.digest, "rule": dataclasses.asdict(settings.text_rule)}
    digests = {
        name: hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else None
        for name, lines in lists.items()
    }
    return {"semantics": SEMANTICS, **table, "lists": digests, "inputs": names}
