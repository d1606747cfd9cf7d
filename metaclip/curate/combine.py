"""`combine`: one first stage from the first stages of several runs, so that they are balanced together.

Nothing is matched again. Counts are added, the files of matched/ are linked (or copied, where they cannot be), and the uids
of all runs are sorted out of core, to find those that stand on several rows. Law: the result is, pair by pair, that of one
run over all pools.

    matched/<shard>.parquet            the file of one of the runs, under the number that its input has here
    counts.parquet duplicates.npy      as `metaclip.curate.match` writes them
    .state/match/<shard>.uids.npy      the uids of the shard's rows, sorted, until the stage is complete
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metaclip.curate.inputs import digest_name, rule_differences
from metaclip.curate.match import lost_inputs_message, match_again
from metaclip.curate.match_shard import merge_uids
from metaclip.curate.run import Run
from metaclip.curate.settings import BALANCE, MATCH, REMOVED, MatchSettings
from metaclip.curate.tables import counts_digest, read_matched, write_counts
from metaclip.engine import PortableStep, Progress, ProgressCallback
from metaclip.errors import MetaclipError
from metaclip.pool.sorted_uids import write_run
from metaclip.stage.folder import Folder, versions
from metaclip.stage.runner import RunOptions, Task, run
from metaclip.stage.stage import Stage, add_funnels, digest_of
from metaclip.storage.files import as_path


@dataclasses.dataclass(frozen=True)
class CombineStep(PortableStep):
    """Takes over a shard's matches; an item is the folder of a run, the name of a shard in it, and its name here."""

    stage: Stage

    def __call__(
        self, item: tuple[Folder, str, str], progress: ProgressCallback
    ) -> tuple[dict[str, Any], Sequence[Path]]:
        """Link the file of matches, and write its uids, sorted."""
        source, theirs, name = item
        path = self.stage.folder / "matched" / f"{name}.parquet"
        uids = self.stage.path / f"{name}.uids.npy"
        matches = source / "matched" / f"{theirs}.parquet"
        found = np.concatenate(
            [np.zeros((0, 2), np.uint64), *(batch for _, batch, _ in read_matched(matches))]
        )
        as_path(path).copy_from(matches)
        write_run(uids, found)
        progress(len(found), 0)
        return {"rows": len(found)}, [path, uids]


def combine(runs: Sequence[Run], folder: Folder, options: RunOptions) -> Run:
    """Combine matched runs into `folder`, or continue where an earlier call stopped; return the run, not yet balanced.

    Raise MetaclipError if the runs do not share list and text rule, if two of them hold the same input, if one lacks
    inputs (without `options.allow_lost`), or if pairs were taken out of one.
    """
    for one in runs:
        if folder.path.resolve() in (one.path.resolve(), one.matched.path.resolve()):
            raise MetaclipError(f"{folder.path} is one of the runs to combine; choose another `out=...`")
    check_combinable(runs, options)
    with contextlib.ExitStack() as held:
        held.enter_context(folder.owned())
        for one in runs:
            held.enter_context(one.matched.read_locked())
        # Opened again, because only now nobody else can change them.
        runs = [Run(one.matched.path, one.counted) for one in runs]
        stage = Stage(folder, MATCH)
        fingerprint = {
            "semantics": MATCH.semantics,
            "runs_matches": digest_of([one.match["identity"] for one in runs]),
        }
        names = {"runs_matches": "the list of runs, or what was matched in one of them,"}
        if stage.begin(fingerprint, options.overwrite, names=names):
            Stage(folder, BALANCE).clear()
        inputs, firsts = _number_inputs(runs)
        if stage.finished() is None:
            _combine(runs, firsts, inputs, stage, options)
        elif folder.manifest.get("inputs") != inputs:  # they were moved or touched
            folder.update_manifest(inputs=inputs)
        stage.remove_partials()
        return Run(folder.path)


def check_combinable(runs: Sequence[Run], options: RunOptions) -> None:
    """Raise MetaclipError if runs cannot be combined; see `combine`."""
    for one in runs:
        if REMOVED in one.match:
            raise MetaclipError(
                f"pairs were taken out of {one.path}; combine the runs that it was made from, then take them out again"
            )
        if (made_by := one.match["semantics"]) != MATCH.semantics:
            raise MetaclipError(
                f"{one.path} was matched by a version of metaclip with other rules (semantics {made_by}, now "
                f"{MATCH.semantics}); match its pool again"
            )
        if one.match["lost"] and not options.allow_lost:
            message = lost_inputs_message(one, again=match_again(one))
            raise MetaclipError(f"{one.path}: {message}")
    for one, other in itertools.combinations(runs, 2):
        both = f"{one.path} and {other.path}"
        if one.match["list"] != other.match["list"]:
            raise MetaclipError(
                f"{both} were matched with different query lists; match one again with the other's `metadata=...`"
            )
        if rules := rule_differences(one.match_settings.rule, other.match_settings.rule):
            raise MetaclipError(
                f"{both} were matched by different text rules: {', '.join(rules)}; match one again"
            )
        for name in ("languages", "also"):
            if (mine := getattr(one.match_settings, name)) != (
                theirs := getattr(other.match_settings, name)
            ):
                raise MetaclipError(
                    f"{both} were matched with {name} = {mine!r} and {theirs!r}; match one again"
                )
        same = {item["sha256"] for item in one.inputs}
        if names := [item["name"] for item in other.inputs if item["sha256"] in same]:
            raise MetaclipError(
                f"{both} hold the same input ({names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
                + "), whose pairs would count twice; leave one of them out"
            )  # fmt: skip


