"""Files of this machine and of stores: paths by name, whole-file writes, copies on this machine, JSON and lists.

A path is a `LocalPath` or a `RemotePath`; both have the same methods, and `as_path` decides which one a name is. The
functions take either, or any other `pathlib.Path`.

A file for a store is written to the scratch folder first and uploaded as one object; a file of a store that is not read
from its start to its end is downloaded to the scratch folder. The folder is below $TMPDIR and holds what is in use: the
files of one shard for each worker, and the uids of all shards while they are merged.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import posixpath
import re
import urllib.parse
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, Final

import msgspec

from metaclip.errors import MetaclipError, StoreError, is_disk_full, one_line
from metaclip.storage.local import LocalPath
from metaclip.storage.threads import map_parallel

_BLOCK: Final = 1 << 22
_BATCH: Final = 64
"""Number of small files that are downloaded together."""
MAX_FILE: Final = 1 << 28
"""Largest number of bytes of a file that is read as a whole, decompressed: lists, archives and their members, images."""
_SMALL_AT_ONCE: Final = 32
_LARGE_AT_ONCE: Final = 8

AnyPath = LocalPath
"""A path on this machine or in a store: a `LocalPath` or a `RemotePath`."""


# --- paths


def is_remote(path: object) -> bool:
    """Return whether a path is an address, such as ``s3://bucket/run``."""
    return isinstance(path, str | os.PathLike) and "://" in str(path) and not _is_file_url(str(path))


def _is_file_url(name: str) -> bool:
    return name[:7].lower() == "file://"


def as_path(path: str | os.PathLike[str]) -> AnyPath:
    """Return a path on this machine, in which ~ is the home folder, or in a store.

    Raise MetaclipError for an address that contains a secret.
    """
    if isinstance(path, LocalPath):
        return path
    name = str(path)
    if is_remote(name):
        from metaclip.storage.remote import RemotePath

        return RemotePath.parse(name)
    if _is_file_url(name):
        return LocalPath(urllib.parse.unquote(re.sub("^localhost(?=/)", "", name[7:])))
    return LocalPath(os.path.expanduser(name))


def relative_path(path: Path, other: Path) -> str:
    """Return the path from a folder to `other`: relative on one machine or in one store, otherwise absolute."""
    start, end = as_path(path).address, as_path(other).address
    (scheme, _, folder), (other_scheme, _, there) = start.rpartition("://"), end.rpartition("://")
    return posixpath.relpath(there, folder) if scheme == other_scheme else end


def resolve_path(path: AnyPath, relative: str) -> AnyPath:
    """Return the path that `relative_path` described, seen from a folder."""
    return as_path(relative) if is_remote(relative) or os.path.isabs(relative) else path / relative


def is_inside(path: AnyPath, folder: AnyPath) -> bool:
    """Return whether a path is a folder or below it; links in both must be resolved."""
    return f"{path.address}/".startswith(f"{folder.address.rstrip('/')}/")


def without_commit(address: str) -> str:
    """Return an address on the Hub without the commit in it; other addresses as they are."""
    return re.sub(r"^(hf://[^@]+)@[0-9a-f]{40}(?=/|$)", r"\1", address)


def is_temporary(path: PurePath) -> bool:
    """Return whether a path has a temporary name."""
    return path.name.startswith(".") and path.suffix == ".tmp"


# --- whole files


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
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
            f"{where} cannot be read or written ({what}); check the disk and `out=...`"
        ) from error


def atomic_write(path: Path) -> contextlib.AbstractContextManager[Path]:
    """Yield a temporary path to write to; the file is at `path` if the block succeeds, and nowhere otherwise."""
    return as_path(path).atomic_write()


def local_copy(path: Path) -> contextlib.AbstractContextManager[Path]:
    """Yield a local path of a file for the length of a block: its own, or that of a copy downloaded from a store."""
    return as_path(path).local_copy()


@contextlib.contextmanager
def local_copies(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield local paths of files for the length of a block, in order."""
    with contextlib.ExitStack() as held:
        yield map_parallel(lambda path: held.enter_context(local_copy(path)), paths, _LARGE_AT_ONCE)


def iter_local_copies(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield local paths of files, each valid until the next one; files of a store are downloaded in batches."""
    for begin in range(0, len(paths), _BATCH):
        with local_copies(paths[begin : begin + _BATCH]) as found:
            yield from found


def read_all(paths: Sequence[Path]) -> dict[Path, bytes]:
    """Return the bytes of many small files, read in parallel; missing files are left out."""

    def read(path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    found = zip(paths, map_parallel(read, paths, _SMALL_AT_ONCE), strict=True)
    return {path: data for path, data in found if data is not None}


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content; do nothing if there is none."""
    as_path(path).remove()


# --- contents


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically: sorted keys, two spaces of indentation, UTF-8."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    as_path(path).put(f"{text}\n".encode())


def read_json(path: Path, kind: Any = dict[str, Any]) -> dict[str, Any] | None:
    """Read a JSON object that `write_json` wrote; return None if there is no file, or if it is damaged (`parse_json`)."""
    try:
        return parse_json(path.read_bytes(), kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); check its permissions") from None


def parse_json(data: bytes, kind: Any = dict[str, Any]) -> dict[str, Any] | None:
    """Parse a JSON object; return None for anything else, and for an object that is not of a `kind`, such as a msgspec.Struct."""
    try:
        found = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and fault_in(found, kind) is None else None


def fault_in(value: Any, kind: Any) -> str | None:
    """Return what in a JSON value is not as `kind` says, any type that msgspec knows; None if all is."""
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        return one_line(error)
    return None


def crc32(path: Path) -> str:
    """Return the CRC-32 of a file as 8 hex digits: it detects damage, not forgery. Cost: 0.25 s per GB, and the reading."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def cache_folder() -> Path:
    """Return the folder for files that can be made again: $METACLIP_CACHE, or metaclip/ in the cache folder of the user."""
    if folder := os.environ.get("METACLIP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaclip"


def read_whole(file: Any, name: str) -> bytes:
    """Read an open file to its end. Raise MetaclipError, naming it, if it has more than MAX_FILE bytes."""
    data = bytes(file.read(MAX_FILE + 1))
    check_size(len(data), name)
    return data


def check_size(size: int, name: str, most: int = MAX_FILE) -> None:
    """Raise MetaclipError if the content of a file is larger than `most` bytes."""
    if size > most:
        raise MetaclipError(
            f"{name} holds more than {most >> 20} MiB, the most that is read of such a file; divide it, or check the path"
        )


def read_bytes(name: str, what: str) -> bytes:
    """Read a file, local or anything that fsspec opens. Raise MetaclipError, which says `what` the file is for."""
    try:
        with as_path(name).open("rb") as file:
            return read_whole(file, name)
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
    """Decompress gzip data, return other data as it is. Raise MetaclipError, naming the file, if it is damaged or too large."""
    try:
        return (
            read_whole(gzip.GzipFile(fileobj=io.BytesIO(data)), name) if data[:2] == b"\x1f\x8b" else data
        )
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
    return hashlib.file_digest(file, "sha256").hexdigest()
