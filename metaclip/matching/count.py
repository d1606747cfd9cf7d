"""Counts: for each entry the number of texts that match it.

Law: ``count[e] = number of texts that match e`` (unit: text; uint64). Counts of different shards are added. Only counts of
the same list under the same rule may be added: a `Counts` holds the identities of both and refuses others.
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
        # flatten() skips values under nulls and outside a slice.
        add_ids(counts, chunk.flatten().to_numpy())
    return counts


def add_ids(counts: npt.NDArray[np.uint64], ids: npt.NDArray[np.uint32]) -> None:
    """Add the entry ids of matches to `counts` in place; few ids take as long as one per entry."""
    if len(ids) and int(ids.max()) >= len(counts):
        raise ValueError(f"an entry id of {ids.max()} in matches, but the list has {len(counts)} entries")
    counts += np.bincount(ids, minlength=len(counts)).astype(np.uint64)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of the entries of a list under a rule, with the identities of both."""

    values: npt.NDArray[np.uint64]
    list_digest: str
    rule_identity: str

    def __add__(self, other: Counts) -> Counts:
        """Add two counts. Raise MetaclipError if they are of different lists or rules."""
        for name, mine, theirs in (
            ("list", self.list_digest, other.list_digest),
            ("text rule", self.rule_identity, other.rule_identity),
            ("number of entries", len(self.values), len(other.values)),
        ):
            if mine != theirs:
                raise MetaclipError(f"counts of different {name}s cannot be added: {mine} and {theirs}")
        return Counts(self.values + other.values, self.list_digest, self.rule_identity)
