"""Resharding on an engine: tars and a subset in, curated tars out; resumable at every tar, in and out.

Each tar that comes in is looked through under its marker, what all have is shared out, and each new tar is written under a
marker that names what it was made from. A new tar is begun as soon as those that it is made from were looked through: what
comes later changes it only where a uid that the subset has several times comes again, and then it is written again. So a
disk reads and writes at once, and what is read twice is still in memory the second time.

Tars are known by size and time of change: to read them for a digest would cost as much as the work itself. What could not
be read is listed; nothing that it could be in is written without it unless that is allowed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from metaclip.engine.contract import ProgressCallback
from metaclip.engine.progress import Progress
from metaclip.errors import LostInputs, MetaclipError
from metaclip.pool.files import Paths, PoolFile, find_files
from metaclip.reshard import shards as resharding
from metaclip.reshard.shards import PICK_REASONS, SEMANTICS, Arrivals, Cut, Picked, Piece, ReshardSettings, Shared
from metaclip.reshard.subset import Subset
from metaclip.stage import funnel as funnels
from metaclip.stage.folder import Folder
from metaclip.stage.options import RunOptions
from metaclip.stage.runner import Task, lost_message, run
from metaclip.stage.stage import Stage, StageSpec, digest_of
from metaclip.storage.files import write_json

_SHARDS: Final = ("*.tar", "*_stats.json")
RESHARD: Final = StageSpec(
    "reshard",
    outputs=(*_SHARDS, "sizes.json", "meta.json", "missing.npy"),
    partials=("*.picked.npy", "*.run.npy", "shared.npy"),
)


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
        return _picked(self.stage.path, tar), self.stage.path / f"tar-{tar:06d}.run.npy"

    @property
    def shared(self) -> Path:
        return self.stage.path / "shared.npy"

    @property
    def step(self) -> _Step:
        return _Step(self.stage, self.subset, self.settings, self.files)

    def look(self, tar: int) -> Task[_Item]:
        """Describe the work of looking through a tar to the stage runner."""
        file = self.files[tar]
        look = _Look(tar, file, self.picked(tar))
        return Task(_tar_name(tar), look, file.path, lost={"index": tar, "name": file.name})


def reshard(
    tars: Paths,
    *,
    subset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: ReshardSettings | None = None,
    options: RunOptions | None = None,
) -> Resharded:
    """Write the samples of a subset to new tars, or go on where an earlier call stopped.

    Raise LostInputs for tars that cannot be read (unless `work.allow_lost`), MetaclipError if nothing is found, or for
    what the caller can mend.
    """
    settings, options, folder = settings or ReshardSettings(), options or RunOptions(), Folder(out)
    files = find_files(tars, form="tar")
    _keep_apart(folder, files)
    opened = Subset(subset)
    plan = _Plan(Stage(folder, RESHARD), settings, opened, files, opened.digest())
    fingerprint = {
        "semantics": SEMANTICS,
        "subset": plan.digest,
        "settings": dataclasses.asdict(settings),
        "tars": [file.name for file in files],
    }
    with folder.owned():
        plan.stage.begin(fingerprint, options.overwrite)
        markers, lost = _look_through(plan, options)
        if lost and (not options.allow_lost or not markers):
            if not markers:
                raise MetaclipError(lost[0]["error"])
            raise LostInputs(lost_message(lost, len(files), can_skip=True))
        return Resharded(folder.path, _finish(plan, markers, lost, options))


def _keep_apart(folder: Folder, files: Sequence[PoolFile]) -> None:
    """Refuse an output folder in which the tars lie, or that would be listed among them the next time."""
    out = folder.path.resolve()
    for path in {os.path.dirname(file.path) for file in files if "://" not in file.path}:
        here = Path(path).resolve()
        if here.is_relative_to(out) or out == here:
            raise MetaclipError(f"the tars in {path} lie in {folder.path}; choose another --out")


def _picked(state: Path, tar: int) -> Path:
    return state / f"tar-{tar:06d}.picked.npy"


def _tar_name(tar: int) -> str:
    """Return the name of the marker of a tar that was looked through."""
    return f"tar-{tar:06d}"


@dataclasses.dataclass(frozen=True)
class _Look:
    """A tar to be looked through."""

    tar: int
    file: PoolFile
    to: tuple[Path, Path]


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A shard to be written."""

    path: Path
    pieces: list[tuple[Piece, Shared]]
    identity: str
    """Of all that determines it."""

    @property
    def uses(self) -> int:
        return sum(piece.end - piece.begin for piece, _ in self.pieces)


