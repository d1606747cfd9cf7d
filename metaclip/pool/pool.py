"""A pool: files of image-text pairs, in the forms the neighbours write, read as Arrow batches.

Parquet, csv, tsv, jsonl and webdataset tars, each maybe compressed; a file, a folder or a glob, local or anything fsspec
opens (`metaclip.pool.files`). Columns are found by name (`metaclip.pool.columns`); all others are carried
along. A row is known by its file and its number among the file's well-formed rows.

The unit of work is a shard: a run of row groups of one parquet file, or one file of another form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.errors import BrokenInput, one_line
from metaclip.pool import delimited, jsonl, tars
from metaclip.pool.columns import TEXT_NAMES, UID_NAMES, URL_NAMES, Columns, find_columns
from metaclip.pool.files import CODECS, Paths, PoolFile, find_files, stat_file, stat_files
from metaclip.storage.remote import StoreError, file_system, is_remote, translate_errors

__all__ = [
    "BATCH_ROWS", "CODECS", "TEXT_NAMES", "UID_NAMES", "URL_NAMES", "Columns", "Losses", "Paths",
    "PoolFile", "Shard", "count_rows", "cut", "find_columns", "find_files", "open_and_cut", "open_file", "read",
    "reading", "schema_of", "stat_file", "stat_files", "tar_stream",
]  # fmt: skip

BATCH_ROWS: Final = 1 << 16
SHARD_ROWS: Final = 1 << 19
SHARD_BYTES: Final = 1 << 28
_BUFFER: Final = 1 << 22  # read by so much, not by whole column chunks: memory does not grow with the row groups
_DELIMITERS: Final = {"csv": ",", "tsv": "\t"}


@dataclasses.dataclass(frozen=True)
class Shard:
    """A unit of work: `rows` rows of a file from row `first`; row groups `groups` where it is parquet."""

    file: PoolFile
    file_index: int
    number: int = 0
    """Which of the file's shards it is."""
    first: int = 0
    groups: tuple[int, int] | None = None
    rows: int | None = None
    """None: all there are."""

    @property
    def name(self) -> str:
        """The name of the shard's files in a run folder; names sort in the pool's order."""
        return f"{self.file_index:06d}-{self.number:04d}"

    @property
    def turn(self) -> int:
        """What decides to which part of a job array the shard belongs; it does not depend on other files."""
        return self.file_index + self.number

    @property
    def identity(self) -> dict[str, Any]:
        """What a marker holds of the shard: rows, file, size and stamp."""
        groups = None if self.groups is None else list(self.groups)
        return {
            "file": self.file.name, "size": self.file.size, "stamp": self.file.stamp,
            "first": self.first, "groups": groups, "rows": self.rows,
        }  # fmt: skip

    def __str__(self) -> str:
        """Name the file and the rows, for messages."""
        return self.file.path if not self.number else f"{self.file.path} (from row {self.first})"


def open_file(file: PoolFile) -> Any:
    """Open a file of a pool for reading bytes as they are stored."""
    if not is_remote(file.path):
        return open(file.path, "rb")
    with translate_errors(file.path):
        fs, path = file_system(file.path)
        return fs.open(path, "rb")


def schema_of(file: PoolFile) -> pa.Schema:
    """Read the names and types of a file's columns (jsonl: of its first 16 MB, tar: of its head).

    Raise BrokenInput if it cannot be read.
    """
    return open_and_cut(file)[0] if file.form == "parquet" else _schema_of(file)


def open_and_cut(file: PoolFile, file_index: int = 0, limit: int | None = None) -> tuple[pa.Schema, list[Shard]]:
    """Do as `schema_of` and `cut`, opening a parquet file once."""
    if file.form != "parquet":
        return _schema_of(file), [Shard(file, file_index, rows=limit)]
    with reading(file), _parquet(file) as parquet:
        return parquet.schema_arrow, _cut(file, parquet.metadata, file_index, limit)


def _schema_of(file: PoolFile) -> pa.Schema:
    with reading(file):
        if file.form == "jsonl":
            found = jsonl.schema(jsonl.blocks(_stream, file), rows=1)
            if not found.names:
                raise ValueError("it is empty, without a line that is a JSON object")
            return found
        if file.form == "tar":
            return tars.schema(lambda: tar_stream(file), TEXT_NAMES, rows=1)
        with _stream(file) as stream:
            names = delimited.Reader(stream, _DELIMITERS[file.form], Losses().add).names
            return pa.schema([(name, pa.string()) for name in names])


def cut(file: PoolFile, file_index: int = 0, limit: int | None = None) -> list[Shard]:
    """Cut a file into shards of at most the first `limit` rows of it. Raise BrokenInput if it cannot be read."""
    if file.form != "parquet":
        return [Shard(file, file_index, rows=limit)]
    return open_and_cut(file, file_index, limit)[1]


