"""The inputs of a run: the pool cut into shards, and whether its files are what finished shards were made from.

A file is identified by its sha256. Computing it is a task of its own beside the file's shards, so that nothing waits for it.
Its size and stamp (time of modification) save reading it again: where they differ, the bytes decide. A file that changes
while it is read is lost to this run, like one that is damaged: the next run reads both again, from the start.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from metaclip.curate.settings import DIGEST, SHARD_MATCHED, MatchSettings
from metaclip.errors import BrokenInput, MetaclipError
from metaclip.matching.text_rule import TextRule
from metaclip.pool.columns import Columns, find_columns
from metaclip.pool.files import PoolFile, open_file, stat_file, translate_read_errors
from metaclip.pool.shards import Shard, count_rows, read_schema, schema_and_shards, without_quoting
from metaclip.stage.runner import Task
from metaclip.stage.stage import Stage
from metaclip.storage.files import file_digest, is_remote
from metaclip.storage.threads import map_parallel

if TYPE_CHECKING:
    from metaclip.matching.matched_files import MatchedFile

GROUP_BYTES: Final = 1 << 26
"""Bytes of input that are worth a task of their own: some tenths of a second of matching on one core."""
_OPENED_AT_ONCE: Final = 16
_ROW_BYTES: Final = 128  # of a pair, about


class ChangedInput(MetaclipError):
    """An input is not what finished shards were made from."""


@dataclasses.dataclass(frozen=True)
class FileDigest:
    """The task of computing a file's digest, beside the matching of its shards."""

    file: PoolFile
    file_index: int
    first: int = 0
    rows: int | None = None
    """All rows of the file, as in a `Shard`."""

    @property
    def turn(self) -> int:
        """Decides to which part of a job array the task belongs."""
        return self.file_index

    @property
    def name(self) -> str:
        """The name of its marker."""
        return digest_name(self.file_index)

    def marker(self) -> dict[str, Any]:
        """Compute the digest; return its marker. Raise BrokenInput if the file cannot be read."""
        return {"index": self.file_index, **dataclasses.asdict(self.file), "sha256": _sha256(self.file)}


def digest_name(file_index: int) -> str:
    """Return the name of the marker of a file's digest; the names of its shards start with it."""
    return f"{file_index:06d}"


PoolItem = FileDigest | Shard


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A pool's files and their shards."""

    files: list[PoolFile]
    shards: list[Shard]
    broken: dict[int, BrokenInput]
    """The errors of files that could not be cut into shards, by index."""
    matched: dict[int, MatchedFile] = dataclasses.field(default_factory=dict)
    """By what the pairs of files were matched as they were extracted, by index."""

    def unmatched(self, indices: Set[int]) -> int:
        """Return how many pairs of files, given by their indices, were not written because they match no entry.

        A file with another number of rows than was written is part of one, or several in one: nobody knows then.
        """
        rows = dict.fromkeys(self.matched, 0)
        for shard in self.shards:
            if shard.file_index in rows:
                rows[shard.file_index] += shard.rows or 0
        return sum(
            found.unmatched
            for index, found in self.matched.items()
            if index in indices and found.pairs == rows[index]
        )

    @functools.cached_property
    def tasks(self) -> list[Task[PoolItem]]:
        """All tasks of the pool: for each file its digest, then its shards."""
        items: list[PoolItem] = []
        for shard in self.shards:
            if not items or items[-1].file_index != shard.file_index:
                items.append(FileDigest(shard.file, shard.file_index))
            items.append(shard)
        return [
            Task(item.name, item, item.file.path, item.turn, _lost_record(item), input_bytes(item))
            for item in items
        ]

    def finished(self, stage: Stage) -> dict[str, dict[str, Any]]:
        """Return the markers of finished tasks, by name, without those made from a file that was replaced since.

        Raise ChangedInput for a file that is not what finished tasks were made from.
        """
        items: dict[int, list[PoolItem]] = {index: [] for index in self.broken}
        for task in self.tasks:
            items.setdefault(task.item.file_index, []).append(task.item)
        was_lost = {int(name.partition("-")[0]) for name in stage.lost()}
        found = {}
        for index, of_file in items.items():
            file, name = self.files[index], digest_name(index)
            known = stage.marker(name, DIGEST)
            if known is not None:
                if not is_same_file(file, known):
                    if index not in was_lost:
                        raise ChangedInput(
                            f"{file.path} has changed since {stage.folder.path} was begun; "
                            "choose another `out=...`, or replace the run with `RunOptions(overwrite=True)`"
                        )
                    stage.unmark(name)
                    continue
                if index in self.broken and index not in was_lost:
                    raise self.broken[index]
                if (known["path"], known["stamp"]) != (file.path, file.stamp):
                    known = {**known, "path": file.path, "stamp": file.stamp}
                    stage.mark(name, known)
                if index not in self.broken:
                    found[name] = known
            # A digest proves that a file is the same although its stamp is another.
            ignored = set() if known is None else {"stamp"}
            for item in of_file:
                if (
                    isinstance(item, Shard)
                    and (marker := stage.marker(item.name, SHARD_MATCHED)) is not None
                ):
                    identity = {key: value for key, value in item.identity.items() if key not in ignored}
                    if identity.items() <= marker["shard"].items():
                        found[item.name] = marker
        return found

    def lost(self, stage: Stage, done: Set[str]) -> list[dict[str, Any]]:
        """Return a record of each input that could not be read, in the pool's order.

        A file without a digest is listed once, as a whole. `done` are the names of finished tasks.
        """
        lost = [
            {**_lost_record(FileDigest(self.files[index], index)), "error": str(error)}
            for index, error in self.broken.items()
        ]
        records = stage.lost()
        for task in self.tasks:
            if task.name not in done and digest_name(task.item.file_index) in {task.name, *done}:
                lost.append(records.pop(task.name))
        for mended in records:
            stage.unmark_lost(mended)
        return sorted(lost, key=lambda record: (record["index"], record["first"]))


