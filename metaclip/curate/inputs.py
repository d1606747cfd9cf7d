"""The inputs of a run: the pool cut into shards, and whether its files are what finished shards were made from.

A file is known by its sha256, which is a task of its own beside the file's shards, so that nothing waits for it. Its
size and stamp (time of modification) spare reading it again: where they differ, the bytes decide. A file that changes
while it is read is lost to this run, like one that is damaged: both are read again, from the start, by the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from metaclip.curate.settings import MatchSettings
from metaclip.errors import BrokenInput, MetaclipError
from metaclip.pool.columns import Columns, find_columns
from metaclip.pool.files import PoolFile, open_file, stat_file, translate_read_errors
from metaclip.pool.shards import Shard, count_rows, read_schema, schema_and_shards
from metaclip.stage.runner import Task
from metaclip.stage.stage import Stage
from metaclip.storage.files import file_digest
from metaclip.storage.remote import is_remote
from metaclip.storage.threads import map_parallel

GROUP_BYTES: Final = 1 << 26
"""Bytes of input that are worth a task of their own: on one core some tenths of a second of matching."""
_OPENED_AT_ONCE: Final = 16
_ROW: Final = 128  # bytes of a pair, about


class ChangedInput(MetaclipError):
    """An input that is not what finished shards were made from."""


@dataclasses.dataclass(frozen=True)
class FileDigest:
    """The work of computing the digest of a file, beside the matching of its shards."""

    file: PoolFile
    file_index: int

    @property
    def name(self) -> str:
        """The name of its marker."""
        return file_name(self.file_index)

    def marker(self) -> dict[str, Any]:
        """Compute the digest. Raise BrokenInput if the file cannot be read."""
        return {"index": self.file_index, **dataclasses.asdict(self.file), "sha256": sha256(self.file)}


PoolItem = FileDigest | Shard


def file_name(index: int) -> str:
    """Return the name of a file's marker; those of its shards begin with it."""
    return f"{index:06d}"


def tasks_of(shards: Iterable[Shard]) -> list[Task[PoolItem]]:
    """Return all tasks of a pool: for each file its digest, then its shards."""
    tasks: list[Task[PoolItem]] = []
    for shard in shards:
        if not tasks or tasks[-1].item.file_index != shard.file_index:
            tasks.append(task_of(FileDigest(shard.file, shard.file_index)))
        tasks.append(task_of(shard))
    return tasks


def task_of(item: PoolItem) -> Task[PoolItem]:
    """Describe a digest or a shard to the stage runner."""
    file = item.file
    if isinstance(item, Shard):
        turn, first, rows = item.turn, item.first, item.rows
        weight = file.size if rows is None else min(file.size, _ROW * rows)
    else:
        turn, first, rows, weight = item.file_index, 0, None, file.size
    lost = {"index": item.file_index, "name": file.name, "first": first, "rows": rows}
    return Task(item.name, item, file.path, turn, lost, weight)


def cut_pool(files: Sequence[PoolFile], settings: MatchSettings) -> tuple[list[Shard], dict[int, BrokenInput]]:
    """Cut a pool into shards: (shards, what is wrong with the files that cannot be read, by index).

    Raise BrokenInput if no file can be read.
    """
    shards: list[Shard] = []
    broken: dict[int, BrokenInput] = {}
    for index, found in enumerate(_cut_all(files, settings)):
        if isinstance(found, BrokenInput):
            broken[index] = found
        else:
            shards += found
    if broken and not shards:
        raise next(iter(broken.values()))
    return shards, broken


