"""Counts of more strings than memory holds: counted in memory, kept in files, added up by duckdb; and PMI from counts.

A file of counts is a parquet file of `key` (string) and `count` (int64), in which a key may occur several times. `sums` adds
files up, in duckdb, which continues on disk beyond its memory.

Law: the sums do not depend on a counter's bound, nor on how the strings were split over counters.

Cost: a counter takes `BYTES_PER_KEY` of memory for each string; a sorted bigram takes 5 bytes on disk. Adding up takes
`_MEMORY` and makes 2.9 M rows/s on one core, where our own merge of sorted files made 1.8 M.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.errors import MetaclipError, import_extra, one_line
from metaclip.storage.files import atomic_write
from metaclip.storage.local import scratch

SCHEMA: Final = pa.schema(
    [pa.field("key", pa.string(), nullable=False), pa.field("count", pa.int64(), nullable=False)]
)
BYTES_PER_KEY: Final = 200
"""Peak memory of one string in a counter, measured with bigrams: 120 while it is held, 80 more while it is written."""
_ROWS: Final = 1 << 16
_HELD_ROWS: Final = 1 << 22
_MEMORY: Final = "1GB"
_THREADS: Final = 4  # each holds some of the memory before it writes to disk
_SUMS: Final = """
    SELECT key, sum(count)::BIGINT AS count FROM read_parquet($files)
    GROUP BY key HAVING sum(count) >= $least ORDER BY key"""
"""duckdb orders strings by their UTF-8 bytes."""
_DIGITS: Final = 6
"""Digits of a logarithm that are kept: the last bits of log2 differ between processors, and the order must not."""

Values = npt.NDArray[Any]


@contextlib.contextmanager
def counts_writer(path: Path) -> Iterator[pq.ParquetWriter]:
    """Yield a writer of a file of counts, which is whole after the block or does not exist."""
    with (
        atomic_write(path) as temporary,
        # Sorted keys have common prefixes, which this encoding leaves out.
        pq.ParquetWriter(
            temporary, SCHEMA, compression="zstd", use_dictionary=False,
            column_encoding={"key": "DELTA_BYTE_ARRAY", "count": "PLAIN"},
        ) as writer,
    ):  # fmt: skip
        yield writer


def write_counts(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of `SCHEMA` to a file of counts."""
    with counts_writer(path) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=_ROWS)


@contextlib.contextmanager
def string_counter(path: Path, bound: int) -> Iterator[StringCounter]:
    """Yield a counter that holds at most `bound` strings in memory, and those of one `add`; write its counts to `path`."""
    with counts_writer(path) as writer:
        counter = StringCounter(writer, bound)
        yield counter
        counter.flush()


class StringCounter:
    """Counts strings in memory, and writes the counts whenever it has as many strings as its bound."""

    def __init__(self, writer: pq.ParquetWriter, bound: int) -> None:
        """Create an empty counter; `string_counter` opens and closes its file."""
        self._writer, self._bound = writer, bound
        self._counts: Counter[str] = Counter()

    def add(self, keys: Iterable[str]) -> None:
        """Count strings."""
        self._counts.update(keys)
        if len(self._counts) >= self._bound:
            self.flush()

    def flush(self) -> None:
        """Write the counts that are held."""
        keys = sorted(self._counts)
        counts = pa.array([self._counts[key] for key in keys], pa.int64())
        self._writer.write_table(pa.table([pa.array(keys, pa.string()), counts], SCHEMA))
        self._counts = Counter()


def sums(files: Sequence[Path], least: int = 0, rows: int = _ROWS) -> Iterator[pa.Table]:
    """Add up files of counts; yield the sums of at least `least` in tables of at most `rows` rows, keys ascending."""
    duckdb = import_extra("duckdb", "build", "adding up counts")
    limits = {"memory_limit": _MEMORY, "threads": _THREADS, "preserve_insertion_order": False}
    with (
        scratch() as folder,
        duckdb.connect(config={**limits, "temp_directory": str(folder)}) as database,
    ):
        try:
            found = database.sql(_SUMS, params={"files": list(map(os.fspath, files)), "least": least})
            for batch in found.to_arrow_reader(rows):
                yield pa.Table.from_batches([batch]).cast(SCHEMA)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise MetaclipError(
                f"the counts in {files[0].parent} cannot be added up ({one_line(error)}); make room, or remove what is damaged, "
                "and run the same command again"
            ) from None


def scored_by_count(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables with the count as `score` (float64) too."""
    for table in tables:
        yield table.append_column("score", table["count"].cast(pa.float64()))


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