_Item = _Look | _Shard


@dataclasses.dataclass(frozen=True)
class _Step:
    """The step of both kinds of work: looks through a tar, or writes a shard."""

    stage: Stage
    subset: Subset
    settings: ReshardSettings
    files: list[PoolFile]

    def __call__(self, item: _Item, progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        if isinstance(item, _Look):
            found = resharding.pick(item.file, item.tar, self.subset, self.settings.names, item.to)
            return {"size": item.file.size, "stamp": item.file.stamp, **found}, list(item.to)

        def parts() -> Iterable[Any]:
            for piece, shared in item.pieces:
                picked = Picked.read(_picked(self.stage.path, piece.tar))
                yield self.files[piece.tar], picked, *shared.uses_of(picked), piece.begin, piece.end

        written = resharding.write_shard(item.path, parts())
        stats = item.path.with_name(f"{item.path.stem}_stats.json")
        return {"of": item.identity, **written}, [item.path, stats]


class _Layout:
    """The shards that tars make up, as the tars become known in their order."""

    def __init__(self, plan: _Plan) -> None:
        self._plan, self._cut = plan, Cut(plan.settings.shard_size)
        self._tars: dict[int, tuple[list[Any], Shared]] = {}
        self._shards = 0

    def add(self, tar: int, marker: Mapping[str, Any], shared: Shared) -> list[Task[_Item]]:
        """Take the next tar; give the shards that are whole with it."""
        self._tars[tar] = [tar, marker["size"], marker["stamp"], shared.digest], shared
        return [self._shard(pieces) for pieces in self._cut.add(tar, marker["uses"] + shared.change)]

    def rest(self) -> list[Task[_Item]]:
        """Give the last shard, if it is not whole."""
        return [self._shard(pieces) for pieces in self._cut.rest()]

    def _shard(self, pieces: list[Piece]) -> Task[_Item]:
        made_of = [[*self._tars[piece.tar][0], piece.begin, piece.end] for piece in pieces]
        path = self._plan.stage.folder / f"{self._shards:08d}.tar"
        self._shards += 1
        identity = digest_of([self._plan.stage.digest, made_of])
        shard = _Shard(path, [(piece, self._tars[piece.tar][1]) for piece in pieces], identity)
        return Task(f"shard-{path.stem}", shard)


class _Ahead:
    """The work on tars, and between them on the shards that are known by then."""

    def __init__(self, plan: _Plan, lost_too: bool) -> None:
        """Begin; with `lost_too` a tar that is lost is passed over, else nothing is known behind it."""
        self._plan, self._lost_too = plan, lost_too
        self._layout, self._arrivals = _Layout(plan), Arrivals(plan.subset)
        self._next: int | None = 0
        """The tar up to which all is known; None where no more can be."""
        self._seen: dict[int, Mapping[str, Any] | None] = {}

    def see(self, tar: int, marker: Mapping[str, Any] | None) -> None:
        """Learn what a tar has; None for one that is lost."""
        self._seen[tar] = marker

    def tasks(self, looks: Iterable[Task[_Item]]) -> Iterator[Task[_Item]]:
        """Give what is to be done; what it leads to is learnt between one and the next."""
        for look in looks:
            yield from self._known()
            yield look
        yield from self._known()

    def _known(self) -> Iterator[Task[_Item]]:
        """Give the shards that became known."""
        while self._next is not None and self._next in self._seen:
            tar, marker = self._next, self._seen.pop(self._next)
            self._next += 1
            if marker is None:
                self._next = self._next if self._lost_too else None
                continue
            shared = self._arrivals.add(Picked.read(self._plan.picked(tar)[0]))
            if shared is None:
                self._next = None
                return
            for shard in self._layout.add(tar, marker, shared):
                if not _stands(self._plan, shard):
                    yield shard


def _look_through(plan: _Plan, options: RunOptions) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """Look through the tars that were not, and write what is known by then: (markers by tar, what could not be read)."""
    stage = plan.stage
    ahead, looks = _Ahead(plan, options.allow_lost), []
    for tar, file in enumerate(plan.files):
        marker = stage.marker(_tar_name(tar))
        if marker is not None and (marker["size"], marker["stamp"]) != (file.size, file.stamp):
            raise MetaclipError(
                f"{file.path} has changed since {stage.folder.path} was begun; "
                "choose another --out, or replace it with --overwrite"
            )
        if marker is None:
            looks.append(plan.look(tar))
        else:
            ahead.see(tar, marker)
    lost: list[dict[str, Any]] = []
    tasks = ahead.tasks(looks) if len(looks) > 1 else looks
    with Progress("reshard", None, options.progress) as progress:
        for task, marker in run(stage, plan.step, tasks, options, progress, holds_gil=plan.walks):
            if not isinstance(task.item, _Look):
                continue
            ahead.see(task.item.tar, marker)
            if marker is None:
                lost.append({**(task.lost or {}), "error": stage.lost()[task.name]["error"]})
            else:
                progress.advance(marker["funnel"]["samples"], marker["funnel"]["picked"])
    markers = {tar: found for tar in range(len(plan.files)) if (found := stage.marker(_tar_name(tar))) is not None}
    return markers, sorted(lost, key=lambda item: int(item["index"]))


def _stands(plan: _Plan, task: Task[_Item]) -> bool:
    """Return whether a shard was written, from exactly what it is to be made from."""
    marker = plan.stage.marker(task.name)
    return marker is not None and isinstance(task.item, _Shard) and bool(marker["of"] == task.item.identity)


def _finish(
    plan: _Plan, markers: Mapping[int, Mapping[str, Any]], lost: Sequence[Mapping[str, Any]], options: RunOptions
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
    shared, layout = Shared.read(plan.shared), _Layout(plan)
    wanted = [shard for tar, marker in markers.items() for shard in layout.add(tar, marker, shared.among(tar))]
    shards = _write(plan, [*wanted, *layout.rest()], options)
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
    record = stage.finish(
        {"identity": identity, "lost": list(lost), **made}, complete=not lost,
        schema=1, settings={RESHARD.name: dataclasses.asdict(plan.settings)}, funnel=funnel,
    )  # fmt: skip
    if record["complete"]:
        stage.remove_partials()
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


def _write(plan: _Plan, shards: Sequence[Task[_Item]], options: RunOptions) -> dict[str, dict[str, Any]]:
    """Write the shards that are not written; return the markers of all by file name."""
    todo = [task for task in shards if not _stands(plan, task)]
    uses = {task.name: task.item.uses for task in todo if isinstance(task.item, _Shard)}
    with Progress("write", sum(uses.values()), options.progress) as progress:
        for task, _ in run(plan.stage, plan.step, todo, options, progress, holds_gil=plan.walks):
            progress.advance(uses[task.name], uses[task.name])
    return {f"{task.name.removeprefix('shard-')}.tar": plan.stage.marker(task.name) or {} for task in shards}


def _remove_strays(folder: Folder, shards: Iterable[str]) -> None:
    """Remove shards of an earlier division."""
    kept = {name for shard in shards for name in (shard, f"{Path(shard).stem}_stats.json")}
    for pattern in _SHARDS:
        for path in folder.path.glob(pattern):
            if path.name not in kept:
                path.unlink()
