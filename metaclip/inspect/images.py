"""The first stage of `metaclip inspect`: one row for each sample of a tar, in the tar's order.

    images/<tar>.parquet    uid        16 bytes, the uid by which reshard and curate know the sample
                            key        the sample's name in the tar
                            tar        the tar's name, below the folder of all tars
                            bytes      size of the encoded image
                            width, height, format     as the image's header has them; null if it was not read that far
                            sha256     32 bytes, of the encoded image
                            phash, dhash              the perceptual hashes (`metaclip.inspect.hashes`)
                            contrast   0 for an image of a single colour (`ImageHashes.contrast`)
                            text_hash  blake2b of the text, 8 bytes
                            broken     why training cannot use the sample; null if it can
                            why        the same in words, if an image was the reason
                            matches    the number of entries that the text matches; only if they are counted

Memory: a tar's index (90 bytes per sample), one sample, 256 thumbnails, and 65,536 rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.curate.inputs import check_unchanged
from metaclip.engine import PortableStep, ProgressCallback
from metaclip.errors import damaged
from metaclip.inspect.hashes import hash_images, make_thumbnail
from metaclip.inspect.settings import BROKEN
from metaclip.matching.matcher import Matcher
from metaclip.metadata import Metadata
from metaclip.pool import reading_parquet
from metaclip.pool.files import PoolFile, open_tar, translate_read_errors
from metaclip.pool.tar_format import ForwardReader, read_members
from metaclip.pool.tars import split_name
from metaclip.pool.uid import UID, to_binary
from metaclip.reshard.index import FLAWS, MAX_SAMPLE, TXT, Index, Names, open_index
from metaclip.stage.folder import STATE
from metaclip.stage.stage import Size, Stage, check_item_bytes
from metaclip.storage.files import as_path, atomic_write, local_copy, read_json
from metaclip.training.stream.decode import MAX_BYTES, Decoded, decode_image, parse_texts, too_many_bytes

SCHEMA: Final = pa.schema(
    [
        ("uid", UID), ("key", pa.string()), ("tar", pa.string()), ("bytes", pa.int64()), ("width", pa.int32()),
        ("height", pa.int32()), ("format", pa.string()), ("sha256", pa.binary(32)), ("phash", pa.uint64()),
        ("dhash", pa.uint64()), ("contrast", pa.uint8()), ("text_hash", pa.uint64()), ("broken", pa.string()),
        ("why", pa.string()),
    ]
)  # fmt: skip
_BATCH: Final = 256
_GROUP: Final = 1 << 16


_ABSENT: Final = Decoded()


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was found out about a sample."""

    key: str
    size: int = 0
    sha256: bytes | None = None
    text: str | None = None
    """Several texts are joined by characters that no text holds."""
    image: Decoded = _ABSENT
    flaw: str = ""

    @property
    def broken(self) -> str:
        """Why training cannot use it; "" if it can."""
        return self.flaw or self.image.reason


@dataclasses.dataclass(frozen=True)
class ImagesStep(PortableStep):
    """The step: looks at the images of a tar."""

    stage: Stage
    names: Names
    entries: Metadata | None = None
    """The query list, if matches are counted."""

    @functools.cached_property
    def matcher(self) -> Matcher | None:
        """The matcher, made once in each worker process."""
        return None if self.entries is None else Matcher(self.entries)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        return SCHEMA if self.entries is None else SCHEMA.append(pa.field("matches", pa.int64()))

    def __call__(
        self, item: tuple[str, PoolFile], progress: ProgressCallback
    ) -> tuple[dict[str, Any], list[Path]]:
        """Write the rows of a tar. Raise BrokenInput if it cannot be read, or changes meanwhile."""
        name, file = item
        path = self.stage.folder / "images" / f"{name}.parquet"
        index = open_index(file, self.names)
        funnel = dict.fromkeys(("samples", *BROKEN, "usable"), 0)
        with atomic_write(path) as temporary, _writer(temporary, self.schema) as writer:
            group: list[pa.RecordBatch] = []
            for first, seen in look(file, index):
                rows = _rows(index, first, seen, file.name)
                if self.matcher is not None:
                    rows = rows.append_column("matches", _count_matches(self.matcher, seen))
                group.append(rows)
                for one in seen:
                    funnel[one.broken or "usable"] += 1
                funnel["samples"] += len(seen)
                progress(len(seen), sum(not one.broken for one in seen))
                if len(group) * _BATCH >= _GROUP:
                    writer.write_table(pa.Table.from_batches(group, self.schema))
                    group = []
            writer.write_table(pa.Table.from_batches(group, self.schema))
        check_unchanged(file)
        known = {"name": file.name, "size": file.size, "stamp": file.stamp, "listed": _listed(file)}
        return {**known, "funnel": funnel}, [path]


class _Statistics(msgspec.Struct):
    """What img2dataset states of a tar, in the file beside it."""

    count: Size


