"""The chain: match, balance and account for a pool, on an engine, resumable at every shard.

What the command line and a notebook call. The stages know nothing of engines; here they meet.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from metaclip.card.account import versions, write_account
from metaclip.curation import balance as balancing
from metaclip.curation import match as matching
from metaclip.curation import pool as pools
from metaclip.curation.balance import BalanceSettings
from metaclip.curation.match import MatchSettings
from metaclip.curation.matcher import Matcher
from metaclip.curation.pool import BrokenInput, Paths, PoolFile, Shard
from metaclip.curation.run import Run, counts_digest
from metaclip.engine import local
from metaclip.engine.progress import Progress
from metaclip.errors import LostInputs, MetaclipError, is_full, one_line
from metaclip.metadata.entries import Metadata, as_metadata
from metaclip.recipe import dump
from metaclip.shard import funnel as funnels
from metaclip.shard.files import file_digest, replacing
from metaclip.shard.folder import Folder, Part, Stage, digest_of

SHIPPED: Final = Path(__file__).parent / "metadata" / "english.parquet"
"""The query list that comes with the package."""


@dataclasses.dataclass(frozen=True)
class Work:
    """How a stage is run; nothing here changes its result."""

    workers: int | None = None
    """Threads; None for one a processor."""
    part: Part = Part()
    overwrite: bool = False
    allow_lost: bool = False
    progress: bool | None = None
    """None: where standard error is a terminal."""


def curate(
    pool: Paths,
    metadata: Metadata | str | os.PathLike[str] | Iterable[str] | None = None,
    *,
    out: str | os.PathLike[str],
    t: float | None = None,
    tail_share: float | None = None,
    target_pairs: int | None = None,
    seed: int = 0,
    match_settings: MatchSettings | None = None,
    balance_settings: BalanceSettings | None = None,
    work: Work | None = None,
) -> Run:
    """Curate a pool into a run folder: match it, balance it, account for it.

    `pool` is a file, folder or glob of parquet, csv or jsonl; `metadata` a query list (default: the shipped one). At
    most one of `t`, `tail_share` (default 0.06) and `target_pairs` is given. What an earlier call left in `out`
    is taken up. Raise MetaclipError for what the caller can mend, LostInputs where inputs were lost and
    `work.allow_lost` is not set. `balance_settings` stands for the four numbers, as a recipe has them.
    """
    work = work or Work()
    try:
        settings = balance_settings or BalanceSettings(t, tail_share, target_pairs, seed)
    except ValueError as error:
        raise MetaclipError(str(error)) from None
    run = match(pool, metadata, out=out, settings=match_settings, work=work)
    if run.match["lost"] and not work.allow_lost:
        raise LostInputs(lost_message(run))
    return balance(out, settings=settings, work=work)


def lost_message(run: Run) -> str:
    """List the inputs that a run lost, and the next step."""
    lost = run.match["lost"]
    lines = [f"{len(lost)} of {len(run.manifest['inputs']) + len({item['name'] for item in lost})} inputs were lost:"]
    lines += [f"  {item['error']}" for item in lost]
    lines.append("mend them and run the same command again (it reads just these), or go on without them: --allow-lost")
    return "\n".join(lines)


def match(
    pool: Paths,
    metadata: Metadata | str | os.PathLike[str] | Iterable[str] | None = None,
    *,
    out: str | os.PathLike[str],
    settings: MatchSettings | None = None,
    work: Work | None = None,
) -> Run:
    """Match a pool, or go on where an earlier call stopped; inputs that cannot be read are listed in the result.

    Raise MetaclipError if nothing could be read, nothing matched, or another process owns the folder.
    """
    work = dataclasses.replace(work or Work(), part=Part())
    run = match_part(pool, metadata, out=out, settings=settings, work=work)
    assert run is not None
    return run


def match_part(
    pool: Paths,
    metadata: Metadata | str | os.PathLike[str] | Iterable[str] | None = None,
    *,
    out: str | os.PathLike[str],
    settings: MatchSettings | None = None,
    work: Work | None = None,
) -> Run | None:
    """Do one part of `match` in a job array; None while shards are left for other parts.

    The last part to end adds all up; if two end at once neither may, and `match` does.
    """
    settings, work = settings or MatchSettings(), work or Work()
    files = pools.find_files(pool)
    entries = _metadata(metadata, settings)
    shards, broken = matching.plan(files, settings)
    folder = Folder(out)
    stage = folder.stage(matching.STAGE)
    fingerprint = settings.fingerprint(entries, files)
    with _writing(folder), folder.owned(work.part):
        _begin(folder, stage, fingerprint, files, shards, work.overwrite)
        for index, error in broken.items():
            stage.mark(f"lost-{index:06d}", {"name": files[index].name, "error": str(error)})
        mine = [shard for shard in shards if work.part.takes(shard.turn)]
        todo = [shard for shard in mine if stage.marker(shard.name) is None]
        if todo:
            _match_shards(todo, files, entries, settings, folder, work)
        left = [shard for shard in shards if not _settled(stage, shard.name)]
    if left:
        return None
    with _writing(folder), folder.owned():
        if stage.record is None or stage.record["lost"] or stage.record["fingerprint"] != digest_of(fingerprint):
            _finish_match(folder, stage, entries, settings, files, shards, fingerprint)
    return Run(out)


def _metadata(metadata: Any, settings: MatchSettings) -> Metadata:
    if metadata is not None and not isinstance(metadata, str | os.PathLike):
        return as_metadata(metadata)
    path = os.fspath(metadata) if metadata is not None else settings.metadata
    if path is None:
        if not SHIPPED.exists():
            raise MetaclipError("no query list is given and none is shipped; name one with --metadata LIST")
        path = str(SHIPPED)
    return Metadata.read(path, fold_duplicates=settings.fold_duplicates)


class _writing:  # noqa: N801 - reads as a word
    """Turn a full disk into a clear line."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, MetaclipError):
            where = error.filename or self.folder.path
            if is_full(error):
                raise MetaclipError(
                    f"{where}: no room left ({one_line(error, 120)}); free some and run the same command again"
                ) from error
            if isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError | FileExistsError):
                raise MetaclipError(f"{where} cannot be written ({one_line(error, 120)}); check --out") from error


