"""Apply a card's removed.parquet to a copy of the set: what a downstream user does when a version takes pairs out.

A copy is DataComp's subset (``.npy``), a parquet file, or a folder of these. A parquet's rows go by their uid; where it
has no uid, by the sha256 of their url. Tars follow: ``metaclip reshard tars/ --subset NEW.npy`` writes them anew.
Memory: one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.card.removal import read_list, sha256, uid_set
from metaclip.errors import MetaclipError, is_disk_full, one_line
from metaclip.pool import pool as pools
from metaclip.pool.sorted_uids import SUBSET, write_subset
from metaclip.pool.uid import column_uids, strings
from metaclip.storage.files import atomic_write

_BLOCK = 1 << 20


class Removed:
    """What is to go, ready to be asked for."""

    def __init__(self, path: Path) -> None:
        """Read a removed.parquet. Raise MetaclipError for what is none."""
        table = read_list(path)
        self.uids = uid_set(table)
        self.urls = frozenset(url for url in table["url_sha256"].to_pylist() if url is not None)

    def goes(self, uids: pa.Array | None, urls: pa.Array | None) -> npt.NDArray[np.bool_]:
        """Tell which rows go: bool[n], by their uids, and by their urls where there is no uid."""
        by_url = [] if urls is None else [bool(url) and sha256(url) in self.urls for url in strings(urls).to_pylist()]
        if uids is None:
            return np.array(by_url, np.bool_)
        named = (pc.fill_null(pc.binary_length(strings(uids)), 0).to_numpy() > 0) if urls is not None else None
        goes = self.uids.contains(column_uids(uids))
        return goes if named is None else np.where(named, goes, by_url)


def apply(removed: Path, copy: Path, out: Path) -> tuple[int, int]:
    """Write `copy` without the pairs of a removed.parquet to `out`; give (rows that went, rows that stay).

    Other files of a folder are left out. Raise MetaclipError for a copy that cannot be read or has neither uids nor
    urls, and where `out` is there already.
    """
    listed = Removed(removed)
    if out.exists():
        raise MetaclipError(f"{out} is there already; choose another --out")
    names = sorted(path.relative_to(copy) for path in copy.rglob("*") if _known(path)) if copy.is_dir() else [Path()]
    if not (names and (copy.is_dir() or (copy.is_file() and _known(copy)))):
        raise MetaclipError(f"{copy} holds no .parquet and no .npy; give a copy of the set: a folder or file of these")
    went = stays = 0
    for name in names:
        one = _apply_subset if (copy / name).suffix == ".npy" else _apply_table
        gone, left = one(listed, copy / name, out / name)
        went, stays = went + gone, stays + left
    return went, stays


def _known(path: Path) -> bool:
    return path.suffix in (".parquet", ".npy") and not path.name.startswith(".")


def _apply_subset(listed: Removed, path: Path, out: Path) -> tuple[int, int]:
    try:
        subset = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); give a run's curated.npy") from None
    if subset.dtype != SUBSET or subset.ndim != 1:
        raise MetaclipError(f"{path} holds {subset.dtype}, a subset holds {SUBSET}; give a run's curated.npy")

    def stays() -> Iterator[npt.NDArray[np.uint64]]:
        for begin in range(0, len(subset), _BLOCK):
            block = np.ascontiguousarray(subset[begin : begin + _BLOCK]).view(np.uint64).reshape(-1, 2)
            yield block[~listed.uids.contains(block)]

    left = sum(map(len, stays()))
    write_subset(out, stays(), left)
    return len(subset) - left, left


def _apply_table(listed: Removed, path: Path, out: Path) -> tuple[int, int]:
    went = stays = 0
    try:
        with pq.ParquetFile(path) as file:
            names = {name.lower(): name for name in reversed(file.schema_arrow.names)}
            uid, url = (next((names[name] for name in known if name in names), None) for known in _COLUMNS)
            if uid is None and url is None:
                raise MetaclipError(f"{path} has neither a column uid nor url; found {', '.join(names.values())}")
            with (
                atomic_write(out) as temporary,
                pq.ParquetWriter(temporary, file.schema_arrow, compression="zstd") as writer,
            ):
                for batch in file.iter_batches(pools.BATCH_ROWS, use_threads=False):
                    goes = listed.goes(_column(batch, uid), _column(batch, url))
                    writer.write_batch(batch.filter(pa.array(~goes)))
                    went, stays = went + int(goes.sum()), stays + int((~goes).sum())
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and is_disk_full(error):
            raise
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); fetch it again") from None
    return went, stays


_COLUMNS = (pools.UID_NAMES, pools.URL_NAMES)


def _column(batch: pa.RecordBatch, name: str | None) -> Any:
    return None if name is None else batch.column(name)
