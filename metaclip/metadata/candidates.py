"""What a source of entries offers: candidates, best first; `metaclip.metadata.build` merges them into a list."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidates of one source, in the source's own order (best first)."""

    entries: pa.Array
    """string, distinct, no nulls, valid UTF-8."""
    scores: pa.Array
    """float64, null where the source has none; what they measure is the source's affair (count, PMI, views, people)."""
    facts: Mapping[str, Any]
    """What a reader of the recipe asks: version, digest, licence, rows read, rows left out by reason. JSON values."""
