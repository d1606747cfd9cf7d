"""Where the samples of a tar stand: made by one look through it, kept in the user's cache.

An index has a row a sample, in the tar's order: uid, the bytes that the sample takes, and where in them image, text
and fields are. It is known by the tar's path, size and time of change, so a tar that was written anew is walked anew.
A sample that cannot be used is in it too, with the reason.
Cost: 17 us of processor a sample of 26 kB to make, many headers at once (`plain`), or 56 where they must be walked;
90 bytes a sample to keep, 0.3 ms a tar to open.
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
from metaclip.pool.columns import TEXT_NAMES, UID_NAMES, Columns, find_columns
from metaclip.pool.files import PoolFile, translate_read_errors
from metaclip.pool.shards import read_schema
from metaclip.pool.tar_format import Member
from metaclip.pool.uid import Uids, uids_of
from metaclip.reshard.headers import Stretch, tail_of
from metaclip.reshard.headers import find as find_plain
from metaclip.storage.files import atomic_write, cache_folder

IMAGES: Final = (b"jpg", b"jpeg", b"png", b"webp")
"""Suffixes of images, in small letters; of several in one sample the first is taken."""

FINE: Final = 0
FLAWS: Final = ("", "malformed_json", "missing_image", "missing_text")
"""Why a sample cannot be used, in the order in which it is asked; the number of each stands in the index."""

TXT: Final = ".txt"
"""What an index says of texts that are members of their own; else it names a field."""

_NONE: Final = Member(b"", 0, 0, 0)
_VERSION: Final = "1"
_HEAD: Final = 1 << 10  # samples by which the columns are found, as the walk finds them
_SMALL: Final = 1 << 16  # bytes of a text that is kept
_NULL: Final = msgspec.Raw(b"null")
_JSON_TAIL: Final = tail_of(b"json")
_TXT_TAIL: Final = tail_of(b"txt")
_LARGEST: Final = 1 << 26  # bytes of fields or of a text that are read
_SPANS: Final = ("image", "txt", "json")
_NUMBERS: Final = ("high", "low", "begin", "end", *(f"{name}_{what}" for name in _SPANS for what in ("at", "size")))

Numbers = npt.NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class Index:
    """The samples of a tar. Spans are uint64[n, 2]: where, and how many bytes; (0, 0) where there is none."""

    uids: Uids
    begin: Numbers
    end: Numbers
    image: Numbers
    txt: Numbers
    json: Numbers
    flaw: npt.NDArray[np.uint8]
    kind: npt.NDArray[np.uint8]
    """Which of IMAGES the image's suffix is."""
    text: str
    """What the text is: TXT, or the name of a field of `.json`."""
    has_uid: bool
    """Whether uids were given upstream; else they are md5 of text and url."""

    def __len__(self) -> int:
        """Give the number of samples."""
        return len(self.begin)


@dataclasses.dataclass(frozen=True)
class Names:
    """How columns are called, where not as everywhere (`metaclip.pool.columns.find_columns`)."""

    text: str | None = None
    url: str | None = None
    uid: str | None = None


def open_index(file: PoolFile, names: Names | None = None, folder: Path | None = None) -> Index:
    """Open the index of a tar from the cache (`folder`), or make it and keep it there.

    Raise BrokenInput for a tar that cannot be read.
    """
    names = names or Names()
    key = "\0".join([_VERSION, file.path, str(file.size), file.stamp, repr(dataclasses.astuple(names))])
    path = (folder or cache_folder()) / "tars" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    # A cache that is damaged, or cannot be read or written, costs time, not the result.
    with contextlib.suppress(OSError, pa.ArrowException, KeyError, ValueError):
        return _read(path)
    made = make_index(file, names)
    with contextlib.suppress(OSError):
        _write(path, made)
    return made


def make_index(file: PoolFile, names: Names | None = None) -> Index:
    """Look a tar through. Raise BrokenInput for one that cannot be read."""
    names = names or Names()
    with contextlib.ExitStack() as stack:
        if "://" in file.path or file.codec is not None:
            return walked(file, names)
        stack.enter_context(translate_read_errors(file))
        found = at_once(stack.enter_context(open(file.path, "rb", buffering=0)), file, names)
    return found or walked(file, names)


