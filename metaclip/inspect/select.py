"""The second stage of `metaclip inspect`: which images stay. It reads the rows of the first, and no image.

    outcome/<tar>.parquet   row by row as in images/<tar>.parquet:
                            uid
                            reason         why the sample is left out; null for one that stays
                            duplicate_of   the uid of the image that it duplicates, which stays or is a near-duplicate itself: at
                                           most three steps lead to one that stays
                            test_image, test_distance     the image of an evaluation set that it resembles, and in how many bits
                                           of 128 their hashes differ
                            blur           the hook that marks an image that stays for blurring
    against.parquet         the hashes of the evaluation sets, as a file that can be shared
    subset.npy              the uids of the samples that stay, in DataComp's subset format
    blur.npy                the uids among them that a hook marks for blurring, if there are hooks

    .state/select/<tar>.codes.npy        uint64[n, 4]: row, code, evaluation image, distance of images left out
                  <tar>.marks.npy        uint64[n, 2]: row and number of the hook of images to be blurred
                  hook-*.uids.npy        the uids that scores mark
                  <tar>.keys.npy         the other images (`metaclip.inspect.duplicates`)
                  exact-*.*.npy, hashes.*.npy, pairs-*.pairs.npy, clusters.dropped.npy      of the steps below
                  <tar>-out.uids.npy     the uids of the images that stay, sorted

The steps, each of many items with markers: filter the rows of each tar; find images with the same bytes, in ranges of their
digests; collapse those with the same hashes; find pairs of near hashes, in ranges; form clusters; write the outcome of each
tar. A marker names what its item was made from, so that a tar that could not be read before changes what it must.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.engine import Progress
from metaclip.errors import MetaclipError
from metaclip.inspect import duplicates
from metaclip.inspect.evaluation_hashes import HashSource, hash_progress, hash_sources, write_hashes
from metaclip.inspect.hooks import BLUR, MarkFunction
from metaclip.inspect.near import MAX_HASHES, PAIR_BYTES
from metaclip.inspect.select_step import AGAINST, Item, SelectStep
from metaclip.inspect.settings import FILTERS, MEANING, REASONS, InspectSettings
from metaclip.pool.sorted_uids import load_array, merge_runs, write_subset
from metaclip.pool.subset import Subset
from metaclip.pool.uid import from_binary
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
from metaclip.storage.files import local_copies, local_copy

FUNNEL: Final = funnel_kind(("samples", *REASONS, "kept"), ("listed", "not_downloaded"))
_Made: Final = marker_kind(of=str, parts=Size)
_Hashes: Final = marker_kind(of=str, parts=Size, rows=Size)
_Against: Final = marker_kind(sets=list[str], unreadable=Size)
_Tar: Final = marker_kind(of=str, parts=Size, funnel=FUNNEL, blurred=dict[str, Size])
SELECT: Final = StageSpec(
    "select",
    outputs=("outcome", "against.parquet", "subset.npy", "blur.npy"),
    partials=(
        "*.codes.npy",
        "*.marks.npy",
        "*.keys.npy",
        "*.dropped.npy",
        "*.hashes.npy",
        "*.ranked.npy",
        "*.pairs.npy",
        "*.uids.npy",
        "*.blur.npy",
    ),
    record=marker_kind(
        Record,
        identity=str,
        funnel=FUNNEL,
        blurred=dict[str, Size],
        unreadable_test_images=Size,
        shared_uids=(Size, 0),
    ),
)
"""Raise its semantics when the same rows would give another subset."""
_SHOWN: Final = 3  # images that cannot be read

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
    functions: Mapping[str, MarkFunction],
) -> dict[str, Any]:
    """Run the stage on tars that were read, unless it is finished; return its record.

    `tars` are numbers of usable images by name, `listed` is the number of pairs that img2dataset was given, if it states it.
    """
    record = stage.finished()
    if record is not None and record["identity"] == identity:
        return record
    workers = options.active_engine.workers
    images = sum(tars.values())
    parts = max(1, min(images, -(-images * workers * duplicates.KEY_BYTES // memory)))
    step = SelectStep(
        stage, settings, identity, tuple(map(int, tars)), parts, options.threads, tuple(functions.items())
    )
    job = _Selection(step, options)
    with hash_progress(sources, options.progress) as progress:
        unreadable = job.hash_sets(sources, progress)
    with Progress("select", 2 * images, options.progress) as progress:
        job.run([Task(f"hook-{i:03d}", ("scores", i, 0)) for i in range(len(settings.hooks))], progress)
        hooks = [(f"hook-{i:03d}", "uids.npy") for i in range(len(settings.hooks))]
        job.run([Task(name, ("filter", int(name), 0)) for name in tars], progress, reads=hooks)
        exact = [f"exact-{i:05d}" for i in range(parts)] if settings.groups else []
        keys = [(name, "keys.npy") for name in tars]
        job.run([Task(name, ("exact", i, parts)) for i, name in enumerate(exact)], progress, reads=keys)
        dropped = [(name, "dropped.npy") for name in exact]
        if settings.near_duplicates:
            dropped += [("hashes", "dropped.npy"), ("clusters", "dropped.npy")]
            job.find_near([(name, "hashes.npy") for name in exact], max(1, memory // workers), progress)
        made = [(name, ending) for name in tars for ending in ("codes.npy", "marks.npy")]
        outcomes = [Task(f"{name}-out", ("outcome", int(name), 0)) for name in tars]
        job.run(outcomes, progress, _Tar, reads=[*made, *dropped])
        return _finish(step, list(tars), listed, unreadable, options, progress)


@dataclasses.dataclass(frozen=True)
class _Selection:
    """The steps of the stage on an engine."""

    step: SelectStep
    options: RunOptions

    def find_near(self, exact: Sequence[tuple[str, str]], memory: int, progress: Progress) -> None:
        """Find near-duplicates among the hashes of items, with `memory` bytes for each worker."""
        step, ranked = self.step, [("hashes", "ranked.npy")]
        self.run([Task("hashes", ("hashes", 0, 0))], progress, _Hashes, reads=exact)
        hashes = int((step.stage.marker("hashes", _Hashes) or {"rows": 0})["rows"])
        if hashes > MAX_HASHES:
            raise MetaclipError(
                f"{hashes} images have different hashes, at most {MAX_HASHES} can be compared; divide the tars"
            )
        ranges = max(1, min(hashes, -(-hashes * PAIR_BYTES // memory)))
        names = [f"pairs-{i:05d}" for i in range((step.settings.distance + 1) * ranges)]
        tasks = [Task(name, ("pairs", i, ranges)) for i, name in enumerate(names)]
        self.run(tasks, progress, reads=ranked)
        found = [(name, "pairs.npy") for name in names]
        self.run([Task("clusters", ("clusters", len(names), 0))], progress, reads=[*ranked, *found])

    def hash_sets(self, sources: Sequence[HashSource], progress: Progress) -> int:
        """Write the hashes of evaluation sets, unless that is done; return the number of images that cannot be read."""
        if not sources:
            return 0
        stage, sets = self.step.stage, [source.digest for source in sources]
        marker = stage.marker("against", _Against)
        if marker is None or marker["sets"] != sets:
            table, broken = hash_sources(sources, self.options.threads, progress)
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

    def run(
        self,
        tasks: Sequence[Task[Item]],
        progress: Progress,
        kind: Any = _Made,
        reads: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Run the tasks whose results were not made, or not from these rows.

        `reads` are the files that they read, by item and ending. Raise MetaclipError if one has other bytes than were written.
        """
        stage, identity = self.step.stage, self.step.identity

        def is_made(task: Task[Item]) -> bool:
            marker = stage.marker(task.name, kind)
            return marker is not None and (marker["of"], marker["parts"]) == (identity, task.item[2])

        left = [task for task in tasks if not is_made(task)]
        for item, ending in reads if left else ():
            stage.partial(item, ending)
        for _ in run(stage, self.step, left, self.options, progress):
            pass


