"""Numbers, the entries of another list, and lists of words in packages."""

from __future__ import annotations

import dataclasses
import unicodedata

import msgspec

from metaclip.errors import MetaclipError, one_line
from metaclip.metadata import Metadata
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import packages
from metaclip.metadata.sources.packages import Package
from metaclip.storage.files import decode_utf8


@dataclasses.dataclass(frozen=True)
class NumberSettings:
    """A range of numbers, both ends included; the paper's is 0 to 99."""

    first: int = 0
    last: int = 99

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(
                f"first and last are {self.first} and {self.last}, must be 0 <= first <= last"
            )


@dataclasses.dataclass(frozen=True)
class ListSettings:
    """Another list."""

    path: str
    """txt, json or parquet, plain or gzipped; relative to the recipe's folder."""


@dataclasses.dataclass(frozen=True)
class WordListSettings:
    """A list of words in a package."""

    package: Package
    member: str
    """A text with a word at the beginning of each line, up to a tab, and comments behind "#"; or a JSON array of words."""


def numbers(settings: NumberSettings) -> Candidates:
    """Return the numbers in ascending order, without scores."""
    return Candidates.of(map(str, range(settings.first, settings.last + 1)), {})


def entries_of_list(settings: ListSettings) -> Candidates:
    """Return the entries of another list in its order, with its scores."""
    metadata = Metadata.read(settings.path)
    return Candidates(metadata.entries, metadata.score, {"read": settings.path, "list": metadata.digest})


def words(settings: WordListSettings) -> Candidates:
    """Return the words of a list in a package in its order, in Unicode's composed form, without scores."""
    where = f"{settings.package}, {settings.member}"
    data = packages.read(settings.package, settings.member)
    if settings.member.endswith(".json"):
        try:
            found = msgspec.json.decode(data, type=list[str])
        except (ValueError, RecursionError) as error:
            raise MetaclipError(
                f"{where} is no JSON array of words ({one_line(error)}); check the recipe"
            ) from None
    else:
        lines = decode_utf8(data, where).splitlines()
        found = [line.partition("\t")[0].strip() for line in lines if not line.startswith("#")]
    composed = dict.fromkeys(unicodedata.normalize("NFC", word) for word in found if word)
    return Candidates.of(
        composed,
        {"read": where, "rows": len(found), "left_out": {"repeated": len(found) - len(composed)}},
    )
