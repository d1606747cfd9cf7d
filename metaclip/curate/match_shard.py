"""One shard of stage `match`: its matched rows, counts and uids (`metaclip.curate.match` has the names of the files).

Memory: one batch of 65,536 rows and one parquet row group for each worker.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.curate.inputs import (
    FileDigest,
    PoolItem,
    check_unchanged,
    columns_of,
)
from metaclip.curate.settings import NOT_IN_SUBSET, MatchSettings
from metaclip.curate.tables import matched_writer
from metaclip.engine import PortableStep, ProgressCallback
from metaclip.errors import damaged
from metaclip.matching import MATCHES, add_ids
from metaclip.matching.matcher import Matcher
from metaclip.metadata import Metadata
from metaclip.pool.columns import Columns, DroppedRows, usable_texts
from metaclip.pool.shards import Shard, read_batches
from metaclip.pool.sorted_uids import (
    load_array,
    write_rows,
    write_run,
)
from metaclip.pool.uid import Uids, uids_of
from metaclip.stage.stage import Stage
from metaclip.storage.files import local_copy

if TYPE_CHECKING:
    from metaclip.pool.subset import Subset


@dataclasses.dataclass(frozen=True)
class MatchStep(PortableStep):
    """The step of stage match: matches a shard, or computes the digest of a file.

    The automaton is not sent: each machine has it in a file of its cache, which all workers map into memory.
    """

    stage: Stage
    settings: MatchSettings
    entries: Metadata
    subset: Subset | None = None

    @functools.cached_property
    def matcher(self) -> Matcher:
        """The matcher, made once in each worker process."""
        return Matcher(self.entries, self.settings.rule)

    def __call__(
        self, item: PoolItem, progress: ProgressCallback
    ) -> tuple[dict[str, Any], Sequence[Path]]:
        """Run the step. Raise BrokenInput if the file cannot be read, or changes while it is read."""
        files: list[Path] = []
        if isinstance(item, FileDigest):
            marker = item.marker()
        else:
            marker = match_shard(item, self.matcher, self.settings, self.stage, progress, self.subset)
            files = [
                self.stage.folder / "matched" / f"{item.name}.parquet",
                *self.stage.partials(item.name),
            ]
        check_unchanged(item.file)
        return marker, files


def match_shard(
    shard: Shard,
    matcher: Matcher,
    settings: MatchSettings,
    stage: Stage,
    progress: ProgressCallback,
    subset: Subset | None = None,
) -> dict[str, Any]:
    """Match a shard and write its files: matched rows, counts, sorted uids. Return its marker.

    Raise BrokenInput if the shard cannot be read; nothing is left of it then.
    """
    columns = columns_of(shard.file, settings)
    wanted = [
        name for name in (columns.text, columns.url, columns.uid, columns.status) if name is not None
    ]
    dropped = DroppedRows()
    funnel = {"rows": 0, "matched": 0}
    counts = np.zeros(len(matcher.metadata), np.uint64)
    uids: list[Uids] = []
    row = shard.first
    with matched_writer(
        stage.folder / "matched" / f"{shard.name}.parquet", settings.with_text
    ) as add_rows:
        for batch in read_batches(shard, list(dict.fromkeys(wanted)), dropped):
            texts = usable_texts(batch, columns, row, dropped)
            if subset is not None:
                texts = _texts_in_subset(texts, batch, columns, subset, row, dropped)
            matches = matcher.match(texts)
            offsets = np.asarray(matches.offsets)
            n_matches = np.diff(offsets)
            found = np.flatnonzero(n_matches)
            if len(found):
                index = pa.array(found)
                found_texts = texts.take(index)
                urls = None if columns.url is None else batch.column(columns.url).take(index)
                given = None if columns.uid is None else batch.column(columns.uid).take(index)
                found_uids = uids_of(found_texts, urls, given)
                ends = pa.array(np.concatenate([offsets[:1], offsets[1:][found]]).astype(np.int32))
                found_matches = pa.ListArray.from_arrays(ends, matches.values, type=MATCHES)
                add_rows(row + found, found_uids, found_matches, urls, found_texts)
                uids.append(found_uids)
                add_ids(counts, matches.values.to_numpy())
            empty = int(
                ((n_matches == 0) & (pc.fill_null(pc.binary_length(texts), 1).to_numpy() == 0)).sum()
            )
            dropped.add("empty_text", f"row {row}", empty)
            funnel["rows"] += len(batch)
            funnel["matched"] += len(found)
            row += len(batch)
            progress(len(batch), len(found))
    funnel["rows"] += dropped.counts.get("malformed_row", 0)
    funnel |= dropped.counts
    funnel["no_match"] = funnel["rows"] - funnel["matched"] - sum(dropped.counts.values())
    write_partials(stage, shard.name, counts, [np.zeros((0, 2), np.uint64), *uids])
    return {"shard": shard.identity, "funnel": funnel, "places": dropped.places}


def _texts_in_subset(
    texts: pa.Array,
    batch: pa.RecordBatch,
    columns: Columns,
    subset: Subset,
    row: int,
    dropped: DroppedRows,
) -> pa.Array:
    """Return the texts of a batch, null where the uid is not in the subset; count these rows in `dropped`."""
    urls, given = (None if name is None else batch.column(name) for name in (columns.url, columns.uid))
    uids = uids_of(pc.fill_null(texts, ""), urls, given)
    left_out = ~subset.contains(uids) & texts.is_valid().to_numpy(zero_copy_only=False)
    if left_out.any():
        dropped.add(NOT_IN_SUBSET, f"row {row + int(left_out.argmax())}", int(left_out.sum()))
        texts = pc.if_else(pa.array(left_out), pa.scalar(None, texts.type), texts)
    return texts


def write_partials(
    stage: Stage, shard: str, counts: npt.NDArray[np.uint64], uids: Sequence[Uids]
) -> None:
    """Write what a shard adds to the stage: its counts by entry, and the uids of its matched rows."""
    entry = np.flatnonzero(counts)
    write_rows(
        stage.path / f"{shard}.counts.npy", np.stack([entry.astype(np.uint64), counts[entry]], axis=1)
    )
    write_run(stage.path / f"{shard}.uids.npy", np.concatenate(uids))


def shard_counts(shard: str, *, stage: Stage, n_entries: int) -> npt.NDArray[np.uint64]:
    """Read the counts that a finished shard left: uint64[n_entries]."""
    with local_copy(stage.partial(shard, "counts.npy")) as path:
        entry, count = load_array(path, 2).T
        if len(entry) and int(entry.max()) >= n_entries:
            raise damaged(path, "it names entries beyond the end of the list")
    counts = np.zeros(n_entries, np.uint64)
    counts[entry.astype(np.int64)] = count
    return counts
