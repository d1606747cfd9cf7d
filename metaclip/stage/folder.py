"""A run folder: who may write to it, its manifest, its stages.

    manifest.json    inputs, versions, and the record of each finished stage
    .state/lock      held by the process that writes
    .state/lock-*    held by a part of a job array, beside its share of the lock
    .state/<stage>/  see `metaclip.stage.stage`

Law: one process writes, or the parts of one job array do, each once; who only reads may keep writers out. The kernel
releases the lock of a process that dies, however it does. No lock's file is removed while it may be held.

In a store a lock is a claim that its owner renews (`metaclip.storage.lease`). Who reads cannot keep writers out there: it
sees at its end that the manifest changed, and says so. Of all and a part that begin at once, each sees the other's
claim, and both may be refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from metaclip.errors import MetaclipError, one_line
from metaclip.recipe import dump
from metaclip.storage.files import atomic_write, disk_errors, read_json, remove_temporaries, write_json
from metaclip.storage.lease import Lease, live_claim
from metaclip.storage.remote import AlreadyExists, AnyPath, RemotePath, absolute_path, as_path
from metaclip.storage.threads import map_parallel

MANIFEST: Final = "manifest.json"
_STATE: Final = ".state"
_LOCK: Final = "lock"
_PAUSE: Final = 1.0
"""Seconds between looks at a folder in a store that is waited for."""


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


class InUse(MetaclipError):
    """A folder that another process has."""

    def __init__(self, path: AnyPath, owner: str) -> None:
        """Name the folder and the process."""
        super().__init__(f"{path} is in use by {owner}; wait for it, stop it, or choose another --out")


class Folder:
    """A run folder, on this machine or in a store."""

    def __init__(self, path: str | os.PathLike[str] | RemotePath) -> None:
        """Name the folder; nothing is made yet."""
        self.path = as_path(path)
        self.state = self.path / _STATE
        self._lease: Lease | None = None

    def __truediv__(self, name: str) -> AnyPath:
        """Give the path of something in the folder."""
        return self.path / name

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs: the folder's path, whole, because a worker may have another working folder."""
        path = as_path(absolute_path(self.path))
        return {"path": path, "state": path / _STATE, "_lease": None}

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest; an empty one where nothing is finished."""
        return read_json(self.path / MANIFEST) or {}

    def update_manifest(self, **changes: Any) -> None:
        """Replace top-level keys of the manifest."""
        write_json(self.path / MANIFEST, {**self.manifest, **changes})

    def write_recipe(self, tables: Mapping[str, Any]) -> None:
        """Write settings as recipe.toml: dataclasses by the name of their table."""
        with atomic_write(self.path / "recipe.toml") as temporary:
            temporary.write_text(dump(tables), encoding="utf-8")

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Give the sizes of those of the files that are there; one listing of a folder in a store."""
        if isinstance(self.path, RemotePath):
            found = self.path.sizes()
            return {name: found[name] for name in names if name in found}
        there: dict[str, int] = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                there[name] = (self / name).stat().st_size
        return there

    @contextlib.contextmanager
    def owned(self, part: Part = ALL, wait: bool = False) -> Iterator[None]:
        """Own the folder for the length of a block: alone, or beside the other parts of a job array.

        Raise MetaclipError if it holds files that are not a run's, or if another living process owns it (where `wait`
        is not set).
        """
        with disk_errors(self.path), contextlib.ExitStack() as held:
            self._refuse_foreign()
            if isinstance(self.path, RemotePath):
                held.enter_context(self._claimed(part, wait))
                yield
                return
            self.state.mkdir(parents=True, exist_ok=True)
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
        if isinstance(self.path, RemotePath):
            if (owner := live_claim(self.path / _STATE / _LOCK)) is not None:
                raise InUse(self.path, owner.who)
            before = self.manifest
            yield
            if self.manifest != before:
                raise MetaclipError(f"{self.path} was written to while it was read; run the same command again")
            return
        with contextlib.ExitStack() as held:
            if (self.state / _LOCK).exists():  # a published copy may come without its state
                self._lock(held, _LOCK, fcntl.LOCK_SH, mode="r")
            yield

    def check(self) -> None:
        """Raise MetaclipError if the folder is not owned any more, as far as this process claimed it."""
        if self._lease is not None:
            self._lease.check()

    @contextlib.contextmanager
    def _claimed(self, part: Part, wait: bool) -> Iterator[None]:
        """Own a folder in a store."""
        with contextlib.ExitStack() as held:
            while True:
                try:
                    self._claim(held, part)
                    break
                except InUse:
                    held.close()
                    if not wait:
                        raise
                    time.sleep(_PAUSE)
            try:
                yield
            finally:
                self._lease = None

    def _claim(self, held: contextlib.ExitStack, part: Part) -> None:
        assert isinstance(self.path, RemotePath)
        state = self.path / _STATE
        name, who = (_LOCK, "") if part.whole else (f"{_LOCK}-{part.number}-of-{part.of}", f"part {part}, ")
        try:
            lease = held.enter_context(Lease.held(state / name, who))
        except AlreadyExists as error:
            raise InUse(self.path, str(error)) from None
        # Its own claim stands before it looks for others: of two that begin at once, one at least sees the other.
        others = state.glob(f"{_LOCK}-*") if part.whole else [state / _LOCK]
        for other in map_parallel(live_claim, others, len(others)):
            if other is not None:
                raise InUse(self.path, other.who)
        self._lease = lease
        if part.whole:
            remove_temporaries(self.path)
            held.callback(remove_temporaries, self.path)
            for idle in others:
                idle.unlink(missing_ok=True)

    def _lock(
        self, held: contextlib.ExitStack, name: str, kind: int, who: str = "", wait: bool = False, mode: str = "a+"
    ) -> None:
        file = held.enter_context((self._here / name).open(mode, encoding="utf-8"))
        try:
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(self.path, self._owner(file)) from None
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
        return sorted(self._here.glob(f"{_LOCK}-*"))

    @property
    def _here(self) -> Path:
        """The state, of a folder on this machine."""
        assert isinstance(self.state, Path)
        return self.state

    def _refuse_foreign(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise MetaclipError(f"{self.path} is a file; --out must be a folder, new or of an earlier run")
        names = [path.name for path in self.path.iterdir()]
        if names and _STATE not in names:
            raise MetaclipError(
                f"{self.path} holds files that are not a metaclip run's ({min(names)}); choose a new or empty folder"
            )
