"""Counts: for each entry the number of texts that match it.

Law: ``count[e] = number of texts that match e`` (unit: text; uint64). Counts of different shards are added, and only
counts of one list under one rule may be: a `Counts` carries both digests and refuses others.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.errors import MetaclipError


def count_matches(matches: pa.Array | pa.ChunkedArray, n_entries: int) -> npt.NDArray[np.uint64]:
    """Count the rows that hold each entry id: uint64[n_entries]."""
    counts = np.zeros(n_entries, np.uint64)
    for chunk in matches.chunks if isinstance(matches, pa.ChunkedArray) else [matches]:
        # flatten() leaves out what stands under nulls and outside a slice.
        add_ids(counts, chunk.flatten().to_numpy())
    return counts


def add_ids(counts: npt.NDArray[np.uint64], ids: npt.NDArray[np.uint32]) -> None:
    """Add the entry ids of matches to `counts`, in place; as slow for few as for one an entry."""
    if len(ids) and int(ids.max()) >= len(counts):
        raise ValueError(f"an entry id of {ids.max()} in matches, but the list has {len(counts)} entries")
    counts += np.bincount(ids, minlength=len(counts)).astype(np.uint64)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts with the identity of what was counted."""

    values: npt.NDArray[np.uint64]
    list_digest: str
    rule_identity: str

    def __add__(self, other: Counts) -> Counts:
        """Add two counts; MetaclipError if they are not of one list and one rule."""
        for name, mine, theirs in (
            ("list", self.list_digest, other.list_digest),
            ("text rule", self.rule_identity, other.rule_identity),
            ("number of entries", len(self.values), len(other.values)),
        ):
            if mine != theirs:
                raise MetaclipError(f"counts of different {name}s cannot be added: {mine} and {theirs}")
        return Counts(self.values + other.values, self.list_digest, self.rule_identity)
