"""The first stage on an engine: a pool and a query list in, matches and counts in a run folder out."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.card.account import versions
from metaclip.chain import inputs
from metaclip.chain.inputs import ChangedInput, Digest, Task
from metaclip.chain.work import Place, Work, write_recipe, writing
from metaclip.curation import balance as balancing
from metaclip.curation import match as matching
from metaclip.curation import pool as pools
from metaclip.curation.automaton import Automaton
from metaclip.curation.automaton_file import is_built, open_automaton
from metaclip.curation.count import Counts
from metaclip.curation.kernel_engine import KernelEngine
from metaclip.curation.match import MatchSettings
from metaclip.curation.matcher import Matcher
from metaclip.curation.pool import BrokenInput, Paths, PoolFile, Shard
from metaclip.curation.run import Run, counts_digest
from metaclip.curation.text_rule import TextRule
from metaclip.engine.progress import Progress, say
from metaclip.errors import LostInputs, MetaclipError
from metaclip.metadata.entries import Metadata, as_metadata
from metaclip.metadata.shipped import shipped
from metaclip.shard import funnel as funnels
from metaclip.shard.engine import Bound, Tell, WorkerDied, fold, map_grouped
from metaclip.shard.folder import ALL, Folder
from metaclip.shard.remote import at, is_remote, lies_in
from metaclip.shard.stage import Stage, digest_of

_FEW: Final = 50_000  # texts that are matched in Python before the kernel would be compiled
_LARGE: Final = 50_000  # entries whose automaton takes a second or more to build

Query = Metadata | str | os.PathLike[str] | Iterable[str] | None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A pool, cut into shards, and what it is matched by."""

    stage: Stage
    entries: Metadata
    settings: MatchSettings
    files: list[PoolFile]
    shards: list[Shard]
    broken: dict[int, BrokenInput]
    """What is wrong with the files that cannot even be cut, by index."""

    @property
    def tasks(self) -> list[Task]:
        return inputs.tasks_of(self.shards)

    def finished(self) -> dict[str, dict[str, Any]]:
        return inputs.finished(self.stage, self.files, self.tasks, self.broken)


def match(
    pool: Paths,
    metadata: Query = None,
    *,
    out: str | os.PathLike[str],
    settings: MatchSettings | None = None,
    work: Work | None = None,
) -> Run:
    """Match a pool, or go on where an earlier call stopped; inputs that cannot be read are listed in the result.

    Raise MetaclipError if nothing could be read, nothing matched, or another process owns the folder.
    """
    work = dataclasses.replace(work or Work(), part=ALL)
    run = match_part(pool, metadata, out=out, settings=settings, work=work)
    assert run is not None
    return run


def match_part(
    pool: Paths,
    metadata: Query = None,
    *,
    out: str | os.PathLike[str],
    settings: MatchSettings | None = None,
    work: Work | None = None,
) -> Run | None:
    """Do one part of `match` in a job array; None while shards are left for other parts.

    The part that leaves none adds all up. Raise LostInputs for a part that is done but for inputs it could not read.
    """
    settings, work = settings or MatchSettings(), work or Work()
    part, folder = work.part, Folder(out)
    if work.overwrite and not part.whole:
        raise MetaclipError("--overwrite replaces what all parts did, so not with --part; choose another --out")
    files = pools.find_files(pool)
    _keep_apart(folder, pool, files)
    entries, settings = read_query(metadata, settings)
    shards, broken = matching.plan(files, settings)
    plan = _Plan(folder.stage(matching.STAGE), entries, settings, files, shards, broken)
    with writing(folder), folder.owned(part):
        _work(plan, _begin(plan, work.overwrite), work)
        if part.whole:
            return Run(out, _finish(plan, work))
        left = {task.name for task in plan.tasks} - plan.stage.settled()
        mine = {task.name for task in plan.tasks if part.takes(task.turn)}
        lost = [why for name, why in plan.stage.lost().items() if name in mine]
    if not left:
        # Other parts may be just here too: the first to come adds up, the next ones find it done.
        with writing(folder), folder.owned(wait=True):
            settled = _begin(plan, overwrite=False).keys() | plan.stage.lost().keys()
            if all(task.name in settled for task in plan.tasks):
                return Run(out, _finish(plan, work))
    if lost:
        raise LostInputs(_lost_lines(lost, len({task.file_index for task in plan.tasks if part.takes(task.turn)})))
    return None


def lost_message(run: Run) -> str:
    """List the inputs that a run lost, and the next step."""
    return _lost_lines(run.match["lost"], run.match["wanted"]) + ", or go on without them: --allow-lost"


def _lost_lines(lost: Sequence[Mapping[str, Any]], wanted: int) -> str:
    lines = [f"{len({item['index'] for item in lost})} of {wanted} inputs were lost:"]
    lines += [f"  {item['error']}" for item in lost]
    return "\n".join([*lines, "mend them and run the same command again (it reads just these)"])


