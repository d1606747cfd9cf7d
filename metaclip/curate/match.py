"""`match`, the first stage of a run: a pool and a query list in; matched rows, counts and the funnel out.

    matched/*.parquet    row, uid, matches of each row that matches anything (with_text: url and text too)
    counts.parquet       entry_id, entry, source, count
    duplicates.npy       uids that stand on more than one matched row, in DataComp's subset format

The step for one shard is `metaclip.curate.match_shard`; inputs are checked in `metaclip.curate.inputs`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final

import numpy as np

from metaclip.curate.inputs import (
    GROUP_BYTES,
    ChangedInput,
    FileDigest,
    PoolItem,
    cut_pool,
    file_name,
    finished,
    task_of,
    tasks_of,
)
from metaclip.curate.match_shard import MatchStep, shard_counts
from metaclip.curate.matched_files import write_counts
from metaclip.curate.run import Run, counts_digest
from metaclip.curate.settings import MatchSettings
from metaclip.curate.stages import BALANCE, MATCH
from metaclip.engine.contract import fold
from metaclip.engine.progress import Progress, print_status
from metaclip.errors import BrokenInput, MetaclipError
from metaclip.matching.automaton_file import is_built, open_automaton
from metaclip.matching.count import Counts
from metaclip.matching.native_backend import NativeBackend
from metaclip.matching.text_rule import TextRule
from metaclip.metadata.entries import Metadata, as_metadata
from metaclip.metadata.shipped import shipped
from metaclip.pool.files import Paths, PoolFile, find_files
from metaclip.pool.shards import Shard
from metaclip.pool.sorted_uids import duplicate_uids, merge_runs, write_subset
from metaclip.stage import funnel as funnels
from metaclip.stage.folder import Folder
from metaclip.stage.options import RunOptions
from metaclip.stage.runner import Task, lost_message, run, run_in_parts
from metaclip.stage.stage import Stage, digest_of
from metaclip.stage.versions import versions
from metaclip.storage.files import local_copies
from metaclip.storage.ownership import ALL
from metaclip.storage.remote import as_path, is_inside, is_remote

_FEW: Final = 50_000  # texts that are matched in Python before the kernel would be compiled
_LARGE: Final = 50_000  # entries whose automaton takes a second or more to build

Query = Metadata | str | os.PathLike[str] | Iterable[str] | None


def match(
    pool: Paths,
    metadata: Query = None,
    *,
    out: str | os.PathLike[str],
    settings: MatchSettings | None = None,
    options: RunOptions | None = None,
) -> Run:
    """Match a pool, or go on where an earlier call stopped; inputs that cannot be read are listed in the result.

    Raise MetaclipError if nothing could be read, nothing matched, or another process owns the folder.
    """
    options = dataclasses.replace(options or RunOptions(), part=ALL)
    run = match_part(pool, metadata, out=out, settings=settings, options=options)
    assert run is not None
    return run


def match_part(
    pool: Paths,
    metadata: Query = None,
    *,
    out: str | os.PathLike[str],
    settings: MatchSettings | None = None,
    options: RunOptions | None = None,
) -> Run | None:
    """Run one part of `match` in a job array; return None while other parts have shards left.

    The part that leaves none combines the results. Raise LostInputs for a part that is finished except for inputs that it
    could not read.
    """
    settings, options, folder = settings or MatchSettings(), options or RunOptions(), Folder(out)
    files = find_files(pool)
    _keep_apart(folder, pool, files)
    entries, settings = read_query(metadata, settings)
    shards, broken = cut_pool(files, settings)
    job = _Job(Stage(folder, MATCH), entries, settings, files, shards, broken, options)
    return run_in_parts(job.stage, job.tasks, options, begin=job.begin, work=job.work, finish=job.finish)


def lost_inputs_message(run: Run) -> str:
    """List the inputs that a run lost, and the next step."""
    return lost_message(run.match["lost"], run.match["wanted"], can_skip=True)


def _keep_apart(folder: Folder, pool: Paths, files: Sequence[PoolFile]) -> None:
    """Refuse an output folder in which the pool lies, or that lies in the pool: one would change the other."""
    out = folder.path.resolve()
    given = [pool] if isinstance(pool, str | os.PathLike) else pool
    for path in (os.fspath(path) for path in given):
        if (is_remote(path) or os.path.isdir(path)) and is_inside(out, as_path(path).resolve()):
            raise MetaclipError(
                f"{folder.path} lies in the pool {path} and would be read with it; choose another --out"
            )
    for path in sorted({os.path.dirname(file.path) for file in files}):
        if is_inside(as_path(path).resolve(), out):
            raise MetaclipError(f"the pool's files in {path} lie in {folder.path}; choose another --out")


def read_query(metadata: Query, settings: MatchSettings) -> tuple[Metadata, MatchSettings]:
    """Read the query list; give it with the settings that name it."""
    if metadata is not None and not isinstance(metadata, str | os.PathLike):
        return as_metadata(metadata), settings
    path = os.fspath(metadata) if metadata is not None else settings.metadata
    if path is None:
        return Metadata.read(shipped(), fold_duplicates=settings.fold_duplicates), settings
    # A recipe's paths are relative to its folder, and the run's recipe stands in another.
    named = dataclasses.replace(settings, metadata=path if "://" in path else os.path.abspath(path))
    return Metadata.read(path, fold_duplicates=settings.fold_duplicates), named


@dataclasses.dataclass(frozen=True)
class _Job:
    """The stage over one pool: the pool's shards, and what they are matched with."""

    stage: Stage
    entries: Metadata
    settings: MatchSettings
    files: list[PoolFile]
    shards: list[Shard]
    broken: dict[int, BrokenInput]
    """The errors of files that could not be cut into shards, by index."""
    options: RunOptions

    @functools.cached_property
    def tasks(self) -> list[Task[PoolItem]]:
        return tasks_of(self.shards)

    def begin(self, overwrite: bool) -> dict[str, dict[str, Any]]:
        """Begin or resume the stage; return the markers of finished tasks."""
        stage, second = self.stage, Stage(self.stage.folder, BALANCE)
        fingerprint = self.settings.fingerprint(self.entries, self.files)
        if (record := second.record) and (elsewhere := record["match"]["folder"]):
            if not overwrite:
                raise MetaclipError(
                    f"{stage.folder.path} holds pairs balanced from the matches in {elsewhere}; "
                    "choose another --out, or replace them with --overwrite"
                )
            second.clear()
        if stage.begin(fingerprint, overwrite):
            second.clear()
        try:
            return finished(stage, self.files, self.tasks, self.broken)
        except ChangedInput:
            if not overwrite:
                raise
        second.clear()
        stage.clear()
        stage.begin(fingerprint)
        return {}

    def work(self, tasks: Sequence[Task[PoolItem]]) -> None:
        """Match the shards that are left."""
        if not tasks:
            return
        entries, rule, shown = self.entries, self.settings.rule, self.options.progress
        if len(entries) >= _LARGE and not is_built(entries, rule):
            print_status(f"building the automaton of {len(entries):,} entries, once for this list and rule", shown)
        rows = [task.item.rows for task in tasks if isinstance(task.item, Shard)]
        total = None if None in rows else sum(filter(None, rows))
        automaton = open_automaton(entries, rule)
        few = total is not None and total <= _FEW and not NativeBackend.is_compiled(automaton)
        step = MatchStep(self.stage, self.settings, automaton, entries, backend="python" if few else "native")
        with Progress("match", total, shown) as progress:
            for task, marker in run(self.stage, step, tasks, self.options, progress, group=GROUP_BYTES):
                for reason, place in (marker or {}).get("places", {}).items():
                    if marker is not None and reason in ("invalid_utf8", "malformed_row"):
                        n, meaning = marker["funnel"][reason], funnels.MEANING[reason]
                        progress.note(f"{task.source}: {n} rows left out: {meaning} (first: {place})")

    def finish(self) -> Run:
        """Combine what the shards left, unless the record says that this was done."""
        stage, folder = self.stage, self.stage.folder
        done = finished(stage, self.files, self.tasks, self.broken)
        digests = {shard.name: file_name(shard.file_index) for shard in self.shards}
        read = [shard for shard in self.shards if {shard.name, digests[shard.name]} <= done.keys()]
        files = [done[name] for name in dict.fromkeys(digests[shard.name] for shard in read)]
        files = [{key: value for key, value in file.items() if key not in ("fingerprint", "files")} for file in files]
        identity = digest_of(
            {
                "fingerprint": stage.digest,
                "inputs": [(file["index"], file["sha256"]) for file in files],
                "shards": [(shard.name, shard.first, shard.groups, shard.rows) for shard in read],
            }
        )
        record, counted = stage.finished(), None
        if record is None or record["identity"] != identity:
            markers = {shard.name: done[shard.name] for shard in read}
            record, counted = self._combine(markers, files, identity, self._lost(done.keys()))
        elif folder.manifest["inputs"] != files:  # they were moved or touched
            folder.update_manifest(inputs=files)
        if record["complete"]:
            stage.tidy()
        return Run(folder.path, counted)

    def _lost(self, done: Set[str]) -> list[dict[str, Any]]:
        """List what could not be read, in the pool's order; a file without a digest is listed once, as a whole."""
        lost = [
            {**(task_of(FileDigest(self.files[index], index)).lost or {}), "error": str(error)}
            for index, error in self.broken.items()
        ]
        reasons = self.stage.lost()
        for task in self.tasks:
            if task.name not in done and file_name(task.item.file_index) in {task.name, *done}:
                lost.append(reasons.pop(task.name))
        for mended in reasons:
            self.stage.regain(mended)
        return sorted(lost, key=lambda item: (item["index"], item["first"]))

    def _combine(
        self, markers: Mapping[str, Any], files: Sequence[Any], identity: str, lost: Sequence[Any]
    ) -> tuple[dict[str, Any], tuple[Counts, Metadata]]:
        """Write the stage's outputs and its record: (the record, counts and list).

        Raise MetaclipError if nothing could be read, or nothing matched.
        """
        stage, folder, settings, entries = self.stage, self.stage.folder, self.settings, self.entries
        funnel = funnels.add(marker["funnel"] for marker in markers.values())
        funnels.check(funnel, "rows", funnels.MATCH_REASONS, "matched")
        if not markers and lost:
            raise MetaclipError(lost[0]["error"])
        if not funnel.get("rows"):
            raise MetaclipError(f"the pool has no rows: {', '.join(file.path for file in self.files[:3])}")
        if not funnel["matched"]:
            raise MetaclipError(
                f"none of the {funnel['rows']} rows matches any of the {len(entries)} entries; "
                "check --metadata and --text-column"
            )
        Stage(folder, BALANCE).clear()  # what was drawn from other matches
        stage.remove_strays("matched", markers)
        counts = add_counts(stage, list(markers), entries, settings.rule, self.options)
        uids, repeats = merge_uids(stage, markers, self.options.threads)
        write_counts(folder / "counts.parquet", entries, counts)
        record = {
            "semantics": MATCH.semantics,
            "identity": identity,
            "list": entries.digest,
            "rule": dataclasses.asdict(settings.rule),
            "columns": {"text": settings.text_column, "url": settings.url_column, "uid": settings.uid_column},
            "counts_digest": counts_digest(counts.values),
            "funnel": funnel,
            "duplicates": {"uids": uids, "rows": repeats},
            "lost": lost,
            "wanted": len({task.item.file_index for task in self.tasks} | self.broken.keys()),
            "shards": [
                {
                    "name": name,
                    **marker["shard"],
                    "read": marker["funnel"]["rows"] - marker["funnel"].get("malformed_row", 0),
                }
                for name, marker in markers.items()
            ],
        }
        folder.write_recipe({"match": settings})
        made = stage.finish(
            record, complete=not lost,
            schema=1, inputs=files, versions=versions(), list=entries.digest, rule=record["rule"], funnel=funnel,
            settings={"match": dataclasses.asdict(settings)},
        )  # fmt: skip
        return made, (counts, entries)


