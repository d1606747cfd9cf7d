"""Balance: the second stage of a run. Matches and counts in; curated pairs out, drawn by each entry's probability.

    entries.parquet      entry_id, entry, source, count, probability, expected, kept
    curated/*.parquet    the input's columns, uid, matches, keep_probability
    curated.npy          the uids of the curated pairs, sorted, in DataComp's subset format

The law stands in `metaclip.curation.draw`. t is given, or solved for a share of the tail or for a number of pairs.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.curation import pool as pools
from metaclip.curation.count import Counts
from metaclip.curation.draw import FIXED_POINT, Tally, draw_rows, expect_rows, probabilities, stream_key
from metaclip.curation.match import COMPRESSION, Advance
from metaclip.curation.matcher import MATCHES
from metaclip.curation.pool import BrokenInput, Columns, Losses, Shard
from metaclip.curation.sorting import UidSet, merge_runs, write_rows, write_run, write_subset
from metaclip.curation.uid import as_written, from_binary, to_hex
from metaclip.errors import MetaclipError
from metaclip.metadata.entries import Metadata
from metaclip.shard.files import replacing
from metaclip.shard.folder import Folder

SEMANTICS: Final = 1
"""Raised when the same counts and seed would give other pairs."""
STAGE: Final = "balance"
OUTPUTS: Final = ("entries.parquet", "curated", "curated.npy", "card.json", "card.md")
PARTIALS: Final = ("*.tally.npy", "*.uids.npy", "*.repeats.npy")
DEFAULT_TAIL_SHARE: Final = 0.06
_WRITE_ROWS: Final = 1 << 17
_THRESHOLDS: Final = 64
_PASSES: Final = 3


@dataclasses.dataclass(frozen=True)
class BalanceSettings:
    """What determines the draw: the table [balance] of a recipe; at most one of t, tail_share, target_pairs."""

    t: float | None = None
    """The threshold: an entry with a larger count is thinned."""
    tail_share: float | None = None
    """Solve t so that the entries below it hold this share of all counts (0.06 if nothing is given)."""
    target_pairs: int | None = None
    """Solve t so that this many pairs are expected."""
    seed: int = 0

    def __post_init__(self) -> None:
        asked = {"t": self.t, "tail_share": self.tail_share, "target_pairs": self.target_pairs}
        given = [f"{name} = {value}" for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, must be one of them")
        if self.t is not None and not (self.t > 0 and math.isfinite(self.t)):
            raise ValueError(f"t is {self.t:g}, must be a finite number above 0")
        if self.tail_share is not None and not 0 <= self.tail_share < 1:
            raise ValueError(f"tail_share is {self.tail_share:g}, must be at least 0 and below 1")
        if self.target_pairs is not None and self.target_pairs < 1:
            raise ValueError(f"target_pairs is {self.target_pairs}, must be at least 1")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed is {self.seed}, must be at least 0 and below 2**64")


def tail_share(counts: npt.NDArray[np.uint64], t: float) -> float:
    """Give the share of all counts that entries with a count below t hold."""
    total = int(counts.sum())
    return int(counts[counts < t].sum()) / total if total else 0.0


def solve_tail_share(counts: npt.NDArray[np.uint64], share: float) -> float:
    """Give the largest value among the counts whose tail share is at most `share`."""
    values, times = np.unique(counts[counts > 0], return_counts=True)
    sums = values * times.astype(np.uint64)
    below = np.cumsum(sums) - sums
    total = int(sums.sum())
    # Shares ascend, and that of the smallest count is 0.
    shares = zip(values.tolist(), below.tolist(), strict=True)
    return float(max(value for value, under in shares if under / total <= share))


def solve_target(
    counts: npt.NDArray[np.uint64], target: int, matched: int, expect: Callable[[npt.NDArray[np.float64]], list[float]]
) -> float:
    """Give a t under which about `target` of the `matched` pairs are expected.

    `expect` makes one pass over the matches: the expected number for each of many t. Three passes narrow t to one part
    in 10,000 or better; the grid's t that comes nearest is taken.
    """
    highest = float(counts.max())
    if target >= matched:
        return highest
    # Each entry adds at most t to what is expected.
    low, high = min(target / np.count_nonzero(counts), highest), highest
    best, distance = high, math.inf
    for _ in range(_PASSES):
        grid = np.geomspace(low, high, _THRESHOLDS)
        expected = expect(grid)
        for t, number in zip(grid.tolist(), expected, strict=True):
            if abs(number - target) < distance:
                best, distance = t, abs(number - target)
        place = min(max(1, int(np.searchsorted(expected, target))), _THRESHOLDS - 1)
        low, high = float(grid[place - 1]), float(grid[place])
    return best


def read_matched(path: Path) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], pa.Array]]:
    """Read a file of matched/: batches of (row int64, uid uint64[n, 2], matches)."""
    with pq.ParquetFile(path) as file:
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


def balance_shard(
    shard: Shard, columns: Columns, rows_expected: int, draw: Draw, matched: Folder, folder: Folder, advance: Advance
) -> dict[str, Any]:
    """Draw a shard and write its files: curated pairs, sums by entry, sorted uids. Give its marker.

    Raise BrokenInput if the pool's file cannot be read, or has other rows than when it was matched.
    """
    stage = folder.stage(STAGE)
    tally = Tally(len(draw.probability))
    uids: list[npt.NDArray[np.uint64]] = [np.zeros((0, 2), np.uint64)]
    repeats: list[npt.NDArray[np.uint64]] = [np.zeros((0, 3), np.uint64)]
    n_matched = 0

    def drawn() -> Iterator[_Kept]:
        nonlocal n_matched
        for rows, row_uids, matches in read_matched(matched / "matched" / f"{shard.name}.parquet"):
            n_matched += len(rows)
            values, offsets = _ids(matches)
            probability, keep = draw_rows(values, offsets, draw.probability, row_uids, draw.key, tally)
            twice = np.flatnonzero(draw.duplicates.contains(row_uids))
            if len(twice):
                p = probability[twice]
                tally.sums[1] -= (p * (1.0 - p) * FIXED_POINT).astype(np.uint64).sum()
                repeats.append(np.concatenate([row_uids[twice], p.view(np.uint64)[:, None]], axis=1))
            kept = np.flatnonzero(keep)
            uids.append(row_uids[kept])
            advance(0, len(kept))
            yield _Kept(rows, int(rows[-1]), kept, row_uids, matches, probability)

    path = folder / "curated" / f"{shard.name}.parquet"
    _write_curated(path, shard, columns, rows_expected, drawn(), advance)
    entry = np.flatnonzero(tally.expected)
    write_rows(
        stage.path / f"{shard.name}.tally.npy", np.stack([entry, tally.expected[entry], tally.kept[entry]], axis=1)
    )
    write_run(stage.path / f"{shard.name}.uids.npy", np.concatenate(uids))
    if len(repeats) > 1:
        write_run(stage.path / f"{shard.name}.repeats.npy", np.concatenate(repeats))
    expected, variance, kept = map(int, tally.sums)
    return {
        "shard": shard.identity,
        "funnel": {"matched": n_matched, "not_drawn": n_matched - kept, "kept": kept},
        "expected": expected,
        "variance": variance,
    }


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A drawn batch of matched rows; `kept` are places in it."""

    rows: npt.NDArray[np.int64]
    last: int
    kept: npt.NDArray[np.int64]
    uids: npt.NDArray[np.uint64]
    matches: pa.Array
    probability: npt.NDArray[np.float64]

    def between(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Give the kept places whose rows lie in [begin, end)."""
        rows = self.rows[self.kept]
        return self.kept[np.searchsorted(rows, begin) : np.searchsorted(rows, end)]


def _write_curated(
    path: Path, shard: Shard, columns: Columns, rows_expected: int, drawn: Iterator[_Kept], advance: Advance
) -> None:
    """Go through the pool's rows and the drawn rows side by side, both ascending; write the kept ones."""
    waiting: collections.deque[_Kept] = collections.deque()
    begin = shard.first
    out: list[pa.Table] = []
    with CuratedWriter(path) as writer:
        for batch in pools.read(shard, None, Losses()):
            end = begin + len(batch)
            while (not waiting or waiting[-1].last < end - 1) and (more := next(drawn, None)) is not None:
                waiting.append(more)
            for part in waiting:
                places = part.between(begin, end)
                if len(places):
                    taken = batch.take(pa.array(part.rows[places] - begin))
                    out.append(_curated(taken, columns, part, places))
            while waiting and waiting[0].last < end:
                waiting.popleft()
            writer.write(out)
            out = []
            advance(len(batch), 0)
            begin = end
    collections.deque(drawn, 0)
    if begin - shard.first != rows_expected:
        path.unlink(missing_ok=True)
        raise BrokenInput(
            f"{shard} has {begin - shard.first} rows, had {rows_expected} when it was matched; "
            "match again with --overwrite"
        )


def _curated(batch: pa.RecordBatch, columns: Columns, part: _Kept, places: npt.NDArray[np.int64]) -> pa.Table:
    """Put a batch of kept rows in the form of curated/."""
    # A column UID would stand beside ours as a second one: names are found without regard to case.
    own = ("matches", "keep_probability")
    carried = [name for name in batch.schema.names if name not in own and name.lower() != "uid"]
    given = columns.uid is not None and columns.uid.lower() == "uid"
    uids = part.uids[places]
    uid = as_written(batch.column(columns.uid), uids) if given else to_hex(uids)
    fields = [batch.schema.field(name) for name in carried]
    fields += [pa.field("uid", pa.string()), pa.field("matches", MATCHES), pa.field("keep_probability", pa.float64())]
    index = pa.array(places)
    arrays = [
        *(batch.column(name) for name in carried),
        uid,
        part.matches.take(index),
        pa.array(part.probability[places]),
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


class CuratedWriter:
    """Writes curated pairs to a parquet file that is whole or not there; no file where there is no pair."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self._path = path
        self._open = contextlib.ExitStack()
        self._writer: Any = None
        self._tables: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> CuratedWriter:
        """Begin; the file is opened with the first pair."""
        return self

    def write(self, tables: Sequence[pa.Table]) -> None:
        """Add pairs."""
        self._tables += tables
        self._rows += sum(len(table) for table in tables)
        if self._rows >= _WRITE_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._tables:
            return
        table = pa.concat_tables(self._tables)
        if self._writer is None:
            temporary = self._open.enter_context(replacing(self._path))
            writer = pq.ParquetWriter(
                temporary, table.schema, compression=COMPRESSION, write_statistics=False,
                use_dictionary=["matches.list.element"],
            )  # fmt: skip
            self._writer = self._open.enter_context(writer)
        self._writer.write_table(table, row_group_size=len(table))
        self._tables, self._rows = [], 0

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Close the file and put it in place, or remove it."""
        with self._open:
            if error is not None:
                raise error
            self._flush()
        if self._writer is None:
            self._path.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Balanced:
    """What the stage adds up to."""

    entry_expected: npt.NDArray[np.float64]
    entry_kept: npt.NDArray[np.uint64]
    expected: float
    deviation: float
    kept: int


def merge(
    folder: Folder, metadata: Metadata, counts: Counts, t: float, shards: Iterable[tuple[str, dict[str, Any]]]
) -> Balanced:
    """Add up what finished shards left, and write entries.parquet and curated.npy."""
    stage = folder.stage(STAGE)
    # Whole pairs and fractions apart: 88 G pairs in units of 2**-32 do not fit 64 bits.
    whole, fraction, kept = (np.zeros(len(metadata), np.uint64) for _ in range(3))
    expected = variance = total = 0
    names = []
    for name, marker in shards:
        names.append(name)
        tally = np.load(stage.path / f"{name}.tally.npy")
        entry = tally[:, 0].astype(np.int64)
        whole[entry] += tally[:, 1] >> np.uint64(32)
        fraction[entry] += tally[:, 1] & np.uint64(FIXED_POINT - 1)
        kept[entry] += tally[:, 2]
        expected += marker["expected"]
        variance += marker["variance"]
        total += marker["funnel"]["kept"]
    runs = [path for name in names if (path := stage.path / f"{name}.repeats.npy").exists()]
    variance += sum(_repeats_variance(block) for block in merge_runs(runs))
    write_subset(folder / "curated.npy", merge_runs([stage.path / f"{name}.uids.npy" for name in names]), total)
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


def resolve(
    settings: BalanceSettings, counts: npt.NDArray[np.uint64], matched: int, expect: Callable[[Any], list[float]]
) -> float:
    """Give the t that settings ask for. Raise MetaclipError where no text matched."""
    if not counts.any():
        raise MetaclipError(
            "no text matched any entry, so there is nothing to balance; check the list and the text column"
        )
    if settings.t is not None:
        return float(settings.t)
    if settings.target_pairs is not None:
        return solve_target(counts, settings.target_pairs, matched, expect)
    return solve_tail_share(counts, DEFAULT_TAIL_SHARE if settings.tail_share is None else settings.tail_share)
