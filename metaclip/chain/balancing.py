"""The second stage on an engine: matches and counts in, curated pairs and the account in a run folder out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from metaclip.card.account import has_account, remove_account, write_account
from metaclip.chain import inputs
from metaclip.chain.matching import lost_message
from metaclip.chain.work import Place, Work, write_recipe, writing
from metaclip.curation import balance as balancing
from metaclip.curation import match as matching
from metaclip.curation import pool as pools
from metaclip.curation.draw import FIXED_POINT
from metaclip.curation.match import MatchSettings
from metaclip.curation.pool import PoolFile, Shard
from metaclip.curation.run import Run
from metaclip.curation.threshold import DEFAULT_TAIL_SHARE, BalanceSettings, resolve
from metaclip.engine.progress import Progress
from metaclip.errors import MetaclipError
from metaclip.shard import funnel as funnels
from metaclip.shard.engine import Bound, Tell, fold, map_grouped
from metaclip.shard.files import here
from metaclip.shard.folder import Folder
from metaclip.shard.remote import absolute, beside
from metaclip.shard.stage import Stage


def balance(
    run: Run | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    settings: BalanceSettings | None = None,
    work: Work | None = None,
) -> Run:
    """Balance a matched run, in its own folder or in another, or go on where an earlier call stopped.

    Raise MetaclipError if the run is not matched, lost inputs (without `work.allow_lost`), or its pool has changed.
    """
    settings, work = settings or BalanceSettings(), work or Work()
    source = run if isinstance(run, Run) else Run(run)
    folder = Folder(source.path if out is None else out)
    elsewhere = folder.path.resolve() != source.matched.path.resolve()
    if elsewhere and folder.stage(matching.STAGE).path.exists():
        raise MetaclipError(f"{folder.path} holds matches of its own; choose another --out")
    if source.match["lost"] and not work.allow_lost:
        raise MetaclipError(lost_message(source))
    with writing(folder), folder.owned(), source.matched.held() if elsewhere else contextlib.nullcontext():
        stage = folder.stage(balancing.STAGE)
        # Opened again, for now no one changes it.
        _balance(Run(source.path, source.counted), stage, elsewhere, settings, work)
        stage.tidy(balancing.PARTIALS)
        if not has_account(folder.path):
            write_account(Run(folder.path, source.counted))
    return Run(folder.path, source.counted)


def _balance(source: Run, stage: Stage, elsewhere: bool, settings: BalanceSettings, work: Work) -> None:
    """Draw what is not drawn yet, add up, and write the stage's record."""
    folder, counts, matched = stage.folder, source.counts, source.matched
    settings = _as_in_recipe(settings)
    asked = {"t": settings.t, "tail_share": settings.tail_share, "target_pairs": settings.target_pairs}
    if set(asked.values()) == {None}:
        asked["tail_share"] = DEFAULT_TAIL_SHARE
    fingerprint = {
        "semantics": balancing.SEMANTICS,
        "match": source.match["identity"],
        **asked,
        "seed": settings.seed,
    }
    stage.begin(fingerprint, balancing.OUTPUTS, work.overwrite)
    if stage.finished() is not None:
        return
    sizes = matched.sizes(source.match["files"])
    for name, size in source.match["files"].items():
        if sizes.get(name) != size:
            raise MetaclipError(
                f"{matched / name} is gone or not what the run wrote; the command that matched the pool mends it"
            )
    remove_account(folder.path)  # of what is made anew now
    t = _threshold(source, stage, settings, work)
    shards = _shards(source)
    todo = [shard for shard in shards if stage.marker(shard.name) is None]
    if todo:
        _draw(todo, source, stage, t, settings.seed, work)
    markers = {shard.name: stage.marker(shard.name) or {} for shard in shards}
    stage.remove_strays("curated", markers)
    summed = tally(stage, list(markers), len(counts.values), work)
    result = balancing.merge(folder, source.metadata, counts, t, summed, markers, work.threads)
    funnel = funnels.add(marker["funnel"] for marker in markers.values())
    funnels.check(funnel, "matched", funnels.BALANCE_REASONS, "kept")
    made = matched.manifest
    match_settings = made["settings"]["match"]
    tables = {"match": MatchSettings(**{**match_settings, "rule": source.rule}), "balance": settings}
    write_recipe(folder, tables)
    of = {
        "folder": absolute(matched.path),
        "beside": beside(folder.path, matched.path),
        "record": source.match,
    }
    stage.finish(
        {
            "semantics": balancing.SEMANTICS,
            "match": of if elsewhere else dict.fromkeys(of),
            "t": t,
            "asked": next(f"{name} = {value:.15g}" for name, value in asked.items() if value is not None),
            "seed": settings.seed,
            "expected": result.expected,
            "deviation": result.deviation,
            "kept": result.kept,
            "funnel": funnel,
        },
        balancing.OUTPUTS,
        **{key: made[key] for key in ("schema", "inputs", "versions", "list", "rule")},
        settings={"match": match_settings, "balance": dataclasses.asdict(settings)},
        funnel={**source.match["funnel"], **funnel},
    )


def tally(stage: Stage, shards: Sequence[str], n_entries: int, work: Work) -> npt.NDArray[np.uint64]:
    """Add up what drawn shards left by entry (`balancing.shard_tally`), in the workers and then once more."""
    of_shard = functools.partial(_tally_of, place=Place.of(stage), n_entries=n_entries)
    summed = fold(work.carrier, of_shard, shards, operator.add)
    return np.zeros((3, n_entries), np.uint64) if summed is None else summed


