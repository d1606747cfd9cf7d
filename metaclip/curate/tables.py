"""The parquet files of a run folder: how they are written and read.

matched/*.parquet    row, uid, matches of each row that matches anything (with_text: url and text too)
counts.parquet       entry_id, entry, source, count
curated/*.parquet    the input's columns, uid, matches, keep_probability
entries.parquet      entry_id, entry, source, count, probability, expected, kept; with weights or languages t too

Of a list with languages, the last and counts.parquet have a column language behind entry.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.curate.draw import Thresholds
from metaclip.curate.settings import BALANCE, MATCH
from metaclip.errors import damaged
from metaclip.matching import MATCHES, Counts, ids_and_offsets
from metaclip.metadata import Metadata
from metaclip.pool import reading_parquet
from metaclip.pool.columns import valid_strings
from metaclip.pool.shards import BATCH_ROWS
from metaclip.pool.uid import UID, Uids, from_binary, to_binary
from metaclip.stage.folder import STATE
from metaclip.stage.stage import check_item_bytes
from metaclip.storage.files import (
    atomic_write,
    local_copy,
)

COUNTED: Final = {"entry": pa.string(), "source": pa.string(), "count": pa.uint64()}
ENTRIES: Final = {
    "entry_id": pa.uint32(), **COUNTED, "probability": pa.float64(), "expected": pa.float64(), "kept": pa.uint64()
}  # fmt: skip

_COMPRESSION: Final = "zstd"
GROUP_ROWS: Final = 1 << 17

_MATCHED_OPTIONS: Final[dict[str, Any]] = {
    # uids are random and rows ascend: compression and dictionaries would cost time and save nothing.
    "compression": {
        "uid": "NONE",
        **dict.fromkeys(("row", "matches.list.element", "url", "text"), _COMPRESSION),
    },
    "use_dictionary": ["matches.list.element"],
    "write_statistics": ["row"],
    "column_encoding": {"row": "DELTA_BINARY_PACKED", "uid": "PLAIN"},
}
_CURATED_OPTIONS: Final[dict[str, Any]] = {
    "compression": _COMPRESSION,
    "use_dictionary": ["matches.list.element"],
    "write_statistics": False,
}


_COLUMNS: Final = {
    "matched": {"row": pa.uint64(), "uid": UID, "matches": MATCHES},
    "curated": {"uid": pa.string(), "matches": MATCHES, "keep_probability": pa.float64()},
}
"""The columns of our own, without nulls, in the files of a folder; others are the pool's."""
_STAGE_OF: Final = {"matched": MATCH.name, "curated": BALANCE.name}


