"""Estimate what curating a pool will take: a few shards measured, the whole by arithmetic.

Each shard is measured where its engine runs it (`metaclip.curate.measure`), one at a time.

Law: cost grows with pairs, and the entries stay what they are. Core seconds are proportional to pairs; the wall time is
that of the workers together, plus what no other worker shortens: start-up and adding up.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from metaclip.arguments import ArrowTable, check_type, check_types, is_table
from metaclip.curate.balance import pool_shards
from metaclip.curate.combine import check_combinable
from metaclip.curate.inputs import check_matched, cut_pool
from metaclip.curate.match import read_metadata
from metaclip.curate.measure import (
    CountStep,
    MatchedShard,
    Measured,
    MeasureMatchedStep,
    MeasureStep,
)
from metaclip.curate.run import Run, RunLike, open_run
from metaclip.curate.settings import BALANCE, MATCH, MatchSettings
from metaclip.curate.table_pool import read_table, write_table
from metaclip.engine import Engine, PortableStep
from metaclip.errors import BadSetting, MetaclipError
from metaclip.metadata import MetadataLike
from metaclip.pool.files import Paths, find_files, list_paths
from metaclip.pool.shards import SHARD_ROWS, Shard
from metaclip.pool.sorted_uids import FAN_IN
from metaclip.stage.folder import Folder
from metaclip.stage.runner import RunOptions

_LEAST_ROWS: Final = 20_000  # to measure: the estimate of kept pairs depends on the counts
_MOST_SHARDS: Final = 256  # to measure for the sake of their rows
_UID: Final = 16  # bytes
_ASSUMED: Final = (
    "the measured shards are like the others",
    "pairs are kept as by the default tail share, 0.06; another t keeps more or less of them",
    "workers do not wait for disk, network or memory more than in the measured shards",
    "uids that stand on several rows are few: each takes 16 bytes more in every worker of the second stage",
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a number of pairs takes on a number of workers, in seconds and bytes."""

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
    kept_disk: int
    """Size of a finished run."""
    most_disk: int
    """Its size at its largest, before a stage is complete."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A pool, what was measured of it, and estimates."""

    pairs: int
    counted: bool
    """Whether the number of pairs is known, not estimated from bytes."""
    shards: int
    seed: int
    measured_shards: int
    measured: Measured
    estimates: tuple[Estimate, ...]
    assumptions: tuple[str, ...] = _ASSUMED
    combined: bool = False
    """Whether it is of runs that are balanced together, and of linking their matches instead of matching."""

    def __repr__(self) -> str:
        """Show what was measured and a table of estimates, as the command line does."""
        return render(self)


