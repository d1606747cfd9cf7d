"""The second stage of `metaclip inspect`: which images stay. It reads the rows of the first, and no image.

    outcome/<tar>.parquet   uid, reason (null for an image that stays) and duplicate_of (the uid of the image that stays in its
                            place), row by row as in images/<tar>.parquet
                            test_image and test_distance: the image of an evaluation set that it resembles, and in how many bits
                            of 128 their hashes differ
    against.parquet         the hashes of the evaluation sets, as a file that can be shared
    subset.npy              the uids of the samples that stay, in DataComp's subset format

    .state/select/<tar>.codes.npy        uint64[n, 4]: row, code, evaluation image, distance of images left out
                  <tar>.keys.npy         the other images (`metaclip.inspect.duplicates`)
                  exact-*.*.npy, hashes.*.npy, pairs-*.pairs.npy, clusters.dropped.npy      of the steps below
                  <tar>-out.uids.npy     the uids of the images that stay, sorted

The steps, each of many items with markers: filter the rows of each tar; find images with the same bytes, in ranges of their
digests; collapse those with the same hashes; find pairs of near hashes, in ranges; form clusters; write the outcome of each
tar. A marker names what its item was made from, so that a tar that could not be read before changes what it must.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.engine import PortableStep, Progress, ProgressCallback
from metaclip.inspect import duplicates
from metaclip.inspect.evaluation_hashes import (
    HashSource,
    NearTestImages,
    hash_sources,
    read_hashes,
    write_hashes,
)
from metaclip.inspect.filters import COLUMNS, filter_rows
from metaclip.inspect.images import read_rows
from metaclip.inspect.near import PAIR_BYTES, find_pairs
from metaclip.inspect.settings import CODES, DUPLICATES, MEANING, NEAR_TEST_SET, REASONS, InspectSettings
from metaclip.pool.sorted_uids import (
    load_array,
    merge_runs,
    sorted_writer,
    write_rows,
    write_run,
    write_subset,
)
from metaclip.pool.uid import UID, from_binary, to_binary
from metaclip.stage.runner import RunOptions, Task, run
from metaclip.stage.stage import (
    Record,
    Size,
    Stage,
    StageSpec,
    add_funnels,
    check_funnel,
    funnel_kind,
    marker_kind,
)
from metaclip.storage.files import AnyPath, atomic_write, iter_local_copies, local_copies, local_copy

FUNNEL: Final = funnel_kind(("samples", *REASONS, "kept"), ("listed", "not_downloaded"))
_Made: Final = marker_kind(of=str, parts=Size)
_Hashes: Final = marker_kind(of=str, parts=Size, rows=Size)
_Against: Final = marker_kind(sets=list[str], unreadable=Size)
_Tar: Final = marker_kind(of=str, parts=Size, funnel=FUNNEL)
SELECT: Final = StageSpec(
    "select",
    outputs=("outcome", "against.parquet", "subset.npy"),
    partials=(
        "*.codes.npy",
        "*.keys.npy",
        "*.dropped.npy",
        "*.hashes.npy",
        "*.ranked.npy",
        "*.pairs.npy",
        "*.uids.npy",
    ),
    record=marker_kind(Record, identity=str, funnel=FUNNEL, unreadable_test_images=Size),
)
"""Raise its semantics when the same rows would give another subset."""
_OUTCOME: Final = pa.schema(
    [
        ("uid", UID), ("reason", pa.string()), ("duplicate_of", UID), ("test_image", pa.string()),
        ("test_distance", pa.uint8()),
    ]
)  # fmt: skip
AGAINST: Final = "against.parquet"
_Result = tuple[dict[str, Any], Sequence[Path]]
_SHOWN: Final = 3  # images that cannot be read
_Item = tuple[str, int, int]
"""The kind of a task, and two numbers: of a tar, or a part and the number of parts."""


@dataclasses.dataclass(frozen=True)
class SelectStep(PortableStep):
    """All steps of the stage: what to do is the kind of the item."""

    stage: Stage
    settings: InspectSettings
    identity: str
    """Of the rows that the first stage has written."""
    tars: tuple[int, ...]
    """The numbers of the tars that were read."""
    exact_parts: int
    threads: int = 1

    @functools.cached_property
    def test_images(self) -> pa.Table:
        """The hashes of evaluation sets, read once in each worker process."""
        return read_hashes(self.stage.folder / AGAINST)

    @functools.cached_property
    def near_test_images(self) -> NearTestImages:
        """The same, to be looked up."""
        return NearTestImages(self.test_images, self.settings.test_distance, self.settings.mirrored)

    def __call__(self, item: _Item, progress: ProgressCallback) -> _Result:
        """Run a step; return its marker and files."""
        kind, number, parts = item
        marker, files = getattr(self, f"_{kind}")(number, parts, progress)
        return {"of": self.identity, "parts": parts, **marker}, files

    def path(self, name: str) -> AnyPath:
        """Return the path of a file of the stage's state."""
        return self.stage.path / name

    # --- the steps

    def _filter(self, tar: int, parts: int, progress: ProgressCallback) -> _Result:
        """Filter the rows of a tar."""
        settings, first = self.settings, 0
        codes: list[Any] = [np.zeros((0, duplicates.DROPPED_COLUMNS), np.uint64)]
        keys: list[Any] = [np.zeros((0, duplicates.KEY_COLUMNS), np.uint64)]
        columns = [*COLUMNS, "uid", "sha256", "phash", "dhash", "text_hash"]
        columns += ["matches"] if settings.keep == "matches" else []
        for batch in read_rows(self.stage.folder / "images" / f"{tar:06d}.parquet", columns):
            found = filter_rows(batch, settings)
            like = (
                self._find_test_images(batch, found)
                if settings.against
                else np.zeros((len(batch), 2), np.int64)
            )
            gone = np.flatnonzero(found)
            codes.append(np.stack([first + gone, found[gone], *like[gone].T], axis=1).astype(np.uint64))
            if settings.groups:
                stay = np.flatnonzero(found == 0)
                keys.append(_keys(batch.take(pa.array(stay)), tar, first + stay))
            first += len(batch)
            progress(len(batch), len(batch) - len(gone))
        paths = [self.path(f"{tar:06d}.codes.npy"), self.path(f"{tar:06d}.keys.npy")]
        write_rows(paths[0], np.concatenate(codes))
        write_run(paths[1], np.concatenate(keys))
        return {}, paths

    def _find_test_images(self, batch: pa.RecordBatch, codes: Any) -> Any:
        """Set the code of rows that resemble an evaluation image; return for each row (image, distance): int64[n, 2]."""
        rows = np.flatnonzero(codes == 0)
        columns = (batch.column(name).take(pa.array(rows)) for name in ("phash", "dhash"))
        images, distances = self.near_test_images.nearest(
            np.stack([c.to_numpy() for c in columns], axis=1)
        )
        near = images >= 0
        like = np.zeros((len(batch), 2), np.int64)
        like[rows[near], 0], like[rows[near], 1] = images[near], distances[near]
        codes[rows[near]] = CODES[NEAR_TEST_SET]
        return like

    def _exact(self, part: int, parts: int, progress: ProgressCallback) -> _Result:
        """Find images with the same bytes in a range of digests."""
        settings = self.settings
        runs = iter_local_copies([self.path(f"{tar:06d}.keys.npy") for tar in self.tars])
        paths = [self.path(f"exact-{part:05d}.{ending}.npy") for ending in ("dropped", "hashes")]
        duplicates.split_exact(
            runs, part, parts, settings.max_texts, settings.exact_duplicates, paths[0], paths[1]
        )
        return {}, paths

    def _hashes(self, part: int, parts: int, progress: ProgressCallback) -> _Result:
        """Collapse images with the same hashes."""
        names = [f"exact-{part:05d}.hashes.npy" for part in range(self.exact_parts)]
        paths = [self.path(f"hashes.{ending}.npy") for ending in ("ranked", "dropped")]
        with local_copies([self.path(name) for name in names]) as runs:
            rows, _ = duplicates.split_hashes(runs, paths[0], paths[1], self.threads)
        return {"rows": rows}, paths

    @contextlib.contextmanager
    def _ranked(self) -> Iterator[Any]:
        with local_copy(self.path("hashes.ranked.npy")) as path:
            yield load_array(path, duplicates.HASH_COLUMNS, "r")

    def _pairs(self, number: int, parts: int, progress: ProgressCallback) -> _Result:
        """Find pairs of near hashes by a block of the pHash, in a part of the buckets."""
        path = self.path(f"pairs-{number:05d}.pairs.npy")
        with self._ranked() as ranked, sorted_writer(path, 2) as add:
            for pairs in find_pairs(
                ranked[:, 1:3], self.settings.distance, number // parts, number % parts, parts
            ):
                add(pairs)
                progress(0, 0)
        return {}, [path]

    def _clusters(self, number: int, parts: int, progress: ProgressCallback) -> _Result:
        """Form clusters of the pairs that `number` tasks have found."""
        path = self.path("clusters.dropped.npy")
        names = [f"pairs-{i:05d}.pairs.npy" for i in range(number)]
        with self._ranked() as ranked, local_copies([self.path(name) for name in names]) as pairs:
            duplicates.split_clusters(pairs, ranked, path, self.threads)
        return {}, [path]

    def _outcome(self, tar: int, parts: int, progress: ProgressCallback) -> _Result:
        """Write what became of the rows of a tar."""
        with local_copy(self.path(f"{tar:06d}.codes.npy")) as path:
            rows = [load_array(path, duplicates.DROPPED_COLUMNS)]
        rows += [duplicates.rows_of_tar(path, tar) for path in iter_local_copies(self._dropped())]
        gone = np.concatenate(rows)
        gone = gone[np.argsort(gone[:, 0])]
        path, uids_path = (
            self.stage.folder / "outcome" / f"{tar:06d}.parquet",
            self.path(f"{tar:06d}-out.uids.npy"),
        )
        kept, codes_seen, first = [np.zeros((0, 2), np.uint64)], np.zeros(len(REASONS) + 1, np.int64), 0
        with (
            atomic_write(path) as temporary,
            pq.ParquetWriter(
                temporary, _OUTCOME, compression="zstd", use_dictionary=["reason"]
            ) as writer,
        ):
            for batch in read_rows(self.stage.folder / "images" / path.name, ["uid"]):
                begin, end = np.searchsorted(gone[:, 0], [first, first + len(batch)])
                codes, like = np.zeros(len(batch), np.int64), np.zeros((len(batch), 2), np.uint64)
                at = gone[begin:end, 0].astype(np.int64) - first
                codes[at], like[at] = gone[begin:end, 1], gone[begin:end, 2:]
                codes_seen += np.bincount(codes, minlength=len(codes_seen))
                kept.append(from_binary(batch.column("uid"))[codes == 0])
                writer.write_batch(self._outcome_rows(batch.column("uid"), codes, like))
                first += len(batch)
        write_run(uids_path, np.concatenate(kept))
        counts = dict(zip(("kept", *REASONS), codes_seen.tolist(), strict=True))
        return {"funnel": {"samples": first, **counts}}, [path, uids_path]

    def _outcome_rows(self, uids: pa.Array, codes: Any, like: Any) -> pa.RecordBatch:
        """Return the outcome of rows, given the uid of the image that stays, or the evaluation image and the distance."""
        tested = codes == CODES[NEAR_TEST_SET]
        same = np.isin(codes, [CODES[reason] for reason in DUPLICATES])
        others = pa.array(to_binary(np.ascontiguousarray(like)).to_pylist(), UID, mask=~same)
        names, distances = pa.nulls(len(codes), pa.string()), pa.nulls(len(codes), pa.uint8())
        if tested.any():
            images = pa.array(np.where(tested, like[:, 0], 0), mask=~tested)
            sets, found = (
                self.test_images[name].take(images).combine_chunks() for name in ("set", "image")
            )
            names = pc.binary_join_element_wise(sets, found, ", ")
            distances = pa.array(like[:, 1].astype(np.uint8), mask=~tested)
        reasons = _REASON_NAMES.take(pa.array(codes))
        return pa.RecordBatch.from_arrays([uids, reasons, others, names, distances], schema=_OUTCOME)

    def _dropped(self) -> list[Path]:
        """Return the files of images that are left out as duplicates of others."""
        if not self.settings.groups:
            return []
        names = [f"exact-{part:05d}" for part in range(self.exact_parts)]
        names += ["hashes", "clusters"] if self.settings.near_duplicates else []
        return [self.path(f"{name}.dropped.npy") for name in names]


