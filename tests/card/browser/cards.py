"""Cards for tests: of a small real run, and of half a million synthetic entries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from metaclip import MatchSettings, Metadata, Run, RunOptions, curate
from metaclip.card.explorer.writer import write_explorer
from metaclip.card.threshold_grid import (
    ThresholdGrid,
    choose_thresholds,
    make_grid,
    relative_slopes,
    sum_file,
)
from metaclip.curate.draw import probabilities
from metaclip.curate.settings import MATCH_REASONS

ROOT = Path(__file__).parents[3]
ONE = RunOptions(workers=1)


class Made(NamedTuple):
    """A card's folder, and what it was made from."""

    folder: Path
    run: Run
    entries: pa.Table
    grid: ThresholdGrid


def grid_of(run: Run) -> ThresholdGrid:
    """Compute the grid of a run."""
    counts = run.counts.values
    thresholds = choose_thresholds(counts, run.t, run.thresholds)
    slope = relative_slopes(counts, run.t, run.thresholds)
    files = sorted((run.matched / "matched").glob("*.parquet"))
    sums, by_entry = zip(*(sum_file(file, slope, thresholds, 1.0) for file in files), strict=True)
    return make_grid(counts, thresholds, 1.0, sum(sums), sum(by_entry), run.t, run.thresholds)


def with_samples(run: Run, texts: str = "text") -> pa.Table:
    """Return a run's entries with up to five of its captions each, ordered by uid."""
    samples: list[list[str]] = [[] for _ in range(len(run.entries))]
    curated = run.curated.sort_by("uid")
    for text, matches in zip(curated[texts].to_pylist(), curated["matches"].to_pylist(), strict=True):
        for entry_id in matches:
            if len(samples[entry_id]) < 5:
                samples[entry_id].append(text)
    return run.entries.append_column("samples", pa.array(samples, pa.list_(pa.string())))


def make_card(
    folder: Path, pairs: Sequence[Mapping[str, Any]], metadata: Metadata, *, t: float, name: str = "a card",
    look_ups: bool | None = None, settings: MatchSettings | None = None, seed: int = 0,
    weights: Mapping[str, float] | None = None,
) -> Made:  # fmt: skip
    """Curate pairs and write the page of the run into ``folder / "card"``."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = folder / "pool.jsonl"
    pool.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    run = curate(
        pool,
        metadata,
        t=t,
        seed=seed,
        weights=weights,
        out=folder / "run",
        settings=settings,
        options=ONE,
    )
    entries, grid = with_samples(run), grid_of(run)
    write_explorer(
        folder / "card",
        name=name,
        account=run.account,
        entries=entries,
        grid=grid,
        run=run,
        look_ups=look_ups,
    )
    return Made(folder / "card", run, entries, grid)


def toy_card(folder: Path, weights: Mapping[str, float] | None = None) -> Made:
    """Make the page of the shipped toy pool."""
    lines = (ROOT / "curation" / "toy_pool.jsonl").read_text(encoding="utf-8").splitlines()
    metadata = Metadata.read(ROOT / "metadata" / "toy.txt")
    pairs = [json.loads(line) for line in lines]
    return make_card(folder, pairs, metadata, t=20, name="toy", weights=weights)


def large_table(entries: Sequence[str], t: float, seed: int = 0) -> pa.Table:
    """Return a table of entries with counts by Zipf's law in random order, and five captions for each count above 0."""
    rng, n = np.random.default_rng(seed), len(entries)
    # A quarter at zero and a head of tens of millions, as in the published runs.
    count = np.floor(6e7 / (1.0 + rng.permutation(n).astype(np.float64)) ** 1.35).astype(np.uint64)
    probability = probabilities(count, t)
    expected = count * np.minimum(1.0, probability * (1.0 + rng.random(n)))
    samples = [
        [f"{entry} near {entries[(i * 7 + j) % n]}, seen {i + j}" for j in range(5)] if count[i] else []
        for i, entry in enumerate(entries)
    ]
    sources = pa.array(np.array(["WordNet", "unigrams", "bigrams", "titles"])[rng.integers(0, 4, n)])
    return pa.table(
        {
            "entry_id": np.arange(n, dtype=np.uint32), "entry": pa.array(entries), "source": sources, "count": count,
            "probability": probability, "expected": expected, "kept": np.floor(expected).astype(np.uint64),
            "samples": pa.array(samples, pa.list_(pa.string())),
        }
    )  # fmt: skip


def large_grid(table: pa.Table, t: float) -> ThresholdGrid:
    """Return the grid of a run in which every pair matches one entry."""
    count = table["count"].to_numpy()
    thresholds = choose_thresholds(count, t)
    expected = np.minimum(count[None, :].astype(np.float64), thresholds[:, None])
    shares = np.array([count[count < x].sum() / count.sum() for x in thresholds])
    return ThresholdGrid(thresholds, expected.sum(axis=1), shares, expected)


def large_account(table: pa.Table, t: float) -> dict[str, Any]:
    """Return the parts of an account that the page reads, for a table that no run made."""
    count, kept = table["count"].to_numpy(), table["kept"].to_numpy()
    matched, rows = int(count.sum() // 3), int(count.sum())
    head, zero = int((count >= t).sum()), int((count == 0).sum())
    lost = {"no_match": rows - matched, "matched": matched, "not_drawn": matched - int(kept.sum() // 3)}
    return {
        "created": "2026-01-01T00:00:00+00:00", "versions": {"metaclip": "0"}, "result_digest": "0" * 64,
        "list": {"digest": "0" * 64, "entries": len(table), "sources": {}}, "rule": {},
        "balance": {"t": t, "tail_share": 0.06, "seed": 2**64 - 1, "epoch": 0, "asked": f"t = {t}"},
        "funnel": {"rows": rows, **dict.fromkeys(MATCH_REASONS, 0), **lost, "kept": int(kept.sum() // 3)},
        "entries": {"zero": zero, "tail": len(table) - head - zero, "head": head},
        "pairs": {"matched": matched, "expected": kept.sum() / 3, "deviation": 1.0, "kept": int(kept.sum() // 3),
                  "repeated_uids": 0, "repeated_rows": 0},
        "inputs": [], "lost_inputs": [], "top_entries": [],
    }  # fmt: skip
