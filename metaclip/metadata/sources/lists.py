"""Sources that need no data from outside: numbers, and the entries of another list."""

from __future__ import annotations

import dataclasses

from metaclip.metadata import Metadata
from metaclip.metadata.candidates import Candidates


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


def numbers(settings: NumberSettings) -> Candidates:
    """Return the numbers in ascending order, without scores."""
    return Candidates.of(map(str, range(settings.first, settings.last + 1)), {})


def entries_of_list(settings: ListSettings) -> Candidates:
    """Return the entries of another list in its order, with its scores."""
    metadata = Metadata.read(settings.path)
    return Candidates(metadata.entries, metadata.score, {"read": settings.path, "list": metadata.digest})
