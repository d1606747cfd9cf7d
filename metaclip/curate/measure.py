"""Measure what it takes to curate a shard: seconds, bytes, pairs.

A shard goes through both stages on one worker, in a temporary folder. First a short piece of it does, so that what is
compiled or opened once counts as start-up and not as work. Seconds are those that the processor spent in this thread, so
that other work on the machine counts little; `wall` and `start` are by the clock. Pairs are drawn as `curate` draws them by
default, by the counts of all measured shards together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt

from metaclip.curate.balance_shard import DrawParameters, balance_shard
from metaclip.curate.combine import CombineStep
from metaclip.curate.draw import Thresholds
from metaclip.curate.inputs import columns_as_given, columns_of
from metaclip.curate.match import rows_read
from metaclip.curate.match_shard import make_matcher, match_shard, shard_counts
from metaclip.curate.settings import BALANCE, DEFAULT_TAIL_SHARE, MATCH, BalanceSettings, MatchSettings
from metaclip.curate.threshold import solve_tail_share
from metaclip.engine import PortableStep, ProgressCallback, ignore_progress
from metaclip.matching.matcher import Matcher
from metaclip.metadata import Metadata
from metaclip.pool.columns import Columns
from metaclip.pool.shards import Shard
from metaclip.pool.sorted_uids import merge_runs, write_subset
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage

if TYPE_CHECKING:
    from metaclip.pool.subset import Subset

_PIECE: Final = 20_000  # rows that everything is compiled and opened with

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one or several shards took."""

    pairs: int
    matched: int
    kept: int
    input_bytes: int
    match_seconds: float
    balance_seconds: float
    sum_seconds: float
    """For adding a shard's counts to others."""
    sort_seconds: float
    """For merging its uids once, of matched and of kept pairs."""
    matched_bytes: int
    """Files of the first stage that remain."""
    partial_bytes: int
    """Files that are removed when a stage is complete."""
    curated_bytes: int
    wall: float
    """Seconds by the clock, for both stages."""
    start: float
    """Seconds by the clock, before a worker's first row."""
    memory: int
    """Peak memory of the process in bytes."""

    @classmethod
    def of(cls, shards: Sequence[Measured]) -> Measured:
        """Add shards; start and memory are those of the largest."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(
            *(
                (max if name in ("start", "memory") else sum)(getattr(shard, name) for shard in shards)
                for name in names
            )
        )


@dataclasses.dataclass(frozen=True)
class CountStep(PortableStep):
    """Counts the matches of a shard. Nothing that it writes is kept."""

    settings: MatchSettings
    entries: Metadata

    @functools.cached_property
    def matcher(self) -> Matcher:
        """The matcher, made once in each worker process."""
        return make_matcher(self.entries, self.settings)

    @functools.cached_property
    def subset(self) -> Subset | None:
        """The subset whose rows are matched, if not all are."""
        if self.settings.subset is None:
            return None
        from metaclip.pool.subset import Subset

        return Subset(self.settings.subset)

    def __call__(self, shard: Shard, progress: ProgressCallback) -> tuple[int, npt.NDArray[np.uint64]]:
        """Return the number of the shard's rows, and its counts."""
        with _temporary_run() as folder:
            match = Stage(folder, MATCH)
            marker = match_shard(shard, self.matcher, self.settings, match, progress, self.subset)
            counts = shard_counts(shard.name, stage=match, n_entries=len(self.entries))
            return rows_read(marker["funnel"]), counts


