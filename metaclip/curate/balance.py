"""`balance`, the second stage of a run: matches and counts in; curated pairs, drawn by each entry's probability, out.

    entries.parquet      entry_id, entry, source, count, probability, expected, kept
    curated/*.parquet    the input's columns, uid, matches, keep_probability
    curated.npy          the uids of the curated pairs, sorted, in DataComp's subset format
    card.json card.md    the account (`metaclip.curate.account`)

The step for one shard is `metaclip.curate.balance_shard`, the law `metaclip.curate.draw`. t is given, or solved for a
share of the tail or for a number of pairs (`metaclip.curate.settings`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from metaclip.curate.account import has_account, remove_account, write_account
from metaclip.curate.balance_shard import DrawStep, ExpectStep, shard_entry_sums
from metaclip.curate.draw import FIXED_POINT, probabilities
from metaclip.curate.files import write_entries
from metaclip.curate.inputs import GROUP_BYTES, input_bytes, is_same_file
from metaclip.curate.match import lost_inputs_message
from metaclip.curate.run import Run
from metaclip.curate.settings import BALANCE, MATCH, BalanceSettings, MatchSettings, resolve
from metaclip.engine.contract import Progress, fold
from metaclip.errors import MetaclipError
from metaclip.matching.match_arrays import Counts
from metaclip.metadata.entries import Metadata
from metaclip.pool.files import PoolFile, stat_files
from metaclip.pool.shards import Shard
from metaclip.pool.sorted_uids import merge_runs, write_subset
from metaclip.stage import funnel as funnels
from metaclip.stage.folder import Folder
from metaclip.stage.runner import RunOptions, Task, run
from metaclip.stage.stage import Stage
from metaclip.storage.files import local_copies
from metaclip.storage.remote import absolute_path, relative_path


def balance(
    run: Run | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    settings: BalanceSettings | None = None,
    options: RunOptions | None = None,
) -> Run:
    """Balance a matched run, or continue where an earlier call stopped; return the balanced run.

    The result is written to the folder `out`, or to the run's own. Raise MetaclipError if the run is not matched, lost
    inputs (without `options.allow_lost`), or its pool has changed.
    """
    source, options = run if isinstance(run, Run) else Run(run), options or RunOptions()
    if source.match["lost"] and not options.allow_lost:
        raise MetaclipError(lost_inputs_message(source))
    return balance_matches(
        source, Folder(source.path if out is None else out), settings or BalanceSettings(), options
    )


def balance_matches(source: Run, folder: Folder, settings: BalanceSettings, options: RunOptions) -> Run:
    """Balance the matches of `source` into `folder`, whether inputs were lost or not; return the balanced run."""
    elsewhere = folder.path.resolve() != source.matched.path.resolve()
    if elsewhere and Stage(folder, MATCH).path.exists():
        raise MetaclipError(f"{folder.path} holds matches of its own; choose another --out")
    with folder.owned(), source.matched.read_locked() if elsewhere else contextlib.nullcontext():
        source = Run(
            source.path, source.counted
        )  # opened again, because only now nobody else can change it
        stage = Stage(folder, BALANCE)
        _run_stage(source, stage, elsewhere, settings, options)
        stage.remove_partials()
        balanced = Run(folder.path, source.counted)
        if not has_account(folder.path):
            write_account(balanced)
        return balanced


def _run_stage(
    source: Run, stage: Stage, elsewhere: bool, settings: BalanceSettings, options: RunOptions
) -> None:
    """Draw the shards that are left, combine their results, and write the stage's record."""
    folder, counts, matched = stage.folder, source.counts, source.matched
    settings = settings.normalized()
    fingerprint = {
        "semantics": BALANCE.semantics,
        "match": source.match["identity"],
        **settings.asked,
        "seed": settings.seed,
    }
    stage.begin(fingerprint, options.overwrite)
    if stage.finished() is not None:
        return
    _check_matches(source)
    remove_account(folder.path)  # it describes an earlier result
    t = _threshold(source, stage, settings, options)
    shards = _pool_shards(source)
    _draw(
        [shard for shard in shards if stage.marker(shard.name) is None],
        source,
        stage,
        t,
        settings.seed,
        options,
    )
    markers = {shard.name: stage.marker(shard.name) or {} for shard in shards}
    stage.remove_strays("curated", markers)
    sums = add_entry_sums(stage, list(markers), len(counts.values), options)
    totals = write_outputs(stage, source.metadata, counts, t, sums, markers, options.threads)
    funnel = funnels.add(marker["funnel"] for marker in markers.values())
    funnels.check(funnel, "matched", funnels.BALANCE_REASONS, "kept")
    manifest = matched.manifest
    match_settings = manifest["settings"]["match"]
    folder.write_recipe(
        {"match": MatchSettings(**{**match_settings, "rule": source.rule}), "balance": settings}
    )
    matches = {
        "folder": absolute_path(matched.path),
        "beside": relative_path(folder.path, matched.path),
        "record": source.match,
    }
    stage.finish(
        {
            "semantics": BALANCE.semantics,
            "match": matches if elsewhere else dict.fromkeys(matches),
            "t": t,
            "asked": next(
                f"{name} = {value:.15g}" for name, value in settings.asked.items() if value is not None
            ),
            "seed": settings.seed,
            **totals,
            "funnel": funnel,
        },
        **{key: manifest[key] for key in ("schema", "inputs", "versions", "list", "rule")},
        settings={"match": match_settings, "balance": dataclasses.asdict(settings)},
        funnel={**source.match["funnel"], **funnel},
    )


