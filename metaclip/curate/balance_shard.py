"""One shard of stage `balance`: the draw of its pairs, and the files that it leaves (named in `metaclip.curate.balance`)."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.curate.draw import (
    FIXED_POINT,
    DrawSums,
    Thresholds,
    draw_rows,
    expect_rows,
    probabilities,
    stream_key,
)
from metaclip.curate.inputs import (
    check_unchanged,
    columns_as_given,
)
from metaclip.curate.settings import (
    MATCH,
)
from metaclip.curate.tables import curated_writer, read_matched
from metaclip.engine import PortableStep, ProgressCallback
from metaclip.errors import BrokenInput, MetaclipError, damaged
from metaclip.matching import MATCHES, ids_and_offsets
from metaclip.pool.columns import Columns, DroppedRows, valid_strings
from metaclip.pool.shards import Shard, read_batches
from metaclip.pool.sorted_uids import UidSet, load_array, write_rows, write_run
from metaclip.pool.uid import Uids, to_hex, to_strings
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage, check_bytes
from metaclip.storage.files import local_copy


@dataclasses.dataclass(frozen=True)
class DrawStep(PortableStep):
    """The step of stage balance; an item is a shard, its rows when it was matched, and the names of columns given then."""

    stage: Stage
    matched: Folder
    counts: npt.NDArray[np.uint64]
    t: Thresholds
    seed: int
    languages: Mapping[str, range] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def parameters(self) -> DrawParameters:
        """The parameters of the draw, made once in each worker process."""
        with local_copy(self.matched / "duplicates.npy") as path:
            check_bytes(path, "duplicates.npy", Stage(self.matched, MATCH).record)
            return DrawParameters.of(self.counts, self.t, self.seed, load_array(path), self.languages)

    def __call__(
        self, item: tuple[Shard, int, Mapping[str, str | None]], progress: ProgressCallback
    ) -> tuple[dict[str, Any], Sequence[Path]]:
        """Run the step. Raise BrokenInput if the pool's file cannot be read, or has other rows than when it was matched."""
        shard, rows, given = item
        columns = columns_as_given(shard.file, given)
        marker = balance_shard(shard, columns, rows, self.parameters, self.matched, self.stage, progress)
        check_unchanged(shard.file)
        return marker, [
            self.stage.folder / "curated" / f"{shard.name}.parquet",
            *self.stage.partials(shard.name),
        ]


@dataclasses.dataclass(frozen=True)
class ExpectStep(PortableStep):
    """Sums P(keep) over the rows of a matched shard under each of k thresholds."""

    matched: Folder
    slope: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float64]

    def __call__(self, shard: str) -> npt.NDArray[np.object_]:
        """Return the sums of a shard: Python integers, object[k], in units of 1 / FIXED_POINT."""
        sums = np.zeros(len(self.thresholds), np.uint64)
        for _, _, matches in read_matched(self.matched / "matched" / f"{shard}.parquet"):
            expect_rows(*ids_and_offsets(matches), self.slope, self.thresholds, sums)
        return sums.astype(np.object_)  # the sums of all shards do not fit 64 bits


@dataclasses.dataclass(frozen=True)
class DrawParameters:
    """What determines the draw of every row; shared by all shards."""

    probability: npt.NDArray[np.float64]
    key: int
    duplicates: UidSet
    languages: Mapping[str, range]

    @classmethod
    def of(
        cls, counts: npt.NDArray[np.uint64], t: Thresholds, seed: int, duplicates: npt.NDArray[Any],
        languages: Mapping[str, range],
    ) -> DrawParameters:  # fmt: skip
        """Compute them for epoch 0; `duplicates` are the uids that stand on several rows, in DataComp's subset format.

        `languages` are those of the list, empty if it has none.
        """
        uids = np.ascontiguousarray(duplicates).view(np.uint64).reshape(-1, 2)
        return cls(probabilities(counts, t), stream_key(seed, 0), UidSet(uids), languages)


