"""Look-ups of the page: is a uid in, is a url in. Rows are split by hash prefix, so that one small file answers.

    uid-<prefix>    [first 16 hex digits of the uid, entry ids]    of every matched pair
    url-<prefix>    [first 16 hex digits of md5(url), uid]         of every matched pair, or of the kept ones

Whether a pair is kept is not written: the page draws it. With 64 bits of a hash, a stranger is taken for one of ten
million pairs once in 10^12 questions. Urls are known of all matched pairs in a run ``--with-text``, else only of those in
``curated/``.
Cost: 40 bytes a uid and 32 a url on disk; memory for `PAIRS_AT_ONCE` pairs; the run is read once for each such number of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.card.explorer.data_files import write_json_data
from metaclip.card.run_files import find_column, matched_files, pairs_with_urls, read_batches, url_files
from metaclip.curate.files import read_matched
from metaclip.curate.run import Run
from metaclip.pool.uid import column_uids, to_hex, to_large_string, uids_of

ROWS_PER_FILE: Final = 8192
"""About the number of rows in a file."""
PAIRS_AT_ONCE: Final = 1_000_000
_MOST_DIGITS: Final = 4

KeyedRows = tuple[npt.NDArray[np.uint64], pa.Array]
"""Keys by which rows are split and sorted, uint64[n], and the rest of each row: a value, or a list of values."""


def write_lookups(folder: Path, run: Run, at_once: int = PAIRS_AT_ONCE) -> dict[str, Any]:
    """Write the look-ups of a run. Return {uid_digits, url_digits, urls}: the lengths of the prefixes, and whose urls.

    `urls` is "matched", "kept", or None for a pool without urls; `url_digits` is then None too.
    """
    pairs, urls = int(run.match["funnel"]["matched"]), pairs_with_urls(run)
    uid_digits, url_digits = _write(folder, "uid", pairs, lambda: _uid_rows(run), at_once), None
    if urls is not None:
        count = pairs if urls == "matched" or not run.balance else int(run.balance["kept"])
        url_digits = _write(folder, "url", count, lambda: _url_rows(run), at_once)
    return {"uid_digits": uid_digits, "url_digits": url_digits, "urls": urls}


def _write(folder: Path, kind: str, rows: int, read: Callable[[], Iterator[KeyedRows]], at_once: int) -> int:
    """Write one look-up; return the number of hex digits by which it is split."""
    digits = next(d for d in range(_MOST_DIGITS + 1) if rows <= ROWS_PER_FILE * 16**d or d == _MOST_DIGITS)
    files = 16**digits
    step = max(1, files * at_once // max(rows, 1))
    for first in range(0, files, step):
        parts: list[list[list[Any]]] = [[] for _ in range(min(step, files - first))]
        for keys, rest in read():
            prefix = (keys >> np.uint64(64 - 4 * digits)).astype(np.int64) if digits else np.zeros(len(keys), np.int64)
            chosen = np.flatnonzero((prefix >= first) & (prefix < first + step))
            values = rest.take(pa.array(chosen)).to_pylist()
            for file, key, value in zip((prefix[chosen] - first).tolist(), keys[chosen].tolist(), values, strict=True):
                parts[file].append([f"{key:016x}", *(value if isinstance(value, list) else [value])])
        for i, part in enumerate(parts):
            name = f"{first + i:0{digits}x}" if digits else "all"
            write_json_data(folder, f"{kind}-{name}", sorted(part))
    return digits


def _uid_rows(run: Run) -> Iterator[KeyedRows]:
    for path in matched_files(run):
        for _, uids, matches in read_matched(path):
            yield uids[:, 0], matches


def _url_rows(run: Run) -> Iterator[KeyedRows]:
    for path in url_files(run):
        if (name := find_column(run, path, "url")) is not None:
            for batch in read_batches(path, ["uid", name]):
                urls = to_large_string(batch.column(name))
                present = pc.fill_null(pc.not_equal(urls, ""), False)
                uids = to_hex(column_uids(batch.column("uid"))).filter(present)
                yield uids_of(urls.filter(present), None, None)[:, 0], uids