def _begin(
    folder: Folder, stage: Stage, fingerprint: Mapping[str, Any], files: Sequence[PoolFile], shards: Sequence[Shard], overwrite: bool
) -> None:
    before = stage.fingerprint
    stage.begin(fingerprint, matching.OUTPUTS, overwrite)
    if before is not None and before != stage.fingerprint:
        folder.stage(balancing.STAGE).clear(balancing.OUTPUTS)
    changed = _changed_input(stage, files, shards)
    if changed is not None:
        if not overwrite:
            raise MetaclipError(
                f"{changed} has changed since {folder.path} was begun; choose another --out, or replace the run with --overwrite"
            )
        stage.clear(matching.OUTPUTS)
        folder.stage(balancing.STAGE).clear(balancing.OUTPUTS)
        stage.begin(fingerprint, matching.OUTPUTS)
    (folder / "matched").mkdir(exist_ok=True)


def _changed_input(stage: Stage, files: Sequence[PoolFile], shards: Sequence[Shard]) -> str | None:
    """Name a file that is not what finished shards were made from; None if all are."""
    verified: set[int] = set()
    for index, file in enumerate(files):
        known = stage.marker(f"input-{index:06d}")
        if known is None:
            continue
        if (known["size"], known["stamp"]) != (file.size, file.stamp):
            if known["size"] != file.size or known["sha256"] != _sha256(file):
                return file.path
            stage.mark(f"input-{index:06d}", {**known, "path": file.path, "stamp": file.stamp})
        verified.add(index)
    for shard in shards:
        marker = stage.marker(shard.name)
        if marker is None:
            continue
        before, now = dict(marker["shard"]), shard.identity
        if shard.file_index in verified:
            before.pop("stamp"), now.pop("stamp")
        if before != now:
            return shard.file.path
    return None