class LanguageSums:
    """Sums over drawn rows for each language of a list: the rows that match an entry of it.

    `sums` is uint64[3, number of languages]: matched rows, their expected number in units of 1 / FIXED_POINT, kept rows.
    """

    def __init__(self, languages: Mapping[str, range]) -> None:
        """Start at zero."""
        self._names = [*languages]
        self._starts = np.array([ids.start for ids in languages.values()], np.int64)
        self.sums = np.zeros((3, len(self._names)), np.uint64)

    def add(
        self, values: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], probability: npt.NDArray[np.float64],
        keep: npt.NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """Add rows of matches, as `draw_rows` takes them, with their P(keep) and whether they are kept."""
        matched = values[offsets[0] : offsets[-1]]
        language = np.searchsorted(self._starts, matched, "right") - 1
        row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        # Ids ascend, so the entries of one language stand side by side in a row.
        first = np.ones(len(matched), np.bool_)
        first[1:] = (language[1:] != language[:-1]) | (row[1:] != row[:-1])
        language, row = language[first], row[first]
        fixed = (probability * FIXED_POINT).astype(np.uint64)
        for total, of_rows in zip(
            self.sums, (np.ones_like(fixed), fixed, keep.astype(np.uint64)), strict=True
        ):
            np.add.at(total, language, of_rows[row])

    def by_language(self) -> dict[str, list[int]]:
        """Return the three sums of each language of which rows were added."""
        rows = zip(self._names, self.sums.T.tolist(), strict=True)
        return {name: sums for name, sums in rows if sums[0]}


