"""Balance: the second stage of a run. Matches and counts in; curated pairs out, drawn by each entry's probability.

    entries.parquet      entry_id, entry, source, count, probability, expected, kept
    curated/*.parquet    the input's columns, uid, matches, keep_probability
    curated.npy          the uids of the curated pairs, sorted, in DataComp's subset format

The law stands in `metaclip.curation.draw`. t is given, or solved for a share of the tail or for a number of pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.curation import pool as pools
from metaclip.curation.count import Counts
from metaclip.curation.curated import Kept, write_curated
from metaclip.curation.draw import FIXED_POINT, Tally, draw_rows, expect_rows, probabilities, stream_key
from metaclip.curation.match import COMPRESSION, Advance
from metaclip.curation.pool import Columns, Shard
from metaclip.curation.sorting import UidSet, merge_runs, write_rows, write_run, write_subset
from metaclip.curation.uid import from_binary
from metaclip.metadata.entries import Metadata
from metaclip.shard.files import all_here, here, replacing
from metaclip.shard.folder import Folder
from metaclip.shard.stage import Stage

SEMANTICS: Final = 1
"""Raised when the same counts and seed would give other pairs."""
STAGE: Final = "balance"
OUTPUTS: Final = ("entries.parquet", "curated", "curated.npy", "card.json", "card.md")
PARTIALS: Final = ("*.tally.npy", "*.uids.npy", "*.repeats.npy")


def read_matched(path: Path) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], pa.Array]]:
    """Read a file of matched/: batches of (row int64, uid uint64[n, 2], matches)."""
    with here(path) as local, pq.ParquetFile(local) as file:
        for batch in file.iter_batches(pools.BATCH_ROWS, columns=["row", "uid", "matches"], use_threads=False):
            rows = batch.column("row").to_numpy().astype(np.int64)
            yield rows, from_binary(batch.column("uid")), batch.column("matches")


def _ids(matches: pa.Array) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    offsets = np.asarray(matches.offsets).astype(np.int64)
    return np.ascontiguousarray(matches.values.to_numpy()), offsets


def expect_shard(
    name: str, matched: Folder, counts: npt.NDArray[np.uint64], thresholds: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint64]:
    """Sum P(keep) of a shard's rows under each t: uint64, in units of 1 / FIXED_POINT."""
    sums = np.zeros(len(thresholds), np.uint64)
    for _, _, matches in read_matched(matched / "matched" / f"{name}.parquet"):
        expect_rows(*_ids(matches), counts, thresholds, sums)
    return sums


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
        """Draw rows of matches, as `metaclip.curation.draw.draw_rows` takes them: (P(keep) float64[n], kept bool[n])."""
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
        """Write the shard's sums by entry and its sorted uids; give what its marker says of the draw."""
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
    shard: Shard, columns: Columns, rows_expected: int, draw: Draw, matched: Folder, folder: Folder, advance: Advance
) -> dict[str, Any]:
    """Draw a shard and write its files: curated pairs, sums by entry, sorted uids. Give its marker.

    Raise BrokenInput if the pool's file cannot be read, or has other rows than when it was matched.
    """
    drawing = ShardDraw(draw)

    def drawn() -> Iterator[Kept]:
        for rows, uids, matches in read_matched(matched / "matched" / f"{shard.name}.parquet"):
            probability, keep = drawing.rows(uids, *_ids(matches))
            kept = np.flatnonzero(keep)
            advance(0, len(kept))
            yield Kept(rows, int(rows[-1]), kept, uids, matches, probability)

    path = folder / "curated" / f"{shard.name}.parquet"
    write_curated(path, shard, columns, rows_expected, drawn(), advance)
    return {"shard": shard.identity, **drawing.write(folder.stage(STAGE), shard.name)}


@dataclasses.dataclass(frozen=True)
class Balanced:
    """What the stage adds up to."""

    entry_expected: npt.NDArray[np.float64]
    entry_kept: npt.NDArray[np.uint64]
    expected: float
    deviation: float
    kept: int


