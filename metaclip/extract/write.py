"""The files of a pool: pairs as parquet.

Memory: 16,384 pairs as they come, and 131,072 as Arrow has them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.storage.files import atomic_write, local_copy

SCHEMA: Final = pa.schema(
    [
        ("uid", pa.string()), ("url", pa.string()), ("text", pa.string()), ("page_url", pa.string()),
        ("lang", pa.string()), ("lang_score", pa.float32()), ("source_file", pa.string()),
    ]
)  # fmt: skip
"""The columns of a pool that extract writes."""
COMPRESSION: Final = "zstd"
BATCH_ROWS: Final = 1 << 14
GROUP_ROWS: Final = 1 << 17

Row = tuple[str, str, str, str, str | None, float | None]
"""uid, url, text, page_url, lang, lang_score."""


class PoolWriter:
    """Writes pairs to a parquet file, whole or not at all."""

    def __init__(self, writer: Any, source: str) -> None:
        """Take an open ParquetWriter; `PoolWriter.to` opens one."""
        self._writer, self._source = writer, source
        self._rows: list[Row] = []
        self._batches: list[pa.RecordBatch] = []
        self._held = 0
        self.rows = 0

    @classmethod
    @contextlib.contextmanager
    def to(cls, path: Path, source: str) -> Iterator[PoolWriter]:
        """Open a file that is whole after the block or not there; `source` goes to each row."""
        with atomic_write(path) as temporary, open_parquet(temporary) as writer:
            made = cls(writer, source)
            yield made
            made._gather()
            made._flush()

    def write(self, row: Row) -> None:
        """Add a row."""
        self._rows.append(row)
        self.rows += 1
        if len(self._rows) >= BATCH_ROWS:
            self._gather()

    def _gather(self) -> None:
        columns = [list(column) for column in zip(*self._rows, strict=True)] or [[] for _ in SCHEMA.names[:-1]]
        columns.append([self._source] * len(self._rows))
        # A page's url may hold anything: it is not what a pair is known by.
        columns[3] = [url if url.isascii() else url.encode("utf-8", "replace").decode() for url in columns[3]]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self._held, self._rows = self._held + len(self._rows), []
        if self._held >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches, SCHEMA), row_group_size=GROUP_ROWS)
            self._batches, self._held = [], 0


def open_parquet(path: Path) -> Any:
    """Open a parquet file of a pool for writing."""
    # uids and urls hardly ever repeat, so dictionaries of them would cost time and save nothing.
    return pq.ParquetWriter(
        path,
        SCHEMA,
        compression=COMPRESSION,
        use_dictionary=["page_url", "lang", "source_file"],
        write_statistics=False,
    )


def write_pool_file(made: Path, path: Path, lost: npt.NDArray[np.int64]) -> int:
    """Write a file of the pool: the pairs of a file but those in the rows `lost`, sorted; give how many are left.

    Where none is, no file is written.
    """
    first = kept = 0
    with local_copy(made) as local, pq.ParquetFile(local) as parquet:
        if parquet.metadata.num_rows == len(lost):
            return 0
        with atomic_write(path) as temporary, open_parquet(temporary) as writer:
            for batch in parquet.iter_batches(GROUP_ROWS, use_threads=False):
                begin, end = np.searchsorted(lost, [first, first + len(batch)])
                mask = np.ones(len(batch), np.bool_)
                mask[lost[begin:end] - first] = False
                first += len(batch)
                left = batch.filter(pa.array(mask))
                kept += len(left)
                writer.write_table(pa.Table.from_batches([left], SCHEMA), row_group_size=GROUP_ROWS)
    return kept
