"""A run folder: how its parquet files are written and read, and `Run`, a finished one that is opened for reading.

matched/*.parquet    row, uid, matches of each row that matches anything (with_text: url and text too)
counts.parquet       entry_id, entry, source, count
curated/*.parquet    the input's columns, uid, matches, keep_probability
entries.parquet      entry_id, entry, source, count, probability, expected, kept; with weights t too
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.arguments import PATH, check_type
from metaclip.curate.draw import Thresholds
from metaclip.curate.settings import BALANCE, MATCH, REMOVED, MatchSettings, RunManifest
from metaclip.curate.threshold import column_thresholds, vector_digest
from metaclip.errors import MetaclipError, damaged, one_line
from metaclip.matching import MATCHES, Counts, ids_and_offsets
from metaclip.matching.text_rule import TextRule
from metaclip.metadata import Metadata
from metaclip.pool import reading_parquet
from metaclip.pool.columns import valid_strings
from metaclip.pool.shards import BATCH_ROWS
from metaclip.pool.uid import UID, Uids, from_binary, to_binary
from metaclip.stage.folder import MANIFEST, STATE, Folder
from metaclip.stage.stage import Stage, check_bytes, check_item_bytes
from metaclip.storage.files import (
    atomic_write,
    fault_in,
    local_copies,
    local_copy,
    read_json,
    resolve_path,
)

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
    table = pa.table(
        {"entry_id": entry_id, "entry": metadata.entries, "source": metadata.source, **columns}
    )
    with atomic_write(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(about),
            temporary,
            compression=_COMPRESSION,
            use_dictionary=["source"],
        )


# --- a finished run


def counts_digest(counts: npt.NDArray[np.uint64]) -> str:
    """Identify counts: sha256 of their values as little-endian uint64, in the list's order."""
    return hashlib.sha256(counts.astype("<u8").tobytes()).hexdigest()


@contextlib.contextmanager
def local_run(run: Run) -> Iterator[Run]:
    """Yield a run whose files are on this machine: the run itself, or a copy of one in a store, removed after the block.

    Use it to read all of a run more than once, as a card does: a copy needs disk space for matched/ and curated/.
    """
    with contextlib.ExitStack() as held:
        path = held.enter_context(run.path.local_folder())
        elsewhere = run.matched.path != run.path
        matched = held.enter_context(run.matched.path.local_folder()) if elsewhere else path
        if (path, matched) == (run.path, run.matched.path):
            yield run
            return
        copy = Run(path, run.counted)
        copy.matched = Folder(matched)
        yield copy


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


COUNTED: Final = {"entry": pa.string(), "source": pa.string(), "count": pa.uint64()}
ENTRIES: Final = {
    "entry_id": pa.uint32(), **COUNTED, "probability": pa.float64(), "expected": pa.float64(), "kept": pa.uint64()
}  # fmt: skip


def _manifest(folder: Folder) -> dict[str, Any]:
    """Return the manifest of a run. Raise MetaclipError if it is damaged; it is empty if the run is not finished."""
    manifest = folder.manifest
    stages = manifest.get("stages", {})
    kinds = [(manifest, RunManifest)] if stages.keys() & {MATCH.name, BALANCE.name} else []
    kinds += [(stages[spec.name], spec.record) for spec in (MATCH, BALANCE) if spec.name in stages]
    for value, kind in kinds:
        if (fault := fault_in(value, kind)) is not None:
            raise damaged(folder / MANIFEST, fault)
    return manifest