@dataclasses.dataclass(frozen=True)
class MeasureStep(CountStep):
    """Measures a shard. Nothing that it writes is kept."""

    counts: npt.NDArray[np.uint64]
    """Of all measured shards."""

    def __call__(self, shard: Shard, progress: ProgressCallback) -> Measured:  # type: ignore[override]
        """Measure a shard, all but its `input_bytes`: only who knows the file's other shards knows its part of them."""
        begin = time.perf_counter()
        rows = _PIECE if shard.rows is None else min(_PIECE, shard.rows)
        self._measure(dataclasses.replace(shard, rows=rows), 0.0)
        return self._measure(shard, time.perf_counter() - begin)

    def _measure(self, shard: Shard, start: float) -> Measured:
        with _temporary_run() as folder:
            path, n_entries = Path(folder.path), len(self.entries)
            match = Stage(folder, MATCH)
            match_seconds, match_wall, marker = _timed(
                lambda: match_shard(
                    shard, self.matcher, self.settings, match, ignore_progress, self.subset
                )
            )
            read, matched = rows_read(marker["funnel"]), marker["funnel"]["matched"]
            sum_seconds, _, _ = _timed(
                lambda: self.counts + shard_counts(shard.name, stage=match, n_entries=n_entries)
            )
            columns = columns_of(shard.file, self.settings)
            found = _measure_balance(
                shard, columns, read, matched, self.counts, self.entries.languages, folder
            )
            return dataclasses.replace(
                found, match_seconds=match_seconds, sum_seconds=sum_seconds, matched_bytes=_size(path / "matched"),
                wall=match_wall + found.wall, start=start,
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MatchedShard:
    """A shard of a finished run."""

    shard: Shard
    read: int
    """Its rows when it was matched."""
    columns: Mapping[str, str | None]
    matched: Folder


@dataclasses.dataclass(frozen=True)
class MeasureMatchedStep(PortableStep):
    """Measures what it takes to combine and balance a shard that is matched. Nothing that it writes is kept."""

    counts: npt.NDArray[np.uint64]
    """Of all runs."""
    languages: Mapping[str, range]
    """Of their list; empty if it has none."""

    def __call__(self, item: MatchedShard, progress: ProgressCallback) -> Measured:
        """Measure a shard, all but its `input_bytes`."""
        shard = item.shard
        with _temporary_run() as folder:
            match = Stage(folder, MATCH)
            begin = time.perf_counter()
            columns = columns_as_given(shard.file, item.columns)
            start = time.perf_counter() - begin
            combine_seconds, combine_wall, (marker, _) = _timed(
                lambda: CombineStep(match)((item.matched, shard.name, shard.name), ignore_progress)
            )
            found = _measure_balance(
                shard, columns, item.read, marker["rows"], self.counts, self.languages, folder
            )
            # The files of matches are linked: they take no disk.
            return dataclasses.replace(
                found, match_seconds=combine_seconds, wall=combine_wall + found.wall, start=start
            )


@contextlib.contextmanager
def _temporary_run() -> Iterator[Folder]:
    """Make a run folder for a block."""
    with tempfile.TemporaryDirectory(prefix="metaclip-plan-") as name:
        for output in ("matched", "curated"):
            Path(name, output).mkdir()
        yield Folder(name)


def _measure_balance(
    shard: Shard, columns: Columns, read: int, matched: int, counts: npt.NDArray[np.uint64],
    languages: Mapping[str, range], folder: Folder,
) -> Measured:  # fmt: skip
    """Measure the second stage of a shard whose matches and uids are in a folder; the first stage counts as nothing."""
    t = _default_thresholds(counts, languages) if counts.any() else 1.0
    parameters = DrawParameters.of(counts, t, 0, np.zeros(0, "u8,u8"), languages)
    path, match, balance = Path(folder.path), Stage(folder, MATCH), Stage(folder, BALANCE)
    uids = match.path / f"{shard.name}.uids.npy"
    sort_seconds, _, _ = _timed(lambda: write_subset(path / "uids.npy", merge_runs([uids]), matched))
    seconds, wall, drawn = _timed(
        lambda: balance_shard(shard, columns, read, parameters, folder, balance, ignore_progress)
    )
    kept = drawn["funnel"]["kept"]
    return Measured(
        pairs=read, matched=matched, kept=kept, input_bytes=0, match_seconds=0.0, balance_seconds=seconds,
        sum_seconds=0.0, sort_seconds=sort_seconds * (1 + kept / max(1, matched)), matched_bytes=0,
        partial_bytes=_size(path / ".state"), curated_bytes=_size(path / "curated"), wall=wall, start=0.0,
        memory=_peak_memory(),
    )  # fmt: skip


def _default_thresholds(counts: npt.NDArray[np.uint64], languages: Mapping[str, range]) -> Thresholds:
    """Return the thresholds by which a pool with these counts is balanced without any setting."""
    if not languages:
        return solve_tail_share(counts, DEFAULT_TAIL_SHARE)
    from metaclip.curate.language_thresholds import resolve_languages

    solved = resolve_languages(BalanceSettings(), counts, 0, languages, lambda grid, weight: [])
    return solved.by_entry(languages)


def _timed(call: Callable[[], Result]) -> tuple[float, float, Result]:
    """Call a function; return (seconds of the processor in this thread, seconds by the clock, its result)."""
    begin, clock = time.thread_time(), time.perf_counter()
    result = call()
    return time.thread_time() - begin, time.perf_counter() - clock, result


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _peak_memory() -> int:
    # What the system counts for a process begins with the peak of the one that started it; Linux also knows its own.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
