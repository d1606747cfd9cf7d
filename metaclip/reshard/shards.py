"""The two steps of resharding, pure functions of files: select the samples of a tar, and write a shard.

    00000000.tar ...           shards of 10,000 samples; the last one has the rest
    00000000_stats.json ...    {"successes": number of samples}
    sizes.json                 {"00000000.tar": number of samples}
    meta.json                  what went in and what came out
    missing.npy                uids of the subset that no sample has; a subset too

Law: a uid that occurs m times in the subset is used m times, under the names ``{uid}-0`` to ``{uid}-{m - 1}`` with the uid
as 32 hex digits; if s samples have it, each is used m // s times and the first m % s of them once more. Samples come in the
order of the tars, and of their rows. So the result does not depend on who works.

The bytes of members are copied, not decoded; their headers are made anew (`tar_format.header`), so no input name reaches
the output, only its suffix if that consists of letters, digits, dots, hyphens and underscores.

Cost: 40 us of processor time per sample of 26 kB, half of it for selecting and half for writing; `cp` takes 10
(tests/bench/bench_reshard.py). The bytes are read twice, because the place of a sample depends on the tars before it. It
runs in threads and needs neither a compiler nor a new process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from metaclip.arguments import check_fields
from metaclip.errors import MetaclipError, damaged
from metaclip.pool.files import PoolFile, open_tar, translate_read_errors
from metaclip.pool.sorted_uids import UidSet, load_array, merge_runs, write_rows, write_run, write_subset
from metaclip.pool.subset import Subset
from metaclip.pool.tar_format import BLOCK, END, ForwardReader
from metaclip.pool.uid import Uids
from metaclip.recipe import check_minimums
from metaclip.reshard.copy_samples import NOT_SIMPLE, SampleCopies, SampleSpans, copy_samples
from metaclip.reshard.index import FLAWS, IMAGES, MAX_SAMPLE, Names, make_index
from metaclip.storage.files import atomic_write, write_json

SEMANTICS: Final = 1
"""Raised when the same input would give other shards."""
SHARD_SIZE: Final = 10_000

REASONS: Final = ("malformed_json", "not_in_subset")
"""Why a sample is not used; the rest are `picked`."""

_ROW_BITS: Final = 40  # of a sample's number that hold its row


@dataclasses.dataclass(frozen=True)
class ReshardSettings:
    """What determines the shards, besides tars and subset."""

    shard_size: int
    """Number of samples per shard."""
    text_column: str | None
    url_column: str | None
    uid_column: str | None

    def __post_init__(self) -> None:
        check_fields(self)
        check_minimums(self, shard_size=1)


@dataclasses.dataclass(frozen=True)
class Selection(SampleSpans):
    """The samples of a tar that are in the subset, in the tar's order."""

    numbers: npt.NDArray[np.uint64]
    """Tar and row of each sample in one number."""
    ranks: npt.NDArray[np.int64]
    """The first position of each uid in the subset."""
    counts: npt.NDArray[np.int64]
    """How often each uid occurs in the subset."""

    @classmethod
    def read(cls, path: Path, subset: Subset) -> Selection:
        """Read what `select_samples` wrote. Raise MetaclipError if the file is damaged."""
        rows = load_array(path, 14)
        if (
            (rows[:, 6] < 1) | (rows[:, 6] > len(subset)) | (rows[:, 5] > len(subset) - rows[:, 6])
        ).any():
            raise damaged(path, "it names uids beyond the end of the subset")
        if not _are_places(rows):
            raise damaged(path, "it names places that no samples can have")
        ranks, counts = rows[:, 5].astype(np.int64), rows[:, 6].astype(np.int64)
        return cls(
            rows[:, :2],
            rows[:, 2:4],
            rows[:, 7],
            rows[:, 8:].reshape(-1, 3, 2),
            rows[:, 4],
            ranks,
            counts,
        )


def _are_places(rows: npt.NDArray[np.uint64]) -> bool:
    """Return whether rows of a `Selection` name samples of one tar, in order, whose members lie inside them."""
    begin, end = rows[:, 2], rows[:, 3]
    members = rows[:, 8:].reshape(-1, 3, 2)
    inside = (members[:, :, 0] >= begin[:, None] + np.uint64(BLOCK)) & (
        (members[:, :, 0] <= end[:, None]) & (members[:, :, 1] <= end[:, None] - members[:, :, 0])
    )
    return bool(
        (begin < end).all()
        and (end - begin <= MAX_SAMPLE).all()
        and (end[:-1] <= begin[1:]).all()
        and not ((begin | end | members[:, :, 0].max(axis=1, initial=0)) % BLOCK).any()
        and (inside | (members == 0).all(axis=2)).all()
        and ((rows[:, 7] < len(IMAGES)) | (rows[:, 7] == NOT_SIMPLE)).all()
        and (rows[1:, 4] > rows[:-1, 4]).all()
        and len(np.unique(rows[:, 4] >> np.uint64(_ROW_BITS))) <= 1
    )