def at_once(tar: io.FileIO, file: PoolFile, names: Names) -> Index | None:
    """Make the index of a plain tar, all samples of which have fields with a uid of 32 hex digits; None for another."""
    fields = _Fields(names.uid or UID_NAMES[0])
    plain = find_plain(tar, fields.read)
    if plain is None:
        return None
    image, kind = plain.spans(*IMAGES)
    (txt, _), (json, _) = plain.spans(b"txt"), plain.spans(b"json")
    if max(txt[:, 1].max(), json[:, 1].max()) > _LARGEST:
        return None

    def content(place: int, size: int) -> bytes:
        return fields.head.get(place) or os.pread(tar.fileno(), size, place)

    def head() -> Iterator[tars.Sample]:
        for t, j in zip(txt[:_HEAD].tolist(), json[:_HEAD].tolist(), strict=True):
            members = {name: Member(b"", 0, *at) for name, at in ((b"txt", t), (b"json", j)) if at[0]}
            yield tars.Sample(b"", members, content(*t) if t[0] else None, content(*j))

    columns = _columns(tars.infer_schema(head(), 1), file, names)
    if columns.uid is None or columns.uid.startswith("json."):
        return None
    text = columns.text.removeprefix("json.") if columns.text not in ("", tars.TEXT) else None
    if (columns.uid, text) != (fields.uid, fields.text):  # other names than most tars have
        fields = _Fields(columns.uid, text)
        tar.seek(0)
        if text == columns.uid or find_plain(tar, fields.read) is None:
            return None
    uids, textless = fields.found()
    if len(uids) != len(plain.first):  # some sample has no fields
        return None
    if text is None:
        textless = (txt[:, 0] == 0) & bool(columns.text)
    flaw = np.where(textless, FLAWS.index("missing_text"), FINE)
    flaw[image[:, 0] == 0] = FLAWS.index("missing_image")
    begins = plain.head[plain.first].astype(np.uint64)
    return Index(
        uids, begins, np.append(begins[1:], np.uint64(plain.end)), image, txt, json,
        flaw.astype(np.uint8), kind.astype(np.uint8), _text_of(columns, txt), True,
    )  # fmt: skip


class _Fields:
    """What the `.json` of a plain tar say, read while their bytes are at hand: uids, and which samples have no text."""

    def __init__(self, uid: str, text: str | None = None) -> None:
        """Read the field `uid`; and look whether the field `text` is there, where texts are fields."""
        self.uid, self.text = uid, text
        self.head: dict[int, bytes] = {}
        """The contents of the first `.txt` and `.json`, by place."""
        fields: list[Any] = [("uid", str, msgspec.field(name=uid))]
        if text is not None:
            fields.append(("text", msgspec.Raw, msgspec.field(name=text, default=_NULL)))  # of whatever kind
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Fields", fields, gc=False)).decode
        self._uids = [np.zeros((0, 2), np.uint64)]
        self._textless = [np.zeros(0, np.bool_)]

    def found(self) -> tuple[Uids, npt.NDArray[np.bool_]]:
        """Give the uids of all samples that have fields; where texts are fields, whether there is none."""
        return np.concatenate(self._uids), np.concatenate(self._textless)

    def read(self, stretch: Stretch) -> bool:
        """Read a stretch; tell whether all its fields could be."""
        wanted = np.flatnonzero(stretch.tail == _JSON_TAIL)
        if int(stretch.size[wanted].max(initial=0)) > _LARGEST:
            return False
        contents = stretch.contents(wanted)
        if len(self.head) < 2 * _HEAD:
            self.head |= stretch.contents(np.flatnonzero((stretch.tail == _TXT_TAIL) & (stretch.size < _SMALL)))
            self.head |= contents
        uids, textless = self._rows(list(contents.values()))
        whole = _from_hex(uids)
        if whole is None or len(whole) != len(contents):
            return False
        self._uids.append(whole)
        self._textless.append(textless)
        return True

    def _rows(self, contents: list[bytes]) -> tuple[list[str | None], npt.NDArray[np.bool_]]:
        """Give uids, and where there is no text: of none where some fields are malformed."""
        if not jsonl.may_be_deep(contents):
            # What is refused here may still be a row.
            with contextlib.suppress(ValueError):
                rows: list[Any] = [self._decode(content) for content in contents]
                textless = [row.text == _NULL for row in rows] if self.text is not None else []
                return [row.uid for row in rows], np.array(textless, np.bool_)
        names = [self.uid] if self.text is None else [self.uid, self.text]
        malformed: list[str] = []
        schema = pa.schema([(name, pa.string()) for name in names])
        table = jsonl.parse_block(
            b"".join(map(tars.to_line, contents)), schema, lambda _, place: malformed.append(place)
        )
        if malformed:
            return [], np.zeros(0, np.bool_)
        uids, *texts = (column.combine_chunks() for column in table.columns)
        none = [text.is_null().to_numpy(zero_copy_only=False) for text in texts]
        return _strings(uids), np.concatenate([np.zeros(0, np.bool_), *none])


def _text_of(columns: Columns, txt: Numbers) -> str:
    """Tell what the text is: the `.txt`, or the name of a field."""
    return TXT if columns.text == tars.TEXT and txt[:, 1].any() else (columns.text or TXT).removeprefix("json.")


