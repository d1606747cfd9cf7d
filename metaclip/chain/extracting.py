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

import dataclasses
import fcntl
import functools
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from metaclip.card.account import versions
from metaclip.chain.work import Place, Work, write_recipe, writing
from metaclip.curation.extract import dedupe, sources, write
from metaclip.curation.extract.filters import REASONS
from metaclip.curation.extract.records import LOSSES
from metaclip.curation.extract.settings import LISTS, ExtractSettings, Lists, fingerprint
from metaclip.curation.extract.sources import Paths, Patience, Source, Unreadable
from metaclip.curation.extract.step import RECORD_REASONS, Extractor
from metaclip.engine.progress import Progress
from metaclip.errors import LostInputs, MetaclipError
from metaclip.shard import funnel as funnels
from metaclip.shard.engine import Bound, Step, Tell, WorkerDied
from metaclip.shard.files import file_digest, remove_temporaries
from metaclip.shard.folder import ALL, Folder
from metaclip.shard.remote import absolute, at, is_remote
from metaclip.shard.stage import Stage, digest_of

STAGE: Final = "extract"
PARTIALS: Final = ("*.parquet", "*.keys.npy", "*.same.npy", "*.places.npy")
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


@dataclasses.dataclass(frozen=True)
class _Plan:
    stage: Stage
    settings: ExtractSettings
    lists: Lists
    sources: list[Source]
    memory: int
    patience: Patience

    @property
    def named(self) -> dict[str, Source]:
        """Each file under the name that its pairs have."""
        return {f"{index:06d}": source for index, source in enumerate(self.sources)}


def extract(
    crawl: Paths,
    *,
    out: str | os.PathLike[str],
    settings: ExtractSettings | None = None,
    work: Work | None = None,
    memory: int = MEMORY,
    patience: Patience | None = None,
) -> Extracted:
    """Extract a crawl's pairs to a pool, or go on where an earlier call stopped.

    Files that cannot be read are listed in the result. Raise MetaclipError if none could be, or for what the caller can
    mend.
    """
    crawled = Crawl(crawl, settings or ExtractSettings(), memory, patience or Patience())
    made = extract_part(crawled, Folder(out), dataclasses.replace(work or Work(), part=ALL))
    assert made is not None
    return made


@dataclasses.dataclass(frozen=True)
class Crawl:
    """What is extracted, and by what means."""

    paths: Paths
    settings: ExtractSettings
    memory: int
    patience: Patience


def extract_part(crawl: Crawl, folder: Folder, work: Work) -> Extracted | None:
    """Do one part of `extract` in a job array; None while files are left for other parts.

    The part that leaves none makes the pool. Raise LostInputs for a part that is done but for files it could not read.
    """
    settings, part = crawl.settings, work.part
    if work.overwrite and not part.whole:
        raise MetaclipError("--overwrite replaces what all parts did, so not with --part; choose another --out")
    _refuse_run(folder)
    found, lists = sources.find(crawl.paths, settings, crawl.patience), Lists.read(settings)
    plan = _Plan(folder.stage(STAGE), _absolute(settings), lists, found, crawl.memory, crawl.patience)
    with writing(folder), folder.owned(part):
        if part.whole:
            _wait_for_orphans(folder)
        _begin(plan, work.overwrite)
        _work(plan, work)
        if part.whole:
            return Extracted(folder.path, _finish(plan, work))
        left = plan.named.keys() - plan.stage.settled()
        mine = {name for turn, name in enumerate(plan.named) if part.takes(turn)}
        lost = [why for name, why in plan.stage.lost().items() if name in mine]
    if not left:
        # Other parts may be just here too: the first to come makes the pool, the next ones find it made.
        with writing(folder), folder.owned(wait=True):
            _begin(plan, overwrite=False)
            if plan.named.keys() <= _extracted(plan).keys() | plan.stage.lost().keys():
                return Extracted(folder.path, _finish(plan, work))
    if lost:
        raise LostInputs(lost_message(lost, len(mine)))
    return None


def lost_message(lost: Sequence[Mapping[str, Any]], wanted: int) -> str:
    """List the files that were lost, and the next step."""
    lines = [f"{len(lost)} of {wanted} files were lost:", *(f"  {item['error']}" for item in lost)]
    return "\n".join([*lines, "the same command tries just these again"])


def _refuse_run(folder: Folder) -> None:
    others = sorted(folder.manifest.get("stages", {}).keys() - {STAGE})
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


