"""What curating a pool will take: a few shards measured, the whole by arithmetic.

Each measured shard goes through both stages where its engine would carry it, in a folder that goes again, on one worker
at a time. First a short piece of it, so that what is compiled or opened once counts as start-up and not as work.

Law: cost grows with pairs, entries stay what they are. Core seconds are those of the processor, so that other work on the
machine counts little; wall time is by the clock, and adds what no second worker shortens: start-up and adding up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from metaclip.curate.balance_shard import DrawParameters, balance_shard
from metaclip.curate.inputs import columns_of, cut_pool
from metaclip.curate.match import MetadataLike, read_metadata
from metaclip.curate.match_shard import match_shard, shard_counts
from metaclip.curate.settings import BALANCE, MATCH, MatchSettings
from metaclip.engine.contract import PortableStep, ProgressCallback, ignore_progress
from metaclip.errors import MetaclipError
from metaclip.matching.automaton import Automaton
from metaclip.matching.automaton_file import open_automaton
from metaclip.matching.matcher import Matcher
from metaclip.metadata.entries import Metadata
from metaclip.pool.files import Paths, find_files
from metaclip.pool.shards import SHARD_ROWS, Shard
from metaclip.pool.sorted_uids import FAN_IN, merge_runs, write_subset
from metaclip.stage.folder import Folder
from metaclip.stage.options import RunOptions
from metaclip.stage.stage import Stage

T_A_PAIR: Final = 20_000 / 1.6e9
"""The published t (arXiv 2309.16671, Table 6), for each pair of its pool: counts grow with the pool, and t with them."""
SHARDS: Final = 3
"""How many shards are measured."""
_PIECE: Final = 20_000  # rows that everything is compiled and opened with
_UID: Final = 16  # bytes
_DRIVER: Final = 400 << 20  # bytes of the process that adds up: measured with 500,000 entries
_ASSUMED: Final = (
    "the measured shards are like the others",
    "pairs are kept as by the published t, 20,000 for 1.6 G pairs; another t keeps more or less of them",
    "workers do not wait for disk, network or memory more than in the measured shards",
    "uids that stand on several rows are few: each takes 16 bytes more in every worker of the second stage",
)

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one or several shards took."""

    pairs: int
    matched: int
    kept: int
    input_bytes: int
    match_seconds: float
    """Of the processor, as all but the last two."""
    balance_seconds: float
    sum_seconds: float
    """To add the counts of a shard to others."""
    sort_seconds: float
    """To merge its uids once, of matched and of kept pairs."""
    matched_bytes: int
    """What stays of the first stage."""
    partial_bytes: int
    """What goes again when a stage is complete."""
    curated_bytes: int
    wall: float
    """By the clock, for both stages."""
    start: float
    """By the clock, before a worker's first row."""
    memory: int
    """Bytes that the process has, at most."""

    @classmethod
    def of(cls, shards: Sequence[Measured]) -> Measured:
        """Add up; the start and the memory are the largest."""
        most = {"start", "memory"}
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*((max if name in most else sum)(getattr(shard, name) for shard in shards) for name in names))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What so many pairs take on so many workers: seconds, bytes."""

    pairs: int
    workers: int
    shards: int
    input_bytes: int
    matched: int
    kept: int
    core_seconds: float
    """Of the workers."""
    add_seconds: float
    """Of the process that adds up; no worker shortens it."""
    wall_seconds: float
    worker_memory: int
    driver_memory: int
    kept_disk: int
    """What a finished run takes."""
    most_disk: int
    """What it takes at its largest, before a stage is complete."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A pool, what was measured of it, and what it will take."""

    pairs: int
    counted: bool
    """Whether the number of pairs is known, not estimated from bytes."""
    shards: int
    seed: int
    measured_shards: int
    measured: Measured
    estimates: tuple[Estimate, ...]
    assumptions: tuple[str, ...] = _ASSUMED


