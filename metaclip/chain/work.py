"""How a stage is run; nothing here changes its result."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from metaclip.engine import local
from metaclip.errors import MetaclipError, is_full, one_line
from metaclip.recipe import dump
from metaclip.shard.files import replacing
from metaclip.shard.folder import ALL, Folder, Part


@dataclasses.dataclass(frozen=True)
class Work:
    """How a stage is run."""

    workers: int | None = None
    """Threads; None for one a processor."""
    part: Part = ALL
    overwrite: bool = False
    allow_lost: bool = False
    progress: bool | None = None
    """None: where standard error is a terminal."""

    @property
    def threads(self) -> int:
        """The number of threads."""
        return self.workers or local.default_workers()


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
