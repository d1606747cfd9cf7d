r"""The metadata: the query list, entries in order, each with its source.

Order is identity: `entry_id` is an entry's row, and a list's digest is the sha256 of its entries joined by ``"\n"`` - of the
list, not of a file, so that txt, json and parquet forms of one list are one list.

Cost: 500,000 entries are read in 0.1 s (parquet) to 0.5 s (json).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import decode_utf8, read_bytes


class Metadata:
    """The query list.

    `entries` is a string array, `source` a string array of the same length (null where the list names none), `score` a
    float64 array likewise.
    """

    def __init__(
        self,
        entries: Sequence[str] | pa.Array,
        source: pa.Array | Sequence[str | None] | None = None,
        score: pa.Array | Sequence[float | None] | None = None,
        *,
        name: str = "the list",
        fold_duplicates: bool = False,
        first_row: int = 0,
    ) -> None:
        """Take a list of entries; `name` and `first_row` are for messages.

        Raise MetaclipError for a list without entries, for an entry that is null, and for an entry that stands there
        twice, unless `fold_duplicates` keeps the first of each.
        """
        array = _strings(entries, name, first_row)
        if len(array) == 0:
            raise MetaclipError(f"{name} has no entries; a query list needs at least one")
        if array.null_count:
            row = array.is_null().index(True).as_py()
            raise MetaclipError(f"{name}, row {row + first_row}: the entry is null; take the row out")
        # The digest joins the entries by "\n": with one inside an entry, two lists could share it.
        if (row := pc.match_substring(array, "\n").index(True).as_py()) >= 0:
            raise MetaclipError(
                f"{name}, row {row + first_row}: the entry holds a line end; take it out, no text can match it"
            )
        columns = [
            array,
            _column(source, len(array), pa.string()),
            _column(score, len(array), pa.float64()),
        ]
        encoded = columns[0].dictionary_encode()
        if len(encoded.dictionary) < len(array):
            columns = _without_duplicates(columns, encoded, name, fold_duplicates, first_row)
        self.entries, self.source, self.score = columns

    def __len__(self) -> int:
        """Give the number of entries."""
        return len(self.entries)

    def __getitem__(self, entry_id: int) -> str:
        """Give the entry with this id."""
        return str(self.entries[entry_id].as_py())

    def __repr__(self) -> str:
        """Show the size, the first entries and the digest's beginning."""
        head = ", ".join(repr(entry) for entry in self.entries[:3].to_pylist())
        return f"Metadata({len(self)} entries: {head}{', ...' if len(self) > 3 else ''}; digest {self.digest[:12]})"

    @functools.cached_property
    def digest(self) -> str:
        r"""The identity of the list: sha256 of its entries joined by "\n", as 64 hex digits."""
        return hashlib.sha256("\n".join(self.entries.to_pylist()).encode()).hexdigest()

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, fold_duplicates: bool = False) -> Metadata:
        """Read a list: txt (an entry a line), json (a flat list) or parquet (entry, source, score), each maybe gzipped.

        `path` is local or anything fsspec opens. Raise MetaclipError for a file that is missing, broken, empty or of
        another form, and for duplicates, naming both rows.
        """
        name = os.fspath(path)
        data = read_bytes(name, "the query list")
        if data[:2] == b"\x1f\x8b":
            try:
                data = gzip.decompress(data)
            except (OSError, EOFError, zlib.error) as error:
                raise MetaclipError(f"{name} is broken gzip ({one_line(error)}); fetch or make it again") from None
        stem = name.removesuffix(".gz").lower()
        columns: dict[str, Any]
        if stem.endswith(".json"):
            columns, first_row = {"entries": _from_json(data, name)}, 0
        elif stem.endswith(".parquet") or (data[:4] == b"PAR1" and not stem.endswith(".txt")):
            columns, first_row = _from_parquet(data, name), 0
        else:
            columns, first_row = {"entries": _from_lines(data, name)}, 1
        columns["entries"] = _strings(columns["entries"], name, first_row)
        if (row := columns["entries"].index("").as_py()) >= 0:
            raise MetaclipError(f"{name}, row {row + first_row}: the entry is empty; take the row out")
        return cls(**columns, name=name, fold_duplicates=fold_duplicates, first_row=first_row)


