"""Data files that a page opened from disk can read: classic scripts, each a call with gzip in base64.

    metaclip(number of files, "H4sIAAAA...")

A page from disk may run scripts beside it and nothing else: no fetch, no module, no worker. A host need not compress:
the bytes on disk are the bytes sent. Data of one name are split into files of at most `FILE_BYTES`.
Cost: 500,000 entries are 2.6 MB (sorted) to 3.9 MB (in no order), their numbers 0.6 MB (tests/bench/bench_explorer.py).
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.storage.files import atomic_write

FILE_BYTES: Final = 5_000_000
_LEVEL: Final = 6  # 9 takes three times as long and saves 2%
_PIECE_BYTES: Final = FILE_BYTES - 100


def write_data(folder: Path, name: str, data: bytes) -> None:
    """Write `data` as the files ``<name>.0.js``, ``<name>.1.js`` and so on; equal data make equal files."""
    text = base64.b64encode(gzip.compress(data, compresslevel=_LEVEL, mtime=0)).decode("ascii")
    pieces = [text[i : i + _PIECE_BYTES] for i in range(0, len(text), _PIECE_BYTES)]
    for i, piece in enumerate(pieces):
        with atomic_write(folder / f"{name}.{i}.js") as temporary:
            temporary.write_text(f'metaclip({len(pieces)}, "{piece}");\n', encoding="ascii")


def write_json_data(folder: Path, name: str, value: Any) -> None:
    """Write a value as JSON in data files."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    write_data(folder, name, text.encode())


def varints(values: npt.NDArray[np.uint64]) -> bytes:
    """Encode unsigned integers as LEB128: seven bits a byte, lowest first, the eighth bit set if more bytes follow."""
    size = np.ones(len(values), np.int64)
    for k in range(1, 10):
        size += values >= np.uint64(1 << 7 * k)
    ends = np.cumsum(size)
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    for k in range(int(size.max(initial=0))):
        longer = size > k
        part = (values[longer] >> np.uint64(7 * k)).astype(np.uint8) & np.uint8(127)
        out[(ends - size)[longer] + k] = part | (size[longer] > k + 1).astype(np.uint8) << np.uint8(7)
    return out.tobytes()
