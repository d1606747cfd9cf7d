"""Weights: a factor on t for each entry, so that some entries keep more of their pairs and others fewer.

    t[e] = fl(t * weight[e])        float64; the weight of an entry that is not named is 1
    p[e] = min(1, t[e] / count[e])  (`metaclip.curate.draw`)

They are read from a csv or parquet file with the columns entry and weight, from a dict, or from a table. A run is identified
by the weights of its list's entries, not by the file.

Cost: 500,000 rows of csv are read in 1.4 s, of parquet in 0.7 s, and found in a list of as many entries in 0.2 s.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.arguments import ArrowTable, is_table, without_views
from metaclip.errors import MetaclipError, one_line
from metaclip.metadata import Metadata
from metaclip.storage.files import atomic_write, check_size, decode_utf8, gunzip, read_bytes

WeightsLike: TypeAlias = str | os.PathLike[str] | Mapping[str, float] | ArrowTable
"""Weights: a csv or parquet file, a dict from entry to weight, or a table of any library that speaks Arrow."""

T_BY: Final = "weight"
"""What varies t from entry to entry, as accounts say it."""
_COLUMNS: Final = ("entry", "weight")
_NEEDED: Final = "weights are a csv or parquet file with the columns entry and weight"


@dataclasses.dataclass(frozen=True)
class EntryWeights:
    """Weights as they were given: entries that are all different, and positive finite numbers."""

    entries: pa.Array
    values: npt.NDArray[np.float64]
    name: str = "weights"
    """The file, or what else they come from, for messages."""
    path: str | None = None
    """The path of the file; None for a dict or a table."""
    rows: Sequence[int] | None = None
    """The line of the file for each weight; None if they have row numbers, from 0."""

    @classmethod
    def of(cls, weights: WeightsLike) -> EntryWeights:
        """Read weights. Raise MetaclipError, naming file and row, for a file or a value that cannot be used.

        >>> EntryWeights.of({"kingfisher": 4, "logo": 0.25}).values
        array([4.  , 0.25])
        """
        rows: Sequence[int] | None = None
        name, path = "weights", None
        if isinstance(weights, str | os.PathLike):
            name = os.fspath(weights)
            path = name if "://" in name else os.path.abspath(name)
            data = gunzip(read_bytes(name, "the weights"), name)
            if data[:4] == b"PAR1":
                entries, values = _from_table(_read_parquet(data, name), name)
            else:
                entries, values, rows = _from_csv(decode_utf8(data, name), name)
        elif isinstance(weights, Mapping):
            entries, values = list(weights), list(weights.values())
        elif is_table(weights):
            entries, values = _from_table(_read_table(weights), name)
        else:
            lazy = "; call its collect() first" if hasattr(weights, "collect") else ""  # polars
            raise TypeError(
                "weights must be a path, a dict from entry to weight, or a table with the columns entry and weight, not "
                f"{type(weights).__name__}{lazy}"
            )
        return cls(*_checked(entries, values, name, rows), name, path, rows)

    def by_entry(self, metadata: Metadata) -> npt.NDArray[np.float64]:
        """Return the weight of each entry of a list, 1 where none is given: float64[n].

        Raise MetaclipError if the list does not have one of the entries: a misspelt one would be left unweighted.
        """
        ids = pc.index_in(self.entries, value_set=metadata.entries)
        if ids.null_count:
            i = ids.is_null().index(True).as_py()
            more = f" (nor {ids.null_count - 1:,} more)" if ids.null_count > 1 else ""
            raise MetaclipError(
                f"{_place(self.name, self.rows, i)}: {self.entries[i].as_py()!r:.80}{more} is no entry of the query list; "
                "correct the entry, or remove the row"
            )
        made = np.ones(len(metadata))
        made[ids.to_numpy()] = self.values
        return made

    def write(self, path: Path) -> None:
        """Write the weights as a parquet file."""
        with atomic_write(path) as temporary:
            pq.write_table(pa.table({"entry": self.entries, "weight": self.values}), temporary)


# --- reading


def _place(name: str, rows: Sequence[int] | None, i: int) -> str:
    return f"{name}, row {i}" if rows is None else f"{name}, line {rows[i]}"


def _checked(
    entries: Any, values: Any, name: str, rows: Sequence[int] | None
) -> tuple[pa.Array, npt.NDArray[np.float64]]:
    """Return entries and weights as arrays. Raise MetaclipError for the first that cannot be used."""
    if not len(entries):
        raise MetaclipError(
            f"{name} has no weights; leave it out, or add a row with an entry and its weight"
        )
    first: dict[str, int] = {}
    for i, (entry, value) in enumerate(zip(entries, values, strict=True)):
        where = _place(name, rows, i)
        if not isinstance(entry, str) or not entry:
            raise MetaclipError(
                f"{where}: the entry is {entry!r:.80}, must be a string; correct or remove it"
            )
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = np.nan
        if isinstance(value, bool) or not 0.0 < number < np.inf:
            raise MetaclipError(
                f"{where}: the weight of {entry!r:.80} is {value!r:.80}, must be a finite number above 0; correct it, or "
                "remove the row for a weight of 1"
            )
        if (before := first.setdefault(entry, i)) != i:
            raise MetaclipError(
                f"{where}: the entry {entry!r:.80} has a weight in {_place('', rows, before)[2:]} already; remove one of them"
            )
    try:
        return pa.array(entries, pa.string()), np.array([*map(float, values)], np.float64)
    except UnicodeEncodeError as error:  # of a dict: no file can hold it
        raise MetaclipError(
            f"{name}: the entry {error.object!r:.80} holds half a surrogate pair; correct it"
        ) from None


def _check_columns(names: Sequence[str], name: str) -> None:
    """Raise MetaclipError unless there is one column entry and one column weight."""
    for column in _COLUMNS:
        if (n := list(names).count(column)) != 1:
            found = ", ".join(map(repr, names))[:200] or "none"
            what = f"no column {column!r}" if n == 0 else f"{n} columns {column!r}"
            raise MetaclipError(f"{name} has {what} (found: {found}); {_NEEDED}")
    if "language" in names:
        raise MetaclipError(
            f"{name} has a column 'language', but query lists have no languages yet; remove the column"
        )


def _from_csv(text: str, name: str) -> tuple[list[str], list[str], list[int]]:
    """Read csv with a head: (entries, weights, their lines)."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    entries, values, lines = [], [], []
    try:
        head = next(reader, [])
        _check_columns(head, name)
        places = [head.index(column) for column in _COLUMNS]
        for row in reader:
            if not row:
                continue
            if len(row) != len(head):
                raise MetaclipError(
                    f"{name}, line {reader.line_num}: {len(row)} values for the {len(head)} columns; quote an entry that "
                    "holds a comma"
                )
            entries.append(row[places[0]])
            values.append(row[places[1]])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise MetaclipError(
            f"{name}, line {reader.line_num}: not valid csv ({error}); {_NEEDED}"
        ) from None
    return entries, values, lines


