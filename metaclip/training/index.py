"""Where the samples of a tar stand: made by one look through it, kept in the user's cache.

An index has a row a sample, in the tar's order: uid, the bytes that the sample takes, and where in them image, text
and fields are. It is known by the tar's path, size and time of change, so a tar that was written anew is walked anew.
A sample that cannot be used is in it too, with the reason.
Cost: 20 us of processor a sample of 26 kB to make, all headers of a tar at once (`plain`), or 56 where they must be walked;
90 bytes a sample to keep, 0.3 ms a tar to open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.curation import jsonl, tars
from metaclip.curation import pool as pools
from metaclip.curation.draw import Uids
from metaclip.curation.pool import Columns, PoolFile
from metaclip.curation.tar_format import Member
from metaclip.shard.files import cache_folder, replacing
from metaclip.training.plain import find as find_plain

IMAGES: Final = (b"jpg", b"jpeg", b"png", b"webp")
"""Suffixes of images, in small letters; of several in one sample the first is taken."""

FINE: Final = 0
FLAWS: Final = ("", "malformed_json", "missing_image", "missing_text")
"""Why a sample cannot be used, in the order in which it is asked; the number of each stands in the index."""

TXT: Final = ".txt"
"""What an index says of texts that are members of their own; else it names a field."""

_NONE: Final = Member(b"", 0, 0, 0)
_VERSION: Final = "1"
_AT_ONCE: Final = 1 << 12  # samples whose fields are read at once
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
    """How columns are called, where not as everywhere (`metaclip.curation.pool.find_columns`)."""

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
        stack.enter_context(pools.reading(file))
        found = at_once(stack.enter_context(open(file.path, "rb", buffering=0)), file, names)
    return found or walked(file, names)


def at_once(tar: io.FileIO, file: PoolFile, names: Names) -> Index | None:
    """Make the index of a plain tar, all samples of which have fields with a uid of 32 hex digits; None for another."""
    plain = find_plain(tar)
    if plain is None:
        return None
    image, kind = plain.spans(*IMAGES)
    (txt, _), (json, _) = plain.spans(b"txt"), plain.spans(b"json")
    n = len(plain.first)
    if not json[:, 0].all() or max(txt[:, 1].max(), json[:, 1].max()) > _LARGEST:
        return None

    def content(place: int, size: int) -> bytes:
        return os.pread(tar.fileno(), size, place)

    def head() -> Iterator[tars.Sample]:
        spans = zip(txt.tolist(), json.tolist(), strict=True)
        for t, j in spans:
            members = {name: Member(b"", 0, *at) for name, at in ((b"txt", t), (b"json", j)) if at[0]}
            yield tars.Sample(b"", members, content(*t) if t[0] else None, content(*j))

    columns = _columns(tars.schema_of(head(), pools.TEXT_NAMES, 1), file, names)
    if columns.uid is None or columns.uid.startswith("json."):
        return None
    by_field = columns.text not in ("", tars.TEXT)
    fields = pa.schema(
        [(name.removeprefix("json."), pa.string()) for name in (columns.uid, columns.text)[: 1 + by_field]]
    )
    halves: list[Uids] = []
    flaws = [np.zeros(0, np.bool_)]
    for begin in range(0, n, _AT_ONCE):
        lines = [tars.line_of(content(*span)) for span in json[begin : begin + _AT_ONCE].tolist()]
        malformed: list[str] = []
        table = jsonl.table(b"".join(lines), 0, fields, lambda _, place: malformed.append(place))  # noqa: B023 - called here
        if malformed or len(table) != len(lines) or (whole := _from_hex(table[0].combine_chunks())) is None:
            return None
        halves.append(whole)
        flaws.append(table[1].is_null().to_numpy() if by_field else np.zeros(len(lines), np.bool_))
    textless = np.concatenate(flaws) if by_field else (txt[:, 0] == 0) if columns.text else np.ones(n, np.bool_)
    flaw = np.where(textless, FLAWS.index("missing_text"), FINE)
    flaw[image[:, 0] == 0] = FLAWS.index("missing_image")
    begins = plain.head[plain.first].astype(np.uint64)
    return Index(
        np.concatenate(halves), begins, np.append(begins[1:], np.uint64(plain.end)), image, txt, json,
        flaw.astype(np.uint8), kind.astype(np.uint8), _text_of(columns, txt), True,
    )  # fmt: skip


def _text_of(columns: Columns, txt: Numbers) -> str:
    """Tell what the text is: the `.txt`, or the name of a field."""
    return TXT if columns.text == tars.TEXT and txt[:, 1].any() else (columns.text or TXT).removeprefix("json.")


def walked(file: PoolFile, names: Names) -> Index:
    """Walk a tar header by header."""
    from metaclip.curation.uid import uids_of  # brings a compiler

    columns = _columns(pools.schema_of(file), file, names)
    wanted = list(dict.fromkeys(name for name in (columns.text, columns.url, columns.uid) if name))
    spans: list[int] = []
    broken, imageless = FLAWS.index("malformed_json"), FLAWS.index("missing_image")
    flaws: list[int] = []
    kinds: list[int] = []
    uids = [np.zeros((0, 2), np.uint64)]
    with pools.reading(file):
        for part in tars.rows(lambda: pools.tar_stream(file), wanted, pools.TEXT_NAMES):
            flaw = np.full(len(part.samples), broken, np.uint8)
            found = np.zeros((len(part.samples), 2), np.uint64)
            if part.good:
                texts = part.batch.column(columns.text) if columns.text else pa.nulls(len(part.good), pa.string())
                urls, given = (part.batch.column(name) if name else None for name in (columns.url, columns.uid))
                whole = None if given is None else _from_hex(given)
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
    if names.text is None and not any(name.lower() in pools.TEXT_NAMES for name in schema.names):
        schema = schema.append(pa.field(pools.TEXT_NAMES[0], pa.string()))
        found = pools.find_columns(schema, file.path, None, names.url, names.uid)
        return dataclasses.replace(found, text="")
    return pools.find_columns(schema, file.path, names.text, names.url, names.uid)


def _from_hex(given: pa.Array) -> Uids | None:
    """Read strings of 32 hex digits, without the kernel that a process would have to compile; None where one is none."""
    lengths = pc.binary_length(given)
    if given.null_count or not pc.all(pc.equal(lengths, 32)).as_py():
        return None
    try:
        data = bytes.fromhex("".join(given.to_pylist()))
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
        replacing(path) as temporary,
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
