"""A run's card on an engine: what a card needs of all shards, then its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from metaclip.card import grid, origins, publish, samples
from metaclip.card import verify as verifying
from metaclip.card.publish import About, Findings
from metaclip.chain.work import Work, writing
from metaclip.curation.matcher import Matcher
from metaclip.curation.run import Run
from metaclip.curation.text_rule import TextRule
from metaclip.engine import local
from metaclip.engine.progress import Progress
from metaclip.errors import MetaclipError
from metaclip.metadata.entries import Metadata
from metaclip.shard.folder import Folder

Result = TypeVar("Result")
_BLOCKED_RULE = TextRule(fold_case=True, unicode_separators=True)
_MOST_WORKERS = 4  # each holds the grid's sums by entry: 100 MB for 500,000 entries


def card(
    run: Run | str | os.PathLike[str],
    out: str | os.PathLike[str],
    about: About,
    *,
    blocked: Metadata | None = None,
    work: Work | None = None,
) -> dict[str, Any]:
    """Make the card of a balanced run in the folder `out`; give card.json.

    Captions with one of the `blocked` words are no samples. Raise MetaclipError for a run that is not balanced, and
    for a folder that holds something else.
    """
    run, work, folder = run if isinstance(run, Run) else Run(run), work or Work(), Folder(out)
    _ = run.account  # there is none of a run that is not balanced
    there = {path.name for path in folder.path.iterdir()} if folder.path.is_dir() else set()
    if strange := sorted(name for name in there - set(publish.NAMES) if not name.startswith(".")):
        raise MetaclipError(f"{folder.path} holds {strange[0]}, which is of no card; choose another --out")
    with writing(folder):
        return publish.write_card(folder.path, run, about, find(run, blocked, work))


def verify(
    folder: str | os.PathLike[str],
    run: Run | str | os.PathLike[str],
    *,
    blocked: Metadata | None = None,
    work: Work | None = None,
) -> list[str]:
    """List what in a card does not follow from its run; see `metaclip.card.verify`."""
    run, work, path = run if isinstance(run, Run) else Run(run), work or Work(), Path(folder)
    card = verifying.read_card(path)
    if card["result_digest"] != run.account["result_digest"]:
        raise MetaclipError(
            f"{path} is the card of the result {card['result_digest'][:16]}, {run.path} holds "
            f"{run.account['result_digest'][:16]}; give the run that the card was made from"
        )
    return verifying.differences(path, card, run, find(run, blocked, work))


def find(run: Run, blocked: Metadata | None, work: Work) -> Findings:
    """Look up in all shards what a card needs."""
    matcher = None if blocked is None else Matcher(blocked, _BLOCKED_RULE, cache=False)
    counts, t, text = run.counts.values, run.t, run.match["columns"]["text"]
    thresholds, share = grid.thresholds_of(counts, t), grid.share_of(run.match["funnel"]["matched"])
    matched = sorted((run.matched / "matched").glob("*.parquet"))
    curated = sorted((run.path / "curated").glob("*.parquet"))
    sums, by_entry = np.zeros(len(thresholds), np.uint64), np.zeros((len(counts), len(thresholds)), np.uint64)
    found, places = samples.merge([]), origins.Origins()
    with Progress("card", len(matched) + len(curated), work.progress) as progress:
        for one, each in _each(lambda path: grid.grid_shard(path, counts, thresholds, share), matched, work):
            sums += one
            by_entry += each
            progress.advance(1, 0)

        def look(path: Path) -> tuple[samples.Samples, origins.Origins]:
            return samples.sample_shard(path, text, matcher), origins.origins_shard(path, run.match["columns"]["url"])

        for drawn, where in _each(look, curated, work):
            found = samples.merge([found, drawn])
            places.add(where)
            progress.advance(1, 0)
    return Findings(grid.finish(counts, thresholds, share, sums, by_entry), found, places)


def _each(step: Callable[[Path], Result], paths: Sequence[Path], work: Work) -> Any:
    for path, result in local.run(step, paths, min(work.threads, _MOST_WORKERS), local.Stop()):
        if isinstance(result, (OSError, ValueError)):
            raise MetaclipError(f"{path} cannot be read ({result}); balance the run again with --overwrite") from result
        if isinstance(result, BaseException):
            raise result
        yield result
