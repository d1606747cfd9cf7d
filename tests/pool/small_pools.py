"""Small pools for tests: written, curated, and read as rows."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip import MatchSettings, Run, curate
from metaclip.pool.columns import DroppedRows
from metaclip.pool.files import find_files
from metaclip.pool.shards import Shard, read_batches, schema_and_shards

LIST = ["dog", "cat", "photo", "é"]
TEXTS = ["a photo of a dog", "a cat, asleep", "nothing of note", "un café é", "dog dog dog", "two\tcats"]
MATCHING = [0, 1, 3, 4]
"""The rows of TEXTS that match anything in LIST."""
URLS = [f"https://example.org/{i}.jpg?a=b&c=d" for i in range(len(TEXTS))]
MD5 = [hashlib.md5((text + url).encode()).hexdigest() for text, url in zip(TEXTS, URLS, strict=True)]
N = len(TEXTS)


def curated(
    pool: Any, out: Path, settings: MatchSettings | None = None, metadata: Sequence[str] = LIST
) -> Run:
    """Curate a pool at a t that keeps all pairs that match."""
    return curate(pool, metadata, out=out, t=1e9, settings=settings)


def shards_of(pool: Any, limit: int | None = None) -> list[Shard]:
    """Cut a pool into shards; only parquet files must be read for that."""
    return [
        shard
        for i, file in enumerate(find_files(pool))
        for shard in (
            schema_and_shards(file, i, limit)[1]
            if file.form == "parquet"
            else [Shard(file, i, rows=limit)]
        )
    ]


def rows_of(
    pool: Any, columns: Sequence[str] | None = None, dropped: DroppedRows | None = None
) -> list[dict[str, Any]]:
    """Read a pool's rows."""
    found = dropped or DroppedRows()
    return [
        row
        for shard in shards_of(pool)
        for batch in read_batches(shard, columns, found)
        for row in batch.to_pylist()
    ]


def write_lines(path: Path, lines: Sequence[str | bytes]) -> Path:
    """Write lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
    )
    return path


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """Write a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


TEXT_FORMS = {
    "csv": lambda rows: _csv(rows, ","),
    "tsv": lambda rows: _csv(rows, "\t"),
    "jsonl": lambda rows: "".join(
        json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)
    ).encode(),
}


def _csv(rows: Sequence[dict[str, str]], delimiter: str) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


ROWS = [
    {"url": url, "text": text, "n": str(i)} for i, (url, text) in enumerate(zip(URLS, TEXTS, strict=True))
]