def read_pairs(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read columns (all by default) of a file of matched/ or curated/ in batches.

    Raise MetaclipError if the file is not what the run wrote.
    """
    folder, kinds = path.parent, _COLUMNS.get(path.parent.name, {})
    if kinds:
        check_item_bytes(path, folder.parent / STATE / _STAGE_OF[folder.name] / f"{path.stem}.json")
    with reading_parquet(path), local_copy(path) as local, pq.ParquetFile(local) as file:
        schema = file.schema_arrow
        for name in (*kinds, *(columns or ())):
            if schema.names.count(name) != 1 or schema.field(name).type != kinds.get(
                name, schema.field(name).type
            ):
                raise damaged(path, f"it has no column {name} of the type {kinds.get(name)}")
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            if any(batch.column(name).null_count for name in kinds if name in batch.schema.names):
                raise damaged(path, "it has nulls")
            yield batch


def read_matched(path: Path) -> Iterator[tuple[npt.NDArray[np.int64], Uids, pa.Array]]:
    """Read a file of matched/: yield batches of (row int64[n], uid uint64[n, 2], matches list<uint32>[n]).

    Raise MetaclipError if it is not what the run wrote.
    """
    last = -1
    for batch in read_pairs(path, ["row", "uid", "matches"]):
        rows = batch.column("row").to_numpy().astype(np.int64)
        if (np.diff(rows, prepend=last) <= 0).any() or batch.column("matches").flatten().null_count:
            raise damaged(path, "its rows are not in order, or have nulls")
        last = int(rows[-1])
        yield rows, from_binary(batch.column("uid")), batch.column("matches")


def matched_rows(path: Path) -> Iterator[tuple[Uids, npt.NDArray[np.uint32], npt.NDArray[np.int64]]]:
    """Read a file of matched/: yield batches of (uids, values, offsets), as `ids_and_offsets` returns them."""
    for _, uids, matches in read_matched(path):
        yield uids, *ids_and_offsets(matches)


@contextlib.contextmanager
def matched_writer(path: Path, with_text: bool) -> Iterator[Callable[..., None]]:
    """Open a file of matched/ for a block; yield a function that adds rows to it: ``(rows, uids, matches, urls, texts)``.

    Urls (maybe None) and texts are written only `with_text`.
    """
    fields = [("row", pa.uint64()), ("uid", UID), ("matches", MATCHES)]
    if with_text:
        fields += [("url", pa.large_string()), ("text", pa.large_string())]
    schema = pa.schema(fields)

    def add(rows: npt.NDArray[np.int64], uids: Uids, matches: pa.Array, urls: Any, texts: Any) -> None:
        columns = [pa.array(rows.astype(np.uint64)), to_binary(uids), matches]
        if with_text:
            columns.append(
                pa.nulls(len(rows), pa.large_string())
                if urls is None
                else valid_strings(urls).cast(pa.large_string())
            )
            columns.append(texts.cast(pa.large_string()))
        add_table(pa.Table.from_arrays(columns, schema=schema))

    with table_writer(path, _MATCHED_OPTIONS, schema) as add_table:
        yield add


def curated_writer(path: Path) -> contextlib.AbstractContextManager[Callable[[pa.Table], None]]:
    """Open a file of curated/ for a block; return a function that adds tables. A file without pairs is not written."""
    return table_writer(path, _CURATED_OPTIONS)


@contextlib.contextmanager
def table_writer(
    path: Path, options: Mapping[str, Any], schema: pa.Schema | None = None
) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that adds tables to a parquet file, which is whole after the block or does not exist.

    Row groups have 131,072 rows or more. Without `schema`, the first table has it, and no table leaves no file.
    """
    waiting: list[pa.Table] = []
    rows = 0
    writer: Any = None

    def add(table: pa.Table) -> None:
        nonlocal rows
        waiting.append(table)
        rows += len(table)
        if rows >= GROUP_ROWS:
            flush()

    def flush() -> None:
        nonlocal rows, writer
        writer = writer or open_writer(waiting[0].schema)
        writer.write_table(pa.concat_tables(waiting), row_group_size=rows)
        waiting.clear()
        rows = 0

    def open_writer(schema: pa.Schema) -> Any:
        return files.enter_context(
            pq.ParquetWriter(files.enter_context(atomic_write(path)), schema, **options)
        )

    with contextlib.ExitStack() as files:
        if schema is not None:
            writer = open_writer(schema)
        yield add
        if waiting:
            flush()
    if writer is None:
        path.unlink(missing_ok=True)


def write_counts(path: Path, metadata: Metadata, counts: Counts, corrected: Counts | None = None) -> None:
    """Write counts.parquet; the digests of list and rule are in the file's metadata.

    `corrected` are the counts without the pairs that were taken out; they become another column, count_corrected.
    """
    columns = {"count": counts.values}
    if corrected is not None:
        columns["count_corrected"] = corrected.values
    _write_by_entry(path, metadata, columns, {"list": counts.list_digest, "rule": counts.rule_identity})


def write_entries(
    path: Path, metadata: Metadata, counts: Counts, t: Thresholds, probability: npt.NDArray[np.float64],
    expected: npt.NDArray[np.float64], kept: npt.NDArray[np.uint64],
) -> None:  # fmt: skip
    """Write entries.parquet: `probability`, `expected` and `kept` have a number for each entry, and maybe `t` has."""
    columns: dict[str, npt.NDArray[Any]] = {"count": counts.values}
    if isinstance(t, np.ndarray):
        columns["t"] = t
    _write_by_entry(
        path, metadata, columns | {"probability": probability, "expected": expected, "kept": kept}
    )


def _write_by_entry(
    path: Path,
    metadata: Metadata,
    columns: Mapping[str, npt.NDArray[Any]],
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a table with a row for each entry of the list; `about` goes into the file's own metadata."""
    entry_id = np.arange(len(metadata), dtype=np.uint32)
    language = metadata.language
    table = pa.table(
        {
            "entry_id": entry_id,
            "entry": metadata.entries,
            **({} if language is None else {"language": language.cast(pa.string())}),
            "source": metadata.source,
            **columns,
        }
    )
    with atomic_write(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(about),
            temporary,
            compression=_COMPRESSION,
            use_dictionary=["source", "language"],
        )


def table_list(table: pa.Table) -> Metadata:
    """Return the query list of a table with a row for each entry: its columns entry and source, and maybe language."""
    entry, source = (table[name].combine_chunks() for name in ("entry", "source"))
    has_languages = "language" in table.column_names
    return Metadata(entry, source, language=table["language"].combine_chunks() if has_languages else None)


def counts_digest(counts: npt.NDArray[np.uint64]) -> str:
    """Identify counts: sha256 of their values as little-endian uint64, in the list's order."""
    return hashlib.sha256(counts.astype("<u8").tobytes()).hexdigest()


def read_table(path: Path, columns: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """Read a table with a row for each entry. Raise MetaclipError if it is damaged, or has not these `columns`."""
    with reading_parquet(path), local_copy(path) as local:
        table = pq.ParquetFile(local).read()
        names = table.column_names
    for name, kind in (columns or {}).items():
        if name not in names or table.schema.field(name).type != kind:
            raise damaged(path, f"it has no column {name} of the type {kind}")
        if name != "source" and table[name].null_count:
            raise damaged(path, f"its column {name} has nulls")
    return table
