"""`balance`, the second stage of a run: matches and counts in; curated pairs, drawn by each entry's probability, out.

    entries.parquet                       entry_id, entry, source, count, probability, expected, kept; with weights t, too
    curated/<shard>.parquet               the input's columns, uid, matches, keep_probability of each kept row
    curated.npy                           the uids of the curated pairs, sorted, in DataComp's subset format
    card.json card.md                     the account (`metaclip.curate.account`)
    weights.parquet                       entry, weight: weights that were given as a dict or a table
    .state/balance/<shard>.tally.npy      uint64[k, 3]: entry ids with expected and kept pairs, until the stage is complete
    .state/balance/<shard>.uids.npy       uids of the kept rows, sorted, likewise
    .state/balance/<shard>.repeats.npy    uid and P(keep) of rows whose uid stands on several matched rows, likewise

The law of the draw is in `metaclip.curate.draw`. t is given, or solved for a share of the tail or for a number of pairs
(`metaclip.curate.threshold`). With weights it is multiplied by that of each entry (`metaclip.curate.weights`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.arguments import PATH, check_types
from metaclip.curate.account import has_account, remove_account, write_account
from metaclip.curate.balance_outputs import add_entry_sums, write_outputs
from metaclip.curate.balance_shard import DrawStep, ExpectStep
from metaclip.curate.draw import (
    FIXED_POINT,
    Thresholds,
    slopes,
)
from metaclip.curate.inputs import (
    GROUP_BYTES,
    input_bytes,
    is_same_file,
)
from metaclip.curate.match import lost_inputs_message, match_again
from metaclip.curate.run import Run, RunLike, open_run
from metaclip.curate.settings import (
    BALANCE,
    BALANCE_REASONS,
    MATCH,
    SAVED_WEIGHTS,
    SHARD_DRAWN,
    SOLVED,
    BalanceSettings,
)
from metaclip.curate.threshold import (
    LANGUAGE,
    LANGUAGE_AND_WEIGHT,
    WEIGHT,
    entry_thresholds,
    resolve,
    threshold_hints,
    vector_digest,
)
from metaclip.curate.weights import EntryWeights, WeightsLike
from metaclip.engine import Progress, fold
from metaclip.errors import MetaclipError, damaged, for_caller
from metaclip.metadata import Metadata
from metaclip.pool.files import PoolFile, stat_files
from metaclip.pool.shards import Shard
from metaclip.stage.folder import MANIFEST, Folder
from metaclip.stage.runner import RunOptions, Task, run
from metaclip.stage.stage import Stage, add_funnels, check_funnel
from metaclip.storage.files import is_remote, relative_path

NOTHING_BALANCED: Final = (
    "this balances nothing here: no count is larger than the t of its language; lower these with `t=...`, `tail_share=...` "
    "or `target_pairs=...`"
)


def balance(
    run: RunLike | Sequence[RunLike],
    *,
    out: str | os.PathLike[str] | None = None,
    t: float | None = None,
    tail_share: float | None = None,
    target_pairs: int | None = None,
    seed: int = 0,
    weights: WeightsLike | None = None,
    t_by_language: str | None = None,
    t_language: dict[str, float] | None = None,
    options: RunOptions | None = None,
) -> Run:
    """Balance a matched run, or continue where an earlier call stopped; return the balanced run.

    At most one of `t`, `tail_share` (default 0.06) and `target_pairs` is given. `weights` is a csv or parquet file with the
    columns entry and weight, a dict, or a table of any library that speaks Arrow: the threshold of an entry is t times its
    weight, and t is solved for the set that comes of it.

    Of a list with languages, `t` and `tail_share` are those of English, from which the t of every other language follows
    (`metaclip.curate.language_thresholds`): `t_by_language` is "largest" (the default), "nearest" or "one", and `t_language`
    holds the t of languages that do not follow, such as ``{"ja": 5000}``.

    The result is written to the folder `out`, or to the run's own. Several runs are combined into `out`, whose pairs are
    those of one run over all pools. Raise MetaclipError if a run is not matched, lost inputs (without
    `options.allow_lost`), or its pool has changed, if several do not share list and text rule, and for weights that
    are not positive numbers or whose entries the list does not have.

    >>> from metaclip import balance, match
    >>> run = match("curation/toy_pool.jsonl", "metadata/toy.txt", out="matched_once")
    >>> balance(run, t=20, out="run_20")
    Run('run_20': 312 kept of 338 matched pairs, t = 20)
    >>> balance(run, target_pairs=100, out="run_100").t < 5
    True
    >>> balance(run, t=20, weights={"dog": 3, "photo": 0.5}, out="more_dogs")
    Run('more_dogs': 315 kept of 338 matched pairs, t = 20 by weight)
    """
    check_types(out=(out, PATH | None), options=(options, RunOptions | None))
    options = options or RunOptions()
    settings = BalanceSettings(
        t, tail_share, target_pairs, seed, t_by_language=t_by_language, t_language=t_language
    )
    entry_weights = None if weights is None else EntryWeights.of(weights)
    if out is not None:
        Folder(out).refuse_other_stages(MATCH.name, BALANCE.name)
    given: Sequence[Any] = run if isinstance(run, list | tuple) else [run]
    runs = [open_run(one) for one in given]
    if len(runs) > 1:
        if out is None:
            raise MetaclipError(
                "several runs are combined into a folder of their own; name it: `out=...`"
            )
        from metaclip.curate.combine import combine

        check_settings(settings, entry_weights, runs[0].metadata)
        source = combine(runs, Folder(out), options)
        return balance_matches(source, Folder(out), settings, options, entry_weights)
    if not runs:
        raise MetaclipError("no run is given; name one or several")
    (source,) = runs
    if source.match["lost"] and not options.allow_lost:
        raise MetaclipError(lost_inputs_message(source, again=match_again(source)))
    return balance_matches(
        source, Folder(source.path if out is None else out), settings, options, entry_weights
    )


def balance_matches(
    source: Run,
    folder: Folder,
    settings: BalanceSettings,
    options: RunOptions,
    weights: EntryWeights | None = None,
) -> Run:
    """Balance the matches of `source` into `folder`, whether inputs were lost or not; return the balanced run."""
    weight = check_settings(settings, weights, source.metadata)
    elsewhere = folder.path.resolve() != source.matched.path.resolve()
    if elsewhere and Stage(folder, MATCH).path.exists():
        raise MetaclipError(f"{folder.path} holds matches of its own; choose another `out=...`")
    with folder.owned(), source.matched.read_locked() if elsewhere else contextlib.nullcontext():
        source = Run(
            source.path, source.counted
        )  # opened again, because only now nobody else can change it
        stage = Stage(folder, BALANCE)
        _run_stage(source, stage, elsewhere, settings, options, weights, weight)
        stage.remove_partials()
        balanced = Run(folder.path, source.counted)
        if not has_account(folder.path):
            write_account(balanced)
    counts = source.counts.values
    if source.metadata.languages:
        hints = [] if (counts > balanced.thresholds).any() else [NOTHING_BALANCED]
    else:
        hints = threshold_hints(settings, balanced.t, counts, balanced.match["funnel"]["matched"], weight)
    for hint in hints:
        print(f"metaclip: {for_caller(hint)}", file=sys.stderr)
    return balanced


def check_settings(
    settings: BalanceSettings, weights: EntryWeights | None, metadata: Metadata
) -> Thresholds:
    """Return the weight of each entry of a list, 1 without weights; called before anything is written.

    Raise MetaclipError for weights and settings of languages that the list has no use for.
    """
    if metadata.languages or any(value is not None for value in settings.by_language.values()):
        from metaclip.curate.language_thresholds import check_languages

        check_languages(settings, metadata.languages)
    return 1.0 if weights is None else weights.by_entry(metadata)


def _run_stage(
    source: Run, stage: Stage, elsewhere: bool, settings: BalanceSettings, options: RunOptions,
    weights: EntryWeights | None, weight: Thresholds,
) -> None:  # fmt: skip
    """Draw the shards that are left, combine their results, and write the stage's record."""
    folder, counts, matched = stage.folder, source.counts, source.matched
    settings = settings.normalized()
    fingerprint = balance_fingerprint(source, settings, vector_digest(weight))
    instead = (
        "choose another `out=...`"
        if elsewhere
        else f"metaclip balance {folder.path} --out FOLDER balances it otherwise and matches nothing again"
    )
    names = {"match": "the result of match", "weights": "the weights of entries"}
    stage.begin(fingerprint, options.overwrite, names=names, instead=instead)
    if stage.finished() is not None:
        return
    source.check_matches()
    remove_account(folder.path)  # it describes an earlier result
    base, by_language = _threshold(source, stage, settings, options, weight)
    t = _thresholds(source, base, by_language, weight)
    if weights is not None:
        settings = dataclasses.replace(settings, weights=_weights_path(weights, folder))
    shards = pool_shards(source)
    _draw(
        [shard for shard in shards if stage.marker(shard.name, SHARD_DRAWN) is None],
        source,
        stage,
        t,
        settings.seed,
        options,
    )
    markers = {shard.name: stage.marker(shard.name, SHARD_DRAWN) or {} for shard in shards}
    stage.remove_strays("curated", markers)
    sums = add_entry_sums(stage, list(markers), len(counts.values), options)
    totals = write_outputs(stage, source.metadata, counts, t, sums, markers, options.threads)
    funnel = add_funnels(marker["funnel"] for marker in markers.values())
    check_funnel(funnel, "matched", BALANCE_REASONS, "kept")
    if funnel["matched"] != source.match["funnel"]["matched"]:
        raise damaged(
            matched / "matched",
            f"it has {funnel['matched']} rows, must have {source.match['funnel']['matched']}",
        )
    manifest = source.matched_manifest
    folder.write_recipe({"match": source.match_settings, "balance": settings})
    matches = {
        "folder": matched.path.address,
        "beside": relative_path(folder.path, matched.path),
        "record": source.match,
    }
    stage.finish(
        {
            "semantics": BALANCE.semantics,
            "match": matches if elsewhere else dict.fromkeys(matches),
            "t": threshold_record(base, t, weight, by_language),
            "asked": next(
                f"{name} = {value:.15g}" for name, value in settings.asked.items() if value is not None
            ),
            "seed": settings.seed,
            **totals,
            "funnel": funnel,
        },
        **{key: manifest[key] for key in ("schema", "inputs", "versions", "list", "rule")},
        checked=("entries.parquet", "curated.npy"),
        settings={"match": manifest["settings"]["match"], "balance": settings.record},
        funnel={**source.match["funnel"], **funnel},
    )


