"""Writes the parquet files of a pool.

Memory: 131,072 pairs as Arrow batches.
"""

from __future__ import annotations

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

PAIRS: Final = pa.schema(
    [
        ("uid", pa.string()), ("url", pa.string()), ("text", pa.string()), ("page_url", pa.string()),
        ("lang", pa.string()), ("lang_score", pa.float32()), ("license", pa.string()),
    ]
)  # fmt: skip
"""The columns of pairs as they are extracted."""
SCHEMA: Final = PAIRS.append(pa.field("source_file", pa.string()))
"""The columns of a pool that extract writes."""
GROUP_ROWS: Final = 1 << 17


def write_pairs(path: Path, source_file: str, batches: Iterator[pa.RecordBatch]) -> int:
    """Write pairs to a parquet file, with `source_file` in each row; return their number.

    If `batches` raises, no file is left.
    """
    written = held = 0
    group: list[pa.RecordBatch] = []
    with atomic_write(path) as temporary, _open_parquet(temporary) as writer:

        def write_group() -> None:
            table = pa.Table.from_batches(group, PAIRS)
            files = pa.repeat(pa.scalar(source_file), len(table))
            writer.write_table(
                table.append_column(SCHEMA.field("source_file"), files), row_group_size=GROUP_ROWS
            )

        for batch in batches:
            while len(batch):
                taken = batch[: GROUP_ROWS - held]
                group.append(taken)
                held += len(taken)
                written += len(taken)
                batch = batch[len(taken) :]
                if held == GROUP_ROWS:
                    write_group()
                    group, held = [], 0
        if group:
            write_group()
    return written


def _open_parquet(path: Path) -> Any:
    # uids and urls hardly ever repeat, so dictionaries of them would cost time and save nothing.
    dictionaries = ["page_url", "lang", "license", "source_file"]
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
