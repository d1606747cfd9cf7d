"""Hashes of the images of evaluation sets, and which images of a pool are near one of them.

A file of hashes is parquet, one row for each image: set, image, phash, dhash, mirrored_phash, mirrored_dhash. It can be
shared where the images cannot, and stands wherever a set can.

An image is near another if their two hashes together differ in at most `test_distance` of 128 bits: the sum, not each by
itself, because images of 32 x 32 pixels lose much in compression, now in the one hash, now in the other. (Recall of copies
of CIFAR-10's test images and false positives for some distances: curation/README.md.) Pairs are found
exactly, by multi-index hashing over blocks of both hashes: of m blocks of two images that differ in r = m a + b bits, one
of the first b + 1 differs in at most a bits, or another in at most a - 1 (Norouzi, Punjani and Fleet, "Fast exact search in
Hamming space with multi-index hashing", 2014, proposition 2).

Cost, for each image of the pool: 12 us against 10,000 evaluation images, within 17 bits.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.engine import Progress
from metaclip.errors import MetaclipError, one_line
from metaclip.inspect.hashes import BITS, Hashes, hash_images, make_thumbnail
from metaclip.stage.stage import digest_of
from metaclip.storage.files import as_path, atomic_write, file_digest, local_copy
from metaclip.storage.threads import map_parallel
from metaclip.training.evaluation.evaluation_set import EvaluationSet, ImageFile
from metaclip.training.evaluation.sets import open_set
from metaclip.training.stream.decode import decode_image

_HASHES: Final = ("phash", "dhash", "mirrored_phash", "mirrored_dhash")
SCHEMA: Final = pa.schema(
    [("set", pa.string()), ("image", pa.string()), *((name, pa.uint64()) for name in _HASHES)]
)
_KEY: Final = b"metaclip.hashes"
_VERSION: Final = b"1"
"""Of the hashes, in the metadata of a file; a file that other libraries wrote has none. Raise it with a change of a hash."""
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")
_BATCH: Final = 256
_MANY: Final = 1 << 17
_AT_ONCE: Final = 1 << 14  # images of a pool


@dataclasses.dataclass(frozen=True)
class HashSource:
    """A set whose images are hashed, or a file of hashes."""

    path: Path
    digest: str
    images: EvaluationSet | None


def open_source(path: str | os.PathLike[str], split: str) -> HashSource:
    """Open a set, or a file of hashes. Raise MetaclipError if it is neither."""
    where = as_path(path)
    if where.is_file() and where.suffix == ".parquet":
        read_hashes(where)
        with where.open("rb") as file:
            return HashSource(where, file_digest(file), None)
    found = open_set(where, split)
    return HashSource(where, digest_of([found.digest, split]), found)


def hash_progress(sources: Sequence[HashSource], shown: bool | None = None) -> Progress:
    """Return a progress bar for `hash_sources`; there is none without images to hash."""
    images = sum(len(source.images.images) for source in sources if source.images is not None)
    return Progress("hash", images, shown if images else False, "images")


def hash_sources(
    sources: Sequence[HashSource], threads: int, progress: Progress
) -> tuple[pa.Table, list[str]]:
    """Return the hashes of all sources, in their order, and the images that cannot be read."""
    tables, broken = [SCHEMA.empty_table()], list[str]()
    for source in sources:
        if source.images is None:
            tables.append(read_hashes(source.path))
            continue
        images, known = source.images.images, len(tables)
        batches = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
        hash_batch = functools.partial(_hash_batch, source=source.path)
        for table, failed in map_parallel(hash_batch, batches, threads):
            tables.append(table)
            broken += failed
            progress.advance(len(table) + len(failed), 0)
        if not any(map(len, tables[known:])):
            raise MetaclipError(f"no image of {source.path} can be read: {broken[-1]}")
    return pa.concat_tables(tables), broken


def _hash_batch(images: Sequence[ImageFile], source: Path) -> tuple[pa.Table, list[str]]:
    from PIL import ImageOps

    thumbnails, names, broken = [], [], []
    for image in images:
        try:
            decoded = decode_image(image.read(), convert=make_thumbnail, formats=_FORMATS)
            reason = decoded.detail
        except (OSError, KeyError, ValueError, MetaclipError) as error:
            decoded, reason = None, one_line(error)
        if decoded is None or decoded.image is None:
            broken.append(f"{image}: {reason}")
            continue
        thumbnails.append(decoded.image)
        names.append(image.member or _relative(image.path, source))
    straight = hash_images(thumbnails)
    mirrored = hash_images([ImageOps.mirror(one) for one in thumbnails])
    columns = [straight.phash, straight.dhash, mirrored.phash, mirrored.dhash]
    sets = pa.array([source.name] * len(names), pa.string())
    return pa.table([sets, pa.array(names, pa.string()), *columns], schema=SCHEMA), broken


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def read_hashes(path: Path) -> pa.Table:
    """Read a file of hashes. Raise MetaclipError if it is none."""
    try:
        with local_copy(path) as local:
            table = pq.read_table(local)
    except (OSError, pa.ArrowException) as error:
        raise MetaclipError(
            f"{path} is no file of hashes ({one_line(error, 160)}); make it with `hashes_only=True`"
        ) from None
    made = (table.schema.metadata or {}).get(_KEY, _VERSION)
    try:
        # Other libraries write strings in other types, and the columns in other orders.
        table = table.select(SCHEMA.names).replace_schema_metadata(None).cast(SCHEMA)
    except (KeyError, pa.ArrowException):
        table = None
    if table is None or any(column.null_count for column in table.columns):
        wanted = ", ".join(f"{field.name} ({field.type})" for field in SCHEMA)
        raise MetaclipError(
            f"{path} is no file of hashes: its columns must be {wanted}, without nulls; make it with `hashes_only=True`"
        )
    if not len(table):
        raise MetaclipError(f"{path} holds no hashes; make it with `hashes_only=True`")
    if made != _VERSION:
        raise MetaclipError(
            f"{path} holds hashes of version {made.decode(errors='replace')!r:.40}, which cannot be compared with those of this "
            f"version of metaclip ({_VERSION.decode()}); make it anew with `hashes_only=True`"
        )
    return table


def write_hashes(path: Path, table: pa.Table) -> None:
    """Write a file of hashes."""
    with atomic_write(path) as temporary:
        known = table.replace_schema_metadata({_KEY: _VERSION})
        pq.write_table(known, temporary, compression="zstd", use_dictionary=["set"])


def hash_sets(
    sets: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    split: str = "test",
    threads: int = 1,
) -> tuple[int, list[str]]:
    """Write the hashes of evaluation sets to a .parquet; return their number, and the images that cannot be read."""
    if as_path(out).suffix != ".parquet":
        raise MetaclipError(
            f"{out} must have a name that ends in .parquet, by which `InspectSettings(against=...)` knows it"
        )
    sources = [open_source(path, split) for path in sets]
    with hash_progress(sources) as progress:
        table, broken = hash_sources(sources, threads, progress)
    write_hashes(as_path(out), table)
    return len(table), broken


# --- looking up


class NearTestImages:
    """The images of evaluation sets, by their hashes."""

    def __init__(self, table: pa.Table, distance: int, mirrored: bool) -> None:
        """Index hashes (`SCHEMA`) for a distance of at most `distance` bits of 128; `mirrored` ones too, if asked for."""
        self._distance, self._images = distance, len(table)
        columns = [_HASHES[:2], *([_HASHES[2:]] if mirrored else [])]
        self._hashes = np.concatenate(
            [np.stack([table[name].to_numpy() for name in names], axis=1) for names in columns]
        )
        self._blocks = [
            (column, low, bits, radius, *_table(self._hashes[:, column], low, bits))
            for (column, low, bits), radius in _radii(
                _cut(8 if len(self._hashes) < _MANY else 6), distance
            )
        ]

    def nearest(
        self, hashes: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return for each of uint64[n, 2] the nearest image, a row of the table, and the distance: int64[n] each.

        Of several at one distance the first is taken; -1 if none is near.
        """
        none = np.iinfo(np.int64).max
        best = np.full(len(hashes), none, np.int64)
        for begin in range(0, len(hashes) if self._images else 0, _AT_ONCE):
            some = hashes[begin : begin + _AT_ONCE]
            for rows, images in self._candidates(some):
                differ = some[rows] ^ self._hashes[images]
                bits = np.bitwise_count(differ).sum(axis=1, dtype=np.int64)
                near = bits <= self._distance
                score = bits[near] << 32 | (images[near] % self._images)
                np.minimum.at(best, begin + rows[near], score)
        found = best != none
        return np.where(found, best & 0xFFFFFFFF, -1), np.where(found, best >> 32, -1)

    def _candidates(
        self, hashes: npt.NDArray[np.uint64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield (rows of `hashes`, images) that have a block nearly in common."""
        for column, low, bits, radius, order, starts in self._blocks:
            values = _block(hashes[:, column], low, bits)
            for mask in _masks(bits, radius):
                wanted = values ^ mask
                first, counts = starts[wanted], starts[wanted + 1] - starts[wanted]
                rows = np.flatnonzero(counts)
                if not len(rows):
                    continue
                counts = counts[rows]
                ends = np.cumsum(counts)
                places = np.arange(ends[-1]) - np.repeat(ends - counts - first[rows], counts)
                yield np.repeat(rows, counts), order[places]


def _cut(blocks: int) -> list[tuple[int, int, int]]:
    """Cut both hashes into so many blocks: (column, lowest bit, number of bits)."""
    half = blocks // 2
    cuts = list(itertools.pairwise([BITS * i // half for i in range(half + 1)]))
    return [(column, low, high - low) for column in range(2) for low, high in cuts]


def _radii(
    blocks: Sequence[tuple[int, int, int]], distance: int
) -> Iterator[tuple[tuple[int, int, int], int]]:
    """Yield the blocks with the bits in which they may differ; those that need not be looked at are left out."""
    all_of, more = divmod(distance, len(blocks))
    for number, block in enumerate(blocks):
        radius = all_of if number <= more else all_of - 1
        if radius >= 0:
            yield block, radius


@functools.lru_cache(maxsize=64)
def _masks(bits: int, radius: int) -> tuple[int, ...]:
    """Return all numbers of so many bits of which at most `radius` are set."""
    places = [1 << bit for bit in range(bits)]
    return tuple(sum(some) for n in range(radius + 1) for some in itertools.combinations(places, n))


def _block(hashes: Hashes, low: int, bits: int) -> npt.NDArray[np.int64]:
    return ((hashes >> np.uint64(low)) & np.uint64((1 << bits) - 1)).astype(np.int64)


def _table(hashes: Hashes, low: int, bits: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows of hashes sorted by a block, and where each value of the block begins."""
    values = _block(hashes, low, bits)
    starts: Any = np.zeros((1 << bits) + 1, np.int64)
    np.cumsum(np.bincount(values, minlength=1 << bits), out=starts[1:])
    return np.argsort(values, kind="stable"), starts
