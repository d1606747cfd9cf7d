"""The texts, urls and uids of what a loader holds: samples of a webdataset pipeline, tables, and the files of a pool.

They are found by the rules of pools (`metaclip.pool.columns`, `metaclip.pool.tars`): the names text, caption or alt, url, and
uid in any case of letters, and the names that were given when the run's pool was matched.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from metaclip.arguments import ArrowTable, as_column, is_table, without_views
from metaclip.errors import BrokenInput, MetaclipError, one_line
from metaclip.pool.columns import (
    CARRY_UID,
    KEY,
    LANGUAGE_NAMES,
    TEXT_NAMES,
    UID_NAMES,
    URL_NAMES,
    Columns,
    DroppedRows,
    find_columns,
    plain_texts,
    usable_texts,
    valid_strings,
)
from metaclip.pool.files import Paths, find_files
from metaclip.pool.shards import read_batches, schema_and_shards
from metaclip.pool.tars import TEXT, column_name
from metaclip.pool.uid import Uids, to_hex, to_large_string, to_strings, uids_of

_NAMES: Final = {"text": ("txt", *TEXT_NAMES), "url": URL_NAMES, "uid": UID_NAMES}
"""Where samples have their text, url and uid."""
_OF_TARS: Final = (KEY, "txt", "json")
_OF_IMG2DATASET: Final = ("status", "error_message", "key")
_OF_CURATED: Final = ("matches", "keep_probability")

NO_TEXT: Final = (
    "sample {key} has no caption: looked for {names}, found {found}; it and others like it are dropped. A run whose "
    "pool was matched with `MatchSettings(text_column=...)` knows another name"
)
MIXED: Final = (
    "the runs that this one combines have their texts, urls and uids in different columns, and a sample does not say of which "
    "pool it is: the first of {names} that it has is used. For the same pairs as offline, make a Balancer of each run, with "
    "the t of the combined one, for the samples of its pool"
)
NO_UID: Final = (
    "sample {key} has no uid in its .json, so the draw uses md5(text + url). That is what the offline run used only if "
    f"its pool had no uid either; {CARRY_UID} to carry it along"
)
CURATED: Final = (
    "these pairs are balanced already (they have a keep_probability): from epoch 1 on they are thinned twice. Give the pool "
    "that they were curated from"
)


class Pair(NamedTuple):
    """The text, uid and url of a sample, and its language where texts are matched by it."""

    text: str
    uid: str | None
    url: str | None
    language: str | None = None


class Pairs(NamedTuple):
    """The texts of n pairs, null where none can be used; their urls, given ids and languages, where there are any."""

    texts: pa.Array
    urls: pa.Array | None
    ids: pa.Array | None
    languages: pa.Array | None = None

    @property
    def uids(self) -> Uids:
        """The uids, as `metaclip.pool.uid` defines them: uint64[n, 2]."""
        return uids_of(self.texts.fill_null(""), self.urls, self.ids)

    def to_batch(self) -> pa.RecordBatch:
        """Return text, url and uid as strings; a url that there is not is null, and a uid has its 32 digits then."""
        n = len(self.texts)
        urls = pa.nulls(n, pa.large_string()) if self.urls is None else to_large_string(self.urls)
        ids = to_hex(self.uids) if self.ids is None else to_strings(self.ids, self.uids)
        columns = (self.texts, valid_strings(urls), valid_strings(ids))
        return pa.record_batch(
            [column.cast(pa.large_string()) for column in columns], names=["text", "url", "uid"]
        )


class PairFinder:
    """Finds texts, urls and uids, and warns once of each thing that it misses."""

    def __init__(
        self,
        given: Sequence[Mapping[str, str | None]],
        language: str | None = None,
        by_language: bool = False,
    ) -> None:
        """Take the names of columns that were given when a pool was matched, or several, by role (text, url, uid).

        If texts are matched `by_language`, there is a column of languages, maybe of the given name.
        """
        self._given, self._language, self._by_language = given, language, by_language
        self._names: dict[str, tuple[str, ...]] = {
            role: tuple(
                dict.fromkeys(name for one in given for name in _sample_names(role, one.get(role)))
            )
            for role in _NAMES
        }
        if by_language:
            self._names["language"] = LANGUAGE_NAMES if language is None else (language.lower(),)
        self._warned = set[str]()

    def of_sample(self, sample: Mapping[str, Any]) -> Pair | None:
        """Return the pair of a sample; None if it has no text, or if a value of it is not valid."""
        self._warn_if_mixed()
        try:
            fields = sample.get("json") or {}
            fields = json.loads(fields) if isinstance(fields, bytes | str) else fields
            values = {name.lower(): value for name, value in (*sample.items(), *fields.items())}
            text, uid, url = (self._value(values, role) for role in ("text", "uid", "url"))
            language = self._value(values, "language") if self._by_language else None
            url = url if isinstance(url, str) else None
            language = language if isinstance(language, str) else None
            uid = None if uid is None else str(uid)
            for value in (text, uid, url):
                if value is not None:
                    value.encode()  # raises for half a surrogate, which JSON can hold
        except (ValueError, AttributeError):
            return None
        if text is None:
            if values.keys().isdisjoint(self._names["text"]):
                names = " or ".join(map(repr, self._names["text"]))
                found = ", ".join(map(repr, values)) or "nothing"
                self._warn_once(NO_TEXT, key=sample.get(KEY, "?"), names=names, found=found)
            return None
        if not uid:
            self._warn_once(NO_UID, key=sample.get(KEY, "?"))
        return Pair(text, uid, url, language)

    def of_table(self, table: ArrowTable | Mapping[str, Any], redrawn: bool) -> Pairs:
        """Return the pairs of a table, or of a mapping of columns; `redrawn` if the epoch is not that of offline runs.

        Raise MetaclipError for a table without a text column, or with several.
        """
        found = self._flattened(self._as_table(table))
        columns = self._columns(found.schema, "the table", redrawn)
        names = _column_names(columns)
        arrays = [without_views(found[name].combine_chunks()) for name in names]
        return _pairs(pa.RecordBatch.from_arrays(arrays, names), columns)

    def of_pool(self, pool: Paths, worker: int, workers: int, redrawn: bool) -> Iterator[Pairs]:
        """Yield the pairs of each `workers`-th shard of a pool, from the shard `worker` on, in batches."""
        shard_number = 0
        for file_index, file in enumerate(find_files(pool)):
            schema, shards = schema_and_shards(file, file_index)
            columns = self._columns(schema, file.path, redrawn)
            for shard in shards:
                if shard_number % workers == worker:
                    for batch in read_batches(shard, _column_names(columns), DroppedRows()):
                        yield _pairs(batch, columns)
                shard_number += 1

    def _columns(self, schema: pa.Schema, where: str, redrawn: bool) -> Columns:
        self._warn_if_mixed()
        if redrawn and set(_OF_CURATED) <= set(schema.names):
            self._warn_once(CURATED)
        errors = []
        for one in self._given:
            try:
                columns = find_columns(
                    schema, where, one.get("text"), one.get("url"), one.get("uid"),
                    language=self._language, by_language=self._by_language,
                )  # fmt: skip
            except BrokenInput as error:
                errors.append(str(error))
                continue
            if KEY in schema.names and columns.uid is None:
                self._warn_once(NO_UID, key=f"of {where}")
            return columns
        hint = " when the pool is matched, or give the columns to Balancer.keep"
        raise MetaclipError(errors[0] + (hint if errors[0].endswith("_column=...)`") else "")) from None

    def _as_table(self, table: ArrowTable | Mapping[str, Any]) -> pa.Table:
        if not isinstance(table, Mapping):
            if not is_table(table):
                raise TypeError(
                    f"table must be a table or a mapping of columns, not {type(table).__name__}"
                )
            try:
                return pa.table(table)
            except (pa.ArrowException, TypeError, ValueError) as error:
                raise TypeError(f"table is no table: {one_line(error)}") from None
        used = {*_OF_TARS, *_OF_IMG2DATASET, *_OF_CURATED, *(n for names in self._names.values() for n in names)}  # fmt: skip
        columns = dict[str, Any]()
        for name, values in table.items():
            if name == "json":
                columns[name] = pa.array(values)
            else:  # a column without a role may hold anything, such as images; its name is for messages
                columns[name] = as_column(name, values) if name.lower() in used else pa.nulls(len(values))
        return pa.table(columns)

    def _flattened(self, table: pa.Table) -> pa.Table:
        """Return a table of samples of tars with the columns that a pool of these tars has."""
        if KEY not in table.column_names:
            return table
        columns = {name: table[name] for name in table.column_names if name not in ("txt", "json")}
        has_txt = "txt" in table.column_names
        if has_txt:
            columns[TEXT] = table["txt"]
        if "json" in table.column_names and pa.types.is_struct(table.schema.field("json").type):
            fields = table.select(["json"]).flatten()  # json.uid and so on
            for name in fields.column_names:
                columns[column_name(name.removeprefix("json."), has_txt)] = fields[name]
        return pa.table(columns)

    def _value(self, values: Mapping[str, Any], role: str) -> Any:
        """Return the first value of a role that is there, decoded."""
        for name in self._names[role]:
            if (value := values.get(name)) is not None:
                return value.decode() if isinstance(value, bytes) else value
        return None

    def _warn_if_mixed(self) -> None:
        if len(self._given) > 1:
            self._warn_once(MIXED, names=self._names)

    def _warn_once(self, message: str, **found: Any) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message.format(**found), stacklevel=5)


def _pairs(batch: pa.RecordBatch, columns: Columns) -> Pairs:
    urls, ids, languages = (
        None if name is None else batch.column(name)
        for name in (columns.url, columns.uid, columns.language)
    )
    if languages is not None:
        languages = plain_texts(valid_strings(languages))
    return Pairs(usable_texts(batch, columns, 0, DroppedRows()), urls, ids, languages)


def _column_names(columns: Columns) -> list[str]:
    """Return the names of the columns that pairs are made of, each once."""
    found = (columns.text, columns.url, columns.uid, columns.status, columns.language)
    return list(dict.fromkeys(name for name in found if name is not None))


def _sample_names(role: str, given: str | None) -> tuple[str, ...]:
    """Return where samples have a value, if its column was `given` by name for the pool, or else None."""
    if given is None:
        return _NAMES[role]
    # The column text of a pool of tars is the .txt, and a field of that name in the .json is json.text.
    name = given.lower()
    return ("txt", name) if name == "text" else (name.removeprefix("json."),)
