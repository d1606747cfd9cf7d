"""The steps of stage select on one item each: a tar, or a part of what is compared between tars (`metaclip.inspect.select`)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.engine import PortableStep, ProgressCallback
from metaclip.inspect import duplicates
from metaclip.inspect.evaluation_hashes import NearTestImages, read_hashes
from metaclip.inspect.filters import COLUMNS, filter_rows
from metaclip.inspect.hooks import BLUR, REMOVE, MarkFunction, call_function, write_marked
from metaclip.inspect.images import SCHEMA, read_rows
from metaclip.inspect.near import find_pairs
from metaclip.inspect.settings import CODES, DUPLICATES, NEAR_TEST_SET, REASONS, InspectSettings
from metaclip.pool.sorted_uids import UidSet, load_array, sorted_writer, write_rows, write_run
from metaclip.pool.uid import UID, from_binary, to_binary
from metaclip.stage.stage import Stage
from metaclip.storage.files import AnyPath, atomic_write, iter_local_copies, local_copies, local_copy

_OUTCOME: Final = pa.schema(
    [
        ("uid", UID), ("reason", pa.string()), ("duplicate_of", UID), ("test_image", pa.string()),
        ("test_distance", pa.uint8()), ("blur", pa.string()),
    ]
)  # fmt: skip
AGAINST: Final = "against.parquet"
"""The file of a folder with the hashes of evaluation sets."""
_FIRST_HOOK: Final = len(REASONS) + 1
"""The code of the first hook's reason."""
_Result = tuple[dict[str, Any], Sequence[Path]]
Item = tuple[str, int, int]
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
    functions: tuple[tuple[str, MarkFunction], ...] = ()
    """Hooks that are functions, by name."""

    @property
    def hook_names(self) -> list[str]:
        """The names of all hooks, in the order in which they are asked."""
        return [hook.name for hook in self.settings.hooks] + [name for name, _ in self.functions]

    @property
    def reasons(self) -> tuple[str, ...]:
        """All reasons, in the order of their codes."""
        return (*REASONS, *self.hook_names)

    @functools.cached_property
    def _marked(self) -> list[UidSet]:
        """The uids that each hook's scores mark, read once in each worker process."""
        paths = [self.path(f"hook-{number:03d}.uids.npy") for number in range(len(self.settings.hooks))]
        return [UidSet(load_array(path, 2)) for path in iter_local_copies(paths)]

    @functools.cached_property
    def test_images(self) -> pa.Table:
        """The hashes of evaluation sets, read once in each worker process."""
        return read_hashes(self.stage.folder / AGAINST)

    @functools.cached_property
    def near_test_images(self) -> NearTestImages:
        """The same, to be looked up."""
        return NearTestImages(self.test_images, self.settings.test_distance, self.settings.mirrored)

    def __call__(self, item: Item, progress: ProgressCallback) -> _Result:
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
        columns = SCHEMA.names if self.functions else columns
        marks: list[Any] = [np.zeros((0, 2), np.uint64)]
        for batch in read_rows(self.stage.folder / "images" / f"{tar:06d}.parquet", columns):
            found = filter_rows(batch, settings)
            blur = self._ask_hooks(batch, found)
            rows = np.flatnonzero(blur)
            marks.append(np.stack([first + rows, blur[rows] - 1], axis=1).astype(np.uint64))
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
        paths = [self.path(f"{tar:06d}.{ending}.npy") for ending in ("codes", "keys", "marks")]
        write_rows(paths[0], np.concatenate(codes))
        write_run(paths[1], np.concatenate(keys))
        write_rows(paths[2], np.concatenate(marks))
        return {}, paths

    def _ask_hooks(self, batch: pa.RecordBatch, codes: Any) -> Any:
        """Set the codes of rows that hooks remove; return the number of the first hook, from 1, that blurs each row."""
        blur = np.zeros(len(batch), np.int64)
        uids = from_binary(batch.column("uid"))
        for number, hook in enumerate(self.settings.hooks):
            marked = self._marked[number].contains(uids)
            if hook.action == BLUR:
                blur[marked & (blur == 0)] = number + 1
            else:
                codes[marked & (codes == 0)] = _FIRST_HOOK + number
        for number, (name, function) in enumerate(self.functions, len(self.settings.hooks)):
            said = np.array([mark or "" for mark in call_function(name, function, batch)])
            blur[(said == BLUR) & (blur == 0)] = number + 1
            codes[(said == REMOVE) & (codes == 0)] = _FIRST_HOOK + number
        return blur

    def _scores(self, number: int, parts: int, progress: ProgressCallback) -> _Result:
        """Write the uids that the scores of a hook mark."""
        path = self.path(f"hook-{number:03d}.uids.npy")
        write_marked(self.settings.hooks[number], path)
        return {}, [path]

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
        with local_copy(self.path(f"{tar:06d}.marks.npy")) as marks_path:
            marks = load_array(marks_path, 2).astype(np.int64)
        kept, blurred = [np.zeros((0, 2), np.uint64)], [np.zeros((0, 2), np.uint64)]
        codes_seen, blurs_seen, first = (
            np.zeros(len(self.reasons) + 1, np.int64),
            np.zeros(len(self.hook_names) + 1, np.int64),
            0,
        )
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
                begin, end = np.searchsorted(marks[:, 0], [first, first + len(batch)])
                blur = np.zeros(len(batch), np.int64)
                blur[marks[begin:end, 0] - first] = marks[begin:end, 1] + 1
                blur[codes != 0] = 0
                blurs_seen += np.bincount(blur, minlength=len(blurs_seen))
                uids = from_binary(batch.column("uid"))
                kept.append(uids[codes == 0])
                blurred.append(uids[blur != 0])
                writer.write_batch(self._outcome_rows(batch.column("uid"), codes, like, blur))
                first += len(batch)
        blurred_path = self.path(f"{tar:06d}-out.blur.npy")
        write_run(uids_path, np.concatenate(kept))
        write_run(blurred_path, np.concatenate(blurred))
        counts = dict(zip(("kept", *self.reasons), codes_seen.tolist(), strict=True))
        blurs = dict(zip(self.hook_names, blurs_seen[1:].tolist(), strict=True))
        files = [path, uids_path, blurred_path]
        return {"funnel": {"samples": first, **counts}, "blurred": blurs}, files

    def _outcome_rows(self, uids: pa.Array, codes: Any, like: Any, blur: Any) -> pa.RecordBatch:
        """Return the outcome of rows, given the uid of the image that stays or the evaluation image, and the hook that blurs."""
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
        reasons = pa.array([None, *self.reasons], pa.string()).take(pa.array(codes))
        hooks = pa.array([None, *self.hook_names], pa.string()).take(pa.array(blur))
        return pa.RecordBatch.from_arrays(
            [uids, reasons, others, names, distances, hooks], schema=_OUTCOME
        )

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