def _sha256(file: PoolFile) -> str:
    with pools.reading(file), pools.open_file(file) as opened:
        return file_digest(opened)


def _settled(stage: Stage, name: str) -> bool:
    return stage.marker(name) is not None or stage.marker(f"lost-{name}") is not None


def _match_shards(
    todo: Sequence[Shard], files: Sequence[PoolFile], entries: Metadata, settings: MatchSettings, folder: Folder, work: Work
) -> None:
    stage = folder.stage(matching.STAGE)
    matcher = Matcher(entries, settings.rule)
    stop = local.Stop()
    known = {index for index in range(len(files)) if stage.marker(f"input-{index:06d}") is not None}
    tasks: list[Shard | int] = []
    for shard in todo:
        # A file's digest is a task of its own beside its shards, so that nothing waits for it.
        if shard.file_index not in known:
            known.add(shard.file_index)
            tasks.append(shard.file_index)
        tasks.append(shard)
    total = sum(shard.rows for shard in todo if shard.rows is not None)
    with Progress("match", total if all(shard.rows is not None for shard in todo) else None, work.progress) as progress:

        def advance(rows: int, matched: int) -> None:
            stop.check()
            progress.advance(rows, matched)

        def step(task: Shard | int) -> None:
            if isinstance(task, int):
                file = files[task]
                marker = {**dataclasses.asdict(file), "sha256": _sha256(file)}
                stage.mark(f"input-{task:06d}", marker)
            else:
                marker = matching.match_shard(task, matcher, settings, folder, advance)
                (stage.path / f"lost-{task.name}.json").unlink(missing_ok=True)
                stage.mark(task.name, marker)
                for reason, place in marker["places"].items():
                    if reason in ("invalid_utf8", "malformed_row"):
                        rows = marker["funnel"][reason]
                        progress.note(f"{task.file.path}: {rows} rows left out: {funnels.MEANING[reason]} (first: {place})")

        workers = work.workers or local.default_workers()
        for task, result in local.run(step, tasks, workers, stop):
            if isinstance(result, BrokenInput):
                if not isinstance(task, int):
                    stage.mark(f"lost-{task.name}", {"name": task.file.name, "error": str(result)})
            elif isinstance(result, BaseException):
                raise result


def _finish_match(
    folder: Folder, stage: Stage, entries: Metadata, settings: MatchSettings, files: Sequence[PoolFile],
    shards: Sequence[Shard], fingerprint: Mapping[str, Any],
) -> None:  # fmt: skip
    markers = {shard.name: marker for shard in shards if (marker := stage.marker(shard.name)) is not None}
    lost = []
    for path in sorted(stage.path.glob("lost-*.json")):
        name = path.stem.removeprefix("lost-")
        marker = stage.marker(path.stem)
        if marker is None or name in markers or any(n.startswith(f"{name}-") for n in markers):
            path.unlink(missing_ok=True)  # read after all
        else:
            lost.append(marker)
    if not markers:
        raise MetaclipError(lost[0]["error"] if lost else f"the pool has no rows: {', '.join(f.path for f in files[:3])}")
    funnel = funnels.add(marker["funnel"] for marker in markers.values())
    funnels.check(funnel, "rows", funnels.MATCH_REASONS, "matched")
    if funnel["rows"] == 0:
        raise MetaclipError(f"the pool has no rows: {', '.join(file.path for file in files[:3])}")
    counts, uids, repeats = matching.merge(folder, entries, settings.rule, markers)
    inputs = [marker for index in range(len(files)) if (marker := stage.marker(f"input-{index:06d}")) is not None]
    record = {
        "semantics": matching.SEMANTICS,
        "fingerprint": digest_of(fingerprint),
        "list": entries.digest,
        "rule": dataclasses.asdict(settings.rule),
        "columns": fingerprint["columns"],
        "counts_digest": counts_digest(counts.values),
        "funnel": funnel,
        "duplicates": {"uids": uids, "rows": repeats},
        "lost": lost,
        "shards": [
            {"name": name, **marker["shard"], "read": marker["funnel"]["rows"] - marker["funnel"].get("malformed_row", 0)}
            for name, marker in markers.items()
        ],
    }
    folder.update_manifest(
        schema=1, inputs=inputs, versions=versions(), list=entries.digest, rule=record["rule"], funnel=funnel,
        settings={"match": dataclasses.asdict(settings)},
    )  # fmt: skip
    _write_recipe(folder, {"match": settings})
    stage.finish(record, () if lost else matching.PARTIALS)
    if funnel["matched"] == 0:
        raise MetaclipError(
            f"none of the {funnel['rows']} rows matches any of the {len(entries)} entries; check --metadata and --text-column"
        )


