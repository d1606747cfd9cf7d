"""The list of pairs taken out between two versions of a set.

    removed.parquet    uid, url_sha256, kept: one row for each uid and url that was taken out, in their order

Urls are listed as sha256 of their UTF-8 bytes: a reader who has a copy of the set can find a pair in it, and one who has
none learns no address. `metaclip.card.removal.remove` writes the list, `metaclip.card.removal.apply` takes its pairs out
of a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.card.removal.request import sha256
from metaclip.errors import MetaclipError, one_line
from metaclip.pool.sorted_uids import UidSet
from metaclip.pool.uid import Uids, column_uids, to_hex, to_large_string
from metaclip.storage.files import atomic_write, local_copy

REMOVED_LIST: Final = "removed.parquet"
LIST_SCHEMA: Final = pa.schema([("uid", pa.string()), ("url_sha256", pa.string()), ("kept", pa.bool_())])
"""`url_sha256` is null if the run knows no url of the pair; `kept`: it was in the curated set."""


def list_rows(uids: Uids, urls: pa.Array | None, kept: bool) -> pa.Table:
    """Return the rows of removed.parquet for pairs."""
    n = len(uids)
    hashed = (
        [None] * n if urls is None else [None if not url else sha256(url) for url in to_large_string(urls).to_pylist()]
    )
    columns = [to_hex(uids), pa.array(hashed, pa.string()), pa.array([kept] * n, pa.bool_())]
    return pa.Table.from_arrays(columns, schema=LIST_SCHEMA)


def merge_lists(parts: Iterable[pa.Table]) -> pa.Table:
    """Merge lists: each row once, in the order of their values."""
    names = LIST_SCHEMA.names
    whole = pa.concat_tables([LIST_SCHEMA.empty_table(), *parts]).group_by(names).aggregate([]).select(names)
    return whole.sort_by([(name, "ascending") for name in names]).cast(LIST_SCHEMA)


def list_digest(removed: pa.Table) -> str:
    """Return the digest of a list: sha256 of its rows as lines ``uid url_sha256 kept``, with "-" for null and 0 or 1."""
    hashed = hashlib.sha256()
    for batch in removed.to_batches(1 << 16):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        hashed.update("".join(f"{uid} {url or '-'} {kept:d}\n" for uid, url, kept in rows).encode())
    return hashed.hexdigest()


def listed_uids(removed: pa.Table) -> UidSet:
    """Return the uids of a list."""
    return UidSet(np.unique(column_uids(removed["uid"].combine_chunks()), axis=0))


def write_list(path: Path, removed: pa.Table) -> None:
    """Write a removed.parquet."""
    with atomic_write(path) as temporary:
        pq.write_table(removed, temporary, compression="zstd")


def read_list(path: Path) -> pa.Table:
    """Read a removed.parquet. Raise MetaclipError for any other file."""
    try:
        with local_copy(path) as local:
            found = pq.read_table(local)
    except FileNotFoundError:
        raise MetaclipError(f"there is no list {path}; give the {REMOVED_LIST} of a card") from None
    except (OSError, pa.ArrowException) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); give the {REMOVED_LIST} of a card") from None
    if found.schema.remove_metadata() != LIST_SCHEMA:
        names = ", ".join(found.column_names)
        raise MetaclipError(
            f"{path} has the columns {names}, a {REMOVED_LIST} has {', '.join(LIST_SCHEMA.names)}; give a card's"
        )
    return found
