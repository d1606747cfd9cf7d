"""Writes the parquet files of a pool.

Memory: 16,384 pairs as Python tuples, and 131,072 as Arrow batches.
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
BATCH_ROWS: Final = 1 << 14
GROUP_ROWS: Final = 1 << 17

Row = tuple[str, str, str, str, str | None, float | None]
"""uid, url, text, page_url, lang, lang_score."""


class PoolWriter:
    """Writes pairs to a parquet file."""

    def __init__(self, writer: Any, source_file: str) -> None:
        """Wrap an open ParquetWriter; `PoolWriter.open` opens one."""
        self._writer, self._source_file = writer, source_file
        self._buffered: list[Row] = []
        self._batches: list[pa.RecordBatch] = []
        self.rows = 0
        """Number of pairs written."""

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, source_file: str) -> Iterator[PoolWriter]:
        """Open a file that is complete after the block, or does not exist; `source_file` goes to each row."""
        with atomic_write(path) as temporary, _open_parquet(temporary) as writer:
            pool_writer = cls(writer, source_file)
            yield pool_writer
            pool_writer._convert_rows()
            pool_writer._write_group()

    def write(self, row: Row) -> None:
        """Add a row."""
        self._buffered.append(row)
        self.rows += 1
        if len(self._buffered) >= BATCH_ROWS:
            self._convert_rows()
            if sum(map(len, self._batches)) >= GROUP_ROWS:
                self._write_group()

    def _convert_rows(self) -> None:
        if not self._buffered:
            return
        columns: list[list[Any]] = [list(column) for column in zip(*self._buffered, strict=True)]
        columns.append([self._source_file] * len(self._buffered))
        # The url of a page may hold invalid Unicode: it does not identify the pair, so that costs only the characters.
        columns[3] = [url if url.isascii() else url.encode("utf-8", "replace").decode() for url in columns[3]]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self._buffered = []

    def _write_group(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches, SCHEMA), row_group_size=GROUP_ROWS)
            self._batches = []


def _open_parquet(path: Path) -> Any:
    # uids and urls hardly ever repeat, so dictionaries of them would cost time and save nothing.
    dictionaries = ["page_url", "lang", "source_file"]
    return pq.ParquetWriter(
        path, SCHEMA, compression="zstd", use_dictionary=dictionaries, write_statistics=False
    )  # fmt: skip


def copy_without_rows(source: Path, path: Path, rows: npt.NDArray[np.int64]) -> int:
    """Copy a file of pairs except for `rows`, sorted row numbers; return the number of pairs that are left.

    If none is left, no file is written.
    """
    first = kept = 0
    with local_copy(source) as local, pq.ParquetFile(local) as parquet:
        if parquet.metadata.num_rows == len(rows):
            return 0
        with atomic_write(path) as temporary, _open_parquet(temporary) as writer:
            for batch in parquet.iter_batches(GROUP_ROWS, use_threads=False):
                begin, end = np.searchsorted(rows, [first, first + len(batch)])
                mask = np.ones(len(batch), np.bool_)
                mask[rows[begin:end] - first] = False
                first += len(batch)
                left = batch.filter(pa.array(mask))
                kept += len(left)
                writer.write_table(pa.Table.from_batches([left], SCHEMA), row_group_size=GROUP_ROWS)
    return kept