def select_samples(
    file: PoolFile, tar: int, subset: Subset, names: Names, paths: Sequence[Path]
) -> dict[str, Any]:
    """Look up the samples of the tar number `tar` in the subset; write a `Selection`, and a run sorted by uid, to `paths`.

    Return {funnel, has_uid, uses: how often its samples are used if no other samples have their uids}. Raise BrokenInput if
    the tar cannot be read.
    """
    index = make_index(file, names)
    usable = index.flaw != FLAWS.index("malformed_json")
    ranks = subset.searchsorted(index.uids)
    counts = np.where(usable, subset.searchsorted(index.uids, "right") - ranks, 0)
    rows = np.flatnonzero(counts)
    numbers = (np.uint64(tar) << np.uint64(_ROW_BITS)) + rows.astype(np.uint64)
    uids = index.uids[rows]
    members = np.stack([index.image, index.txt, index.json], axis=1)[rows]
    padded = BLOCK + -(-members[:, :, 1].astype(np.int64) // BLOCK) * BLOCK
    simple = np.where(members[:, :, 0] > 0, padded, 0).sum(axis=1) == (index.end - index.begin)[
        rows
    ].astype(np.int64)
    kind = np.where(simple, index.kind[rows], NOT_SIMPLE).astype(np.uint64)
    spans = (index.begin[rows], index.end[rows])
    in_subset = np.column_stack([ranks[rows], counts[rows]]).astype(np.uint64)
    write_rows(
        paths[0], np.column_stack([uids, *spans, numbers, in_subset, kind, members.reshape(-1, 6)])
    )
    write_run(paths[1], np.column_stack([uids, numbers]))
    funnel = {
        "samples": len(index),
        "malformed_json": int((~usable).sum()),
        "not_in_subset": int(usable.sum()) - len(rows),
        "picked": len(rows),
    }
    return {"funnel": funnel, "has_uid": index.has_uid, "uses": int(counts.sum())}


@dataclasses.dataclass(frozen=True)
class SharedUids:
    """Samples that are used differently because others have the same uid, in order of their numbers."""

    rows: npt.NDArray[np.uint64]
    """uint64[n, 4]: number of the sample, how often it is used, number of its first use, how often it would be used alone."""

    @classmethod
    def of(cls, rows: npt.NDArray[np.uint64]) -> SharedUids:
        """Keep the rows of samples that are used differently, from those of all samples that share uids, in any order."""
        rows = rows.copy()
        rows[rows[:, 1] == 0, 2] = 0
        rows = rows[(rows[:, 1] != rows[:, 3]) | (rows[:, 2] > 0)]
        return cls(rows[np.argsort(rows[:, 0], kind="stable")])

    @classmethod
    def read(cls, path: Path) -> SharedUids:
        """Read what `share_uids` wrote. Raise MetaclipError if the file is damaged."""
        return cls(load_array(path, 4))

    def of_tar(self, tar: int) -> SharedUids:
        """Return the samples of one tar."""
        bounds = np.array([tar, tar + 1], np.uint64) << np.uint64(_ROW_BITS)
        begin, end = np.searchsorted(self.rows[:, 0], bounds).tolist()
        return SharedUids(self.rows[begin:end])

    @property
    def digest(self) -> str:
        """The sha256 of the rows."""
        return hashlib.sha256(np.ascontiguousarray(self.rows, "<u8").tobytes()).hexdigest()

    @property
    def more_uses(self) -> int:
        """How many more uses there are than if no uids were shared; may be negative."""
        return int(self.rows[:, 1].sum()) - int(self.rows[:, 3].sum())

    def uses_of(self, selection: Selection) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return how often each selected sample of the tar is used, and the number of its first use: int64[n] each."""
        uses, first = selection.counts.copy(), np.zeros(len(selection.uids), np.int64)
        at = np.searchsorted(selection.numbers, self.rows[:, 0])
        if (at == len(uses)).any():
            raise MetaclipError(
                "shared.npy in .state names other samples; run the command again with `RunOptions(overwrite=True)`"
            )
        uses[at], first[at] = self.rows[:, 1:3].astype(np.int64).T
        return uses, first


class SeenUids:
    """The uids of a subset seen so far, tar by tar, to know what `share_uids` will find before all tars are searched.

    That works unless a uid occurs again that the subset has several times. Memory: one bit per uid of the subset.
    """

    def __init__(self, subset: Subset) -> None:
        """Start before the first tar."""
        self._seen = np.zeros(-(-len(subset) // 8), np.uint8)

    def add(self, selection: Selection) -> SharedUids | None:
        """Add the next tar in order; return its part of the shared uids, None if that cannot be known yet."""
        byte, bit = selection.ranks >> 3, np.uint8(1) << (selection.ranks & 7).astype(np.uint8)
        again = np.ones(len(byte), np.bool_)
        again[np.unique(selection.ranks, return_index=True)[1]] = False
        again |= (self._seen[byte] & bit) > 0
        if (selection.counts[again] > 1).any():
            return None
        np.bitwise_or.at(self._seen, byte, bit)
        zeros = np.zeros(int(again.sum()), np.uint64)
        return SharedUids.of(np.column_stack([selection.numbers[again], zeros, zeros, zeros + 1]))


def share_uids(
    runs: Sequence[Path], subset: Subset, shared_path: Path, missing_path: Path
) -> dict[str, int]:
    """Find the samples that share uids, and the uids that no sample has, in the sorted runs of all tars; write both.

    Return {arrived, missing: numbers of uids, missing_uses: how often the missing ones occur in the subset}.
    """
    shared = [np.zeros((0, 4), np.uint64)]
    counts = {"arrived": 0, "missing": 0}

    def missing() -> Iterator[Uids]:
        done = 0
        for block in merge_runs(runs, columns=3):
            new = np.concatenate([[True], (block[1:, :2] != block[:-1, :2]).any(axis=1)])
            first = np.flatnonzero(new)
            sizes = np.diff([*first.tolist(), len(block)])
            uids = np.ascontiguousarray(block[first, :2])
            counts["arrived"] += len(uids)
            several = sizes > 1
            for begin, size, m in zip(
                first[several], sizes[several], subset.count(uids[several]), strict=True
            ):
                numbers = np.sort(block[begin : begin + size, 2])
                uses = np.full(size, m // size) + (np.arange(size) < m % size)
                rows = [numbers, uses, np.cumsum(uses) - uses, np.full(size, m)]
                # Of mixed kinds of integers, numpy would make floating-point numbers, which round.
                shared.append(np.column_stack([row.astype(np.uint64) for row in rows]))
            end, arrived = int(subset.searchsorted(uids[-1:], "right")[0]), UidSet(uids)
            yield from (part[~arrived.contains(part)] for part in subset.blocks(done, end))
            done = end
        yield from subset.blocks(done)

    def counted() -> Iterator[Uids]:
        for uids in missing():
            counts["missing"] += int((uids[1:] != uids[:-1]).any(axis=1).sum()) + 1 if len(uids) else 0
            yield uids

    counts["missing_uses"] = write_subset(missing_path, counted())
    write_rows(shared_path, SharedUids.of(np.concatenate(shared)).rows)
    return counts


class TarUses(NamedTuple):
    """The uses of a tar's samples that a shard takes, by their numbers."""

    tar: int
    begin: int
    end: int


class ShardLayout:
    """The division of all uses, in the order of the tars, into shards."""

    def __init__(self, shard_size: int) -> None:
        """Start before the first tar."""
        self._shard_size = self._room = shard_size
        self._open: list[TarUses] = []

    def add(self, tar: int, uses: int) -> list[list[TarUses]]:
        """Add the next tar; return the shards that it completes."""
        complete: list[list[TarUses]] = []
        begin = 0
        while begin < uses:
            end = min(uses, begin + self._room)
            self._open.append(TarUses(tar, begin, end))
            self._room -= end - begin
            begin = end
            if not self._room:
                complete.append(self._open)
                self._open, self._room = [], self._shard_size
        return complete

    def rest(self) -> list[list[TarUses]]:
        """Return the last shard, if it is not complete."""
        return [self._open] if self._open else []


def write_shard(
    path: Path, parts: Iterable[tuple[PoolFile, Selection, SharedUids, TarUses]]
) -> dict[str, int]:
    """Write a shard and its stats from parts: (tar, its selection, its shared uids, the uses to take).

    Return {samples, members, odd_suffix: members left out}. Raise BrokenInput if a tar cannot be read.
    """
    counts = {"samples": 0, "members": 0, "odd_suffix": 0}
    with atomic_write(path) as temporary, temporary.open("wb") as out:
        for file, selection, shared, (_, begin, end) in parts:
            uses, first = shared.uses_of(selection)
            ends = np.cumsum(uses)
            begins = ends - uses
            taken = np.minimum(ends, end) - np.maximum(begins, begin)
            rows = np.flatnonzero(taken > 0)
            number = first + np.maximum(begin - begins, 0)  # an earlier shard has the uses before it
            copies = SampleCopies(
                selection.uids[rows], selection.spans[rows], selection.kind[rows], selection.members[rows], number[rows],
                taken[rows],
            )  # fmt: skip
            with translate_read_errors(file), open_tar(file) as stream:
                for block in copy_samples(ForwardReader(stream), copies, counts):
                    out.write(block)
                    with contextlib.suppress(AttributeError, OSError):
                        # The disk begins with the block; the system alone would wait for much more. Not every system can.
                        os.posix_fadvise(
                            out.fileno(), out.tell() - len(block), len(block), os.POSIX_FADV_DONTNEED
                        )
        out.write(END)
    write_json(path.with_name(f"{path.stem}_stats.json"), {"successes": counts["samples"]})
    return counts
