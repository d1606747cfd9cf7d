"""The run folder of a card: its files, their columns of urls and texts, a pass over them, and a check that none was edited.

A run counts as unedited if its account, made again, is the one in its card.json; `metaclip card verify` goes deeper, down
to the matches. Cost of the check: reading entries.parquet and curated.npy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.curate.account import make_account
from metaclip.curate.run import Run
from metaclip.curate.schema import FIELDS, NAME, check_read
from metaclip.engine import Progress
from metaclip.engine.local import Local
from metaclip.errors import MetaclipError, damaged, one_line
from metaclip.pool import reading_parquet
from metaclip.pool.columns import find_columns
from metaclip.stage.runner import RunOptions

Result = TypeVar("Result")

MOST_WORKERS: Final = 4
"""A worker may hold sums by entry for each of 24 thresholds: 100 MB for 500,000 entries."""
MANIFEST_VERSION: Final = 1


def matched_files(run: Run) -> list[Path]:
    """Return the files of matched/, in the order of the pool."""
    return [run.matched / "matched" / f"{name}.parquet" for name in sorted(run.shard_columns)]


def curated_files(run: Run) -> list[Path]:
    """Return the files of curated/, in the order of the pool."""
    paths = [run.path / "curated" / f"{name}.parquet" for name in sorted(run.shard_columns)]
    return [path for path in paths if path.exists()]  # a shard of which nothing was kept has none


def url_files(run: Run) -> list[Path]:
    """Return the files that hold most urls: those of matched/ in a run ``--with-text``, else those of curated/."""
    matched = matched_files(run)
    return matched if matched and "url" in read_schema(matched[0]).names else curated_files(run)


def find_column(run: Run, path: Path, role: Literal["text", "url"]) -> str | None:
    """Return the name of the column of texts or of urls in a file of matched/ or curated/; None if it has none."""
    columns, given = read_schema(path), run.shard_columns[path.stem]
    if path.parent.name == "matched":
        return role if role in columns.names else None
    name: str | None = getattr(find_columns(columns, str(path), given["text"], given["url"], "uid"), role)
    return name


def first_column(schema: pa.Schema, names: Sequence[str]) -> str | None:
    """Return the first column that has one of these names in any case of letters, in the order of `names`."""
    columns = {name.lower(): name for name in reversed(schema.names)}
    return next((columns[name] for name in names if name in columns), None)


def pairs_with_urls(run: Run) -> str | None:
    """Return "matched" if the urls of all matched pairs are known, "kept" if those of kept pairs are, None if none is."""
    files = url_files(run)
    if not any(find_column(run, path, "url") for path in files):
        return None
    return "matched" if files[0].parent.name == "matched" else "kept"


def read_schema(path: Path) -> pa.Schema:
    """Read the columns of a file of matched/ or curated/. Raise MetaclipError if it is damaged."""
    with reading_parquet(path):
        return pq.read_schema(path)


def map_files(
    step: Callable[[Path], Result], paths: Sequence[Path], options: RunOptions, progress: Progress
) -> Iterator[Result]:
    """Yield what `step` returns for each file, in any order. Raise MetaclipError for a file that is damaged."""
    for path, result in limited_engine(options).map(lambda path, _: step(path), paths):
        if isinstance(result, pa.ArrowException):
            raise damaged(path, one_line(result)) from result
        if isinstance(result, BaseException):
            raise result
        progress.advance(1, 0)
        yield result


def limited_engine(options: RunOptions) -> Local:
    """Return an engine of this machine with at most `MOST_WORKERS` threads."""
    return Local(min(options.threads, MOST_WORKERS))


def check_unedited(run: Run) -> None:
    """Raise MetaclipError for a run that is not finished, was edited, or is of a newer schema."""
    version = run.manifest.get("schema")
    if version != MANIFEST_VERSION:
        raise MetaclipError(
            f"{run.path / 'manifest.json'} has schema version {version!r:.60}, this metaclip reads {MANIFEST_VERSION}; "
            "install a newer one"
        )
    again = f"balance the run again with: metaclip balance {run.path} --overwrite"
    check_read(run.account, NAME, FIELDS, str(run.path / "card.json"), again)
    # The digest differs with each of the other fields, which say more.
    if lines := sorted(account_differences(run), key=lambda line: line.startswith("result_digest")):
        raise MetaclipError(
            f"{run.path} was changed since it was written: card.json, {lines[0]}; {again}"
        )


def account_differences(run: Run) -> Iterator[str]:
    """Make a run's account again and yield what differs in card.json, one line each."""
    account = run.account
    free = {
        name: account[name] for name in ("created", "versions")
    }  # another time and machine may differ in these
    yield from json_differences({**make_account(run), **free}, account)


def json_differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield what differs in two JSON values, one line each: the path, the value found, and the one that the run gives."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(expected.keys() | found.keys()):
            name = f"{path}.{key}".lstrip(".")
            if key not in expected or key not in found:
                yield f"{name}: {'missing' if key in expected else 'not of the run'}"
            else:
                yield from json_differences(expected[key], found[key], name)
    elif expected != found:
        shown = (f"{value!r:.60}" for value in (found, expected))
        yield f"{path}: {' where the run gives '.join(shown)}"
