"""What determines a run: the tables [match] and [balance] of a recipe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final

from metaclip.curate.stages import MATCH
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata.entries import Metadata
from metaclip.pool.files import PoolFile

DEFAULT_TAIL_SHARE: Final = 0.06


@dataclasses.dataclass(frozen=True)
class MatchSettings:
    """What determines the matches of a pool: the table [match] of a recipe."""

    metadata: str | None = None
    """The query list: txt, json or parquet, each maybe gzipped."""
    fold_duplicates: bool = False
    """Keep the first of entries that stand twice in the list, instead of refusing it."""
    text_column: str | None = None
    """Name of the text column, where it is not text, caption or alt."""
    url_column: str | None = None
    """Name of the url column, where it is not url."""
    uid_column: str | None = None
    """Name of the uid column, where it is not uid."""
    limit: int | None = None
    """Read only the first so many rows of the pool."""
    with_text: bool = False
    """Carry url and text in matched/."""
    rule: TextRule = PAPER

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}, must be at least 1")

    def fingerprint(self, metadata: Metadata, files: Sequence[PoolFile]) -> dict[str, Any]:
        """Give everything that determines the stage's result, but for the bytes of the inputs (markers hold these)."""
        return {
            "semantics": MATCH.semantics,
            "list": metadata.digest,
            "rule": dataclasses.asdict(self.rule),
            "columns": {"text": self.text_column, "url": self.url_column, "uid": self.uid_column},
            "limit": self.limit,
            "with_text": self.with_text,
            "pool": [file.name for file in files],
        }


@dataclasses.dataclass(frozen=True)
class BalanceSettings:
    """What determines the draw: the table [balance] of a recipe; at most one of t, tail_share, target_pairs."""

    t: float | None = None
    """The threshold: an entry with a larger count is thinned."""
    tail_share: float | None = None
    """Solve t so that the entries below it hold this share of all counts (0.06 if nothing is given)."""
    target_pairs: int | None = None
    """Solve t so that this many pairs are expected."""
    seed: int = 0

    def __post_init__(self) -> None:
        asked = {"t": self.t, "tail_share": self.tail_share, "target_pairs": self.target_pairs}
        given = [f"{name} = {value}" for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, must be one of them")
        if self.t is not None and not (self.t > 0 and math.isfinite(self.t)):
            raise ValueError(f"t is {self.t:g}, must be a finite number above 0")
        if self.tail_share is not None and not 0 <= self.tail_share < 1:
            raise ValueError(f"tail_share is {self.tail_share:g}, must be at least 0 and below 1")
        if self.target_pairs is not None and self.target_pairs < 1:
            raise ValueError(f"target_pairs is {self.target_pairs}, must be at least 1")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed is {self.seed}, must be at least 0 and below 2**64")
