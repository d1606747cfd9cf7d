"""The shards of a pool: how files are cut into units of work, and read as Arrow batches.

A pool holds parquet, csv, tsv, jsonl or webdataset tars, maybe compressed (`metaclip.pool.files`). A shard is a run of
row groups of a parquet file, or one whole file of another form. A row is identified by its file and its number among the
file's well-formed rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.arguments import without_views
from metaclip.pool.columns import Columns, DroppedRows
from metaclip.pool.files import PoolFile, open_decompressed, open_file, translate_read_errors
from metaclip.storage.files import is_remote

BATCH_ROWS: Final = 1 << 16
SHARD_ROWS: Final = 1 << 19
SHARD_BYTES: Final = 1 << 28
_BUFFER: Final = (
    1 << 22
)  # bytes read at a time; whole column chunks would make memory grow with the row groups
_VALUE_BYTES: Final = 1 << 26
"""Bytes of a column that one value, repeated in all rows of a batch of a parquet file, may take."""
_DELIMITERS: Final = {"csv": ",", "tsv": "\t"}
_STRINGS: Final = {
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
}  # fmt: skip
"""Types whose values have any length."""
UNQUOTED: Final = "unquoted "
"""Begins the form of a csv or tsv file in which quotes are ordinary characters."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A unit of work: `rows` rows of a file from the row `first`; the row groups `groups` if it is parquet."""

    file: PoolFile
    file_index: int
    number: int = 0
    """The index of the shard among those of its file."""
    first: int = 0
    groups: tuple[int, int] | None = None
    rows: int | None = None
    """None: all rows of the file."""

    @property
    def name(self) -> str:
        """The name of the shard's files in a run folder; names sort in the pool's order."""
        return f"{self.file_index:06d}-{self.number:04d}"

    @property
    def turn(self) -> int:
        """Decides to which part of a job array the shard belongs; it does not depend on other files."""
        return self.file_index + self.number

    @property
    def identity(self) -> dict[str, Any]:
        """The entry of the shard in a marker: rows, file, size and stamp."""
        groups = None if self.groups is None else list(self.groups)
        return {
            "file": self.file.name, "size": self.file.size, "stamp": self.file.stamp,
            "first": self.first, "groups": groups, "rows": self.rows,
        }  # fmt: skip

    def __str__(self) -> str:
        """Return the file and the first row, for messages."""
        return self.file.path if not self.number else f"{self.file.path} (from row {self.first})"


def without_quoting(file: PoolFile) -> PoolFile:
    """Return a csv or tsv file as one in which quotes are ordinary characters; another file as it is."""
    return dataclasses.replace(file, form=UNQUOTED + file.form) if file.form in _DELIMITERS else file


def read_schema(file: PoolFile) -> pa.Schema:
    """Read the names and types of a file's columns (of jsonl: of its first 16 MB; of a tar: of its head).

    Raise BrokenInput if it cannot be read.
    """
    return schema_and_shards(file)[0]


def schema_and_shards(
    file: PoolFile, file_index: int = 0, limit: int | None = None
) -> tuple[pa.Schema, list[Shard]]:
    """Return a file's schema, as `read_schema` does, and the shards of its first `limit` rows; open the file once."""
    with translate_read_errors(file):
        if file.form == "parquet":
            with _open_parquet(file) as parquet:
                return parquet.schema_arrow, _cut(file, parquet.metadata, file_index, limit)
        if file.form == "jsonl":
            from metaclip.pool import jsonl

            schema = jsonl.read_schema(file)
        elif file.form == "tar":
            from metaclip.pool import tars

            schema = tars.read_schema(file, rows=1)
        else:  # csv, tsv
            with _open_delimited(file, DroppedRows()) as reader:
                schema = pa.schema([(name, pa.string()) for name in reader.names])
    return schema, [Shard(file, file_index, rows=limit)]


def _cut(file: PoolFile, metadata: Any, file_index: int, limit: int | None) -> list[Shard]:
    """Cut a parquet file into shards of at most SHARD_ROWS rows and SHARD_BYTES bytes, or of one row group."""
    shards: list[Shard] = []
    first = begin = rows = size = 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        if rows and (
            rows + row_group.num_rows > SHARD_ROWS or size + row_group.total_byte_size > SHARD_BYTES
        ):
            shards.append(Shard(file, file_index, len(shards), first, (begin, group), rows))
            first, begin, rows, size = first + rows, group, 0, 0
        rows, size = rows + row_group.num_rows, size + row_group.total_byte_size
        if limit is not None and first + rows >= limit:
            return [
                *shards,
                Shard(file, file_index, len(shards), first, (begin, group + 1), limit - first),
            ]
    if rows or not shards:
        shards.append(Shard(file, file_index, len(shards), first, (begin, metadata.num_row_groups), rows))
    return shards


