"""Reshard: the samples of a subset, taken out of the tars they came in and written to new ones, as DataComp does it.

    00000000.tar ...           shards of 10,000 samples; the last has the rest
    00000000_stats.json ...    {"successes": number of its samples}
    sizes.json                 {"00000000.tar": number of its samples}
    meta.json                  what went in and what came out
    missing.npy                uids of the subset that no sample has, a subset too

Law: a uid that stands m times in the subset is used m times, its samples named ``{uid}-0`` to ``{uid}-{m - 1}``, with
the uid as 32 hex digits; where s samples have it, each is used m // s times and the first m % s of them once more. The
samples come in the tars' order, and in a tar's order within it. So the result does not depend on who works.

Members' bytes are copied, not decoded; their headers are made anew (`tar_format.header`), so no name that comes in goes
out: the suffix alone does, where it has nothing but letters, digits, dots, hyphens and underscores.

Two steps, both pure functions of files: `pick` looks up a tar's samples, `write_shard` writes a new tar.
Cost: 40 us of processor a sample of 26 kB, half of it to look its tar through and half to write it, where `cp` takes 10
(tests/bench/bench_reshard.py): the bytes are read twice, since where a sample goes depends on the tars before it. It runs on
threads, with no compiler and no process to begin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.pool.files import PoolFile, open_tar, translate_read_errors
from metaclip.pool.sorted_uids import load_array, merge_runs, write_rows, write_run, write_subset
from metaclip.pool.tar_format import BLOCK, END, ForwardReader
from metaclip.pool.uid import Uids
from metaclip.reshard.index import FLAWS, Names, make_index
from metaclip.reshard.rename import PLAIN_NOT, Jobs, Samples, copies
from metaclip.reshard.subset import Subset
from metaclip.storage.files import atomic_write, write_json

SEMANTICS: Final = 1
"""Raised when the same input would give other shards."""
SHARD_SIZE: Final = 10_000

PICK_REASONS: Final = ("malformed_json", "not_in_subset")
"""Why a sample is not used; the rest are `picked`."""

_PLACE_BITS: Final = 40  # of a sample's number, in a place
_BLOCK: Final = 1 << 20


@dataclasses.dataclass(frozen=True)
class ReshardSettings:
    """What determines the shards, besides tars and subset."""

    shard_size: int = SHARD_SIZE
    """Samples a shard."""
    text_column: str | None = None
    url_column: str | None = None
    uid_column: str | None = None

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"shard_size is {self.shard_size}, must be at least 1")

    @property
    def names(self) -> Names:
        """How columns are called."""
        return Names(self.text_column, self.url_column, self.uid_column)


@dataclasses.dataclass(frozen=True)
class Picked(Samples):
    """The samples of a tar that are in the subset, in the tar's order."""

    places: npt.NDArray[np.uint64]
    """Tar and number in it, as one number."""
    ranks: npt.NDArray[np.int64]
    """Where the uid of each stands in the subset."""
    counts: npt.NDArray[np.int64]
    """How often it stands there."""

    @classmethod
    def read(cls, path: Path) -> Picked:
        """Read what `pick` left."""
        rows = load_array(path)
        ranks, counts = rows[:, 5].astype(np.int64), rows[:, 6].astype(np.int64)
        return cls(rows[:, :2], rows[:, 2:4], rows[:, 7], rows[:, 8:].reshape(-1, 3, 2), rows[:, 4], ranks, counts)


