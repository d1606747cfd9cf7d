"""The files of a pool: found by a file, a folder or a glob, on this machine or in a store.

A file is known by its size and by a stamp that changes when it does. Cost in a store: one request for 1,000 files.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from metaclip.errors import MetaclipError, one_line
from metaclip.pool import jsonl
from metaclip.storage.remote import (
    StoreError,
    as_path,
    file_system,
    is_remote,
    map_parallel,
    refuse_secrets,
    translate_errors,
)

FORMATS: Final = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".tar": "tar",
}  # fmt: skip
CODECS: Final = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_AT_ONCE: Final = 32

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class PoolFile:
    """One file of a pool."""

    name: str
    """Path below the folder that holds all of the pool: what cards show, and what it is known by."""
    path: str
    """Absolute path, or url."""
    form: str
    codec: str | None
    size: int
    stamp: str
    """What changes when the file does: modification time in nanoseconds, or what the store gives."""


def find_files(paths: Paths, form: str | None = None) -> list[PoolFile]:
    """Find the files of a pool: a file, a folder (all below it) or a glob, or several of these, in sorted order.

    With a `form` ("tar"), find files of that form alone; else, of a tar with a parquet of its name beside it, the
    parquet alone is the pool's. Raise MetaclipError where there is none, or where the pool mixes forms.
    """
    wanted = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not wanted:
        raise MetaclipError("no pool is given; name a file, a folder or a glob")
    roots: list[list[str]] = []
    files: dict[str, PoolFile] = {}
    for given in wanted:
        root, found = _find(os.fspath(given))
        roots.append(root.split("/"))
        for file in found:
            if form is None or file.form == form:
                files.setdefault(file.path, file)
    if not files:
        raise MetaclipError(f"there is no {form} file in {_shown(wanted)}; check the path")
    tables = {_stem(path) for path, file in files.items() if file.form == "parquet"}
    # img2dataset writes a parquet beside each tar: it has the same rows, and those that failed.
    files = {path: file for path, file in files.items() if file.form != "tar" or _stem(path) not in tables}
    forms = {file.form for file in files.values()}
    if len(forms) > 1:
        raise MetaclipError(
            f"the pool {_shown(wanted)} mixes {' and '.join(sorted(forms))} files; give one kind by a glob"
        )
    # A glob, its folder and its files one by one are one pool; and no two files have one name.
    above = len("/".join(os.path.commonprefix(roots)))  # noqa: RUF071 - of lists of folders, not of strings
    return [dataclasses.replace(file, name=file.path[above:].lstrip("/")) for file in files.values()]


def _shown(wanted: Iterable[Any]) -> str:
    return ", ".join(str(path) for path in wanted)


def stat_files(paths: Sequence[str]) -> list[PoolFile | MetaclipError]:
    """Look again at files of a pool, by the paths they were found under; what is wrong with those that are gone."""

    def look(path: str) -> PoolFile | MetaclipError:
        try:
            return stat_file(path)
        except MetaclipError as error:
            return error

    return map_parallel(look, paths, _AT_ONCE if any(map(is_remote, paths)) else 1)


def stat_file(path: str) -> PoolFile:
    """Look again at a file of a pool. Raise MetaclipError if it is gone."""
    kind = _form(path)
    try:
        if kind is None:
            raise FileNotFoundError
        if is_remote(path):
            with translate_errors(path):
                fs, name = file_system(path)
                size, stamp = _size_and_stamp(fs.info(name))
        else:
            size, stamp = _size_and_stamp_here(path)
    except FileNotFoundError:
        raise MetaclipError(f"there is no pool at {path}; check the path") from None
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); check its permissions") from None
    return PoolFile(os.path.basename(path), path, *kind, size, stamp)


def _find(given: str) -> tuple[str, list[PoolFile]]:
    """Find the files of one path: (the folder that they are below, files)."""
    try:
        root, files = _find_there(given) if is_remote(given) else _find_here(os.path.abspath(_local(given)), given)
    except StoreError as error:
        raise MetaclipError(f"the pool {given} cannot be listed: {error}") from None
    except (OSError, ValueError) as error:
        raise MetaclipError(f"the pool {given} cannot be listed ({one_line(error)}); check the path") from None
    if not files:
        kinds = ", ".join(FORMATS)
        raise MetaclipError(
            f"there is no pool in {given}: no file that ends in {kinds} (maybe with {', '.join(CODECS)})"
        )
    return root, files


def _local(given: str) -> str:
    return os.path.expanduser(given.removeprefix("file://"))


def _find_there(given: str) -> tuple[str, list[PoolFile]]:
    """Find files in a store."""
    with translate_errors(refuse_secrets(given)):
        fs, path = file_system(given)
        if glob.has_magic(path) and not fs.exists(path):
            root, found = _root_of_glob(path), _matching(fs, path)
        elif (found := fs.find(path, detail=True)).keys() - {path}:  # to ask whether it is a folder would list it too
            _refuse_run(fs.exists, path, given)
            root = path
        elif found:
            root = path.rpartition("/")[0]
        else:
            as_path(given).exists()  # which says so where there is no bucket
            raise MetaclipError(f"there is no pool at {given}; check the path")
        files = []
        for name, kind in _of_pool(found, root, path):
            files.append(PoolFile(name, fs.unstrip_protocol(name), *kind, *_size_and_stamp(found[name])))
        return fs.unstrip_protocol(root or "/"), files


def _find_here(path: str, given: str) -> tuple[str, list[PoolFile]]:
    """Find files on this machine."""
    if glob.has_magic(path) and not os.path.exists(path):
        root, found = _root_of_glob(path), _matching_here(path)
    elif os.path.isdir(path):
        _refuse_run(os.path.exists, path, given)
        root, found = path, _below(path)
    elif os.path.exists(path):
        root, found = os.path.dirname(path), [path]
    else:
        raise MetaclipError(f"there is no pool at {given}; check the path")
    files = [PoolFile(name, name, *kind, *_size_and_stamp_here(name)) for name, kind in _of_pool(found, root, path)]
    return os.path.abspath(root or "/"), files


def _root_of_glob(path: str) -> str:
    return path[: path.index(next(c for c in path if c in "*?["))].rpartition("/")[0]


def _of_pool(found: Iterable[str], root: str, given: str) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Give those of the files that are a pool's, in order, each with its form and codec."""
    for name in sorted(found):
        parts = PurePosixPath(name[len(root) :]).parts
        if (kind := _form(name)) is None or (name != given and any(part.startswith((".", "_")) for part in parts)):
            continue
        if not jsonl.is_utf8(name):
            raise MetaclipError(f"the name of {name!a} is not valid UTF-8, so no card can show it; rename the file")
        yield name, kind


