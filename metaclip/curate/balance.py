"""`balance`, the second stage of a run: matches and counts in; curated pairs, drawn by each entry's probability, out.

    entries.parquet      entry_id, entry, source, count, probability, expected, kept
    curated/*.parquet    the input's columns, uid, matches, keep_probability
    curated.npy          the uids of the curated pairs, sorted, in DataComp's subset format
    card.json card.md    the account (`metaclip.curate.account`)

The step for one shard is `metaclip.curate.balance_shard`, the law `metaclip.curate.draw`. t is given, or solved for a
share of the tail or for a number of pairs (`metaclip.curate.threshold`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.curate.account import has_account, remove_account, write_account
from metaclip.curate.balance_shard import DrawStep, ExpectStep, shard_tally
from metaclip.curate.draw import FIXED_POINT, probabilities
from metaclip.curate.inputs import GROUP_BYTES, same_file, task_of
from metaclip.curate.match import lost_inputs_message
from metaclip.curate.matched_files import COMPRESSION
from metaclip.curate.run import Run
from metaclip.curate.settings import DEFAULT_TAIL_SHARE, BalanceSettings, MatchSettings
from metaclip.curate.stages import BALANCE, MATCH
from metaclip.curate.threshold import resolve
from metaclip.engine.contract import fold
from metaclip.engine.progress import Progress
from metaclip.errors import MetaclipError
from metaclip.matching.count import Counts
from metaclip.metadata.entries import Metadata
from metaclip.pool.files import PoolFile, stat_files
from metaclip.pool.shards import Shard
from metaclip.pool.sorted_uids import merge_runs, write_subset
from metaclip.stage import funnel as funnels
from metaclip.stage.folder import Folder
from metaclip.stage.options import RunOptions
from metaclip.stage.runner import Task, run
from metaclip.stage.stage import Stage
from metaclip.storage.files import atomic_write, local_copies
from metaclip.storage.remote import absolute_path, relative_path


def balance(
    run: Run | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    settings: BalanceSettings | None = None,
    options: RunOptions | None = None,
) -> Run:
    """Balance a matched run, in its own folder or in another, or go on where an earlier call stopped.

    Raise MetaclipError if the run is not matched, lost inputs (without `work.allow_lost`), or its pool has changed.
    """
    settings, options = settings or BalanceSettings(), options or RunOptions()
    source = run if isinstance(run, Run) else Run(run)
    folder = Folder(source.path if out is None else out)
    elsewhere = folder.path.resolve() != source.matched.path.resolve()
    if elsewhere and Stage(folder, MATCH).path.exists():
        raise MetaclipError(f"{folder.path} holds matches of its own; choose another --out")
    if source.match["lost"] and not options.allow_lost:
        raise MetaclipError(lost_inputs_message(source))
    with folder.owned(), source.matched.read_locked() if elsewhere else contextlib.nullcontext():
        stage = Stage(folder, BALANCE)
        # Opened again, for now no one changes it.
        _balance(Run(source.path, source.counted), stage, elsewhere, settings, options)
        stage.tidy()
        if not has_account(folder.path):
            write_account(Run(folder.path, source.counted))
    return Run(folder.path, source.counted)


def _balance(source: Run, stage: Stage, elsewhere: bool, settings: BalanceSettings, options: RunOptions) -> None:
    """Draw what is not drawn yet, add up, and write the stage's record."""
    folder, counts, matched = stage.folder, source.counts, source.matched
    settings = _as_in_recipe(settings)
    asked = {"t": settings.t, "tail_share": settings.tail_share, "target_pairs": settings.target_pairs}
    if set(asked.values()) == {None}:
        asked["tail_share"] = DEFAULT_TAIL_SHARE
    fingerprint = {
        "semantics": BALANCE.semantics,
        "match": source.match["identity"],
        **asked,
        "seed": settings.seed,
    }
    stage.begin(fingerprint, options.overwrite)
    if stage.finished() is not None:
        return
    sizes = matched.sizes(source.match["files"])
    for name, size in source.match["files"].items():
        if sizes.get(name) != size:
            raise MetaclipError(
                f"{matched / name} is gone or not what the run wrote; the command that matched the pool mends it"
            )
    remove_account(folder.path)  # of what is made anew now
    t = _threshold(source, stage, settings, options)
    shards = _shards(source)
    todo = [shard for shard in shards if stage.marker(shard.name) is None]
    if todo:
        _draw(todo, source, stage, t, settings.seed, options)
    markers = {shard.name: stage.marker(shard.name) or {} for shard in shards}
    stage.remove_strays("curated", markers)
    summed = add_tallies(stage, list(markers), len(counts.values), options)
    result = write_outputs(stage, source.metadata, counts, t, summed, markers, options.threads)
    funnel = funnels.add(marker["funnel"] for marker in markers.values())
    funnels.check(funnel, "matched", funnels.BALANCE_REASONS, "kept")
    made = matched.manifest
    match_settings = made["settings"]["match"]
    tables = {"match": MatchSettings(**{**match_settings, "rule": source.rule}), "balance": settings}
    folder.write_recipe(tables)
    of = {
        "folder": absolute_path(matched.path),
        "beside": relative_path(folder.path, matched.path),
        "record": source.match,
    }
    stage.finish(
        {
            "semantics": BALANCE.semantics,
            "match": of if elsewhere else dict.fromkeys(of),
            "t": t,
            "asked": next(f"{name} = {value:.15g}" for name, value in asked.items() if value is not None),
            "seed": settings.seed,
            "expected": result.expected,
            "deviation": result.deviation,
            "kept": result.kept,
            "funnel": funnel,
        },
        **{key: made[key] for key in ("schema", "inputs", "versions", "list", "rule")},
        settings={"match": match_settings, "balance": dataclasses.asdict(settings)},
        funnel={**source.match["funnel"], **funnel},
    )


