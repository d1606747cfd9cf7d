"""Resharding on an engine: tars and a subset in, curated tars out; resumable at every tar, in and out.

Each tar that comes in is looked through under its marker, then what all have is shared out, and each new tar is written
under a marker that names what it was made from. Tars are known by size and time of change: to read them for a digest
would cost as much as the work itself. What could not be read is listed; nothing is written without it unless that is
allowed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from metaclip.chain.work import Work, writing
from metaclip.curation import pool as pools
from metaclip.curation.pool import BrokenInput, Paths, PoolFile
from metaclip.engine.progress import Progress
from metaclip.errors import LostInputs, MetaclipError
from metaclip.shard import funnel as funnels
from metaclip.shard.engine import Bound, Tell, WorkerDied
from metaclip.shard.files import write_json
from metaclip.shard.folder import Folder
from metaclip.shard.stage import Stage, digest_of
from metaclip.training import reshard as resharding
from metaclip.training.reshard import PICK_REASONS, SEMANTICS, Picked, Piece, ReshardSettings, Shared
from metaclip.training.subset import Subset

STAGE: Final = "reshard"
PARTIALS: Final = ("*.picked.npy", "*.run.npy", "shared.npy")
_FILES: Final = ("sizes.json", "meta.json", "missing.npy")
_GLOBS: Final = ("*.tar", "*_stats.json")


@dataclasses.dataclass(frozen=True)
class Resharded:
    """What resharding left: a folder of tars."""

    path: Path
    record: dict[str, Any]

    @property
    def funnel(self) -> dict[str, int]:
        """What became of the samples."""
        return dict(self.record["funnel"])


@dataclasses.dataclass(frozen=True)
class _Plan:
    stage: Stage
    settings: ReshardSettings
    subset: Subset
    files: list[PoolFile]
    digest: str
    """Of the subset."""

    @property
    def walks(self) -> bool:
        """Whether a tar must be walked header by header, which holds the GIL: one that cannot be read from any place."""
        return any("://" in file.path or file.codec is not None for file in self.files)

    def picked(self, tar: int) -> tuple[Path, Path]:
        return self.stage.path / f"tar-{tar:06d}.picked.npy", self.stage.path / f"tar-{tar:06d}.run.npy"

    @property
    def shared(self) -> Path:
        return self.stage.path / "shared.npy"


def reshard(
    tars: Paths,
    *,
    subset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: ReshardSettings | None = None,
    work: Work | None = None,
) -> Resharded:
    """Write the samples of a subset to new tars, or go on where an earlier call stopped.

    Raise LostInputs for tars that cannot be read (unless `work.allow_lost`), MetaclipError if nothing is found, or for
    what the caller can mend.
    """
    settings, work, folder = settings or ReshardSettings(), work or Work(), Folder(out)
    files = pools.find_files(tars, form="tar")
    _keep_apart(folder, files)
    opened = Subset(subset)
    plan = _Plan(folder.stage(STAGE), settings, opened, files, opened.digest())
    fingerprint = {
        "semantics": SEMANTICS,
        "subset": plan.digest,
        "settings": dataclasses.asdict(settings),
        "tars": [file.name for file in files],
    }
    with writing(folder), folder.owned():
        outputs = [path.name for pattern in _GLOBS for path in folder.path.glob(pattern)]
        plan.stage.begin(fingerprint, [*outputs, *_FILES], work.overwrite)
        markers, lost = _pick(plan, work)
        if lost and (not work.allow_lost or not markers):
            raise LostInputs(_lost_lines(lost, len(files))) if markers else MetaclipError(lost[0]["error"])
        return Resharded(folder.path, _finish(plan, markers, lost, work))


def _keep_apart(folder: Folder, files: Sequence[PoolFile]) -> None:
    """Refuse an output folder in which the tars lie, or that would be listed among them the next time."""
    out = folder.path.resolve()
    for path in {os.path.dirname(file.path) for file in files if "://" not in file.path}:
        here = Path(path).resolve()
        if here.is_relative_to(out) or out == here:
            raise MetaclipError(f"the tars in {path} lie in {folder.path}; choose another --out")


def _lost_lines(lost: Sequence[Mapping[str, Any]], wanted: int) -> str:
    lines = [f"{len(lost)} of {wanted} tars were lost:", *(f"  {item['error']}" for item in lost)]
    end = "fetch them and run the same command again (it reads just these), or go on without them: --allow-lost"
    return "\n".join([*lines, end])


@dataclasses.dataclass(frozen=True)
class _Picker:
    """The step that looks through a tar, with what it needs; it may travel to another process."""

    subset: Subset
    settings: ReshardSettings

    def __call__(self, task: tuple[int, PoolFile, tuple[Path, Path]], tell: Tell) -> dict[str, Any]:
        number, file, to = task
        return resharding.pick(file, number, self.subset, self.settings.names, to)


@dataclasses.dataclass(frozen=True)
class _Writer(Bound):
    """The step that writes a shard, with what it needs."""

    subset: Subset
    files: list[PoolFile]
    state: Path
    shared: Path

    @functools.cached_property
    def _shared(self) -> Shared:
        return Shared.read(self.shared)

    def __call__(self, task: tuple[Path, list[Piece]], tell: Tell) -> dict[str, int]:
        path, pieces = task

        def parts() -> Iterable[Any]:
            for piece in pieces:
                picked = Picked.read(self.state / f"tar-{piece.tar:06d}.picked.npy")
                uses, first = self._shared.uses_of(picked, self.subset)
                yield self.files[piece.tar], picked, uses, first, piece.begin, piece.end

        return resharding.write_shard(path, parts())


def _pick(plan: _Plan, work: Work) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """Look through the tars that were not: (markers by tar, what could not be read)."""
    stage = plan.stage
    names = {tar: f"tar-{tar:06d}" for tar in range(len(plan.files))}
    todo = []
    for tar, file in enumerate(plan.files):
        marker = stage.marker(names[tar])
        if marker is not None and (marker["size"], marker["stamp"]) != (file.size, file.stamp):
            raise MetaclipError(
                f"{file.path} has changed since {stage.folder.path} was begun; "
                "choose another --out, or replace it with --overwrite"
            )
        if marker is None:
            todo.append((tar, file, plan.picked(tar)))
    lost: list[dict[str, Any]] = []
    with Progress(STAGE, None, work.progress) as progress:
        for (tar, file, paths), result in work.carrier.map(
            _Picker(plan.subset, plan.settings), todo, holds_gil=plan.walks
        ):
            if isinstance(result, BrokenInput | WorkerDied):
                error = str(result) if isinstance(result, BrokenInput) else f"{file.path}: {result}"
                stage.lose(names[tar], index=tar, name=file.name, error=error)
                progress.note(error)
                lost.append({"index": tar, "name": file.name, "error": error})
            elif isinstance(result, BaseException):
                raise result
            else:
                stage.mark(names[tar], {"size": file.size, "stamp": file.stamp, **result}, paths)
                progress.advance(result["funnel"]["samples"], result["funnel"]["picked"])
    found = {tar: marker for tar, name in names.items() if (marker := stage.marker(name)) is not None}
    return found, sorted(lost, key=lambda item: int(item["index"]))


def _finish(
    plan: _Plan, markers: Mapping[int, Mapping[str, Any]], lost: Sequence[Mapping[str, Any]], work: Work
) -> dict[str, Any]:
    """Write the shards and the record, unless they stand."""
    stage, folder = plan.stage, plan.stage.folder
    identity = digest_of([stage.digest, [(tar, marker["size"], marker["stamp"]) for tar, marker in markers.items()]])
    record = stage.finished()
    if record is not None and record["identity"] == identity:
        return record
    funnel = funnels.add(marker["funnel"] for marker in markers.values())
    funnels.check(funnel, "samples", PICK_REASONS, "picked")
    without = sum(marker["funnel"]["samples"] for marker in markers.values() if not marker["has_uid"])
    if not funnel["picked"]:
        hint = NO_UID.format(without) if without else "check that the tars are those that the subset was drawn from"
        raise MetaclipError(f"none of the {funnel['samples']} samples is in {plan.subset.path}; {hint}")
    tally = _share(plan, markers, identity)
    changes = Shared.read(plan.shared).changes()
    uses = [0] * len(plan.files)
    for tar, marker in markers.items():
        uses[tar] = marker["uses"] + changes.get(tar, 0)
    shards = _write(plan, resharding.cut(uses, plan.settings.shard_size), identity, work)
    _remove_strays(folder, shards)
    sizes = {name: marker["samples"] for name, marker in shards.items()}
    odd = sum(marker["odd_suffix"] for marker in shards.values())
    write_json(folder / "sizes.json", sizes)
    made = {
        "funnel": funnel,
        "subset": len(plan.subset),
        "written": sum(sizes.values()),
        **tally,
        "without_uid": without,
        "odd_suffix": odd,
    }
    write_json(
        folder / "meta.json",
        {
            "input": [file.name for file in plan.files],
            "subset_file": plan.subset.path.name,
            "subset_sha256": plan.digest,
            "shard_size": plan.settings.shard_size,
            "processed_count": funnel["samples"],
            "output_count": made["written"],
            "output_shard_count": len(sizes),
            "missing_count": tally["missing_uses"],
            "lost_inputs": [item["name"] for item in lost],
        },
    )
    outputs = [*sizes, *(f"{Path(name).stem}_stats.json" for name in sizes), *_FILES]
    record = stage.finish(
        {"identity": identity, "lost": list(lost), **made}, outputs, complete=not lost,
        schema=1, settings={STAGE: dataclasses.asdict(plan.settings)}, funnel=funnel,
    )  # fmt: skip
    if record["complete"]:
        stage.tidy(PARTIALS)
    return record


NO_UID: Final = (
    "{} samples have no uid in their .json, so md5(text + url) was taken for it; where the pool had uids, download with "
    "img2dataset --save_additional_columns '[\"uid\"]'"
)


def _share(plan: _Plan, markers: Iterable[int], identity: str) -> dict[str, int]:
    """Share out the subset's uses, or take what was found before."""
    stage, missing = plan.stage, plan.stage.folder / "missing.npy"
    marker = stage.marker("shared")
    if marker is None or marker["of"] != identity:
        runs = [plan.picked(tar)[1] for tar in markers]
        tally = resharding.share(runs, plan.subset, plan.shared, missing)
        marker = {"of": identity, "tally": tally}
        stage.mark("shared", marker, [plan.shared, missing])
    return dict(marker["tally"])


