"""Marks of other tools: samples that a score, or a function of their rows, marks for removal or for blurring.

metaclip ships no model, so faces, nudity or violence are found by others. What they found comes in by one of two ways:

    a file of scores    parquet with the uid of each sample and a number, named in a recipe ([[inspect.hooks]]); a sample of
                        at least so high a score is marked. A sample that has no score, or null, is not.
    a function          given to `metaclip.inspect`, not in a recipe, since a recipe must not run code; it takes a batch of rows
                        of images/ and returns for each row "remove", "blur" or None

A sample marked for removal goes, and the funnel counts it under the name of the hook. One marked for blurring stays; its
row of outcome/ names the hook, and its uid is in blur.npy, for the tool that blurs.

Memory: 24 bytes per marked uid in each worker process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.errors import BadSetting, MetaclipError
from metaclip.inspect.settings import MEANING, ScoreHook
from metaclip.pool.files import PoolFile, find_files, open_file, translate_read_errors
from metaclip.pool.sorted_uids import sorted_writer
from metaclip.pool.uid import column_uids

MarkFunction = Callable[[pa.RecordBatch], Sequence[str | None]]
"""Returns for each row of images/ "remove", "blur" or None."""
REMOVE: Final = "remove"
BLUR: Final = "blur"
_BATCH: Final = 1 << 16
_NAME: Final = re.compile("[a-z][a-z0-9_]{0,63}")


def check_names(hooks: Sequence[ScoreHook], functions: Mapping[str, MarkFunction]) -> list[str]:
    """Return the names of all hooks. Raise BadSetting for one that is no name, or that something else has."""
    names = [*(hook.name for hook in hooks), *functions]
    for place, name in enumerate(names):
        if not _NAME.fullmatch(name):
            raise BadSetting(f"the hook {name!r:.80} must have a name of a-z, 0-9 and _, such as faces")
        if name in MEANING or name in names[:place]:
            raise BadSetting(f"the hook {name!r} has the name of another reason; give it another one")
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"the hook {name} must be a function of rows, not {type(function).__name__}")
    return names


def find_scores(hook: ScoreHook) -> list[PoolFile]:
    """Find the files of scores of a hook."""
    return find_files(hook.scores, "parquet", "scores")


def write_marked(hook: ScoreHook, path: Path) -> None:
    """Write the uids that a hook's scores mark, as sorted rows of uint64[n, 2]."""
    with sorted_writer(path, 2) as add:
        for file in find_scores(hook):
            for uids, scores in _read_scores(file, hook):
                add(uids[scores >= hook.at_least])


def _read_scores(file: PoolFile, hook: ScoreHook) -> Iterator[tuple[Any, npt.NDArray[np.float64]]]:
    """Yield uids and scores; nulls are NaN. Raise MetaclipError if the file lacks a column."""
    with translate_read_errors(file), open_file(file) as opened, pq.ParquetFile(opened) as parquet:
        schema = parquet.schema_arrow
        if missing := [name for name in (hook.uid_column, hook.column) if name not in schema.names]:
            raise MetaclipError(
                f"{file.path} has no column {missing[0]!r} (columns: {', '.join(schema.names)[:200]}); name it in the "
                f"table [[inspect.hooks]] of {hook.name}"
            )
        kind = schema.field(hook.column).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise MetaclipError(
                f"{file.path}: the column {hook.column!r} holds {kind}, must hold numbers"
            )
        for batch in parquet.iter_batches(
            _BATCH, columns=[hook.uid_column, hook.column], use_threads=False
        ):
            known = batch.filter(pc.is_valid(batch.column(hook.uid_column)))
            scores = known.column(hook.column).cast(pa.float64()).fill_null(float("nan"))
            yield column_uids(known.column(hook.uid_column)), scores.to_numpy(zero_copy_only=False)


def call_function(name: str, function: MarkFunction, batch: pa.RecordBatch) -> list[str | None]:
    """Return what a function says of each row of a batch. Raise MetaclipError if that is no list of marks."""
    made: Any = function(batch)
    if not isinstance(made, Iterable):
        raise MetaclipError(f"the hook {name} returned {made!r:.80}, must return one mark for each row")
    found = made.to_pylist() if isinstance(made, pa.Array | pa.ChunkedArray) else list(made)
    if len(found) != len(batch):
        raise MetaclipError(
            f"the hook {name} returned {len(found)} marks for {len(batch)} rows; it must return one each"
        )
    if odd := [mark for mark in found if mark not in (None, REMOVE, BLUR)]:
        raise MetaclipError(f"the hook {name} returned {odd[0]!r:.80}, must be 'remove', 'blur' or None")
    return found