def _begin(plan: _Plan, overwrite: bool) -> None:
    """Begin the stage, or take it up. Raise MetaclipError where a finished file is not any more what it was."""
    outputs = [path.name for path in plan.stage.folder.path.glob("*.parquet")]
    made = fingerprint(plan.settings, plan.lists, [source.name for source in plan.sources])
    plan.stage.begin(made, outputs, overwrite)
    for name, source in plan.named.items():
        marker = plan.stage.marker(name)
        if marker is None or source.remote or (source.size, source.stamp) == (marker["size"], marker["stamp"]):
            continue
        with open(source.path, "rb") as file:
            same = source.size == marker["size"] and file_digest(file) == marker["sha256"]
        if same:  # touched, or moved
            plan.stage.mark(name, {**marker, "stamp": source.stamp}, _kept(plan.stage, name, marker))
        elif overwrite:
            plan.stage.clear(outputs)
            plan.stage.begin(made, outputs)
            return
        else:
            raise MetaclipError(
                f"{source.path} has changed since {plan.stage.folder.path} was begun; "
                "choose another --out, or replace the pool with --overwrite"
            )


def _kept(stage: Stage, name: str, marker: Mapping[str, Any]) -> list[Path]:
    """Give the files that prove a marker: a file's keys. Its pairs may be in the pool already."""
    return [path for run in range(len(marker["runs"])) for path in dedupe.run_paths(stage.path, name, run)]


def _pairs(stage: Stage, name: str) -> Path:
    return stage.path / f"{name}.parquet"


def _part_name(part: int) -> str:
    return f"part-{part:05d}"


def _written(name: str) -> str:
    """Give the name of the marker of a file of the pool."""
    return f"{name}-pool"


def _extracted(plan: _Plan) -> dict[str, dict[str, Any]]:
    """Give the markers of the files that were extracted and whose pairs are there, or in the pool."""
    stage, found = plan.stage, {}
    complete = stage.finished() is not None and stage.finished()["complete"]  # type: ignore[index]
    there = set(stage.path.glob("*.parquet")) if stage.path.exists() else set()
    for name in plan.named:
        marker = stage.marker(name)
        if marker is not None and (
            complete or _pairs(stage, name) in there or stage.marker(_written(name)) is not None
        ):
            found[name] = marker
    return found


def _work(plan: _Plan, work: Work) -> None:
    """Extract the files of a part that are not extracted; mark those that are, and those that cannot be read."""
    stage, done = plan.stage, _extracted(plan)
    todo = [item for turn, item in enumerate(plan.named.items()) if work.part.takes(turn) and item[0] not in done]
    if not todo:
        return
    by = Extractor(plan.settings, plan.lists, at(absolute(stage.path)), plan.patience)
    step = ExtractStep(Place.of(stage), by, _here())
    with Progress(STAGE, None, work.progress) as progress:
        for (name, source), result in work.carrier.map(step, todo, holds_gil=True):
            if isinstance(result, Unreadable | WorkerDied):
                error = str(result) if isinstance(result, Unreadable) else f"{source.path}: {result}"
                stage.lose(name, index=int(name), name=source.name, error=error)
                progress.note(error)
            elif isinstance(result, BaseException):
                raise result
            else:
                stage.note(name, result)
                progress.advance(result["funnel"]["images_seen"], result["funnel"]["rows"])
                for reason, place in result["places"].items():
                    what = {**LOSSES, **RECORD_REASONS}[reason]
                    progress.note(f"{source.path}: {result['records'][reason]} lost: {what} (first: {place})")


@dataclasses.dataclass(frozen=True)
class ExtractStep(Bound):
    """The step: a file of the crawl, under the name of its pairs, to its marker, which stands when it is given back."""

    place: Place
    by: Extractor
    owner: tuple[str, int]
    """The process that owns the folder."""

    @functools.cached_property
    def held(self) -> IO[str] | None:
        """A lock that is held, shared, as long as this process lives: a worker may outlive who started it."""
        if self.owner == _here() or is_remote(self.place.out):
            return None
        file = _workers_lock(self.place.stage.folder).open("a", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_SH)
        return file

    def __call__(self, item: tuple[str, Source], tell: Tell) -> dict[str, Any]:
        """Extract a file."""
        name, source = item
        assert self.held is None or not self.held.closed
        made = self.by(item)
        if not source.remote:
            made = {**made, "size": source.size, "stamp": source.stamp} | {"size": made["size"]}
        return self.place.stage.mark(name, made, _kept(self.place.stage, name, made))


def _here() -> tuple[str, int]:
    return platform.node(), os.getpid()


