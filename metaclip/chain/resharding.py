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

from metaclip.chain.work import Work, writing
from metaclip.curation import pool as pools
from metaclip.curation.pool import BrokenInput, Paths, PoolFile
from metaclip.engine.progress import Progress
from metaclip.errors import LostInputs, MetaclipError
from metaclip.shard import funnel as funnels
from metaclip.shard.engine import Tell, WorkerDied
from metaclip.shard.files import write_json
from metaclip.shard.folder import Folder
from metaclip.shard.stage import Stage, digest_of
from metaclip.training import reshard as resharding
from metaclip.training.reshard import PICK_REASONS, SEMANTICS, Arrivals, Cut, Picked, Piece, ReshardSettings, Shared
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
        return _picked(self.stage.path, tar), self.stage.path / f"tar-{tar:06d}.run.npy"

    @property
    def shared(self) -> Path:
        return self.stage.path / "shared.npy"

    @property
    def step(self) -> _Step:
        return _Step(self.subset, self.settings, self.files, self.stage.path)


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
        markers, lost = _look_through(plan, work)
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


def _picked(state: Path, tar: int) -> Path:
    return state / f"tar-{tar:06d}.picked.npy"


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
    def name(self) -> str:
        return f"shard-{self.path.stem}"

    @property
    def uses(self) -> int:
        return sum(piece.end - piece.begin for piece, _ in self.pieces)


@dataclasses.dataclass(frozen=True)
class _Step:
    """The step of both kinds of work, with what they need; it may travel to another process."""

    subset: Subset
    settings: ReshardSettings
    files: list[PoolFile]
    state: Path

    def __call__(self, task: _Look | _Shard, tell: Tell) -> dict[str, Any]:
        if isinstance(task, _Look):
            return resharding.pick(task.file, task.tar, self.subset, self.settings.names, task.to)

        def parts() -> Iterable[Any]:
            for piece, shared in task.pieces:
                picked = Picked.read(_picked(self.state, piece.tar))
                yield self.files[piece.tar], picked, *shared.uses_of(picked), piece.begin, piece.end

        return resharding.write_shard(task.path, parts())


class _Layout:
    """The shards that tars make up, as the tars become known in their order."""

    def __init__(self, plan: _Plan) -> None:
        self._plan, self._cut = plan, Cut(plan.settings.shard_size)
        self._tars: dict[int, tuple[list[Any], Shared]] = {}
        self._shards = 0

    def add(self, tar: int, marker: Mapping[str, Any], shared: Shared) -> list[_Shard]:
        """Take the next tar; give the shards that are whole with it."""
        self._tars[tar] = [tar, marker["size"], marker["stamp"], shared.digest], shared
        return [self._shard(pieces) for pieces in self._cut.add(tar, marker["uses"] + shared.change)]

    def rest(self) -> list[_Shard]:
        """Give the last shard, if it is not whole."""
        return [self._shard(pieces) for pieces in self._cut.rest()]

    def _shard(self, pieces: list[Piece]) -> _Shard:
        made_of = [[*self._tars[piece.tar][0], piece.begin, piece.end] for piece in pieces]
        path = self._plan.stage.folder / f"{self._shards:08d}.tar"
        self._shards += 1
        return _Shard(
            path, [(piece, self._tars[piece.tar][1]) for piece in pieces], digest_of([self._plan.stage.digest, made_of])
        )


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

    def tasks(self, looks: Iterable[_Look]) -> Iterator[_Look | _Shard]:
        """Give what is to be done; what it leads to is learnt between one and the next."""
        for look in looks:
            yield from self._known()
            yield look
        yield from self._known()

    def _known(self) -> Iterator[_Shard]:
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


def _look_through(plan: _Plan, work: Work) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """Look through the tars that were not, and write what is known by then: (markers by tar, what could not be read)."""
    stage = plan.stage
    names = {tar: f"tar-{tar:06d}" for tar in range(len(plan.files))}
    ahead, looks = _Ahead(plan, work.allow_lost), []
    for tar, file in enumerate(plan.files):
        marker = stage.marker(names[tar])
        if marker is not None and (marker["size"], marker["stamp"]) != (file.size, file.stamp):
            raise MetaclipError(
                f"{file.path} has changed since {stage.folder.path} was begun; "
                "choose another --out, or replace it with --overwrite"
            )
        if marker is None:
            looks.append(_Look(tar, file, plan.picked(tar)))
        else:
            ahead.see(tar, marker)
    lost: list[dict[str, Any]] = []
    tasks = ahead.tasks(looks) if len(looks) > 1 else looks
    with Progress(STAGE, None, work.progress) as progress:
        for task, result in work.carrier.map(plan.step, tasks, holds_gil=plan.walks):
            if isinstance(task, _Shard):
                _mark(plan, task, result)
            elif isinstance(result, BrokenInput | WorkerDied):
                error = str(result) if isinstance(result, BrokenInput) else f"{task.file.path}: {result}"
                stage.lose(names[task.tar], index=task.tar, name=task.file.name, error=error)
                progress.note(error)
                lost.append({"index": task.tar, "name": task.file.name, "error": error})
                ahead.see(task.tar, None)
            elif isinstance(result, BaseException):
                raise result
            else:
                found = {"size": task.file.size, "stamp": task.file.stamp, **result}
                ahead.see(task.tar, stage.mark(names[task.tar], found, task.to))
                progress.advance(result["funnel"]["samples"], result["funnel"]["picked"])
    markers = {tar: marker for tar, name in names.items() if (marker := stage.marker(name)) is not None}
    return markers, sorted(lost, key=lambda item: int(item["index"]))


def _stands(plan: _Plan, shard: _Shard) -> bool:
    """Tell whether a shard was written, from just what it is to be made from."""
    marker = plan.stage.marker(shard.name)
    return marker is not None and bool(marker["of"] == shard.identity)


def _mark(plan: _Plan, shard: _Shard, result: dict[str, Any] | BaseException) -> None:
    """Mark a shard as written. Raise what it raised."""
    if isinstance(result, BaseException):
        raise result
    stats = shard.path.with_name(f"{shard.path.stem}_stats.json")
    plan.stage.mark(shard.name, {"of": shard.identity, **result}, [shard.path, stats])


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
    shared, layout = Shared.read(plan.shared), _Layout(plan)
    wanted = [shard for tar, marker in markers.items() for shard in layout.add(tar, marker, shared.among(tar))]
    shards = _write(plan, [*wanted, *layout.rest()], work)
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


def _write(plan: _Plan, shards: Sequence[_Shard], work: Work) -> dict[str, dict[str, Any]]:
    """Write the shards that do not stand; give the markers of all by file name."""
    todo = [shard for shard in shards if not _stands(plan, shard)]
    if todo:
        with Progress("write", sum(shard.uses for shard in todo), work.progress) as progress:
            for shard, result in work.carrier.map(plan.step, todo, holds_gil=plan.walks):
                _mark(plan, shard, result)
                progress.advance(shard.uses, shard.uses)
    return {shard.path.name: plan.stage.marker(shard.name) or {} for shard in shards}


def _remove_strays(folder: Folder, shards: Iterable[str]) -> None:
    """Remove shards of an earlier division."""
    kept = {name for shard in shards for name in (shard, f"{Path(shard).stem}_stats.json")}
    for pattern in _GLOBS:
        for path in folder.path.glob(pattern):
            if path.name not in kept:
                path.unlink()
