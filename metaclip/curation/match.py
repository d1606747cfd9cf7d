"""Match: the first stage of a run. A pool and a query list in; matched rows, counts and the funnel out.

    matched/*.parquet    row, uid, matches of each row that matches anything (with_text: url and text too)
    counts.parquet       entry_id, entry, source, count
    duplicates.npy       uids that stand on more than one matched row, in DataComp's subset format

`match_shard` is the step: a pure function of a shard. Its result does not depend on how the pool is cut, only the
files it stands in do. Memory: one batch of 65,536 rows and one parquet row group a worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.curation import pool as pools
from metaclip.curation.count import Counts, add_ids
from metaclip.curation.matcher import Matcher
from metaclip.curation.matches import MATCHES
from metaclip.curation.pool import BrokenInput, Columns, Losses, PoolFile, Shard
from metaclip.curation.sorting import merge_runs, repeated, write_rows, write_run, write_subset
from metaclip.curation.text_rule import PAPER, TextRule
from metaclip.curation.uid import UID, to_binary, uids_of
from metaclip.metadata.entries import Metadata
from metaclip.shard.files import all_here, here, replacing
from metaclip.shard.folder import Folder
from metaclip.shard.remote import each, is_remote

SEMANTICS: Final = 1
"""Raised when the same input would give other matches, counts or uids."""
STAGE: Final = "match"
OUTPUTS: Final = ("matched", "counts.parquet", "duplicates.npy")
PARTIALS: Final = ("*.counts.npy", "*.uids.npy")
COMPRESSION: Final = "zstd"
_PATHS: Final = ("row", "matches.list.element", "url", "text")  # of matched/'s columns, as parquet names them
_WRITE_ROWS: Final = 1 << 17
_OPENED_AT_ONCE: Final = 16
_COUNTED_AT_ONCE: Final = 1 << 20  # matches: counting walks through all entries' counts each time

Advance = Callable[[int, int], None]
"""Called with (rows read, rows that came through) between batches; raises Interrupted to stop."""


@dataclasses.dataclass(frozen=True)
class MatchSettings:
    """What determines the matches of a pool: the table [match] of a recipe."""

    metadata: str | None = None
    """The query list: txt, json or parquet, each maybe gzipped."""
    fold_duplicates: bool = False
    """Keep the first of entries that stand twice in the list, instead of refusing it."""
    text_column: str | None = None
    """Name of the text column, where it is not text, caption or alt."""
    url_column: str | None = None
    """Name of the url column, where it is not url."""
    uid_column: str | None = None
    """Name of the uid column, where it is not uid."""
    limit: int | None = None
    """Read only the first so many rows of the pool."""
    with_text: bool = False
    """Carry url and text in matched/."""
    rule: TextRule = PAPER

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}, must be at least 1")

    def fingerprint(self, metadata: Metadata, files: Sequence[PoolFile]) -> dict[str, Any]:
        """Give everything that determines the stage's result, but for the bytes of the inputs (markers hold these)."""
        return {
            "semantics": SEMANTICS,
            "list": metadata.digest,
            "rule": dataclasses.asdict(self.rule),
            "columns": {"text": self.text_column, "url": self.url_column, "uid": self.uid_column},
            "limit": self.limit,
            "with_text": self.with_text,
            "pool": [file.name for file in files],
        }


def plan(files: Sequence[PoolFile], settings: MatchSettings) -> tuple[list[Shard], dict[int, BrokenInput]]:
    """Cut a pool into shards: (shards, what is wrong with the files that cannot be read, by index).

    Raise BrokenInput if no file can be read.
    """
    shards: list[Shard] = []
    broken: dict[int, BrokenInput] = {}
    for index, found in enumerate(_cut_all(files, settings)):
        if isinstance(found, BrokenInput):
            broken[index] = found
        else:
            shards += found
    if broken and not shards:
        raise next(iter(broken.values()))
    return shards, broken