def shard_tally(folder: Folder, shard: str, n_entries: int) -> npt.NDArray[np.uint64]:
    """Read what a drawn shard left by entry: uint64[3, n_entries], expected in whole pairs, its fraction, kept.

    Whole pairs and fractions (in units of 1 / FIXED_POINT) apart: 88 G pairs in units of 2**-32 do not fit 64 bits.
    """
    with here(folder.stage(STAGE).path / f"{shard}.tally.npy") as path:
        entry, expected, kept = np.load(path).T
    tally = np.zeros((3, n_entries), np.uint64)
    tally[:, entry.astype(np.int64)] = expected >> np.uint64(32), expected & np.uint64(FIXED_POINT - 1), kept
    return tally


def merge(
    folder: Folder, metadata: Metadata, counts: Counts, t: float, tally: npt.NDArray[np.uint64],
    markers: Mapping[str, Mapping[str, Any]], threads: int = 1,
) -> Balanced:  # fmt: skip
    """Write entries.parquet of the summed `shard_tally`, and curated.npy of what finished shards left."""
    stage, names = folder.stage(STAGE), list(markers)
    whole, fraction, kept = tally
    expected, variance = (sum(marker[key] for marker in markers.values()) for key in ("expected", "variance"))
    total = sum(marker["funnel"]["kept"] for marker in markers.values())
    there = set(stage.path.glob("*.repeats.npy"))
    with all_here([path for name in names if (path := stage.path / f"{name}.repeats.npy") in there]) as runs:
        variance += sum(_repeats_variance(block) for block in merge_runs(runs))
    with all_here([stage.path / f"{name}.uids.npy" for name in names]) as runs:
        write_subset(folder / "curated.npy", merge_runs(runs, threads=threads), total)
    result = Balanced(
        whole.astype(np.float64) + fraction.astype(np.float64) / FIXED_POINT,
        kept, expected / FIXED_POINT, math.sqrt(variance / FIXED_POINT), total,
    )  # fmt: skip
    write_entries(folder / "entries.parquet", metadata, counts, t, result)
    return result


def _repeats_variance(block: npt.NDArray[np.uint64]) -> int:
    """Sum the variance of the number kept over uids that stand on several rows (in units of 1 / FIXED_POINT).

    Rows of one uid share one u, so row i is kept whenever a row of smaller P is: the variance is the sum over all i, j
    of min(P_i, P_j) - P_i P_j, which is m^2 P (1 - P) where all m are equal.
    """
    new = np.flatnonzero(np.concatenate([[True], (block[1:, :2] != block[:-1, :2]).any(axis=1)]))
    sizes = np.diff(new, append=len(block))
    total = 0
    for m in np.unique(sizes).tolist():  # few: all uids that stand on m rows at once
        rows = new[sizes == m][:, None] + np.arange(m)
        p = block[rows, 2].view(np.float64)  # ascending: positive floats sort as their bits do
        q = 1.0 - p
        # In terms of P_i (1 - P_j) for i <= j, because no rounding makes such a sum negative.
        rest = np.cumsum(q[:, ::-1], axis=1)[:, ::-1]
        total += sum(map(int, ((p * (2.0 * rest - q)).sum(axis=1) * FIXED_POINT).tolist()))
    return total


def write_entries(path: Path, metadata: Metadata, counts: Counts, t: float, balanced: Balanced) -> None:
    """Write entries.parquet: entry_id, entry, source, count, probability, expected, kept."""
    table = pa.table(
        {
            "entry_id": pa.array(np.arange(len(metadata), dtype=np.uint32)),
            "entry": metadata.entries,
            "source": metadata.source,
            "count": pa.array(counts.values),
            "probability": pa.array(probabilities(counts.values, t)),
            "expected": pa.array(balanced.entry_expected),
            "kept": pa.array(balanced.entry_kept),
        }
    )
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression=COMPRESSION, use_dictionary=["source"])