def _keep_apart(folder: Folder, pool: Paths, files: Sequence[PoolFile]) -> None:
    """Refuse an output folder in which the pool lies, or that lies in the pool: one would change the other."""
    out = folder.path.resolve()
    given = [pool] if isinstance(pool, str | os.PathLike) else pool
    for path in (os.fspath(path) for path in given):
        if (is_remote(path) or os.path.isdir(path)) and lies_in(out, at(path).resolve()):
            raise MetaclipError(
                f"{folder.path} lies in the pool {path} and would be read with it; choose another --out"
            )
    for path in sorted({os.path.dirname(file.path) for file in files}):
        if lies_in(at(path).resolve(), out):
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


def _begin(plan: _Plan, overwrite: bool) -> dict[str, dict[str, Any]]:
    """Begin the stage, or take it up; give the markers of finished tasks."""
    stage, second = plan.stage, plan.stage.folder.stage(balancing.STAGE)
    fingerprint = plan.settings.fingerprint(plan.entries, plan.files)
    if (record := second.record) and (elsewhere := record["match"]["folder"]):
        if not overwrite:
            raise MetaclipError(
                f"{stage.folder.path} holds pairs balanced from the matches in {elsewhere}; "
                "choose another --out, or replace them with --overwrite"
            )
        second.clear(balancing.OUTPUTS)
    if stage.begin(fingerprint, matching.OUTPUTS, overwrite):
        second.clear(balancing.OUTPUTS)
    try:
        return plan.finished()
    except ChangedInput:
        if not overwrite:
            raise
    second.clear(balancing.OUTPUTS)
    stage.clear(matching.OUTPUTS)
    stage.begin(fingerprint, matching.OUTPUTS)
    return {}


def _work(plan: _Plan, finished: Mapping[str, Any], work: Work) -> None:
    """Do the tasks of a part that are not finished; mark those that are, and those whose input cannot be read."""
    stage, settings = plan.stage, plan.settings
    todo = [task for task in plan.tasks if work.part.takes(task.turn) and task.name not in finished]
    if not todo:
        return
    if len(plan.entries) >= _LARGE and not is_built(plan.entries, settings.rule):
        say(f"building the automaton of {len(plan.entries):,} entries, once for this list and rule", work.progress)
    rows = [task.rows for task in todo if isinstance(task, Shard)]
    automaton = open_automaton(plan.entries, settings.rule)
    few = None not in rows and sum(filter(None, rows)) <= _FEW and not KernelEngine.at_hand(automaton)
    step = MatchStep(Place.of(stage), settings, automaton, plan.entries, plain=few)
    with Progress("match", None if None in rows else sum(filter(None, rows)), work.progress) as progress:
        carried = map_grouped(work.carrier, step, todo, progress.advance, weight=inputs.weight, enough=inputs.ENOUGH)
        for task, result in carried:
            if isinstance(result, BrokenInput | WorkerDied):
                stage.lose(task.name, **_lost(task, result))
            elif isinstance(result, BaseException):
                raise result
            else:
                stage.note(task.name, result)
                _note_losses(task, result, progress)


@dataclasses.dataclass(frozen=True)
class MatchStep(Bound):
    """The step: a task of a pool to its marker, which stands when it is given back.

    Raise BrokenInput where the input cannot be read. To another machine the automaton travels as the arrays that it is:
    workers that share memory share one copy.
    """

    place: Place
    settings: MatchSettings
    automaton: Automaton
    entries: Metadata
    plain: bool

    @functools.cached_property
    def matcher(self) -> Matcher:
        """The matcher."""
        return Matcher.over(self.automaton, self.entries, engine="plain" if self.plain else "kernel")

    def __call__(self, task: Task, tell: Tell) -> dict[str, Any]:
        """Do a task."""
        stage = self.place.stage
        if isinstance(task, Digest):
            marker, made = task.marker(), []
        else:
            marker = matching.match_shard(task, self.matcher, self.settings, stage.folder, tell)
            made = [stage.folder / "matched" / f"{task.name}.parquet", *stage.partials(task.name, matching.PARTIALS)]
        inputs.check_unchanged(task.file)
        return stage.mark(task.name, marker, made)


def count(stage: Stage, shards: Sequence[str], entries: Metadata, rule: TextRule, work: Work) -> Counts:
    """Add up the counts that finished shards left, in the workers and then once more."""
    of_shard = functools.partial(_counts_of, place=Place.of(stage), n_entries=len(entries))
    summed = fold(work.carrier, of_shard, shards, operator.add)
    return Counts(np.zeros(len(entries), np.uint64) if summed is None else summed, entries.digest, rule.identity)