def _listed(file: PoolFile) -> int | None:
    """Return the number of pairs that img2dataset was given for a tar; None if it does not say."""
    path = as_path(file.path)
    stated = read_json(path.parent / f"{path.name.partition('.')[0]}_stats.json", _Statistics)
    return None if stated is None else int(stated["count"])


def _writer(path: Path, schema: pa.Schema) -> Any:
    strings = ["tar", "format", "broken", "why"]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=strings)


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read columns of a file of images/ in batches. Raise MetaclipError if it is not what the stage wrote."""
    check_item_bytes(path, path.parent.parent / STATE / "inspect" / f"{path.stem}.json")
    with reading_parquet(path), local_copy(path) as local, pq.ParquetFile(local) as file:
        wanted = SCHEMA.append(pa.field("matches", pa.int64()))
        if any(file.schema_arrow.field(name).type != wanted.field(name).type for name in columns):
            raise damaged(path, "it has other columns")
        yield from file.iter_batches(_GROUP, columns=list(columns), use_threads=False)


def _count_matches(matcher: Matcher, seen: list[Seen]) -> pa.Array:
    """Return the number of entries that the text of each sample matches: int64[n]."""
    found = matcher.match(pa.array([one.text or "" for one in seen], pa.string()))
    return pa.array(np.diff(np.asarray(found.offsets)).astype(np.int64))


def look(file: PoolFile, index: Index) -> Iterator[tuple[int, list[Seen]]]:
    """Look at the samples of a tar; yield (index of the first, samples) in batches."""
    with translate_read_errors(file), open_tar(file) as stream:
        reader = ForwardReader(stream)
        for first in range(0, len(index), _BATCH):
            rows = slice(first, first + _BATCH)
            text = index.txt if index.text == TXT else index.json
            spans = (index.begin, index.end, index.image, text, index.flaw)
            each = zip(*(span[rows].tolist() for span in spans), strict=True)
            yield first, [_look_at(reader, index.text, *sample) for sample in each]


def _look_at(
    reader: ForwardReader,
    text_source: str,
    begin: int,
    end: int,
    image_span: tuple[int, int],
    text_span: tuple[int, int],
    flaw_number: int,
) -> Seen:
    """Look at the sample of a tar that takes the bytes from `begin` to `end`."""
    image, image_size = image_span
    flaw = FLAWS[flaw_number]
    if end - begin > MAX_SAMPLE or image_size > MAX_BYTES:
        key = _key(lambda at, size: reader.read(begin + at, size))
        return Seen(key, image_size, image=_ABSENT if flaw else too_many_bytes(image_size), flaw=flaw)
    data = reader.read(begin, end - begin)
    key = _key(lambda at, size: data[at : at + size])
    if not image:
        return Seen(key, flaw=flaw)
    content = data[image - begin : image - begin + image_size]
    text = None
    if not flaw:
        at = text_span[0] - begin
        texts, flaw = parse_texts(data[at : at + text_span[1]], text_source)
        text = None if flaw else "\0".join(texts)
    decoded = decode_image(content, convert=make_thumbnail)
    return Seen(key, image_size, hashlib.sha256(content).digest(), text, decoded, flaw)


def _key(read: Any) -> str:
    """Return the key of the sample whose bytes `read` reads, from 0 on."""
    member = next(read_members(read))
    split = split_name(member.name)
    return (member.name if split is None else split[0]).decode(errors="replace")


def hash_text(text: str) -> int:
    """Return the hash of a text: equal texts have equal ones."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest())


def _rows(index: Index, first: int, seen: list[Seen], tar: str) -> pa.RecordBatch:
    """Return the rows of consecutive samples."""
    thumbnails = [one.image.image for one in seen]
    known = np.array([thumbnail is not None for thumbnail in thumbnails])
    place = np.maximum(np.cumsum(known) - 1, 0)
    hashes = hash_images([thumbnail for thumbnail in thumbnails if thumbnail is not None])

    def spread(values: Any) -> pa.Array:
        return pa.array(values[place] if len(values) else np.zeros(len(seen), values.dtype), mask=~known)

    def column(values: Iterator[Any], name: str) -> pa.Array:
        return pa.array(list(values), SCHEMA.field(name).type)

    return pa.RecordBatch.from_arrays(
        [
            to_binary(index.uids[first : first + len(seen)]),
            column((one.key for one in seen), "key"),
            column((tar for _ in seen), "tar"),
            column((one.size for one in seen), "bytes"),
            column((one.image.width or None for one in seen), "width"),
            column((one.image.height or None for one in seen), "height"),
            column((one.image.form or None for one in seen), "format"),
            column((one.sha256 for one in seen), "sha256"),
            *map(spread, hashes),
            column((None if one.text is None else hash_text(one.text) for one in seen), "text_hash"),
            column((one.broken or None for one in seen), "broken"),
            column((one.image.detail or None for one in seen), "why"),
        ],
        schema=SCHEMA,
    )
