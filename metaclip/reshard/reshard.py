"""Reshard: tars and a subset in, curated tars out; can be resumed after every tar, in and out.

Each input tar is searched for samples of the subset, uids that several samples share are found over all tars, and each new
tar is written under a marker that names what it was made from. A new tar is written as soon as the tars that it is made
from were searched: later tars change it only if a uid that the subset has several times occurs again, and then it is
written again. So reading and writing overlap, and what is read twice is still in memory the second time.

Tars are known by size and modification time: reading them for a digest would cost as much as the work itself. Tars that
cannot be read are listed, and no new tar that could hold their samples is written unless that is allowed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from metaclip.arguments import PATH, check_types
from metaclip.engine import Progress, ProgressCallback
from metaclip.errors import LostInputs, MetaclipError
from metaclip.pool.files import Paths, PoolFile, find_files
from metaclip.pool.subset import Subset
from metaclip.reshard import shards
from metaclip.reshard.index import NO_UID, Names
from metaclip.reshard.shards import (
    SHARD_SIZE,
    ReshardSettings,
    SeenUids,
    Selection,
    ShardLayout,
    SharedUids,
    TarUses,
)
from metaclip.stage.folder import Folder
from metaclip.stage.runner import RunOptions, Task, lost_message, run
from metaclip.stage.stage import (
    FinishedStage,
    Lost,
    Record,
    Size,
    Stage,
    StageSpec,
    add_funnels,
    check_funnel,
    digest_of,
    funnel_kind,
    marker_kind,
)
from metaclip.storage.files import write_json

_SHARDS: Final = ("*.tar", "*_stats.json")
_FUNNEL: Final = funnel_kind(("samples", *shards.REASONS, "picked"))
_UIDS: Final = {"missing": Size, "missing_uses": Size}
_TarMarker: Final = marker_kind(size=int, stamp=str, funnel=_FUNNEL, has_uid=bool, uses=Size)
_ShardMarker: Final = marker_kind(of=str, samples=Size, odd_suffix=Size)
_SharedMarker: Final = marker_kind(of=str, tally=funnel_kind(_UIDS))
RESHARD: Final = StageSpec(
    "reshard",
    outputs=(*_SHARDS, "sizes.json", "meta.json", "missing.npy"),
    partials=("*.picked.npy", "*.run.npy", "shared.npy"),
    record=marker_kind(
        Record,
        identity=str,
        lost=list[Lost],
        funnel=_FUNNEL,
        subset=Size,
        written=Size,
        without_uid=Size,
        odd_suffix=Size,
        **_UIDS,
    ),
)


def reshard(
    tars: Paths,
    *,
    subset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    shard_size: int = SHARD_SIZE,
    text_column: str | None = None,
    url_column: str | None = None,
    uid_column: str | None = None,
    options: RunOptions | None = None,
) -> FinishedStage:
    """Write the samples of a subset to new tars, or continue where an earlier call stopped.

    Raise LostInputs if tars cannot be read (unless `options.allow_lost`), MetaclipError if no sample is found, and for
    anything else that the caller can fix.

    `shard_size` is the number of samples per tar; the columns are those of samples without a uid.

    >>> from metaclip import reshard
    >>> made = reshard("tests/golden/inputs/tars", subset="tests/golden/inputs/subset.npy", out="tars", shard_size=4)
    >>> made.record["written"]
    20
    """
    settings = ReshardSettings(shard_size, text_column, url_column, uid_column)
    check_types(subset=(subset, PATH), out=(out, PATH), options=(options, RunOptions | None))
    options, folder = options or RunOptions(), Folder(out)
    folder.refuse_other_stages(RESHARD.name)
    files = find_files(tars, "tar", "tars")
    _refuse_inputs_in(folder, files)
    step = _ReshardStep(Stage(folder, RESHARD), Subset(subset), settings, files)
    subset_digest = step.subset.digest()
    fingerprint = {
        "semantics": shards.SEMANTICS,
        "subset": subset_digest,
        "settings": dataclasses.asdict(settings),
        "tars": [file.name for file in files],
    }
    with folder.owned():
        names = {"subset": f"subset: {step.subset.path.name}"}
        step.stage.begin(fingerprint, options.overwrite, names=names)
        markers, lost = _search(step, options)
        if lost and (not options.allow_lost or not markers):
            if not markers:
                raise MetaclipError(lost[0]["error"])
            raise LostInputs(lost_message(lost, len(files), "`RunOptions(allow_lost=True)`"))
        identity = digest_of(
            [step.stage.digest, [(tar, one["size"], one["stamp"]) for tar, one in markers.items()]]
        )
        record = step.stage.finished()
        if record is None or record["identity"] != identity:
            record = _finish(step, markers, lost, options, identity, subset_digest)
        return FinishedStage(folder.path, record)


def _refuse_inputs_in(folder: Folder, files: Sequence[PoolFile]) -> None:
    """Refuse an output folder that holds the tars: its shards would be listed among them the next time."""
    out = folder.path.resolve()
    for path in {os.path.dirname(file.path) for file in files if "://" not in file.path}:
        if Path(path).resolve().is_relative_to(out):
            raise MetaclipError(f"the tars in {path} are inside {folder.path}; choose another `out=...`")


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A shard to be written."""

    path: Path
    parts: list[tuple[TarUses, SharedUids]]
    identity: str
    """A digest of all that determines it."""

    @property
    def uses(self) -> int:
        """The number of its samples."""
        return sum(part.end - part.begin for part, _ in self.parts)


