"""What stage `balance` makes of the shards that it drew: entries.parquet, curated.npy, and the sums of its record."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from metaclip.curate.balance_shard import shard_entry_sums
from metaclip.curate.draw import FIXED_POINT, Thresholds, probabilities
from metaclip.curate.tables import write_entries
from metaclip.engine import fold
from metaclip.matching import Counts
from metaclip.metadata import Metadata
from metaclip.pool.sorted_uids import merge_runs, write_subset
from metaclip.stage.runner import RunOptions
from metaclip.stage.stage import Stage
from metaclip.storage.files import local_copies


def add_entry_sums(
    stage: Stage, shards: Sequence[str], n_entries: int, options: RunOptions
) -> npt.NDArray[np.uint64]:
    """Add what drawn shards left by entry (`shard_entry_sums`), first in the workers and then here."""
    read = functools.partial(shard_entry_sums, stage=stage, n_entries=n_entries)
    sums = fold(options.active_engine, read, shards, operator.add)
    return np.zeros((3, n_entries), np.uint64) if sums is None else sums


def write_outputs(
    stage: Stage, metadata: Metadata, counts: Counts, t: Thresholds, entry_sums: npt.NDArray[np.uint64],
    markers: Mapping[str, Mapping[str, Any]], threads: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Write entries.parquet of the summed `shard_entry_sums`, and curated.npy of what finished shards left.

    Return the expected number of pairs, its standard deviation and the number kept, by their keys in the stage's record.
    """
    folder = stage.folder
    expected, variance = (
        sum(marker[key] for marker in markers.values()) for key in ("expected", "variance")
    )
    kept = sum(marker["funnel"]["kept"] for marker in markers.values())
    existing = set(stage.path.glob("*.repeats.npy"))
    repeats = [
        stage.partial(name, "repeats.npy")
        for name in markers
        if stage.path / f"{name}.repeats.npy" in existing
    ]
    with local_copies(repeats) as runs:
        variance += sum(_repeats_variance(block) for block in merge_runs(runs, columns=3))
    with local_copies([stage.partial(name, "uids.npy") for name in markers]) as runs:
        write_subset(folder / "curated.npy", merge_runs(runs, threads=threads), kept)
    whole, fraction, entry_kept = entry_sums
    entry_expected = whole.astype(np.float64) + fraction.astype(np.float64) / FIXED_POINT
    probability = probabilities(counts.values, t)
    write_entries(
        folder / "entries.parquet", metadata, counts, t, probability, entry_expected, entry_kept
    )
    totals = {
        "expected": expected / FIXED_POINT,
        "deviation": math.sqrt(variance / FIXED_POINT),
        "kept": kept,
    }
    if metadata.languages:
        parts = [marker["languages"] for marker in markers.values()]
        return totals | {"languages": add_languages(parts, metadata)}
    return totals


def add_languages(
    parts: Sequence[Mapping[str, Sequence[int]]], metadata: Metadata
) -> dict[str, dict[str, float]]:
    """Add what `LanguageSums` give: the pairs that match an entry of each language, expected and kept ones."""
    sums = {name: [0, 0, 0] for name in metadata.languages}
    for part in parts:
        for name, added in part.items():
            sums[name] = [one + more for one, more in zip(sums[name], added, strict=True)]
    return {
        name: {"matched": matched, "expected": expected / FIXED_POINT, "kept": kept}
        for name, (matched, expected, kept) in sums.items()
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
