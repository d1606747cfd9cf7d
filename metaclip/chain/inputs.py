"""Inputs: whether the pool's files are what finished shards were made from.

A file is known by its sha256, which is a task of its own beside the file's shards, so that nothing waits for it. Its
size and stamp (time of modification) spare reading it again: where they differ, the bytes decide. A file that changes
while it is read is lost to this run, like one that is damaged: both are read again, from the start, by the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from metaclip.curation import pool as pools
from metaclip.curation.pool import BrokenInput, PoolFile, Shard
from metaclip.errors import MetaclipError
from metaclip.shard.files import file_digest
from metaclip.shard.stage import Stage

ENOUGH: Final = 1 << 26
"""Bytes of input that are worth carrying alone: on one core some tenths of a second of matching."""
_ROW: Final = 128  # bytes of a pair, about


class ChangedInput(MetaclipError):
    """An input that is not what finished shards were made from."""


@dataclasses.dataclass(frozen=True)
class Digest:
    """The task of reading a file's digest."""

    file: PoolFile
    file_index: int

    @property
    def name(self) -> str:
        """The name of its marker."""
        return file_name(self.file_index)

    @property
    def turn(self) -> int:
        """What decides to which part of a job array it belongs: that of the file's first shard."""
        return self.file_index

    def marker(self) -> dict[str, Any]:
        """Read the digest. Raise BrokenInput if the file cannot be read."""
        return {"index": self.file_index, **dataclasses.asdict(self.file), "sha256": sha256(self.file)}


Task = Digest | Shard


def file_name(index: int) -> str:
    """Give the name of a file's marker; those of its shards begin with it."""
    return f"{index:06d}"


def tasks_of(shards: Iterable[Shard]) -> list[Task]:
    """Give all tasks of a pool: each file's digest, then its shards."""
    tasks: list[Task] = []
    for shard in shards:
        if not tasks or tasks[-1].file_index != shard.file_index:
            tasks.append(Digest(shard.file, shard.file_index))
        tasks.append(shard)
    return tasks


def weight(task: Task) -> int:
    """Estimate the bytes that a task reads."""
    return task.file.size if isinstance(task, Digest) or task.rows is None else min(task.file.size, _ROW * task.rows)


def sha256(file: PoolFile) -> str:
    """Compute a file's sha256. Raise BrokenInput if it cannot be read."""
    with pools.reading(file), pools.open_file(file) as opened:
        return file_digest(opened)


def same(file: PoolFile, known: Mapping[str, Any]) -> bool:
    """Tell whether a file holds the bytes that a marker knows; only where its stamp alone differs is it read."""
    return bool(file.size == known["size"] and (file.stamp == known["stamp"] or sha256(file) == known["sha256"]))


def check_unchanged(file: PoolFile) -> None:
    """Raise BrokenInput if a file is not any more what it was when the pool was listed."""
    try:
        now = pools.stat_file(file.path)
    except MetaclipError:
        raise BrokenInput(f"{file.path} is gone; put it back and run the same command again") from None
    if (now.size, now.stamp) != (file.size, file.stamp):
        raise BrokenInput(f"{file.path} was changed while it was read; run the same command again")


def finished(
    stage: Stage, files: Sequence[PoolFile], tasks: Sequence[Task], broken: Mapping[int, BrokenInput]
) -> dict[str, dict[str, Any]]:
    """Give the markers of finished tasks, by name; without those made from a file that was mended since.

    Raise ChangedInput for a file that is not what finished tasks were made from.
    """
    by_file: dict[int, list[Task]] = {index: [] for index in broken}
    for task in tasks:
        by_file.setdefault(task.file_index, []).append(task)
    mended = {int(name.partition("-")[0]) for name in stage.lost()}
    found = {}
    for index, its in by_file.items():
        file = files[index]
        known = stage.marker(file_name(index))
        if known is not None and not same(file, known):
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
        for task in its:
            marker = known if isinstance(task, Digest) else stage.marker(task.name)
            if marker is not None and (isinstance(task, Digest) or _is_of(marker["shard"], task, known is not None)):
                found[task.name] = marker
    return found


def _is_of(marked: Mapping[str, Any], shard: Shard, vouched: bool) -> bool:
    """Tell whether a marker is of this shard: the same rows, and of the same file unless its digest vouches for it."""
    apart = {"stamp"} if vouched else set()
    return all(marked[key] == value for key, value in shard.identity.items() if key not in apart)
