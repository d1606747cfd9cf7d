"""Apply a card's removed.parquet to a copy of the set, as its users do after a removal.

A copy is DataComp's subset (``.npy``), a parquet file, or a folder of these. Rows of a parquet file go by their uid;
without a uid, by the sha256 of their url. Tars follow: ``metaclip reshard tars/ --subset NEW.npy`` writes them anew.
Memory: one batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.card.removal.removed_list import listed_uids, read_list
from metaclip.card.removal.request import sha256
from metaclip.card.run_files import read_batches
from metaclip.errors import MetaclipError, is_disk_full, one_line
from metaclip.pool.columns import UID_NAMES, URL_NAMES
from metaclip.pool.sorted_uids import SUBSET, write_subset
from metaclip.pool.uid import Uids, column_uids, to_large_string
from metaclip.storage.files import atomic_write, disk_errors

_BLOCK: Final = 1 << 20


def apply_removal(
    removed: str | os.PathLike[str], copy: str | os.PathLike[str], out: str | os.PathLike[str]
) -> tuple[int, int]:
    """Write `copy` without the pairs of a removed.parquet to `out`; return the numbers of rows (removed, left).

    Other files of a folder are not copied. Raise MetaclipError for a copy that cannot be read or has neither uids nor
    urls, and if `out` exists.
    """
    copy, out = Path(copy), Path(out)
    with disk_errors(out):
        pairs = _RemovedPairs(Path(removed))
        if out.exists():
            raise MetaclipError(f"{out} is there already; choose another --out")
        paths = copy.rglob("*") if copy.is_dir() else [copy]
        known = sorted(path for path in paths if _is_known(path) and (copy.is_dir() or path.is_file()))
        if not known:
            raise MetaclipError(
                f"{copy} holds no .parquet and no .npy; give a copy of the set: a folder or file of these"
            )
        gone = left = 0
        for path in known:
            apply = _apply_to_subset if path.suffix == ".npy" else _apply_to_table
            file_gone, file_left = apply(pairs, path, out / path.relative_to(copy))
            gone, left = gone + file_gone, left + file_left
    return gone, left


def _is_known(path: Path) -> bool:
    return path.suffix in (".parquet", ".npy") and not path.name.startswith(".")


class _RemovedPairs:
    """The pairs of a removed.parquet, as sets of uids and of hashed urls."""

    def __init__(self, path: Path) -> None:
        table = read_list(path)
        self.uids = listed_uids(table)
        self._urls = frozenset(url for url in table["url_sha256"].to_pylist() if url is not None)

    def contain(self, uids: pa.Array | None, urls: pa.Array | None) -> npt.NDArray[np.bool_]:
        """Return which rows are listed: bool[n], by their uids, and by their urls where there is no uid."""
        by_url = (
            []
            if urls is None
            else [bool(url) and sha256(url) in self._urls for url in to_large_string(urls).to_pylist()]
        )
        if uids is None:
            return np.array(by_url, np.bool_)
        by_uid = self.uids.contains(column_uids(uids))
        if urls is None:
            return by_uid
        return np.where(pc.fill_null(pc.binary_length(to_large_string(uids)), 0).to_numpy() > 0, by_uid, by_url)


def _apply_to_subset(pairs: _RemovedPairs, path: Path, out: Path) -> tuple[int, int]:
    try:
        subset = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); give a run's curated.npy") from None
    if subset.dtype != SUBSET or subset.ndim != 1:
        raise MetaclipError(f"{path} holds {subset.dtype}, a subset holds {SUBSET}; give a run's curated.npy")

    def blocks_left() -> Iterator[Uids]:
        for begin in range(0, len(subset), _BLOCK):
            block = np.ascontiguousarray(subset[begin : begin + _BLOCK]).view(np.uint64).reshape(-1, 2)
            yield block[~pairs.uids.contains(block)]

    left = sum(map(len, blocks_left()))
    write_subset(out, blocks_left(), left)
    return len(subset) - left, left


def _apply_to_table(pairs: _RemovedPairs, path: Path, out: Path) -> tuple[int, int]:
    gone = left = 0
    try:
        schema = pq.read_schema(path)
        names = {name.lower(): name for name in reversed(schema.names)}
        columns = [next((names[name] for name in known if name in names), None) for known in (UID_NAMES, URL_NAMES)]
        if not any(columns):
            raise MetaclipError(f"{path} has neither a column uid nor url; found {', '.join(schema.names)}")
        with atomic_write(out) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in read_batches(path):
                uids, urls = (None if name is None else batch.column(name) for name in columns)
                kept = batch.filter(pa.array(~pairs.contain(uids, urls)))
                writer.write_batch(kept)
                gone, left = gone + len(batch) - len(kept), left + len(kept)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and is_disk_full(error):
            raise
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); fetch it again") from None
    return gone, left
