"""Writes curated/: the drawn rows with the columns they had in the pool, and uid, matches, keep_probability."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.curate.matched_files import COMPRESSION
from metaclip.engine.contract import ProgressCallback
from metaclip.errors import BrokenInput
from metaclip.matching.match_arrays import MATCHES
from metaclip.pool.columns import Columns
from metaclip.pool.shards import Shard, read_batches
from metaclip.pool.texts import DroppedRows
from metaclip.pool.uid import to_hex, to_strings
from metaclip.storage.files import atomic_write

_WRITE_ROWS: Final = 1 << 17


@dataclasses.dataclass(frozen=True)
class Kept:
    """A drawn batch of matched rows; `kept` are places in it."""

    rows: npt.NDArray[np.int64]
    last: int
    kept: npt.NDArray[np.int64]
    uids: npt.NDArray[np.uint64]
    matches: pa.Array
    probability: npt.NDArray[np.float64]

    def between(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Give the kept places whose rows lie in [begin, end)."""
        rows = self.rows[self.kept]
        return self.kept[np.searchsorted(rows, begin) : np.searchsorted(rows, end)]


def write_curated(
    path: Path, shard: Shard, columns: Columns, rows_expected: int, drawn: Iterator[Kept], progress: ProgressCallback
) -> None:
    """Go through the pool's rows and the drawn rows side by side, both ascending; write the kept ones."""
    waiting: collections.deque[Kept] = collections.deque()
    begin = shard.first
    out: list[pa.Table] = []
    with CuratedWriter(path) as writer:
        for batch in read_batches(shard, None, DroppedRows()):
            end = begin + len(batch)
            while (not waiting or waiting[-1].last < end - 1) and (more := next(drawn, None)) is not None:
                waiting.append(more)
            for part in waiting:
                places = part.between(begin, end)
                if len(places):
                    taken = batch.take(pa.array(part.rows[places] - begin))
                    out.append(_curated(taken, columns, part, places))
            while waiting and waiting[0].last < end:
                waiting.popleft()
            writer.write(out)
            out = []
            progress(len(batch), 0)
            begin = end
    collections.deque(drawn, 0)
    if begin - shard.first != rows_expected:
        path.unlink(missing_ok=True)
        raise BrokenInput(
            f"{shard} has {begin - shard.first} rows, had {rows_expected} when it was matched; "
            "match again with --overwrite"
        )


def _curated(batch: pa.RecordBatch, columns: Columns, part: Kept, places: npt.NDArray[np.int64]) -> pa.Table:
    """Put a batch of kept rows in the form of curated/."""
    # A column UID would stand beside ours as a second one: names are found without regard to case.
    own = ("matches", "keep_probability")
    carried = [name for name in batch.schema.names if name not in own and name.lower() != "uid"]
    given = columns.uid is not None and columns.uid.lower() == "uid"
    uids = part.uids[places]
    uid = to_strings(batch.column(columns.uid), uids) if given else to_hex(uids)
    fields = [batch.schema.field(name) for name in carried]
    fields += [pa.field("uid", pa.string()), pa.field("matches", MATCHES), pa.field("keep_probability", pa.float64())]
    index = pa.array(places)
    arrays = [
        *(batch.column(name) for name in carried),
        uid,
        part.matches.take(index),
        pa.array(part.probability[places]),
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


class CuratedWriter:
    """Writes curated pairs to a parquet file that is whole or not there; no file where there is no pair."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self._path = path
        self._open = contextlib.ExitStack()
        self._writer: Any = None
        self._tables: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> CuratedWriter:
        """Begin; the file is opened with the first pair."""
        return self

    def write(self, tables: Sequence[pa.Table]) -> None:
        """Add pairs."""
        self._tables += tables
        self._rows += sum(len(table) for table in tables)
        if self._rows >= _WRITE_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._tables:
            return
        table = pa.concat_tables(self._tables)
        if self._writer is None:
            temporary = self._open.enter_context(atomic_write(self._path))
            writer = pq.ParquetWriter(
                temporary, table.schema, compression=COMPRESSION, write_statistics=False,
                use_dictionary=["matches.list.element"],
            )  # fmt: skip
            self._writer = self._open.enter_context(writer)
        self._writer.write_table(table, row_group_size=len(table))
        self._tables, self._rows = [], 0

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Close the file and put it in place, or remove it."""
        with self._open:
            if error is not None:
                raise error
            self._flush()
        if self._writer is None:
            self._path.unlink(missing_ok=True)