def pick(file: PoolFile, number: int, subset: Subset, names: Names, to: Sequence[Path]) -> dict[str, Any]:
    """Look up the samples of a tar with this number; write them in its order, and sorted by uid, to two files.

    Give {funnel, has_uid, uses: how often its samples would be used if no other had their uids}. Raise BrokenInput for
    a tar that cannot be read.
    """
    index = make_index(file, names)
    fine = index.flaw != FLAWS.index("malformed_json")
    ranks = subset.place(index.uids)
    counts = np.where(fine, subset.place(index.uids, after=True) - ranks, 0)
    found = np.flatnonzero(counts)
    places = (np.uint64(number) << np.uint64(_PLACE_BITS)) + found.astype(np.uint64)
    uids = index.uids[found]
    parts = np.stack([index.image, index.txt, index.json], axis=1)[found]
    whole = np.where(parts[:, :, 0] > 0, BLOCK + -(-parts[:, :, 1].astype(np.int64) // BLOCK) * BLOCK, 0).sum(axis=1)
    plain = whole == (index.end - index.begin)[found].astype(np.int64)
    kind = np.where(plain, index.kind[found], PLAIN_NOT).astype(np.uint64)
    spans = (index.begin[found], index.end[found])
    stands = np.column_stack([ranks[found], counts[found]]).astype(np.uint64)
    write_rows(to[0], np.column_stack([uids, *spans, places, stands, kind, parts.reshape(-1, 6)]))
    write_run(to[1], np.column_stack([uids, places]))
    funnel = {
        "samples": len(index),
        "malformed_json": int((~fine).sum()),
        "not_in_subset": int(fine.sum()) - len(found),
        "picked": len(found),
    }
    return {"funnel": funnel, "has_uid": index.has_uid, "uses": int(counts.sum())}


@dataclasses.dataclass(frozen=True)
class Shared:
    """The samples that are used otherwise than if they had their uids alone, by place, ascending."""

    rows: npt.NDArray[np.uint64]
    """uint64[n, 4]: place, how often it is used, the number of its first use, how often it would be used alone."""

    @classmethod
    def of(cls, rows: npt.NDArray[np.uint64]) -> Shared:
        """Take rows of samples that have their uids in common, in any order."""
        rows = rows.copy()
        rows[rows[:, 1] == 0, 2] = 0
        rows = rows[(rows[:, 1] != rows[:, 3]) | (rows[:, 2] > 0)]
        return cls(rows[np.argsort(rows[:, 0], kind="stable")])

    @classmethod
    def read(cls, path: Path) -> Shared:
        """Read what `share` left."""
        return cls(load_array(path))

    def among(self, tar: int) -> Shared:
        """Give those of one tar."""
        bounds = np.array([tar, tar + 1], np.uint64) << np.uint64(_PLACE_BITS)
        begin, end = np.searchsorted(self.rows[:, 0], bounds).tolist()
        return Shared(self.rows[begin:end])

    @property
    def digest(self) -> str:
        """The sha256 of all this."""
        return hashlib.sha256(np.ascontiguousarray(self.rows, "<u8").tobytes()).hexdigest()

    @property
    def change(self) -> int:
        """How many more uses there are than if all had their uids alone."""
        return int(self.rows[:, 1].sum()) - int(self.rows[:, 3].sum())

    def uses_of(self, picked: Picked) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give how often each sample of a tar is used, and the number of its first use."""
        uses, first = picked.counts.copy(), np.zeros(len(picked.uids), np.int64)
        at = np.searchsorted(picked.places, self.rows[:, 0])
        uses[at], first[at] = self.rows[:, 1:3].astype(np.int64).T
        return uses, first


class Arrivals:
    """Which uids of a subset have come, tar by tar: so what `share` will find is known before all tars were looked through.

    That is so as long as none comes again that stands in the subset several times. Memory: a bit a uid of the subset.
    """

    def __init__(self, subset: Subset) -> None:
        """Begin before the first tar."""
        self._came = np.zeros(-(-len(subset) // 8), np.uint8)

    def add(self, picked: Picked) -> Shared | None:
        """Take the next tar, in the tars' order; give its part of what is shared, None where that cannot be known."""
        place, bit = picked.ranks >> 3, np.uint8(1) << (picked.ranks & 7).astype(np.uint8)
        again = (self._came[place] & bit) > 0
        _, first = np.unique(picked.ranks, return_index=True)
        within = np.ones(len(again), np.bool_)
        within[first] = False
        again |= within
        if (picked.counts[again] > 1).any():
            return None
        np.bitwise_or.at(self._came, place, bit)
        zeros = np.zeros(int(again.sum()), np.uint64)
        return Shared.of(np.column_stack([picked.places[again], zeros, zeros, zeros + 1]))


def share(runs: Sequence[Path], subset: Subset, shared_to: Path, missing_to: Path) -> dict[str, int]:
    """Find, in the sorted runs of all tars, the samples that have a uid in common, and the uids that no sample has.

    Write both; give {arrived, missing: uids, missing_uses: how often these stand in the subset}.
    """
    shared = [np.zeros((0, 4), np.uint64)]
    tally = {"arrived": 0, "missing": 0, "missing_uses": 0}

    def lost() -> Iterator[Uids]:
        done = 0
        for block in merge_runs(runs):
            new = np.concatenate([[True], (block[1:, :2] != block[:-1, :2]).any(axis=1)])
            first = np.flatnonzero(new)
            sizes = np.diff([*first.tolist(), len(block)])
            uids = np.ascontiguousarray(block[first, :2])
            tally["arrived"] += len(uids)
            several = sizes > 1
            counts = subset.count(uids[several])
            for begin, size, m in zip(first[several], sizes[several], counts, strict=True):
                places = np.sort(block[begin : begin + size, 2])
                each = np.full(size, m // size) + (np.arange(size) < m % size)
                shared.append(
                    np.column_stack([places, each, np.cumsum(each) - each, np.full(size, m)]).astype(np.uint64)
                )
            end = int(subset.place(uids[-1:], after=True)[0])
            yield from _absent(subset, done, end, uids)
            done = end
        yield from _absent(subset, done, len(subset), np.zeros((0, 2), np.uint64))

    # A subset's header says how many there are, so they are spooled first.
    spool = shared_to.with_name("missing.spool")
    with spool.open("wb") as file:
        for block in lost():
            tally["missing"] += int((block[1:] != block[:-1]).any(axis=1).sum()) + 1 if len(block) else 0
            tally["missing_uses"] += len(block)
            file.write(np.ascontiguousarray(block).tobytes())
    absent = np.fromfile(spool, np.uint64, 0).reshape(-1, 2)
    if tally["missing_uses"]:
        absent = np.memmap(spool, np.uint64, "r").reshape(-1, 2)
    write_subset(missing_to, (absent[at : at + _BLOCK] for at in range(0, len(absent), _BLOCK)), len(absent))
    spool.unlink()
    write_rows(shared_to, Shared.of(np.concatenate(shared)).rows)
    return tally


def _absent(subset: Subset, begin: int, end: int, found: Uids) -> Iterator[Uids]:
    """Give the uids of a stretch of the subset that are not among the sorted uids `found`."""
    for part in subset.blocks(begin, end):
        both = np.concatenate([found, part])
        order = np.lexsort((np.arange(len(both)) >= len(found), both[:, 1], both[:, 0]))
        ours = order < len(found)
        rows = both[order]
        group = np.cumsum(np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])) - 1
        has = np.zeros(group[-1] + 1, np.bool_)
        has[group[ours]] = True
        yield rows[~ours & ~has[group]]


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a shard takes of one tar: its uses with these numbers."""

    tar: int
    begin: int
    end: int


class Cut:
    """All uses, in the tars' order, cut into shards."""

    def __init__(self, size: int) -> None:
        """Begin before the first tar; a shard has `size` uses."""
        self._size = size
        self._held: list[Piece] = []
        self._room = size

    def add(self, tar: int, uses: int) -> list[list[Piece]]:
        """Take the next tar; give the shards that are whole with it."""
        whole: list[list[Piece]] = []
        begin = 0
        while begin < uses:
            end = min(uses, begin + self._room)
            self._held.append(Piece(tar, begin, end))
            self._room -= end - begin
            begin = end
            if not self._room:
                whole.append(self._held)
                self._held, self._room = [], self._size
        return whole

    def rest(self) -> list[list[Piece]]:
        """Give the last shard, if it is not whole."""
        return [self._held] if self._held else []


def write_shard(
    path: Path, pieces: Iterable[tuple[PoolFile, Picked, npt.NDArray[np.int64], npt.NDArray[np.int64], int, int]]
) -> dict[str, int]:
    """Write a shard and its stats, from (tar, its samples, uses, first uses, begin and end among its uses).

    Give {samples, members, odd_suffix: members left out}. Raise BrokenInput for a tar that cannot be read.
    """
    tally = {"samples": 0, "members": 0, "odd_suffix": 0}
    with atomic_write(path) as temporary, temporary.open("wb", buffering=0) as out:
        for file, picked, uses, first, begin, end in pieces:
            ends = np.cumsum(uses)
            low, high = np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end, side="left") + 1
            rows = slice(int(low), int(high))
            starts = (ends - uses)[rows]
            skipped = np.maximum(begin - starts, 0)  # uses of the first sample that an earlier shard has
            taken = np.minimum(ends[rows], end) - starts - skipped
            used = np.flatnonzero(taken > 0)
            jobs = Jobs(
                picked.uids[rows][used], picked.spans[rows][used], picked.kind[rows][used], picked.members[rows][used],
                (first[rows] + skipped)[used], taken[used],
            )  # fmt: skip
            with translate_read_errors(file), _opened(file) as stream:
                for block in copies(ForwardReader(stream), jobs, tally):
                    _write_all(out, block)
                    _begin_to_store(out, len(block))
        _write_all(out, END)
    write_json(path.with_name(f"{path.stem}_stats.json"), {"successes": tally["samples"]})
    return tally


def _opened(file: PoolFile) -> Any:
    """Open a tar to read large stretches: without a buffer where that is possible."""
    local = "://" not in file.path and file.codec is None
    return open(file.path, "rb", buffering=0) if local else open_tar(file)


def _begin_to_store(out: Any, size: int) -> None:
    """Let the disk begin with what was written last: by itself the system waits until there is much more."""
    with contextlib.suppress(AttributeError, OSError):  # a hint: where there is none to give, it is done without
        os.posix_fadvise(out.fileno(), out.tell() - size, size, os.POSIX_FADV_DONTNEED)


def _write_all(out: Any, data: Any) -> None:
    """Write without a buffer, as much at once as the system takes."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[out.write(view) :]
