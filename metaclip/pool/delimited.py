"""csv and tsv as Arrow batches: every column as strings, bytes unchanged, no types inferred.

A row that does not have one field for each column is malformed: it is dropped and counted, and costs no other row. Blank lines
are not rows. Lines end with a line feed, a carriage return, or both.

A field that begins with a quote ends with one, and may hold delimiters, line ends and doubled quotes. Captions contain quotes
that were not meant so, and a value must not swallow the rows behind it. Law: a field spans lines only if a quote closes it just
before a delimiter or the end of a line, within 16 MB. Otherwise

    csv    the row is malformed, and the next line is read as a row of its own
    tsv    quotes are ordinary characters of the row; this is tried before a field may span lines, because most
           programs write tsv without quoting

Without quoting (`--quoting none`), quotes are ordinary characters of both.

Cost: 0.3 us per row without a quote, 3 us per row with one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from metaclip.pool.columns import BOM, IS_UTF16, MAX_ROW, DropRow

_BLOCK: Final = 1 << 20
_UNCLOSED: Final = "a quote that is never closed"
_QUOTED: Final = re.compile(rb'"((?:[^"]++|"")*+)"')

Fields = list[bytes]


class _Unclosed(Exception):
    """A quote is not closed where it must be."""


class _Open(_Unclosed):
    """A quote is not closed so far; further lines may close it."""


class DelimitedReader:
    """Reads a stream of delimited rows, the first of which holds the names of the columns."""

    def __init__(
        self, stream: Any, delimiter: str, drop: DropRow, limit: int | None = None, *, quoting: bool = True,
    ) -> None:  # fmt: skip
        """Read the names; `drop` will be called for malformed rows among the first `limit` rows.

        Raise ValueError if the stream does not begin with a row of names.
        """
        self._stream, self._delimiter, self._tsv = stream, delimiter.encode(), delimiter == "\t"
        self._quoting = quoting
        self._plain = re.compile(rb"[^%s\r\n]*+" % re.escape(self._delimiter))
        self._drop, self._limit = drop, limit
        self._n_rows = self._n_malformed = 0  # behind the row of names
        self._rest, self._ended = b"", False  # what was read, but not taken as lines yet
        self._lines = b""  # what was taken, but does not belong to the names
        self.names = self._read_names()

    def _read_names(self) -> list[str]:
        while not (head := self._rest.removeprefix(BOM).lstrip(b"\r\n")) and self._read():
            pass
        if not head.strip():
            raise ValueError("it is empty, without a row of column names")
        if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:2]:
            raise ValueError(IS_UTF16)
        self._rest = head
        lines = self._take_lines()
        try:
            names, end, lines = self._spanning_row(lines, 0)
        except _Unclosed:
            raise ValueError(f"the row of column names has {_UNCLOSED}") from None
        self._lines = lines[end:]
        return [name.decode() for name in names]

    # --- lines

    def _read(self) -> bool:
        """Read another block behind what is left; return whether there was one."""
        block = b"" if self._ended else bytes(self._stream.read(_BLOCK))
        self._ended = not block
        self._rest += block
        return not self._ended

    def _take_lines(self) -> bytes:
        """Take whole lines; b"" at the end of the stream. A line that is too long is dropped."""
        while True:
            rest = self._rest
            # The last byte may be the first half of a line end of two.
            end = len(rest) if self._ended else max(rest.rfind(b"\n"), rest.rfind(b"\r", 0, -1)) + 1
            if end:
                self._rest = rest[end:]
                return rest[:end]
            if len(rest) > MAX_ROW:
                self._drop_malformed(f"it has over {MAX_ROW} bytes")
                while (found := re.search(rb"[\r\n]", self._rest)) is None:
                    self._rest = b""
                    if not self._read():
                        return b""
                self._rest = self._rest[found.start() :]
            elif not self._read() and not self._rest:
                return b""

    # --- rows

    def batches(self, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of `columns` (None: all) of at most `rows` rows."""
        names = self.names if columns is None else list(columns)
        indices = [self.names.index(name) for name in names]
        lines, self._lines = self._lines or self._take_lines(), b""
        while lines:
            batch = pa.record_batch(self._columns(lines, indices), names)
            for first in range(0, len(batch), rows):
                yield batch.slice(first, rows)
            lines = self._take_lines()

    def _columns(self, lines: bytes, indices: Sequence[int]) -> list[pa.Array]:
        """Return the columns of the well-formed rows that begin in these lines; the last one may end behind them.

        Lines without a quote are split together, the others one by one.
        """
        if lines[-1:] not in (b"\r", b"\n"):
            lines += b"\n"
        data, n = np.frombuffer(lines, np.uint8), len(self.names)
        is_line_end = (data == ord("\n")) | (data == ord("\r"))  # two line ends hold an empty line
        is_separator = is_line_end | (data == ord(self._delimiter))
        separators = np.flatnonzero(is_separator)
        last = np.flatnonzero(is_line_end[separators])  # the last separator of each line
        ends = separators[last]
        begins = np.concatenate([[0], ends[:-1] + 1])
        n_fields = np.diff(last, prepend=-1)
        n_fields[begins == ends] = 0  # blank
        unclosed, quoted_lines, quoted_rows = set[int](), list[int](), list[Fields]()
        behind = 0  # the row that was parsed last
        quotes = np.flatnonzero((data == ord('"')) & self._quoting)
        for line in np.unique(np.searchsorted(ends, quotes)).tolist():
            begin, end = int(begins[line]), int(ends[line])
            if begin < behind:
                continue
            try:
                fields, behind, more = self._quoted_row(lines, begin, end)
            except _Unclosed:
                n_fields[line] = -1
                unclosed.add(line)
                continue
            n_fields[line : np.searchsorted(begins, behind)] = 0
            n_fields[line] = len(fields)
            if len(fields) == n:
                quoted_lines.append(line)
                quoted_rows.append(fields)
            if len(more) > len(lines):  # all further lines are of this row
                self._rest = more[behind:] + self._rest
        good = n_fields == n
        before, after = self._n_rows, np.cumsum(good)
        for line in np.flatnonzero((n_fields != n) & (n_fields != 0)).tolist():
            self._n_rows = before + int(after[line])
            found = f"{n} columns expected, {n_fields[line]} found"
            self._drop_malformed(_UNCLOSED if line in unclosed else found)
        self._n_rows = before + int(good.sum())
        # All fields as one array, of the bytes that are no separators.
        offsets = np.concatenate([[0], separators - np.arange(len(separators))]).astype(np.int32)
        every = pa.StringArray.from_buffers(
            len(separators), pa.py_buffer(offsets), pa.py_buffer(data[~is_separator])
        )
        good[quoted_lines] = False
        plain = np.flatnonzero(good)
        columns = [every.take(pa.array(last[plain] - (n - 1 - i))) for i in indices]
        if not quoted_lines:
            return columns
        order = pa.array(np.argsort(np.concatenate([plain, quoted_lines])))
        quoted = [
            pa.array([row[i] for row in quoted_rows], pa.binary()).view(pa.string()) for i in indices
        ]
        return [pa.concat_arrays(parts).take(order) for parts in zip(columns, quoted, strict=True)]

    def _quoted_row(self, lines: bytes, at: int, end: int) -> tuple[Fields, int, bytes]:
        """Parse a row that begins with the line lines[at:end], which holds a quote.

        Return its fields, where it ends, and the lines, which may have become more. Raise _Unclosed.
        """
        try:
            return *self._parse(lines, at, end, strict=self._tsv), lines
        except _Unclosed:
            literal = lines[at:end].split(self._delimiter)
            if self._tsv and len(literal) == len(self.names):
                return literal, end, lines
        return self._spanning_row(lines, at)

    def _spanning_row(self, lines: bytes, at: int) -> tuple[Fields, int, bytes]:
        """Parse a row that may span lines. Return it as `_quoted_row` does. Raise _Unclosed."""
        while True:
            try:
                fields, end = self._parse(lines, at, len(lines), strict=True)
            except _Open:
                more = b"" if len(lines) - at > MAX_ROW else self._take_lines()
                if not more:
                    raise
                lines += more
                continue
            return fields, end, lines

    def _parse(self, lines: bytes, at: int, end: int, *, strict: bool) -> tuple[Fields, int]:
        """Parse a row of lines[at:end], up to a line end that is not in quotes; return its fields and where it ends.

        If `strict`, a quote must be closed just before a delimiter or the end of the row, otherwise what follows belongs to the
        field, too. Raise _Unclosed.
        """
        fields: Fields = []
        while True:
            value = b""
            if self._quoting and lines[at : at + 1] == b'"' and at < end:
                quoted = _QUOTED.match(lines, at, end)
                if quoted is None:
                    raise _Open
                value, at = quoted[1].replace(b'""', b'"'), quoted.end()
                if strict and at < end and lines[at : at + 1] not in (self._delimiter, b"\r", b"\n"):
                    raise _Unclosed
            plain = self._plain.match(lines, at, end)
            assert plain is not None
            fields.append(value + plain[0])
            at = plain.end()
            if at >= end or lines[at : at + 1] != self._delimiter:
                return fields, at
            at += 1

    def _drop_malformed(self, what: str) -> None:
        number = self._n_rows + self._n_malformed + 2
        self._n_malformed += 1
        if self._limit is None or self._n_rows < self._limit:
            self._drop("malformed_row", f"row {number}: {what}")