class Run:
    """A run folder, opened for reading: what it was made from, its counts, its curated pairs.

    >>> from metaclip import Run
    >>> run = Run("tests/golden/run")
    >>> run
    Run('tests/golden/run': 312 kept of 338 matched pairs, t = 20)
    >>> run.entries.column_names
    ['entry_id', 'entry', 'source', 'count', 'probability', 'expected', 'kept']
    """

    def __init__(
        self, path: str | os.PathLike[str], counted: tuple[Counts, Metadata] | None = None
    ) -> None:
        """Open a run folder. Raise MetaclipError if it is none, or if its first stage is not finished.

        `counted` are counts and list that were made or read before: if they belong to this run, they are not read again.
        """
        check_type("run", path, PATH)
        self.folder = Folder(path)
        self.path = self.folder.path
        self.manifest = _manifest(self.folder)
        stages = self.manifest.get("stages", {})
        self.balance: dict[str, Any] | None = stages.get("balance")
        self._owns_matches = "match" in stages
        match = stages.get("match") or (self.balance and self.balance["match"]["record"])
        if not match:
            if self.folder.state.exists():
                raise MetaclipError(
                    f"{path} is not finished; run the command that began it again, for a job array each part that is left"
                )
            raise MetaclipError(f"{path} is no run folder; metaclip curate and metaclip match make one")
        self.match: dict[str, Any] = match
        if counted is not None and self._is_mine(*counted):
            self.counted = counted

    def __repr__(self) -> str:
        """Show the path, the pairs and t."""
        matched = f"{self.match['funnel']['matched']} matched pairs"
        if self.balance is None:
            return f"Run({str(self.path)!r}: {matched})"
        by = f" by {self.t_by}" if self.t_by else ""
        return f"Run({str(self.path)!r}: {self.balance['kept']} kept of {matched}, t = {self.t:g}{by})"

    def _repr_html_(self) -> str:
        """Show figures, counts by rank before and after balancing, and the largest entries."""
        from metaclip.notebook import entries_tables

        funnel = self.match["funnel"]
        figures = {
            step: funnel[step]
            for step in ("rows", *sorted(funnel.keys() - {"rows", "matched"}), "matched")
        }
        if self.balance is None:
            entries = pa.table({"entry": self.metadata.entries, "count": self.counts.values})
        else:
            entries = self.entries
            figures |= {
                "kept": self.balance["kept"],
                "expected": self.balance["expected"],
                "t": self.t,
                "seed": self.seed,
            }
        return entries_tables(repr(self), figures, entries)

    @property
    def matched_manifest(self) -> dict[str, Any]:
        """The manifest of the folder that holds the matches."""
        return self.manifest if self._owns_matches else _manifest(self.matched)

    @property
    def match_settings(self) -> MatchSettings:
        """The settings of its first stage."""
        settings = msgspec.convert(self.matched_manifest["settings"]["match"], MatchSettings)
        return dataclasses.replace(settings, rule=self.rule)

    @property
    def t(self) -> float:
        """The threshold; with weights, the number that they multiply. Raise MetaclipError if the run is not balanced."""
        t = self._balanced["t"]
        return float(t["base"] if isinstance(t, dict) else t)

    @property
    def t_by(self) -> str | None:
        """What t differs by from entry to entry, "weight"; None for one t. Raise MetaclipError if the run is not balanced."""
        t = self._balanced["t"]
        return str(t["by"]) if isinstance(t, dict) else None

    @functools.cached_property
    def thresholds(self) -> Thresholds:
        """The threshold of each entry: t itself, or float64[number of entries].

        Raise MetaclipError if the run is not balanced, or if they differ from what it wrote.
        """
        found, record = column_thresholds(self.entries, self.t), self._balanced["t"]
        if vector_digest(found) != (record["digest"] if isinstance(record, dict) else None):
            raise damaged(self.path / "entries.parquet", "its column t is not what the run wrote")
        return found

    @property
    def seed(self) -> int:
        """The seed of the draw. Raise MetaclipError if the run is not balanced."""
        return int(self._balanced["seed"])

    @property
    def _balanced(self) -> dict[str, Any]:
        if self.balance is None:
            raise MetaclipError(
                f"{self.path} is matched but not balanced; run: metaclip balance {self.path}"
            )
        return dict(self.balance)

    @property
    def rule(self) -> TextRule:
        """The text rule."""
        return msgspec.convert(self.match["rule"], TextRule)

    @functools.cached_property
    def matched(self) -> Folder:
        """The folder that holds the matches: its own, or the folder of the run that it was balanced from.

        Raise MetaclipError if that folder is gone, or was matched again.
        """
        if self._owns_matches:
            return self.folder
        source = self._balanced["match"]
        # Both folders may have been moved together, or this one alone.
        beside = source["beside"] and resolve_path(self.path, source["beside"])
        for path in filter(None, (beside, source["folder"])):
            found = Folder(path)
            record = Stage(found, MATCH).record
            if record is not None and record["identity"] == self.match["identity"]:
                return found
        raise MetaclipError(
            f"the matches that {self.path} was balanced from are no longer in {source['folder']}; match and balance again"
        )

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The files of the pool: index, name, path, size, stamp, sha256."""
        folder = self.matched.path
        return [
            {**item, "path": str(resolve_path(folder, item["path"]))}
            for item in self.matched_manifest["inputs"]
        ]

    @functools.cached_property
    def shard_columns(self) -> dict[str, dict[str, str | None]]:
        """The names of columns that were given when a shard was matched, by role (text, url, uid), by the shard's name."""
        return {
            item["name"]: item.get("columns") or self.match["columns"] for item in self.match["shards"]
        }

    def check_matches(self) -> None:
        """Raise MetaclipError if a file of stage match is not as it was written."""
        written = self.match["files"]
        sizes = self.matched.path.sizes()
        for name, size in written.items():
            if sizes.get(name) != size:
                raise MetaclipError(
                    f"{self.matched / name} is gone or not what the run wrote; the command that matched the pool mends it"
                )

    @functools.cached_property
    def counted(self) -> tuple[Counts, Metadata]:
        """The counts and the query list. Raise MetaclipError if they cannot be read, or differ from what the run wrote."""
        path = self.path / ("counts.parquet" if self._owns_matches else "entries.parquet")
        table = read_table(path, COUNTED)
        metadata = Metadata(table["entry"].combine_chunks(), table["source"].combine_chunks())
        values = table["count"].to_numpy()
        counted = Counts(values, metadata.digest, self.rule.identity), metadata
        if not self._is_mine(*counted):
            raise damaged(path, "it has other entries or counts than were written")
        return counted

    def _is_mine(self, counts: Counts, metadata: Metadata) -> bool:
        return (metadata.digest, counts_digest(counts.values)) == (
            self.match["list"],
            self.match["counts_digest"],
        )

    @property
    def counts(self) -> Counts:
        """The counts."""
        return self.counted[0]

    @property
    def metadata(self) -> Metadata:
        """The query list."""
        return self.counted[1]

    @property
    def corrected_counts(self) -> npt.NDArray[np.uint64]:
        """The counts without the pairs that were taken out of the run, of one from which some were."""
        path = self.matched / "counts.parquet"
        values: npt.NDArray[np.uint64] = read_table(path, COUNTED | {"count_corrected": pa.uint64()})[
            "count_corrected"
        ].to_numpy()
        if counts_digest(values) != self.match[REMOVED]["counts_digest"]:
            raise damaged(path, "it has other corrected counts than were written")
        return values

    @functools.cached_property
    def entries(self) -> pa.Table:
        """A row for each entry: entry_id, entry, source, count, probability, expected, kept; with weights t, too."""
        path = self.path / "entries.parquet"
        check_bytes(path, path.name, self._balanced)
        table = read_table(path, ENTRIES | ({"t": pa.float64()} if self.t_by else {}))
        if table["entry_id"].to_pylist() != list(range(len(table))):
            raise damaged(path, "its entries are not in order")
        return table

    @property
    def curated(self) -> pa.Table:
        """The curated pairs with all columns, in memory; open the folder ``curated/`` as a data set if it is large."""
        _ = self._balanced
        files = sorted((self.path / "curated").glob("*.parquet"))
        if not files:
            own = [("uid", pa.string()), ("matches", MATCHES), ("keep_probability", pa.float64())]
            return pa.schema(own).empty_table()
        # Files of a pool may have different columns.
        with local_copies(files) as paths:
            tables = [
                pa.Table.from_batches(batches) for path in paths if (batches := list(read_pairs(path)))
            ]
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise MetaclipError(
                f"the files in {self.path / 'curated'} have columns of different types ({one_line(error)}); read them one by one"
            ) from None

    @property
    def account(self) -> dict[str, Any]:
        """The account of the run: card.json as a dict."""
        _ = self._balanced
        if (found := read_json(self.path / "card.json")) is None:
            raise MetaclipError(
                f"{self.path / 'card.json'} is gone or damaged; run the same command again"
            )
        return found


RunLike = Run | str | os.PathLike[str]
"""A run: the object, or its folder."""


def open_run(run: RunLike) -> Run:
    """Return a run given as the object or as its folder."""
    check_type("run", run, Run | PATH)
    return run if isinstance(run, Run) else Run(run)