def count_rows(file: PoolFile, columns: Columns, limit: int) -> int:
    """Count the well-formed rows of a file, up to `limit`."""
    if file.form == "parquet":
        with translate_read_errors(file), _open_parquet(file) as parquet:
            return min(limit, int(parquet.metadata.num_rows))
    return sum(
        len(batch) for batch in read_batches(Shard(file, 0, rows=limit), [columns.text], DroppedRows())
    )


def read_batches(
    shard: Shard, columns: Sequence[str] | None, dropped: DroppedRows
) -> Iterator[pa.RecordBatch]:
    """Yield a shard's rows in order, in batches of `columns` (None: all); memory does not grow with the shard.

    Count malformed rows in `dropped`. Raise BrokenInput if the file cannot be read.
    """
    left = shard.rows
    with translate_read_errors(shard.file):
        for batch in _batches(shard, columns, dropped):
            if left is not None:
                batch = batch.slice(0, left)
                left -= len(batch)
            yield batch
            if left == 0:
                return


def _batches(
    shard: Shard, columns: Sequence[str] | None, dropped: DroppedRows
) -> Iterator[pa.RecordBatch]:
    file, left = shard.file, shard.rows
    if file.form == "parquet":
        assert shard.groups is not None
        with _open_parquet(file) as parquet:
            for batch in parquet.iter_batches(
                _rows_at_once(file, parquet, range(*shard.groups), columns),
                row_groups=range(*shard.groups),
                columns=columns and list(columns),
                use_threads=False,
            ):
                yield _without_views(batch)
    elif file.form == "jsonl":
        from metaclip.pool import jsonl

        if columns is None:
            schema = jsonl.infer_schema((block for _, block in jsonl.read_blocks(file)), left)
        else:
            schema = pa.schema([(name, pa.string()) for name in columns])
        for line, block in jsonl.read_blocks(file, dropped.add):
            table = jsonl.parse_block(block, schema, dropped.add, line, left)
            left = None if left is None else max(0, left - len(table))
            yield from table.to_batches(BATCH_ROWS)
    elif file.form == "tar":
        from metaclip.pool import tars

        yield from tars.read_batches(file, columns, dropped.add, left)
    else:  # csv, tsv
        with _open_delimited(file, dropped, left) as reader:
            yield from reader.batches(columns, BATCH_ROWS)


@contextlib.contextmanager
def _open_delimited(file: PoolFile, dropped: DroppedRows, limit: int | None = None) -> Iterator[Any]:
    """Open a csv or tsv file for a block."""
    from metaclip.pool.delimited import DelimitedReader

    form = file.form.removeprefix(UNQUOTED)
    with open_decompressed(file) as stream:
        yield DelimitedReader(stream, _DELIMITERS[form], dropped.add, limit, quoting=form == file.form)


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Replace string views, of which Arrow cannot take rows; names and metadata stay."""
    columns = list(map(without_views, batch.columns))
    fields = [field.with_type(column.type) for field, column in zip(batch.schema, columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, batch.schema.metadata))


def _rows_at_once(
    file: PoolFile, parquet: Any, groups: Iterable[int], columns: Sequence[str] | None
) -> int:
    """Return how many rows of some row groups can be read at a time.

    A small file can hold a long value once and repeat it in every row; so the longest value of the dictionaries, read
    without repeating them, must fit into _VALUE_BYTES in each row of a batch.
    """
    names = [
        field.name
        for field in parquet.schema_arrow
        if (columns is None or field.name in columns)
        and (field.type.value_type if pa.types.is_dictionary(field.type) else field.type) in _STRINGS
    ]
    longest = 1
    with _open_parquet(file, metadata=parquet.metadata, read_dictionary=names) as dictionaries:
        for group in groups if names else ():
            for row in dictionaries.iter_batches(1, row_groups=[group], columns=names, use_threads=False):
                lengths = [pc.max(pc.binary_length(column.dictionary)).as_py() for column in row.columns]
                longest = max(longest, *(length or 0 for length in lengths))
                break
    return max(1, min(BATCH_ROWS, _VALUE_BYTES // longest))


@contextlib.contextmanager
def _open_parquet(file: PoolFile, **options: Any) -> Iterator[Any]:
    """Open a parquet file for a block. With options, no more of it is fetched from a store than is read."""
    remote = is_remote(file.path)
    # Arrow reads a file of this machine by its path, without the GIL.
    opened = open_file(file) if remote else contextlib.nullcontext(file.path)
    with (
        opened as source,
        pq.ParquetFile(
            source, pre_buffer=remote and not options, buffer_size=_BUFFER, **options
        ) as parquet,
    ):
        yield parquet
