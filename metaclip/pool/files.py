"""The files of a pool: a file, a folder or a glob, on this machine or in a store; found, examined and opened.

A file is identified by its size and by a stamp that changes when the file does.
Cost in a store: one request for each 1,000 files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import stat
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

from metaclip.arguments import PATH, check_type
from metaclip.errors import BrokenInput, MetaclipError, StoreError, one_line
from metaclip.pool.columns import is_utf8
from metaclip.storage.files import as_path, is_remote, without_commit
from metaclip.storage.threads import map_parallel

FORMATS: Final = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".tar": "tar",
}  # fmt: skip
CODECS: Final = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_PARALLEL_REQUESTS: Final = 32

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class PoolFile:
    """A file of a pool."""

    name: str
    """Its path below the folder that holds the whole pool: cards show it, and the file is known by it."""
    path: str
    """Absolute path, or url."""
    form: str
    codec: str | None
    size: int
    stamp: str
    """Changes when the file does: its modification time in nanoseconds, or what the store states."""


def list_paths(name: str, paths: Paths) -> list[str]:
    """Return one path or several as a list. Raise TypeError, with the argument's name, for what is no path."""
    several: Sequence[Any] = paths if isinstance(paths, list | tuple) else [paths]
    for path in several:
        check_type(name, path, PATH)
    return [os.fspath(path) for path in several]


def find_files(paths: Paths, form: str | None = None, name: str = "pool") -> list[PoolFile]:
    """Find the files of a pool: a file, a folder (all files below it) or a glob, or several of these, in sorted order.

    With a `form` (such as "tar"), find only files of that form. Otherwise, of a tar and a parquet that share a name, only
    the parquet belongs to the pool. Raise MetaclipError if there is no such file, or if the pool mixes forms, and
    TypeError with the argument's `name` for what is no path.
    """
    wanted = list_paths(name, paths)
    shown = ", ".join(wanted)
    if not wanted:
        raise MetaclipError("no pool is given; name a file, a folder or a glob")
    roots: list[list[str]] = []
    files: dict[str, PoolFile] = {}
    seen = set[str]()  # a file may be named twice, also by a link
    for given in wanted:
        root, found = _find(given)
        roots.append(without_commit(root).split("/"))
        for file in found:
            real = file.path if is_remote(file.path) else os.path.realpath(file.path)
            if (form is None or file.form == form) and real not in seen:
                seen.add(real)
                files[file.path] = file
    if not files:
        raise MetaclipError(f"there is no {form} file in {shown}; check the path")
    tables = {_split_name(path)[0] for path, file in files.items() if file.form == "parquet"}
    # img2dataset writes a parquet beside each tar: it has the same rows, and those whose download failed.
    files = {
        path: file
        for path, file in files.items()
        if file.form != "tar" or _split_name(path)[0] not in tables
    }
    forms = {file.form for file in files.values()}
    if len(forms) > 1:
        raise MetaclipError(
            f"the pool {shown} mixes {' and '.join(sorted(forms))} files; give one kind by a glob"
        )
    # A file has the same name whether it was found by its folder, a glob or its path; no two files share a name.
    above = len("/".join(os.path.commonprefix(roots)))  # noqa: RUF071 - of lists of folders, not of strings
    repositories = {path[: path.index("@") + 41] for path in files if path != without_commit(path)}
    if len({without_commit(one) for one in repositories}) < len(repositories):
        raise MetaclipError(
            f"the pool {shown} has files of two commits of one repository; name one revision"
        )
    # Without the commit, so that a file of the Hub keeps its name when something else is pushed.
    names = {path: without_commit(path)[above:].lstrip("/") for path in files}
    return [dataclasses.replace(file, name=names[path]) for path, file in files.items()]


def stat_files(paths: Sequence[str]) -> list[PoolFile | MetaclipError]:
    """Examine files of a pool again, given their paths; return an error in place of a file that is gone."""

    def stat(path: str) -> PoolFile | MetaclipError:
        try:
            return stat_file(path)
        except MetaclipError as error:
            return error

    return map_parallel(stat, paths, _PARALLEL_REQUESTS if any(map(is_remote, paths)) else 1)


def stat_file(path: str) -> PoolFile:
    """Examine a file of a pool again. Raise MetaclipError if it is gone."""
    _, form, codec = _split_name(path)
    try:
        if form is None:
            raise FileNotFoundError
        size, stamp = as_path(path).identity()
    except FileNotFoundError:
        raise MetaclipError(f"there is no pool at {path}; check the path") from None
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); check its permissions") from None
    return PoolFile(os.path.basename(path), path, form, codec, size, stamp)


