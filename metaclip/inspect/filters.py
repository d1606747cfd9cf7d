"""Filters that look at one image at a time: which rows of images/ they leave out, and for which reason."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.errors import MetaclipError
from metaclip.inspect.settings import BROKEN, CODES, InspectSettings

COLUMNS: Final = ("bytes", "width", "height", "contrast", "broken")
"""The columns of images/ that filters read."""
SINGLE_COLOUR: Final = 4
"""The largest contrast, of 255, of an image of a single colour: encoders change a colour by less."""

Codes = npt.NDArray[np.uint8]


def filter_rows(batch: pa.RecordBatch, settings: InspectSettings) -> Codes:
    """Return the code of the first reason for which each row is left out: uint8[n], 0 for none."""
    codes = np.zeros(len(batch), np.uint8)

    def leave_out(reason: str, where: npt.NDArray[np.bool_]) -> None:
        codes[where & (codes == 0)] = CODES[reason]

    broken = batch.column("broken").to_pylist()
    if unknown := set(broken) - {None, *BROKEN}:
        raise MetaclipError(
            f"images/ names a reason {min(unknown)!r}; run the command again with `RunOptions(overwrite=True)`"
        )
    codes[:] = [0 if reason is None else CODES[reason] for reason in broken]
    size, width, height, contrast = (
        _numbers(batch, name) for name in ("bytes", "width", "height", "contrast")
    )
    short, long = np.minimum(width, height), np.maximum(width, height)
    if settings.min_bytes is not None:
        leave_out("too_few_bytes", size < settings.min_bytes)
    if settings.min_side is not None:
        leave_out("too_small", short < settings.min_side)
    if settings.max_aspect is not None:
        leave_out("too_narrow", long > settings.max_aspect * short)
    if settings.single_colour:
        leave_out("single_colour", contrast <= SINGLE_COLOUR)
    return codes


def _numbers(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.int64]:
    """Return a column as numbers; only broken samples have nulls, which become 0."""
    column: Any = batch.column(name)
    numbers: npt.NDArray[np.int64] = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers
