"""Tars of image-text samples, as img2dataset, DataComp and webdataset write them, as Arrow batches of rows.

A row is a sample: consecutive members that share a key, which is the name up to the first dot of its last component
(webdataset's rule). The rest after that dot, in lower case, is the suffix. Members without a dot or a key, and those below
``__x__``, belong to no sample.

A key may come again, behind other samples or at once, if it begins with the same suffix: that is another sample. If it begins
with another suffix, it is a part of the earlier sample. Every reader of such tars would make several broken samples of one,
so the tar is refused. Between tars, keys mean nothing.

    __key__      the key
    text         the `.txt`, unchanged
    all others   the fields of the `.json`, an object

The text is the `.txt`, because trainers read it. If any sample in the head of the tar has one (the first 1,024 samples,
or 16 MB of texts and fields), it becomes the column `text`, and fields that could be taken for it (text, caption, alt)
are renamed to `json.text` and so on. If none has, the text is found among the fields as in any other pool. A sample that
lacks the text thus chosen has no text. A sample is malformed if its `.json` is not a JSON object, if its `.txt` or `.json` has
over 16 MB, or if a member is a link. Images are skipped, and the names of members become values, never paths.

If all columns are read, their names and types are those of all samples (which takes a second pass); to find the columns
of a pool, the head is enough. A value that does not fit its column's type is kept as JSON text.
Memory: 16 MB of texts and fields, and 150 bytes per sample of the tar for its key.
Cost: 24 us per sample of three members for text, url and uid, 70 us for all columns, in the page cache on a busy machine
(where `tarfile` takes 155 us to find the members).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from metaclip.pool import jsonl
from metaclip.pool.columns import KEY, MAX_ROW, TEXT_NAMES, DropRow
from metaclip.pool.files import PoolFile, open_tar
from metaclip.pool.tar_format import ForwardReader, Member, read_members

TEXTS: Final = (b"txt", b"json")
"""The suffixes of the members that rows are made of."""
TEXT: Final = TEXT_NAMES[0]
"""The column of the `.txt`."""
_BLOCK_SAMPLES: Final = 1024
_BLOCK_BYTES: Final = 1 << 24
_MOST_SAMPLES: Final = 1 << 21
_MOST_MEMBERS: Final = 1 << 10  # of a sample


class Sample(NamedTuple):
    """Consecutive members with one key, and the contents of those that are read."""

    key: bytes
    members: dict[bytes, Member]
    """By suffix."""
    contents: dict[bytes, bytes]
    """By suffix; without those of more than MAX_ROW bytes."""

    @property
    def begin(self) -> int:
        """The offset of its first header."""
        return next(iter(self.members.values())).begin

    @property
    def end(self) -> int:
        """The offset behind its last member, which is padded to a whole block."""
        return next(reversed(self.members.values())).end

    @property
    def flaw(self) -> str:
        """What is wrong with a member; "" if nothing is."""
        for suffix, member in self.members.items():
            name = suffix.decode(errors="replace")
            if member.is_link:
                return f"its .{name} is a link; make the tar with --dereference --hard-dereference"
            if suffix in TEXTS and member.size > MAX_ROW:
                return f"its .{name} has {member.size} bytes, at most {MAX_ROW} are read"
        return ""


@dataclasses.dataclass(frozen=True)
class SampleBlock:
    """Consecutive samples, and the rows made of them."""

    samples: list[Sample]
    good: list[int]
    """The indices of the samples that are rows, ascending."""
    batch: pa.RecordBatch
    malformed: list[tuple[int, str]]
    """The indices of the other samples, each with the reason."""


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Split a member's name into key and suffix; return None if it belongs to no sample."""
    folder, slash, base = name.rpartition(b"/")
    stem, dot, suffix = base.partition(b".")
    if not stem or not dot:
        return None
    if name.startswith(b"__"):
        first = name.partition(b"/")[0]
        if len(first) >= 4 and first.endswith(b"__"):
            return None
    return folder + slash + stem, suffix.lower()


def read_samples(stream: Any, wanted: Collection[bytes] = TEXTS) -> Iterator[Sample]:
    """Yield the samples of a tar, with the contents of the members that have a suffix in `wanted`.

    Raise ValueError as `read_members` does, and for a sample whose members are not adjacent.
    """
    reader = ForwardReader(stream)
    sample: Sample | None = None
    first_suffixes: dict[int, bytes] = {}  # by the hash of the key
    for member in read_members(reader.read):
        if (name := split_name(member.name)) is None:
            continue
        key, suffix = name
        if sample is None or key != sample.key or suffix in sample.members:
            if sample is not None:
                yield sample
            if first_suffixes.setdefault(hash(key), suffix) != suffix:
                raise ValueError(
                    f"the members of sample {key.decode(errors='replace')} are not adjacent, another one is at byte "
                    f"{member.begin}; make the tar with --sort=name"
                )
            sample = Sample(key, {}, {})
        sample.members[suffix] = member
        if suffix in wanted and member.size <= MAX_ROW:
            sample.contents[suffix] = reader.read(member.data, member.size)
        if len(first_suffixes) > _MOST_SAMPLES or len(sample.members) > _MOST_MEMBERS:
            raise ValueError(
                f"it has over {_MOST_SAMPLES} samples, or a sample has over {_MOST_MEMBERS} members; divide it"
            )
    if sample is not None:
        yield sample


def read_schema(file: PoolFile, rows: int | None = None) -> pa.Schema:
    """Infer the columns of a tar from the blocks of samples that hold the first `rows` rows (None: from all)."""
    with open_tar(file) as stream:
        return infer_schema(read_samples(stream), rows)


def infer_schema(samples: Iterable[Sample], rows: int | None = None) -> pa.Schema:
    """Infer the columns from the blocks of samples that hold the first `rows` rows (None: from all)."""
    blocks = _blocks(samples)
    head = next(blocks, [])
    has_txt = _has_txt(head)
    contents = (b"".join(map(_line, block)) for block in itertools.chain([head], blocks))
    fields = list(jsonl.infer_schema(contents, rows)) if head else []
    named = [field.with_name(column_name(field.name, has_txt)) for field in fields]
    return pa.schema([*(pa.field(name, pa.string()) for name in _own_columns(head, has_txt)), *named])


def read_blocks(
    file: PoolFile, columns: Sequence[str] | None, limit: int | None = None
) -> Iterator[SampleBlock]:
    """Read the rows of a tar block by block, with `columns` (None: all), until `limit` rows are read."""
    schema = (
        read_schema(file, limit)
        if columns is None
        else pa.schema([(name, pa.string()) for name in columns])
    )
    with open_tar(file) as stream:
        blocks = _blocks(read_samples(stream))
        head = next(blocks, [])
        has_txt = _has_txt(head)
        own = _own_columns(head, has_txt)
        fields = pa.schema(
            [f.with_name(_field_name(f.name, has_txt)) for f in schema if f.name not in own]
        )
        for block in itertools.chain([head] if head else [], blocks):
            malformed: list[tuple[int, str]] = []
            good, table = _parse_fields(block, 0, fields, malformed)
            parsed = (column.combine_chunks() for column in table.columns)
            arrays = [
                _contents(block, good, name) if name in own else next(parsed) for name in schema.names
            ]
            yield SampleBlock(block, good, pa.RecordBatch.from_arrays(arrays, schema=schema), malformed)
            if limit is not None and (limit := limit - len(good)) <= 0:
                return


def read_batches(
    file: PoolFile, columns: Sequence[str] | None, drop: DropRow, limit: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Read the rows of a tar in batches; call `drop` for malformed samples among the first `limit` rows."""
    left = limit
    for block in read_blocks(file, columns, limit):
        end = (
            block.good[left - 1]
            if left is not None and 0 < left <= len(block.good)
            else len(block.samples)
        )
        for index, why in block.malformed:
            if index < end:
                drop("malformed_row", why)
        yield block.batch
        left = None if left is None else left - len(block.good)


def _has_txt(head: Sequence[Sample]) -> bool:
    """Return whether texts are in `.txt`. Raise ValueError for samples that have neither texts nor fields."""
    if head and not any(b"txt" in sample.members or b"json" in sample.members for sample in head):
        raise ValueError(
            f"none of its first {len(head)} samples has a .txt or a .json, the first has "
            + ", ".join(f".{suffix.decode(errors='replace')}" for suffix in head[0].members)
        )
    return any(b"txt" in sample.members for sample in head)


def _clashes(field: str, has_txt: bool) -> bool:
    return field == KEY or (has_txt and field.lower() in TEXT_NAMES)


def column_name(field: str, has_txt: bool) -> str:
    """Return the name of the column of a `.json`'s field, where the text is in `.txt` or not."""
    return f"json.{field}" if _clashes(field, has_txt) else field


def _field_name(column: str, has_txt: bool) -> str:
    field = column.removeprefix("json.")
    return field if _clashes(field, has_txt) else column


def _blocks(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Group consecutive samples into blocks of about 16 MB of texts and fields."""
    block: list[Sample] = []
    size = 0
    for sample in samples:
        block.append(sample)
        size += sum(map(len, sample.contents.values()))
        if len(block) == _BLOCK_SAMPLES or size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _line(sample: Sample) -> bytes:
    """Return a sample's fields as a line; content that is not JSON stays so."""
    if sample.flaw:
        return b"\n"
    return to_line(sample.contents[b"json"]) if b"json" in sample.members else b"{}\n"


def to_line(content: bytes) -> bytes:
    """Return the content of a `.json` as one line: JSON allows line breaks only between tokens, where a space will do."""
    return content.strip().translate(_IN_LINE) + b"\n"


_IN_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


def _parse_fields(
    block: list[Sample], first: int, fields: pa.Schema, malformed: list[tuple[int, str]]
) -> tuple[list[int], pa.Table]:
    """Parse the fields of samples, the first of which has the index `first`: (indices of those that are rows, table).

    Append the others to `malformed`.
    """
    why: list[str] = []
    # At least one column is read, so that invalid JSON is found whichever columns are wanted.
    schema = fields if len(fields) else pa.schema([("uid", pa.string())])
    table = jsonl.parse_block(b"".join(map(_line, block)), schema, lambda _, place: why.append(place))
    if len(table) == len(block):
        return list(range(first, first + len(block))), table
    if len(block) == 1:
        what = block[0].flaw or "its .json: " + (why[0].partition(": ")[2] if why else "empty")
        malformed.append((first, f"sample {block[0].key.decode(errors='replace')}: {what}"))
        return [], table
    half = len(block) // 2
    good, table = _parse_fields(block[:half], first, fields, malformed)
    more, other = _parse_fields(block[half:], first + half, fields, malformed)
    return good + more, pa.concat_tables([table, other])


def _own_columns(head: Sequence[Sample], has_txt: bool) -> tuple[str, ...]:
    """Return the names of the columns that are not fields; an empty tar (no download succeeded) is a pool of no rows."""
    return (KEY, TEXT) if has_txt or not head else (KEY,)


def _contents(block: list[Sample], good: list[int], name: str) -> pa.Array:
    values = [block[i].key if name == KEY else block[i].contents.get(b"txt") for i in good]
    return pa.array(values, pa.binary()).view(pa.string())