def _finish(plan: _Plan, work: Work) -> dict[str, Any]:
    """Make the pool of what was extracted, unless the record says that it was made."""
    stage, folder = plan.stage, plan.stage.folder
    made = _extracted(plan)
    lost = stage.lost()
    for mended in lost.keys() & made.keys():
        stage.regain(mended)
    lost = {name: why for name, why in lost.items() if name not in made}
    if not made:
        raise MetaclipError(next(iter(lost.values()))["error"])
    identity = digest_of([stage.digest, [(name, marker["sha256"]) for name, marker in made.items()]])
    record = stage.finished()
    if record is not None and record["identity"] == identity:
        return record
    same = _same(plan, made, identity, work)
    rows = _write(plan, made, identity, same, not lost, work)
    shards = {name for name, n in rows.items() if n}
    stage.remove_strays("", shards)
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
        "wanted": len(plan.named),
    }
    write_recipe(folder, {"extract": plan.settings})
    record = stage.finish(
        record, [f"{name}.parquet" for name in sorted(shards)], complete=not lost,
        schema=1, inputs=inputs, versions=versions(), funnel=funnel, records=read, lost=record["lost"],
        settings={"extract": dataclasses.asdict(plan.settings)},
    )  # fmt: skip
    if record["complete"]:
        stage.tidy(PARTIALS)
    return record


def _same(plan: _Plan, made: Mapping[str, Any], identity: str, work: Work) -> int:
    """Find the pairs that stand twice; give the number of parts in which that was done."""
    runs = {int(name): (name, len(marker["runs"])) for name, marker in made.items()}
    parts = dedupe.parts_for(sum(sum(marker["runs"]) for marker in made.values()), plan.memory, work.carrier.workers)
    of = {"of": identity, "parts": parts}
    todo = [part for part in range(parts) if not _is_of(plan.stage.marker(_part_name(part)), of)]
    _each(FindStep(Place.of(plan.stage), runs, parts, of), todo, plan.stage, work)
    return parts


@dataclasses.dataclass(frozen=True)
class FindStep(Bound):
    """The step: a part of the keys to the places of those that stand twice."""

    place: Place
    runs: Mapping[int, tuple[str, int]]
    parts: int
    of: Mapping[str, Any]

    def __call__(self, part: int, tell: Tell) -> tuple[str, dict[str, Any]]:
        """Look at a part; give its marker with its name."""
        stage = self.place.stage
        found = dedupe.find_same(stage.path, self.runs, part, self.parts)
        name = _part_name(part)
        return name, stage.mark(name, {**self.of, "places": found}, [dedupe.part_path(stage.path, part)])


def _write(plan: _Plan, made: Mapping[str, Any], identity: str, parts: int, lean: bool, work: Work) -> dict[str, int]:
    """Write the pool's files; give how many pairs each has. Where it is `lean`, drop what they were made from."""
    stage, of = plan.stage, {"of": identity}
    markers = {name: stage.marker(_written(name)) for name in made}
    todo = [name for name, marker in markers.items() if not _is_of(marker, of)]

    items = [(name, len(made[name]["runs"])) for name in todo]
    _each(WriteStep(Place.of(stage), parts, of, lean), items, stage, work)
    return {name: int((stage.marker(_written(name)) or {})["pairs"]) for name in made}


@dataclasses.dataclass(frozen=True)
class WriteStep(Bound):
    """The step: a file's pairs, and the number of its runs of keys, to a file of the pool."""

    place: Place
    parts: int
    of: Mapping[str, Any]
    lean: bool

    def __call__(self, item: tuple[str, int], tell: Tell) -> tuple[str, dict[str, Any]]:
        """Write a file, unless a try whose result was lost did: what it was made of may be gone. Give marker and name."""
        (name, runs), stage = item, self.place.stage
        marker = stage.marker(_written(name))
        if marker is None or not _is_of(marker, self.of):
            path = stage.folder / f"{name}.parquet"
            lost = dedupe.gather(stage.path, name, int(name), runs, self.parts)
            pairs = write.write_pool_file(_pairs(stage, name), path, lost)
            marker = stage.mark(_written(name), {**self.of, "pairs": pairs}, [path] if pairs else [])
        if self.lean:
            _pairs(stage, name).unlink(missing_ok=True)
        return _written(name), marker


def _is_of(marker: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    return marker is not None and all(marker.get(key) == value for key, value in wanted.items())


def _each(step: Step[Any, tuple[str, dict[str, Any]]], items: Iterable[Any], stage: Stage, work: Work) -> None:
    for _, result in work.carrier.map(step, items):
        if isinstance(result, BaseException):
            raise result
        stage.note(*result)