def balance(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    settings: BalanceSettings | None = None,
    work: Work | None = None,
) -> Run:
    """Balance a matched run, in its own folder or in another, or go on where an earlier call stopped.

    Raise MetaclipError if the run is not matched, lost inputs (without `work.allow_lost`), or its pool has changed.
    """
    settings, work = settings or BalanceSettings(), work or Work()
    source = Run(run) if out is not None else _matched_part(run)
    if source.match["lost"] and not work.allow_lost:
        raise MetaclipError(lost_message(source))
    folder = Folder(out if out is not None else run)
    elsewhere = folder.path.resolve() != source.matched.path.resolve()
    with _writing(folder), folder.owned():
        return _balance(source, folder, elsewhere, settings, work)


def _matched_part(path: str | os.PathLike[str]) -> Run:
    run = Run(path)
    if run.matched is not run.folder:
        raise MetaclipError(f"{path} holds no matches (they are in {run.matched.path}); give --out, or balance that folder")
    return run


def _balance(source: Run, folder: Folder, elsewhere: bool, settings: BalanceSettings, work: Work) -> Run:
    stage, counts, matched = folder.stage(balancing.STAGE), source.counts.values, source.matched
    workers = work.workers or local.default_workers()
    names = [item["name"] for item in source.match["shards"]]

    def expect(thresholds: Any) -> list[float]:
        stop, sums = local.Stop(), [0] * len(thresholds)
        step: Callable[[str], Any] = lambda name: balancing.expect_shard(name, matched, counts, thresholds)  # noqa: E731
        for _, result in local.run(step, names, workers, stop):
            if isinstance(result, BaseException):
                raise result
            sums = [a + int(b) for a, b in zip(sums, result, strict=True)]
        return [number / (1 << 32) for number in sums]

    t = balancing.resolve(settings, counts, source.match["funnel"]["matched"], expect)
    fingerprint = {
        "semantics": balancing.SEMANTICS,
        "t": t,
        "seed": settings.seed,
        "match": {"fingerprint": source.match["fingerprint"], "counts": source.match["counts_digest"]},
    }
    stage.begin(fingerprint, balancing.OUTPUTS, work.overwrite)
    shards, files = _pool_of(source)
    todo = [shard for shard in shards if stage.marker(shard.name) is None]
    if todo:
        (folder / "curated").mkdir(exist_ok=True)
        _balance_shards(todo, source, folder, t, settings.seed, workers, work)
    if stage.record is None or todo:
        markers = [(shard.name, stage.marker(shard.name) or {}) for shard in shards]
        result = balancing.merge(folder, source.metadata, source.counts, t, markers)
        funnel = funnels.add(marker["funnel"] for _, marker in markers)
        funnels.check(funnel, "matched", funnels.BALANCE_REASONS, "kept")
        if elsewhere:
            manifest = matched.manifest
            folder.update_manifest(**{key: manifest[key] for key in ("schema", "inputs", "versions", "list", "rule", "settings")})
        match_settings = matched.manifest["settings"]["match"]
        folder.update_manifest(
            settings={"match": match_settings, "balance": dataclasses.asdict(settings)},
            funnel={**source.match["funnel"], **funnel},
        )
        made = MatchSettings(**{**match_settings, "rule": source.rule})
        recipe = _write_recipe(folder, {"match": made, "balance": settings})
        stage.finish(
            {
                "semantics": balancing.SEMANTICS,
                "fingerprint": digest_of(fingerprint),
                "match": {
                    "folder": os.path.abspath(matched.path) if elsewhere else None,
                    "fingerprint": source.match["fingerprint"],
                },
                "t": t,
                "asked": _asked(settings),
                "seed": settings.seed,
                "expected": result.expected,
                "deviation": result.deviation,
                "kept": result.kept,
                "funnel": funnel,
                "lost": source.match["lost"],
            },
            balancing.PARTIALS,
        )
        write_account(Run(folder.path), {**recipe, "match": {**recipe["match"], "metadata": source.match["list"]}})
    return Run(folder.path)