def _finish(
    step: SelectStep,
    tars: Sequence[str],
    listed: int | None,
    unreadable: int,
    options: RunOptions,
    progress: Progress,
) -> dict[str, Any]:
    """Write the subset and the record of the stage."""
    stage, names = step.stage, step.hook_names
    removing = [
        name
        for name in names
        if not any(name == h.name and h.action == BLUR for h in step.settings.hooks)
    ]
    markers = [stage.marker(f"{name}-out", _Tar) or {} for name in tars]
    funnel = add_funnels(marker["funnel"] for marker in markers)
    check_funnel(funnel, "samples", step.reasons, "kept")
    blurred = add_funnels(marker["blurred"] for marker in markers)
    stage.remove_strays("outcome", set(tars))
    with local_copies([stage.partial(f"{name}-out", "uids.npy") for name in tars]) as runs:
        write_subset(
            stage.folder / "subset.npy", merge_runs(runs, threads=options.threads), funnel["kept"]
        )
    if names:
        paths = [stage.partial(f"{name}-out", "blur.npy") for name in tars]
        with local_copies(paths) as runs:
            write_subset(
                stage.folder / "blur.npy",
                merge_runs(runs, threads=options.threads),
                sum(blurred.values()),
            )
    _note_idle_hooks(step, funnel, blurred, progress)
    if shared := _count_shared_uids(stage, tars):
        progress.note(
            f"metaclip: {shared:,} samples that are left out have the uid of one that stays. A subset names uids, so that "
            "curate takes them all, and reshard the first: give each sample a uid of its own, in its .json"
        )
    if listed is not None:
        funnel = {"listed": listed, "not_downloaded": listed - funnel["samples"], **funnel}
    steps = [
        {"step": name, "samples": funnel[name], "meaning": meaning}
        for name, meaning in _meanings(names).items()
        if funnel.get(name) or name in ("samples", "kept", *removing)
    ]
    steps += [
        {
            "step": f"{name}: blur",
            "samples": n,
            "meaning": f"of those that stay, to be blurred: marked by {name}",
        }
        for name, n in blurred.items()
        if n
    ]
    record = stage.finish(
        {
            "identity": step.identity,
            "funnel": funnel,
            "blurred": blurred,
            "unreadable_test_images": unreadable,
            "shared_uids": shared,
        },
        checked=("subset.npy",),
        funnel=funnel,
        steps=steps,
    )
    stage.remove_partials()
    return record


