"""Tars of image-text samples, as img2dataset, DataComp and webdataset write them, as a pool: Arrow batches of rows.

A row is a sample: members that follow each other and share a key, which is the name up to the first dot of its last
part (webdataset's rule). What comes after that dot, in small letters, is the suffix. A suffix that the sample has
already begins a new one. Members without a dot or a key, and those below ``__x__``, are none of a sample.

    __key__      the key
    text         the `.txt`, as it stands
    all others   the fields of the `.json`, an object

Which is the text: the `.txt`, for that is what trainers read. If any sample of the tar's head has one (the first 1,024
samples, or 16 MB of texts and fields), the column `text` is it, and fields that could be taken for it (text, caption,
alt) are called `json.text` and so on. If none has, the text is found among the fields as in any other pool. A sample
without the one that was settled on has no text; one whose `.json` is no JSON object is malformed. Images are passed
over, and members' names become values, never paths.

Columns and their types are those of all samples together where all columns are read (that takes a second pass), of the
head alone where a pool's columns are looked for. A value that is not of its column's type stands there as JSON text.
Memory: 16 MB of texts and fields.
Cost: 24 us a sample of three members for text, url and uid, 70 us for all columns, in the page cache on a busy machine
(where `tarfile` takes 155 us to find the members).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from metaclip.pool import jsonl
from metaclip.pool.delimited import Lose
from metaclip.pool.tar_format import Forward, Member, members

KEY: Final = "__key__"
TEXT: Final = "text"
_BLOCK_SAMPLES: Final = 1024
_BLOCK_BYTES: Final = 1 << 24
_LARGEST: Final = 1 << 26


class Sample(NamedTuple):
    """Members with one key; of two of them the content."""

    key: bytes
    members: dict[bytes, Member]
    """By suffix."""
    txt: bytes | None
    json: bytes | None

    @property
    def begin(self) -> int:
        """Where its first header begins."""
        return next(iter(self.members.values())).begin

    @property
    def end(self) -> int:
        """Where the bytes of its last member end, filled up to a whole block."""
        return next(reversed(self.members.values())).end


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some samples that follow each other, and the rows that they are."""

    samples: list[Sample]
    good: list[int]
    """Which samples are rows, ascending; the others are malformed."""
    batch: pa.RecordBatch
    malformed: list[tuple[int, str]]
    """The others, and why."""


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Split a member's name into key and suffix; None where it is none of a sample."""
    folder, slash, base = name.rpartition(b"/")
    stem, dot, suffix = base.partition(b".")
    if not stem or not dot:
        return None
    if not name.startswith(b"__"):
        return folder + slash + stem, suffix.lower()
    first = name.partition(b"/")[0]
    if len(first) >= 4 and first.endswith(b"__"):
        return None
    return folder + slash + stem, suffix.lower()


def samples(stream: Any) -> Iterator[Sample]:
    """Read the samples of a tar, with the content of `.txt` and `.json` (None over 64 MB). Raise ValueError as `members`."""
    forward = Forward(stream)
    key: bytes | None = None
    found: dict[bytes, Member] = {}
    texts: dict[bytes, bytes] = {}
    for member in members(forward):
        if (name := split_name(member.name)) is None:
            continue
        if name[0] != key or name[1] in found:
            if key is not None:
                yield Sample(key, found, texts.get(b"txt"), texts.get(b"json"))
            key, found, texts = name[0], {}, {}
        found[name[1]] = member
        if name[1] in (b"txt", b"json") and member.size <= _LARGEST:
            texts[name[1]] = forward.read(member.data, member.size)
    if key is not None:
        yield Sample(key, found, texts.get(b"txt"), texts.get(b"json"))


def schema(open_stream: Callable[[], Any], text_names: Sequence[str], rows: int | None = None) -> pa.Schema:
    """Find the columns, and their types in as many blocks of samples as hold `rows` rows (None: in all)."""
    with open_stream() as stream:
        return schema_of(samples(stream), text_names, rows)


def schema_of(found: Iterable[Sample], text_names: Sequence[str], rows: int | None = None) -> pa.Schema:
    """Do as `schema` with samples, which are read as far as that takes."""
    blocks = _blocks(found)
    head = next(blocks, [])
    by_txt = _by_txt(head)
    parts = ((0, b"".join(map(_line, block))) for block in itertools.chain([head], blocks))
    fields = list(jsonl.schema(parts, rows)) if head else []
    named = [field.with_name(_column_name(field.name, by_txt, text_names)) for field in fields]
    return pa.schema([*(pa.field(name, pa.string()) for name in _own(head, by_txt)), *named])


