"""The files of stage match: matched/*.parquet and counts.parquet.

matched/*.parquet    row, uid, matches of each row that matches anything (with_text: url and text too)
counts.parquet       entry_id, entry, source, count
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

from metaclip.matching.count import Counts
from metaclip.matching.match_arrays import MATCHES, ids_and_offsets
from metaclip.metadata.entries import Metadata
from metaclip.pool import shards
from metaclip.pool.uid import UID, Uids, from_binary, to_binary
from metaclip.storage.files import atomic_write, local_copy

COMPRESSION: Final = "zstd"
_PATHS: Final = ("row", "matches.list.element", "url", "text")  # of matched/'s columns, as parquet names them
_WRITE_ROWS: Final = 1 << 17


def read_matched(path: Path) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], pa.Array]]:
    """Read a file of matched/: batches of (row int64, uid uint64[n, 2], matches)."""
    with local_copy(path) as local, pq.ParquetFile(local) as file:
        for batch in file.iter_batches(shards.BATCH_ROWS, columns=["row", "uid", "matches"], use_threads=False):
            rows = batch.column("row").to_numpy().astype(np.int64)
            yield rows, from_binary(batch.column("uid")), batch.column("matches")


def matched_rows(path: Path) -> Iterator[tuple[Uids, npt.NDArray[np.uint32], npt.NDArray[np.int64]]]:
    """Read a file of matched/: batches of (uids, values, offsets), as `ids_and_offsets` returns them."""
    for _, uids, matches in read_matched(path):
        yield uids, *ids_and_offsets(matches)


class MatchedWriter:
    """Writes matched rows to a parquet file."""

    def __init__(self, writer: Any, schema: pa.Schema) -> None:
        """Take an open ParquetWriter; `MatchedWriter.to` opens one."""
        self._writer, self._schema = writer, schema
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0

    @classmethod
    @contextlib.contextmanager
    def to(cls, path: Path, with_text: bool) -> Iterator[MatchedWriter]:
        """Open a file that is whole after the block or not there; with url and text on request."""
        fields = [("row", pa.uint64()), ("uid", UID), ("matches", MATCHES)]
        if with_text:
            fields += [("url", pa.large_string()), ("text", pa.large_string())]
        schema = pa.schema(fields)
        with (
            atomic_write(path) as temporary,
            pq.ParquetWriter(
                temporary,
                schema,
                # uids are random and rows ascend: compression and dictionaries would cost time and save nothing.
                compression={"uid": "NONE", **{name: COMPRESSION for name in _PATHS}},
                use_dictionary=["matches.list.element"],
                write_statistics=["row"],
                column_encoding={"row": "DELTA_BINARY_PACKED", "uid": "PLAIN"},
            ) as writer,
        ):
            made = cls(writer, schema)
            yield made
            made._flush()

    def write(
        self, rows: npt.NDArray[np.int64], uids: npt.NDArray[np.uint64], matches: pa.Array, urls: Any, texts: Any
    ) -> None:
        """Add rows."""
        columns = [pa.array(rows.astype(np.uint64)), to_binary(uids), matches]
        if len(self._schema) > len(columns):
            columns.append(pa.nulls(len(rows), pa.large_string()) if urls is None else urls.cast(pa.large_string()))
            columns.append(texts.cast(pa.large_string()))
        self._batches.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._rows += len(rows)
        if self._rows >= _WRITE_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches, self._schema), row_group_size=self._rows)
            self._batches, self._rows = [], 0


def write_counts(path: Path, metadata: Metadata, counts: Counts, corrected: Counts | None = None) -> None:
    """Write counts.parquet: entry_id, entry, source, count; the digests are in the file's metadata.

    `corrected` are counts without the pairs that were taken out, as a column beside.
    """
    table = pa.table(
        {
            "entry_id": pa.array(np.arange(len(metadata), dtype=np.uint32)),
            "entry": metadata.entries,
            "source": metadata.source,
            "count": pa.array(counts.values),
        }
    ).replace_schema_metadata({"list": counts.list_digest, "rule": counts.rule_identity})
    if corrected is not None:
        table = table.append_column("count_corrected", pa.array(corrected.values))
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression=COMPRESSION, use_dictionary=["source"])
