"""Counts of more strings than memory holds: sorted runs on disk, merged.

A tally counts in memory up to a bound of different strings, then writes them as a run: a parquet file of `key` (string,
ascending by UTF-8 bytes, distinct) and `count` (int64). Runs are merged into one, at most `FAN_IN` at a time.

Law: the counts do not depend on the bound, nor on how the strings were split over tallies.

Cost: a tally takes `BYTES_A_KEY` a string; a merge holds a batch of each run, 2 MiB, and makes 3.5 M rows a second on one
core; a sorted bigram takes 5 bytes on disk.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import atomic_write, temporary_path

SCHEMA: Final = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("count", pa.int64(), nullable=False)])
BYTES_A_KEY: Final = 200
"""Memory of one string of a tally at its peak, measured with bigrams: 120 while it is held, 80 more while it is written."""
FAN_IN: Final = 64
_ROWS: Final = 1 << 16
_HELD_ROWS: Final = 1 << 22


class Tally:
    """Counts strings in memory, and what is over its bound in runs beside `path`, where all ends up."""

    def __init__(self, path: Path, bound: int) -> None:
        """Hold at most `bound` strings in memory, and those of one `add`."""
        self._path, self._bound = path, bound
        self._counts: Counter[str] = Counter()
        self._runs: list[Path] = []

    def add(self, keys: Iterable[str]) -> None:
        """Count some strings."""
        self._counts.update(keys)
        if len(self._counts) >= self._bound:
            self._spill()

    def add_counts(self, counts: Iterable[tuple[str, int]]) -> None:
        """Add to the counts of some strings."""
        for key, count in counts:
            self._counts[key] += count
            if len(self._counts) >= self._bound:
                self._spill()

    def finish(self) -> None:
        """Write all counts to the tally's path, and forget them."""
        if not self._runs:
            write(self._path, self._take())
            return
        self._spill()
        merge(self._runs, self._path)
        for run in self._runs:
            run.unlink()
        self._runs = []

    def _take(self) -> pa.Table:
        keys = sorted(self._counts)  # by code points, which is by UTF-8 bytes
        table = pa.table(
            [pa.array(keys, pa.string()), pa.array([self._counts[key] for key in keys], pa.int64())], SCHEMA
        )
        self._counts = Counter()
        return table

    def _spill(self) -> None:
        if self._counts:
            run = temporary_path(self._path)
            self._runs.append(run)
            write(run, self._take())


def write(path: Path, table: pa.Table) -> None:
    """Write a run, whole or not at all."""
    with atomic_write(path) as temporary, _writer(temporary) as writer:
        writer.write_table(table, row_group_size=_ROWS)


def read(path: Path, rows: int = _ROWS) -> Iterator[pa.Table]:
    """Read a run, some rows at a time."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(rows):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise MetaclipError(
            f"{path} cannot be read ({one_line(error)}); remove it and run the same command again"
        ) from None


def merge(runs: Sequence[Path], path: Path, fan_in: int = FAN_IN) -> None:
    """Merge runs into one at `path`; the runs stay."""
    left, made = list(runs), []
    try:
        while len(left) > fan_in:
            some, left = left[:fan_in], left[fan_in:]
            run = temporary_path(path)
            made.append(run)
            _write_batches(run, merged(some))
            left.append(run)
        _write_batches(path, merged(left))
    finally:
        for run in made:
            run.unlink(missing_ok=True)


def merged(runs: Sequence[Path], rows: int = _ROWS) -> Iterator[pa.Table]:
    """Give the sums of runs, ascending: whatever is at or below the least last key of the batches that are held."""
    held = [table for table in (_Held(read(run, rows)) for run in runs) if table.fill()]
    while held:
        limit = min(run.last for run in held)
        some = pa.concat_tables([run.take(limit) for run in held])
        if len(held) > 1:
            some = some.group_by("key").aggregate([("count", "sum")]).rename_columns(["key", "count"]).sort_by("key")
        yield some.cast(SCHEMA)
        held = [run for run in held if run.fill()]


class _Held:
    """What is held of a run."""

    def __init__(self, batches: Iterator[pa.Table]) -> None:
        self._batches = batches
        self._table: Any = None
        self._begin = 0
        self.last = ""

    def fill(self) -> bool:
        """Hold the next rows, if all that were held are taken; tell whether there are any."""
        while self._table is None or self._begin == len(self._table):
            self._table, self._begin = next(self._batches, None), 0
            if self._table is None:
                return False
            if len(self._table):
                self._table = self._table.combine_chunks()
                self.last = self._table["key"][-1].as_py()
        return True

    def take(self, limit: str) -> pa.Table:
        """Take the rows up to the key `limit`, with it."""
        keys = self._table["key"].chunk(0)
        end = bisect.bisect_right(keys, limit, self._begin, key=lambda key: key.as_py())
        taken = self._table.slice(self._begin, end - self._begin)
        self._begin = end
        return taken


def _write_batches(path: Path, tables: Iterable[pa.Table]) -> None:
    with atomic_write(path) as temporary, _writer(temporary) as writer:
        for table in gathered(tables, _ROWS):
            writer.write_table(table, row_group_size=_ROWS)


def _writer(path: Path) -> pq.ParquetWriter:
    # Sorted keys share their beginnings, which this encoding leaves out.
    return pq.ParquetWriter(
        path, SCHEMA, compression="zstd", use_dictionary=False,
        column_encoding={"key": "DELTA_BYTE_ARRAY", "count": "PLAIN"},
    )  # fmt: skip


def total(path: Path) -> int:
    """Add up all counts of a run."""
    return sum(pc.sum(table["count"]).as_py() for table in read(path))


def gathered(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Give the same rows in larger tables: of at least `rows` rows, but for the last; none that is empty."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= rows:
            yield pa.concat_tables(held)
            held = []
    if sum(map(len, held)):
        yield pa.concat_tables(held)


def best_first(tables: Iterable[pa.Table], limit: int | None) -> tuple[pa.Table, int]:
    """Sort rows of key, count and score: larger scores first, then larger counts, then lesser keys; cut at `limit`.

    Give them and the number of all rows. What is held is bounded by the limit, where there is one.
    """
    held = [_NONE]
    rows = passed = 0
    for table in tables:
        held.append(table)
        rows += len(table)
        passed += len(table)
        if limit is not None and rows > max(2 * limit, _HELD_ROWS):
            held = [_sorted(held).slice(0, limit)]
            rows = limit
    return _sorted(held).slice(0, limit), passed


_NONE: Final = SCHEMA.append(pa.field("score", pa.float64())).empty_table()


def _sorted(tables: Sequence[pa.Table]) -> pa.Table:
    order = [("score", "descending"), ("count", "descending"), ("key", "ascending")]
    return pa.concat_tables(tables, promote_options="permissive").sort_by(order)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """Give a column as one array."""
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