def _matching(fs: Any, pattern: str) -> dict[str, Any]:
    """Find the files that match a glob in a store, and those below folders that do: what a shell would name."""
    found: dict[str, Any] = {}
    for name, info in fs.glob(pattern, detail=True).items():
        found |= fs.find(name, detail=True) if info["type"] == "directory" else {name: info}
    return found


def _matching_here(pattern: str) -> list[str]:
    """Find the same on this machine, through links to folders too, where fsspec does not go."""
    found: list[str] = []
    for name in glob.glob(pattern, recursive=True):
        found += _below(name) if os.path.isdir(name) else [name]
    return found


def _below(folder: str) -> list[str]:
    """Find the files below a folder on this machine. Raise OSError for one that may not be read: fsspec leaves it out."""

    def refuse(error: OSError) -> None:
        raise error

    walk = os.walk(folder, onerror=refuse, followlinks=True)
    return [os.path.join(below, name) for below, _, names in walk for name in names]


def _refuse_run(exists: Callable[[str], bool], path: str, given: str) -> None:
    matched, curated = (exists(f"{path}/{stage}") for stage in ("matched", "curated"))
    if (matched or curated) and exists(f"{path}/manifest.json"):
        hint = f"its curated pairs are the pool {given.rstrip('/')}/curated" if curated else "balance it first"
        raise MetaclipError(f"{given} is a run folder, not a pool; {hint}")


def _form(name: str) -> tuple[str, str | None] | None:
    stem, suffix = os.path.splitext(name.lower())
    codec = CODECS.get(suffix)
    if codec:
        suffix = os.path.splitext(stem)[1]
    form = FORMATS.get(suffix)
    return None if form is None or (codec and form == "parquet") else (form, codec)


def _stem(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    return os.path.splitext(stem)[0] if suffix.lower() in CODECS else stem


def _size_and_stamp(info: dict[str, Any]) -> tuple[int, str]:
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
    return int(info["size"]), str(stamp)


def _size_and_stamp_here(path: str) -> tuple[int, str]:
    status = os.stat(path)
    return status.st_size, str(status.st_mtime_ns)
