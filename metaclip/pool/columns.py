"""The columns of a pool that have a role (text, url, uid), found by name without regard to case, and their usable texts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from metaclip.errors import BrokenInput

TEXT_NAMES: Final = ("text", "caption", "alt")
URL_NAMES: Final = ("url",)
UID_NAMES: Final = ("uid",)
LANGUAGE_NAMES: Final = ("lang", "language")
"""Names of the column of languages: of `metaclip extract`, and of LAION."""
KEY: Final = "__key__"
"""The column of webdataset's keys, which only pools of tars have."""
CARRY_UID: Final = "download with img2dataset --save_additional_columns '[\"uid\"]'"
"""How the samples of tars come by the uids of the pool that they were downloaded from."""

MAX_ROW: Final = 1 << 24
"""Largest number of bytes of a row of csv or tsv, a line of jsonl, a `.txt` or `.json` in a tar, or a text of parquet.

Longer ones are malformed.
"""

MAX_COLUMNS: Final = 10_000
_VALUE: Final = re.compile(r"https?://|(\S+\s+){4}\S|[\d.]+$")
"""What a column is not called, but a row without names before it may hold: an address, five words, a number."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """The names of the columns that have a role; None where there is no such column."""

    text: str
    url: str | None
    uid: str | None
    status: str | None = None
    """img2dataset's column that tells whether a download succeeded."""
    language: str | None = None
    """The column of languages, where texts are matched by it."""


def find_columns(
    schema: pa.Schema, where: str, text: str | None = None, url: str | None = None, uid: str | None = None,
    *, language: str | None = None, by_language: bool = False,
) -> Columns:  # fmt: skip
    """Find the columns that have a role. A column given by name must exist; the case of its letters does not matter.

    The column of languages, maybe with the given name `language`, is looked for `by_language` only, and must exist then.
    Raise BrokenInput, with the names found and looked for, if there is no text column, if several columns could have one
    role, or if a column has a type that its role does not allow. `where` names the file in messages.
    """
    names = schema.names
    if len(names) > MAX_COLUMNS:
        raise BrokenInput(
            f"{where} has {len(names)} columns, at most {MAX_COLUMNS} are read; check that its first line is its own"
        )
    for name in names:
        if names.count(name) > 1:
            raise BrokenInput(
                f"{where} has {names.count(name)} columns with the name {name!r}; rename all but one"
            )

    def find(role: str, given: str | None, candidates: Sequence[str]) -> str | None:
        if given in names:
            found = [given]
        else:
            allowed = candidates if given is None else (given.lower(),)
            found = [name for name in names if name.lower() in allowed]
        if len(found) > 1:
            shown = ", ".join(map(repr, found))
            raise BrokenInput(
                f"{where}: {shown} can all be the {role} column; choose one with `MatchSettings({role}_column=...)`"
            )
        if not found:
            if given is None and role not in ("text", "language"):
                return None
            wanted = " or ".join(map(repr, candidates)) if given is None else repr(given)
            how = f"name it with `MatchSettings({role}_column=...)`"
            if role == "language":
                how += ", or identify languages with `MatchSettings(identify=True)`"
            if any(map(_VALUE.match, names)):
                how = "these look like values: put a first row with names into the file, such as text,url"
            raise BrokenInput(
                f"{where} has no {role} column: looked for {wanted}, found {', '.join(map(repr, names)) or 'none'}; {how}"
            )
        kind = schema.field(found[0]).type
        if not (_is_text(kind) or (role == "uid" and _is_number(kind))):
            wanted = "string, integer or 16 bytes" if role == "uid" else "string"
            raise BrokenInput(
                f"{where}: the {role} column {found[0]!r} is {kind}, must be {wanted}; "
                f"choose one with `MatchSettings({role}_column=...)`"
            )
        return found[0]

    text_column = find("text", text, TEXT_NAMES)
    assert text_column is not None
    # Only a table of img2dataset has these columns; all samples of a tar were downloaded.
    from_img2dataset = {"status", "error_message", "key"} <= set(names) and KEY not in names
    status = "status" if from_img2dataset and _is_text(schema.field("status").type) else None
    language_column = find("language", language, LANGUAGE_NAMES) if by_language else None
    return Columns(
        text_column, find("url", url, URL_NAMES), find("uid", uid, UID_NAMES), status, language_column
    )