def _find(given: str) -> tuple[str, list[PoolFile]]:
    """Find the files of one path: (the folder that holds all of them, files)."""
    try:
        root, files = _find_remote(given) if is_remote(given) else _find_local(given)
    except StoreError as error:
        raise MetaclipError(f"the pool {given} cannot be listed: {error}") from None
    except (OSError, ValueError) as error:
        raise MetaclipError(
            f"the pool {given} cannot be listed ({one_line(error)}); check the path"
        ) from None
    if not files:
        kinds = ", ".join(FORMATS)
        array = "; make .jsonl of a JSON array by jq -c '.[]'" if ".json" in given.lower() else ""
        raise MetaclipError(
            f"there is no pool in {given}: no file that ends in {kinds} (maybe with {', '.join(CODECS)}){array}"
        )
    return root, files


def _find_remote(given: str) -> tuple[str, list[PoolFile]]:
    """Find files in a store, or on a web server."""
    from metaclip.storage.object_store import opened_store
    from metaclip.storage.remote import size_and_stamp

    with opened_store(given) as (fs, path):
        if glob.has_magic(path) and not fs.exists(path):
            root, found = _root_of_glob(path), _glob_remote(fs, path)
        elif (found := fs.find(path, detail=True)).keys() - {
            path
        }:  # asking whether it is a folder would list it too
            _refuse_run({name[len(path) :].lstrip("/").partition("/")[0] for name in found}, given)
            root = path
        elif found:
            root = path.rpartition("/")[0]
        else:
            as_path(given).exists()  # raises an error that says so if there is no bucket
            raise MetaclipError(f"there is no pool at {given}; check the path")
        files = [
            PoolFile(name, fs.unstrip_protocol(name), form, codec, *size_and_stamp(found[name]))
            for name, form, codec in _pool_files(found, root, path)
        ]
        return fs.unstrip_protocol(root or "/"), files


def _find_local(given: str) -> tuple[str, list[PoolFile]]:
    """Find files on this machine."""
    path = as_path(given).address
    if glob.has_magic(path) and not os.path.exists(path):
        root, found = _root_of_glob(path), _glob_local(path)
    elif os.path.isdir(path):
        _refuse_run(os.listdir(path), given)
        root, found = path, _files_below(path)
    elif os.path.exists(path):
        root, found = os.path.dirname(path), [path]
    else:
        raise MetaclipError(f"there is no pool at {given}; check the path")
    files: dict[tuple[int, int] | str, PoolFile] = {}
    again = []
    # A link sorts behind what it leads to: of several paths to one file, the file's own is read.
    for name, form, codec in sorted(
        _pool_files(found, root, path), key=lambda one: (os.path.realpath(one[0]) != one[0], one[0])
    ):
        try:
            status = os.stat(name)
        except FileNotFoundError:  # a link that leads nowhere: the file is lost, and not the pool
            files[name] = PoolFile(name, name, form, codec, 0, "gone")
            continue
        if not stat.S_ISREG(status.st_mode):
            raise MetaclipError(
                f"{name} is no file but a pipe, a socket or a device; take it out of the pool"
            )
        file = PoolFile(name, name, form, codec, status.st_size, str(status.st_mtime_ns))
        if files.setdefault((status.st_dev, status.st_ino), file) is not file:
            again.append(name)
    _note_left_out(again, "that lead to files which other paths lead to")
    return os.path.abspath(root or "/"), sorted(files.values(), key=lambda file: file.path)


def _root_of_glob(path: str) -> str:
    return path[: path.index(next(c for c in path if c in "*?["))].rpartition("/")[0]


