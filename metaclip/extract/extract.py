"""Extraction of a crawl on an engine: `extract` reads the files of a crawl and writes a pool.

    <out>/000000.parquet ...     the pool: one file of pairs for each file of the crawl
    <out>/manifest.json          inputs with digests, funnel, records, what was lost
    <out>/recipe.toml            the settings that were used

Three steps, each of many items, each item with a marker, so that an interrupted extraction continues after any of them:

1. Extract each file: its pairs and their keys go to ``.state/extract`` (`extract_file`). In processes: parsing holds the GIL.
2. When no file is left, find the pairs that occur more than once, in ranges of their keys (`deduplicate`). In threads.
3. Write the pairs of each file to the pool, without those that occur earlier (`pool_writer`). In threads.

The markers of steps 2 and 3 name what they were made from. The pairs of step 1 are removed as the pool grows, so that the
disk never holds all pairs twice; if inputs were lost they stay until those can be read.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from metaclip.arguments import PATH, check_types
from metaclip.engine import Progress, ProgressCallback
from metaclip.errors import MetaclipError
from metaclip.extract.crawl_files import CrawlFile, find_crawl_files
from metaclip.extract.deduplicate import (
    RUN_KEYS,
    duplicate_rows,
    find_duplicates,
    positions_path,
    range_count,
    run_files,
    split_positions,
)
from metaclip.extract.extract_file import RECORD_REASONS, ExtractStep
from metaclip.extract.filters import OPTIONAL, REASONS, UNMATCHED
from metaclip.extract.gzip_members import CUT_OFF
from metaclip.extract.opt_outs import names_of
from metaclip.extract.pool_writer import copy_without_rows
from metaclip.extract.robots_index import RobotsIndex, build_index
from metaclip.extract.settings import (
    PATH_SETTINGS,
    ExtractSettings,
    fingerprint,
    read_entries,
    read_lists,
)
from metaclip.extract.warc_records import LOSSES
from metaclip.matching.matched_files import MatchedFile
from metaclip.metadata import Metadata
from metaclip.pool.files import Paths
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

_SEEN: Final = ("images_seen", "alt_nonempty", "more_texts", "candidates")
_RECORDS: Final = funnel_kind(("records", "pages"), (*LOSSES, *RECORD_REASONS, "mended_utf8"))
_FileMarker: Final = marker_kind(
    name=str, path=str, size=Size, stamp=str | None, sha256=str, records=_RECORDS, places=dict[str, str],
    runs=list[Annotated[int, msgspec.Meta(ge=0, le=RUN_KEYS)]], funnel=funnel_kind((*_SEEN, "rows"), REASONS),
)  # fmt: skip
_RangeMarker: Final = marker_kind(of=str, parts=Size)
_PoolMarker: Final = marker_kind(of=str, pairs=Size, unmatched=(Size, 0))
EXTRACT: Final = StageSpec(
    "extract",
    ("*.parquet",),
    ("*.parquet", "*.keys.npy", "*.same.npy", "*.places.npy"),
    record=marker_kind(
        Record, identity=str, wanted=Size, lost=list[Lost], records=_RECORDS,
        funnel=funnel_kind((*_SEEN, "pairs"), REASONS),
    ),
)  # fmt: skip
MEMORY: Final = 2_000_000_000
"""Bytes that finding duplicates may use, by default."""


def extract(
    crawl: Paths,
    *,
    out: str | os.PathLike[str],
    settings: ExtractSettings | None = None,
    memory: int = MEMORY,
    options: RunOptions | None = None,
) -> FinishedStage:
    """Extract the pairs of a crawl to a pool, or continue an earlier call that was interrupted.

    `crawl` names WAT or WARC files, folders, globs, addresses, or lists of these; `memory` is the number of bytes that
    finding duplicates may use. The record of the result lists the files that cannot be read, as `lost`. Raise MetaclipError if
    none can be read, or for anything else that the caller can mend.

    >>> from metaclip import ExtractSettings, extract
    >>> extract("tests/golden/inputs/crawl", out="pool", settings=ExtractSettings(identify=False)).funnel["pairs"]
    28
    """
    check_types(
        out=(out, PATH), settings=(settings, ExtractSettings | None), options=(options, RunOptions | None)
    )
    whole = dataclasses.replace(options or RunOptions(), part=ALL)
    made = extract_part(crawl, out, settings or ExtractSettings(), whole, memory)
    assert made is not None
    return made


def extract_part(
    crawl: Paths, out: str | os.PathLike[str], settings: ExtractSettings, options: RunOptions, memory: int
) -> FinishedStage | None:  # fmt: skip
    """Run one part of `extract` in a job array; return None while other parts have files left.

    The part that leaves none makes the pool. Raise LostInputs for a part that is finished except for files that it could
    not read.
    """
    folder = Folder(out)
    others = folder.manifest.get("stages", {}).keys() - {EXTRACT.name}
    if others or any((folder.state / name).exists() for name in ("match", "balance")):
        raise MetaclipError(f"{folder.path} is a run folder; choose another `out=...` for the pool")
    files, lists = find_crawl_files(crawl, settings), read_lists(settings)
    entries = read_entries(settings)
    # The recipe that is written stands in another folder than the one that names the lists.
    paths = {
        name: path for name in PATH_SETTINGS if (path := getattr(settings, name)) and "://" not in path
    }
    settings = dataclasses.replace(
        settings, **{name: os.path.abspath(path) for name, path in paths.items()}
    )
    job = _Extraction(Stage(folder, EXTRACT), settings, lists, entries, files, memory, options)
    return run_in_parts(job.stage, job.tasks, options, begin=job.begin, work=job.work, finish=job.finish)


@dataclasses.dataclass(frozen=True)
class _Extraction:
    """The stage over one crawl: its files, and how they are extracted."""

    stage: Stage
    settings: ExtractSettings
    lists: Mapping[str, list[str]]
    entries: Metadata | None
    files: list[CrawlFile]
    memory: int
    options: RunOptions

    @functools.cached_property
    def robots(self) -> RobotsIndex | None:
        """The index of robots.txt files; the first who needs it builds it, in a folder that is owned."""
        folder, settings = self.stage.folder, self.settings
        if settings.robots is None:
            return None
        return build_index(folder, settings, names_of(settings.agents), self.memory, self.options)

    @functools.cached_property
    def tasks(self) -> list[Task[tuple[str, CrawlFile]]]:
        """A task for each file: its index, with six digits, names its marker and its pairs."""
        return [
            Task(f"{i:06d}", (f"{i:06d}", file), file.path, i, {"index": i, "name": file.name})
            for i, file in enumerate(self.files)
        ]

    def begin(self, overwrite: bool) -> dict[str, Marker]:
        """Begin or resume the stage; return the markers of extracted files. Raise MetaclipError if a file has changed."""
        stage, folder = self.stage, self.stage.folder
        names = [file.name for file in self.files]
        robots = None if self.robots is None else self.robots.identity
        wanted = fingerprint(self.settings, self.lists, names, self.entries, robots)
        stage.begin(wanted, overwrite, names={"matched": "the query list (matched)", "robots": "robots"})
        changed = self._find_changed()
        if changed is not None:
            if not overwrite:
                raise MetaclipError(
                    f"{changed.path} has changed since {folder.path} was begun; "
                    "choose another `out=...`, or replace the pool with `RunOptions(overwrite=True)`"
                )
            stage.clear()
            stage.begin(wanted)
        return self._extracted()

    def _find_changed(self) -> CrawlFile | None:
        """Return a local file that has changed since it was extracted. Mark files again that were only touched or moved.

        A file that was cut off is extracted again once it has changed; nobody knows whether one on another machine has.
        """
        for name, file in (task.item for task in self.tasks):
            marker = self.stage.marker(name, _FileMarker)
            if (
                marker is not None
                and CUT_OFF in marker["places"]
                and (file.remote or file.size != marker["size"])
            ):
                self.stage.unmark(name)
                continue
            if marker is None or file.is_untouched(marker):
                continue
            if file.has_changed(marker):
                return file
            self.stage.mark(
                name,
                {**marker, "stamp": file.stamp},
                run_files(self.stage.path, name, len(marker["runs"])),
            )
        return None

    def _extracted(self) -> dict[str, Marker]:
        """Return the markers, by name, of the files that are extracted and whose pairs still exist, here or in the pool."""
        stage, record = self.stage, self.stage.finished()
        complete = record is not None and record["complete"]
        existing = set(stage.path.glob("*.parquet")) if stage.path.exists() else set()
        markers = {task.name: stage.marker(task.name, _FileMarker) for task in self.tasks}
        return {
            name: marker
            for name, marker in markers.items()
            if marker is not None
            and (
                complete
                or _pairs_path(stage, name) in existing
                or stage.marker(_pool_marker(name), _PoolMarker) is not None
            )
        }

    def work(self, tasks: Sequence[Task[tuple[str, CrawlFile]]]) -> None:
        """Step 1: extract the files that are left."""
        if not tasks:
            return
        step = ExtractStep(self.stage, self.settings, self.lists, self.entries, self.robots)
        _ = step.matcher  # its automaton is built once, before workers open it
        with Progress("extract", None, self.options.progress) as progress:
            for task, marker in run(self.stage, step, tasks, self.options, progress, holds_gil=True):
                if marker is None:
                    continue
                progress.advance(marker["funnel"]["images_seen"], marker["funnel"]["rows"])
                for reason, position in marker["places"].items():
                    meaning = {**LOSSES, **RECORD_REASONS}[reason]
                    progress.note(
                        f"{task.source}: {marker['records'][reason]} lost: {meaning} (first: {position})"
                    )

    def finish(self) -> FinishedStage:
        """Make the pool of the extracted files, unless the record shows that it exists."""
        stage, folder = self.stage, self.stage.folder
        markers, lost = self._extracted(), stage.lost()
        for name in lost.keys() & markers.keys():
            stage.unmark_lost(name)
        lost = {name: why for name, why in lost.items() if name not in markers}
        lost |= {
            task.name: {**task.lost, "error": _cut_off_message(task.source, markers[task.name])}
            for task in self.tasks
            if task.lost and CUT_OFF in markers.get(task.name, {"places": ()})["places"]
        }
        if not markers:
            raise MetaclipError(next(iter(lost.values()))["error"])
        identity = digest_of(
            [stage.digest, [(name, marker["sha256"]) for name, marker in markers.items()]]
        )
        record = stage.finished()
        if record is not None and record["identity"] == identity:
            return FinishedStage(folder.path, record)
        ranges = self._find_duplicates(markers, identity)
        written = self._write_pool(markers, identity, ranges, remove_pairs=not lost)
        stage.remove_strays("", {name for name, marker in written.items() if marker["files"]})
        folder.write_recipe({"extract": self.settings})
        account: dict[str, Any] = _funnels(markers, written, self.settings)
        account["lost"] = [lost[name] for name in sorted(lost)]
        keys = ("name", "path", "size", "stamp", "sha256")
        record = stage.finish(
            {**account, "identity": identity, "wanted": len(self.tasks)},
            complete=not lost,
            schema=1,
            **account,
            inputs=[
                {"index": int(name), **{key: marker[key] for key in keys}}
                for name, marker in markers.items()
            ],
            versions=versions(),
            settings={"extract": self.settings.record},
            **({} if self.entries is None else {"list": self.entries.digest}),
            **({} if self.robots is None else {"robots": self.robots.identity}),
        )
        if record["complete"]:
            stage.remove_partials()
        return FinishedStage(folder.path, record)

    def _find_duplicates(self, markers: Mapping[str, Marker], identity: str) -> int:
        """Step 2: find the pairs that occur more than once; return the number of ranges of keys."""
        runs = {name: len(marker["runs"]) for name, marker in markers.items()}
        keys = sum(sum(marker["runs"]) for marker in markers.values())
        ranges = range_count(keys, self.memory, self.options.active_engine.workers)
        origin = {"of": identity, "parts": ranges}
        step = functools.partial(_find_step, stage=self.stage, runs=runs, ranges=ranges, origin=origin)
        tasks = self._without(origin, _RangeMarker, [Task(f"part-{i:05d}", i) for i in range(ranges)])
        for name in runs if tasks else ():
            for path in run_files(self.stage.path, name, runs[name]):
                self.stage.partial(name, path.name.removeprefix(f"{name}."))  # compares its bytes
        with Progress("deduplicate", None, self.options.progress) as progress:
            for _ in run(self.stage, step, tasks, self.options, progress):
                pass
        return ranges

    def _write_pool(
        self, markers: Mapping[str, Marker], identity: str, ranges: int, remove_pairs: bool
    ) -> dict[str, Marker]:
        """Step 3: write the files of the pool; return their markers. Remove the pairs of step 1 on request."""
        stage, origin = self.stage, {"of": identity}
        entries, rule = self.entries, self.settings.text_rule
        matched = None if entries is None else MatchedFile(entries.digest, rule, pairs=0, unmatched=0)
        step = functools.partial(_write_step, stage=stage, ranges=ranges, origin=origin, matched=matched)
        tasks = [Task(_pool_marker(name), (name, marker)) for name, marker in markers.items()]
        with Progress("write", None, self.options.progress) as progress:
            left = self._without(origin, _PoolMarker, tasks)
            for task, _ in run(stage, step, left, self.options, progress):
                if remove_pairs:
                    _pairs_path(stage, task.item[0]).unlink(missing_ok=True)
        written = {name: stage.marker(_pool_marker(name), _PoolMarker) for name in markers}
        return {name: marker for name, marker in written.items() if marker is not None}

    def _without(self, origin: Mapping[str, Any], kind: Any, tasks: list[Task[Any]]) -> list[Task[Any]]:
        """Return the tasks whose results were not made, or not from this."""
        return [
            task
            for task in tasks
            if not origin.items() <= (self.stage.marker(task.name, kind) or {}).items()
        ]


def _cut_off_message(path: str, marker: Marker) -> str:
    pages, position = marker["records"]["pages"], marker["places"][CUT_OFF]
    return (
        f"{path} ends in the middle of a record, at {position} of {marker['size']:,}: its download was cut off. Its "
        f"{pages:,} complete pages are kept; fetch it again"
    )


def _funnels(
    markers: Mapping[str, Marker], written: Mapping[str, Marker], settings: ExtractSettings
) -> dict[str, Any]:
    """Add up the funnels of images and of records of all files; `written` are the markers of the pool's files."""
    unset = {reason for reason, name in OPTIONAL.items() if getattr(settings, name) is None}
    reasons = dict.fromkeys((reason for reason in REASONS if reason not in unset), 0)
    funnel = add_funnels([reasons, *(marker["funnel"] for marker in markers.values())])
    # Of pairs that occur more than once, only the first is counted as unmatched.
    left = {"pairs": sum(marker["pairs"] for marker in written.values())}
    if settings.matched is not None:
        left[UNMATCHED] = sum(marker["unmatched"] for marker in written.values())
    funnel["duplicate"] = funnel.pop("rows") + funnel.get(UNMATCHED, 0) - sum(left.values())
    funnel |= left
    check_funnel(funnel, "candidates", REASONS, "pairs")
    records = add_funnels(marker["records"] for marker in markers.values())
    check_funnel(records, "records", (*LOSSES, *RECORD_REASONS), "pages")
    return {"funnel": funnel, "records": records}


