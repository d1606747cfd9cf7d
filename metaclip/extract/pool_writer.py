"""Writes the parquet files of a pool.

Memory: a row group, of 131,072 pairs or little more than 64 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
_GROUP_BYTES: Final = 1 << 26
"""Bytes after which a row group ends before it has `GROUP_ROWS` rows: 500 per pair, where real ones have 250."""


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
                if held == GROUP_ROWS or sum(one.get_total_buffer_size() for one in group) > _GROUP_BYTES:
                    write_group()
                    group, held = [], 0
        if group:
            write_group()
    return written


def _open_parquet(path: Path, metadata: Mapping[bytes, bytes] | None = None) -> Any:
    # uids and urls hardly ever repeat, so dictionaries of them would cost time and save nothing.
    dictionaries = ["page_url", "lang", "license", "source_file"]
    return pq.ParquetWriter(
        path,
        SCHEMA.with_metadata(metadata),
        compression="zstd",
        use_dictionary=dictionaries,
        write_statistics=False,
    )


def copy_without_rows(
    source: Path,
    path: Path,
    rows: npt.NDArray[np.int64],
    metadata: Mapping[bytes, bytes] | None = None,
) -> int:
    """Copy a file of pairs except for `rows`, sorted row numbers; return the number of pairs that are left.

    If none is left, no file is written, unless it is to have `metadata`.
    """
    first = kept = 0
    with reading_parquet(source), local_copy(source) as local, pq.ParquetFile(local) as parquet:
        if not parquet.schema_arrow.equals(SCHEMA):
            raise damaged(source, "it has other columns")
        if parquet.metadata.num_rows == len(rows) and metadata is None:
            return 0
        with atomic_write(path) as temporary, _open_parquet(temporary, metadata) as writer:
            for number in range(parquet.num_row_groups):
                group = parquet.read_row_group(number, use_threads=False)
                begin, end = np.searchsorted(rows, [first, first + len(group)])
                mask = np.ones(len(group), np.bool_)
                mask[rows[begin:end] - first] = False
                first += len(group)
                left = group.filter(pa.array(mask))
                kept += len(left)
                writer.write_table(left, row_group_size=GROUP_ROWS)
    return kept
