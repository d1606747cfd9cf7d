"""Counts of more strings than memory holds, in sorted runs on disk that are merged; and PMI from counts.

A `StringCounter` counts in memory up to a bound of different strings, then writes them as a run: a parquet file of `key`
(string, ascending by UTF-8 bytes, distinct) and `count` (int64). Runs are merged into one, at most `FAN_IN` at a time.

Law: the counts do not depend on the bound, nor on how the strings were split over counters.

Cost: a counter takes `BYTES_PER_KEY` of memory for each string; a merge holds a batch of each run, 2 MiB, and makes 3.5 M
rows/s on one core; a sorted bigram takes 5 bytes on disk.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import atomic_write, temporary_path

SCHEMA: Final = pa.schema(
    [pa.field("key", pa.string(), nullable=False), pa.field("count", pa.int64(), nullable=False)]
)
BYTES_PER_KEY: Final = 200
"""Peak memory of one string in a counter, measured with bigrams: 120 while it is held, 80 more while it is written."""
FAN_IN: Final = 64
_ROWS: Final = 1 << 16
_HELD_ROWS: Final = 1 << 22
_DIGITS: Final = 6
"""Digits of a logarithm that are kept: the last bits of log2 differ between processors, and the order must not."""

Values = npt.NDArray[Any]


class StringCounter:
    """Counts strings in memory, spills counts beyond its bound to runs beside `path`, and writes all counts to `path`."""

    def __init__(self, path: Path, bound: int) -> None:
        """Create an empty counter that holds at most `bound` strings in memory, and those of one `add`."""
        self._path, self._bound = path, bound
        self._counts: Counter[str] = Counter()
        self._runs: list[Path] = []

    def add(self, keys: Iterable[str]) -> None:
        """Count strings."""
        self._counts.update(keys)
        if len(self._counts) >= self._bound:
            self._spill()

    def add_counts(self, counts: Iterable[tuple[str, int]]) -> None:
        """Add numbers to the counts of strings."""
        for key, count in counts:
            self._counts[key] += count
            if len(self._counts) >= self._bound:
                self._spill()

    def finish(self) -> None:
        """Write all counts to the counter's path, and forget them."""
        self._spill()
        if len(self._runs) > 1:
            merge_runs(self._runs, self._path)
        else:
            self._runs.pop().replace(self._path)
        for run in self._runs:
            run.unlink()
        self._runs = []

    def _spill(self) -> None:
        self._runs.append(run := temporary_path(self._path))
        keys = sorted(self._counts)  # by code points, which is the order of UTF-8 bytes
        counts = pa.array([self._counts[key] for key in keys], pa.int64())
        write_run(run, [pa.table([pa.array(keys, pa.string()), counts], SCHEMA)])
        self._counts = Counter()


def write_run(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of `SCHEMA`, whose keys ascend, as one run, atomically."""
    with (
        atomic_write(path) as temporary,
        # Sorted keys have common prefixes, which this encoding leaves out.
        pq.ParquetWriter(
            temporary, SCHEMA, compression="zstd", use_dictionary=False,
            column_encoding={"key": "DELTA_BYTE_ARRAY", "count": "PLAIN"},
        ) as writer,
    ):  # fmt: skip
        for table in rechunk(tables, _ROWS):
            writer.write_table(table, row_group_size=_ROWS)


def read_run(path: Path, rows: int = _ROWS) -> Iterator[pa.Table]:
    """Read a run; yield tables of at most `rows` rows."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(rows):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise MetaclipError(
            f"{path} cannot be read ({one_line(error)}); remove it and run the same command again"
        ) from None


def merge_runs(runs: Sequence[Path], path: Path, fan_in: int = FAN_IN) -> None:
    """Merge runs into one at `path`; the runs are kept."""
    pending, temporaries = list(runs), list[Path]()
    try:
        while len(pending) > fan_in:
            temporaries.append(run := temporary_path(path))
            write_run(run, iter_merged(pending[:fan_in]))
            pending = [*pending[fan_in:], run]
        write_run(path, iter_merged(pending))
    finally:
        for run in temporaries:
            run.unlink(missing_ok=True)


