"""A run's card on an engine: what a card needs of all shards, then its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from metaclip.card import grid, origins, publish, samples
from metaclip.card import verify as verifying
from metaclip.card.classes import Classes, Coverage
from metaclip.card.intact import check_intact
from metaclip.card.publish import About, Findings
from metaclip.curate.run import Run, local_run
from metaclip.engine.local import Local
from metaclip.engine.progress import Progress
from metaclip.errors import MetaclipError, one_line
from metaclip.matching.matcher import Matcher
from metaclip.matching.text_rule import TextRule
from metaclip.metadata.entries import Metadata
from metaclip.stage.folder import Folder
from metaclip.stage.options import RunOptions
from metaclip.storage.files import disk_errors, local_folder, uploaded_folder
from metaclip.storage.remote import as_path

Item = TypeVar("Item")
Result = TypeVar("Result")
_BLOCKED_RULE = TextRule(fold_case=True, unicode_separators=True)
_MOST_WORKERS = 4  # each holds the grid's sums by entry: 100 MB for 500,000 entries


def card(
    run: Run | str | os.PathLike[str],
    out: str | os.PathLike[str],
    about: About,
    *,
    blocked: Metadata | None = None,
    classes: Sequence[Classes] = (),
    options: RunOptions | None = None,
) -> dict[str, Any]:
    """Make the card of a balanced run in the folder `out`; give card.json.

    Captions with one of the `blocked` words are no samples; the coverage of `classes` is told. Raise MetaclipError for a
    run that is not balanced, or not as it was written, and for a folder that holds something else.
    """
    run, options, folder = run if isinstance(run, Run) else Run(run), options or RunOptions(), Folder(out)
    with local_run(run) as near:
        check_intact(near)
        there = {path.name for path in folder.path.iterdir()} if folder.path.is_dir() else set()
        if strange := sorted(name for name in there - set(publish.NAMES) if not name.startswith(".")):
            raise MetaclipError(f"{folder.path} holds {strange[0]}, which is of no card; choose another --out")
        with disk_errors(folder.path), uploaded_folder(folder.path, last="card.json") as to:
            return publish.write_card(to, near, about, find(near, blocked, options, classes))


def about_next(run: str, card: str | None, out: str) -> About:
    """Say of a run's next version what its card says. Raise MetaclipError for the card of another run."""
    if card is None:
        return About(Path(out).resolve().name)
    said = verifying.read_card(Path(card))
    _refuse_other(Path(card), said, Run(run))
    return verifying.about_of(said)


def classes_of(card: str) -> list[Classes]:
    """Give the class names whose coverage a card tells."""
    return Classes.of_card(verifying.read_card(Path(card)))


def _refuse_other(path: Path, card: Mapping[str, Any], run: Run) -> None:
    if card["result_digest"] != run.account["result_digest"]:
        raise MetaclipError(
            f"{path} is the card of the result {card['result_digest'][:16]}, {run.path} holds "
            f"{run.account['result_digest'][:16]}; give the run that the card was made from"
        )


def verify(
    folder: str | os.PathLike[str],
    run: Run | str | os.PathLike[str],
    *,
    blocked: Metadata | None = None,
    options: RunOptions | None = None,
) -> list[str]:
    """List what in a card does not follow from its run; see `metaclip.card.verify`."""
    run, options, path = run if isinstance(run, Run) else Run(run), options or RunOptions(), as_path(folder)
    card = verifying.read_card(path)
    _refuse_other(path, card, run)
    with local_run(run) as near, local_folder(path) as read:
        return verifying.differences(read, card, near, find(near, blocked, options, Classes.of_card(card)))


def find(run: Run, blocked: Metadata | None, options: RunOptions, classes: Sequence[Classes] = ()) -> Findings:
    """Look up in all shards what a card needs."""
    matcher = None if blocked is None else Matcher(blocked, _BLOCKED_RULE, cache=False)
    counts, t, text = run.counts.values, run.t, run.match["columns"]["text"]
    thresholds, share = grid.thresholds_of(counts, t), grid.share_of(run.match["funnel"]["matched"])
    matched = sorted((run.matched / "matched").glob("*.parquet"))
    curated = sorted((run.path / "curated").glob("*.parquet"))
    sums, by_entry = np.zeros(len(thresholds), np.uint64), np.zeros((len(counts), len(thresholds)), np.uint64)
    found, places, coverage = samples.merge([]), origins.Origins(), Coverage(run, classes)
    with Progress("card", len(matched) + len(curated), options.progress) as progress:

        def expect(path: Path) -> tuple[Path, Any, Any, Any]:
            return path, *grid.grid_shard(path, counts, thresholds, share), coverage.search(path)

        def look(path: Path) -> tuple[Path, samples.Samples, origins.Origins, Any]:
            where = origins.origins_shard(path, run.match["columns"]["url"])
            return path, samples.sample_shard(path, text, matcher), where, coverage.search(path)

        for path, one, parts, names in each(expect, matched, options):
            sums += one
            by_entry += parts
            coverage.add(path, names)
            progress.advance(1, 0)
        for path, drawn, where, names in each(look, curated, options):
            found = samples.merge([found, drawn])
            places.add(where)
            coverage.add(path, names)
            progress.advance(1, 0)
    return Findings(grid.finish(counts, thresholds, share, sums, by_entry), found, places, coverage.result())


def each(
    step: Callable[[Item], Result], items: Iterable[Item], options: RunOptions, most: int = _MOST_WORKERS
) -> Iterator[Result]:
    """Yield what a step returns for each item, in any order. Raise MetaclipError for a file that is not of its form."""
    engine = Local(min(options.threads, most))
    for item, result in engine.map(lambda item, progress: step(item), items):
        if isinstance(result, pa.ArrowException):
            raise MetaclipError(
                f"{item} cannot be read ({one_line(result)}); balance the run again with --overwrite"
            ) from result
        if isinstance(result, BaseException):
            raise result
        yield result
