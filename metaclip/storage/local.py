"""Paths of this machine, with the operations that a run folder needs; `metaclip.storage.remote` has the same for stores.

A file is complete or absent: it is written under a temporary name in the same folder, and renamed when it is finished. A
temporary name begins with a dot and ends with ``.tmp``; the owner of a folder removes the temporary files of earlier
processes that were killed.

Nothing is forced to the disk (fsync). A killed process loses nothing that it has written, so only a power cut can truncate
a renamed file, and waiting for the disk at every shard would cost all runs more than repeating a few shards costs the
one. Code that relies on a file after a restart compares its size with the size that was written (`metaclip.stage.stage`).

The owner of a folder holds locks of the kernel, which releases those of a process that ends, however it does. The file of
a lock is never removed while it may be held, but by its owner.
"""

# The signatures are narrower than those of pathlib: a run folder needs no more.
# mypy: disable-error-code="override"

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from metaclip.errors import AlreadyExists, MetaclipError, one_line

LOCK: Final = "lock"
"""The name of the lock of a whole folder; a part of a job array holds one of a longer name, too."""
_MIN_STALE_AGE: Final = 60.0
"""Seconds after which an unlocked scratch folder counts as one of a dead process."""

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())


class LocalPath(_Path):
    """A path of this machine."""

    @property
    def address(self) -> str:
        """The absolute path."""
        return os.path.abspath(self)

    def size(self) -> int | None:
        """Return the size of a file in bytes; None if there is no file."""
        return self.stat().st_size if self.is_file() else None

    def identity(self) -> tuple[int, str]:
        """Return the size of a file, and a stamp that changes when the file does: its time of change in nanoseconds."""
        status = self.stat()
        return status.st_size, str(status.st_mtime_ns)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all files below a folder, by their relative paths."""
        found: dict[str, int] = {}
        root = os.fspath(self)
        for folder, _, names in os.walk(root, followlinks=True):
            below = folder[len(root) :].lstrip(os.sep)
            for name in names:
                with contextlib.suppress(
                    FileNotFoundError
                ):  # removed meanwhile, or a link that leads nowhere
                    found[os.path.join(below, name)] = os.stat(os.path.join(folder, name)).st_size
        return found

    def temporary(self) -> LocalPath:
        """Return a temporary path beside this one that no other process uses, on this machine or on another."""
        return self.with_name(f".{self.name}.{secrets.token_hex(4)}.tmp")

    @contextlib.contextmanager
    def atomic_write(self) -> Iterator[Path]:
        """Yield a temporary path to write to; rename it to this path if the block succeeds, remove it otherwise."""
        self.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.temporary()
        try:
            yield temporary
            os.replace(temporary, self)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def put(self, data: bytes) -> None:
        """Write a whole file."""
        with self.atomic_write() as temporary:
            temporary.write_bytes(data)

    def copy_from(self, source: LocalPath) -> None:
        """Make a hard link to a file that is never written to in place, or a copy where there can be no link."""
        with source.local_copy() as local, self.atomic_write() as temporary:
            try:
                os.link(local, temporary)
            except OSError:  # another file system, or one without links
                shutil.copyfile(local, temporary)

    def local_copy(self) -> contextlib.AbstractContextManager[Path]:
        """Yield a path of this machine of the file for the length of a block: its own."""
        return contextlib.nullcontext(self)

    def local_folder(self) -> contextlib.AbstractContextManager[Path]:
        """Yield a folder of this machine with the folder's content for the length of a block: itself."""
        return contextlib.nullcontext(self)

    def filled_folder(self, last: str) -> contextlib.AbstractContextManager[Path]:
        """Yield a folder of this machine whose files are in this folder after the block: itself."""
        return contextlib.nullcontext(self)

    def remove(self) -> None:
        """Remove a file, or a folder with its content; do nothing if there is none."""
        if self.is_dir() and not self.is_symlink():
            # First by one rename, so that a kill leaves all of the folder or nothing that is taken for a part of it.
            os.rename(self, gone := self.temporary())
            shutil.rmtree(gone)
        else:
            self.unlink(missing_ok=True)

    def remove_files(self, paths: Iterable[LocalPath]) -> None:
        """Remove files of the folder; missing ones are ignored."""
        for path in paths:
            path.unlink(missing_ok=True)

    def remove_temporaries(self) -> None:
        """Remove what killed processes left below the folder."""
        for path in list(self.rglob(".*.tmp")):
            path.remove()

    # --- locks

    @contextlib.contextmanager
    def owned(self, part: str = "", who: str = "") -> Iterator[Callable[[], None]]:
        """Own the folder of locks for the length of a block: alone, or a `part` of it beside the owners of other parts.

        Yield a function that raises MetaclipError if the folder has another owner by now. Raise AlreadyExists, with the
        name of the owner, if another living process owns it.
        """
        self.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            held.enter_context(self._locked(LOCK, fcntl.LOCK_SH if part else fcntl.LOCK_EX, who))
            if part:
                held.enter_context(self._locked(f"{LOCK}-{part}", fcntl.LOCK_EX, who))
            yield lambda: None

    def read_locked(self) -> contextlib.AbstractContextManager[object]:
        """Keep owners out for the length of a block, together with other readers."""
        # A published copy may have no state.
        return (
            self._locked(LOCK, fcntl.LOCK_SH, mode="r")
            if (self / LOCK).exists()
            else contextlib.nullcontext()
        )

    @contextlib.contextmanager
    def _locked(self, name: str, kind: int, who: str = "", mode: str = "a+") -> Iterator[None]:
        """Lock a file for the length of a block; write the owner of an exclusive lock into it."""
        with (self / name).open(mode, encoding="utf-8") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):
                    raise FileNotFoundError  # an owner that failed has removed it meanwhile
            except BlockingIOError:
                raise AlreadyExists(self._owner(file)) from None
            except FileNotFoundError:
                raise AlreadyExists("a process that is about to end") from None
            except OSError as error:
                raise MetaclipError(
                    f"{self.parent} cannot be locked ({one_line(error)}); "
                    "choose an `out=...` on a file system that has locks"
                ) from None
            if kind == fcntl.LOCK_EX:
                file.truncate(0)
                file.write(f"{who}process {os.getpid()} on {platform.node()}")
                file.flush()
            yield

    def _owner(self, refused: IO[str]) -> str:
        """Describe the owner of a lock that was refused: one process, a part of a job array, or a process that reads."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(refused, fcntl.LOCK_SH | fcntl.LOCK_NB)
            for lock in sorted(self.glob(f"{LOCK}-*")):
                with lock.open("r", encoding="utf-8") as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except BlockingIOError:
                        return file.read()
            return "another process that reads it"
        refused.seek(0)
        return refused.read() or "another process"


# --- the scratch folder: what is downloaded or not yet uploaded


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a scratch folder, below $TMPDIR, for the length of a block."""
    base, name = _scratch_base(), secrets.token_hex(8)
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = base / name
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            (base / f"{name}.lock").unlink(missing_ok=True)


def _scratch_base() -> Path:
    base = Path(tempfile.gettempdir(), f"metaclip-{os.getuid()}")
    base.mkdir(mode=0o700, exist_ok=True)
    if base.is_symlink() or base.stat().st_uid != os.getuid():
        raise MetaclipError(f"{base} belongs to somebody else; set TMPDIR to a folder of your own")
    return base


def remove_stale_scratch() -> None:
    """Remove the scratch folders of processes that were killed: nobody holds their locks."""
    base = _scratch_base()
    for path in base.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("r") as lock:
            if time.time() - path.stat().st_mtime > _MIN_STALE_AGE:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
