"""Extraction on an engine: the files of a crawl in, a pool out; resumable at every file, and twice after them.

    <out>/000000.parquet ...     the pool: one file of pairs for each of the crawl's
    <out>/manifest.json          inputs with digests, funnel, records, what was lost
    <out>/recipe.toml            the settings that were used

Files are extracted in processes (parsing holds the GIL), each under its marker. When none is left, the keys of all are
looked at in parts, and each file's pairs are written to the pool without those that stand earlier: both in threads,
each under a marker that names what it was made from. What the files left behind goes as the pool grows, so that the disk
never holds all pairs twice; where inputs were lost it stays until they are mended.
"""

from __future__ import annotations

import collections
import dataclasses
import fcntl
import functools
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from metaclip.engine.contract import PortableStep, ProgressCallback
from metaclip.engine.progress import Progress
from metaclip.errors import MetaclipError
from metaclip.extract import dedupe, sources, write
from metaclip.extract.filters import REASONS
from metaclip.extract.records import LOSSES
from metaclip.extract.settings import LISTS, ExtractSettings, Lists, fingerprint
from metaclip.extract.sources import RETRY, Paths, Source
from metaclip.extract.step import RECORD_REASONS, Extractor
from metaclip.stage import funnel as funnels
from metaclip.stage.folder import Folder, versions
from metaclip.stage.options import RunOptions
from metaclip.stage.runner import Task, run, run_in_parts
from metaclip.stage.stage import Stage, StageSpec, digest_of
from metaclip.storage.download import RetryPolicy
from metaclip.storage.files import file_digest, remove_temporaries
from metaclip.storage.ownership import ALL
from metaclip.storage.remote import absolute_path, as_path, is_remote

EXTRACT: Final = StageSpec("extract", ("*.parquet",), ("*.parquet", "*.keys.npy", "*.same.npy", "*.places.npy"))
MEMORY: Final = 2_000_000_000
"""Bytes that finding pairs that stand twice may take."""


@dataclasses.dataclass(frozen=True)
class Extracted:
    """What extraction left: a pool."""

    path: Path
    record: dict[str, Any]

    @property
    def funnel(self) -> dict[str, int]:
        """What became of the images."""
        return dict(self.record["funnel"])

    @property
    def lost(self) -> list[dict[str, Any]]:
        """The files that could not be read."""
        return list(self.record["lost"])


def extract(
    crawl: Paths,
    *,
    out: str | os.PathLike[str],
    settings: ExtractSettings | None = None,
    options: RunOptions | None = None,
    memory: int = MEMORY,
    retry: RetryPolicy = RETRY,
) -> Extracted:
    """Extract a crawl's pairs to a pool, or go on where an earlier call stopped.

    Files that cannot be read are listed in the result. Raise MetaclipError if none could be, or for what the caller can
    mend.
    """
    crawled = Crawl(crawl, settings or ExtractSettings(), memory, retry)
    made = extract_part(crawled, Folder(out), dataclasses.replace(options or RunOptions(), part=ALL))
    assert made is not None
    return made


@dataclasses.dataclass(frozen=True)
class Crawl:
    """What is extracted, and by what means."""

    paths: Paths
    settings: ExtractSettings
    memory: int
    retry: RetryPolicy


def extract_part(crawl: Crawl, folder: Folder, options: RunOptions) -> Extracted | None:
    """Run one part of `extract` in a job array; return None while other parts have files left.

    The part that leaves none makes the pool. Raise LostInputs for a part that is finished except for files that it could
    not read.
    """
    _refuse_run(folder)
    found, lists = sources.find(crawl.paths, crawl.settings, crawl.retry), Lists.read(crawl.settings)
    stage = Stage(folder, EXTRACT)
    job = _Job(stage, _absolute(crawl.settings), lists, found, crawl.memory, crawl.retry, options)
    return run_in_parts(stage, job.tasks, options, begin=job.begin, work=job.work, finish=job.finish)


def _refuse_run(folder: Folder) -> None:
    others = sorted(folder.manifest.get("stages", {}).keys() - {EXTRACT.name})
    if others or any((folder.state / name).exists() for name in ("match", "balance")):
        raise MetaclipError(f"{folder.path} is a run folder; choose another --out for the pool")


def _workers_lock(folder: Folder) -> Path:
    return folder.state / "workers"


def _wait_for_orphans(folder: Folder) -> None:
    """Wait until the workers of a process that was killed are gone (they see it at once), and remove what they left."""
    if is_remote(folder.path):
        return  # there is no lock to wait for; what they still put are files of the same bytes
    with _workers_lock(folder).open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    remove_temporaries(folder.path)


def _absolute(settings: ExtractSettings) -> ExtractSettings:
    """Name lists so that the recipe that is written finds them: it stands in another folder."""
    paths = {name: path for name in LISTS if (path := getattr(settings, name)) and "://" not in path}
    return dataclasses.replace(settings, **{name: os.path.abspath(path) for name, path in paths.items()})