def _lost_record(item: PoolItem) -> dict[str, Any]:
    return {"index": item.file_index, "name": item.file.name, "first": item.first, "rows": item.rows}


def input_bytes(item: PoolItem) -> int:
    """Return the bytes that a task reads, roughly."""
    return item.file.size if item.rows is None else min(item.file.size, _ROW_BYTES * item.rows)


def cut_pool(files: list[PoolFile], settings: MatchSettings, by_language: bool = False) -> Inputs:
    """Cut the files of a pool into shards, up to the limit of the settings. Raise BrokenInput if no file can be read.

    `by_language` is that of `columns_of`.
    """
    if settings.quoting == "none":
        files = [without_quoting(file) for file in files]

    matched: dict[int, MatchedFile] = {}

    def cut(index: int, limit: int | None = None) -> tuple[list[Shard], int] | BrokenInput:
        """Return a file's shards, and the number of their rows if there is a limit."""
        file = files[index]
        try:
            schema, shards = schema_and_shards(file, index, limit)
            columns = columns_of(file, settings, schema, by_language)
            if schema.metadata:
                from metaclip.matching.matched_files import read_matched_file

                if found := read_matched_file(schema.metadata, file.path):
                    matched[index] = found
            return shards, 0 if limit is None else count_rows(file, columns, limit)
        except BrokenInput as error:
            return error

    if (left := settings.limit) is None:
        # Opening a file in a store is mostly waiting.
        at_once = _OPENED_AT_ONCE if any(is_remote(file.path) for file in files) else 1
        results = list(map_parallel(cut, range(len(files)), at_once))
    else:
        results = []
        while left and len(results) < len(files):
            results.append(found := cut(len(results), left))
            left -= 0 if isinstance(found, BrokenInput) else found[1]
    broken = {index: found for index, found in enumerate(results) if isinstance(found, BrokenInput)}
    shards = [shard for found in results if not isinstance(found, BrokenInput) for shard in found[0]]
    if broken and not shards:
        raise next(iter(broken.values()))
    return Inputs(files, shards, broken, matched)


def check_matched(inputs: Inputs, settings: MatchSettings, digest: str) -> None:
    """Raise MetaclipError if files of a pool were matched as they were extracted, and otherwise than by these settings.

    `digest` is that of the query list.
    """
    for index, found in inputs.matched.items():
        differences = rule_differences(found.rule, settings.rule)
        if found.list != digest:
            why = f"match another query list (digest {found.list[:12]}, not {digest[:12]}): name that list: `metadata=...`"
        elif differences:
            why = f"match by another text rule ({', '.join(differences)}): give that rule"
        elif settings.text_column not in (None, "text"):
            why = f"match in the column text, not {settings.text_column}: leave `text_column=...` out"
        else:
            continue
        raise MetaclipError(
            f"{inputs.files[index].path} was extracted with `matched=...` and holds only pairs that {why}, or extract the crawl "
            "again"
        )


def rule_differences(one: TextRule, other: TextRule) -> list[str]:
    """Return the settings in which two text rules differ, with both values."""
    others = dataclasses.asdict(other)
    return [
        f"{name} is {value!r} and {others[name]!r}"
        for name, value in dataclasses.asdict(one).items()
        if value != others[name]
    ]


def columns_of(
    file: PoolFile, settings: MatchSettings, schema: pa.Schema | None = None, by_language: bool = False
) -> Columns:
    """Find a file's columns. Raise BrokenInput if the file (whose `schema` may be given) or its text cannot be read.

    With `by_language`, texts are matched by their language: if it is not identified, there must be a column of it.
    """
    return find_columns(
        read_schema(file) if schema is None else schema, file.path, settings.text_column, settings.url_column,
        settings.uid_column, language=settings.language_column, by_language=by_language and not settings.identify,
    )  # fmt: skip


def columns_as_given(file: PoolFile, given: Mapping[str, str | None]) -> Columns:
    """Find a file's columns as `columns_of` does; `given` are the names that were given, by role (text, url, uid)."""
    return find_columns(read_schema(file), file.path, given["text"], given["url"], given["uid"])


def _sha256(file: PoolFile) -> str:
    with translate_read_errors(file), open_file(file) as opened:
        return file_digest(opened)


def is_same_file(file: PoolFile, known: Mapping[str, Any]) -> bool:
    """Return whether a file holds the bytes that a marker knows; it is read only if its stamp alone differs."""
    return bool(
        file.size == known["size"] and (file.stamp == known["stamp"] or _sha256(file) == known["sha256"])
    )


def check_unchanged(file: PoolFile) -> None:
    """Raise BrokenInput if a file is no longer what it was when the pool was listed."""
    try:
        now = stat_file(file.path)
    except MetaclipError:
        raise BrokenInput(f"{file.path} is gone; put it back and run the same command again") from None
    if (now.size, now.stamp) != (file.size, file.stamp):
        raise BrokenInput(f"{file.path} was changed while it was read; run the same command again")
