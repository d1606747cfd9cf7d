"""Writes the parquet files of a pool.

Memory: 16,384 pairs as Python tuples, and 131,072 as Arrow batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.errors import damaged
from metaclip.pool import reading_parquet
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


def write_pairs(path: Path, source_file: str, rows: Iterator[Row]) -> int:
    """Write pairs to a parquet file, with `source_file` in each row; return their number. If `rows` raises, no file is left."""
    written = 0
    with atomic_write(path) as temporary, _open_parquet(temporary) as writer:
        while group := list(itertools.islice(_batches(source_file, rows), GROUP_ROWS // BATCH_ROWS)):
            table = pa.Table.from_batches(group, SCHEMA)
            writer.write_table(table, row_group_size=GROUP_ROWS)
            written += len(table)
    return written


def _batches(source_file: str, rows: Iterator[Row]) -> Iterator[pa.RecordBatch]:
    while block := list(itertools.islice(rows, BATCH_ROWS)):
        columns: list[list[Any]] = [list(column) for column in zip(*block, strict=True)]
        # The url of a page may hold invalid Unicode: it does not identify the pair, so that costs only the characters.
        columns[3] = [
            url if url.isascii() else url.encode("utf-8", "replace").decode() for url in columns[3]
        ]
        columns.append([source_file] * len(block))
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _open_parquet(path: Path) -> Any:
    # uids and urls hardly ever repeat, so dictionaries of them would cost time and save nothing.
    dictionaries = ["page_url", "lang", "source_file"]
    return pq.ParquetWriter(
        path, SCHEMA, compression="zstd", use_dictionary=dictionaries, write_statistics=False
    )


def copy_without_rows(source: Path, path: Path, rows: npt.NDArray[np.int64]) -> int:
    """Copy a file of pairs except for `rows`, sorted row numbers; return the number of pairs that are left.

    If none is left, no file is written.
    """
    first = kept = 0
    with reading_parquet(source), local_copy(source) as local, pq.ParquetFile(local) as parquet:
        if not parquet.schema_arrow.equals(SCHEMA):
            raise damaged(source, "it has other columns")
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
