"""csv and tsv as Arrow batches: every column as strings, bytes unchanged, no types inferred.

A row that does not have one field for each column is malformed: it is dropped and counted. Blank lines are not rows.

A quote that is never closed turns everything after it into one value. To detect this, a sentinel row is appended to the
stream: if it is not the last row that the parser returns, the row that contains it is malformed.

Arrow's parser requires UTF-8 in malformed rows. So each byte is passed to it as a character of its own (Latin-1), and its
results are converted back to bytes.
Cost: 0.3 us per row of ASCII, 1 us of other scripts.
"""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from metaclip.pool.columns import BOM, DropRow

_BLOCK: Final = 1 << 24
_UNCLOSED: Final = "a quote that is never closed, so all that follows is in one value"


class DelimitedReader:
    """Reads a stream of delimited rows, the first of which holds the names of the columns."""

    def __init__(self, stream: Any, delimiter: str, drop: DropRow, limit: int | None = None) -> None:
        """Read the names; `drop` will be called for malformed rows among the first `limit` rows.

        Raise ValueError if the stream does not begin with a row of names.
        """
        head = _first_line(stream).removeprefix(BOM)
        try:
            rows = csv.reader(io.StringIO(head.decode("latin-1"), newline=""), delimiter=delimiter)
            names = next(filter(None, rows))
        except csv.Error as error:
            raise ValueError(f"the row of column names: {error}") from None
        self._drop, self._limit, self._n_malformed = drop, limit, 0
        self._sentinel, self._unclosed = secrets.token_hex(16), False

        def bad_row(row: Any) -> str:
            n_before = row.number - 2 - self._n_malformed  # well-formed rows; row 1 holds the names
            self._n_malformed += 1
            self._unclosed = row.text.endswith(self._sentinel)
            wrong = f"{row.expected_columns} columns expected, {row.actual_columns} found"
            self._drop_malformed(n_before, row.number, _UNCLOSED if self._unclosed else wrong)
            return "skip"

        last_row = b"\n" + delimiter.encode().join([self._sentinel.encode()] * len(names))
        self._reader = pyarrow.csv.open_csv(
            _Latin1Stream(head, stream, last_row),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=2 * _BLOCK),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter,
                newlines_in_values=True,
                invalid_row_handler=bad_row,
                ignore_empty_lines=True,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                check_utf8=False,
                strings_can_be_null=False,
            ),
        )
        if self._reader.schema.names != names:
            raise ValueError(f"the row of column names is not plain csv: {names!r:.80}")
        self.names = [name.encode("latin-1").decode() for name in names]

    def batches(self, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of `columns` (None: all) of at most `rows` rows."""
        names = self.names if columns is None else list(columns)
        for batch in self._without_sentinel():
            for part in pa.Table.from_batches([batch]).to_batches(rows):
                yield pa.record_batch(
                    [_to_bytes(part.column(self.names.index(name))) for name in names], names
                )

    def _without_sentinel(self) -> Iterator[pa.RecordBatch]:
        """Yield the parser's batches without the last row, which is the sentinel or contains it."""
        rows, held = 0, None
        for batch in self._reader:
            if held is not None:
                yield held
                rows += len(held)
            held = batch
        if held is None or self._unclosed:
            last = held
        else:
            last = held.slice(0, len(held) - 1)
            if held.column(0)[-1].as_py() != self._sentinel:
                rows += len(last)
                self._drop_malformed(rows, rows + 2 + self._n_malformed, _UNCLOSED)
        if last:
            yield last

    def _drop_malformed(self, n_before: int, number: int, what: str) -> None:
        if self._limit is None or n_before < self._limit:
            self._drop("malformed_row", f"row {number}: {what}")


class _Latin1Stream:
    """The bytes of `head`, then of a stream, then `end`, decoded as Latin-1 and encoded as UTF-8."""

    def __init__(self, head: bytes, stream: Any, end: bytes) -> None:
        self._head, self._stream, self._end, self.closed = head, stream, end, False

    def read(self, size: int) -> bytes:
        half = max(1, size // 2)  # a character takes up to two bytes
        read, self._head = self._head[:half], self._head[half:]
        if not (read := read or bytes(self._stream.read(half))):
            read, self._end = self._end, b""
        return read.decode("latin-1").encode()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True


def _to_bytes(column: pa.Array) -> pa.Array:
    """Convert a string column from characters that stand for bytes back to these bytes, which may not be UTF-8."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(column) + 1, 4 * column.offset)
    text = data.slice(bounds[0], bounds[-1] - bounds[0]).to_pybytes().decode() if data is not None else ""
    if text.isascii():
        return column
    ends = np.concatenate([[0], np.cumsum(pc.utf8_length(column))]).astype(np.int32)
    return pa.StringArray.from_buffers(
        len(column), pa.py_buffer(ends), pa.py_buffer(text.encode("latin-1"))
    )


def _first_line(stream: Any) -> bytes:
    """Read a stream up to the end of its first line that is not blank, or further. Raise ValueError if there is none."""
    head = b""
    while not (b"\n" in head.lstrip() or b"\r" in head.lstrip()):
        if len(head) > _BLOCK:
            raise ValueError(f"its first line has over {_BLOCK} bytes")
        block = bytes(stream.read(1 << 16))
        if not block:
            break
        head += block
    if not head.removeprefix(BOM).strip():
        raise ValueError("it is empty, without a row of column names")
    return head if b"\n" in head or b"\r" in head else head + b"\n"
