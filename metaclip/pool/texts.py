"""The usable texts of a batch: as strings, with null for those that cannot be used, and why."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.pool.columns import Columns
from metaclip.pool.pool import Losses


def usable_texts(batch: pa.RecordBatch, columns: Columns, row: int, losses: Losses) -> pa.Array:
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
    """Bring a text column (`metaclip.pool.columns.find_columns` checks its type) to string or large_string."""
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