def _number_inputs(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the inputs of all runs under numbers of their own, and the number of each run's first input."""
    inputs: list[dict[str, Any]] = []
    firsts, end = [], 0
    for source in runs:
        firsts.append(end)
        inputs += [{**item, "index": firsts[-1] + item["index"]} for item in source.inputs]
        # Lost inputs have numbers, too.
        end += 1 + max(item["index"] for item in (*source.inputs, *source.match["lost"]))
    return inputs, firsts


def _combine(
    runs: Sequence[Run], firsts: Sequence[int], inputs: Sequence[Any], stage: Stage, options: RunOptions
) -> None:
    """Take over the shards that are left, add up, and write the stage's record."""
    for source in runs:
        source.check_matches()
    folder = stage.folder
    shards = [
        (source, item, f"{digest_name(first + int(item['name'][:6]))}{item['name'][6:]}")
        for source, first in zip(runs, firsts, strict=True)
        for item in source.match["shards"]
    ]
    tasks = [
        Task(name, (source.matched, item["name"], name), str(source.path))
        for source, item, name in shards
        if stage.marker(name) is None
    ]
    matched = sum(source.match["funnel"]["matched"] for source in runs)
    with Progress("combine", matched, options.progress) as progress:
        for _ in run(stage, CombineStep(stage), tasks, options, progress):
            pass
    names = [name for _, _, name in shards]
    stage.remove_strays("matched", names)
    uids, repeats = merge_uids(stage, names, options.threads)
    metadata = runs[0].metadata
    counts = functools.reduce(operator.add, (source.counts for source in runs))
    write_counts(folder / "counts.parquet", metadata, counts)
    settings = _common_settings(runs)
    record = {
        "semantics": MATCH.semantics,
        "identity": digest_of({"fingerprint": stage.digest}),
        "list": metadata.digest,
        "rule": runs[0].match["rule"],
        "columns": settings.columns,
        "counts_digest": counts_digest(counts.values),
        "funnel": add_funnels(source.match["funnel"] for source in runs),
        "duplicates": {"uids": uids, "rows": repeats},
        "lost": [
            {**item, "index": first + item["index"]}
            for source, first in zip(runs, firsts, strict=True)
            for item in source.match["lost"]
        ],
        "wanted": sum(source.match["wanted"] for source in runs),
        **({"extracted": extracted} if (extracted := _extractions(runs)) else {}),
        **_add_texts(runs),
        "shards": [
            {**item, "name": name, "columns": source.shard_columns[item["name"]]}
            for source, item, name in shards
        ],
        "runs": [
            {
                "name": source.path.name,
                "identity": source.match["identity"],
                "rows": source.match["funnel"]["rows"],
                "matched": source.match["funnel"]["matched"],
            }
            for source in runs
        ],
        **({"images": images} if (images := _add_image_steps(runs)) else {}),
    }
    folder.write_recipe({"match": settings})
    stage.finish(
        record, checked=("counts.parquet", "duplicates.npy"), schema=1,
        versions=versions(), list=record["list"], rule=record["rule"], funnel=record["funnel"],
        settings={"match": settings.record},
        inputs=inputs,
    )  # fmt: skip


def _add_image_steps(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what became of the images of all runs, step by step; nothing unless every run tells of its own.

    Runs on one subset tell of the same images, which count once. What img2dataset states, before the first step of
    `metaclip inspect`, is left out unless it is known of all.
    """
    told = {
        json.dumps([source.match_settings.subset, source.match.get("images")]): source.match.get("images")
        for source in runs
    }
    if not all(told.values()):
        return []
    lists = [{one["step"]: one for one in images or ()} for images in told.values()]
    order: list[str] = []
    for steps in lists:
        place = 0
        for step in steps:
            if step not in order:
                order.insert(place, step)
            place = order.index(step) + 1
    stated = order[: order.index("samples")] if "samples" in order else []
    return [
        {
            "step": step,
            "samples": sum(steps[step]["samples"] for steps in lists if step in steps),
            "meaning": next(steps[step]["meaning"] for steps in lists if step in steps),
        }
        for step in order
        if step not in stated or all(stated[0] in steps for steps in lists)
    ]


def _extractions(runs: Sequence[Run]) -> list[Any]:
    """Return the accounts of the extractions of all pools, each once: runs over parts of one pool have the same."""
    found: list[Any] = []
    for source in runs:
        found += [one for one in source.match.get("extracted", []) if one not in found]
    return found


def _add_texts(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """Return the texts of all runs by language, for the record of runs of a list with languages; else nothing."""
    languages = runs[0].metadata.languages
    texts = {name: sum(source.match["texts"][name] for source in runs) for name in languages}
    return {"texts": texts} if texts else {}


def _common_settings(runs: Sequence[Run]) -> MatchSettings:
    """Return the settings that all runs have; a setting that differs has its default."""
    default = dataclasses.asdict(MatchSettings())
    given = [dataclasses.asdict(source.match_settings) for source in runs]
    common = {
        name: given[0][name] if all(one[name] == given[0][name] for one in given) else value
        for name, value in default.items()
    }
    return MatchSettings(**{**common, "rule": runs[0].rule})
