"""The list of pairs taken out between two versions of a set: how it is written, read, and applied to a copy of the set.

    removed.parquet    uid, url_sha256, kept: one row for each uid and url that was taken out, in their order

Urls are listed as sha256 of their UTF-8 bytes: a reader who has a copy of the set can find a pair in it, and one who has
none learns no address. `metaclip.card.removal.remove` writes the list.

Users of the set apply it to their copy: DataComp's subset (``.npy``), a parquet file, or a folder of these. Rows of a
parquet file go by their uid; without a uid, by the sha256 of their url. Tars follow: ``metaclip reshard tars/ --subset
NEW.npy`` writes them anew. Memory: one batch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.card.removal.request import sha256
from metaclip.card.run_files import first_column
from metaclip.errors import MetaclipError, is_disk_full, one_line
from metaclip.pool.columns import UID_NAMES, URL_NAMES
from metaclip.pool.shards import BATCH_ROWS
from metaclip.pool.sorted_uids import UidSet, write_subset
from metaclip.pool.subset import Subset
from metaclip.pool.uid import Uids, column_uids, to_hex, to_large_string
from metaclip.stage.folder import new_folders, remove_empty
from metaclip.storage.files import atomic_write, disk_errors, local_copy, remove

REMOVED_LIST: Final = "removed.parquet"
LIST_SCHEMA: Final = pa.schema([("uid", pa.string()), ("url_sha256", pa.string()), ("kept", pa.bool_())])
"""`url_sha256` is null if the run knows no url of the pair; `kept`: it was in the curated set."""


def list_rows(uids: Uids, urls: pa.Array | None, kept: bool) -> pa.Table:
    """Return the rows of removed.parquet for pairs."""
    hashed = [None] * len(uids) if urls is None else _hashed(urls)
    columns = [to_hex(uids), pa.array(hashed, pa.string()), pa.array([kept] * len(uids), pa.bool_())]
    return pa.Table.from_arrays(columns, schema=LIST_SCHEMA)


def _hashed(urls: pa.Array) -> list[str | None]:
    return [sha256(url) if url else None for url in to_large_string(urls).to_pylist()]


def merge_lists(parts: Iterable[pa.Table]) -> pa.Table:
    """Merge lists: each row once, in the order of their values."""
    names = LIST_SCHEMA.names
    whole = (
        pa.concat_tables([LIST_SCHEMA.empty_table(), *parts]).group_by(names).aggregate([]).select(names)
    )
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
        raise MetaclipError(
            f"{path} cannot be read ({one_line(error)}); give the {REMOVED_LIST} of a card"
        ) from None
    if found.schema.remove_metadata() != LIST_SCHEMA:
        names = ", ".join(found.column_names)
        raise MetaclipError(
            f"{path} has the columns {names}, a {REMOVED_LIST} has {', '.join(LIST_SCHEMA.names)}; give a card's"
        )
    return found


def apply_removal(
    removed: str | os.PathLike[str], copy: str | os.PathLike[str], out: str | os.PathLike[str]
) -> tuple[int, int]:
    """Write `copy` without the pairs of a removed.parquet to `out`; return the numbers of rows (removed, left).

    Other files of a folder are not copied. Raise MetaclipError for a copy that cannot be read or has neither uids nor
    urls, and if `out` exists.
    """
    copy, out = Path(copy), Path(out)
    with disk_errors(out):
        listed = read_list(Path(removed))
        uids, urls = listed_uids(listed), frozenset(listed["url_sha256"].drop_null().to_pylist())
        if out.exists():
            raise MetaclipError(f"{out} is there already; choose another `out=...`")
        paths = copy.rglob("*") if copy.is_dir() else filter(Path.is_file, [copy])
        known = sorted(
            path for path in paths if path.suffix in (".parquet", ".npy") and path.name[0] != "."
        )
        if not known:
            raise MetaclipError(
                f"{copy} holds no .parquet and no .npy; give a copy of the set: a folder or file of these"
            )
        gone, left, new = 0, 0, new_folders(out.absolute().parent)
        try:
            for path in known:
                target, is_subset = out / path.relative_to(copy), path.suffix == ".npy"
                rows = (
                    _filter_subset(path, target, uids)
                    if is_subset
                    else _filter_table(path, target, uids, urls)
                )
                gone, left = gone + rows[0], left + rows[1]
        except BaseException:
            remove(out)
            remove_empty(new)
            raise
    return gone, left


def _filter_subset(path: Path, out: Path, removed: UidSet) -> tuple[int, int]:
    subset = Subset(path)
    left = write_subset(out, (block[~removed.contains(block)] for block in subset.blocks()))
    return len(subset) - left, left


def _filter_table(
    path: Path, out: Path, removed: UidSet, removed_urls: frozenset[str]
) -> tuple[int, int]:
    gone = left = 0
    try:
        schema = pq.read_schema(path)
        uid, url = (first_column(schema, names) for names in (UID_NAMES, URL_NAMES))
        if uid is None and url is None:
            raise MetaclipError(
                f"{path} has neither a column uid nor url; found {', '.join(schema.names)}"
            )
        with (
            pq.ParquetFile(path) as file,
            atomic_write(out) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                listed = np.zeros(len(batch), np.bool_)
                if url is not None:
                    listed[:] = [hashed in removed_urls for hashed in _hashed(batch.column(url))]
                if uid is not None:
                    has_uid = (
                        pc.fill_null(pc.binary_length(to_large_string(batch.column(uid))), 0).to_numpy()
                        > 0
                    )
                    listed = np.where(has_uid, removed.contains(column_uids(batch.column(uid))), listed)
                kept = batch.filter(pa.array(~listed))
                writer.write_batch(kept)
                gone, left = gone + len(batch) - len(kept), left + len(kept)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and is_disk_full(error):
            raise
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); fetch it again") from None
    return gone, left