def _tally_of(shard: str, place: Place, n_entries: int) -> npt.NDArray[np.uint64]:
    return balancing.shard_tally(place.stage.folder, shard, n_entries)


def _as_in_recipe(settings: BalanceSettings) -> BalanceSettings:
    """Give settings with the types that a recipe would have: a notebook's t = 20 is the command line's 20.0."""

    def of(kind: Any, value: Any) -> Any:
        return None if value is None else kind(value)

    return BalanceSettings(
        of(float, settings.t), of(float, settings.tail_share), of(int, settings.target_pairs), int(settings.seed)
    )


def _threshold(source: Run, stage: Stage, settings: BalanceSettings, work: Work) -> float:
    """Solve t, or take what was solved before."""
    names = [shard["name"] for shard in source.match["shards"]]
    counts = source.counts.values

    def expect(thresholds: npt.NDArray[np.float64]) -> list[float]:
        matched = Place.of(source.matched.stage(matching.STAGE))
        step = functools.partial(_expect, matched=matched, counts=counts, thresholds=thresholds)
        sums = fold(work.carrier, step, names, operator.add)
        assert sums is not None  # rows matched
        return [number / FIXED_POINT for number in sums]

    if (solved := stage.marker("t")) is None:
        solved = {"t": resolve(settings, counts, source.match["funnel"]["matched"], expect)}
        stage.mark("t", solved)
    return float(solved["t"])


def _expect(name: str, matched: Place, counts: Any, thresholds: Any) -> npt.NDArray[np.object_]:
    # What came through shared memory cannot be written to, and the kernel is compiled for what can.
    counts, thresholds = (np.require(array, requirements="W") for array in (counts, thresholds))
    # As Python's integers: the sums of all shards do not fit 64 bits.
    return balancing.expect_shard(name, matched.stage.folder, counts, thresholds).astype(np.object_)


def _shards(source: Run) -> list[Shard]:
    """Cut the pool as it was cut to be matched. Raise MetaclipError if a file of it is gone or has changed."""
    files: dict[int, PoolFile] = {}
    inputs_known = source.matched.manifest["inputs"]
    for known, found in zip(inputs_known, pools.stat_files([known["path"] for known in inputs_known]), strict=True):
        if isinstance(found, MetaclipError):
            raise MetaclipError(
                f"the pool's file {known['path']} is gone ({found}); put it back, or name its new place to "
                f"metaclip match --out {source.matched.path} (which reads nothing twice)"
            )
        if not inputs.same(found, known):
            raise MetaclipError(f"{known['path']} has changed since it was matched; match again with --overwrite")
        files[known["index"]] = dataclasses.replace(found, name=known["name"])
    shards = []
    for item in source.match["shards"]:
        index, number = map(int, item["name"].split("-"))
        groups = None if item["groups"] is None else tuple(item["groups"])
        shards.append(Shard(files[index], index, number, item["first"], groups, item["rows"]))
    return shards


def _draw(todo: Sequence[Shard], source: Run, stage: Stage, t: float, seed: int, work: Work) -> None:
    read = {item["name"]: item["read"] for item in source.match["shards"]}
    columns = source.match["columns"]
    settings = MatchSettings(text_column=columns["text"], url_column=columns["url"], uid_column=columns["uid"])
    matched = Place.of(source.matched.stage(matching.STAGE))
    step = DrawStep(Place.of(stage), matched, settings, source.counts.values, t, seed)
    (stage.folder / "curated").mkdir(exist_ok=True)
    tasks = [(shard, read[shard.name]) for shard in todo]
    with Progress("balance", sum(rows for _, rows in tasks), work.progress) as progress:
        carried = map_grouped(
            work.carrier,
            step,
            tasks,
            progress.advance,
            weight=lambda task: inputs.weight(task[0]),
            enough=inputs.ENOUGH,
        )
        for (shard, _), result in carried:
            if isinstance(result, BaseException):
                raise result
            stage.note(shard.name, result)


@dataclasses.dataclass(frozen=True)
class DrawStep(Bound):
    """The step: a shard, with the rows it had when it was matched, to its marker, which stands when it is given back."""

    place: Place
    matched: Place
    settings: MatchSettings
    counts: npt.NDArray[np.uint64]
    t: float
    seed: int

    @functools.cached_property
    def draw(self) -> balancing.Draw:
        """What shards are drawn by."""
        with here(self.matched.stage.folder / "duplicates.npy") as path:
            duplicates = np.load(path, allow_pickle=False)
        return balancing.Draw.of(self.counts, self.t, self.seed, duplicates)

    def __call__(self, task: tuple[Shard, int], tell: Tell) -> dict[str, Any]:
        """Draw a shard."""
        (shard, rows), stage = task, self.place.stage
        found = matching.columns_of(shard.file, self.settings)
        marker = balancing.balance_shard(shard, found, rows, self.draw, self.matched.stage.folder, stage.folder, tell)
        inputs.check_unchanged(shard.file)
        made = [stage.folder / "curated" / f"{shard.name}.parquet", *stage.partials(shard.name, balancing.PARTIALS)]
        return stage.mark(shard.name, marker, made)
