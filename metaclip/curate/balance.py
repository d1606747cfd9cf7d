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

import collections
import contextlib
import dataclasses
import functools
import math
import operator
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.arguments import PATH, check_types
from metaclip.curate.account import has_account, remove_account, write_account
from metaclip.curate.draw import (
    FIXED_POINT,
    DrawSums,
    Thresholds,
    draw_rows,
    expect_rows,
    probabilities,
    slopes,
    stream_key,
)
from metaclip.curate.inputs import (
    GROUP_BYTES,
    check_unchanged,
    columns_as_given,
    input_bytes,
    is_same_file,
)
from metaclip.curate.match import lost_inputs_message, match_again
from metaclip.curate.run import Run, RunLike, curated_writer, open_run, read_matched, write_entries
from metaclip.curate.settings import (
    BALANCE,
    BALANCE_REASONS,
    MATCH,
    SAVED_WEIGHTS,
    SHARD_DRAWN,
    SOLVED,
    BalanceSettings,
)
from metaclip.curate.threshold import entry_thresholds, resolve, threshold_hints, vector_digest
from metaclip.curate.weights import T_BY, EntryWeights, WeightsLike
from metaclip.engine import PortableStep, Progress, ProgressCallback, fold
from metaclip.errors import BrokenInput, MetaclipError, damaged
from metaclip.matching import MATCHES, Counts, ids_and_offsets
from metaclip.metadata import Metadata
from metaclip.pool.columns import Columns, DroppedRows, valid_strings
from metaclip.pool.files import PoolFile, stat_files
from metaclip.pool.shards import Shard, read_batches
from metaclip.pool.sorted_uids import UidSet, load_array, merge_runs, write_rows, write_run, write_subset
from metaclip.pool.uid import Uids, to_hex, to_strings
from metaclip.stage.folder import MANIFEST, Folder
from metaclip.stage.runner import RunOptions, Task, run
from metaclip.stage.stage import Stage, add_funnels, check_bytes, check_funnel
from metaclip.storage.files import is_remote, local_copies, local_copy, relative_path

# --- one shard


@dataclasses.dataclass(frozen=True)
class DrawStep(PortableStep):
    """The step of stage balance; an item is a shard, its rows when it was matched, and the names of columns given then."""

    stage: Stage
    matched: Folder
    counts: npt.NDArray[np.uint64]
    t: Thresholds
    seed: int

    @functools.cached_property
    def parameters(self) -> DrawParameters:
        """The parameters of the draw, made once in each worker process."""
        with local_copy(self.matched / "duplicates.npy") as path:
            check_bytes(path, "duplicates.npy", Stage(self.matched, MATCH).record)
            return DrawParameters.of(self.counts, self.t, self.seed, load_array(path))

    def __call__(
        self, item: tuple[Shard, int, Mapping[str, str | None]], progress: ProgressCallback
    ) -> tuple[dict[str, Any], Sequence[Path]]:
        """Run the step. Raise BrokenInput if the pool's file cannot be read, or has other rows than when it was matched."""
        shard, rows, given = item
        columns = columns_as_given(shard.file, given)
        marker = balance_shard(shard, columns, rows, self.parameters, self.matched, self.stage, progress)
        check_unchanged(shard.file)
        return marker, [
            self.stage.folder / "curated" / f"{shard.name}.parquet",
            *self.stage.partials(shard.name),
        ]


@dataclasses.dataclass(frozen=True)
class ExpectStep(PortableStep):
    """Sums P(keep) over the rows of a matched shard under each of k thresholds."""

    matched: Folder
    slope: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float64]

    def __call__(self, shard: str) -> npt.NDArray[np.object_]:
        """Return the sums of a shard: Python integers, object[k], in units of 1 / FIXED_POINT."""
        sums = np.zeros(len(self.thresholds), np.uint64)
        for _, _, matches in read_matched(self.matched / "matched" / f"{shard}.parquet"):
            expect_rows(*ids_and_offsets(matches), self.slope, self.thresholds, sums)
        return sums.astype(np.object_)  # the sums of all shards do not fit 64 bits


