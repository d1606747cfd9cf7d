"""Look-ups: is a uid in, is a url in. Rows split by hash prefix, so that a page loads one small file to answer.

    uid-<prefix>    [first 16 hex digits of the uid, entry ids]    of every matched pair
    url-<prefix>    [first 16 hex digits of md5(url), uid]         of every matched pair, or of the kept ones

That a pair is kept is not written: the page draws it. 64 bits of a hash let a stranger be taken for one of ten million
pairs once in 10^12 questions. Urls are known of all matched pairs where the run was made ``--with-text``, else only of
those in ``curated/``.
Cost: 40 bytes a uid and 32 a url on disk; memory for `AT_ONCE` pairs, the run being read once for so many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.card.explorer.packing import write_json_data
from metaclip.curate.matched_files import read_matched
from metaclip.curate.run import Run
from metaclip.pool import pool as pools
from metaclip.pool.uid import column_uids, strings, to_hex, uids_of

ROWS: Final = 8192
"""About so many rows in a file."""
AT_ONCE: Final = 1_000_000
_MOST_DIGITS: Final = 4

Rows = tuple[npt.NDArray[np.uint64], Callable[[npt.NDArray[np.int64]], list[list[Any]]]]
"""What rows are sorted and split by, and the rest of chosen rows."""


def write_look_ups(folder: Path, run: Run, at_once: int = AT_ONCE) -> dict[str, Any]:
    """Write the look-ups of a run. Give {uid_digits, url_digits, urls}: the lengths of the prefixes, and whose urls.

    `urls` is "matched", "kept", or None where the pool has none; `url_digits` is then None too.
    """
    pairs, kept = int(run.match["funnel"]["matched"]), int(run.balance["kept"]) if run.balance else 0
    uid_digits = _write(folder, "uid", pairs, lambda: _uid_rows(run), at_once)
    urls = urls_of(run)
    if urls is None:
        return {"uid_digits": uid_digits, "url_digits": None, "urls": None}
    count = pairs if urls == "matched" else kept
    return {
        "uid_digits": uid_digits,
        "url_digits": _write(folder, "url", count, lambda: _url_rows(run), at_once),
        "urls": urls,
    }


def _write(folder: Path, kind: str, rows: int, read: Callable[[], Iterator[Rows]], at_once: int) -> int:
    """Write one look-up; give the number of hex digits that it is split by."""
    digits = next(d for d in range(_MOST_DIGITS + 1) if rows <= ROWS * 16**d or d == _MOST_DIGITS)
    files = 16**digits
    step = max(1, files * at_once // max(rows, 1))
    for first in range(0, files, step):
        parts: list[list[list[Any]]] = [[] for _ in range(min(step, files - first))]
        for keys, rest in read():
            prefix = (keys >> np.uint64(64 - 4 * digits)).astype(np.int64) if digits else np.zeros(len(keys), np.int64)
            here = np.flatnonzero((prefix >= first) & (prefix < first + step))
            for place, key, row in zip(prefix[here].tolist(), keys[here].tolist(), rest(here), strict=True):
                parts[place - first].append([f"{key:016x}", *row])
        for i, part in enumerate(parts):
            name = f"{first + i:0{digits}x}" if digits else "all"
            write_json_data(folder, f"{kind}-{name}", sorted(part))
    return digits


def _uid_rows(run: Run) -> Iterator[Rows]:
    for path in sorted((run.matched / "matched").glob("*.parquet")):
        for _, uids, matches in read_matched(path):
            yield uids[:, 0], _taker(matches)


def _url_rows(run: Run) -> Iterator[Rows]:
    for path in url_files(run):
        with pq.ParquetFile(path) as file:
            name = url_column(run, file.schema_arrow, path)
            if name is None:
                continue
            for batch in file.iter_batches(pools.BATCH_ROWS, columns=["uid", name], use_threads=False):
                urls = strings(batch.column(name))
                there = pa.array(
                    np.flatnonzero(pc.fill_null(pc.not_equal(urls, ""), False).to_numpy(zero_copy_only=False))
                )
                uids = to_hex(column_uids(batch.column("uid"))).take(there)
                yield uids_of(urls.take(there), None, None)[:, 0], _taker(uids)


def _taker(column: pa.Array) -> Callable[[npt.NDArray[np.int64]], list[list[Any]]]:
    def take(rows: npt.NDArray[np.int64]) -> list[list[Any]]:
        values = column.take(pa.array(rows)).to_pylist()
        return [value if isinstance(value, list) else [value] for value in values]

    return take


def urls_of(run: Run) -> str | None:
    """Tell whose urls a run knows: those of all matched pairs, of the kept ones, or none."""
    files = url_files(run)
    if not any(url_column(run, pq.read_schema(path), path) for path in files):
        return None
    return "matched" if files[0].parent.name == "matched" else "kept"


def url_files(run: Run) -> list[Path]:
    """Give the files that know most urls: of matched/ where it carries them, else of curated/."""
    matched = sorted((run.matched / "matched").glob("*.parquet"))
    if matched and "url" in pq.read_schema(matched[0]).names:
        return matched
    return sorted((run.path / "curated").glob("*.parquet"))


def url_column(run: Run, schema: pa.Schema, path: Path) -> str | None:
    """Give the name of the column of urls in a file of matched/ or curated/; None where it has none."""
    if path.parent.name == "matched":
        return "url" if "url" in schema.names else None
    names = run.manifest["settings"]["match"]
    return pools.find_columns(schema, str(path), names.get("text_column"), names.get("url_column"), "uid").url