@dataclasses.dataclass(frozen=True)
class _Job:
    """The stage over one crawl: its files, and what they are extracted by."""

    stage: Stage
    settings: ExtractSettings
    lists: Lists
    sources: list[Source]
    memory: int
    retry: RetryPolicy
    options: RunOptions

    @functools.cached_property
    def tasks(self) -> list[Task[tuple[str, Source]]]:
        """A task for each file, under the name that its pairs have."""
        named = [(f"{index:06d}", source) for index, source in enumerate(self.sources)]
        return [
            Task(name, (name, source), source.path, turn, {"index": turn, "name": source.name})
            for turn, (name, source) in enumerate(named)
        ]

    def begin(self, overwrite: bool) -> dict[str, dict[str, Any]]:
        """Begin or resume the stage; return the markers of extracted files. Raise MetaclipError if one has changed."""
        stage, made = self.stage, fingerprint(self.settings, self.lists, [source.name for source in self.sources])
        if self.options.part.whole:
            _wait_for_orphans(stage.folder)
        stage.begin(made, overwrite)
        for name, source in (task.item for task in self.tasks):
            marker = stage.marker(name)
            if marker is None or source.remote or (source.size, source.stamp) == (marker["size"], marker["stamp"]):
                continue
            with open(source.path, "rb") as file:
                same = source.size == marker["size"] and file_digest(file) == marker["sha256"]
            if same:  # touched, or moved
                stage.mark(name, {**marker, "stamp": source.stamp}, _key_files(stage, name, marker))
            elif overwrite:
                stage.clear()
                stage.begin(made)
                break
            else:
                raise MetaclipError(
                    f"{source.path} has changed since {stage.folder.path} was begun; "
                    "choose another --out, or replace the pool with --overwrite"
                )
        return self._extracted()

    def _extracted(self) -> dict[str, dict[str, Any]]:
        """Return the markers of the files that were extracted and whose pairs are there, or in the pool."""
        stage, found = self.stage, {}
        record = stage.finished()
        there = set(stage.path.glob("*.parquet")) if stage.path.exists() else set()
        for name in (task.name for task in self.tasks):
            marker = stage.marker(name)
            if marker is not None and (
                (record is not None and record["complete"])
                or _pairs(stage, name) in there
                or stage.marker(_written(name)) is not None
            ):
                found[name] = marker
        return found

    def work(self, tasks: Sequence[Task[tuple[str, Source]]]) -> None:
        """Extract the files that are left."""
        if not tasks:
            return
        by = Extractor(self.settings, self.lists, as_path(absolute_path(self.stage.path)), self.retry)
        with Progress("extract", None, self.options.progress) as progress:
            for task, marker in run(
                self.stage, ExtractStep(self.stage, by, _here()), tasks, self.options, progress, holds_gil=True
            ):
                if marker is None:
                    continue
                progress.advance(marker["funnel"]["images_seen"], marker["funnel"]["rows"])
                for reason, place in marker["places"].items():
                    what = {**LOSSES, **RECORD_REASONS}[reason]
                    progress.note(f"{task.source}: {marker['records'][reason]} lost: {what} (first: {place})")

    def finish(self) -> Extracted:
        """Make the pool of what was extracted, unless the record says that it was made."""
        stage, folder = self.stage, self.stage.folder
        made = self._extracted()
        lost = stage.lost()
        for mended in lost.keys() & made.keys():
            stage.unmark_lost(mended)
        lost = {name: why for name, why in lost.items() if name not in made}
        if not made:
            raise MetaclipError(next(iter(lost.values()))["error"])
        identity = digest_of([stage.digest, [(name, marker["sha256"]) for name, marker in made.items()]])
        record = stage.finished()
        if record is not None and record["identity"] == identity:
            return Extracted(folder.path, record)
        parts = self._find_duplicates(made, identity)
        rows = self._write(made, identity, parts, drop_sources=not lost)
        stage.remove_strays("", {name for name, n in rows.items() if n})
        funnel = funnels.add([{**dict.fromkeys(REASONS, 0)}, *(marker["funnel"] for marker in made.values())])
        funnel["pairs"] = sum(rows.values())
        funnel["duplicate"] = funnel.pop("rows") - funnel["pairs"]
        funnels.check(funnel, "candidates", REASONS, "pairs")
        read = funnels.add(marker["records"] for marker in made.values())
        funnels.check(read, "records", (*LOSSES, *RECORD_REASONS), "pages")
        keys = ("name", "path", "size", "stamp", "sha256")
        inputs = [{"index": int(name), **{key: marker[key] for key in keys}} for name, marker in made.items()]
        record = {
            "identity": identity,
            "funnel": funnel,
            "records": read,
            "lost": [lost[name] for name in sorted(lost)],
            "wanted": len(self.tasks),
        }
        folder.write_recipe({"extract": self.settings})
        record = stage.finish(
            record, complete=not lost,
            schema=1, inputs=inputs, versions=versions(), funnel=funnel, records=read, lost=record["lost"],
            settings={"extract": dataclasses.asdict(self.settings)},
        )  # fmt: skip
        if record["complete"]:
            stage.remove_partials()
        return Extracted(folder.path, record)

    def _find_duplicates(self, made: Mapping[str, Any], identity: str) -> int:
        """Find the pairs that stand twice; return the number of parts in which that was done."""
        runs = {int(name): (name, len(marker["runs"])) for name, marker in made.items()}
        keys = sum(sum(marker["runs"]) for marker in made.values())
        parts = dedupe.parts_for(keys, self.memory, self.options.active_engine.workers)
        of = {"of": identity, "parts": parts}
        tasks = [Task(_part_name(part), part) for part in range(parts)]
        todo = [task for task in tasks if not _is_of(self.stage.marker(task.name), of)]
        with Progress("deduplicate", None, self.options.progress) as progress:
            step = FindStep(self.stage, runs, parts, of)
            collections.deque(run(self.stage, step, todo, self.options, progress), 0)
        return parts

    def _write(self, made: Mapping[str, Any], identity: str, parts: int, drop_sources: bool) -> dict[str, int]:
        """Write the pool's files; return how many pairs each has. With `drop_sources` remove the pairs they came from."""
        stage, of = self.stage, {"of": identity}
        tasks = [Task(_written(name), (name, len(marker["runs"]))) for name, marker in made.items()]
        todo = [task for task in tasks if not _is_of(stage.marker(task.name), of)]
        with Progress("write", None, self.options.progress) as progress:
            for task, _ in run(stage, WriteStep(stage, parts, of), todo, self.options, progress):
                if drop_sources:
                    _pairs(stage, task.item[0]).unlink(missing_ok=True)
        return {name: int((stage.marker(_written(name)) or {})["pairs"]) for name in made}