def missing_columns(schema: pa.Schema, columns: Columns) -> list[str]:
    """Return a sentence for each of url and uid that has no column, where another column could hold it.

    Of tars that have no uids, the sentence says how to carry them along.
    """
    used = {columns.text, columns.url, columns.uid, columns.status, columns.language, KEY}
    # An index that pandas wrote is no id: it begins anew in each file.
    others = [f for f in schema if f.name not in used and not f.name.startswith("__index_level_")]
    notes = []
    for role, found, candidates, instead in (
        ("url", columns.url, URL_NAMES, "uids do not depend on urls"),
        ("uid", columns.uid, UID_NAMES, "a uid is the md5 of text and url"),
    ):
        possible = [
            repr(field.name)
            for field in others
            if _is_text(field.type) or (role == "uid" and _is_number(field.type))
        ]
        uids_of_tars = role == "uid" and KEY in schema.names
        if found is None and (possible or uids_of_tars):
            note = (
                f"no {role} column: looked for {' or '.join(map(repr, candidates))}, found "
                f"{', '.join(possible) or 'none'}; {instead}, unless you name the column with `MatchSettings({role}_column=...)`"
            )
            notes.append(
                f"{note}; if their pool had uids, {CARRY_UID} to carry them along"
                if uids_of_tars
                else note
            )
    return notes


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_null,
        )
    )


def _is_number(kind: pa.DataType) -> bool:
    """Return whether a column of this type can hold uids that are not strings: integers, or 16 bytes."""
    if isinstance(kind, pa.BaseExtensionType):  # parquet's UUID
        kind = kind.storage_type
    return bool(
        pa.types.is_integer(kind) or (pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16)
    )


# --- usable texts

BOM: Final = "\ufeff".encode()
"""The byte order mark that some programs write at the start of a UTF-8 file."""

IS_UTF16: Final = "it is UTF-16; convert it to UTF-8: iconv -f UTF-16 -t UTF-8 FILE"

DropRow = Callable[[str, str], None]
"""Called with a reason and a place for each row that is dropped."""


@dataclasses.dataclass
class DroppedRows:
    """The numbers of rows that were dropped, by reason, and the place of the first one of each."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    places: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, reason: str, place: str, rows: int = 1) -> None:
        """Count rows that are dropped for a reason; `place` names the first of them."""
        if rows:
            self.counts[reason] = self.counts.get(reason, 0) + rows
            self.places.setdefault(reason, place)


def is_utf8(text: str | bytes) -> bool:
    """Return whether bytes are valid UTF-8, or a string can be encoded in it: it holds no lone surrogates."""
    try:
        _ = text.encode() if isinstance(text, str) else text.decode()
    except UnicodeError:
        return False
    return True


def usable_texts(batch: pa.RecordBatch, columns: Columns, row: int, dropped: DroppedRows) -> pa.Array:
    """Return a batch's texts as a string or large_string array, null where a text cannot be used.

    Count the reasons in `dropped`; `row` is the number of the batch's first row.
    """
    texts, n_failed = plain_texts(batch.column(columns.text)), 0
    if columns.status is not None:
        failed = pc.fill_null(
            pc.not_equal(batch.column(columns.status).cast(pa.string()), "success"), True
        )
        if n_failed := pc.sum(failed).as_py() or 0:
            dropped.add("not_downloaded", f"row {row + failed.index(True).as_py()}", n_failed)
            texts = pc.if_else(failed, pa.scalar(None, texts.type), texts)
    if n_null := texts.null_count - n_failed:
        first = 0 if n_failed else texts.is_null().index(True).as_py()
        dropped.add("null_text", f"row {row + first}", n_null)
    if texts.nbytes > MAX_ROW:
        too_long = pc.fill_null(pc.greater(pc.binary_length(texts), MAX_ROW), False)
        if n_long := pc.sum(too_long).as_py():
            place = f"row {row + too_long.index(True).as_py()}: its text has over {MAX_ROW} bytes"
            dropped.add("malformed_row", place, n_long)
            texts = pc.if_else(too_long, pa.scalar(None, texts.type), texts)
    try:
        texts.validate(full=True)  # Arrow does not check what it reads from parquet
        return texts
    except pa.ArrowInvalid:
        return _without_invalid(texts, row, dropped)


def plain_texts(column: pa.Array) -> pa.Array:
    """Convert a text column (`find_columns` checks its type) to string or large_string."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    return column.cast(pa.string()) if pa.types.is_null(kind) else column


def valid_strings(column: pa.Array) -> pa.Array:
    """Return a column whose strings are valid UTF-8: bytes that are not become replacement characters."""
    if not _is_text(column.type):
        return column
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        values = plain_texts(column).cast(pa.large_binary()).to_pylist()
        decoded = [None if value is None else value.decode(errors="replace") for value in values]
        return pa.array(decoded, pa.large_string()).cast(column.type)


def _without_invalid(texts: pa.Array, row: int, dropped: DroppedRows) -> pa.Array:
    """Replace the texts that are not valid UTF-8 with null."""
    values = texts.cast(
        pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
    ).to_pylist()
    valid = [value is None or is_utf8(value) for value in values]
    dropped.add("invalid_utf8", f"row {row + valid.index(False)}", valid.count(False))
    kept = [value if is_valid else None for value, is_valid in zip(values, valid, strict=True)]
    return pa.array(kept, pa.large_binary()).cast(pa.large_string())