class ShardDraw:
    """Draws the rows of one shard, batch by batch, and collects what the shard adds to the stage."""

    def __init__(self, parameters: DrawParameters) -> None:
        """Start without rows."""
        self._parameters, self._sums, self._rows = parameters, DrawSums(len(parameters.probability)), 0
        self._uids: list[Uids] = [np.zeros((0, 2), np.uint64)]
        self._repeats: list[npt.NDArray[np.uint64]] = [np.zeros((0, 3), np.uint64)]
        self._by_language = LanguageSums(parameters.languages) if parameters.languages else None

    def draw(
        self, uids: Uids, values: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Draw a batch of rows, given as `metaclip.curate.draw.draw_rows` takes them: (P(keep) float64[n], kept bool[n])."""
        by = self._parameters
        probability, keep = draw_rows(values, offsets, by.probability, uids, by.key, self._sums)
        repeated = np.flatnonzero(by.duplicates.contains(uids))
        if len(repeated):
            # Rows of one uid share one u, so their variance is not a sum over rows: `_repeats_variance` adds it.
            p = probability[repeated]
            self._sums.totals[1] -= (p * (1.0 - p) * FIXED_POINT).astype(np.uint64).sum()
            self._repeats.append(np.concatenate([uids[repeated], p.view(np.uint64)[:, None]], axis=1))
        if self._by_language is not None:
            self._by_language.add(values, offsets, probability, keep)
        self._uids.append(uids[keep])
        self._rows += len(uids)
        return probability, keep

    def write(self, stage: Stage, name: str) -> dict[str, Any]:
        """Write the shard's sums by entry and its sorted uids; return what its marker says of the draw."""
        sums = self._sums
        entry = np.flatnonzero(sums.expected)
        write_rows(
            stage.path / f"{name}.tally.npy",
            np.stack([entry, sums.expected[entry], sums.kept[entry]], axis=1),
        )
        write_run(stage.path / f"{name}.uids.npy", np.concatenate(self._uids))
        if len(self._repeats) > 1:
            write_run(stage.path / f"{name}.repeats.npy", np.concatenate(self._repeats))
        expected, variance, kept = map(int, sums.totals)
        funnel = {"matched": self._rows, "not_drawn": self._rows - kept, "kept": kept}
        marker = {"funnel": funnel, "expected": expected, "variance": variance}
        return (
            marker
            if self._by_language is None
            else {**marker, "languages": self._by_language.by_language()}
        )


def shard_entry_sums(shard: str, *, stage: Stage, n_entries: int) -> npt.NDArray[np.uint64]:
    """Read what a drawn shard left by entry: uint64[3, n_entries], expected in whole pairs, its fraction, kept.

    Whole pairs and fractions (in units of 1 / FIXED_POINT) are separate: 88 G pairs in units of 2**-32 do not fit 64 bits.
    """
    with local_copy(stage.partial(shard, "tally.npy")) as path:
        entry, expected, kept = load_array(path, 3).T
        if len(entry) and int(entry.max()) >= n_entries:
            raise damaged(path, "it names entries beyond the end of the list")
    sums = np.zeros((3, n_entries), np.uint64)
    sums[:, entry.astype(np.int64)] = (
        expected >> np.uint64(32),
        expected & np.uint64(FIXED_POINT - 1),
        kept,
    )
    return sums


def balance_shard(
    shard: Shard, columns: Columns, rows_expected: int, parameters: DrawParameters, matched: Folder, stage: Stage,
    progress: ProgressCallback,
) -> dict[str, Any]:  # fmt: skip
    """Draw a shard and write its files: curated pairs, sums by entry, sorted uids. Return its marker.

    Raise BrokenInput if the pool's file cannot be read, or has other rows than when it was matched.
    """
    shard_draw = ShardDraw(parameters)

    def drawn_batches() -> Iterator[_DrawnBatch]:
        for rows, uids, matches in read_matched(matched / "matched" / f"{shard.name}.parquet"):
            probability, keep = shard_draw.draw(uids, *ids_and_offsets(matches))
            kept = np.flatnonzero(keep)
            progress(0, len(kept))
            yield _DrawnBatch(rows, kept, uids, matches, probability)

    path = stage.folder / "curated" / f"{shard.name}.parquet"
    _write_curated(path, shard, columns, rows_expected, drawn_batches(), progress)
    return {"shard": shard.identity, **shard_draw.write(stage, shard.name)}


@dataclasses.dataclass(frozen=True)
class _DrawnBatch:
    """A batch of matched rows; `kept` are the indices of those that the draw keeps."""

    rows: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    uids: Uids
    matches: pa.Array
    probability: npt.NDArray[np.float64]

    def kept_between(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Return the indices of the kept rows that lie in [begin, end) of the pool's file."""
        rows = self.rows[self.kept]
        return self.kept[np.searchsorted(rows, begin) : np.searchsorted(rows, end)]


def _write_curated(
    path: Path, shard: Shard, columns: Columns, rows_expected: int, drawn: Iterator[_DrawnBatch],
    progress: ProgressCallback,
) -> None:  # fmt: skip
    """Read the pool's rows and the drawn rows side by side, both ascending; write the kept ones."""
    waiting: collections.deque[_DrawnBatch] = collections.deque()
    begin = shard.first
    with curated_writer(path) as add:
        for batch in read_batches(shard, None, DroppedRows()):
            end = begin + len(batch)
            while (not waiting or waiting[-1].rows[-1] < end - 1) and (
                more := next(drawn, None)
            ) is not None:
                waiting.append(more)
            tables = []
            for part in waiting:
                if len(kept := part.kept_between(begin, end)):
                    tables.append(
                        _curated_table(batch.take(pa.array(part.rows[kept] - begin)), columns, part, kept)
                    )
            if tables:
                add(pa.concat_tables(tables))
            while waiting and waiting[0].rows[-1] < end:
                waiting.popleft()
            progress(len(batch), 0)
            begin = end
        waiting.extend(drawn)  # to the end, so that its file is closed
        if begin - shard.first != rows_expected:
            raise BrokenInput(
                f"{shard} has {begin - shard.first} rows, had {rows_expected} when it was matched; "
                "match again with `RunOptions(overwrite=True)`"
            )
        if waiting:
            raise MetaclipError(
                f"{shard} has fewer rows than its matches name; match again with `RunOptions(overwrite=True)`"
            )


def _curated_table(
    batch: pa.RecordBatch, columns: Columns, drawn: _DrawnBatch, kept: npt.NDArray[np.int64]
) -> pa.Table:
    """Put our columns beside the pool's: `batch` has the rows that stand at the indices `kept` of the drawn batch.

    Readers of parquet fail at strings that are not valid UTF-8, which csv and others can hold.
    """
    # A column UID would stand beside ours as a second one: names are found without regard to case.
    names = [
        name
        for name in batch.schema.names
        if name not in ("matches", "keep_probability") and name.lower() != "uid"
    ]
    uids = drawn.uids[kept]
    given = columns.uid is not None and columns.uid.lower() == "uid"
    uid = valid_strings(to_strings(batch.column(columns.uid), uids)) if given else to_hex(uids)
    own = [
        pa.field("uid", pa.string()),
        pa.field("matches", MATCHES),
        pa.field("keep_probability", pa.float64()),
    ]
    return pa.Table.from_arrays(
        [
            *(valid_strings(batch.column(name)) for name in names),
            uid,
            drawn.matches.take(pa.array(kept)),
            pa.array(drawn.probability[kept]),
        ],
        schema=pa.schema([*map(batch.schema.field, names), *own]),
    )