def balance_fingerprint(
    source: Run, settings: BalanceSettings, weights_digest: str | None
) -> dict[str, Any]:
    """Return everything that determines the result of the stage."""
    return {
        "semantics": BALANCE.semantics,
        "match": source.match["identity"],
        **settings.asked,
        "seed": settings.seed,
        **({"weights": weights_digest} if weights_digest else {}),
        **{name: value for name, value in settings.by_language.items() if value is not None},
    }


def threshold_record(
    base: float, t: Thresholds, weight: Thresholds, by_language: Mapping[str, float] | None = None
) -> float | dict[str, Any]:
    """Return what the record of the stage says of t: the number, or by what it varies, with digests."""
    if not isinstance(t, np.ndarray):
        return base
    weights, digest = vector_digest(weight), vector_digest(t)
    if by_language is None:
        return {"base": base, "by": WEIGHT, "weights": weights, "digest": digest}
    by = LANGUAGE if weights is None else LANGUAGE_AND_WEIGHT
    return {"base": base, "by": by, "weights": weights, "digest": digest, "languages": dict(by_language)}


def _weights_path(weights: EntryWeights, folder: Folder) -> str:
    """Return the path of the weights' file; weights that have none are written to the run folder."""
    path = folder.path / SAVED_WEIGHTS
    own = str(path) if is_remote(path) else os.path.abspath(path)
    if weights.path not in (None, own):
        return str(weights.path)
    weights.write(path)
    return own