def plan(
    pool: Paths | ArrowTable | RunLike | Sequence[RunLike],
    metadata: MetadataLike | None = None,
    *,
    pairs: Sequence[int] = (),
    workers: Sequence[int] = (),
    shards: int = 3,
    seed: int = 0,
    settings: MatchSettings | None = None,
    options: RunOptions | None = None,
) -> Plan:
    """Measure `shards` shards of a pool, drawn by `seed`, and estimate what it takes to curate the pool.

    More shards are measured if they have fewer than 20,000 rows together: the pairs that are kept depend on the counts.
    `pool` can be a table of any library that speaks Arrow, as in `curate`. If it names runs, estimate what it
    takes to balance them together, which matches nothing again.

    There is an estimate for each number of `pairs` (default: the pool's) and of `workers` (default: the engine's). Raise
    MetaclipError if the pool or the list cannot be read, or if nothing matches.

    >>> from metaclip import plan
    >>> found = plan("curation/toy_pool.jsonl", "metadata/toy.txt", pairs=[10**9], workers=[64])
    >>> found.estimates[0].pairs, found.estimates[0].wall_seconds > 0
    (1000000000, True)
    """
    check_types(settings=(settings, MatchSettings | None), options=(options, RunOptions | None))
    for name, numbers in (("pairs", pairs), ("workers", workers), ("shards", [shards])):
        check_type(name, numbers, Sequence)
        for number in numbers:
            check_type(name, number, int)
            if number < 1:
                raise BadSetting(f"{name} is {number}, must be at least 1")
    if is_table(pool):
        with tempfile.TemporaryDirectory(prefix="metaclip-plan-") as folder:
            path = Path(folder, "pool.parquet")
            write_table(read_table(pool), path)
            return plan(
                path, metadata, pairs=pairs, workers=workers, shards=shards, seed=seed, settings=settings, options=options,
            )  # fmt: skip
    settings, options = settings or MatchSettings(), options or RunOptions()
    draw, engine = random.Random(seed), options.active_engine
    if runs := _find_runs(pool):
        if metadata is not None or settings != MatchSettings():
            raise MetaclipError(
                "runs are matched: plan them without a query list and settings, or plan their pools"
            )
        all_shards, items, step = _of_runs(runs, shards, draw, options)
    else:
        all_shards, items, step = _of_pool(pool, metadata, settings, shards, draw, engine)
    results = []
    for shard, item in items.items():
        # One at a time: they would share the machine's memory bus and blur each other.
        result = _run_step(engine, step, item)
        results.append(dataclasses.replace(result, input_bytes=_bytes_of(shard, all_shards)))
    measured = Measured.of(results)
    if not measured.matched:
        raise MetaclipError(
            f"none of the {measured.pairs} pairs that were measured matches any entry; "
            "check `metadata=...` and `MatchSettings(text_column=...)`"
        )
    rows = [shard.rows for shard in all_shards if shard.rows is not None]
    counted = len(all_shards) in (len(rows), len(results))
    if len(rows) == len(all_shards):
        in_pool = sum(rows)
    else:
        in_bytes = sum(_bytes_of(shard, all_shards) for shard in all_shards)
        in_pool = round(in_bytes * measured.pairs / measured.input_bytes)
    largest = max(SHARD_ROWS, round(measured.pairs / len(results)))

    def shards_of(number: int) -> int:
        return max(1, len(all_shards) * number // max(1, in_pool), math.ceil(number / largest))

    estimates = tuple(
        estimate(measured, number, of, shards_of(number))
        for number in pairs or (in_pool,)
        for of in workers or (options.active_engine.workers,)
    )
    return Plan(
        in_pool, counted, len(all_shards), seed, len(results), measured, estimates, combined=bool(runs)
    )


def _find_runs(pool: Any) -> list[Run]:
    """Return the runs, if they or their folders are given."""
    given = pool if isinstance(pool, list | tuple) else [pool]
    if any(isinstance(one, Run) for one in given):
        return [open_run(one) for one in given]
    folders = [Folder(path) for path in list_paths("pool", pool)]
    runs = [folder.manifest.get("stages", {}).keys() & {MATCH.name, BALANCE.name} for folder in folders]
    return [Run(folder.path) for folder in folders] if all(runs) else []


Items = tuple[list[Shard], dict[Shard, Any], PortableStep]
"""All shards; the items to measure, by shard; the step that measures them."""


def _of_pool(
    pool: Any, metadata: MetadataLike | None, settings: MatchSettings, least: int, draw: random.Random, engine: Engine,
) -> Items:  # fmt: skip
    """Draw `least` shards of a pool, or more until they have enough rows, and count them."""
    files = find_files(pool)
    entries, settings = read_metadata(metadata, settings)
    step = CountStep(settings, entries)
    _ = step.matcher  # building the automaton is not measured
    inputs = cut_pool(files, settings, by_language=bool(entries.languages))
    check_matched(inputs, settings, entries.digest)
    shards = inputs.shards
    items: dict[Shard, Any] = {}
    rows, counts = 0, np.zeros(len(entries), np.uint64)
    for shard in draw.sample(shards, min(len(shards), max(least, _MOST_SHARDS))):
        if len(items) >= least and rows >= _LEAST_ROWS:
            break
        more_rows, more_counts = _run_step(engine, step, shard)
        items[shard] = shard
        rows, counts = rows + more_rows, counts + more_counts
    return shards, items, MeasureStep(settings, entries, counts)


def _of_runs(runs: Sequence[Run], least: int, draw: random.Random, options: RunOptions) -> Items:
    """Draw `least` shards of runs that are balanced together."""
    check_combinable(runs, dataclasses.replace(options, allow_lost=True))
    items: dict[Shard, Any] = {}
    for one in runs:
        read = {item["name"]: item["read"] for item in one.match["shards"]}
        for shard in pool_shards(one):
            columns = one.shard_columns[shard.name]
            items[shard] = MatchedShard(shard, read[shard.name], columns, one.matched)
    shards = list(items)
    chosen = draw.sample(shards, min(least, len(shards)))
    counts = functools.reduce(operator.add, (one.counts for one in runs)).values
    return (
        shards,
        {shard: items[shard] for shard in chosen},
        MeasureMatchedStep(counts, runs[0].metadata.languages),
    )


def _run_step(engine: Engine, step: Any, item: Any) -> Any:
    """Run a step on one item. Raise the step's error."""
    ((_, result),) = engine.map(step, [item])
    if isinstance(result, BaseException):
        raise result
    return result


def _bytes_of(shard: Shard, shards: Sequence[Shard]) -> int:
    """Return the part of a file's bytes that a shard has, by its rows; 1 for a file of unknown size."""
    if shard.rows is None:
        return max(1, shard.file.size)
    rows = sum(other.rows or 0 for other in shards if other.file.path == shard.file.path)
    return max(1, round(shard.file.size * shard.rows / max(1, rows)))


def estimate(measured: Measured, pairs: int, workers: int, shards: int) -> Estimate:
    """Extrapolate what was measured to `pairs` pairs in `shards` shards on `workers` workers, of which each takes a shard."""
    factor, busy = pairs / measured.pairs, min(workers, shards)
    core = factor * (measured.match_seconds + measured.balance_seconds)
    passes = max(1, math.ceil(math.log(max(2, shards), FAN_IN)))
    add = factor * measured.sort_seconds * passes
    summed = shards * measured.sum_seconds
    kept = round(factor * measured.kept)
    matched = round(factor * measured.matched)
    curated = round(factor * measured.curated_bytes) + _UID * kept
    partial = round(factor * measured.partial_bytes) + (_UID * matched if passes > 1 else 0)
    kept_disk = round(factor * measured.matched_bytes) + curated
    return Estimate(
        pairs=pairs, workers=workers, shards=shards, input_bytes=round(factor * measured.input_bytes),
        matched=matched, kept=kept,
        core_seconds=core + summed, add_seconds=add,
        wall_seconds=measured.start + (factor * max(measured.wall, 1e-9) + summed) / busy + add,
        worker_memory=measured.memory,
        kept_disk=kept_disk, most_disk=kept_disk + partial,
    )  # fmt: skip


def render(found: Plan) -> str:
    """Show a plan to a reader at a terminal: what was measured, a table of estimates, what was assumed."""
    measured = found.measured
    lines = [
        f"pool      {'' if found.counted else 'about '}{found.pairs:,} pairs in {found.shards:,} shard{'s' * (found.shards > 1)}",
        f"measured  {measured.pairs:,} pairs in {found.measured_shards} of {found.shards:,} (seed {found.seed})",
        f"{'combine' if found.combined else 'match  '}   {1e6 * measured.match_seconds / measured.pairs:.2f} us of a core a pair",
        f"balance   {1e6 * measured.balance_seconds / measured.pairs:.2f} us of a core a pair",
        f"start     {duration(measured.start)} before a worker's first row",
        "",
        "| pairs | workers | core time | wall | memory a worker | input | disk at most | disk at the end | pairs kept |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {amount(one.pairs)} | {one.workers:,} | {_core_time(one.core_seconds + one.add_seconds)} "
        f"| {duration(one.wall_seconds)} | {size(one.worker_memory)} | {size(one.input_bytes)} | {size(one.most_disk)} "
        f"| {size(one.kept_disk)} | {amount(one.kept)} |"
        for one in found.estimates
    ]
    return "\n".join([*lines, "", "assumed   " + "\n          ".join(found.assumptions)])


def amount(number: int) -> str:
    """Write a number of pairs with three digits: 12.8 G."""
    return _scaled(number, ((10**9, " G"), (10**6, " M"), (10**3, " k"), (1, "")))


def size(number: int) -> str:
    """Write a number of bytes with three digits: 1.23 TB."""
    return _scaled(number, ((10**12, " TB"), (10**9, " GB"), (10**6, " MB"), (10**3, " kB")))


def _core_time(seconds: float) -> str:
    """Write a time of processor cores, in hours from one hour on: 51.0 h, 4 min 5 s."""
    return duration(seconds) if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def _scaled(number: int, units: Sequence[tuple[int, str]]) -> str:
    scale, unit = next((pair for pair in units if number >= pair[0]), units[-1])
    return f"{number / scale:.3g}{unit}"


def duration(seconds: float) -> str:
    """Write a time: 3 d 4 h, 2 h 10 min, 4 min 5 s, 3.2 s, 12 ms."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    units = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    large, one, small, other = next(unit for unit in units if round(seconds) >= unit[0])
    return f"{round(seconds) // large} {one} {round(seconds) % large // small} {other}"
