"""What determines the pairs of a crawl: the table [extract] of a recipe."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Final, Literal, get_args

from metaclip.extract.filters import Filters, Listing, Words
from metaclip.extract.pages import Wanted
from metaclip.storage.files import read_lines

SEMANTICS: Final = 1
"""Raised when the same input would give other pairs."""

Dedupe = Literal["uid", "url", "none"]
LISTS: Final = ("blocked_domains", "opt_out", "blocked_words")
"""Settings that name a file; a recipe's paths are relative to its folder."""


@dataclasses.dataclass(frozen=True)
class ExtractSettings:
    """What determines the pairs of a crawl: the table [extract] of a recipe."""

    prefix: str = "https://data.commoncrawl.org/"
    """What stands before the paths of a list that has no scheme."""
    first: int | None = None
    """Take only the first so many files."""
    sample: int | None = None
    """Take so many files, drawn by `seed`, each at most once; a larger sample holds a smaller one."""
    seed: int = 0
    titles: bool = False
    """Take an image's title as a text too."""
    captions: bool = False
    """Take the caption of the figure that an image stands in as a text too (not in a WAT)."""
    lazy: bool = False
    """Take an image's address from data-src and the like where there is one (not in a WAT)."""
    srcset: bool = False
    """Take the largest image of a srcset (not in a WAT)."""
    min_text: int = 1
    """Characters that a text must have."""
    max_text: int = 1000
    """Characters that a text may have."""
    identify: bool = True
    """Tell languages."""
    lang: str | None = None
    """Keep only these languages, as lid.176 has them: "en", or "en,de"."""
    min_lang_score: float = 0.0
    """Keep only texts whose language is told with this score."""
    blocked_domains: str | None = None
    """A file of domains whose images and pages are left out."""
    opt_out: str | None = None
    """A file of domains and addresses that do not want to be in the pool."""
    blocked_words: str | None = None
    """A file of words and phrases whose texts are left out."""
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
        """The languages that are wanted; none: all."""
        return frozenset(filter(None, (self.lang or "").lower().replace(" ", "").split(",")))

    @property
    def wanted(self) -> Wanted:
        """What is asked of an image."""
        return Wanted(self.titles, self.captions, self.lazy, self.srcset)


@dataclasses.dataclass(frozen=True)
class Lists:
    """The lines of the files that settings name."""

    blocked_domains: tuple[str, ...] = ()
    opt_out: tuple[str, ...] = ()
    blocked_words: tuple[str, ...] = ()

    @classmethod
    def read(cls, settings: ExtractSettings) -> Lists:
        """Read the files. Raise MetaclipError for one that is missing or is not UTF-8."""
        return cls(**{name: _lines(getattr(settings, name), name) for name in LISTS})

    @property
    def digests(self) -> dict[str, str | None]:
        """What a fingerprint holds of them: of each its sha256, None where there is none."""
        return {
            name: hashlib.sha256("\n".join(lines).encode()).hexdigest() if (lines := getattr(self, name)) else None
            for name in LISTS
        }

    def filters(self, settings: ExtractSettings) -> Filters:
        """Make the filters."""
        words = Words(self.blocked_words) if self.blocked_words else None
        blocked, opted_out = Listing.of(self.blocked_domains), Listing.of(self.opt_out)
        return Filters(settings.min_text, settings.max_text, blocked, opted_out, words)


def _lines(path: str | None, name: str) -> tuple[str, ...]:
    if path is None:
        return ()
    lines = read_lines(path, f"{name.replace('_', '-')} list", may_be_empty=True)
    return tuple(line for line in lines if not line.startswith("#"))


def fingerprint(settings: ExtractSettings, lists: Lists, names: list[str]) -> dict[str, Any]:
    """Give everything that determines the pairs, but for the bytes of the inputs (markers hold these)."""
    table = dataclasses.asdict(settings)
    for name in ("prefix", "first", "sample", "seed", *LISTS):  # what they come to stands in names and digests
        del table[name]
    return {"semantics": SEMANTICS, **table, "lists": lists.digests, "inputs": names}
