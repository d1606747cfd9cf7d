"""How a stage is run; nothing here changes its result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from metaclip.engine.local import Local
from metaclip.errors import MetaclipError, is_full, one_line
from metaclip.recipe import dump
from metaclip.shard.engine import Bound, Engine
from metaclip.shard.files import replacing
from metaclip.shard.folder import ALL, Folder, Part
from metaclip.shard.remote import absolute
from metaclip.shard.stage import Stage


@dataclasses.dataclass(frozen=True)
class Work:
    """How a stage is run."""

    workers: int | None = None
    """Threads, or processes where Python works; None for one a processor."""
    part: Part = ALL
    overwrite: bool = False
    allow_lost: bool = False
    progress: bool | None = None
    """None: where standard error is a terminal."""
    engine: Engine | None = None
    """What carries shards, with workers of its own; None for this machine."""

    @functools.cached_property
    def carrier(self) -> Engine:
        """The engine."""
        return self.engine or Local(self.workers)

    @property
    def threads(self) -> int:
        """The number of threads that work on this machine may take."""
        return Local(self.workers).workers


@dataclasses.dataclass(frozen=True)
class Place(Bound):
    """Where a stage that was begun stands, by name: what a step needs to write a shard and its marker from anywhere.

    The worker marks its shard, not the driver: it sees the sizes of what it has just written, while another machine may
    see them late; a driver that dies loses no shard that is finished; and a try whose result was lost with its machine is
    just made again.
    """

    out: str
    name: str
    digest: str

    @classmethod
    def of(cls, stage: Stage) -> Place:
        """Give the place of a stage; it must have been begun."""
        place = cls(absolute(stage.folder.path), stage.name, stage.digest)
        place.__dict__["stage"] = stage  # in this process it is known already
        return place

    @functools.cached_property
    def stage(self) -> Stage:
        """The stage, opened where the step arrived."""
        stage = Folder(self.out).stage(self.name)
        stage.digest = self.digest
        return stage


@contextlib.contextmanager
def writing(folder: Folder) -> Iterator[None]:
    """Turn what a disk refuses into a clear line."""
    try:
        yield
    except OSError as error:
        where, what = error.filename or folder.path, one_line(error, 120)
        if is_full(error):
            raise MetaclipError(f"{where}: no room left ({what}); free some and run the same command again") from error
        raise MetaclipError(f"{where} cannot be read or written ({what}); check the disk and --out") from error


def write_recipe(folder: Folder, tables: Mapping[str, Any]) -> None:
    """Write settings as recipe.toml."""
    with replacing(folder / "recipe.toml") as temporary:
        temporary.write_text(dump(tables), encoding="utf-8")
