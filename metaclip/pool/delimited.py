"""csv and tsv as Arrow batches: every column as strings, bytes as they stand, nothing guessed.

A row that has not one field for each column is malformed: it is left out, and counted. Blank lines are no rows.

A quote that is never closed makes one value of all that follows. So a row of our own is put at the end of the stream:
where it does not come out as the last row, the row that swallowed it is malformed, and its place says why.

Arrow's parser wants UTF-8 in the rows that it leaves out. So it gets each byte as a character of its own (Latin-1), and
what it gives is put back into bytes.
Cost: 0.3 us a row of ASCII, 1 us of other scripts.
"""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

BOM: Final = "\ufeff".encode()
"""What some programs begin a file in UTF-8 with."""
_BLOCK: Final = 1 << 24

_UNCLOSED: Final = "a quote that is never closed, so all that follows is in one value"

Lose = Callable[[str, str], None]
"""Called with a reason and a place for each row that is malformed."""


class Reader:
    """Reads a stream of delimited rows, the first of which has the columns' names."""

    def __init__(self, stream: Any, delimiter: str, lose: Lose, limit: int | None = None) -> None:
        """Read the names; malformed rows before the row with number `limit` will go to `lose`.

        Raise ValueError for a stream that does not begin with a row of names.
        """
        head = _first_line(stream).removeprefix(BOM)
        try:
            rows = csv.reader(io.StringIO(head.decode("latin-1"), newline=""), delimiter=delimiter)
            names = next(filter(None, rows))
        except csv.Error as error:
            raise ValueError(f"the row of column names: {error}") from None
        self._lose, self._limit, self._skipped = lose, limit, 0
        self._end, self._swallowed = secrets.token_hex(16), False

        def bad_row(row: Any) -> str:
            # Row 1 is the column names; as many well-formed rows stand before this one:
            before = row.number - 2 - self._skipped
            self._skipped += 1
            self._swallowed = row.text.endswith(self._end)
            wrong = f"{row.expected_columns} columns expected, {row.actual_columns} found"
            self._malformed(before, row.number, _UNCLOSED if self._swallowed else wrong)
            return "skip"

        end = b"\n" + delimiter.encode().join([self._end.encode()] * len(names))
        self._reader = pyarrow.csv.open_csv(
            _Latin1(head, stream, end),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=2 * _BLOCK),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=bad_row, ignore_empty_lines=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), check_utf8=False, strings_can_be_null=False
            ),
        )
        if self._reader.schema.names != names:
            raise ValueError(f"the row of column names is not plain csv: {names!r:.80}")
        self.names = [name.encode("latin-1").decode() for name in names]

    def batches(self, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Read batches of `columns` (None: all), of at most so many rows."""
        names = self.names if columns is None else list(columns)
        for batch in self._whole():
            for part in pa.Table.from_batches([batch]).to_batches(rows):
                yield pa.record_batch([_bytes_again(part.column(self.names.index(name))) for name in names], names)

    def _whole(self) -> Iterator[pa.RecordBatch]:
        """Give the batches without the last row, which is ours, or swallowed it."""
        rows, held = 0, None
        for batch in self._reader:
            if held is not None:
                yield held
                rows += len(held)
            held = batch
        if held is None or self._swallowed:
            last = held
        else:
            last = held.slice(0, len(held) - 1)
            if held.column(0)[-1].as_py() != self._end:
                rows += len(last)
                self._malformed(rows, rows + 2 + self._skipped, _UNCLOSED)
        if last:
            yield last

    def _malformed(self, before: int, number: int, what: str) -> None:
        if self._limit is None or before < self._limit:
            self._lose("malformed_row", f"row {number}: {what}")


class _Latin1:
    """A stream, after what was read of it already, with each byte as the character of that number, in UTF-8."""

    def __init__(self, head: bytes, rest: Any, end: bytes) -> None:
        self._head, self._rest, self._end, self.closed = head, rest, end, False

    def read(self, size: int) -> bytes:
        half = max(1, size // 2)  # a character takes up to two bytes
        read, self._head = self._head[:half], self._head[half:]
        if not (read := read or bytes(self._rest.read(half))):
            read, self._end = self._end, b""
        return read.decode("latin-1").encode()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True


def _bytes_again(column: pa.Array) -> pa.Array:
    """Put a column of characters that stand for bytes back into these; not all of it need be UTF-8."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(column) + 1, 4 * column.offset)
    text = data.slice(bounds[0], bounds[-1] - bounds[0]).to_pybytes().decode() if data is not None else ""
    if text.isascii():
        return column
    ends = np.concatenate([[0], np.cumsum(pc.utf8_length(column))]).astype(np.int32)
    return pa.StringArray.from_buffers(len(column), pa.py_buffer(ends), pa.py_buffer(text.encode("latin-1")))


def _first_line(stream: Any) -> bytes:
    """Read as much of a stream as holds a line that is not blank. Raise ValueError if there is none."""
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