def _read_parquet(data: bytes, name: str) -> pa.Table:
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            _check_columns(file.schema_arrow.names, name)
            batches, size = list[pa.RecordBatch](), 0
            for batch in file.iter_batches(1 << 12, columns=list(_COLUMNS)):
                size += batch.nbytes
                check_size(size, name)
                batches.append(batch)
            schema = pa.schema([file.schema_arrow.field(column) for column in _COLUMNS])
            return pa.Table.from_batches([batch.select(_COLUMNS) for batch in batches], schema)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise MetaclipError(f"{name} is not a readable parquet file ({one_line(error)})") from None


def _read_table(table: ArrowTable) -> pa.Table:
    try:
        if hasattr(table, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(table).read_all()
        return pa.Table.from_batches([pa.record_batch(table)])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TypeError(
            f"weights must be a table with the columns entry and weight: {one_line(error)}"
        ) from None


def _from_table(table: pa.Table, name: str) -> tuple[list[Any], list[Any]]:
    """Return the columns entry and weight as lists."""
    _check_columns(table.column_names, name)
    entry, weight = (without_views(table[column].combine_chunks()) for column in _COLUMNS)
    kind = entry.type.value_type if pa.types.is_dictionary(entry.type) else entry.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise MetaclipError(f"{name}: the column 'entry' is {entry.type}, must be string; {_NEEDED}")
    if not (
        pa.types.is_integer(weight.type)
        or pa.types.is_floating(weight.type)
        or pa.types.is_decimal(weight.type)
    ):
        raise MetaclipError(f"{name}: the column 'weight' is {weight.type}, must be a number; {_NEEDED}")
    try:
        return entry.to_pylist(), weight.to_pylist()
    except UnicodeDecodeError as error:
        raise MetaclipError(
            f"{name}: the entries are not valid UTF-8 ({error}); write it again"
        ) from None
