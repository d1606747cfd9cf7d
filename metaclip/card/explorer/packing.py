"""Data that a page opened from disk can read: classic scripts, each a call with gzip in base64.

    metaclip(number of files, "H4sIAAAA...")

A page from disk may run a script that stands beside it, and nothing else: no fetch, no module, no worker. A host need
not compress: what stands on disk is what is sent. One name's data are cut into files of at most `FILE_BYTES`.
Cost: 500,000 entries are 2.6 MB (sorted) to 3.9 MB (in no order), their numbers 0.6 MB (tests/bench/bench_explorer.py).
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.errors import MetaclipError
from metaclip.storage.files import atomic_write

FILE_BYTES: Final = 5_000_000
_LEVEL: Final = 6  # 9 takes three times as long and saves 2%
_PIECE: Final = FILE_BYTES - 100
_CALL: Final = re.compile(r'metaclip\((\d+), "([A-Za-z0-9+/=]*)"\);\n')


def write_data(folder: Path, name: str, data: bytes) -> None:
    """Write `data` as the files ``<name>.0.js``, ``<name>.1.js`` and so on; equal data give equal files."""
    text = base64.b64encode(gzip.compress(data, compresslevel=_LEVEL, mtime=0)).decode("ascii")
    pieces = [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
    for i, piece in enumerate(pieces):
        with atomic_write(folder / f"{name}.{i}.js") as temporary:
            temporary.write_text(f'metaclip({len(pieces)}, "{piece}");\n', encoding="ascii")


def write_json_data(folder: Path, name: str, value: Any) -> None:
    """Write a value as JSON in data files."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    write_data(folder, name, text.encode())


def read_data(folder: Path, name: str) -> bytes:
    """Read what `write_data` wrote, without running it. Raise MetaclipError for anything else."""
    text, pieces, i = "", 1, 0
    while i < pieces:
        path = folder / f"{name}.{i}.js"
        try:
            call = _CALL.fullmatch(path.read_text(encoding="ascii"))
        except (OSError, UnicodeDecodeError):
            call = None
        if call is None:
            raise MetaclipError(f"{path} is no data file of an explorer page; make the card again")
        pieces, i = int(call[1]), i + 1
        text += call[2]
    return gzip.decompress(base64.b64decode(text))


def varints(values: npt.NDArray[np.uint64]) -> bytes:
    """Write unsigned integers in seven bits a byte, the lowest first, the eighth bit set where more follow (LEB128)."""
    size = np.ones(len(values), np.int64)
    for k in range(1, 10):
        size += values >= np.uint64(1 << 7 * k)
    ends = np.cumsum(size)
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    for k in range(int(size.max(initial=0))):
        here = size > k
        part = (values[here] >> np.uint64(7 * k)).astype(np.uint8) & np.uint8(127)
        out[(ends - size)[here] + k] = part | (size[here] > k + 1).astype(np.uint8) << np.uint8(7)
    return out.tobytes()