def add_counts(stage: Stage, shards: Sequence[str], entries: Metadata, rule: TextRule, options: RunOptions) -> Counts:
    """Add the counts that finished shards left, first in the workers and then here."""
    n = len(entries)
    summed = fold(
        options.active_engine, functools.partial(shard_counts, stage=stage, n_entries=n), shards, operator.add
    )
    return Counts(np.zeros(n, np.uint64) if summed is None else summed, entries.digest, rule.identity)


def merge_uids(stage: Stage, shards: Iterable[str], threads: int = 1) -> tuple[int, int]:
    """Write duplicates.npy from the uids that finished shards left.

    Return the number of uids that stand on more than one matched row, and of such rows beyond the first of each uid.
    """
    duplicates, repeats = [np.zeros((0, 2), np.uint64)], 0
    with local_copies([stage.path / f"{name}.uids.npy" for name in shards]) as runs:
        for block in merge_runs(runs, threads=threads):
            twice = duplicate_uids(block)
            if len(twice):
                distinct = 1 + int(((block[1:] != block[:-1]).any(axis=1)).sum())
                repeats += len(block) - distinct
                duplicates.append(twice)
    total = sum(len(part) for part in duplicates)
    write_subset(stage.folder / "duplicates.npy", iter(duplicates), total)
    return total, repeats