def _threshold(
    source: Run, stage: Stage, settings: BalanceSettings, options: RunOptions, weight: Thresholds
) -> tuple[float, dict[str, float] | None]:
    """Return t, and that of each language of a list that has some, as an earlier call resolved them, else resolve them now."""
    names = [shard["name"] for shard in source.match["shards"]]
    counts, matched = source.counts.values, source.match["funnel"]["matched"]

    def expect(thresholds: npt.NDArray[np.float64], weight: Thresholds = weight) -> list[float]:
        step = ExpectStep(source.matched, slopes(counts, weight), thresholds)
        sums = fold(options.active_engine, step, names, operator.add)
        assert sums is not None  # rows matched
        return [number / FIXED_POINT for number in sums]

    if (solved := stage.marker("t", SOLVED)) is None:
        if languages := source.metadata.languages:
            from metaclip.curate.language_thresholds import resolve_languages

            found = resolve_languages(settings, counts, matched, languages, expect, weight)
            solved = {"t": found.base, "languages": dict(found.by_language)}
        else:
            solved = {"t": resolve(settings, counts, matched, expect, weight)}
        _thresholds(
            source, solved["t"], solved.get("languages"), weight
        )  # refused before anything is written
        stage.mark("t", solved)
    return float(solved["t"]), solved.get("languages")