def _write(plan: _Plan, shards: Sequence[list[Piece]], identity: str, work: Work) -> dict[str, dict[str, Any]]:
    """Write the shards that do not stand; give their markers by name."""
    stage, folder = plan.stage, plan.stage.folder
    paths = {f"shard-{number:08d}": folder / f"{number:08d}.tar" for number in range(len(shards))}
    wanted = dict(zip(paths, shards, strict=True))

    def is_made(name: str) -> bool:
        marker = stage.marker(name)
        return marker is not None and bool(marker["of"] == identity)

    todo = {paths[name]: name for name in wanted if not is_made(name)}
    writer = _Writer(plan.subset, plan.files, stage.path, plan.shared)
    total = sum(piece.end - piece.begin for pieces in shards for piece in pieces)
    with Progress("write", total, work.progress) as progress:
        tasks = [(path, wanted[name]) for path, name in todo.items()]
        for (path, _), result in work.carrier.map(writer, tasks, holds_gil=plan.walks):
            if isinstance(result, BaseException):
                raise result
            stats = path.with_name(f"{path.stem}_stats.json")
            stage.mark(todo[path], {"of": identity, **result}, [path, stats])
            progress.advance(result["samples"], result["samples"])
    return {paths[name].name: stage.marker(name) or {} for name in wanted}


def _remove_strays(folder: Folder, shards: Iterable[str]) -> None:
    """Remove shards of an earlier division."""
    kept = {name for shard in shards for name in (shard, f"{Path(shard).stem}_stats.json")}
    for pattern in _GLOBS:
        for path in folder.path.glob(pattern):
            if path.name not in kept:
                path.unlink()