_Item = int | _Shard
"""A tar to be searched, by number, or a shard to be written."""


@dataclasses.dataclass(frozen=True)
class _ReshardStep:
    """The step of both kinds of items: searches a tar, or writes a shard."""

    stage: Stage
    subset: Subset
    settings: ReshardSettings
    files: list[PoolFile]

    def __call__(self, item: _Item, progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        if isinstance(item, int):
            file, paths = self.files[item], [self.partial(item, "picked"), self.partial(item, "run")]
            settings = self.settings
            names = Names(settings.text_column, settings.url_column, settings.uid_column)
            found = shards.select_samples(file, item, self.subset, names, paths)
            return {"size": file.size, "stamp": file.stamp, **found}, paths
        parts = (
            (self.files[uses.tar], self.selection(uses.tar), shared, uses) for uses, shared in item.parts
        )
        written = shards.write_shard(item.path, parts)
        stats = item.path.with_name(f"{item.path.stem}_stats.json")
        return {"of": item.identity, **written}, [item.path, stats]

    @property
    def holds_gil(self) -> bool:
        """Whether some tar must be walked header by header, which holds the GIL, because it has no random access."""
        return any("://" in file.path or file.codec is not None for file in self.files)

    def partial(self, tar: int, kind: str) -> Path:
        """Return the path of what is kept of a tar until the stage is complete."""
        return self.stage.path / f"{_tar_name(tar)}.{kind}.npy"

    def selection(self, tar: int) -> Selection:
        """Read the selected samples of a tar."""
        return Selection.read(self.stage.partial(_tar_name(tar), "picked.npy"), self.subset)

    def is_written(self, task: Task[_Item]) -> bool:
        """Return whether a shard was written from exactly what it is to be made from."""
        marker = self.stage.marker(task.name, _ShardMarker)
        return (
            marker is not None
            and isinstance(task.item, _Shard)
            and bool(marker["of"] == task.item.identity)
        )


def _tar_name(tar: int) -> str:
    """Return the name of the marker of a tar that was searched."""
    return f"tar-{tar:06d}"


class _ShardTasks:
    """The tasks of writing shards, as the tars become known in their order."""

    def __init__(self, step: _ReshardStep) -> None:
        self._step, self._layout = step, ShardLayout(step.settings.shard_size)
        self._tars: dict[int, tuple[list[Any], SharedUids]] = {}
        self._shards = 0

    def add(self, tar: int, marker: Mapping[str, Any], shared: SharedUids) -> list[Task[_Item]]:
        """Add the next tar; return the shards that it completes."""
        self._tars[tar] = [tar, marker["size"], marker["stamp"], shared.digest], shared
        uses = int(self._step.selection(tar).counts.sum()) + shared.more_uses
        return [self._task(parts) for parts in self._layout.add(tar, uses)]

    def rest(self) -> list[Task[_Item]]:
        """Return the last shard, if it is not complete."""
        return [self._task(parts) for parts in self._layout.rest()]

    def _task(self, parts: list[TarUses]) -> Task[_Item]:
        made_of = [[*self._tars[part.tar][0], part.begin, part.end] for part in parts]
        path = self._step.stage.folder / f"{self._shards:08d}.tar"
        self._shards += 1
        identity = digest_of([self._step.stage.digest, made_of])
        return Task(
            f"shard-{path.stem}",
            _Shard(path, [(part, self._tars[part.tar][1]) for part in parts], identity),
        )


def _early_tasks(
    step: _ReshardStep,
    searches: Iterable[Task[_Item]],
    markers: Mapping[int, Mapping[str, Any] | None],
    allow_lost: bool,
) -> Iterator[Task[_Item]]:
    """Yield the tasks of searching tars, and between them those of the shards that are known by then and not written yet.

    Meanwhile the caller adds the marker of each tar that was searched to `markers`; None if it is lost. With `allow_lost`, a
    lost tar is skipped; otherwise no later shard is known.
    """
    searches, shards, seen_uids = iter(searches), _ShardTasks(step), SeenUids(step.subset)
    for tar in range(len(step.files)):
        while tar not in markers:
            if (search := next(searches, None)) is None:
                return
            yield search
        marker = markers[tar]
        if marker is None and allow_lost:
            continue
        shared = None if marker is None else seen_uids.add(step.selection(tar))
        if marker is None or shared is None:
            break
        yield from (task for task in shards.add(tar, marker, shared) if not step.is_written(task))
    yield from searches


def _search(
    step: _ReshardStep, options: RunOptions
) -> tuple[dict[int, Mapping[str, Any]], list[dict[str, Any]]]:
    """Search the tars that are left, and write the shards known by then.

    Return the markers of all tars by number, and the tars that cannot be read.
    """
    stage, searches = step.stage, list[Task[_Item]]()
    markers: dict[int, Mapping[str, Any] | None] = {}
    for tar, file in enumerate(step.files):
        marker = stage.marker(_tar_name(tar), _TarMarker)
        if marker is None:
            searches.append(Task(_tar_name(tar), tar, file.path, lost={"index": tar, "name": file.name}))
            continue
        if (marker["size"], marker["stamp"]) != (file.size, file.stamp):
            raise MetaclipError(
                f"{file.path} has changed since {stage.folder.path} was begun; "
                "choose another `out=...`, or replace it with `RunOptions(overwrite=True)`"
            )
        markers[tar] = marker
    several = len(searches) > 1
    tasks = _early_tasks(step, searches, markers, options.allow_lost) if several else searches
    lost: list[dict[str, Any]] = []
    with Progress("reshard", None, options.progress) as progress:
        for task, marker in run(stage, step, tasks, options, progress, holds_gil=step.holds_gil):
            if not isinstance(task.item, int):
                continue
            markers[task.item] = marker
            if marker is None:
                lost.append({**(task.lost or {}), "error": stage.lost()[task.name]["error"]})
            else:
                progress.advance(marker["funnel"]["samples"], marker["funnel"]["picked"])
    found = {tar: marker for tar, marker in sorted(markers.items()) if marker is not None}
    return found, sorted(lost, key=lambda item: int(item["index"]))


def _finish(
    step: _ReshardStep, markers: Mapping[int, Mapping[str, Any]], lost: Sequence[Mapping[str, Any]], options: RunOptions,
    identity: str, subset_digest: str,
) -> dict[str, Any]:  # fmt: skip
    """Write the shards that are left and the record; `identity` is that of the tars searched."""
    stage, folder = step.stage, step.stage.folder
    funnel = add_funnels(marker["funnel"] for marker in markers.values())
    check_funnel(funnel, "samples", shards.REASONS, "picked")
    without_uid = sum(marker["funnel"]["samples"] for marker in markers.values() if not marker["has_uid"])
    if not funnel["picked"]:
        hint = "check that the subset was drawn from these tars"
        if without_uid:
            hint = NO_UID.format(f"{without_uid} samples")
        stage.clear()
        raise MetaclipError(f"none of the {funnel['samples']} samples is in {step.subset.path}; {hint}")
    counts = _share_uids(step, markers, identity)
    shared, layout = SharedUids.read(stage.path / "shared.npy"), _ShardTasks(step)
    tasks = [
        task for tar, marker in markers.items() for task in layout.add(tar, marker, shared.of_tar(tar))
    ]
    written = _write_shards(step, [*tasks, *layout.rest()], options)
    sizes = {name: marker["samples"] for name, marker in written.items()}
    write_json(folder / "sizes.json", sizes)
    write_json(
        folder / "meta.json",
        {
            "input": [file.name for file in step.files],
            "subset_file": step.subset.path.name,
            "subset_sha256": subset_digest,
            "shard_size": step.settings.shard_size,
            "processed_count": funnel["samples"],
            "output_count": sum(sizes.values()),
            "output_shard_count": len(sizes),
            "missing_count": counts["missing_uses"],
            "lost_inputs": [item["name"] for item in lost],
        },
    )
    record = stage.finish(
        {
            "identity": identity, "lost": list(lost), "funnel": funnel, "subset": len(step.subset),
            "written": sum(sizes.values()), **counts, "without_uid": without_uid,
            "odd_suffix": sum(marker["odd_suffix"] for marker in written.values()),
        },
        complete=not lost, schema=1, settings={RESHARD.name: dataclasses.asdict(step.settings)}, funnel=funnel,
    )  # fmt: skip
    if record["complete"]:
        stage.remove_partials()
    return record


def _share_uids(step: _ReshardStep, markers: Iterable[int], identity: str) -> dict[str, int]:
    """Find the uids that samples share and those that are missing, unless that is done."""
    stage, paths = step.stage, (step.stage.path / "shared.npy", step.stage.folder / "missing.npy")
    marker = stage.marker("shared", _SharedMarker)
    if marker is None or marker["of"] != identity:
        counts = shards.share_uids(
            [stage.partial(_tar_name(tar), "run.npy") for tar in markers], step.subset, *paths
        )
        marker = {"of": identity, "tally": counts}
        stage.mark("shared", marker, paths)
    return dict(marker["tally"])


def _write_shards(
    step: _ReshardStep, tasks: Sequence[Task[_Item]], options: RunOptions
) -> dict[str, dict[str, Any]]:
    """Write the shards that are left and remove those of an earlier division; return the markers of all by file name."""
    left = [task for task in tasks if not step.is_written(task)]
    uses = {task.name: task.item.uses for task in left if isinstance(task.item, _Shard)}
    with Progress("write", sum(uses.values()), options.progress) as progress:
        for task, _ in run(step.stage, step, left, options, progress, holds_gil=step.holds_gil):
            progress.advance(uses[task.name], uses[task.name])
    kept = {
        f"{task.name.removeprefix('shard-')}{suffix}"
        for task in tasks
        for suffix in (".tar", "_stats.json")
    }
    for path in [
        path
        for pattern in _SHARDS
        for path in step.stage.folder.path.glob(pattern)
        if path.name not in kept
    ]:
        path.unlink()
    return {
        f"{task.name.removeprefix('shard-')}.tar": step.stage.marker(task.name, _ShardMarker) or {}
        for task in tasks
    }
