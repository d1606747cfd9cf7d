"""The usable texts of a batch, and the account of the rows that are dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from metaclip.pool.columns import Columns

BOM: Final = "\ufeff".encode()
"""The byte order mark that some programs write at the start of a UTF-8 file."""

DropRow = Callable[[str, str], None]
"""Called with a reason and a place for each row that is dropped."""


class DroppedRows:
    """The numbers of rows that were dropped, by reason, and the place of the first one of each."""

    def __init__(self) -> None:
        """Start with no dropped rows."""
        self.counts: dict[str, int] = {}
        self.places: dict[str, str] = {}

    def add(self, reason: str, place: str, rows: int = 1) -> None:
        """Count rows that are dropped for a reason; `place` names the first of them."""
        if rows:
            self.counts[reason] = self.counts.get(reason, 0) + rows
            self.places.setdefault(reason, place)


def is_utf8(text: str | bytes) -> bool:
    """Return whether bytes are valid UTF-8, or a string can be encoded in it: it holds no lone surrogates."""
    try:
        _ = text.encode() if isinstance(text, str) else text.decode()
    except UnicodeError:
        return False
    return True


def usable_texts(batch: pa.RecordBatch, columns: Columns, row: int, dropped: DroppedRows) -> pa.Array:
    """Return a batch's texts as a string or large_string array, null where a text cannot be used.

    Count the reasons in `dropped`; `row` is the number of the batch's first row.
    """
    texts, n_failed = plain_texts(batch.column(columns.text)), 0
    if columns.status is not None:
        failed = pc.fill_null(pc.not_equal(batch.column(columns.status).cast(pa.string()), "success"), True)
        if n_failed := pc.sum(failed).as_py() or 0:
            dropped.add("not_downloaded", f"row {row + failed.index(True).as_py()}", n_failed)
            texts = pc.if_else(failed, pa.scalar(None, texts.type), texts)
    if n_null := texts.null_count - n_failed:
        first = 0 if n_failed else texts.is_null().index(True).as_py()
        dropped.add("null_text", f"row {row + first}", n_null)
    try:
        texts.validate(full=True)  # Arrow does not check what it reads from parquet
        return texts
    except pa.ArrowInvalid:
        return _without_invalid(texts, row, dropped)


def plain_texts(column: pa.Array) -> pa.Array:
    """Convert a text column (`metaclip.pool.columns.find_columns` checks its type) to string or large_string."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    return column.cast(pa.string()) if pa.types.is_null(kind) else column


def _without_invalid(texts: pa.Array, row: int, dropped: DroppedRows) -> pa.Array:
    """Replace the texts that are not valid UTF-8 with null."""
    values = texts.cast(pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()).to_pylist()
    valid = [value is None or is_utf8(value) for value in values]
    dropped.add("invalid_utf8", f"row {row + valid.index(False)}", valid.count(False))
    kept = [value if is_valid else None for value, is_valid in zip(values, valid, strict=True)]
    return pa.array(kept, pa.large_binary()).cast(pa.large_string())