def _thresholds(
    source: Run, base: float, by_language: Mapping[str, float] | None, weight: Thresholds
) -> Thresholds:
    """Return the threshold of each entry. Raise MetaclipError if one of them is not a finite number above 0."""
    if by_language is None:
        return entry_thresholds(base, weight)
    from metaclip.curate.language_thresholds import LanguageThresholds

    return LanguageThresholds(base, by_language).by_entry(source.metadata.languages, weight)


def pool_shards(source: Run) -> list[Shard]:
    """Return the shards that the pool was matched in. Raise MetaclipError if a file of it is gone or has changed."""
    files: dict[int, PoolFile] = {}
    inputs = source.inputs
    for known, found in zip(inputs, stat_files([known["path"] for known in inputs]), strict=True):
        if isinstance(found, MetaclipError):
            where = (
                "of the run that it was matched in, and combine the runs again"
                if "runs" in source.match
                else source.matched.path
            )
            raise MetaclipError(
                f"the pool's file {known['path']} is gone ({found}); put it back, or name its new place to "
                f"metaclip match --out {where} (which reads nothing twice)"
            )
        if not is_same_file(found, known):
            raise MetaclipError(
                f"{known['path']} has changed since it was matched; match again with `RunOptions(overwrite=True)`"
            )
        files[known["index"]] = dataclasses.replace(found, name=known["name"], form=known["form"])
    shards = []
    for item in source.match["shards"]:
        index, number = map(int, item["name"].split("-"))
        if index not in files:
            raise damaged(source.matched / MANIFEST, f"it names no input {index}")
        groups = None if item["groups"] is None else tuple(item["groups"])
        shards.append(Shard(files[index], index, number, item["first"], groups, item["rows"]))
    return shards


def _draw(
    shards: Sequence[Shard], source: Run, stage: Stage, t: Thresholds, seed: int, options: RunOptions
) -> None:
    """Draw shards and mark them. Raise BrokenInput for a shard that can no longer be read."""
    if not shards:
        return
    read = {item["name"]: item["read"] for item in source.match["shards"]}
    step = DrawStep(stage, source.matched, source.counts.values, t, seed, source.metadata.languages)
    (stage.folder / "curated").mkdir(exist_ok=True)
    tasks = [
        Task(
            shard.name,
            (shard, read[shard.name], source.shard_columns[shard.name]),
            shard.file.path,
            weight=input_bytes(shard),
        )
        for shard in shards
    ]
    with Progress("balance", sum(read[shard.name] for shard in shards), options.progress) as progress:
        for _ in run(stage, step, tasks, options, progress, group=GROUP_BYTES):
            pass