def _cut(file: PoolFile, metadata: Any, file_index: int, limit: int | None) -> list[Shard]:
    shards: list[Shard] = []
    first = begin = rows = size = 0

    def close(end: int) -> None:
        shards.append(Shard(file, file_index, len(shards), first, (begin, end), rows))

    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        if rows and (rows + row_group.num_rows > SHARD_ROWS or size + row_group.total_byte_size > SHARD_BYTES):
            close(group)
            first, begin, rows, size = first + rows, group, 0, 0
        rows, size = rows + row_group.num_rows, size + row_group.total_byte_size
        if limit is not None and first + rows >= limit:
            rows = limit - first
            close(group + 1)
            return shards
    if rows or not shards:
        close(metadata.num_row_groups)
    return shards


def count_rows(file: PoolFile, columns: Columns, limit: int) -> int:
    """Count the well-formed rows of a file, up to `limit`."""
    if file.form == "parquet":
        with reading(file), _parquet(file) as parquet:
            return min(limit, int(parquet.metadata.num_rows))
    return sum(len(batch) for batch in read(Shard(file, 0, rows=limit), [columns.text], Losses()))


class Losses:
    """Rows that a reader could not read, by reason, with the place of the first of each."""

    def __init__(self) -> None:
        """Begin with none."""
        self.rows: dict[str, int] = {}
        self.places: dict[str, str] = {}

    def add(self, reason: str, place: str, rows: int = 1) -> None:
        """Count rows lost for a reason."""
        if rows:
            self.rows[reason] = self.rows.get(reason, 0) + rows
            self.places.setdefault(reason, place)


def read(shard: Shard, columns: Sequence[str] | None, losses: Losses) -> Iterator[pa.RecordBatch]:
    """Read a shard's rows in order: batches of `columns` (None: all), in memory that does not grow with the shard.

    Rows that are not well formed (csv, jsonl) go to `losses`. Raise BrokenInput where the file cannot be read.
    """
    left = shard.rows
    with reading(shard.file):
        for batch in _batches(shard, columns, losses):
            if left is not None:
                batch = batch.slice(0, left)
                left -= len(batch)
            yield batch
            if left == 0:
                return


class reading:
    """Turn what goes wrong while a file is read into a BrokenInput that names it."""

    def __init__(self, file: PoolFile) -> None:
        """Name the file."""
        self.file = file

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Name the file in what went wrong."""
        if isinstance(error, FileNotFoundError):
            raise BrokenInput(f"{self.file.path} is gone; put it back, or run again with --overwrite") from error
        if isinstance(error, StoreError):
            raise BrokenInput(str(error)) from error
        if error is not None and (_says_unreadable(error) or (is_remote(self.file.path) and _is_of_a_client(error))):
            what = f"{self.file.path} cannot be read as {self.file.form} ({one_line(error, 160)})"
            raise BrokenInput(f"{what}; fetch or make the file again") from error


def _says_unreadable(error: BaseException) -> bool:
    return isinstance(error, OSError | pa.ArrowException | EOFError | UnicodeDecodeError | ValueError)


def _is_of_a_client(error: BaseException) -> bool:
    """Tell whether a store's client raised something: they have exceptions of their own, without a common base."""
    return isinstance(error, Exception) and type(error).__module__.partition(".")[0] not in ("builtins", "metaclip")


def _batches(shard: Shard, columns: Sequence[str] | None, losses: Losses) -> Iterator[pa.RecordBatch]:
    if shard.file.form == "parquet":
        assert shard.groups is not None
        with _parquet(shard.file) as parquet:
            for batch in parquet.iter_batches(
                BATCH_ROWS, row_groups=range(*shard.groups), columns=columns and list(columns), use_threads=False
            ):
                yield _without_views(batch)
    elif shard.file.form == "jsonl":
        if columns is None:
            schema = jsonl.schema(jsonl.blocks(_stream, shard.file), shard.rows)
        else:
            schema = pa.schema([(name, pa.string()) for name in columns])
        left = shard.rows
        for line, block in jsonl.blocks(_stream, shard.file):
            table = jsonl.table(block, line, schema, losses.add, left)
            left = None if left is None else max(0, left - len(table))
            yield from table.to_batches(BATCH_ROWS)
    elif shard.file.form == "tar":
        yield from tars.batches(lambda: tar_stream(shard.file), columns, TEXT_NAMES, losses.add, shard.rows)
    else:
        with _stream(shard.file) as stream:
            reader = delimited.Reader(stream, _DELIMITERS[shard.file.form], losses.add, shard.rows)
            yield from reader.batches(columns, BATCH_ROWS)


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Give a batch with the strings that Arrow cannot take by row as those that it can."""
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if views.keys().isdisjoint(batch.schema.types):
        return batch
    return batch.cast(pa.schema([field.with_type(views.get(field.type, field.type)) for field in batch.schema]))


def _parquet(file: PoolFile) -> Any:
    local = "://" not in file.path
    return pq.ParquetFile(file.path if local else open_file(file), pre_buffer=not local, buffer_size=_BUFFER)


def tar_stream(file: PoolFile) -> Any:
    """Open a tar for reading forwards: with a small buffer where its images can be skipped."""
    return open(file.path, "rb") if "://" not in file.path and file.codec is None else _stream(file)


def _stream(file: PoolFile) -> Any:
    if "://" not in file.path:
        return pa.input_stream(file.path, compression=file.codec)
    raw = pa.PythonFile(open_file(file), mode="r")
    return pa.CompressedInputStream(raw, file.codec) if file.codec else raw
