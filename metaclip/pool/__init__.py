"""Pools of image-text pairs: their files, columns, shards, readers and uids."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from metaclip.errors import damaged, one_line


@contextlib.contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises in the block, for a parquet file that metaclip wrote, into a MetaclipError of one line."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise damaged(path, one_line(error, 160)) from None