def _check_matches(source: Run) -> None:
    """Raise MetaclipError if a file of stage match is not as it was written."""
    matched, written = source.matched, source.match["files"]
    sizes = matched.sizes(written)
    for name, size in written.items():
        if sizes.get(name) != size:
            raise MetaclipError(
                f"{matched / name} is gone or not what the run wrote; the command that matched the pool mends it"
            )


def _threshold(source: Run, stage: Stage, settings: BalanceSettings, options: RunOptions) -> float:
    """Return t as an earlier call resolved it, else resolve it now."""
    names = [shard["name"] for shard in source.match["shards"]]
    counts = source.counts.values

    def expect(thresholds: npt.NDArray[np.float64]) -> list[float]:
        sums = fold(
            options.active_engine, ExpectStep(source.matched, counts, thresholds), names, operator.add
        )
        assert sums is not None  # rows matched
        return [number / FIXED_POINT for number in sums]

    if (solved := stage.marker("t")) is None:
        solved = {"t": resolve(settings, counts, source.match["funnel"]["matched"], expect)}
        stage.mark("t", solved)
    return float(solved["t"])


def _pool_shards(source: Run) -> list[Shard]:
    """Return the shards that the pool was matched in. Raise MetaclipError if a file of it is gone or has changed."""
    files: dict[int, PoolFile] = {}
    inputs = source.matched.manifest["inputs"]
    for known, found in zip(inputs, stat_files([known["path"] for known in inputs]), strict=True):
        if isinstance(found, MetaclipError):
            raise MetaclipError(
                f"the pool's file {known['path']} is gone ({found}); put it back, or name its new place to "
                f"metaclip match --out {source.matched.path} (which reads nothing twice)"
            )
        if not is_same_file(found, known):
            raise MetaclipError(
                f"{known['path']} has changed since it was matched; match again with --overwrite"
            )
        files[known["index"]] = dataclasses.replace(found, name=known["name"])
    shards = []
    for item in source.match["shards"]:
        index, number = map(int, item["name"].split("-"))
        groups = None if item["groups"] is None else tuple(item["groups"])
        shards.append(Shard(files[index], index, number, item["first"], groups, item["rows"]))
    return shards


def _draw(
    shards: Sequence[Shard], source: Run, stage: Stage, t: float, seed: int, options: RunOptions
) -> None:
    """Draw shards and mark them. Raise BrokenInput for a shard that can no longer be read."""
    if not shards:
        return
    read = {item["name"]: item["read"] for item in source.match["shards"]}
    settings = MatchSettings(**{f"{role}_column": name for role, name in source.match["columns"].items()})
    step = DrawStep(stage, source.matched, settings, source.counts.values, t, seed)
    (stage.folder / "curated").mkdir(exist_ok=True)
    tasks = [
        Task(shard.name, (shard, read[shard.name]), shard.file.path, weight=input_bytes(shard))
        for shard in shards
    ]
    with Progress("balance", sum(read[shard.name] for shard in shards), options.progress) as progress:
        for _ in run(stage, step, tasks, options, progress, group=GROUP_BYTES):
            pass


def add_entry_sums(
    stage: Stage, shards: Sequence[str], n_entries: int, options: RunOptions
) -> npt.NDArray[np.uint64]:
    """Add what drawn shards left by entry (`shard_entry_sums`), first in the workers and then here."""
    read = functools.partial(shard_entry_sums, stage=stage, n_entries=n_entries)
    sums = fold(options.active_engine, read, shards, operator.add)
    return np.zeros((3, n_entries), np.uint64) if sums is None else sums


def write_outputs(
    stage: Stage, metadata: Metadata, counts: Counts, t: float, entry_sums: npt.NDArray[np.uint64],
    markers: Mapping[str, Mapping[str, Any]], threads: int = 1,
) -> dict[str, float]:  # fmt: skip
    """Write entries.parquet of the summed `shard_entry_sums`, and curated.npy of what finished shards left.

    Return the expected number of pairs, its standard deviation and the number kept, by their keys in the stage's record.
    """
    folder = stage.folder
    expected, variance = (
        sum(marker[key] for marker in markers.values()) for key in ("expected", "variance")
    )
    kept = sum(marker["funnel"]["kept"] for marker in markers.values())
    existing = set(stage.path.glob("*.repeats.npy"))
    with local_copies(
        [path for name in markers if (path := stage.path / f"{name}.repeats.npy") in existing]
    ) as runs:
        variance += sum(_repeats_variance(block) for block in merge_runs(runs))
    with local_copies([stage.path / f"{name}.uids.npy" for name in markers]) as runs:
        write_subset(folder / "curated.npy", merge_runs(runs, threads=threads), kept)
    whole, fraction, entry_kept = entry_sums
    entry_expected = whole.astype(np.float64) + fraction.astype(np.float64) / FIXED_POINT
    probability = probabilities(counts.values, t)
    write_entries(folder / "entries.parquet", metadata, counts, probability, entry_expected, entry_kept)
    return {
        "expected": expected / FIXED_POINT,
        "deviation": math.sqrt(variance / FIXED_POINT),
        "kept": kept,
    }


def _repeats_variance(block: npt.NDArray[np.uint64]) -> int:
    """Return the variance of the number kept, summed over uids that stand on several rows, in units of 1 / FIXED_POINT.

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
