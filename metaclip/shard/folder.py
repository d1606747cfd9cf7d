"""A run folder: who may write to it, its manifest, its stages.

    manifest.json    inputs, versions, and the record of each finished stage
    .state/lock      held by the process that writes
    .state/lock-*    held by a part of a job array, beside its share of the lock
    .state/<stage>/  see `metaclip.shard.stage`

Law: one process writes, or the parts of one job array do, each once; who only reads may keep writers out. The kernel
releases the lock of a process that dies, however it does. No lock's file is removed while it may be held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from metaclip.errors import MetaclipError, one_line
from metaclip.shard.files import read_json, remove_temporaries, write_json
from metaclip.shard.stage import Stage

MANIFEST: Final = "manifest.json"
_STATE: Final = ".state"
_LOCK: Final = "lock"


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `number` of `of` (1-based) of a job array."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "3/100"."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise MetaclipError(f"--part {text!r} is not of the form i/n with 1 <= i <= n, such as 3/100")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        """Write "3/100"."""
        return f"{self.number}/{self.of}"

    @property
    def whole(self) -> bool:
        """Whether it is the only part."""
        return self.of == 1

    def takes(self, index: int) -> bool:
        """Tell whether the shard with this index belongs to the part."""
        return index % self.of == self.number - 1


ALL: Final = Part()
"""The only part of work that is not divided."""


class Folder:
    """A run folder on this machine."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the folder; nothing is made yet."""
        self.path = Path(path)
        self.state = self.path / _STATE

    def __truediv__(self, name: str) -> Path:
        """Give the path of something in the folder."""
        return self.path / name

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest; an empty one where nothing is finished."""
        return read_json(self.path / MANIFEST) or {}

    def update_manifest(self, **changes: Any) -> None:
        """Replace top-level keys of the manifest."""
        write_json(self.path / MANIFEST, {**self.manifest, **changes})

    def stage(self, name: str) -> Stage:
        """Give a stage of the folder."""
        return Stage(self, name)

    @contextlib.contextmanager
    def owned(self, part: Part = ALL, wait: bool = False) -> Iterator[None]:
        """Own the folder for the length of a block: alone, or beside the other parts of a job array.

        Raise MetaclipError if it holds files that are not a run's, or if another living process owns it (where `wait`
        is not set).
        """
        self._refuse_foreign()
        self.state.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            if not part.whole:
                self._lock(held, _LOCK, fcntl.LOCK_SH)
                self._lock(held, f"{_LOCK}-{part.number}-of-{part.of}", fcntl.LOCK_EX, f"part {part}, ")
            else:
                self._lock(held, _LOCK, fcntl.LOCK_EX, wait=wait)
                remove_temporaries(self.path)
                # Again at the end: a worker of a process that was killed may have lived on for a moment.
                held.callback(remove_temporaries, self.path)
                for idle in self._part_locks():
                    idle.unlink()
            yield

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder from being written to for the length of a block; any number of processes may at once."""
        with contextlib.ExitStack() as held:
            if (self.state / _LOCK).exists():  # a published copy may come without its state
                self._lock(held, _LOCK, fcntl.LOCK_SH, mode="r")
            yield

    def _lock(
        self, held: contextlib.ExitStack, name: str, kind: int, who: str = "", wait: bool = False, mode: str = "a+"
    ) -> None:
        file = held.enter_context((self.state / name).open(mode, encoding="utf-8"))
        try:
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._owner(file)
            raise MetaclipError(
                f"{self.path} is in use by {owner}; wait for it, stop it, or choose another --out"
            ) from None
        except OSError as error:
            raise MetaclipError(
                f"{self.path} cannot be locked ({one_line(error)}); choose an --out on a file system that has locks"
            ) from None
        if kind == fcntl.LOCK_EX:
            file.truncate(0)
            file.write(f"{who}process {os.getpid()} on {platform.node()}")
            file.flush()

    def _owner(self, refused: IO[str]) -> str:
        """Say who holds a lock that was refused: a process alone, parts of a job array, or one that only reads."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(refused, fcntl.LOCK_SH | fcntl.LOCK_NB)
            for path in self._part_locks():
                with path.open("r", encoding="utf-8") as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except BlockingIOError:
                        return file.read()
            return "another process that reads it"
        refused.seek(0)
        return refused.read() or "another process"

    def _part_locks(self) -> list[Path]:
        return sorted(self.state.glob(f"{_LOCK}-*"))

    def _refuse_foreign(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise MetaclipError(f"{self.path} is a file; --out must be a folder, new or of an earlier run")
        names = os.listdir(self.path)
        if names and _STATE not in names:
            raise MetaclipError(
                f"{self.path} holds files that are not a metaclip run's ({min(names)}); choose a new or empty folder"
            )
