"""Files that are whole or not there: written under a temporary name in the same folder, renamed when finished.

A temporary name begins with a dot and ends with ``.tmp``; whoever owns the folder removes what an earlier, killed
process left.

Nothing is forced to the disk (fsync). A killed process loses nothing that it has written, so only a power cut can leave
a renamed file short, and to wait for the disk at every shard would cost all runs more than making a few shards again
costs the one. Who relies on a file after a restart compares its size with what was written (`metaclip.stage.folder`).

A file in a store is written here first, in the scratch folder, and put there as one object; and what is read of a
store by place, not in one go, is fetched to the scratch folder. It stands below $TMPDIR and holds what is under way: a
shard's files for each worker, and the uids of all shards while they are merged.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from metaclip.errors import MetaclipError, is_disk_full, one_line
from metaclip.storage.remote import (
    AnyPath,
    RemotePath,
    StoreError,
    fetch_all,
    file_system,
    is_remote,
    refuse_secrets,
    remove_all,
    translate_errors,
)

_BLOCK: Final = 1 << 22
_FETCHED: Final = 64  # small files at a time
_NEW: Final = 60.0
"""Seconds for which a scratch folder is not taken for a dead process's."""


@contextlib.contextmanager
def disk_errors(path: AnyPath) -> Iterator[None]:
    """Turn an OSError raised inside the block into a MetaclipError of one line; `path` is named where the error names none."""
    try:
        yield
    except OSError as error:
        where, what = error.filename or path, one_line(error, 120)
        if is_disk_full(error):
            raise MetaclipError(f"{where}: no room left ({what}); free some and run the same command again") from error
        raise MetaclipError(f"{where} cannot be read or written ({what}); check the disk and --out") from error


@contextlib.contextmanager
def atomic_write(path: AnyPath) -> Iterator[Path]:
    """Give a temporary path to write to; put it in place at `path` when the block ends well, remove it otherwise."""
    if isinstance(path, RemotePath):
        with scratch() as folder:
            yield folder / path.name
            path.upload(folder / path.name)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_path(path: Path) -> Path:
    """Give a temporary name beside `path` that no other process has, on this machine or on another."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Tell whether a path has such a name."""
    return path.name.startswith(".") and path.suffix == ".tmp"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder on this machine for the length of a block."""
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


def _remove_stale_scratch() -> None:
    """Remove the scratch folders of processes that were killed: their locks are free."""
    base = _scratch_base()
    for path in base.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("r") as lock:
            if time.time() - path.stat().st_mtime > _NEW:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Give a file's path on this machine for the length of a block: itself, or what is fetched of a store."""
    with local_copies([path]) as (local,):
        yield local


@contextlib.contextmanager
def local_copies(paths: Sequence[AnyPath]) -> Iterator[list[Path]]:
    """Give files' paths on this machine for the length of a block, in order."""
    remote = [path for path in paths if isinstance(path, RemotePath)]
    if not remote:
        yield list(paths)
        return
    with scratch() as folder:
        fetched = dict(zip(remote, fetch_all(remote, folder), strict=True))
        yield [fetched[path] if isinstance(path, RemotePath) else path for path in paths]


@contextlib.contextmanager
def local_folder(path: AnyPath) -> Iterator[Path]:
    """Give a folder on this machine for the length of a block: itself, or a copy of one in a store, without its state."""
    if not isinstance(path, RemotePath):
        yield path
        return
    with scratch() as folder:
        names = [name for name in path.sizes() if not name.startswith(".")]
        fetch_all([path / name for name in names], folder, names)
        yield folder


@contextlib.contextmanager
def uploaded_folder(path: AnyPath, last: str) -> Iterator[Path]:
    """Give a folder to write to for the length of a block: itself, or one whose files are then put in a store.

    The file that is put `last` proves the others. Files of these names are replaced, others stay.
    """
    if not isinstance(path, RemotePath):
        yield path
        return
    with scratch() as folder:
        yield folder
        names = sorted(found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file())
        for name in [*(name for name in names if name != last), *(name for name in names if name == last)]:
            (path / name).upload(folder / name)


def iter_local_copies(paths: Sequence[AnyPath]) -> Iterator[Path]:
    """Give files' paths on this machine, each until the next is asked for; some of a store are fetched at a time."""
    for begin in range(0, len(paths), _FETCHED):
        with local_copies(paths[begin : begin + _FETCHED]) as found:
            yield from found


def remove_temporaries(folder: AnyPath) -> None:
    """Remove what killed processes left: files under temporary names below `folder`, or uploads that were not finished."""
    if isinstance(folder, RemotePath):
        folder.remove_unfinished()
        _remove_stale_scratch()
        return
    for path in list(folder.rglob(".*.tmp")):
        remove(path)


def remove(path: AnyPath) -> None:
    """Remove a file, or a folder with all that is in it; none is fine."""
    if isinstance(path, RemotePath):
        remove_all([path / name for name in path.sizes()] or [path])
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: AnyPath, value: Any) -> None:
    """Write a JSON file, whole or not at all: sorted keys, two spaces, UTF-8."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if isinstance(path, RemotePath):
        path.put((text + "\n").encode())
        return
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: AnyPath) -> dict[str, Any] | None:
    """Read a JSON object of ours; None if there is none, or if what stands there is not one (it was never finished)."""
    try:
        return parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); check its permissions") from None


def parse_json(data: bytes) -> dict[str, Any] | None:
    """Read a JSON object; None for what is not one."""
    try:
        found = json.loads(data.decode())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def cache_folder() -> Path:
    """Give the folder of what can be made or fetched again: $METACLIP_CACHE, else metaclip/ in the user's cache folder."""
    if folder := os.environ.get("METACLIP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaclip"


def read_bytes(name: str, what: str) -> bytes:
    """Read a whole file, local or anything fsspec opens; MetaclipError says `what` was wanted."""
    try:
        if not is_remote(name):
            return Path(name.removeprefix("file://")).read_bytes()
        with translate_errors(refuse_secrets(name)):
            fs, path = file_system(name)
            return bytes(fs.cat_file(path))
    except FileNotFoundError:
        raise MetaclipError(f"{what}: there is no file {name}; check the path") from None
    except StoreError as error:
        raise MetaclipError(f"{what}: {error}") from None
    except (OSError, ValueError) as error:
        raise MetaclipError(f"{what}: {name} cannot be read ({one_line(error)})") from None


def decode_utf8(data: bytes, name: str) -> str:
    """Decode UTF-8 without its byte order mark. Raise MetaclipError, naming the file and the line, for other bytes."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MetaclipError(
            f"{name}, line {line}: not valid UTF-8 ({error.reason}); convert the file to UTF-8"
        ) from None


def read_lines(name: str, what: str, *, may_be_empty: bool = False) -> list[str]:
    """Read a UTF-8 file of one item per line, local or remote; strip the lines and skip blank ones.

    `what` the items are ("urls") is for messages. Raise MetaclipError for a file that cannot be read, is not UTF-8, or
    has no items, unless it `may_be_empty`.
    """
    lines = decode_utf8(read_bytes(name, f"the {what}"), name).splitlines()
    items = [item for line in lines if (item := line.strip())]
    if not items and not may_be_empty:
        raise MetaclipError(f"{name} names no {what}; give one a line")
    return items


def file_digest(file: Any) -> str:
    """Compute the sha256 of an open binary file, as 64 hex digits: what ``sha256sum`` prints."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
