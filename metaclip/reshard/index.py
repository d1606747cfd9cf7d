"""The place of every sample in a tar: found by reading the tar once, kept in the user's cache.

An index has one row per sample, in the tar's order: its uid, the bytes that it takes, and the spans of image, text and
fields in them. The cache knows a tar by path, size and modification time, so a changed tar is read again. Samples that
cannot be used have a row too, with the reason.
Cost: 17 us of processor time per sample of 26 kB if all headers are found at once (`tar_headers`), 56 us if the tar must be
walked; 90 bytes per sample in the cache, 0.3 ms per tar to open it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.pool import jsonl, tars
from metaclip.pool.columns import CARRY_UID, MAX_ROW, TEXT_NAMES, UID_NAMES, Columns, find_columns
from metaclip.pool.files import PoolFile, translate_read_errors
from metaclip.pool.shards import read_schema
from metaclip.pool.tar_format import Member
from metaclip.pool.uid import Uids, uids_of
from metaclip.reshard.tar_headers import MemberWindow, find_headers, suffix_code
from metaclip.storage.files import atomic_write, cache_folder

IMAGES: Final = (b"jpg", b"jpeg", b"png", b"webp")
"""Suffixes of images, in small letters; if a sample has several, the first one is used."""

FLAWS: Final = ("", "malformed_json", "missing_image", "missing_text")
"""Why a sample cannot be used, in the order of the checks; an index holds the position in this tuple.