def iter_merged(runs: Sequence[Path], rows: int = _ROWS) -> Iterator[pa.Table]:
    """Yield the sums of runs in tables whose keys ascend; hold `rows` rows of each run.

    The smallest of the last keys that are held is the limit of a round: all rows up to it are held.
    """
    readers = [(table for table in read_run(run, rows) if len(table)) for run in runs]
    held = [(next(reader, None), reader) for reader in readers]
    while held := [(table, reader) for table, reader in held if table is not None]:
        limit = min(table["key"][-1].as_py() for table, _ in held)
        ends = [
            bisect.bisect_right(table["key"], limit, key=lambda key: key.as_py()) for table, _ in held
        ]
        merged = pa.concat_tables(
            [table.slice(0, end) for (table, _), end in zip(held, ends, strict=True)]
        )
        if len(held) > 1:
            merged = (
                merged.group_by("key")
                .aggregate([("count", "sum")])
                .rename_columns(SCHEMA.names)
                .sort_by("key")
            )
        yield merged.cast(SCHEMA)
        held = [
            (table.slice(end) if end < len(table) else next(reader, None), reader)
            for (table, reader), end in zip(held, ends, strict=True)
        ]


def read_frequent(path: Path, min_count: int) -> Iterator[pa.Table]:
    """Read the rows of a run with a count of at least `min_count`; yield tables with the count as `score` (float64) too."""
    for table in read_run(path):
        frequent = table.filter(pc.greater_equal(table["count"], min_count))
        yield frequent.append_column("score", frequent["count"].cast(pa.float64()))


def rechunk(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of at least `rows` rows, except for the last one; skip empty tables."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= rows:
            yield pa.concat_tables(held)
            held = []
    if sum(map(len, held)):
        yield pa.concat_tables(held)


def best_first(tables: Iterable[pa.Table], limit: int | None) -> tuple[pa.Table, int]:
    """Sort rows of key, count and score by descending score, then descending count, then key; keep the first `limit`.

    Return them and the number of all rows. The limit, if there is one, bounds the rows that are held.
    """
    held, total = [SCHEMA.append(pa.field("score", pa.float64())).empty_table()], 0
    for table in tables:
        held.append(table)
        total += len(table)
        if limit is not None and sum(map(len, held)) > max(2 * limit, _HELD_ROWS):
            held = [_sorted(held).slice(0, limit)]
    return _sorted(held).slice(0, limit), total


def _sorted(tables: Sequence[pa.Table]) -> pa.Table:
    order = [("score", "descending"), ("count", "descending"), ("key", "ascending")]
    return pa.concat_tables(tables, promote_options="permissive").sort_by(order)


def pmi(c12: Values, c1: Values, c2: Values, tokens: int) -> tuple[Values, Values]:
    """Compute PMI and normalised PMI of pairs of words, float64, rounded to six digits after the point.

    `c12` are the counts (int64) of the pairs, `c1` and `c2` those of their words, `tokens` (N) is the sum of the counts of
    all words. A pair that is all there is (c12 = N) has NPMI 1.

        PMI  = log2(c12 * N / (c1 * c2))     "Demystifying CLIP Data", section 3.1: bigrams of PMI >= 30
        NPMI = PMI / -log2(c12 / N)          1 if the two words never occur apart, 0 if they meet by chance (Bouma 2009)
    """
    together, apart = c12.astype(np.float64) * tokens, c1.astype(np.float64) * c2
    information = np.log2(together / apart)
    self_information = -np.log2(c12 / tokens)
    normalised = np.divide(
        information, self_information, out=np.ones_like(information), where=self_information > 0
    )
    return np.round(information, _DIGITS), np.round(normalised, _DIGITS)
