"""Rows of a run's files as arrays: the uids and entry ids that everything about a card is counted from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.curation.balance import read_matched
from metaclip.curation.draw import Uids
from metaclip.curation.uid import from_binary, uids_of

Ids = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]


def matched_rows(path: Path) -> Iterator[tuple[Uids, Ids, Offsets]]:
    """Read a file of matched/: batches of (uids, values, offsets), as `ids_of` gives them."""
    for _, uids, matches in read_matched(path):
        yield uids, *ids_of(matches)


def ids_of(matches: pa.Array) -> tuple[Ids, Offsets]:
    """Give (values, offsets) of a column of matches: row i has ``values[offsets[i]:offsets[i + 1]]``; offsets begin at 0."""
    offsets = np.asarray(matches.offsets).astype(np.int64)
    return np.ascontiguousarray(matches.flatten().to_numpy(), np.uint32), offsets - offsets[0]


def uids_in(column: pa.Array) -> Uids:
    """Give the uids of a column of matched/ (16 bytes), of curated/, or of any table (strings, numbers): uint64[n, 2]."""
    binary = pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == 16
    return from_binary(column) if binary else uids_of(pa.array([""] * len(column)), None, column)
