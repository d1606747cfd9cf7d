"""A run folder: its manifest, its recipe and the state of its stages; and its owner, the one process that writes to it.

    manifest.json               inputs, versions, and the record of each finished stage
    recipe.toml                 settings
    .state/<stage>/             the state of a stage (`metaclip.stage.stage`)
    .state/lock                 held by the process that writes, or shared by parts and readers
    .state/lock-<i>-of-<n>      held by part i of a job array, in addition

Law: one process writes to a folder, or the parts of one job array do, each once. A process that reads a folder can keep
writers out. The kernel releases the lock of a process that ends, however it does. The file of a lock is never removed
while it may be held.

In a store, a lock is a claim that its owner renews (`metaclip.storage.lease`). A reader cannot keep writers out there:
it notices at its end that the folder has changed, and raises. If a whole run and a part begin at the same moment, each
sees the claim of the other, and both may be refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import platform
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata as installed
from typing import IO, TYPE_CHECKING, Any, Final

from metaclip import __version__
from metaclip.errors import AlreadyExists, MetaclipError, one_line
from metaclip.recipe import dump
from metaclip.storage.files import (
    atomic_write,
    disk_errors,
    file_size,
    read_json,
    remove_temporaries,
    write_json,
)
from metaclip.storage.remote import AnyPath, RemotePath, absolute_path, as_path
from metaclip.storage.threads import map_parallel

if TYPE_CHECKING:
    from metaclip.storage.lease import Lease

MANIFEST: Final = "manifest.json"
STATE: Final = ".state"
"""The folder of locks and markers, in a folder that can be owned."""
_LOCK: Final = "lock"
_PAUSE: Final = 0.5
"""Seconds between two attempts to own a folder."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `number` of `of` parts (counted from 1) of a job array."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Parse "3/100". Raise MetaclipError for anything else than i/n with 1 <= i <= n."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise MetaclipError(f"--part {text!r} is not of the form i/n with 1 <= i <= n, such as 3/100")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        """Return "3/100"."""
        return f"{self.number}/{self.of}"

    @property
    def whole(self) -> bool:
        """Whether it is the only part."""
        return self.of == 1

    def takes(self, index: int) -> bool:
        """Return whether the item with this index belongs to the part."""
        return index % self.of == self.number - 1


ALL: Final = Part()
"""The only part of work that is not divided."""


def versions() -> dict[str, str]:
    """Return the versions of everything that a result may depend on, for the manifest."""
    return {
        "metaclip": __version__,
        "python": platform.python_version(),
        "unicode": unicodedata.unidata_version,  # options of the text rule follow it
        **{name: installed.version(name) for name in ("numpy", "pyarrow")},
    }


class Folder:
    """A run folder, on this machine or in a store."""

    def __init__(self, path: str | os.PathLike[str] | RemotePath) -> None:
        """Set the path; nothing is created yet."""
        self.path = as_path(path)
        self.state = self.path / STATE
        self._lease: Lease | None = None

    def __truediv__(self, name: str) -> AnyPath:
        """Return the path of a file in the folder."""
        return self.path / name

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs: the absolute path, because a worker may have another working directory."""
        path = as_path(absolute_path(self.path))
        return {"path": path, "state": path / STATE, "_lease": None}

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest; empty until a stage is finished."""
        return read_json(self.path / MANIFEST) or {}

    def update_manifest(self, **changes: Any) -> None:
        """Replace top-level keys of the manifest."""
        write_json(self.path / MANIFEST, {**self.manifest, **changes})

    def write_recipe(self, tables: Mapping[str, Any]) -> None:
        """Write settings as recipe.toml: dataclasses by the name of their table."""
        with atomic_write(self.path / "recipe.toml") as temporary:
            temporary.write_text(dump(tables), encoding="utf-8")

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return the sizes in bytes of those files that exist; one listing of a folder in a store."""
        if isinstance(self.path, RemotePath):
            found = self.path.sizes()
            return {name: found[name] for name in names if name in found}
        sizes = ((name, file_size(self / name)) for name in names)
        return {name: size for name, size in sizes if size is not None}

    @contextlib.contextmanager
    def owned(self, part: Part = ALL, wait: bool = False) -> Iterator[None]:
        """Own the folder for the length of a block, as the function `owned` does."""
        with owned(self.path, part, wait) as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def read_locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep the folder from being written to for the length of a block; see the function `read_locked`."""
        return read_locked(self.path)

    def check(self) -> None:
        """Raise MetaclipError if another process has taken the folder from this one."""
        if self._lease is not None:
            self._lease.check()


# --- owners


class InUse(MetaclipError):
    """Another process owns the folder."""


def _in_use(path: AnyPath, owner: str) -> InUse:
    return InUse(f"{path} is in use by {owner}; wait for it, stop it, or choose another --out")


@contextlib.contextmanager
def owned(path: AnyPath, part: Part = ALL, wait: bool = False) -> Iterator[Lease | None]:
    """Own a folder for the length of a block: alone, or together with the other parts of a job array.

    Yield the lease of a folder in a store, which the owner should check before it writes. With `wait`, wait until the
    folder is free. Raise InUse if another living process owns it, MetaclipError if it holds files that are not a run's.
    """
    with disk_errors(path), contextlib.ExitStack() as held:
        _check_content(path)
        lease: Lease | None = None
        while True:
            try:
                if isinstance(path, RemotePath):
                    lease = _claim(held, path, part)
                else:
                    _lock_part(held, path, part)
                break
            except InUse:
                held.close()
                if not wait:
                    raise
                time.sleep(_PAUSE)
        if part.whole:
            remove_temporaries(path)
            # Again at the end: a worker of a process that was killed may live on for a moment.
            held.callback(remove_temporaries, path)
            for idle in (path / STATE).glob(f"{_LOCK}-*"):
                idle.unlink(missing_ok=True)
        yield lease


@contextlib.contextmanager
def read_locked(path: AnyPath) -> Iterator[None]:
    """Keep a folder from being written to for the length of a block; any number of processes can at the same time.

    In a store, raise MetaclipError at the end of the block if the manifest has changed.
    """
    if isinstance(path, RemotePath):
        from metaclip.storage.lease import live_claim

        if (owner := live_claim(path / STATE / _LOCK)) is not None:
            raise _in_use(path, owner.who)
        before = read_json(path / MANIFEST)
        yield
        if read_json(path / MANIFEST) != before:
            raise MetaclipError(f"{path} was written to while it was read; run the same command again")
        return
    with contextlib.ExitStack() as held:
        if (path / STATE / _LOCK).exists():  # a published copy may have no state
            _lock(held, path, _LOCK, fcntl.LOCK_SH, mode="r")
        yield


def _check_content(path: AnyPath) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise MetaclipError(f"{path} is a file; --out must be a folder, new or of an earlier run")
    names = [child.name for child in path.iterdir()]
    if names and STATE not in names:
        raise MetaclipError(
            f"{path} holds files that are not a metaclip run's ({min(names)}); choose a new or empty folder"
        )


def _part_lock(part: Part) -> str:
    return f"{_LOCK}-{part.number}-of-{part.of}"


# --- owners of folders in a store


def _claim(held: contextlib.ExitStack, path: RemotePath, part: Part) -> Lease:
    from metaclip.storage.lease import Lease, live_claim

    name, who = (_LOCK, "") if part.whole else (_part_lock(part), f"part {part}, ")
    try:
        lease = held.enter_context(Lease.held(path / STATE / name, who))
    except AlreadyExists as error:
        raise _in_use(path, str(error)) from None
    # The claim is made before others are looked for: of two processes that begin at once, at least one sees the other.
    others = (path / STATE).glob(f"{_LOCK}-*") if part.whole else [path / STATE / _LOCK]
    for other in map_parallel(live_claim, others, len(others)):
        if other is not None:
            raise _in_use(path, other.who)
    return lease


# --- owners of folders on this machine


def _lock_part(held: contextlib.ExitStack, path: AnyPath, part: Part) -> None:
    (path / STATE).mkdir(parents=True, exist_ok=True)
    _lock(held, path, _LOCK, fcntl.LOCK_EX if part.whole else fcntl.LOCK_SH)
    if not part.whole:
        _lock(held, path, _part_lock(part), fcntl.LOCK_EX, f"part {part}, ")


def _lock(
    held: contextlib.ExitStack, path: AnyPath, name: str, kind: int, who: str = "", mode: str = "a+"
) -> None:
    """Lock a file of the state; write the owner of an exclusive lock into it. Raise InUse if another process has it."""
    file = held.enter_context((path / STATE / name).open(mode, encoding="utf-8"))
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path, _owner(path, file)) from None
    except OSError as error:
        raise MetaclipError(
            f"{path} cannot be locked ({one_line(error)}); choose an --out on a file system that has locks"
        ) from None
    if kind == fcntl.LOCK_EX:
        file.truncate(0)
        file.write(f"{who}process {os.getpid()} on {platform.node()}")
        file.flush()


def _owner(path: AnyPath, refused: IO[str]) -> str:
    """Describe the owner of a lock that was refused: one process, a part of a job array, or a process that reads."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(refused, fcntl.LOCK_SH | fcntl.LOCK_NB)
        for lock in sorted((path / STATE).glob(f"{_LOCK}-*")):
            with lock.open("r", encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read()
        return "another process that reads it"
    refused.seek(0)
    return refused.read() or "another process"
