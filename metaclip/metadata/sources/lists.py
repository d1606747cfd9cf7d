"""Sources that need nothing from outside: numbers, and the entries of another list."""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from metaclip.metadata.candidates import Candidates
from metaclip.metadata.entries import Metadata


@dataclasses.dataclass(frozen=True)
class NumberSettings:
    """Which numbers; the paper's are 0 to 99."""

    first: int = 0
    last: int = 99

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"first and last are {self.first} and {self.last}, must be 0 <= first <= last")


@dataclasses.dataclass(frozen=True)
class ListSettings:
    """Another list."""

    path: str
    """txt, json or parquet, maybe gzipped; relative to the recipe's folder."""


def numbers(settings: NumberSettings) -> Candidates:
    """Give the numbers, ascending, without scores."""
    entries = pa.array([str(number) for number in range(settings.first, settings.last + 1)], pa.string())
    return Candidates(entries, pa.nulls(len(entries), pa.float64()), {})


def another(settings: ListSettings) -> Candidates:
    """Give the entries of another list in its order, with its scores."""
    metadata = Metadata.read(settings.path)
    return Candidates(metadata.entries, metadata.score, {"read": settings.path, "list": metadata.digest})
