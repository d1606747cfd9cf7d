"""Data files that a page opened from disk can read: classic scripts, each a call with gzip in base64.

    metaclip(number of files, "H4sIAAAA...")

A page from disk may run scripts beside it and nothing else: no fetch, no module, no worker. A host need not compress:
the bytes on disk are the bytes sent. Data of one name are split into files of at most `FILE_BYTES`.

Look-ups tell whether a uid or a url is in. Their rows are split by hash prefix, so that one small file answers:

    uid-<prefix>    [first 16 hex digits of the uid, entry ids]    of every matched pair
    url-<prefix>    [first 16 hex digits of md5(url), uid]         of every matched pair, or of the kept ones

Whether a pair is kept is not written: the page draws it. With 64 bits of a hash, a stranger is taken for one of ten
million pairs once in 10^12 questions. Urls are known of all matched pairs in a run ``--with-text``, else only of those in
``curated/``.
Cost: 500,000 entries are 2.6 MB (sorted) to 3.9 MB (in no order), their numbers 0.6 MB (tests/bench/bench_explorer.py).
Look-ups take 40 bytes a uid and 32 a url on disk, and memory for `PAIRS_AT_ONCE` pairs; the run is read once for each such
number of pairs.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.card.run_files import find_column, matched_files, pairs_with_urls, url_files
from metaclip.curate.run import Run
from metaclip.curate.tables import read_matched, read_pairs
from metaclip.engine import Progress
from metaclip.pool.uid import column_uids, to_hex, to_large_string, uids_of
from metaclip.storage.files import atomic_write

FILE_BYTES: Final = 5_000_000
_LEVEL: Final = 6  # 9 takes three times as long and saves 2%
_PIECE_BYTES: Final = FILE_BYTES - 100
ROWS_PER_FILE: Final = 8192
"""About the number of rows in a file."""
PAIRS_AT_ONCE: Final = 1_000_000
_MOST_DIGITS: Final = 4

KeyedRows = tuple[npt.NDArray[np.uint64], pa.Array]
"""Keys by which rows are split and sorted, uint64[n], and the rest of each row: a value, or a list of values."""


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
    rest = values[:, None] >> np.arange(0, 71, 7, dtype=np.uint64)  # a shift by 70 gives 0
    more = rest[:, 1:] > 0
    encoded = (rest[:, :-1] & np.uint64(127) | more * np.uint64(128)).astype(np.uint8)
    used = np.column_stack([np.ones(len(values), np.bool_), more[:, :-1]])
    return encoded[used].tobytes()


def write_lookups(
    folder: Path, run: Run, at_once: int = PAIRS_AT_ONCE, shown: bool | None = None
) -> dict[str, Any]:
    """Write the look-ups of a run. Return {uid_digits, url_digits, urls}: the lengths of the prefixes, and whose urls.

    `urls` is "matched", "kept", or None for a pool without urls; `url_digits` is then None too.
    `shown` is that of `Progress`.
    """
    pairs, urls = int(run.match["funnel"]["matched"]), pairs_with_urls(run)
    uid_digits, url_digits = _write(folder, "uid", pairs, lambda: _uid_rows(run), at_once, shown), None
    if urls is not None:
        count = run.account["pairs"][urls]
        url_digits = _write(folder, "url", count, lambda: _url_rows(run), at_once, shown)
    return {"uid_digits": uid_digits, "url_digits": url_digits, "urls": urls}


def _write(
    folder: Path,
    kind: str,
    rows: int,
    read: Callable[[], Iterator[KeyedRows]],
    at_once: int,
    shown: bool | None,
) -> int:
    """Write one look-up; return the number of hex digits by which it is split."""
    digits = next(
        d for d in range(_MOST_DIGITS + 1) if rows <= ROWS_PER_FILE * 16**d or d == _MOST_DIGITS
    )
    files = 16**digits
    step = max(1, files * at_once // max(rows, 1))
    with Progress(f"look-ups ({kind})", files, shown, unit="files") as progress:
        for first in range(0, files, step):
            parts: list[list[list[Any]]] = [[] for _ in range(min(step, files - first))]
            for keys, rest in read():
                prefix = (
                    (keys >> np.uint64(64 - 4 * digits)).astype(np.int64)
                    if digits
                    else np.zeros(len(keys), np.int64)
                )
                chosen = np.flatnonzero((prefix >= first) & (prefix < first + step))
                values = rest.take(pa.array(chosen)).to_pylist()
                for file, key, value in zip(
                    (prefix[chosen] - first).tolist(), keys[chosen].tolist(), values, strict=True
                ):
                    parts[file].append([f"{key:016x}", *(value if isinstance(value, list) else [value])])
            for i, part in enumerate(parts):
                name = f"{first + i:0{digits}x}" if digits else "all"
                write_json_data(folder, f"{kind}-{name}", sorted(part))
                progress.advance(1, 0)
    return digits


def _uid_rows(run: Run) -> Iterator[KeyedRows]:
    for path in matched_files(run):
        for _, uids, matches in read_matched(path):
            yield uids[:, 0], matches


def _url_rows(run: Run) -> Iterator[KeyedRows]:
    for path in url_files(run):
        if (name := find_column(run, path, "url")) is not None:
            for batch in read_pairs(path, ["uid", name]):
                urls = to_large_string(batch.column(name))
                present = pc.fill_null(pc.not_equal(urls, ""), False)
                uids = to_hex(column_uids(batch.column("uid"))).filter(present)
                yield uids_of(urls.filter(present), None, None)[:, 0], uids
