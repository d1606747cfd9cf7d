r"""The metadata, i.e. the query list: entries in order, each with its source.

The order is part of the identity: `entry_id` is an entry's row, and the digest of a list is the sha256 of its entries joined
by ``"\n"``. It identifies the list and not a file: the txt, json and parquet forms of a list have the same digest.

A list may hold entries of several languages. An entry is then a pair (language, string), the rows of one language stand
together, and the digest is the sha256 of the byte 0xff and the lines ``language TAB entry`` joined by ``"\n"``: neither an
entry nor a code of a language can make one list look like another.

Cost: reading 500,000 entries takes 0.1 s (parquet) to 0.5 s (json), 9 M entries of many languages 10 s and 1.2 GB.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.arguments import PATH, Column, as_column, check_type, is_table
from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import check_size, decode_utf8, gunzip, read_bytes

_MOST_BYTES: Final = 1 << 30
"""The most that the columns of a parquet list may take in memory: 44 bytes for each of 24 M entries of many languages."""


class Metadata:
    """The query list.

    `entries` is an Arrow array of strings; `source` (string) and `score` (float64) are arrays of the same length, null
    where the list has none. `languages` maps each language to the range of its entry ids, in the list's order; it is empty
    for a list without languages.

    >>> from metaclip import Metadata
    >>> Metadata.read("metadata/toy.txt")
    Metadata(157 entries: 'a', 'of', 'the', ...; digest 5a422d2f35bc)
    >>> Metadata(["dog", "cat"])[1]
    'cat'
    >>> Metadata(["dog", "chat", "chien"], language=["en", "fr", "fr"]).languages
    {'en': range(0, 1), 'fr': range(1, 3)}
    """

    def __init__(
        self,
        entries: Sequence[str] | Column,
        source: pa.Array | Sequence[str | None] | None = None,
        score: pa.Array | Sequence[float | None] | None = None,
        *,
        language: pa.Array | Sequence[str] | None = None,
        name: str = "the list",
        fold_duplicates: bool = False,
        first_row: int = 0,
    ) -> None:
        """Check and hold a list of entries; `name` and `first_row` (the number of the first row) are for messages.

        `language` is the language of each entry; the rows of one stand together. Raise MetaclipError for a list without
        entries, for an entry that is null or holds a line end, for a language that is null or no code, and for an entry that
        occurs twice in a language, unless `fold_duplicates` keeps the first of each.
        """
        array = _strings(entries, name, first_row)
        if len(array) == 0:
            raise MetaclipError(f"{name} has no entries; a query list needs at least one")
        if array.null_count:
            row = array.is_null().index(True).as_py()
            raise MetaclipError(f"{name}, row {row + first_row}: the entry is null; remove the row")
        # The digest joins the entries by "\n": with one inside an entry, two lists could share it.
        if (row := pc.match_substring(array, "\n").index(True).as_py()) >= 0:
            raise MetaclipError(
                f"{name}, row {row + first_row}: the entry holds a line end; remove it, no text can match it"
            )
        columns = [
            array,
            _column(source, len(array), pa.string()),
            _column(score, len(array), pa.float64()),
        ]
        ranges = {"": range(len(array))}
        if language is not None:
            from metaclip.metadata.languages import language_ranges

            ranges = language_ranges(_column(language, len(array), pa.string()), name, first_row)
        rows = [_distinct_rows(array, ids, name, fold_duplicates, first_row) for ids in ranges.values()]
        kept = sum(map(len, rows))
        if kept < len(array):
            columns = [column.take(pa.array(np.concatenate(rows))) for column in columns]
        ends = np.cumsum([0, *map(len, rows)]).tolist()
        self.languages: Mapping[str, range] = (
            {} if language is None else dict(zip(ranges, map(range, ends, ends[1:]), strict=True))
        )
        self.entries, self.source, self.score = columns

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.entries)

    def __getitem__(self, entry_id: int) -> str:
        """Return the entry with this id; slice `entries` to get several."""
        check_type("entry_id", entry_id, int)
        return str(self.entries[entry_id].as_py())

    def __repr__(self) -> str:
        """Show the size, the first entries and the beginning of the digest."""
        head = ", ".join(repr(entry) for entry in self.entries[:3].to_pylist())
        of = f" of {len(self.languages)} languages" if self.languages else ""
        more = ", ..." if len(self) > 3 else ""
        return f"Metadata({len(self)} entries{of}: {head}{more}; digest {self.digest[:12]})"

    def _repr_html_(self) -> str:
        """Show the sources with their shares, the first entries, and scores by rank if the list has any."""
        from metaclip import notebook

        sources = self.source.value_counts().to_pylist()
        shares = [
            (row["values"] or "unnamed", row["counts"], f"{row['counts'] / len(self):.1%}")
            for row in sources
        ]
        rows = zip(range(10), self.entries[:10].to_pylist(), self.source[:10].to_pylist(), strict=False)
        scores, lengths = self.score.drop_null(), pc.utf8_length(self.entries)
        plotted = (
            ("Scores by rank", scores) if len(scores) else ("Characters of an entry by rank", lengths)
        )
        return (
            notebook.table(
                f"{len(self):,} entries; digest {self.digest[:12]}",
                ("source", "entries", "share"),
                shares,
            )
            + notebook.ranks_plot(plotted[0], {"entries": plotted[1].to_numpy()})
            + notebook.table("The first entries", ("entry_id", "entry", "source"), rows)
        )

    @functools.cached_property
    def digest(self) -> str:
        """The identity of the list, see `list_digest`."""
        return list_digest(self.entries, self.languages)

    @property
    def language(self) -> pa.Array | None:
        """The language of each entry, a dictionary array of strings; None for a list without languages."""
        if not self.languages:
            return None
        sizes = [len(ids) for ids in self.languages.values()]
        codes = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array([*self.languages], pa.string()))

    def of_language(self, language: str) -> Metadata:
        """Return the entries of one language as a list without languages; raise KeyError if the list has none of it."""
        ids = self.languages[language]
        return Metadata(*(c[ids.start : ids.stop] for c in (self.entries, self.source, self.score)))

    @classmethod
    def read(
        cls, path: str | os.PathLike[str] | None = None, *, fold_duplicates: bool = False
    ) -> Metadata:
        """Read a list: txt (one entry per line), json (a flat list) or parquet, plain or gzipped.

        A parquet file has the column entry, and may have language, source and score. `path` is local or anything that fsspec
        opens; None stands for the shipped list of 500,000 English entries. Raise MetaclipError for a file that is missing,
        damaged, empty or of another form, and for duplicates, naming both rows.
        """
        check_type("metadata", path, PATH | None)
        name = os.fspath(shipped_list() if path is None else path)
        data = gunzip(read_bytes(name, "the query list"), name)
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
            raise MetaclipError(f"{name}, row {row + first_row}: the entry is empty; remove the row")
        return cls(**columns, name=name, fold_duplicates=fold_duplicates, first_row=first_row)


def list_digest(entries: pa.Array, languages: Mapping[str, range] | None = None) -> str:
    r"""Compute the identity of a list: sha256 of its entries joined by "\n", as 64 hex digits.

    Of a list with `languages` (see `Metadata`): of the byte 0xff, then the lines ``language TAB entry`` joined by "\n".
    """
    if not languages:
        return hashlib.sha256("\n".join(entries.to_pylist()).encode()).hexdigest()
    found = hashlib.sha256(b"\xff")  # begins no entry, for it begins nothing in UTF-8
    for language, ids in languages.items():
        begin = f"{language}\t"
        lines = begin + f"\n{begin}".join(entries[ids.start : ids.stop].to_pylist())
        found.update((f"\n{lines}" if ids.start else lines).encode())
    return found.hexdigest()


def shipped_list() -> Path:
    """Return the path of the list that comes with the package: beside this file if installed, else in `metadata/`."""
    installed = Path(__file__).parent / "english.parquet"
    return installed if installed.exists() else Path(__file__).parents[2] / "metadata" / "english.parquet"


def _strings(entries: Any, name: str, first_row: int) -> pa.Array:
    """Return entries as an Arrow array of valid UTF-8, which neither Python's nor Arrow's strings are guaranteed to be."""
    try:
        array = as_column("entries", entries, pa.string()).cast(pa.string())
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        array.validate(full=True)
    except UnicodeEncodeError as error:
        row = list(entries).index(error.object) + first_row
        raise MetaclipError(
            f"{name}, row {row}: {error.object!r:.80} holds half a surrogate pair; correct it"
        ) from None
    except pa.ArrowInvalid as error:
        raise MetaclipError(
            f"{name}: the entries are not valid UTF-8 ({one_line(error)}); write it again"
        ) from None
    return array


def _column(values: Any, length: int, kind: pa.DataType) -> pa.Array:
    if values is None:
        return pa.nulls(length, kind)
    array = values if isinstance(values, pa.Array) else pa.array(values, kind)
    if len(array) != length:
        raise ValueError(f"a column has {len(array)} rows beside {length} entries")
    return array.cast(kind)


def _distinct_rows(
    entries: pa.Array, ids: range, name: str, fold: bool, first_row: int
) -> npt.NDArray[np.int64]:
    """Return the rows of the first of each entry among `ids`, the entries of one language: int64, ascending.

    Raise MetaclipError if one occurs twice, unless `fold`.
    """
    encoded = entries[ids.start : ids.stop].dictionary_encode()
    if len(encoded.dictionary) == len(ids):
        return np.arange(ids.start, ids.stop)
    codes = encoded.indices.to_numpy()
    # Ascending, because codes number entries in the order of their first rows.
    first: npt.NDArray[np.int64] = np.unique(codes, return_index=True)[1]
    if not fold:
        row = int((first[codes] != np.arange(len(codes))).argmax())
        rows = (ids.start + at + first_row for at in (int(first[codes[row]]), row))
        raise MetaclipError(
            f"{name}: rows {' and '.join(map(str, rows))} are the same entry {entries[ids.start + row].as_py()!r:.80}; "
            "remove one, or keep the first of each with `fold_duplicates=True`"
        )
    return ids.start + first


def _from_lines(data: bytes, name: str) -> list[str]:
    # Only "\n" and "\r\n" end a line: an entry may hold the other line separators of str.splitlines.
    lines = [line.removesuffix("\r") for line in decode_utf8(data, name).split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _from_json(data: bytes, name: str) -> list[str]:
    try:
        value = json.loads(decode_utf8(data, name))
    except json.JSONDecodeError as error:
        raise MetaclipError(f"{name}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, brackets thousands deep
        raise MetaclipError(f"{name} is not a flat list of strings ({one_line(error)})") from None
    if not isinstance(value, list):
        raise MetaclipError(
            f"{name} holds a JSON {type(value).__name__}; a query list is a flat list of strings"
        )
    for row, entry in enumerate(value):
        if not isinstance(entry, str):
            raise MetaclipError(
                f"{name}, row {row}: {entry!r:.80} is not a string; a query list is a flat list of strings"
            )
    return value


def _from_parquet(data: bytes, name: str) -> dict[str, Any]:
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            names = file.schema_arrow.names
            columns = [name for name in ("entry", "language", "source", "score") if name in names]
            batches, size = list[pa.RecordBatch](), 0
            for batch in file.iter_batches(1 << 12, columns=columns):
                size += batch.nbytes
                check_size(size, name, _MOST_BYTES)
                batches.append(batch)
            schema = pa.schema([file.schema_arrow.field(column) for column in columns])
            table = pa.Table.from_batches(batches, schema)
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
        KeyError,
    ) as error:  # KeyError: two columns of a name
        raise MetaclipError(f"{name} is not a readable parquet file ({one_line(error)})") from None
    if "entry" not in names:
        found = ", ".join(names) or "none"
        raise MetaclipError(
            f"{name} has no column 'entry' (found: {found}); a query list has entry, source, score"
        )
    entry = table["entry"].combine_chunks()
    if not (
        pa.types.is_string(entry.type)
        or pa.types.is_large_string(entry.type)
        or pa.types.is_dictionary(entry.type)
    ):
        raise MetaclipError(f"{name}: the column 'entry' is {entry.type}, must be string")
    result: dict[str, Any] = {"entries": entry.cast(pa.string())}
    for column, kind in (("language", pa.string()), ("source", pa.string()), ("score", pa.float64())):
        if column in names:
            try:
                result[column] = table[column].combine_chunks().cast(kind)
            except pa.ArrowException as error:
                raise MetaclipError(
                    f"{name}: the column '{column}' is not {kind} ({one_line(error)})"
                ) from None
    return result


MetadataLike = Metadata | str | os.PathLike[str] | Iterable[str] | Column
"""A query list: the object, its file, or its entries."""


def as_metadata(value: MetadataLike | None) -> Metadata:
    """Return a list given as a Metadata, a path, or strings; None stands for the shipped list."""
    if isinstance(value, Metadata):
        return value
    if value is None or isinstance(value, str | os.PathLike):
        return Metadata.read(value)
    if is_table(value):
        return Metadata(as_column("metadata", value))
    check_type("metadata", value, Iterable)
    return Metadata(list(value))