def add_tallies(stage: Stage, shards: Sequence[str], n_entries: int, options: RunOptions) -> npt.NDArray[np.uint64]:
    """Add what drawn shards left by entry (`shard_tally`), first in the workers and then here."""
    read = functools.partial(shard_tally, stage=stage, n_entries=n_entries)
    summed = fold(options.active_engine, read, shards, operator.add)
    return np.zeros((3, n_entries), np.uint64) if summed is None else summed


def _as_in_recipe(settings: BalanceSettings) -> BalanceSettings:
    """Give settings with the types that a recipe would have: a notebook's t = 20 is the command line's 20.0."""

    def of(kind: Any, value: Any) -> Any:
        return None if value is None else kind(value)

    return BalanceSettings(
        of(float, settings.t), of(float, settings.tail_share), of(int, settings.target_pairs), int(settings.seed)
    )


def _threshold(source: Run, stage: Stage, settings: BalanceSettings, options: RunOptions) -> float:
    """Solve t, or take what was solved before."""
    names = [shard["name"] for shard in source.match["shards"]]
    counts = source.counts.values

    def expect(thresholds: npt.NDArray[np.float64]) -> list[float]:
        sums = fold(options.active_engine, ExpectStep(source.matched, counts, thresholds), names, operator.add)
        assert sums is not None  # rows matched
        return [number / FIXED_POINT for number in sums]

    if (solved := stage.marker("t")) is None:
        solved = {"t": resolve(settings, counts, source.match["funnel"]["matched"], expect)}
        stage.mark("t", solved)
    return float(solved["t"])


def _shards(source: Run) -> list[Shard]:
    """Cut the pool as it was cut to be matched. Raise MetaclipError if a file of it is gone or has changed."""
    files: dict[int, PoolFile] = {}
    inputs_known = source.matched.manifest["inputs"]
    for known, found in zip(inputs_known, stat_files([known["path"] for known in inputs_known]), strict=True):
        if isinstance(found, MetaclipError):
            raise MetaclipError(
                f"the pool's file {known['path']} is gone ({found}); put it back, or name its new place to "
                f"metaclip match --out {source.matched.path} (which reads nothing twice)"
            )
        if not same_file(found, known):
            raise MetaclipError(f"{known['path']} has changed since it was matched; match again with --overwrite")
        files[known["index"]] = dataclasses.replace(found, name=known["name"])
    shards = []
    for item in source.match["shards"]:
        index, number = map(int, item["name"].split("-"))
        groups = None if item["groups"] is None else tuple(item["groups"])
        shards.append(Shard(files[index], index, number, item["first"], groups, item["rows"]))
    return shards


def _draw(todo: Sequence[Shard], source: Run, stage: Stage, t: float, seed: int, options: RunOptions) -> None:
    """Draw shards and mark them. Raise BrokenInput for a shard that cannot be read any more."""
    read = {item["name"]: item["read"] for item in source.match["shards"]}
    columns = source.match["columns"]
    settings = MatchSettings(text_column=columns["text"], url_column=columns["url"], uid_column=columns["uid"])
    step = DrawStep(stage, source.matched, settings, source.counts.values, t, seed)
    (stage.folder / "curated").mkdir(exist_ok=True)
    tasks = [
        Task(shard.name, (shard, read[shard.name]), shard.file.path, weight=task_of(shard).weight) for shard in todo
    ]
    with Progress("balance", sum(read[shard.name] for shard in todo), options.progress) as progress:
        for _ in run(stage, step, tasks, options, progress, group=GROUP_BYTES):
            pass


@dataclasses.dataclass(frozen=True)
class Balanced:
    """What the stage adds up to."""

    entry_expected: npt.NDArray[np.float64]
    entry_kept: npt.NDArray[np.uint64]
    expected: float
    deviation: float
    kept: int


def write_outputs(
    stage: Stage, metadata: Metadata, counts: Counts, t: float, tally: npt.NDArray[np.uint64],
    markers: Mapping[str, Mapping[str, Any]], threads: int = 1,
) -> Balanced:  # fmt: skip
    """Write entries.parquet of the summed `shard_tally`, and curated.npy of what finished shards left."""
    folder, names = stage.folder, list(markers)
    whole, fraction, kept = tally
    expected, variance = (sum(marker[key] for marker in markers.values()) for key in ("expected", "variance"))
    total = sum(marker["funnel"]["kept"] for marker in markers.values())
    there = set(stage.path.glob("*.repeats.npy"))
    with local_copies([path for name in names if (path := stage.path / f"{name}.repeats.npy") in there]) as runs:
        variance += sum(_repeats_variance(block) for block in merge_runs(runs))
    with local_copies([stage.path / f"{name}.uids.npy" for name in names]) as runs:
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
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression=COMPRESSION, use_dictionary=["source"])