def _find_step(
    key_range: int,
    progress: ProgressCallback,
    *,
    stage: Stage,
    runs: Mapping[str, int],
    ranges: int,
    origin: Marker,
) -> tuple[Marker, list[Path]]:
    """Find the duplicates in a range of keys."""
    found = find_duplicates(stage.path, runs, key_range, ranges)
    return {**origin, "places": found}, [positions_path(stage.path, key_range)]


def _write_step(
    item: tuple[str, Marker],
    progress: ProgressCallback,
    *,
    stage: Stage,
    ranges: int,
    origin: Marker,
    matched: MatchedFile | None,
) -> tuple[Marker, list[Path]]:
    """Write the pairs of a file, given with its marker, to the pool; `matched` says by what they were matched."""
    name, marker = item
    path, source = stage.folder / f"{name}.parquet", _pairs_path(stage, name)
    duplicates = duplicate_rows(stage.path, name, len(marker["runs"]), ranges)
    if matched is None:
        pairs = copy_without_rows(source, path, duplicates)
        return {**origin, "pairs": pairs}, [path] if pairs else []
    rows, others = split_positions(duplicates)
    pairs = marker["funnel"]["rows"] - len(rows)
    unmatched = marker["funnel"].get(UNMATCHED, 0) - others
    if pairs or unmatched:
        found = msgspec.structs.replace(matched, pairs=pairs, unmatched=unmatched)
        copy_without_rows(source, path, rows, found.metadata())
    return {**origin, "pairs": pairs, "unmatched": unmatched}, [path] if pairs or unmatched else []


def _pairs_path(stage: Stage, name: str) -> Path:
    """Return the path of the pairs of a file, until they are in the pool."""
    return stage.path / f"{name}.parquet"


def _pool_marker(name: str) -> str:
    """Return the name of the marker of a file of the pool."""
    return f"{name}-pool"
