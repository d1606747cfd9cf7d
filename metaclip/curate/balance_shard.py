"""The step of stage balance: one shard of a pool, with its matches, to its curated pairs.

    curated/<shard>.parquet               the input's columns, uid, matches, keep_probability of each kept row
    .state/balance/<shard>.tally.npy      uint64[k, 3]: entry ids with expected and kept pairs, until the stage is complete
    .state/balance/<shard>.uids.npy       uids of the kept rows, sorted, likewise
    .state/balance/<shard>.repeats.npy    uid and P(keep) of rows whose uid stands on several matched rows, likewise

The law of the draw is in `metaclip.curate.draw`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metaclip.curate.curated_files import Kept, write_curated
from metaclip.curate.draw import FIXED_POINT, Tally, draw_rows, expect_rows, probabilities, stream_key
from metaclip.curate.inputs import check_unchanged, columns_of
from metaclip.curate.matched_files import read_matched
from metaclip.curate.settings import MatchSettings
from metaclip.engine.contract import PortableStep, ProgressCallback
from metaclip.matching.match_arrays import ids_and_offsets
from metaclip.pool.columns import Columns
from metaclip.pool.shards import Shard
from metaclip.pool.sorted_uids import UidSet, load_array, write_rows, write_run
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage
from metaclip.storage.files import local_copy


@dataclasses.dataclass(frozen=True)
class DrawStep(PortableStep):
    """The step of stage balance: draws a shard, given with the number of rows that it had when it was matched."""

    stage: Stage
    matched: Folder
    settings: MatchSettings
    counts: npt.NDArray[np.uint64]
    t: float
    seed: int

    @functools.cached_property
    def draw(self) -> Draw:
        """What shards are drawn by."""
        with local_copy(self.matched / "duplicates.npy") as path:
            duplicates = load_array(path)
        return Draw.of(self.counts, self.t, self.seed, duplicates)

    def __call__(self, item: tuple[Shard, int], progress: ProgressCallback) -> tuple[dict[str, Any], Sequence[Path]]:
        """Run the step. Raise BrokenInput if the pool's file cannot be read, or has other rows than when it was matched."""
        shard, rows = item
        columns = columns_of(shard.file, self.settings)
        marker = balance_shard(shard, columns, rows, self.draw, self.matched, self.stage, progress)
        check_unchanged(shard.file)
        return marker, [self.stage.folder / "curated" / f"{shard.name}.parquet", *self.stage.partials(shard.name)]


@dataclasses.dataclass(frozen=True)
class ExpectStep(PortableStep):
    """Sums P(keep) over the rows of a matched shard under each of k thresholds: Python integers, object[k]."""

    matched: Folder
    counts: npt.NDArray[np.uint64]
    thresholds: npt.NDArray[np.float64]

    def __call__(self, shard: str) -> npt.NDArray[np.object_]:
        """Sum a shard, in units of 1 / FIXED_POINT."""
        # Arrays in shared memory cannot be written to, and the kernel is compiled for arrays that can.
        counts = np.require(self.counts, requirements="W")
        thresholds = np.require(self.thresholds, requirements="W")
        sums = np.zeros(len(thresholds), np.uint64)
        for _, _, matches in read_matched(self.matched / "matched" / f"{shard}.parquet"):
            expect_rows(*ids_and_offsets(matches), counts, thresholds, sums)
        return sums.astype(np.object_)  # the sums of all shards do not fit 64 bits


@dataclasses.dataclass(frozen=True)
class Draw:
    """What a shard is drawn by; bound once, shared by all shards."""

    probability: npt.NDArray[np.float64]
    key: int
    duplicates: UidSet

    @classmethod
    def of(cls, counts: npt.NDArray[np.uint64], t: float, seed: int, duplicates: npt.NDArray[Any]) -> Draw:
        """Bind counts, t, seed (epoch 0) and the uids that stand on several rows (DataComp's subset format)."""
        uids = np.ascontiguousarray(duplicates).view(np.uint64).reshape(-1, 2)
        return cls(probabilities(counts, t), stream_key(seed, 0), UidSet(uids))


