"""The settings that determine the pairs of a crawl (the table [extract] of a recipe), and the lists that they name."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Final, Literal, get_args

from metaclip.extract.filters import BlockedWords, Filters, UrlList
from metaclip.extract.html_pages import ImageOptions
from metaclip.storage.files import read_lines

SEMANTICS: Final = 1
"""Raised when the same input would give other pairs."""

Dedupe = Literal["uid", "url", "none"]
LIST_SETTINGS: Final = ("blocked_domains", "opt_out", "blocked_words")
"""Settings that name a file; a recipe's paths are relative to its folder."""


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
    dedupe: Dedupe = "uid"
    """What two pairs must have in common for the later one to be left out."""

    def __post_init__(self) -> None:
        if self.first is not None and self.sample is not None:
            raise ValueError("first and sample are both given; give one")
        for name in ("first", "sample", "min_text", "max_text"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, must be at least 1")
        if self.max_text < self.min_text:
            raise ValueError(f"max_text is {self.max_text}, must be at least min_text, {self.min_text}")
        if not 0 <= self.min_lang_score <= 1:
            raise ValueError(f"min_lang_score is {self.min_lang_score}, must be between 0 and 1")
        if not self.identify and (self.lang is not None or self.min_lang_score > 0):
            raise ValueError("lang and min_lang_score need identify = true")
        if self.lang is not None and not self.languages:
            raise ValueError('lang is empty; name languages as "en" or "en,de", or leave it out')
        if self.dedupe not in get_args(Dedupe):
            raise ValueError(f"dedupe is {self.dedupe!r}, must be one of {', '.join(get_args(Dedupe))}")

    @property
    def languages(self) -> frozenset[str]:
        """The languages to keep; empty for all."""
        return frozenset(filter(None, (self.lang or "").lower().replace(" ", "").split(",")))

    @property
    def image_options(self) -> ImageOptions:
        """What is read of an image."""
        return ImageOptions(self.titles, self.captions, self.lazy, self.srcset)


@dataclasses.dataclass(frozen=True)
class FilterLists:
    """The lines of the files that settings name."""

    blocked_domains: tuple[str, ...] = ()
    opt_out: tuple[str, ...] = ()
    blocked_words: tuple[str, ...] = ()

    @classmethod
    def read(cls, settings: ExtractSettings) -> FilterLists:
        """Read the files. Raise MetaclipError if one is missing or is not UTF-8."""
        lists: dict[str, tuple[str, ...]] = {}
        for name in LIST_SETTINGS:
            if (path := getattr(settings, name)) is not None:
                lines = read_lines(path, f"{name.replace('_', '-')} list", may_be_empty=True)
                lists[name] = tuple(line for line in lines if not line.startswith("#"))
        return cls(**lists)

    def filters(self, settings: ExtractSettings) -> Filters:
        """Return the filters of these lists and of the settings."""
        return Filters(
            min_text=settings.min_text,
            max_text=settings.max_text,
            blocked=UrlList.parse(self.blocked_domains),
            opted_out=UrlList.parse(self.opt_out),
            words=BlockedWords(self.blocked_words) if self.blocked_words else None,
            languages=settings.languages,
            min_lang_score=settings.min_lang_score,
        )


def fingerprint(settings: ExtractSettings, lists: FilterLists, names: list[str]) -> dict[str, Any]:
    """Return everything that determines the pairs, except for the bytes of the input files (their markers hold digests)."""
    table = dataclasses.asdict(settings)
    for name in ("prefix", "first", "sample", "seed", *LIST_SETTINGS):  # the names and digests cover them
        del table[name]
    digests = {
        name: hashlib.sha256("\n".join(lines).encode()).hexdigest() if (lines := getattr(lists, name)) else None
        for name in LIST_SETTINGS
    }
    return {"semantics": SEMANTICS, **table, "lists": digests, "inputs": names}