@dataclasses.dataclass(frozen=True)
class DrawParameters:
    """What determines the draw of every row; shared by all shards."""

    probability: npt.NDArray[np.float64]
    key: int
    duplicates: UidSet

    @classmethod
    def of(
        cls, counts: npt.NDArray[np.uint64], t: Thresholds, seed: int, duplicates: npt.NDArray[Any]
    ) -> DrawParameters:
        """Compute them for epoch 0; `duplicates` are the uids that stand on several rows, in DataComp's subset format."""
        uids = np.ascontiguousarray(duplicates).view(np.uint64).reshape(-1, 2)
        return cls(probabilities(counts, t), stream_key(seed, 0), UidSet(uids))


class ShardDraw:
    """Draws the rows of one shard, batch by batch, and collects what the shard adds to the stage."""

    def __init__(self, parameters: DrawParameters) -> None:
        """Start without rows."""
        self._parameters, self._sums, self._rows = parameters, DrawSums(len(parameters.probability)), 0
        self._uids: list[Uids] = [np.zeros((0, 2), np.uint64)]
        self._repeats: list[npt.NDArray[np.uint64]] = [np.zeros((0, 3), np.uint64)]

    def draw(
        self, uids: Uids, values: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Draw a batch of rows, given as `metaclip.curate.draw.draw_rows` takes them: (P(keep) float64[n], kept bool[n])."""
        by = self._parameters
        probability, keep = draw_rows(values, offsets, by.probability, uids, by.key, self._sums)
        repeated = np.flatnonzero(by.duplicates.contains(uids))
        if len(repeated):
            # Rows of one uid share one u, so their variance is not a sum over rows: `_repeats_variance` adds it.
            p = probability[repeated]
            self._sums.totals[1] -= (p * (1.0 - p) * FIXED_POINT).astype(np.uint64).sum()
            self._repeats.append(np.concatenate([uids[repeated], p.view(np.uint64)[:, None]], axis=1))
        self._uids.append(uids[keep])
        self._rows += len(uids)
        return probability, keep

    def write(self, stage: Stage, name: str) -> dict[str, Any]:
        """Write the shard's sums by entry and its sorted uids; return what its marker says of the draw."""
        sums = self._sums
        entry = np.flatnonzero(sums.expected)
        write_rows(
            stage.path / f"{name}.tally.npy",
            np.stack([entry, sums.expected[entry], sums.kept[entry]], axis=1),
        )
        write_run(stage.path / f"{name}.uids.npy", np.concatenate(self._uids))
        if len(self._repeats) > 1:
            write_run(stage.path / f"{name}.repeats.npy", np.concatenate(self._repeats))
        expected, variance, kept = map(int, sums.totals)
        funnel = {"matched": self._rows, "not_drawn": self._rows - kept, "kept": kept}
        return {"funnel": funnel, "expected": expected, "variance": variance}


def shard_entry_sums(shard: str, *, stage: Stage, n_entries: int) -> npt.NDArray[np.uint64]:
    """Read what a drawn shard left by entry: uint64[3, n_entries], expected in whole pairs, its fraction, kept.

    Whole pairs and fractions (in units of 1 / FIXED_POINT) are separate: 88 G pairs in units of 2**-32 do not fit 64 bits.
    """
    with local_copy(stage.partial(shard, "tally.npy")) as path:
        entry, expected, kept = load_array(path, 3).T
        if len(entry) and int(entry.max()) >= n_entries:
            raise damaged(path, "it names entries beyond the end of the list")
    sums = np.zeros((3, n_entries), np.uint64)
    sums[:, entry.astype(np.int64)] = (
        expected >> np.uint64(32),
        expected & np.uint64(FIXED_POINT - 1),
        kept,
    )
    return sums


def balance_shard(
    shard: Shard, columns: Columns, rows_expected: int, parameters: DrawParameters, matched: Folder, stage: Stage,
    progress: ProgressCallback,
) -> dict[str, Any]:  # fmt: skip
    """Draw a shard and write its files: curated pairs, sums by entry, sorted uids. Return its marker.

    Raise BrokenInput if the pool's file cannot be read, or has other rows than when it was matched.
    """
    shard_draw = ShardDraw(parameters)

    def drawn_batches() -> Iterator[_DrawnBatch]:
        for rows, uids, matches in read_matched(matched / "matched" / f"{shard.name}.parquet"):
            probability, keep = shard_draw.draw(uids, *ids_and_offsets(matches))
            kept = np.flatnonzero(keep)
            progress(0, len(kept))
            yield _DrawnBatch(rows, kept, uids, matches, probability)

    path = stage.folder / "curated" / f"{shard.name}.parquet"
    _write_curated(path, shard, columns, rows_expected, drawn_batches(), progress)
    return {"shard": shard.identity, **shard_draw.write(stage, shard.name)}


@dataclasses.dataclass(frozen=True)
class _DrawnBatch:
    """A batch of matched rows; `kept` are the indices of those that the draw keeps."""

    rows: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    uids: Uids
    matches: pa.Array
    probability: npt.NDArray[np.float64]

    def kept_between(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Return the indices of the kept rows that lie in [begin, end) of the pool's file."""
        rows = self.rows[self.kept]
        return self.kept[np.searchsorted(rows, begin) : np.searchsorted(rows, end)]


def _write_curated(
    path: Path, shard: Shard, columns: Columns, rows_expected: int, drawn: Iterator[_DrawnBatch],
    progress: ProgressCallback,
) -> None:  # fmt: skip
    """Read the pool's rows and the drawn rows side by side, both ascending; write the kept ones."""
    waiting: collections.deque[_DrawnBatch] = collections.deque()
    begin = shard.first
    with curated_writer(path) as add:
        for batch in read_batches(shard, None, DroppedRows()):
            end = begin + len(batch)
            while (not waiting or waiting[-1].rows[-1] < end - 1) and (
                more := next(drawn, None)
            ) is not None:
                waiting.append(more)
            tables = []
            for part in waiting:
                if len(kept := part.kept_between(begin, end)):
                    tables.append(
                        _curated_table(batch.take(pa.array(part.rows[kept] - begin)), columns, part, kept)
                    )
            if tables:
                add(pa.concat_tables(tables))
            while waiting and waiting[0].rows[-1] < end:
                waiting.popleft()
            progress(len(batch), 0)
            begin = end
        waiting.extend(drawn)  # to the end, so that its file is closed
        if begin - shard.first != rows_expected:
            raise BrokenInput(
                f"{shard} has {begin - shard.first} rows, had {rows_expected} when it was matched; "
                "match again with --overwrite"
            )
        if waiting:
            raise MetaclipError(
                f"{shard} has fewer rows than its matches name; match again with --overwrite"
            )


def _curated_table(
    batch: pa.RecordBatch, columns: Columns, drawn: _DrawnBatch, kept: npt.NDArray[np.int64]
) -> pa.Table:
    """Put our columns beside the pool's: `batch` has the rows that stand at the indices `kept` of the drawn batch.

    Readers of parquet fail at strings that are not valid UTF-8, which csv and others can hold.
    """
    # A column UID would stand beside ours as a second one: names are found without regard to case.
    names = [
        name
        for name in batch.schema.names
        if name not in ("matches", "keep_probability") and name.lower() != "uid"
    ]
    uids = drawn.uids[kept]
    given = columns.uid is not None and columns.uid.lower() == "uid"
    uid = valid_strings(to_strings(batch.column(columns.uid), uids)) if given else to_hex(uids)
    own = [
        pa.field("uid", pa.string()),
        pa.field("matches", MATCHES),
        pa.field("keep_probability", pa.float64()),
    ]
    return pa.Table.from_arrays(
        [
            *(valid_strings(batch.column(name)) for name in names),
            uid,
            drawn.matches.take(pa.array(kept)),
            pa.array(drawn.probability[kept]),
        ],
        schema=pa.schema([*map(batch.schema.field, names), *own]),
    )


# --- the stage


def balance(
    run: RunLike | Sequence[RunLike],
    *,
    out: str | os.PathLike[str] | None = None,
    t: float | None = None,
    tail_share: float | None = None,
    target_pairs: int | None = None,
    seed: int = 0,
    weights: WeightsLike | None = None,
    options: RunOptions | None = None,
) -> Run:
    """Balance a matched run, or continue where an earlier call stopped; return the balanced run.

    At most one of `t`, `tail_share` (default 0.06) and `target_pairs` is given. `weights` is a csv or parquet file with the
    columns entry and weight, a dict, or a table of any library that speaks Arrow: the threshold of an entry is t times its
    weight, and t is solved for the set that comes of it.

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
    options, settings = options or RunOptions(), BalanceSettings(t, tail_share, target_pairs, seed)
    entry_weights = None if weights is None else EntryWeights.of(weights)
    given: Sequence[Any] = run if isinstance(run, list | tuple) else [run]
    runs = [open_run(one) for one in given]
    if len(runs) > 1:
        if out is None:
            raise MetaclipError("several runs are combined into a folder of their own; name it: --out")
        from metaclip.curate.combine import combine

        if entry_weights is not None:
            entry_weights.by_entry(runs[0].metadata)  # before anything is written
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
    weight = 1.0 if weights is None else weights.by_entry(source.metadata)
    elsewhere = folder.path.resolve() != source.matched.path.resolve()
    if elsewhere and Stage(folder, MATCH).path.exists():
        raise MetaclipError(f"{folder.path} holds matches of its own; choose another --out")
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
    for hint in threshold_hints(
        settings, balanced.t, source.counts.values, balanced.match["funnel"]["matched"], weight
    ):
        print(f"metaclip: {hint}", file=sys.stderr)
    return balanced


def _run_stage(
    source: Run, stage: Stage, elsewhere: bool, settings: BalanceSettings, options: RunOptions,
    weights: EntryWeights | None, weight: Thresholds,
) -> None:  # fmt: skip
    """Draw the shards that are left, combine their results, and write the stage's record."""
    folder, counts, matched = stage.folder, source.counts, source.matched
    settings = settings.normalized()
    fingerprint = balance_fingerprint(source, settings, vector_digest(weight))
    instead = (
        "choose another --out"
        if elsewhere
        else f"metaclip balance {folder.path} --out FOLDER balances it otherwise and matches nothing again"
    )
    names = {"match": "the result of match", "weights": "the weights of entries"}
    stage.begin(fingerprint, options.overwrite, names=names, instead=instead)
    if stage.finished() is not None:
        return
    source.check_matches()
    remove_account(folder.path)  # it describes an earlier result
    base = _threshold(source, stage, settings, options, weight)
    t = entry_thresholds(base, weight)
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
            "t": threshold_record(base, t, weight),
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
    }


def threshold_record(base: float, t: Thresholds, weight: Thresholds) -> float | dict[str, Any]:
    """Return what the record of the stage says of t: the number, or by what it varies, with digests."""
    if not isinstance(t, np.ndarray):
        return base
    return {"base": base, "by": T_BY, "weights": vector_digest(weight), "digest": vector_digest(t)}


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
) -> float:
    """Return t as an earlier call resolved it, else resolve it now."""
    names = [shard["name"] for shard in source.match["shards"]]
    counts = source.counts.values
    slope = slopes(counts, weight)

    def expect(thresholds: npt.NDArray[np.float64]) -> list[float]:
        sums = fold(
            options.active_engine, ExpectStep(source.matched, slope, thresholds), names, operator.add
        )
        assert sums is not None  # rows matched
        return [number / FIXED_POINT for number in sums]

    if (solved := stage.marker("t", SOLVED)) is None:
        solved = {"t": resolve(settings, counts, source.match["funnel"]["matched"], expect, weight)}
        entry_thresholds(solved["t"], weight)  # refused before anything is written
        stage.mark("t", solved)
    return float(solved["t"])


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
                f"{known['path']} has changed since it was matched; match again with --overwrite"
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
    step = DrawStep(stage, source.matched, source.counts.values, t, seed)
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