def _keys(batch: pa.RecordBatch, tar: int, rows: Any) -> Any:
    """Return the keys of usable images, rows of a tar."""
    digests = np.frombuffer(b"".join(batch.column("sha256").to_pylist()), ">u8").reshape(-1, 4)
    matches = batch.column("matches").to_numpy() if "matches" in batch.schema.names else None
    numbers = [batch.column(name).to_numpy() for name in ("text_hash", "phash", "dhash")]
    uids = from_binary(batch.column("uid"))
    ranks = duplicates.ranks_of(tar, rows, matches)
    return np.stack(
        [*digests[:, :2].astype(np.uint64).T, ranks, *numbers, uids[:, 0], uids[:, 1]], axis=1
    )


_REASON_NAMES: Final = pa.array([None, *REASONS], pa.string())


# --- the stage


def select(
    stage: Stage,
    settings: InspectSettings,
    sources: Sequence[HashSource],
    identity: str,
    tars: Mapping[str, int],
    listed: int | None,
    memory: int,
    options: RunOptions,
) -> dict[str, Any]:
    """Run the stage on tars that were read, unless it is finished; return its record.

    `tars` are numbers of usable images by name, `listed` is the number of pairs that img2dataset was given, if it states it.
    """
    record = stage.finished()
    if record is not None and record["identity"] == identity:
        return record
    workers = options.active_engine.workers
    images = sum(tars.values())
    parts = max(1, -(-images * workers * duplicates.KEY_BYTES // memory))
    step = SelectStep(stage, settings, identity, tuple(map(int, tars)), parts, options.threads)
    job = _Selection(step, options)
    with Progress("select", 2 * images, options.progress) as progress:
        unreadable = job.hash_sets(sources, progress)
        job.run([Task(name, ("filter", int(name), 0)) for name in tars], progress)
        if settings.groups:
            job.run([Task(f"exact-{i:05d}", ("exact", i, parts)) for i in range(parts)], progress)
        if settings.near_duplicates:
            job.run([Task("hashes", ("hashes", 0, 0))], progress, _Hashes)
            hashes = int((stage.marker("hashes", _Hashes) or {"rows": 0})["rows"])
            ranges = max(1, -(-hashes * workers * PAIR_BYTES // memory))
            pairs = (settings.distance + 1) * ranges
            job.run([Task(f"pairs-{i:05d}", ("pairs", i, ranges)) for i in range(pairs)], progress)
            job.run([Task("clusters", ("clusters", pairs, 0))], progress)
        job.run([Task(f"{name}-out", ("outcome", int(name), 0)) for name in tars], progress, _Tar)
    return _finish(stage, identity, list(tars), listed, unreadable, options)


@dataclasses.dataclass(frozen=True)
class _Selection:
    """The steps of the stage on an engine."""

    step: SelectStep
    options: RunOptions

    def hash_sets(self, sources: Sequence[HashSource], progress: Progress) -> int:
        """Write the hashes of evaluation sets, unless that is done; return the number of images that cannot be read."""
        if not sources:
            return 0
        stage, sets = self.step.stage, [source.digest for source in sources]
        marker = stage.marker("against", _Against)
        if marker is None or marker["sets"] != sets:
            table, broken = hash_sources(sources, self.options.threads)
            for line in broken[:_SHOWN]:
                progress.note(f"metaclip: {line}; it is kept out of nothing")
            if len(broken) > _SHOWN:
                progress.note(
                    f"metaclip: {len(broken) - _SHOWN} more images of evaluation sets cannot be read"
                )
            path = stage.folder / AGAINST
            write_hashes(path, table)
            marker = stage.mark("against", {"sets": sets, "unreadable": len(broken)}, [path])
        return int(marker["unreadable"])

    def run(self, tasks: Sequence[Task[_Item]], progress: Progress, kind: Any = _Made) -> None:
        """Run the tasks whose results were not made, or not from these rows."""
        stage, identity = self.step.stage, self.step.identity

        def is_made(task: Task[_Item]) -> bool:
            marker = stage.marker(task.name, kind)
            return marker is not None and (marker["of"], marker["parts"]) == (identity, task.item[2])

        left = [task for task in tasks if not is_made(task)]
        for _ in run(stage, self.step, left, self.options, progress):
            pass


def _finish(
    stage: Stage,
    identity: str,
    tars: Sequence[str],
    listed: int | None,
    unreadable: int,
    options: RunOptions,
) -> dict[str, Any]:
    """Write the subset and the record of the stage."""
    markers = [stage.marker(f"{name}-out", _Tar) or {} for name in tars]
    funnel = add_funnels(marker["funnel"] for marker in markers)
    check_funnel(funnel, "samples", REASONS, "kept")
    stage.remove_strays("outcome", set(tars))
    with local_copies([stage.partial(f"{name}-out", "uids.npy") for name in tars]) as runs:
        write_subset(
            stage.folder / "subset.npy", merge_runs(runs, threads=options.threads), funnel["kept"]
        )
    if listed is not None:
        funnel = {"listed": listed, "not_downloaded": listed - funnel["samples"], **funnel}
    steps = [
        {"step": step, "samples": funnel[step], "meaning": meaning}
        for step, meaning in MEANING.items()
        if funnel.get(step) or step in ("samples", "kept")
    ]
    record = stage.finish(
        {"identity": identity, "funnel": funnel, "unreadable_test_images": unreadable},
        checked=("subset.npy",),
        funnel=funnel,
        steps=steps,
    )
    stage.remove_partials()
    return record
