"""The files of a run that cards are made from: which there are, their columns of urls and texts, a pass over them in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.curate.run import Run
from metaclip.engine.local import Local
from metaclip.engine.progress import Progress
from metaclip.errors import MetaclipError, one_line
from metaclip.pool.columns import find_columns
from metaclip.pool.shards import BATCH_ROWS
from metaclip.stage.runner import RunOptions

Result = TypeVar("Result")

MOST_WORKERS: Final = 4
"""A worker may hold sums by entry for each of 24 thresholds: 100 MB for 500,000 entries."""


def matched_files(run: Run) -> list[Path]:
    """Return the files of matched/, in the order of the pool."""
    return sorted((run.matched / "matched").glob("*.parquet"))


def curated_files(run: Run) -> list[Path]:
    """Return the files of curated/, in the order of the pool."""
    return sorted((run.path / "curated").glob("*.parquet"))


def url_files(run: Run) -> list[Path]:
    """Return the files that hold most urls: those of matched/ in a run ``--with-text``, else those of curated/."""
    matched = matched_files(run)
    return matched if matched and "url" in pq.read_schema(matched[0]).names else curated_files(run)


def find_column(run: Run, path: Path, role: Literal["text", "url"]) -> str | None:
    """Return the name of the column of texts or of urls in a file of matched/ or curated/; None if it has none."""
    schema, given = pq.read_schema(path), run.match["columns"]
    if path.parent.name == "matched":
        return role if role in schema.names else None
    found = find_columns(schema, str(path), given["text"], given["url"], "uid")
    return found.text if role == "text" else found.url


def pairs_with_urls(run: Run) -> str | None:
    """Return "matched" if the urls of all matched pairs are known, "kept" if those of kept pairs are, None if none is."""
    files = url_files(run)
    if not any(find_column(run, path, "url") for path in files):
        return None
    return "matched" if files[0].parent.name == "matched" else "kept"


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a parquet file in batches; `columns` None are all."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)


def map_files(
    step: Callable[[Path], Result], paths: Sequence[Path], options: RunOptions, progress: Progress
) -> Iterator[Result]:
    """Yield what `step` returns for each file, in any order. Raise MetaclipError for a file that is not parquet."""
    for path, result in limited_engine(options).map(lambda path, _: step(path), paths):
        if isinstance(result, pa.ArrowException):
            raise MetaclipError(
                f"{path} cannot be read ({one_line(result)}); balance the run again with --overwrite"
            ) from result
        if isinstance(result, BaseException):
            raise result
        progress.advance(1, 0)
        yield result


def limited_engine(options: RunOptions) -> Local:
    """Return an engine of this machine with at most `MOST_WORKERS` threads."""
    return Local(min(options.threads, MOST_WORKERS))
