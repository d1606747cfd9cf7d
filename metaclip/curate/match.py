"""`match`, the first stage of a run: a pool and a query list in; matched rows, counts and the funnel out.

    matched/<shard>.parquet            row, uid, matches of each row that matches anything (with_text: url and text too)
    counts.parquet                     entry_id, entry, source, count
    duplicates.npy                     uids that stand on more than one matched row, in DataComp's subset format
    .state/match/<shard>.counts.npy    uint64[k, 2]: entry ids with their counts, until the stage is complete
    .state/match/<shard>.uids.npy      uids of the matched rows, sorted, likewise

`metaclip.curate.inputs` cuts the pool into shards and checks its files. The result does not depend on how the pool is cut;
only the files that hold it do. Memory: one batch of 65,536 rows and one parquet row group for each worker.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.arguments import PATH, ArrowTable, check_types, is_table
from metaclip.curate.account import MEANING
from metaclip.curate.extracted import read_extractions
from metaclip.curate.inputs import (
    GROUP_BYTES,
    ChangedInput,
    Inputs,
    PoolItem,
    check_matched,
    columns_of,
    cut_pool,
    digest_name,
)
from metaclip.curate.match_shard import MatchStep, add_counts, check_routing, merge_uids
from metaclip.curate.run import Run
from metaclip.curate.settings import BALANCE, MATCH, MATCH_REASONS, MatchSettings
from metaclip.curate.tables import counts_digest, write_counts
from metaclip.engine import Progress
from metaclip.errors import MetaclipError
from metaclip.matching import Counts
from metaclip.matching.matcher import Matcher
from metaclip.metadata import Metadata, MetadataLike, as_metadata, lint
from metaclip.pool.columns import missing_columns
from metaclip.pool.files import Paths, PoolFile, find_files, list_paths
from metaclip.pool.shards import Shard, read_schema
from metaclip.stage.folder import ALL, Folder, versions
from metaclip.stage.runner import RunOptions, Task, lost_message, run, run_in_parts
from metaclip.stage.stage import Stage, add_funnels, check_funnel, digest_of
from metaclip.storage.files import as_path, is_inside

if TYPE_CHECKING:
    from metaclip.pool.subset import Subset


def match(
    pool: Paths | ArrowTable,
    metadata: MetadataLike | None = None,
    *,
    out: str | os.PathLike[str],
    settings: MatchSettings | None = None,
    options: RunOptions | None = None,
) -> Run:
    """Match a pool, or continue where an earlier call stopped; return the run, which lists inputs that cannot be read.

    `pool` is a file, folder or glob of parquet, csv, jsonl or tars, a list of these, or a table of any library that speaks
    Arrow, which is written to ``pool.parquet`` in `out`; `metadata` is the query list (default: the one of the settings,
    else the shipped one). Raise MetaclipError if nothing could be read, nothing matched, or another process owns the
    folder `out`.

    >>> from metaclip import match
    >>> run = match("curation/toy_pool.jsonl", "metadata/toy.txt", out="matched")
    >>> run
    Run('matched': 338 matched pairs)
    >>> run.counts
    Counts(157 entries, 1,200 matches; list 5a422d2f35bc)
    """
    check_types(options=(options, RunOptions | None))
    options = dataclasses.replace(options or RunOptions(), part=ALL)
    run = match_part(pool, metadata, out=out, settings=settings, options=options)
    assert run is not None
    return run


TABLE: Final = "pool.parquet"
"""The file of a run folder that holds a pool that was given as a table."""


def match_part(
    pool: Paths | ArrowTable,
    metadata: MetadataLike | None = None,
    *,
    out: str | os.PathLike[str],
    settings: MatchSettings | None = None,
    options: RunOptions | None = None,
) -> Run | None:
    """Run one part of `match` in a job array; return None while other parts have shards left.

    The part that leaves none combines the results. Raise LostInputs for a part that is finished except for inputs that it
    could not read.
    """
    check_types(
        out=(out, PATH), settings=(settings, MatchSettings | None), options=(options, RunOptions | None)
    )
    settings, options, folder = settings or MatchSettings(), options or RunOptions(), Folder(out)
    folder.refuse_other_stages(MATCH.name, BALANCE.name)
    if is_table(pool):
        from metaclip.curate.table_pool import saved_table

        with saved_table(pool, folder, TABLE, options) as path:
            return match_part(path, metadata, out=out, settings=settings, options=options)
    files = find_files(pool)
    _check_apart(folder, pool, files)
    entries, settings = read_metadata(metadata, settings)
    subset = None
    if settings.subset is not None:
        from metaclip.pool.subset import Subset

        settings = dataclasses.replace(settings, subset=os.path.abspath(settings.subset))
        subset = Subset(settings.subset or "")
    check_routing(entries, settings)
    inputs = cut_pool(files, settings, by_language=bool(entries.languages))
    check_matched(inputs, settings, entries.digest)
    stage = _MatchStage(Stage(folder, MATCH), entries, settings, inputs, options, subset)
    return run_in_parts(
        stage.stage, stage.inputs.tasks, options, begin=stage.begin, work=stage.match, finish=stage.finish
    )


def match_again(run: Run) -> str:
    """Return the command that matches the lost inputs of a run."""
    return f"match the pool again with metaclip match --out {run.matched.path}"


def lost_inputs_message(
    run: Run, without: str = "`RunOptions(allow_lost=True)`", again: str = "run the same command again"
) -> str:
    """Return a message that lists the inputs that a run lost, and the next step, as `lost_message` does."""
    return lost_message(run.match["lost"], run.match["wanted"], without, again)


def _check_apart(folder: Folder, pool: Paths, files: Sequence[PoolFile]) -> None:
    """Raise MetaclipError if the output folder lies in the pool, or the pool in it: one would change the other."""
    out = folder.path.resolve()
    for path in list_paths("pool", pool):
        if is_inside(out, as_path(path).resolve()):
            raise MetaclipError(
                f"{folder.path} lies in the pool {path} and would be read with it; choose another `out=...`"
            )
    own = str(out / TABLE)
    for path in sorted({os.path.dirname(file.path) for file in files if file.path != own}):
        if is_inside(as_path(path).resolve(), out):
            raise MetaclipError(
                f"the pool's files in {path} lie in {folder.path}; choose another `out=...`"
            )


def read_metadata(
    metadata: MetadataLike | None, settings: MatchSettings
) -> tuple[Metadata, MatchSettings]:
    """Read the query list; return it, and the settings with its path."""
    if metadata is not None and not isinstance(metadata, str | os.PathLike):
        return as_metadata(metadata), settings
    path = os.fspath(metadata) if metadata is not None else settings.metadata
    if path is None:
        return Metadata.read(fold_duplicates=settings.fold_duplicates), settings
    # A recipe's paths are relative to its folder, and the run's recipe stands in another.
    named = dataclasses.replace(settings, metadata=path if "://" in path else os.path.abspath(path))
    return Metadata.read(path, fold_duplicates=settings.fold_duplicates), named


@dataclasses.dataclass(frozen=True)
class _MatchStage:
    """The stage over one pool. `run_in_parts` calls `begin`, `match` for the tasks that are left, and `finish`."""

    stage: Stage
    entries: Metadata
    settings: MatchSettings
    inputs: Inputs
    options: RunOptions
    subset: Subset | None = None

    def begin(self, overwrite: bool) -> dict[str, dict[str, Any]]:
        """Begin or resume the stage; return the markers of finished tasks."""
        stage, balance = self.stage, Stage(self.stage.folder, BALANCE)
        digest = None if self.subset is None else self.subset.digest()
        fingerprint = self.settings.fingerprint(self.entries, self.inputs.files, digest)
        if (record := balance.record) and (elsewhere := record["match"]["folder"]):
            if not overwrite:
                raise MetaclipError(
                    f"{stage.folder.path} holds pairs balanced from the matches in {elsewhere}; "
                    "choose another `out=...`, or replace them with `RunOptions(overwrite=True)`"
                )
            balance.clear()
        name = os.path.basename(self.settings.metadata or "the shipped list")
        if stage.begin(fingerprint, overwrite, names={"list": f"metadata: {name}", "subset": "subset"}):
            balance.clear()
        try:
            return self.inputs.finished(stage)
        except ChangedInput:
            if not overwrite:
                raise
        balance.clear()
        stage.clear()
        stage.begin(fingerprint)
        return {}

    def match(self, tasks: Sequence[Task[PoolItem]]) -> None:
        """Match shards and compute digests of files."""
        if not tasks:
            return
        rows = [task.item.rows for task in tasks if isinstance(task.item, Shard)]
        total = None if None in rows else sum(filter(None, rows))
        step = MatchStep(self.stage, self.settings, self.entries, self.subset)
        _ = step.matcher  # opened once, before threads share it
        with Progress("match", total, self.options.progress) as progress:
            if not any((self.stage.folder / "matched").glob("*")):
                self._note_missing_columns(progress)
                if self.entries.languages:
                    self._note_scripts(progress)
                else:
                    self._note_dead_entries(step.matcher, progress)
            for task, marker in run(self.stage, step, tasks, self.options, progress, group=GROUP_BYTES):
                made = marker or {}
                for reason, place in made.get("places", {}).items():
                    if reason in ("invalid_utf8", "malformed_row"):
                        n, meaning = made["funnel"][reason], MEANING[reason]
                        progress.note(f"{task.source}: {n} rows left out: {meaning} (first: {place})")

    def _note_missing_columns(self, progress: Progress) -> None:
        """Report which columns the first file lacks."""
        if self.inputs.shards:
            file = self.inputs.shards[0].file
            schema = read_schema(file)
            columns = columns_of(file, self.settings, schema, bool(self.entries.languages))
            for note in missing_columns(schema, columns):
                progress.note(f"{file.path} has {note}")

    def _note_dead_entries(self, matcher: Matcher, progress: Progress) -> None:
        """Report how many entries no text can match, and the option that would let the first of them match."""
        entries, rule = matcher.metadata.entries, matcher.rule
        odd = np.flatnonzero(~np.asarray(pc.match_substring_regex(entries, lint.ORDINARY)))
        found = matcher.match(entries.take(pa.array(odd)))
        own = np.repeat(odd, np.diff(found.offsets.to_numpy()))
        left = np.setdiff1d(odd, own[found.values.to_numpy() == own])  # do not match themselves
        dead = [
            entry for entry in entries.take(pa.array(left)).to_pylist() if not lint.alive(entry, rule)
        ]
        if dead:
            name = next(
                (name for name, other in lint.wider_rules(rule).items() if lint.alive(dead[0], other)),
                None,
            )
            how = f"it can with `TextRule({name}=True)`" if name else "not under any text rule"
            progress.note(
                f"metaclip: {len(dead):,} of {len(entries):,} entries can never match (first: {dead[0]!r:.80}, {how}); "
                "metaclip lint names all of them"
            )

    def _note_scripts(self, progress: Progress) -> None:
        """Report lists of scripts without spaces that are matched as if there were spaces."""
        from metaclip.matching.routing import UNSPACED, normal

        found = [name for name in self.entries.languages if normal(name).partition("-")[0] in UNSPACED]
        if found and self.settings.rule.unspaced_scripts == "none":
            progress.note(
                f"metaclip: the entries of {', '.join(found)} match only between spaces, which their scripts do not have; add "
                "`TextRule(unspaced_scripts='fixed')`"
            )

    def finish(self) -> Run:
        """Combine the results of the shards, unless the stage's record says that this was done; return the run."""
        stage, folder = self.stage, self.stage.folder
        done = self.inputs.finished(stage)
        shards = [
            shard
            for shard in self.inputs.shards
            if {shard.name, digest_name(shard.file_index)} <= done.keys()
        ]
        digests = (
            done[name] for name in dict.fromkeys(digest_name(shard.file_index) for shard in shards)
        )
        inputs = [
            {key: file[key] for key in file if key not in ("fingerprint", "files")} for file in digests
        ]
        own = (folder / TABLE).address
        for file in inputs:
            if file["path"] == own:
                file["path"] = TABLE  # it moves with the run
        identity = digest_of(
            {
                "fingerprint": stage.digest,
                "inputs": [(file["index"], file["sha256"]) for file in inputs],
                "shards": [(shard.name, shard.first, shard.groups, shard.rows) for shard in shards],
            }
        )
        record, counted = stage.finished(), None
        if record is None or record["identity"] != identity:
            lost = self.inputs.lost(stage, done.keys())
            markers = {shard.name: done[shard.name] for shard in shards}
            record, counts = self._combine(markers, inputs, identity, lost)
            counted = counts, self.entries
        elif folder.manifest.get("inputs") != inputs:  # they were moved or touched
            folder.update_manifest(inputs=inputs)
        if record["complete"]:
            stage.remove_partials()
        return Run(folder.path, counted)

    def _combine(
        self, markers: Mapping[str, Any], inputs: Sequence[Any], identity: str, lost: Sequence[Any]
    ) -> tuple[dict[str, Any], Counts]:
        """Write the stage's outputs and its record; return the record and the counts.

        Raise MetaclipError if nothing could be read, or nothing matched.
        """
        stage, folder, settings, entries = self.stage, self.stage.folder, self.settings, self.entries
        funnel = add_funnels(marker["funnel"] for marker in markers.values())
        check_funnel(funnel, "rows", MATCH_REASONS, "matched")
        if not markers and lost:
            raise MetaclipError(lost[0]["error"])
        if settings.limit is None:
            # Of pairs that were matched as they were extracted, those that match nothing are rows of the pool, too.
            unmatched = self.inputs.unmatched({file["index"] for file in inputs})
            funnel = add_funnels([funnel, {"rows": unmatched, "no_match": unmatched}])
        if not funnel.get("rows"):
            stage.clear()
            paths = ", ".join(file.path for file in self.inputs.files[:3])
            raise MetaclipError(f"the pool has no rows: {paths}")
        if not funnel["matched"]:
            stage.clear()
            if self.subset is not None and not funnel.get("no_match"):
                raise MetaclipError(
                    f"none of the {funnel['rows']} rows is in the subset {self.subset.path} and has a text; check that it "
                    "was made from this pool, and `MatchSettings(uid_column=...)`"
                )
            raise MetaclipError(
                f"none of the {funnel['rows']} rows matches any of the {len(entries)} entries; "
                "check `metadata=...` and `MatchSettings(text_column=...)`"
            )
        Stage(folder, BALANCE).clear()  # it was drawn from other matches
        stage.remove_strays("matched", markers)
        counts = add_counts(stage, list(markers), entries, settings.rule, self.options)
        uids, repeats = merge_uids(stage, markers, self.options.threads)
        write_counts(folder / "counts.parquet", entries, counts)
        images = [] if self.subset is None else self.subset.image_steps()
        texts = {name: 0 for name in entries.languages}
        for marker in markers.values():
            for name, n in marker.get("texts", {}).items():
                texts[name] += n
        record = {
            "semantics": MATCH.semantics,
            "identity": identity,
            "list": entries.digest,
            "rule": dataclasses.asdict(settings.rule),
            "columns": settings.columns,
            "counts_digest": counts_digest(counts.values),
            "funnel": funnel,
            "duplicates": {"uids": uids, "rows": repeats},
            **({"extracted": extracted} if (extracted := read_extractions(self.inputs.files)) else {}),
            "lost": lost,
            "wanted": len({shard.file_index for shard in self.inputs.shards} | self.inputs.broken.keys()),
            "shards": [
                {"name": name, **marker["shard"], "read": rows_read(marker["funnel"])}
                for name, marker in markers.items()
            ],
            **({"images": images} if images else {}),
            **({"texts": texts} if texts else {}),
        }
        folder.write_recipe({"match": settings})
        made = stage.finish(
            record, complete=not lost, checked=("counts.parquet", "duplicates.npy"),
            schema=1, inputs=inputs, versions=versions(), list=entries.digest, rule=record["rule"], funnel=funnel,
            settings={"match": settings.record},
        )  # fmt: skip
        return made, counts


def rows_read(funnel: Mapping[str, int]) -> int:
    """Return the number of well-formed rows in a shard's funnel."""
    return funnel["rows"] - funnel.get("malformed_row", 0)