def _cut_all(files: Sequence[PoolFile], settings: MatchSettings) -> Iterable[list[Shard] | BrokenInput]:
    """Cut each file, as many as the limit reaches, or say what is wrong with it."""

    def cut(item: tuple[int, PoolFile], left: int | None = None) -> tuple[Columns, list[Shard]] | BrokenInput:
        index, file = item
        try:
            schema, shards = pools.open_and_cut(file, index, left)
            return _columns(schema, file, settings), shards
        except BrokenInput as error:
            return error

    if settings.limit is None:
        # To open a file in a store is to wait for it.
        many = _OPENED_AT_ONCE if any(is_remote(file.path) for file in files) else 1
        for found in each(cut, list(enumerate(files)), many):
            yield found if isinstance(found, BrokenInput) else found[1]
        return
    left = settings.limit
    for index, file in enumerate(files):
        if left == 0:
            return
        found = cut((index, file), left)
        try:
            if not isinstance(found, BrokenInput):
                left -= pools.count_rows(file, found[0], left)
        except BrokenInput as error:
            found = error
        yield found if isinstance(found, BrokenInput) else found[1]


def columns_of(file: PoolFile, settings: MatchSettings) -> Columns:
    """Find a file's columns. Raise BrokenInput if the file, or the text column, cannot be read."""
    return _columns(pools.schema_of(file), file, settings)


def _columns(schema: pa.Schema, file: PoolFile, settings: MatchSettings) -> Columns:
    return pools.find_columns(schema, file.path, settings.text_column, settings.url_column, settings.uid_column)


def match_shard(
    shard: Shard, matcher: Matcher, settings: MatchSettings, folder: Folder, advance: Advance
) -> dict[str, Any]:
    """Match a shard and write its files: matched rows, counts, sorted uids. Give its marker.

    Raise BrokenInput if the shard cannot be read; nothing is left of it then.
    """
    stage = folder.stage(STAGE)
    columns = columns_of(shard.file, settings)
    wanted = [name for name in (columns.text, columns.url, columns.uid, columns.status) if name is not None]
    losses = Losses()
    funnel = {"rows": 0, "matched": 0}
    counts = np.zeros(len(matcher.metadata), np.uint64)
    uids: list[npt.NDArray[np.uint64]] = []
    ids: list[npt.NDArray[np.uint32]] = []  # matches that are not counted yet
    row = shard.first
    with MatchedWriter.to(folder / "matched" / f"{shard.name}.parquet", settings.with_text) as writer:
        for batch in pools.read(shard, list(dict.fromkeys(wanted)), losses):
            texts = _texts(batch, columns, row, losses)
            matches = matcher.match(texts)
            offsets = np.asarray(matches.offsets)
            size = np.diff(offsets)
            found = np.flatnonzero(size)
            if len(found):
                some = pa.array(found)
                chosen = texts.take(some)
                urls = None if columns.url is None else batch.column(columns.url).take(some)
                given = None if columns.uid is None else batch.column(columns.uid).take(some)
                rows_uids = uids_of(chosen, urls, given)
                ends = pa.array(np.concatenate([offsets[:1], offsets[1:][found]]).astype(np.int32))
                kept = pa.ListArray.from_arrays(ends, matches.values, type=MATCHES)
                writer.write(row + found, rows_uids, kept, urls, chosen)
                uids.append(rows_uids)
                ids.append(matches.values.to_numpy())
                if sum(map(len, ids)) > _COUNTED_AT_ONCE:
                    add_ids(counts, np.concatenate(ids))
                    ids.clear()
            empty = int(((size == 0) & (pc.fill_null(pc.binary_length(texts), 1).to_numpy() == 0)).sum())
            losses.add("empty_text", f"row {row}", empty)
            funnel["rows"] += len(batch)
            funnel["matched"] += len(found)
            row += len(batch)
            advance(len(batch), len(found))
    funnel["rows"] += losses.rows.get("malformed_row", 0)
    funnel |= losses.rows
    funnel["no_match"] = funnel["rows"] - funnel["matched"] - sum(losses.rows.values())
    add_ids(counts, np.concatenate([np.zeros(0, np.uint32), *ids]))
    nonzero = np.flatnonzero(counts)
    write_rows(stage.path / f"{shard.name}.counts.npy", np.stack([nonzero.astype(np.uint64), counts[nonzero]], axis=1))
    write_run(stage.path / f"{shard.name}.uids.npy", np.concatenate([np.zeros((0, 2), np.uint64), *uids]))
    return {"shard": shard.identity, "funnel": funnel, "places": losses.places}