def _note_idle_hooks(
    step: SelectStep, funnel: Mapping[str, int], blurred: Mapping[str, int], progress: Progress
) -> None:
    """Report the hooks whose scores mark uids, but no image."""
    for number, hook in enumerate(step.settings.hooks):
        if funnel[hook.name] or blurred[hook.name]:
            continue
        with local_copy(step.stage.partial(f"hook-{number:03d}", "uids.npy")) as path:
            marked = len(load_array(path, 2, "r"))
        if marked:
            progress.note(
                f"metaclip: the hook {hook.name} marks {marked:,} uids, but none of an image that it was asked about; check "
                f"that its {hook.uid_column!r} holds the uids of images/"
            )


def _count_shared_uids(stage: Stage, tars: Sequence[str]) -> int:
    """Return the number of samples that are left out although their uid stays, with another sample."""
    shared = 0
    with local_copy(stage.folder / "subset.npy") as path:
        subset = Subset(path)
        for name in tars:
            with (
                local_copy(stage.folder / "outcome" / f"{name}.parquet") as rows,
                pq.ParquetFile(rows) as file,
            ):
                for batch in file.iter_batches(columns=["uid", "reason"], use_threads=False):
                    gone = batch.filter(pc.is_valid(batch.column("reason")))
                    shared += int(subset.contains(from_binary(gone.column("uid"))).sum())
    return shared


def _meanings(hooks: Sequence[str]) -> dict[str, str]:
    """Return all steps of the funnel with their meaning; hooks stand behind the filters."""
    found: dict[str, str] = {}
    for step, meaning in MEANING.items():
        found[step] = meaning
        if step == FILTERS[-1]:
            found |= {name: f"marked for removal by {name}" for name in hooks}
    return found