def add_entry_sums(
    stage: Stage, shards: Sequence[str], n_entries: int, options: RunOptions
) -> npt.NDArray[np.uint64]:
    """Add what drawn shards left by entry (`shard_entry_sums`), first in the workers and then here."""
    read = functools.partial(shard_entry_sums, stage=stage, n_entries=n_entries)
    sums = fold(options.active_engine, read, shards, operator.add)
    return np.zeros((3, n_entries), np.uint64) if sums is None else sums


def write_outputs(
    stage: Stage, metadata: Metadata, counts: Counts, t: Thresholds, entry_sums: npt.NDArray[np.uint64],
    markers: Mapping[str, Mapping[str, Any]], threads: int = 1,
) -> dict[str, float]:  # fmt: skip
    """Write entries.parquet of the summed `shard_entry_sums`, and curated.npy of what finished shards left.

    Return the expected number of pairs, its standard deviation and the number kept, by their keys in the stage's record.
    """
    folder = stage.folder
    expected, variance = (
        sum(marker[key] for marker in markers.values()) for key in ("expected", "variance")
    )
    kept = sum(marker["funnel"]["kept"] for marker in markers.values())
    existing = set(stage.path.glob("*.repeats.npy"))
    repeats = [
        stage.partial(name, "repeats.npy")
        for name in markers
        if stage.path / f"{name}.repeats.npy" in existing
    ]
    with local_copies(repeats) as runs:
        variance += sum(_repeats_variance(block) for block in merge_runs(runs, columns=3))
    with local_copies([stage.partial(name, "uids.npy") for name in markers]) as runs:
        write_subset(folder / "curated.npy", merge_runs(runs, threads=threads), kept)
    whole, fraction, entry_kept = entry_sums
    entry_expected = whole.astype(np.float64) + fraction.astype(np.float64) / FIXED_POINT
    probability = probabilities(counts.values, t)
    write_entries(
        folder / "entries.parquet", metadata, counts, t, probability, entry_expected, entry_kept
    )
    return {
        "expected": expected / FIXED_POINT,
        "deviation": math.sqrt(variance / FIXED_POINT),
        "kept": kept,
    }


def _repeats_variance(block: npt.NDArray[np.uint64]) -> int:
    """Return the variance of the number kept, summed over uids that stand on several rows, in units of 1 / FIXED_POINT.

    Rows of one uid share one u, so row i is kept whenever a row of smaller P is: the variance is the sum over all i, j
    of min(P_i, P_j) - P_i P_j, which is m^2 P (1 - P) where all m are equal.
    """
    new = np.flatnonzero(np.concatenate([[True], (block[1:, :2] != block[:-1, :2]).any(axis=1)]))
    sizes = np.diff(new, append=len(block))
    total = 0
    for m in np.unique(sizes).tolist():  # few: all uids that stand on m rows at once
        rows = new[sizes == m][:, None] + np.arange(m)
        p = block[rows, 2].view(np.float64)  # ascending: positive floats sort as their bits do
        q = 1.0 - p
        # In terms of P_i (1 - P_j) for i <= j, because no rounding makes such a sum negative.
        rest = np.cumsum(q[:, ::-1], axis=1)[:, ::-1]
        total += sum(map(int, ((p * (2.0 * rest - q)).sum(axis=1) * FIXED_POINT).tolist()))
    return total