class ShardDraw:
    """Draws a shard's rows, and keeps what `merge` adds up."""

    def __init__(self, draw: Draw) -> None:
        """Begin with no rows."""
        self._draw, self._tally, self._rows = draw, Tally(len(draw.probability)), 0
        self._uids: list[npt.NDArray[np.uint64]] = [np.zeros((0, 2), np.uint64)]
        self._repeats: list[npt.NDArray[np.uint64]] = [np.zeros((0, 3), np.uint64)]

    def rows(
        self, uids: npt.NDArray[np.uint64], values: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Draw rows of matches, as `metaclip.curate.draw.draw_rows` takes them: (P(keep) float64[n], kept bool[n])."""
        probability, keep = draw_rows(values, offsets, self._draw.probability, uids, self._draw.key, self._tally)
        twice = np.flatnonzero(self._draw.duplicates.contains(uids))
        if len(twice):
            p = probability[twice]
            self._tally.sums[1] -= (p * (1.0 - p) * FIXED_POINT).astype(np.uint64).sum()
            self._repeats.append(np.concatenate([uids[twice], p.view(np.uint64)[:, None]], axis=1))
        self._uids.append(uids[keep])
        self._rows += len(uids)
        return probability, keep

    def write(self, stage: Stage, name: str) -> dict[str, Any]:
        """Write the shard's sums by entry and its sorted uids; return what its marker says of the draw."""
        tally = self._tally
        entry = np.flatnonzero(tally.expected)
        write_rows(
            stage.path / f"{name}.tally.npy", np.stack([entry, tally.expected[entry], tally.kept[entry]], axis=1)
        )
        write_run(stage.path / f"{name}.uids.npy", np.concatenate(self._uids))
        if len(self._repeats) > 1:
            write_run(stage.path / f"{name}.repeats.npy", np.concatenate(self._repeats))
        expected, variance, kept = map(int, tally.sums)
        funnel = {"matched": self._rows, "not_drawn": self._rows - kept, "kept": kept}
        return {"funnel": funnel, "expected": expected, "variance": variance}


def balance_shard(
    shard: Shard, columns: Columns, rows_expected: int, draw: Draw, matched: Folder, stage: Stage,
    progress: ProgressCallback,
) -> dict[str, Any]:  # fmt: skip
    """Draw a shard and write its files: curated pairs, sums by entry, sorted uids. Give its marker.

    Raise BrokenInput if the pool's file cannot be read, or has other rows than when it was matched.
    """
    drawing = ShardDraw(draw)

    def drawn() -> Iterator[Kept]:
        for rows, uids, matches in read_matched(matched / "matched" / f"{shard.name}.parquet"):
            probability, keep = drawing.rows(uids, *ids_and_offsets(matches))
            kept = np.flatnonzero(keep)
            progress(0, len(kept))
            yield Kept(rows, int(rows[-1]), kept, uids, matches, probability)

    path = stage.folder / "curated" / f"{shard.name}.parquet"
    write_curated(path, shard, columns, rows_expected, drawn(), progress)
    return {"shard": shard.identity, **drawing.write(stage, shard.name)}


def shard_tally(shard: str, *, stage: Stage, n_entries: int) -> npt.NDArray[np.uint64]:
    """Read what a drawn shard left by entry: uint64[3, n_entries], expected in whole pairs, its fraction, kept.

    Whole pairs and fractions (in units of 1 / FIXED_POINT) apart: 88 G pairs in units of 2**-32 do not fit 64 bits.
    """
    with local_copy(stage.path / f"{shard}.tally.npy") as path:
        entry, expected, kept = load_array(path).T
    tally = np.zeros((3, n_entries), np.uint64)
    tally[:, entry.astype(np.int64)] = expected >> np.uint64(32), expected & np.uint64(FIXED_POINT - 1), kept
    return tally
