"""Files that are complete or absent: written under a temporary name in the same folder, renamed when they are finished.

A temporary name begins with a dot and ends with ``.tmp``; the owner of a folder removes the temporary files of earlier
processes that were killed.

Nothing is forced to the disk (fsync). A killed process loses nothing that it has written, so only a power cut can truncate
a renamed file, and waiting for the disk at every shard would cost all runs more than repeating a few shards costs the
one. Code that relies on a file after a restart compares its size with the size that was written (`metaclip.stage.stage`).

A file for a store is written to the scratch folder first and uploaded as one object; a file of a store that is not read
from its start to its end is downloaded to the scratch folder. The folder is below $TMPDIR and holds what is in use: the
files of one shard for each worker, and the uids of all shards while they are merged.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from metaclip.errors import MetaclipError, StoreError, is_disk_full, one_line
from metaclip.storage.remote import (
    AnyPath,
    RemotePath,
    fetch_all,
    is_remote,
    opened_store,
    remove_all,
)

_BLOCK: Final = 1 << 22
_BATCH: Final = 64
"""Number of small files that are downloaded together."""
_MIN_STALE_AGE: Final = 60.0
"""Seconds after which an unlocked scratch folder counts as one of a dead process."""


@contextlib.contextmanager
def disk_errors(path: AnyPath) -> Iterator[None]:
    """Turn an OSError raised in the block into a MetaclipError of one line, which names `path` if the error names no file."""
    try:
        yield
    except OSError as error:
        where, what = error.filename or path, one_line(error, 120)
        if is_disk_full(error):
            raise MetaclipError(
                f"{where}: no room left ({what}); free some and run the same command again"
            ) from error
        raise MetaclipError(
            f"{where} cannot be read or written ({what}); check the disk and --out"
        ) from error


@contextlib.contextmanager
def atomic_write(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` if the block succeeds, remove it otherwise."""
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


def link_or_copy(source: AnyPath, target: AnyPath) -> None:
    """Make `target` a hard link to a file that is never written to in place, or a copy where there can be no link."""
    if isinstance(source, RemotePath) and isinstance(target, RemotePath) and source.copy_to(target):
        return
    with local_copy(source) as local, atomic_write(target) as temporary:
        try:
            os.link(local, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(local, temporary)


def temporary_path(path: Path) -> Path:
    """Return a temporary path beside `path` that no other process uses, on this machine or on another."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Return whether a path has a temporary name."""
    return path.name.startswith(".") and path.suffix == ".tmp"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a scratch folder on this machine for the length of a block."""
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
    """Remove the scratch folders of processes that were killed: nobody holds their locks."""
    base = _scratch_base()
    for path in base.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("r") as lock:
            if time.time() - path.stat().st_mtime > _MIN_STALE_AGE:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Yield a local path of a file for the length of a block: its own, or that of a copy downloaded from a store."""
    with local_copies([path]) as (local,):
        yield local


@contextlib.contextmanager
def local_copies(paths: Sequence[AnyPath]) -> Iterator[list[Path]]:
    """Yield local paths of files for the length of a block, in order."""
    remote = [path for path in paths if isinstance(path, RemotePath)]
    if not remote:
        yield list(paths)
        return
    with scratch() as folder:
        fetched = dict(zip(remote, fetch_all(remote, folder), strict=True))
        yield [fetched[path] if isinstance(path, RemotePath) else path for path in paths]


@contextlib.contextmanager
def local_folder(path: AnyPath) -> Iterator[Path]:
    """Yield a local folder for the length of a block: itself, or a copy of a folder in a store without its state."""
    if not isinstance(path, RemotePath):
        yield path
        return
    with scratch() as folder:
        names = [name for name in path.sizes() if not name.startswith(".")]
        fetch_all([path / name for name in names], folder, names)
        yield folder


@contextlib.contextmanager
def uploaded_folder(path: AnyPath, last: str) -> Iterator[Path]:
    """Yield a folder to write to for the length of a block: itself, or one whose files are then uploaded to a store.

    The file named `last` is uploaded last and proves the others. Files of the same names are replaced, others stay.
    """
    if not isinstance(path, RemotePath):
        yield path
        return
    with scratch() as folder:
        yield folder
        names = [found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file()]
        for name in sorted(names, key=lambda name: (name == last, name)):
            (path / name).upload(folder / name)


def iter_local_copies(paths: Sequence[AnyPath]) -> Iterator[Path]:
    """Yield local paths of files, each valid until the next one; files of a store are downloaded in batches."""
    for begin in range(0, len(paths), _BATCH):
        with local_copies(paths[begin : begin + _BATCH]) as found:
            yield from found


def remove_temporaries(folder: AnyPath) -> None:
    """Remove the remains of killed processes: temporary files below `folder`, or unfinished uploads in a store."""
    if isinstance(folder, RemotePath):
        folder.remove_unfinished()
        _remove_stale_scratch()
        return
    for path in list(folder.rglob(".*.tmp")):
        remove(path)


def remove(path: AnyPath) -> None:
    """Remove a file, or a folder with its content; do nothing if there is none."""
    if isinstance(path, RemotePath):
        remove_all([path / name for name in path.sizes()] or [path])
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_size(path: AnyPath) -> int | None:
    """Return the size of a file in bytes; None if there is no file."""
    if isinstance(path, RemotePath):
        return path.size()
    return path.stat().st_size if path.is_file() else None


def write_json(path: AnyPath, value: Any) -> None:
    """Write a JSON file atomically: sorted keys, two spaces of indentation, UTF-8."""
    data = (
        f"{json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)}\n".encode()
    )
    if isinstance(path, RemotePath):
        path.put(data)
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def read_json(path: AnyPath) -> dict[str, Any] | None:
    """Read a JSON object that `write_json` wrote; return None if there is no file, or if it is damaged."""
    try:
        return parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); check its permissions") from None


def parse_json(data: bytes) -> dict[str, Any] | None:
    """Parse a JSON object; return None for anything else."""
    try:
        found = json.loads(data.decode())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def cache_folder() -> Path:
    """Return the folder for files that can be made again: $METACLIP_CACHE, or metaclip/ in the cache folder of the user."""
    if folder := os.environ.get("METACLIP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaclip"


def read_bytes(name: str, what: str) -> bytes:
    """Read a file, local or anything that fsspec opens. Raise MetaclipError, which says `what` the file is for."""
    try:
        if not is_remote(name):
            return Path(name.removeprefix("file://")).read_bytes()
        with opened_store(name) as (fs, path):
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


def gunzip(data: bytes, name: str) -> bytes:
    """Decompress gzip data, return other data as it is. Raise MetaclipError, naming the file, for damaged gzip."""
    try:
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise MetaclipError(
            f"{name} is broken gzip ({one_line(error)}); fetch or make it again"
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
    """Return the sha256 of an open binary file, as the 64 hex digits that ``sha256sum`` prints."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