def _cut_all(files: Sequence[PoolFile], settings: MatchSettings) -> Iterable[list[Shard] | BrokenInput]:
    """Cut each file, as many as the limit reaches, or say what is wrong with it."""

    def cut(item: tuple[int, PoolFile], left: int | None = None) -> tuple[Columns, list[Shard]] | BrokenInput:
        index, file = item
        try:
            schema, shards = schema_and_shards(file, index, left)
            return _columns(schema, file, settings), shards
        except BrokenInput as error:
            return error

    if settings.limit is None:
        # To open a file in a store is to wait for it.
        many = _OPENED_AT_ONCE if any(is_remote(file.path) for file in files) else 1
        for found in map_parallel(cut, list(enumerate(files)), many):
            yield found if isinstance(found, BrokenInput) else found[1]
        return
    left = settings.limit
    for index, file in enumerate(files):
        if left == 0:
            return
        found = cut((index, file), left)
        try:
            if not isinstance(found, BrokenInput):
                left -= count_rows(file, found[0], left)
        except BrokenInput as error:
            found = error
        yield found if isinstance(found, BrokenInput) else found[1]


def columns_of(file: PoolFile, settings: MatchSettings) -> Columns:
    """Find a file's columns. Raise BrokenInput if the file, or the text column, cannot be read."""
    return _columns(read_schema(file), file, settings)


def _columns(schema: pa.Schema, file: PoolFile, settings: MatchSettings) -> Columns:
    return find_columns(schema, file.path, settings.text_column, settings.url_column, settings.uid_column)


def sha256(file: PoolFile) -> str:
    """Compute a file's sha256. Raise BrokenInput if it cannot be read."""
    with translate_read_errors(file), open_file(file) as opened:
        return file_digest(opened)


def same_file(file: PoolFile, known: Mapping[str, Any]) -> bool:
    """Tell whether a file holds the bytes that a marker knows; only where its stamp alone differs is it read."""
    return bool(file.size == known["size"] and (file.stamp == known["stamp"] or sha256(file) == known["sha256"]))


def check_unchanged(file: PoolFile) -> None:
    """Raise BrokenInput if a file is not any more what it was when the pool was listed."""
    try:
        now = stat_file(file.path)
    except MetaclipError:
        raise BrokenInput(f"{file.path} is gone; put it back and run the same command again") from None
    if (now.size, now.stamp) != (file.size, file.stamp):
        raise BrokenInput(f"{file.path} was changed while it was read; run the same command again")


def finished(
    stage: Stage, files: Sequence[PoolFile], tasks: Sequence[Task[PoolItem]], broken: Mapping[int, BrokenInput]
) -> dict[str, dict[str, Any]]:
    """Give the markers of finished tasks, by name; without those made from a file that was mended since.

    Raise ChangedInput for a file that is not what finished tasks were made from.
    """
    by_file: dict[int, list[PoolItem]] = {index: [] for index in broken}
    for task in tasks:
        by_file.setdefault(task.item.file_index, []).append(task.item)
    mended = {int(name.partition("-")[0]) for name in stage.lost()}
    found = {}
    for index, its in by_file.items():
        file = files[index]
        known = stage.marker(file_name(index))
        if known is not None and not same_file(file, known):
            if index not in mended:
                raise ChangedInput(
                    f"{file.path} has changed since {stage.folder.path} was begun; "
                    "choose another --out, or replace the run with --overwrite"
                )
            stage.unmark(file_name(index))
            continue
        if known is not None and index in broken and index not in mended:
            raise broken[index]
        if known is not None and (known["path"], known["stamp"]) != (file.path, file.stamp):
            known = {**known, "path": file.path, "stamp": file.stamp}
            stage.mark(file_name(index), known)
        for item in its:
            marker = known if isinstance(item, FileDigest) else stage.marker(item.name)
            if marker is not None and (
                isinstance(item, FileDigest) or _is_of(marker["shard"], item, known is not None)
            ):
                found[item.name] = marker
    return found


def _is_of(marked: Mapping[str, Any], shard: Shard, vouched: bool) -> bool:
    """Tell whether a marker is of this shard: the same rows, and of the same file unless its digest vouches for it."""
    apart = {"stamp"} if vouched else set()
    return all(marked[key] == value for key, value in shard.identity.items() if key not in apart)
