"""Matching texts against the query list: the Arrow arrays that every backend takes and returns, and the counts in them.

`metaclip.matching.matcher` finds matches, by the law of `metaclip.matching.text_rule`.

Law: ``count[e] = number of texts that match e`` (unit: text; uint64). Counts of different shards are added. Only counts of
the same list under the same rule may be added: a `Counts` holds the identities of both and refuses others.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.errors import BadSetting, MetaclipError
from metaclip.native import address, load

MATCHES: Final = pa.list_(pa.field("item", pa.uint32(), nullable=False))
"""The type of a column of matches: sorted, distinct entry ids; null where the text is null."""


class Backend(Protocol):
    """Finds the entries of a list in texts."""

    def match_array(self, texts: pa.Array) -> pa.Array:
        """Match a string or large_string array; return an array of the type MATCHES."""

    def match_text(self, text: str) -> list[int]:
        """Match one text; return the ascending entry ids."""


def decode_texts(texts: pa.Array) -> list[str | None]:
    """Return texts as Python strings; bytes that are not UTF-8 become lone surrogates, which no entry can hold."""
    values = texts.cast(binary_of(texts)).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values]


def binary_of(texts: pa.Array) -> pa.DataType:
    """Return the binary type that has the layout of a string or large_string array."""
    return pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()


def ids_and_offsets(matches: pa.Array) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Return (ids, offsets) of a column of matches: row i has ``ids[offsets[i]:offsets[i + 1]]``, and ``offsets[0]`` is 0."""
    offsets = np.asarray(matches.offsets).astype(np.int64)
    return np.ascontiguousarray(matches.flatten().to_numpy(), np.uint32), offsets - offsets[0]


def count_matches(matches: pa.Array | pa.ChunkedArray, n_entries: int) -> npt.NDArray[np.uint64]:
    """Count the rows that hold each entry id: uint64[n_entries]."""
    counts = np.zeros(n_entries, np.uint64)
    for chunk in matches.chunks if isinstance(matches, pa.ChunkedArray) else [matches]:
        # flatten() skips values under nulls and outside a slice.
        add_ids(counts, chunk.flatten().to_numpy())
    return counts


def check_ids(ids: npt.NDArray[np.uint32], n_entries: int) -> None:
    """Raise BadSetting unless all ids are of a list of `n_entries` entries: the compiled loops write where ids point."""
    if len(ids) and (last := int(ids.max())) >= n_entries:
        raise BadSetting(f"an entry id of {last} in matches, but the list has {n_entries} entries")


def add_ids(counts: npt.NDArray[np.uint64], ids: npt.NDArray[np.uint32]) -> None:
    """Add the entry ids of matches to `counts` in place."""
    check_ids(ids, len(counts))
    if (library := load()) is not None:
        library.mc_count(address(ids, np.uint32), len(ids), address(counts, np.uint64, written=True))
    else:
        np.add.at(counts, ids, np.uint64(1))


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """Counts of the entries of a list under a rule, with the identities of both."""

    values: npt.NDArray[np.uint64]
    list_digest: str
    rule_identity: str

    def __repr__(self) -> str:
        """Show the number of entries, the sum of their counts, and the list."""
        total = int(self.values.sum())
        return f"Counts({len(self.values):,} entries, {total:,} matches; list {self.list_digest[:12]})"

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