The first one stands for all samples that are malformed (`metaclip.pool.tars`), and for those of more than 256 MB.
"""

NO_UID: Final = f"{{}} have no uid in their .json, so md5(text + url) is used instead; if the pool had uids, {CARRY_UID}"
"""The warning about samples or tars without uids."""

TXT: Final = ".txt"
"""`Index.text` if the texts are members of their own; otherwise it names a field."""

_MALFORMED, _NO_IMAGE, _NO_TEXT = range(1, len(FLAWS))
_VERSION: Final = "3"
_HEAD: Final = 1 << 10  # samples from which the columns are inferred, as when walking
MAX_SAMPLE: Final = 1 << 28  # bytes of a sample, which is read as a whole
_SMALL: Final = 1 << 16  # bytes of a text of the head that is kept
_NULL: Final = msgspec.Raw(b"null")
_JSON_CODE: Final = suffix_code(b"json")
_TXT_CODE: Final = suffix_code(b"txt")
_ABSENT: Final = Member(b"", 0, 0, 0)

Spans = npt.NDArray[np.uint64]
"""uint64[n, 2]: begin and number of bytes, (0, 0) if there is none."""


@dataclasses.dataclass(frozen=True)
class Index:
    """The samples of a tar."""

    uids: Uids
    begin: npt.NDArray[np.uint64]
    end: npt.NDArray[np.uint64]
    image: Spans
    txt: Spans
    json: Spans
    flaw: npt.NDArray[np.uint8]
    """The position of each sample's flaw in FLAWS."""
    kind: npt.NDArray[np.uint8]
    """The position of the image's suffix in IMAGES."""
    text: str
    """TXT, or the name of the field of `.json` that holds the text."""
    has_uid: bool
    """Whether the tar has uids; otherwise they are md5 of text and url."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.begin)


_ARRAYS: Final = ("uids", "begin", "end", "image", "txt", "json", "flaw", "kind")


@dataclasses.dataclass(frozen=True)
class Names:
    """Names of columns, if they differ from the usual ones (`metaclip.pool.columns.find_columns`)."""

    text: str | None = None
    url: str | None = None
    uid: str | None = None


USUAL_NAMES: Final = Names()


def open_index(file: PoolFile, names: Names = USUAL_NAMES, folder: Path | None = None) -> Index:
    """Return the index of a tar from the cache (`folder`); otherwise make it and keep it there.

    Raise BrokenInput if the tar cannot be read.
    """
    key = "\0".join([_VERSION, file.path, str(file.size), file.stamp, repr(dataclasses.astuple(names))])
    path = (folder or cache_folder()) / "tars" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    # Failing to read or write the cache must never fail the run.
    with contextlib.suppress(OSError, pa.ArrowException, KeyError, ValueError):
        return _read(path)
    index = make_index(file, names)
    with contextlib.suppress(OSError):
        _write(path, index)
    return index


def _write(path: Path, index: Index) -> None:
    columns: dict[str, Any] = {}
    for name in _ARRAYS:
        array = np.ascontiguousarray(getattr(index, name))
        flat = pa.array(array.reshape(-1))
        columns[name] = (
            flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
        )
    table = pa.table(columns).replace_schema_metadata(
        {"text": index.text, "has_uid": "yes" if index.has_uid else ""}
    )
    with (
        atomic_write(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)


def _read(path: Path) -> Index:
    with pa.OSFile(str(path), "rb") as file:
        table = pa.ipc.open_file(file).read_all()

    def array(name: str) -> Any:
        column = table[name].combine_chunks()
        is_list = pa.types.is_fixed_size_list(column.type)
        return (
            column.flatten().to_numpy().reshape(-1, column.type.list_size)
            if is_list
            else column.to_numpy()
        )

    notes = table.schema.metadata
    return Index(
        **{name: array(name) for name in _ARRAYS},
        text=notes[b"text"].decode(),
        has_uid=bool(notes[b"has_uid"]),
    )


def make_index(file: PoolFile, names: Names = USUAL_NAMES) -> Index:
    """Index a tar. Raise BrokenInput if it cannot be read."""
    if "://" not in file.path and file.codec is None:
        with translate_read_errors(file), open(file.path, "rb") as tar:
            if (index := index_at_once(tar, file, names)) is not None:
                return index
    return index_by_walking(file, names)


def index_at_once(tar: io.BufferedReader, file: PoolFile, names: Names) -> Index | None:
    """Index a tar from all its headers at once; return None unless all samples have fields with a uid of 32 hex digits."""
    fields = _JsonFields(names.uid or UID_NAMES[0])
    headers = find_headers(tar, fields.read)
    if headers is None:
        return None
    image, kind = headers.spans(*IMAGES)
    (txt, _), (json, _) = headers.spans(b"txt"), headers.spans(b"json")
    if max(txt[:, 1].max(), json[:, 1].max()) > MAX_ROW:
        return None

    def content(begin: int, size: int) -> bytes:
        return fields.head.get(begin) or os.pread(tar.fileno(), size, begin)

    def head() -> Iterator[tars.Sample]:
        for t, j in zip(txt[:_HEAD].tolist(), json[:_HEAD].tolist(), strict=True):
            members = {
                name: Member(b"", 0, *span) for name, span in ((b"txt", t), (b"json", j)) if span[0]
            }
            contents = {name: content(member.data, member.size) for name, member in members.items()}
            yield tars.Sample(b"", members, contents)

    columns = _columns(tars.infer_schema(head(), 1), file, names)
    if columns.uid is None or columns.uid.startswith("json."):
        return None
    text = columns.text.removeprefix("json.") if columns.text not in ("", tars.TEXT) else None
    if (columns.uid, text) != (fields.uid, fields.text):  # names that differ from those of most tars
        fields = _JsonFields(columns.uid, text)
        tar.seek(0)
        if text == columns.uid or find_headers(tar, fields.read) is None:
            return None
    uids, no_text = np.concatenate(fields.uids), np.concatenate(fields.no_text)
    if len(uids) != len(headers.first):  # some sample has no fields
        return None
    if text is None:
        no_text = (txt[:, 0] == 0) & bool(columns.text)
    flaw = np.where(no_text, _NO_TEXT, 0)
    flaw[image[:, 0] == 0] = _NO_IMAGE
    begins = headers.begin[headers.first].astype(np.uint64)
    ends = np.append(begins[1:], np.uint64(headers.end))
    if int((ends - begins).max()) > MAX_SAMPLE:
        return None
    return Index(
        uids, begins, ends, image, txt, json,
        flaw.astype(np.uint8), kind.astype(np.uint8), _text_source(columns, txt), True,
    )  # fmt: skip


class _JsonFields:
    """The fields of `.json` members, parsed while their bytes are in memory: uids, and which samples have no text."""

    def __init__(self, uid: str, text: str | None = None) -> None:
        """Parse the field `uid`, and whether the field `text` is there, if texts are fields."""
        self.uid, self.text = uid, text
        self.head: dict[int, bytes] = {}
        """The contents of the first `.txt` and `.json` members, by place."""
        self.uids = [np.zeros((0, 2), np.uint64)]
        self.no_text = [np.zeros(0, np.bool_)]
        fields: list[Any] = [("uid", str, msgspec.field(name=uid))]
        if text is not None:
            fields.append(("text", msgspec.Raw, msgspec.field(name=text, default=_NULL)))  # of any type
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Fields", fields, gc=False)).decode

    def read(self, window: MemberWindow) -> bool:
        """Parse the fields of a window; return whether all have a uid of 32 hex digits."""
        wanted = np.flatnonzero(window.suffix == _JSON_CODE)
        if int(window.size[wanted].max(initial=0)) > MAX_ROW:
            return False
        contents = window.contents(wanted)
        if len(self.head) < 2 * _HEAD:
            self.head |= window.contents(
                np.flatnonzero((window.suffix == _TXT_CODE) & (window.size < _SMALL))
            )
            self.head |= contents
        texts, no_text = self._parse(list(contents.values()))
        uids = _from_hex(texts)
        if uids is None or len(uids) != len(contents):
            return False
        self.uids.append(uids)
        self.no_text.append(no_text)
        return True

    def _parse(self, contents: list[bytes]) -> tuple[list[str | None], npt.NDArray[np.bool_]]:
        """Return the uids, and which texts are missing; nothing if some fields are malformed."""
        if not jsonl.may_be_deep(contents):
            # What this parser refuses may still be accepted by the next one.
            with contextlib.suppress(ValueError):
                rows: list[Any] = [self._decode(content) for content in contents]
                no_text = [row.text == _NULL for row in rows] if self.text is not None else []
                return [row.uid for row in rows], np.array(no_text, np.bool_)
        names = [self.uid] if self.text is None else [self.uid, self.text]
        malformed: list[str] = []
        schema = pa.schema([(name, pa.string()) for name in names])
        table = jsonl.parse_block(
            b"".join(map(tars.to_line, contents)), schema, lambda _, place: malformed.append(place)
        )
        if malformed:
            return [], np.zeros(0, np.bool_)
        uids, *texts = (column.combine_chunks() for column in table.columns)
        missing = [text.is_null().to_numpy(zero_copy_only=False) for text in texts]
        return _strings(uids), np.concatenate([np.zeros(0, np.bool_), *missing])


def index_by_walking(file: PoolFile, names: Names) -> Index:
    """Index a tar header by header."""
    columns = _columns(read_schema(file), file, names)
    wanted = list(dict.fromkeys(name for name in (columns.text, columns.url, columns.uid) if name))
    spans: list[int] = []
    flaws = [np.zeros(0, np.uint8)]
    kinds: list[int] = []
    uids = [np.zeros((0, 2), np.uint64)]
    with translate_read_errors(file):
        for block in tars.read_blocks(file, wanted):
            flaw = np.full(len(block.samples), _MALFORMED, np.uint8)
            found = np.zeros((len(block.samples), 2), np.uint64)
            if block.good:
                texts = (
                    block.batch.column(columns.text)
                    if columns.text
                    else pa.nulls(len(block.good), pa.string())
                )
                urls, given = (
                    block.batch.column(name) if name else None for name in (columns.url, columns.uid)
                )
                found[block.good] = uids_of(
                    texts.cast(pa.binary()).fill_null(b"").view(pa.string()), urls, given
                )
                flaw[block.good] = np.where(texts.is_null(), _NO_TEXT, 0)
            for row, sample in enumerate(block.samples):
                members = sample.members
                if sample.end - sample.begin > MAX_SAMPLE:
                    flaw[row] = _MALFORMED
                suffix = next((suffix for suffix in members if suffix in IMAGES), None)
                kinds.append(0 if suffix is None else IMAGES.index(suffix))
                if suffix is None and flaw[row] != _MALFORMED:
                    flaw[row] = _NO_IMAGE
                image = _ABSENT if suffix is None else members[suffix]
                txt, json = members.get(b"txt", _ABSENT), members.get(b"json", _ABSENT)
                spans.extend(
                    (sample.begin, sample.end, image[2], image[3], txt[2], txt[3], json[2], json[3])
                )
            flaws.append(flaw)
            uids.append(found)
    places = np.array(spans, np.uint64).reshape(-1, 8)
    return Index(
        np.concatenate(uids), places[:, 0], places[:, 1], places[:, 2:4], places[:, 4:6], places[:, 6:8],
        np.concatenate(flaws), np.array(kinds, np.uint8), _text_source(columns, places[:, 4:6]), columns.uid is not None,
    )  # fmt: skip


def _text_source(columns: Columns, txt: Spans) -> str:
    """Return what the text is: TXT, or the name of a field."""
    return (
        TXT
        if columns.text == tars.TEXT and txt[:, 1].any()
        else (columns.text or TXT).removeprefix("json.")
    )


def _columns(schema: pa.Schema, file: PoolFile, names: Names) -> Columns:
    """Find the columns; a text may be a list of texts, and a tar with uids but without texts can still be resharded."""
    for place, field in enumerate(schema):
        if (
            field.name == names.text
            and pa.types.is_list(field.type)
            and pa.types.is_string(field.type.value_type)
        ):
            schema = schema.set(place, field.with_type(pa.string()))
    if names.text is None and not any(name.lower() in TEXT_NAMES for name in schema.names):
        schema = schema.append(pa.field(TEXT_NAMES[0], pa.string()))
        return dataclasses.replace(find_columns(schema, file.path, None, names.url, names.uid), text="")
    return find_columns(schema, file.path, names.text, names.url, names.uid)


def _strings(array: pa.Array) -> list[str | None]:
    """Return strings in which bytes that are not ASCII are some characters that are no digits."""
    return [None if one is None else one.decode("latin-1") for one in array.cast(pa.binary()).to_pylist()]


def _from_hex(texts: Sequence[Any]) -> Uids | None:
    """Parse strings of 32 hex digits; return None if one is something else."""
    if any(text is None or len(text) != 32 for text in texts):
        return None
    try:
        data = bytes.fromhex("".join(texts))
    except ValueError:
        return None
    return (
        np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)
        if len(data) == 16 * len(texts)
        else None
    )