def walked(file: PoolFile, names: Names) -> Index:
    """Walk a tar header by header."""
    columns = _columns(read_schema(file), file, names)
    wanted = list(dict.fromkeys(name for name in (columns.text, columns.url, columns.uid) if name))
    spans: list[int] = []
    broken, imageless = FLAWS.index("malformed_json"), FLAWS.index("missing_image")
    flaws: list[int] = []
    kinds: list[int] = []
    uids = [np.zeros((0, 2), np.uint64)]
    with translate_read_errors(file):
        for part in tars.read_blocks(file, wanted):
            flaw = np.full(len(part.samples), broken, np.uint8)
            found = np.zeros((len(part.samples), 2), np.uint64)
            if part.good:
                texts = part.batch.column(columns.text) if columns.text else pa.nulls(len(part.good), pa.string())
                urls, given = (part.batch.column(name) if name else None for name in (columns.url, columns.uid))
                whole = None if given is None else _from_hex(_strings(given))
                if whole is None:
                    whole = uids_of(texts.cast(pa.binary()).fill_null(b"").view(pa.string()), urls, given)
                found[part.good] = whole
                flaw[part.good] = np.where(texts.is_null(), FLAWS.index("missing_text"), FINE)
            for place, sample in enumerate(part.samples):
                members = sample.members
                suffix = next((suffix for suffix in members if suffix in IMAGES), None)
                image = _NONE if suffix is None else members[suffix]
                kinds.append(0 if suffix is None else IMAGES.index(suffix))
                if suffix is None and flaw[place] != broken:
                    flaw[place] = imageless
                txt, json = members.get(b"txt", _NONE), members.get(b"json", _NONE)
                spans.extend((sample.begin, sample.end, image[2], image[3], txt[2], txt[3], json[2], json[3]))
            flaws.extend(flaw.tolist())
            uids.append(found)
    numbers = np.array(spans, np.uint64).reshape(-1, 8)
    return Index(
        np.concatenate(uids), numbers[:, 0], numbers[:, 1], numbers[:, 2:4], numbers[:, 4:6], numbers[:, 6:8],
        np.array(flaws, np.uint8), np.array(kinds, np.uint8), _text_of(columns, numbers[:, 4:6]), columns.uid is not None,
    )  # fmt: skip


def _columns(schema: pa.Schema, file: PoolFile, names: Names) -> Columns:
    """Find the columns; a list of texts is one too, and a tar with uids and without texts may still be resharded."""
    for place, field in enumerate(schema):
        if field.name == names.text and pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            schema = schema.set(place, field.with_type(pa.string()))
    if names.text is None and not any(name.lower() in TEXT_NAMES for name in schema.names):
        schema = schema.append(pa.field(TEXT_NAMES[0], pa.string()))
        found = find_columns(schema, file.path, None, names.url, names.uid)
        return dataclasses.replace(found, text="")
    return find_columns(schema, file.path, names.text, names.url, names.uid)


def _strings(array: pa.Array) -> list[str | None]:
    """Give strings, in which bytes that are not ASCII are some characters that are no digits."""
    return [None if one is None else one.decode("latin-1") for one in array.cast(pa.binary()).to_pylist()]


def _from_hex(given: Sequence[str | None]) -> Uids | None:
    """Read strings of 32 hex digits, without the kernel that a process would have to compile; None where one is none."""
    texts = [text for text in given if text is not None and len(text) == 32]
    if len(texts) != len(given):
        return None
    try:
        data = bytes.fromhex("".join(texts))
    except ValueError:
        return None
    return np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64) if len(data) == 16 * len(given) else None


def _write(path: Path, index: Index) -> None:
    spans = [getattr(index, name) for name in _SPANS]
    arrays = [index.uids[:, 0], index.uids[:, 1], index.begin, index.end]
    arrays += [span[:, half] for span in spans for half in (0, 1)]
    notes = {"text": index.text, "has_uid": "yes" if index.has_uid else ""}
    named: dict[str, Any] = dict(zip(_NUMBERS, (pa.array(np.ascontiguousarray(one)) for one in arrays), strict=True))
    table = pa.table({**named, "flaw": pa.array(index.flaw), "kind": pa.array(index.kind)}).replace_schema_metadata(
        notes
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
    notes = table.schema.metadata
    column = {name: table[name].to_numpy() for name in (*_NUMBERS, "flaw", "kind")}

    def span(name: str) -> Numbers:
        return np.stack([column[f"{name}_at"], column[f"{name}_size"]], axis=1)

    return Index(
        np.stack([column["high"], column["low"]], axis=1), column["begin"], column["end"],
        span("image"), span("txt"), span("json"), column["flaw"], column["kind"],
        notes[b"text"].decode(), bool(notes[b"has_uid"]),
    )  # fmt: skip