def rows(
    open_stream: Callable[[], Any], columns: Sequence[str] | None, text_names: Sequence[str], limit: int | None = None
) -> Iterator[Rows]:
    """Read the rows of a tar, block by block until `limit` is reached, as batches of `columns` (None: all)."""
    given = None if columns is None else pa.schema([(name, pa.string()) for name in columns])
    wanted = given if given is not None else schema(open_stream, text_names, limit)
    with open_stream() as stream:
        blocks = _blocks(samples(stream))
        head = next(blocks, [])
        by_txt = _by_txt(head)
        own = _own(head, by_txt)
        fields = pa.schema([f.with_name(_field_name(f.name, by_txt, text_names)) for f in wanted if f.name not in own])
        for block in itertools.chain([head] if head else [], blocks):
            malformed: list[tuple[int, str]] = []
            good, table = _table(block, 0, fields, malformed)
            found = (_one(column) for column in table.columns)
            arrays = [_contents(block, good, field.name) if field.name in own else next(found) for field in wanted]
            yield Rows(block, good, pa.RecordBatch.from_arrays(arrays, schema=wanted), malformed)
            if limit is not None and (limit := limit - len(good)) <= 0:
                return


def batches(
    open_stream: Callable[[], Any], columns: Sequence[str] | None, text_names: Sequence[str], lose: Lose,
    limit: int | None = None,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """Read the rows of a tar as a pool's batches; samples that are malformed, before the row `limit`, go to `lose`."""
    left = limit
    for part in rows(open_stream, columns, text_names, limit):
        last = part.good[left - 1] if left is not None and 0 < left <= len(part.good) else len(part.samples)
        for place, why in part.malformed:
            if place < last:
                lose("malformed_row", why)
        yield part.batch
        left = None if left is None else left - len(part.good)


def _by_txt(head: Sequence[Sample]) -> bool:
    """Tell whether texts stand in `.txt`. Raise ValueError for samples that have neither texts nor fields."""
    if head and not any(b"txt" in sample.members or b"json" in sample.members for sample in head):
        raise ValueError(
            f"none of its first {len(head)} samples has a .txt or a .json, the first has "
            + ", ".join(f".{suffix.decode(errors='replace')}" for suffix in head[0].members)
        )
    return any(b"txt" in sample.members for sample in head)


def _clashes(field: str, by_txt: bool, text_names: Sequence[str]) -> bool:
    return field == KEY or (by_txt and field.lower() in text_names)


def _column_name(field: str, by_txt: bool, text_names: Sequence[str]) -> str:
    return f"json.{field}" if _clashes(field, by_txt, text_names) else field


def _field_name(column: str, by_txt: bool, text_names: Sequence[str]) -> str:
    field = column.removeprefix("json.")
    return field if _clashes(field, by_txt, text_names) else column


def _blocks(found: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Gather samples that follow each other, about 16 MB at a time."""
    block: list[Sample] = []
    size = 0
    for sample in found:
        block.append(sample)
        size += len(sample.txt or b"") + len(sample.json or b"")
        if len(block) == _BLOCK_SAMPLES or size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _line(sample: Sample) -> bytes:
    """Give a sample's fields as a line; what is no JSON stays none."""
    return line_of(sample.json or b"") if b"json" in sample.members else b"{}\n"


def line_of(content: bytes) -> bytes:
    """Give the content of a `.json` as a line: between tokens a line break is a blank, and in a string it is no JSON."""
    return content.strip().translate(_IN_LINE) + b"\n"


_IN_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


def _table(
    block: list[Sample], first: int, fields: pa.Schema, malformed: list[tuple[int, str]]
) -> tuple[list[int], Any]:
    """Read the fields of samples, of which the first has number `first`: (numbers of those that are rows, table)."""
    why: list[str] = []
    # One column at least is read, so that what is no JSON is found whatever columns are wanted.
    table = jsonl.table(
        b"".join(map(_line, block)), 0, fields if len(fields) else pa.schema([("uid", pa.string())]),
        lambda _, place: why.append(place),
    )  # fmt: skip
    if len(table) == len(block):
        return list(range(first, first + len(block))), table
    if len(block) == 1:
        what = why[0].partition(": ")[2] if why else _why_no_line(block[0])
        malformed.append((first, f"sample {block[0].key.decode(errors='replace')}: its .json: {what}"))
        return [], table
    half = len(block) // 2
    ours, one = _table(block[:half], first, fields, malformed)
    more, other = _table(block[half:], first + half, fields, malformed)
    return ours + more, pa.concat_tables([one, other])


def _why_no_line(sample: Sample) -> str:
    return f"over {_LARGEST} bytes" if sample.json is None else "empty"


def _own(head: Sequence[Sample], by_txt: bool) -> tuple[str, ...]:
    """Name the columns that are no fields; a tar of which no download succeeded is a pool of no rows."""
    return (KEY, TEXT) if by_txt or not head else (KEY,)


def _contents(block: list[Sample], good: list[int], name: str) -> pa.Array:
    values = [block[i].key if name == KEY else block[i].txt for i in good]
    return pa.array(values, pa.binary()).view(pa.string())


def _one(array: Any) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