def shard_counts(folder: Folder, shard: str, n_entries: int) -> npt.NDArray[np.uint64]:
    """Read the counts that a finished shard left: uint64[n_entries]."""
    with here(folder.stage(STAGE).path / f"{shard}.counts.npy") as path:
        partial = np.load(path)
    counts = np.zeros(n_entries, np.uint64)
    counts[partial[:, 0].astype(np.int64)] = partial[:, 1]
    return counts


def merge(
    folder: Folder, metadata: Metadata, counts: Counts, shards: Iterable[str], threads: int = 1
) -> tuple[int, int]:
    """Write counts.parquet, and, of what finished shards left, duplicates.npy.

    Give (uids that stand on more than one matched row, such rows beyond the first of each uid).
    """
    stage = folder.stage(STAGE)
    duplicates, repeats = [np.zeros((0, 2), np.uint64)], 0
    with all_here([stage.path / f"{name}.uids.npy" for name in shards]) as runs:
        for block in merge_runs(runs, threads=threads):
            twice = repeated(block)
            if len(twice):
                distinct = 1 + int(((block[1:] != block[:-1]).any(axis=1)).sum())
                repeats += len(block) - distinct
                duplicates.append(twice)
    total = sum(len(part) for part in duplicates)
    write_subset(folder / "duplicates.npy", iter(duplicates), total)
    write_counts(folder / "counts.parquet", metadata, counts)
    return total, repeats


def write_counts(path: Path, metadata: Metadata, counts: Counts) -> None:
    """Write counts.parquet: entry_id, entry, source, count; the digests stand in the file's metadata."""
    table = pa.table(
        {
            "entry_id": pa.array(np.arange(len(metadata), dtype=np.uint32)),
            "entry": metadata.entries,
            "source": metadata.source,
            "count": pa.array(counts.values),
        }
    ).replace_schema_metadata({"list": counts.list_digest, "rule": counts.rule_identity})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression=COMPRESSION, use_dictionary=["source"])


def read_counts(path: Path) -> tuple[Counts, Metadata]:
    """Read counts.parquet: the counts, and the list they are of."""
    with here(path) as local:
        table = pq.read_table(local)
    notes = table.schema.metadata or {}
    values = table["count"].to_numpy().astype(np.uint64)
    metadata = Metadata(table["entry"].combine_chunks(), table["source"].combine_chunks())
    return Counts(values, notes[b"list"].decode(), notes[b"rule"].decode()), metadata


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
            replacing(path) as temporary,
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


def _texts(batch: pa.RecordBatch, columns: Columns, row: int, losses: Losses) -> pa.Array:
    """Give a batch's texts as a string or large_string array, null where they cannot be used; count why."""
    texts = plain_texts(batch.column(columns.text))
    if columns.status is not None:
        failed = pc.fill_null(pc.not_equal(batch.column(columns.status).cast(pa.string()), "success"), True)
        n_failed = pc.sum(failed).as_py() or 0
        if n_failed:
            losses.add("not_downloaded", f"row {row + failed.index(True).as_py()}", n_failed)
            texts = pc.if_else(failed, pa.scalar(None, texts.type), texts)
            losses.add("null_text", f"row {row}", texts.null_count - n_failed)
            return _without_invalid(texts, row, losses)
    if texts.null_count:
        losses.add("null_text", f"row {row + texts.is_null().index(True).as_py()}", texts.null_count)
    return _without_invalid(texts, row, losses)


def plain_texts(column: pa.Array) -> pa.Array:
    """Bring a text column (`metaclip.curation.pool.find_columns` saw to its type) to string or large_string."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    return column.cast(pa.string()) if pa.types.is_null(kind) else column


def _without_invalid(texts: pa.Array, row: int, losses: Losses) -> pa.Array:
    """Put null where a text is not valid UTF-8 (Arrow does not check what it reads from parquet)."""
    try:
        texts.validate(full=True)
        return texts
    except pa.ArrowInvalid:
        pass
    raw = texts.cast(pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()).to_pylist()
    invalid = np.zeros(len(raw), np.bool_)
    for i, data in enumerate(raw):
        if data is not None:
            try:
                data.decode()
            except UnicodeDecodeError:
                invalid[i] = True
    losses.add("invalid_utf8", f"row {row + int(invalid.argmax())}", int(invalid.sum()))
    return pa.array([None if bad else data for bad, data in zip(invalid, raw, strict=True)], pa.large_binary()).cast(
        pa.large_string()
    )