def plan(
    pool: Paths,
    metadata: MetadataLike | None = None,
    *,
    settings: MatchSettings | None = None,
    pairs: Sequence[int] = (),
    workers: Sequence[int] = (),
    shards: int = SHARDS,
    seed: int = 0,
    options: RunOptions | None = None,
) -> Plan:
    """Measure `shards` shards of a pool, drawn by `seed`, and estimate what the whole takes, or so many `pairs`.

    An estimate for each number of pairs (none: the pool's) and of workers (none: the engine's). Raise MetaclipError where
    the pool or the list cannot be read, or where nothing matches.
    """
    settings, options = settings or MatchSettings(), options or RunOptions()
    files = find_files(pool)
    entries, settings = read_metadata(metadata, settings)
    all_shards = cut_pool(files, settings).shards
    chosen = random.Random(seed).sample(all_shards, min(shards, len(all_shards)))
    step = MeasureStep(settings, open_automaton(entries, settings.rule), entries)
    results = []
    for shard in chosen:  # one at a time: they would share the machine's memory bus, and blur each other
        ((_, result),) = options.active_engine.map(step, [shard])
        if isinstance(result, BaseException):
            raise result
        results.append(dataclasses.replace(result, input_bytes=_bytes_of(shard, all_shards)))
    measured = Measured.of(results)
    if not measured.matched:
        raise MetaclipError(
            f"none of the {measured.pairs} pairs that were measured matches any entry; check --metadata and --text-column"
        )
    rows = [shard.rows for shard in all_shards]
    counted = None not in rows
    total = (
        sum(filter(None, rows))
        if counted
        else round(sum(f.size for f in files) * measured.pairs / measured.input_bytes)
    )
    size = max(1, round(measured.pairs / len(results)))
    estimates = tuple(
        estimate(measured, many, of, max(1, len(all_shards) * many // max(1, total), -(-many // max(size, SHARD_ROWS))))
        for many in pairs or (total,)
        for of in workers or (options.active_engine.workers,)
    )
    return Plan(total, counted, len(all_shards), seed, len(results), measured, estimates)


def estimate(measured: Measured, pairs: int, workers: int, shards: int) -> Estimate:
    """Extrapolate what was measured to `pairs` pairs in `shards` shards on `workers` workers."""
    factor = pairs / measured.pairs
    core = factor * (measured.match_seconds + measured.balance_seconds)
    passes = max(1, math.ceil(math.log(max(2, shards), FAN_IN)))
    add = factor * measured.sort_seconds * passes
    summed = shards * measured.sum_seconds
    kept = round(factor * measured.kept)
    matched = round(factor * measured.matched)
    curated = round(factor * measured.curated_bytes) + _UID * kept
    partial = round(factor * measured.partial_bytes) + (_UID * matched if passes > 1 else 0)
    stays = round(factor * measured.matched_bytes) + curated
    return Estimate(
        pairs=pairs, workers=workers, shards=shards, input_bytes=round(factor * measured.input_bytes),
        matched=matched, kept=kept,
        core_seconds=core + summed, add_seconds=add,
        wall_seconds=measured.start + factor * max(measured.wall, 1e-9) / workers + summed / workers + add,
        worker_memory=measured.memory, driver_memory=_DRIVER,
        kept_disk=stays, most_disk=stays + partial,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MeasureStep(PortableStep):
    """The step: a shard to what it takes; what it writes goes again."""

    settings: MatchSettings
    automaton: Automaton
    entries: Metadata

    @functools.cached_property
    def matcher(self) -> Matcher:
        """The matcher."""
        return Matcher.from_automaton(self.automaton, self.entries)

    def __call__(self, shard: Shard, progress: ProgressCallback) -> Measured:
        """Measure a shard."""
        begin = time.perf_counter()
        rows = _PIECE if shard.rows is None else min(_PIECE, shard.rows)
        self._measure(dataclasses.replace(shard, rows=rows), 0.0)
        return self._measure(shard, time.perf_counter() - begin)

    def _measure(self, shard: Shard, start: float) -> Measured:
        with tempfile.TemporaryDirectory(prefix="metaclip-plan-") as name:
            folder = Folder(name)
            match, balance = Stage(folder, MATCH), Stage(folder, BALANCE)
            for made in ("matched", "curated"):
                (Path(name) / made).mkdir()
            clock = time.perf_counter()
            match_seconds, marker = _timed(
                lambda: match_shard(shard, self.matcher, self.settings, match, ignore_progress)
            )
            wall = time.perf_counter() - clock
            n, read = len(self.entries), marker["funnel"]["rows"] - marker["funnel"].get("malformed_row", 0)
            total = np.zeros(n, np.uint64)
            sum_seconds, counts = _timed(lambda: total + shard_counts(shard.name, stage=match, n_entries=n))
            uids = match.path / f"{shard.name}.uids.npy"
            sort_seconds, _ = _timed(
                lambda: write_subset(Path(name) / "uids.npy", merge_runs([uids]), marker["funnel"]["matched"])
            )
            draw = DrawParameters.of(counts, max(1.0, T_A_PAIR * read), 0, np.zeros(0, "u8,u8"))
            clock = time.perf_counter()
            balance_seconds, drawn = _timed(
                lambda: balance_shard(
                    shard, columns_of(shard.file, self.settings), read, draw, folder, balance, ignore_progress
                )
            )
            wall += time.perf_counter() - clock
            return Measured(
                pairs=read, matched=marker["funnel"]["matched"], kept=drawn["funnel"]["kept"],
                input_bytes=0,  # known to who knows the other shards of its file
                match_seconds=match_seconds, balance_seconds=balance_seconds, sum_seconds=sum_seconds,
                sort_seconds=sort_seconds * (1 + drawn["funnel"]["kept"] / max(1, marker["funnel"]["matched"])),
                matched_bytes=_size(Path(name) / "matched"), partial_bytes=_size(Path(name) / ".state"),
                curated_bytes=_size(Path(name) / "curated"),
                wall=wall, start=start, memory=_most_memory(),
            )  # fmt: skip


def _bytes_of(shard: Shard, shards: Sequence[Shard]) -> int:
    """Give a shard's part of its file, by rows."""
    if shard.rows is None:
        return shard.file.size
    rows = sum(other.rows or 0 for other in shards if other.file_index == shard.file_index)
    return round(shard.file.size * shard.rows / max(1, rows))


def _timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """Call: (seconds of the processor in this thread, result)."""
    begin = time.thread_time()
    result = call()
    return time.thread_time() - begin, result


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _most_memory() -> int:
    # What the system counts for a process begins with the peak of the one that started it; Linux also knows its own.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


# --- for a reader


def lines(found: Plan) -> Iterator[str]:
    """Say a plan: what was measured, a table of what is to come, what was assumed."""
    measured = found.measured
    about = "" if found.counted else "about "
    yield f"pool      {about}{found.pairs:,} pairs in {found.shards:,} shards"
    yield f"measured  {measured.pairs:,} pairs in {found.measured_shards} of them (seed {found.seed})"
    for verb, seconds in (("match", measured.match_seconds), ("balance", measured.balance_seconds)):
        yield f"{verb:<9} {1e6 * seconds / measured.pairs:.2f} us of a core a pair"
    yield f"start     {measured.start:.1f} s before a worker's first row"
    yield ""
    yield "| pairs | workers | core hours | wall | memory a worker | input | disk at most | disk at the end | pairs kept |"
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for one in found.estimates:
        yield (
            f"| {amount(one.pairs)} | {one.workers:,} | {(one.core_seconds + one.add_seconds) / 3600:,.2f} "
            f"| {duration(one.wall_seconds)} | {size(one.worker_memory)} | {size(one.input_bytes)} | {size(one.most_disk)} "
            f"| {size(one.kept_disk)} | {amount(one.kept)} |"
        )
    yield ""
    yield "assumed   " + "\n          ".join(found.assumptions)


def amount(number: int) -> str:
    """Write a number of pairs in three digits: 12.8 G."""
    for unit, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)


def size(number: int) -> str:
    """Write a number of bytes: 1.23 TB."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number / 1000:.3g} kB"


def duration(seconds: float) -> str:
    """Write a time: 3 d 4 h, 2 h 10 min, 4 min 5 s, 3.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, names in ((86_400, 3600, "d h"), (3600, 60, "h min"), (60, 1, "min s")):
        if whole >= large:
            one, other = names.split()
            return f"{whole // large} {one} {whole % large // small} {other}"
    raise AssertionError(seconds)


def as_json(found: Plan) -> dict[str, Any]:
    """Give a plan as JSON: seconds, bytes, pairs."""
    return dataclasses.asdict(found)
