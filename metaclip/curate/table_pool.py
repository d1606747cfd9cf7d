"""Pools in memory: a table of any library that speaks Arrow, written to a parquet file of the run folder.

Balancing reads the pool a second time, maybe days later, so that the table must outlive the process. The result is that of
the same table in a parquet file of one's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from metaclip.arguments import ArrowTable, without_views
from metaclip.curate.settings import MATCH
from metaclip.curate.tables import GROUP_ROWS, table_writer
from metaclip.errors import MetaclipError, one_line
from metaclip.stage.folder import Folder, new_folders, remove_empty, remove_unused
from metaclip.stage.runner import RunOptions
from metaclip.stage.stage import Stage
from metaclip.storage.files import AnyPath, atomic_write, file_digest, local_copy


@contextlib.contextmanager
def saved_table(table: ArrowTable, folder: Folder, name: str, options: RunOptions) -> Iterator[str]:
    """Write a table to a file of a run folder; yield the file's path.

    The file is removed if the block raises and leaves nothing made from it. Raise MetaclipError if the folder has another
    table there and `options.overwrite` is not set.
    """
    reader, path, new = read_table(table), folder / name, new_folders(folder.path)
    with folder.owned(options.part), atomic_write(path) as temporary:
        write_table(reader, temporary)
        is_new = not path.exists() and not Stage(folder, MATCH).path.exists()
        if not (options.overwrite or is_new or (path.exists() and _same_bytes(path, temporary))):
            raise MetaclipError(
                f"{folder.path} is a run of another pool; "
                "choose another `out=...`, or replace it with `RunOptions(overwrite=True)`"
            )
    try:
        yield str(path)
    except BaseException:
        if not Stage(folder, MATCH).has_results():
            with contextlib.suppress(MetaclipError):
                with folder.owned(options.part):
                    path.unlink(missing_ok=True)
                    remove_unused(folder.path)
                remove_empty(new)
        raise


def read_table(table: ArrowTable) -> pa.RecordBatchReader:
    """Return the batches of a table. Raise TypeError for a column, and for a table that Arrow cannot hold."""
    try:
        if hasattr(table, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(table)
        return pa.Table.from_batches([pa.record_batch(table)]).to_reader()
    except (pa.ArrowException, TypeError, ValueError) as error:
        kind = type(table).__name__
        if hasattr(table, "columns"):
            raise TypeError(f"pool, a {kind}, is no table of Arrow ({one_line(error)})") from None
        raise TypeError(f"pool must be a table, not {kind} of one column") from None


def write_table(reader: pa.RecordBatchReader, path: Path) -> None:
    """Write batches to a parquet file."""
    names = reader.schema.names
    empty = [without_views(pa.nulls(0, kind)) for kind in reader.schema.types]
    schema = pa.RecordBatch.from_arrays(empty, names).schema
    with table_writer(path, {"compression": "zstd"}, schema) as add:
        for batch in reader:
            batch = pa.RecordBatch.from_arrays(list(map(without_views, batch.columns)), names)
            for first in range(0, len(batch), GROUP_ROWS):
                add(pa.Table.from_batches([batch.slice(first, GROUP_ROWS)]))


def _same_bytes(one: AnyPath, other: Path) -> bool:
    with local_copy(one) as local, local.open("rb") as first, other.open("rb") as second:
        return file_digest(first) == file_digest(second)