def _counts_of(shard: str, place: Place, n_entries: int) -> npt.NDArray[np.uint64]:
    return matching.shard_counts(place.stage.folder, shard, n_entries)


def _note_losses(task: Task, marker: Mapping[str, Any], progress: Progress) -> None:
    for reason, place in marker.get("places", {}).items():
        if reason in ("invalid_utf8", "malformed_row"):
            n = marker["funnel"][reason]
            progress.note(f"{task.file.path}: {n} rows left out: {funnels.MEANING[reason]} (first: {place})")


def _lost(task: Task, error: BrokenInput | WorkerDied) -> dict[str, Any]:
    """Say what is lost: a whole file, or rows of it, and why."""
    first, rows = (task.first, task.rows) if isinstance(task, Shard) else (0, None)
    why = str(error) if isinstance(error, BrokenInput) else f"{task.file.path}: {error}"
    return {"index": task.file_index, "name": task.file.name, "first": first, "rows": rows, "error": why}


def _finish(plan: _Plan, work: Work) -> tuple[Counts, Metadata] | None:
    """Add up what the shards left, unless the record says that it was done; give what was counted."""
    stage, folder, finished = plan.stage, plan.stage.folder, plan.finished()
    digests = {shard.name: inputs.file_name(shard.file_index) for shard in plan.shards}
    read = [shard for shard in plan.shards if {shard.name, digests[shard.name]} <= finished.keys()]
    files = [finished[name] for name in dict.fromkeys(digests[shard.name] for shard in read)]
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
        markers = {shard.name: finished[shard.name] for shard in read}
        record, counted = _add_up(plan, markers, files, identity, _lost_inputs(plan, finished.keys()), work)
    elif folder.manifest["inputs"] != files:  # they were moved or touched
        folder.update_manifest(inputs=files)
    if record["complete"]:
        stage.tidy(matching.PARTIALS)
    return counted


def _lost_inputs(plan: _Plan, finished: Set[str]) -> list[dict[str, Any]]:
    """List what could not be read, in the pool's order; a file whose digest could not is listed once, as a whole."""
    lost = [_lost(Digest(plan.files[index], index), error) for index, error in plan.broken.items()]
    reasons = plan.stage.lost()
    for task in plan.tasks:
        if task.name not in finished and inputs.file_name(task.file_index) in {task.name, *finished}:
            lost.append(reasons.pop(task.name))
    for mended in reasons:
        plan.stage.regain(mended)
    return sorted(lost, key=lambda item: (item["index"], item["first"]))


def _add_up(
    plan: _Plan, markers: Mapping[str, Any], files: Sequence[Any], identity: str, lost: Sequence[Any], work: Work
) -> tuple[dict[str, Any], tuple[Counts, Metadata]]:
    """Write what the stage comes to, and its record: (the record, what was counted).

    Raise MetaclipError where that is nothing.
    """
    stage, folder, settings, entries = plan.stage, plan.stage.folder, plan.settings, plan.entries
    funnel = funnels.add(marker["funnel"] for marker in markers.values())
    funnels.check(funnel, "rows", funnels.MATCH_REASONS, "matched")
    if not markers and lost:
        raise MetaclipError(lost[0]["error"])
    if not funnel.get("rows"):
        raise MetaclipError(f"the pool has no rows: {', '.join(file.path for file in plan.files[:3])}")
    if not funnel["matched"]:
        raise MetaclipError(
            f"none of the {funnel['rows']} rows matches any of the {len(entries)} entries; "
            "check --metadata and --text-column"
        )
    folder.stage(balancing.STAGE).clear(balancing.OUTPUTS)  # what was drawn from other matches
    stage.remove_strays("matched", markers)
    counts = count(stage, list(markers), entries, settings.rule, work)
    uids, repeats = matching.merge(folder, entries, counts, markers, work.threads)
    record = {
        "semantics": matching.SEMANTICS,
        "identity": identity,
        "list": entries.digest,
        "rule": dataclasses.asdict(settings.rule),
        "columns": {"text": settings.text_column, "url": settings.url_column, "uid": settings.uid_column},
        "counts_digest": counts_digest(counts.values),
        "funnel": funnel,
        "duplicates": {"uids": uids, "rows": repeats},
        "lost": lost,
        "wanted": len({task.file_index for task in plan.tasks} | plan.broken.keys()),
        "shards": [
            {
                "name": name,
                **marker["shard"],
                "read": marker["funnel"]["rows"] - marker["funnel"].get("malformed_row", 0),
            }
            for name, marker in markers.items()
        ],
    }
    write_recipe(folder, {"match": settings})
    finished = stage.finish(
        record, matching.OUTPUTS, complete=not lost,
        schema=1, inputs=files, versions=versions(), list=entries.digest, rule=record["rule"], funnel=funnel,
        settings={"match": dataclasses.asdict(settings)},
    )  # fmt: skip
    return finished, (counts, entries)