@dataclasses.dataclass(frozen=True)
class ExtractStep(PortableStep):
    """The first step: a file of the crawl, under the name of its pairs, to its pairs and their keys."""

    stage: Stage
    by: Extractor
    owner: tuple[str, int]
    """The process that owns the folder."""

    @functools.cached_property
    def held(self) -> IO[str] | None:
        """A shared lock, held as long as this process lives: a worker may outlive the process that started it."""
        if self.owner == _here() or is_remote(self.stage.folder.path):
            return None
        file = _workers_lock(self.stage.folder).open("a", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_SH)
        return file

    def __call__(self, item: tuple[str, Source], progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        """Extract a file."""
        name, source = item
        assert self.held is None or not self.held.closed
        made = self.by(item)
        if not source.remote:
            made = {**made, "stamp": source.stamp}
        return made, _key_files(self.stage, name, made)


@dataclasses.dataclass(frozen=True)
class FindStep(PortableStep):
    """The second step: a part of the keys to the places of those that stand twice."""

    stage: Stage
    runs: Mapping[int, tuple[str, int]]
    parts: int
    of: Mapping[str, Any]

    def __call__(self, part: int, progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        """Look at a part."""
        found = dedupe.find_same(self.stage.path, self.runs, part, self.parts)
        return {**self.of, "places": found}, [dedupe.part_path(self.stage.path, part)]


@dataclasses.dataclass(frozen=True)
class WriteStep(PortableStep):
    """The third step: a file's pairs, and the number of its runs of keys, to a file of the pool."""

    stage: Stage
    parts: int
    of: Mapping[str, Any]

    def __call__(self, item: tuple[str, int], progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        """Write a file."""
        (name, runs), stage = item, self.stage
        path = stage.folder / f"{name}.parquet"
        lost = dedupe.gather(stage.path, name, int(name), runs, self.parts)
        pairs = write.write_pool_file(_pairs(stage, name), path, lost)
        return {**self.of, "pairs": pairs}, [path] if pairs else []


def _here() -> tuple[str, int]:
    return platform.node(), os.getpid()


def _key_files(stage: Stage, name: str, marker: Mapping[str, Any]) -> list[Path]:
    """Return the files that prove a marker: a file's keys. Its pairs may be in the pool already."""
    return [path for run in range(len(marker["runs"])) for path in dedupe.run_paths(stage.path, name, run)]


def _pairs(stage: Stage, name: str) -> Path:
    return stage.path / f"{name}.parquet"


def _part_name(part: int) -> str:
    return f"part-{part:05d}"


def _written(name: str) -> str:
    """Return the name of the marker of a file of the pool."""
    return f"{name}-pool"


def _is_of(marker: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    return marker is not None and all(marker.get(key) == value for key, value in wanted.items())