def _pool_files(found: Iterable[str], root: str, given: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield the files that belong to a pool, in order: (path, form, codec)."""
    hidden = []
    for name in sorted(found):
        parts = PurePosixPath(name[len(root) :]).parts
        _, form, codec = _split_name(name)
        if form is None:
            continue
        if name != given and any(part.startswith((".", "_")) for part in parts):
            hidden.append(name)
            continue
        if not is_utf8(name):
            raise MetaclipError(
                f"the name of {name!a} is not valid UTF-8, so no card can show it; rename the file"
            )
        yield name, form, codec
    _note_left_out(hidden, "whose names, or whose folders' names, begin with . or _")


def _note_left_out(names: Sequence[str], why: str) -> None:
    """Report on standard error which files are left out of a pool."""
    if names:
        print(f"metaclip: {len(names)} files {why} are left out (first: {names[0]})", file=sys.stderr)


def _glob_remote(fs: Any, pattern: str) -> dict[str, Any]:
    """Find the files in a store that match a glob or stand below a folder that matches it."""
    found: dict[str, Any] = {}
    for name, info in fs.glob(pattern, detail=True).items():
        found |= fs.find(name, detail=True) if info["type"] == "directory" else {name: info}
    return found


def _glob_local(pattern: str) -> list[str]:
    """Find the same on this machine; follow links to folders, which fsspec does not."""
    found: list[str] = []
    for name in glob.glob(pattern, recursive=True):
        found += _files_below(name) if os.path.isdir(name) else [name]
    return found


def _files_below(folder: str) -> list[str]:
    """Find the files below a folder on this machine. Raise OSError for a folder that cannot be read: fsspec skips it."""

    def refuse(error: OSError) -> None:
        raise error

    found, seen = [], set[str]()
    for below, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        # Links may lead to a folder above, or to one that is found without them: each is walked once.
        seen.add(os.path.realpath(below))
        folders[:] = [
            name for name in sorted(folders) if _is_new(os.path.join(below, name), folder, seen)
        ]
        found += [os.path.join(below, name) for name in names]
    return found


def _is_new(path: str, root: str, seen: set[str]) -> bool:
    """Return whether a folder below `root` must be walked; a link to a folder that is walked anyway need not be."""
    if not os.path.islink(path):
        return True
    real, root = os.path.realpath(path), os.path.realpath(root)
    if real in seen or os.path.commonpath([real, root]) == root:
        _note_left_out([path], "behind a link to a folder of the same pool")
        return False
    seen.add(real)
    return True


def _refuse_run(names: Container[str], given: str) -> None:
    """Raise MetaclipError if a folder with these files and folders is a run folder, or one of metaclip inspect."""
    if all(name in names for name in ("manifest.json", "images", "outcome")):
        raise MetaclipError(
            f"{given} holds what metaclip inspect found, not a pool; give the tars that it looked at, or the list that "
            f"they were downloaded from, with `MatchSettings(subset={given.rstrip('/') + '/subset.npy'!r})`"
        )
    if "manifest.json" in names and ("matched" in names or "curated" in names):
        curated = "curated" in names
        hint = (
            f"its curated pairs are the pool {given.rstrip('/')}/curated"
            if curated
            else "balance it first"
        )
        raise MetaclipError(f"{given} is a run folder, not a pool; {hint}")


def _split_name(path: str) -> tuple[str, str | None, str | None]:
    """Split a path into stem, form and codec; the form is None if a pool has no such files."""
    stem, suffix = os.path.splitext(path)
    if codec := CODECS.get(suffix.lower()):
        stem, suffix = os.path.splitext(stem)
    form = FORMATS.get(suffix.lower())
    return stem, None if codec and form == "parquet" else form, codec


@contextlib.contextmanager
def translate_read_errors(file: PoolFile) -> Iterator[None]:
    """Raise a BrokenInput that names the file if it cannot be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise BrokenInput(
            f"{file.path} is gone; put it back, or run again with `RunOptions(overwrite=True)`"
        ) from error
    except StoreError as error:
        raise BrokenInput(str(error)) from error
    except MemoryError as error:
        raise BrokenInput(
            f"{file.path} needs more memory than there is; make it of smaller parts"
        ) from error
    except Exception as error:
        unreadable = isinstance(error, OSError | pa.ArrowException | EOFError | ValueError)
        # The clients of stores raise exceptions of their own, which share no base class.
        of_client = type(error).__module__.partition(".")[0] not in ("builtins", "metaclip")
        if not unreadable and not (of_client and is_remote(file.path)):
            raise
        reason = one_line(error, 160)
        if is_remote(file.path):
            from metaclip.storage.object_store import without_secrets

            reason = without_secrets(reason)
        what = f"{file.path} cannot be read as {file.form} ({reason})"
        raise BrokenInput(f"{what}; fetch or make the file again") from error


def open_file(file: PoolFile) -> Any:
    """Open a file for reading its bytes as they are stored."""
    return as_path(file.path).open("rb")


def open_decompressed(file: PoolFile) -> Any:
    """Open a file for reading its decompressed bytes."""
    if not is_remote(file.path):
        return pa.input_stream(file.path, compression=file.codec)
    raw = pa.PythonFile(open_file(file), mode="r")
    return pa.CompressedInputStream(raw, file.codec) if file.codec else raw


def open_tar(file: PoolFile) -> Any:
    """Open a tar for reading forwards; a local uncompressed one with a small buffer, so that images can be skipped."""
    return open_decompressed(file) if is_remote(file.path) or file.codec else open_file(file)
