"""The two stages of a run: their names, outputs and partial results."""

from __future__ import annotations

from typing import Final

from metaclip.stage.stage import StageSpec

MATCH: Final = StageSpec(
    "match",
    outputs=("matched", "counts.parquet", "duplicates.npy"),
    partials=("*.counts.npy", "*.uids.npy"),
    semantics=1,
)
"""Its semantics are raised when the same input would give other matches, counts or uids."""

BALANCE: Final = StageSpec(
    "balance",
    outputs=("entries.parquet", "curated", "curated.npy", "card.json", "card.md"),
    partials=("*.tally.npy", "*.uids.npy", "*.repeats.npy"),
    semantics=1,
)
"""Its semantics are raised when the same counts and seed would give other pairs."""