def _asked(settings: BalanceSettings) -> str:
    for name in ("t", "target_pairs", "tail_share"):
        if (value := getattr(settings, name)) is not None:
            return f"{name} = {value:g}" if name != "target_pairs" else f"{name} = {value}"
    return f"tail_share = {balancing.DEFAULT_TAIL_SHARE:g}"


def _write_recipe(folder: Folder, made: Mapping[str, Any]) -> dict[str, Any]:
    with replacing(folder / "recipe.toml") as temporary:
        temporary.write_text(dump(made), encoding="utf-8")
    return {name: dataclasses.asdict(value) for name, value in made.items()}


def _pool_of(source: Run) -> tuple[list[Shard], list[PoolFile]]:
    """Find the pool's files again and cut them as they were. Raise MetaclipError if one is gone or has changed."""
    files: dict[str, tuple[int, PoolFile]] = {}
    for index, known in enumerate(source.matched.manifest["inputs"]):
        try:
            found = pools.find_files(known["path"])[0]
        except MetaclipError as error:
            raise MetaclipError(f"the pool's file {known['path']} is gone ({error}); put it back to balance") from None
        if (found.size, found.stamp) != (known["size"], known["stamp"]) and (
            found.size != known["size"] or _sha256(found) != known["sha256"]
        ):
            raise MetaclipError(f"{known['path']} has changed since it was matched; match again with --overwrite")
        files[known["name"]] = (index, dataclasses.replace(found, name=known["name"], stamp=known["stamp"]))
    shards = []
    for item in source.match["shards"]:
        index, number = map(int, item["name"].split("-"))
        groups = None if item["groups"] is None else tuple(item["groups"])
        shards.append(Shard(files[item["file"]][1], index, number, item["first"], groups, item["rows"]))
    return shards, [file for _, file in files.values()]


def _balance_shards(
    todo: Sequence[Shard], source: Run, folder: Folder, t: float, seed: int, workers: int, work: Work
) -> None:
    stage, stop = folder.stage(balancing.STAGE), local.Stop()
    duplicates = np.load(source.matched / "duplicates.npy", allow_pickle=False)
    draw = balancing.Draw.of(source.counts.values, t, seed, duplicates)
    read = {item["name"]: item["read"] for item in source.match["shards"]}
    columns = source.match["columns"]
    settings = MatchSettings(text_column=columns["text"], url_column=columns["url"], uid_column=columns["uid"])
    with Progress("balance", sum(read[shard.name] for shard in todo), work.progress) as progress:

        def advance(rows: int, kept: int) -> None:
            stop.check()
            progress.advance(rows, kept)

        def step(shard: Shard) -> None:
            found = matching.columns_of(shard.file, settings)
            marker = balancing.balance_shard(shard, found, read[shard.name], draw, source.matched, folder, advance)
            stage.mark(shard.name, marker)

        for _, result in local.run(step, todo, workers, stop):
            if isinstance(result, BaseException):
                raise result
