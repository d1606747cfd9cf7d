"""`inspect`: image-text tars in; a table of their images, the subset of those that stay, and the funnel out.

Two stages: `inspect` reads every image and writes a row for it (`metaclip.inspect.images`), `select` decides by these rows
(`metaclip.inspect.select`). Other filters read no image again.

Tars are known by size and modification time, as in `reshard`: a digest of their bytes would cost another pass over them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from metaclip.arguments import PATH, check_types
from metaclip.curate.match import read_metadata
from metaclip.curate.settings import MatchSettings
from metaclip.engine import Progress
from metaclip.errors import BadSetting, MetaclipError, import_extra
from metaclip.inspect.evaluation_hashes import HashSource, open_source
from metaclip.inspect.hooks import MarkFunction, check_names, find_scores
from metaclip.inspect.images import ImagesStep
from metaclip.inspect.select import SELECT, select
from metaclip.inspect.settings import BROKEN, InspectSettings, ScoreHook
from metaclip.metadata import Metadata
from metaclip.pool.files import Paths, PoolFile, find_files
from metaclip.reshard.index import Names
from metaclip.stage.folder import ALL, Folder, versions
from metaclip.stage.runner import Marker, RunOptions, Task, run, run_in_parts
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
from metaclip.storage.files import as_path

_FUNNEL: Final = funnel_kind(("samples", *BROKEN, "usable"))
_TarMarker: Final = marker_kind(name=str, size=Size, stamp=str, listed=Size | None, funnel=_FUNNEL)
INSPECT: Final = StageSpec(
    "inspect",
    outputs=("images",),
    record=marker_kind(Record, identity=str, wanted=Size, lost=list[Lost], funnel=_FUNNEL),
)
"""Raise its semantics when the same image would give another row."""

MEMORY: Final = 2_000_000_000
"""Bytes that finding duplicates may use, by default."""


def inspect(
    tars: Paths,
    *,
    out: str | os.PathLike[str],
    settings: InspectSettings | None = None,
    memory: int = MEMORY,
    functions: Mapping[str, MarkFunction] | None = None,
    options: RunOptions | None = None,
) -> FinishedStage:
    """Inspect the images of tars and select those that stay, or continue where an earlier call stopped.

    `tars` are tars, folders or globs, local or in a store; `memory` is the number of bytes that finding duplicates may use.
    `functions` are hooks by their names (`metaclip.inspect.hooks`): functions of rows of images/ that say which are to be
    removed or blurred; after a change of a function, the rows are selected anew with `options.overwrite`.
    The record of the result lists the tars that cannot be read, as `lost`. Raise MetaclipError if none can be read, and for
    anything else that the caller can correct.

    >>> from metaclip import InspectSettings, inspect
    >>> made = inspect("tests/golden/inputs/tars", out="seen", settings=InspectSettings(exact_duplicates=True))
    >>> made.funnel["samples"]
    24
    """
    options = dataclasses.replace(options or RunOptions(), part=ALL)
    made = inspect_part(
        tars, out=out, settings=settings, memory=memory, functions=functions, options=options
    )
    assert made is not None
    return made


def inspect_part(
    tars: Paths,
    *,
    out: str | os.PathLike[str],
    settings: InspectSettings | None = None,
    memory: int = MEMORY,
    functions: Mapping[str, MarkFunction] | None = None,
    options: RunOptions | None = None,
) -> FinishedStage | None:
    """Run one part of `inspect` in a job array; return None while other parts have tars left."""
    check_types(
        out=(out, PATH), settings=(settings, InspectSettings | None), memory=(memory, int),
        options=(options, RunOptions | None),
    )  # fmt: skip
    import_extra("PIL", "images", "inspecting images")
    settings, options, folder = settings or InspectSettings(), options or RunOptions(), Folder(out)
    if memory < 1:
        raise BadSetting(f"memory is {memory}, must be at least 1")
    folder.refuse_other_stages(INSPECT.name, SELECT.name)
    entries = None
    if settings.keep == "matches":
        entries, named = read_metadata(settings.metadata, MatchSettings())
        if entries.languages:
            raise MetaclipError(
                "the query list has languages, and texts of tars are not told apart by theirs; give a list of one language"
            )
        settings = dataclasses.replace(settings, metadata=named.metadata)
    settings = dataclasses.replace(
        settings, against=tuple(as_path(path).address for path in settings.against)
    )
    functions = functions or {}
    check_names(settings.hooks, functions)
    hooks = (dataclasses.replace(hook, scores=as_path(hook.scores).address) for hook in settings.hooks)
    settings = dataclasses.replace(settings, hooks=tuple(hooks))
    sources = tuple(open_source(path, settings.split) for path in settings.against)
    files = find_files(tars, "tar", "tars")
    job = _Inspection(
        Stage(folder, INSPECT), settings, entries, sources, files, memory, functions, options
    )
    return run_in_parts(job.stage, job.tasks, options, begin=job.begin, work=job.work, finish=job.finish)


@dataclasses.dataclass(frozen=True)
class _Inspection:
    """The stage over some tars."""

    stage: Stage
    settings: InspectSettings
    entries: Metadata | None
    sources: tuple[HashSource, ...]
    files: list[PoolFile]
    memory: int
    functions: Mapping[str, MarkFunction]
    options: RunOptions

    @functools.cached_property
    def selection(self) -> Stage:
        """The stage that decides on the images."""
        return Stage(self.stage.folder, SELECT)

    @property
    def tasks(self) -> list[Task[tuple[str, PoolFile]]]:
        """A task for each tar: its index, with six digits, names its marker and its rows."""
        return [
            Task(f"{i:06d}", (f"{i:06d}", file), file.path, i, {"index": i, "name": file.name})
            for i, file in enumerate(self.files)
        ]

    def begin(self, overwrite: bool) -> dict[str, Marker]:
        """Begin or resume the stage; return the markers of the tars that were read."""
        stage, settings = self.stage, self.settings
        fingerprint = {
            "semantics": INSPECT.semantics,
            "columns": settings.columns,
            "tars": [file.name for file in self.files],
            "list": self.entries.digest if self.entries is not None else None,
        }
        selection = {
            "semantics": SELECT.semantics,
            **settings.selection,
            "hooks": [_hook_identity(hook) for hook in self.settings.hooks],
            "functions": list(self.functions),
            "against": [f"{source.path.name} {source.digest[:16]}" for source in self.sources],
        }
        self.selection.begin(selection, overwrite)
        stage.begin(fingerprint, overwrite)
        changed = next((file for name, file in self._items if self._has_changed(name, file)), None)
        if changed is not None:
            if not overwrite:
                raise MetaclipError(
                    f"{changed.path} has changed since {stage.folder.path} was begun; "
                    "choose another `out=...`, or replace it with `RunOptions(overwrite=True)`"
                )
            stage.clear()
            stage.begin(fingerprint)
        return self._read()

    @property
    def _items(self) -> list[tuple[str, PoolFile]]:
        return [task.item for task in self.tasks]

    def _has_changed(self, name: str, file: PoolFile) -> bool:
        marker = self.stage.marker(name, _TarMarker)
        return marker is not None and (marker["size"], marker["stamp"]) != (file.size, file.stamp)

    def _read(self) -> dict[str, Marker]:
        """Return the markers of the tars that were read, by name."""
        found = {name: self.stage.marker(name, _TarMarker) for name, _ in self._items}
        return {name: marker for name, marker in found.items() if marker is not None}

    def work(self, tasks: Sequence[Task[tuple[str, PoolFile]]]) -> None:
        """Read the tars that are left. Decoding leaves the GIL, but what is around it does not: workers are processes."""
        step = ImagesStep(self.stage, Names(*self.settings.columns), self.entries)
        with Progress("inspect", None, self.options.progress) as progress:
            for _ in run(self.stage, step, tasks, self.options, progress, holds_gil=True):
                pass

    def finish(self) -> FinishedStage:
        """Write the record of the stage, unless it exists, and run stage select."""
        stage, folder, markers = self.stage, self.stage.folder, self._read()
        lost = {name: why for name, why in stage.lost().items() if name not in markers}
        if not markers:
            raise MetaclipError(next(iter(lost.values()))["error"])
        identity = digest_of([stage.digest, [(m["size"], m["stamp"]) for m in markers.values()]])
        record = stage.finished()
        if record is None or record["identity"] != identity:
            record = self._record(markers, lost, identity)
        funnel = record["funnel"]
        usable = {name: marker["funnel"]["usable"] for name, marker in markers.items()}
        stated = [marker["listed"] for marker in markers.values()]
        listed = None if None in stated else max(sum(stated), funnel["samples"])
        selected = select(
            self.selection, self.settings, self.sources, identity, usable, listed, self.memory,
            self.options, self.functions,
        )  # fmt: skip
        return FinishedStage(folder.path, {**record, **selected})

    def _record(
        self, markers: Mapping[str, Marker], lost: Mapping[str, Any], identity: str
    ) -> dict[str, Any]:
        stage, folder = self.stage, self.stage.folder
        funnel = add_funnels(marker["funnel"] for marker in markers.values())
        check_funnel(funnel, "samples", BROKEN, "usable")
        stage.remove_strays("images", markers)
        folder.write_recipe({"inspect": self.settings})
        return stage.finish(
            {
                "identity": identity, "wanted": len(self.files), "funnel": funnel,
                "lost": [lost[name] for name in sorted(lost)],
            },
            complete=not lost, schema=1, versions=versions(),
            settings={"inspect": dataclasses.asdict(self.settings)},
            inputs=[
                {"index": int(name), **{key: marker[key] for key in ("name", "size", "stamp")}}
                for name, marker in markers.items()
            ],
        )  # fmt: skip


def _hook_identity(hook: ScoreHook) -> list[Any]:
    """Return what determines the marks of a hook: its settings, and its files by name, size and time of change."""
    settings = {**dataclasses.asdict(hook), "scores": ""}
    return [settings, [[file.name, file.size, file.stamp] for file in find_scores(hook)]]