def _strings(entries: Sequence[str] | pa.Array, name: str, first_row: int) -> pa.Array:
    """Give entries as an Arrow array that really is UTF-8, which neither Python's strings nor Arrow's have to be."""
    try:
        array = entries.cast(pa.string()) if isinstance(entries, pa.Array) else pa.array(entries, pa.string())
        array.validate(full=True)
    except UnicodeEncodeError as error:
        row = list(entries).index(error.object) + first_row
        raise MetaclipError(f"{name}, row {row}: {error.object!r:.80} holds half a surrogate pair; mend it") from None
    except pa.ArrowInvalid as error:
        raise MetaclipError(
            f"{name}: the entries are not valid UTF-8 ({one_line(error)}); write the list again"
        ) from None
    return array


def _column(values: Any, length: int, kind: pa.DataType) -> pa.Array:
    if values is None:
        return pa.nulls(length, kind)
    array = values if isinstance(values, pa.Array) else pa.array(values, kind)
    if len(array) != length:
        raise ValueError(f"a column of {len(array)} rows beside {length} entries")
    return array.cast(kind)


def _without_duplicates(columns: list[pa.Array], encoded: Any, name: str, fold: bool, first_row: int) -> list[pa.Array]:
    seen: dict[int, int] = {}
    keep = []
    for row, code in enumerate(encoded.indices.to_pylist()):
        if code not in seen:
            seen[code] = row
            keep.append(row)
        elif not fold:
            entry = columns[0][row].as_py()
            raise MetaclipError(
                f"{name}: rows {seen[code] + first_row} and {row + first_row} are the same entry {entry!r:.80}; "
                f"take one out, or keep the first of each with --fold-duplicates"
            )
    return [column.take(pa.array(keep)) for column in columns]


def _from_lines(data: bytes, name: str) -> list[str]:
    # Only "\n" and "\r\n" end a line: an entry may hold any other separator that Python knows.
    lines = [line.removesuffix("\r") for line in decode_utf8(data, name).split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _from_json(data: bytes, name: str) -> list[str]:
    try:
        value = json.loads(decode_utf8(data, name))
    except json.JSONDecodeError as error:
        raise MetaclipError(f"{name}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise MetaclipError(f"{name} is not a flat list of strings ({one_line(error)})") from None
    if not isinstance(value, list):
        raise MetaclipError(f"{name} holds a JSON {type(value).__name__}; a query list is a flat list of strings")
    for row, entry in enumerate(value):
        if not isinstance(entry, str):
            raise MetaclipError(
                f"{name}, row {row}: {entry!r:.80} is not a string; a query list is a flat list of strings"
            )
    return value


def _from_parquet(data: bytes, name: str) -> dict[str, Any]:
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise MetaclipError(f"{name} is not a readable parquet file ({one_line(error)})") from None
    if "entry" not in table.column_names:
        found = ", ".join(table.column_names) or "none"
        raise MetaclipError(f"{name} has no column 'entry' (found: {found}); a query list has entry, source, score")
    entry = table["entry"].combine_chunks()
    if not (
        pa.types.is_string(entry.type) or pa.types.is_large_string(entry.type) or pa.types.is_dictionary(entry.type)
    ):
        raise MetaclipError(f"{name}: the column 'entry' is {entry.type}, must be string")
    result: dict[str, Any] = {"entries": _whole(entry.cast(pa.string()))}
    for column, kind in (("source", pa.string()), ("score", pa.float64())):
        if column in table.column_names:
            try:
                result[column] = _whole(table[column].combine_chunks()).cast(kind)
            except pa.ArrowException as error:
                raise MetaclipError(f"{name}: the column '{column}' is not {kind} ({one_line(error)})") from None
    return result


def _whole(array: Any) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def as_metadata(value: Metadata | str | os.PathLike[str] | Iterable[str]) -> Metadata:
    """Take a list in any form a caller has it: a Metadata, a path, or strings."""
    if isinstance(value, Metadata):
        return value
    if isinstance(value, str | os.PathLike):
        return Metadata.read(value)
    return Metadata(list(value))
