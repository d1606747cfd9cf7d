"""Paths in a store: ``s3://bucket/run`` and whatever else fsspec opens, with the few things that a run folder needs.

An object is whole or not there: what is put is seen when all of it has arrived. Nothing is cached, because other
processes write too. What looks at many objects asks for them at once: a listing gives 1,000 names and sizes a request,
and small objects are read many at a time.

Cost: a request for 1,000 objects listed or removed; about 55 requests a shard of a run, from the pool to the account. A
request took 8 ms against a server on the same two cores, other work beside it: over a network it is the way that counts.
"""

# The signatures are narrower than pathlib's: what a run folder does not ask for is not there.
# mypy: disable-error-code="override, misc"

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from metaclip.storage.object_store import (
    AlreadyExists,
    StoreError,
    error_code,
    file_system,
    has_no_bucket,
    refuse_secrets,
    translate_errors,
    without_secrets,
)
from metaclip.storage.threads import map_parallel

__all__ = [
    "AlreadyExists", "AnyPath", "RemotePath", "StoreError", "absolute_path", "as_path", "fetch_all", "file_system", "is_inside",
    "is_remote", "read_all", "refuse_secrets", "relative_path", "remove_all", "resolve_path",
    "translate_errors", "without_secrets",
]  # fmt: skip

_SMALL_AT_ONCE: Final = 32
_LARGE_AT_ONCE: Final = 8


def is_remote(path: object) -> bool:
    """Tell whether a path is an address, such as ``s3://bucket/run``."""
    if isinstance(path, RemotePath):
        return True
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    return isinstance(text, str) and "://" in text and not text.startswith("file://")


def as_path(path: str | os.PathLike[str] | RemotePath) -> AnyPath:
    """Give a path on this machine, or one in a store. Raise MetaclipError for an address that holds a secret."""
    if isinstance(path, RemotePath):
        return path
    if not is_remote(path):
        return Path(os.fspath(path).removeprefix("file://"))
    scheme, _, rest = refuse_secrets(os.fspath(path)).partition("://")
    return RemotePath(f"{scheme}://{'/'.join(part for part in rest.split('/') if part)}")


if TYPE_CHECKING:
    # Who joins, lists, reads and writes need not know which of both it has, so it is a Path to mypy. At run time it is
    # none: what only a file of this machine can do raises, instead of making a folder named "s3:".
    _Path = Path
else:
    _Path = object


@dataclasses.dataclass(frozen=True)
class Stat:
    """What a store says of an object."""

    st_size: int


@dataclasses.dataclass(frozen=True, order=True)
class RemotePath(_Path):
    """A path in a store. It has the names of pathlib's, for what both can do; folders are there when they hold files."""

    url: str

    def __str__(self) -> str:
        """Give the address."""
        return self.url

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        """Give the path of something below, or beside (``..``)."""
        scheme, _, rest = self.url.partition("://")
        return RemotePath(f"{scheme}://{posixpath.normpath(posixpath.join(rest, os.fspath(name)))}")

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self.url.partition("://")[2])

    @property
    def name(self) -> str:
        """The last part."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return self._pure.stem

    @property
    def parent(self) -> RemotePath:
        """The folder."""
        return self / ".."

    def with_name(self, name: str) -> RemotePath:
        """Give the path of another name in the same folder."""
        return self.parent / name

    def relative_to(self, other: AnyPath) -> PurePosixPath:
        """Give the path from a folder above."""
        return PurePosixPath(self.url).relative_to(PurePosixPath(str(other)))

    def is_relative_to(self, other: AnyPath) -> bool:
        """Tell whether it is a folder, or below it."""
        return PurePosixPath(self.url).is_relative_to(PurePosixPath(str(other)))

    def resolve(self) -> RemotePath:
        """Give the path itself: a store has no links."""
        return self

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a store has no folders."""

    @contextlib.contextmanager
    def _asked(self) -> Iterator[tuple[Any, str]]:
        with translate_errors(self.url):
            yield file_system(self.url)

    def _info(self) -> dict[str, Any] | None:
        with self._asked() as (fs, path):
            try:
                return dict(fs.info(path))
            except FileNotFoundError as error:
                if has_no_bucket(error):
                    raise
                return None

    def exists(self) -> bool:
        """Tell whether there is an object, or a folder that holds some."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Tell whether there is an object."""
        found = self._info()
        return found is not None and found["type"] == "file"

    def is_dir(self) -> bool:
        """Tell whether there is a folder that holds something."""
        found = self._info()
        return found is not None and found["type"] == "directory"

    def is_symlink(self) -> bool:
        """Tell that it is none."""
        return False

    def size(self) -> int | None:
        """Give the size of an object; None where there is none."""
        found = self._info()
        return int(found["size"]) if found is not None and found["type"] == "file" else None

    def stat(self) -> Stat:
        """Give the size. Raise FileNotFoundError where there is no object."""
        if (size := self.size()) is None:
            raise FileNotFoundError(f"there is no {self.url}")
        return Stat(size)

    def names(self) -> list[str]:
        """List the names of files and folders in a folder."""
        with self._asked() as (fs, path):
            try:
                found = fs.ls(path, detail=False)
            except FileNotFoundError as error:
                if has_no_bucket(error):
                    raise
                return []
            return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def iterdir(self) -> Iterator[RemotePath]:
        """Give what is in a folder."""
        return (self / name for name in self.names())

    def glob(self, pattern: str) -> list[RemotePath]:
        """List what is in a folder under names that match a pattern without folders; one listing."""
        return [self / name for name in self.names() if fnmatch.fnmatchcase(name, pattern)]

    def sizes(self) -> dict[str, int]:
        """List all files below a folder: size by path from it, in one listing."""
        with self._asked() as (fs, path):
            found = fs.find(path, detail=True)
        prefix = path.rstrip("/") + "/"
        return {
            name.removeprefix(prefix): int(info["size"])
            for name, info in found.items()
            if name.startswith(prefix) and not name.endswith("/")
        }

    def open(self, mode: str = "rb") -> Any:
        """Open an object for reading bytes."""
        assert mode == "rb"
        with self._asked() as (fs, path):
            return fs.open(path, "rb")

    def read_bytes(self) -> bytes:
        """Read an object. Raise FileNotFoundError where there is none."""
        with self._asked() as (fs, path):
            return bytes(fs.cat_file(path))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read an object as text."""
        return self.read_bytes().decode(encoding)

    def upload(self, local: Path) -> None:
        """Put a file of this machine here, whole or not at all."""
        with self._asked() as (fs, path):
            fs.put_file(os.fspath(local), path)

    def put(self, data: bytes) -> str | None:
        """Put bytes here; give the store's tag of them, where it has one."""
        return self._put(data, {})

    def put_new(self, data: bytes) -> str | None:
        """Put bytes where no object is. Raise AlreadyExists if there is one, as far as the store can tell."""
        return self._put(data, {"IfNoneMatch": "*"})

    def put_over(self, data: bytes, tag: str | None) -> str | None:
        """Put bytes over the object with this tag. Raise AlreadyExists if it is another one, as far as the store can tell."""
        return self._put(data, {} if tag is None else {"IfMatch": tag})

    def _put(self, data: bytes, condition: Mapping[str, str]) -> str | None:
        with self._asked() as (fs, path):
            if not hasattr(fs, "call_s3"):
                if "IfNoneMatch" in condition and fs.exists(path):
                    raise FileExistsError(path)
                fs.pipe_file(path, data)
                return None
            bucket, _, key = path.partition("/")
            try:
                put = fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
            except OSError as error:
                if not condition or error_code(error) not in ("NotImplemented", "501", "InvalidArgument"):
                    raise
                put = fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data)
            return str(put["ETag"])

    def age(self) -> float | None:
        """Give the seconds since an object was put, by the store's own clock; None where it does not say."""
        with self._asked() as (fs, path):
            if not hasattr(fs, "call_s3"):
                return None
            bucket, _, key = path.partition("/")
            head = fs.call_s3("head_object", Bucket=bucket, Key=key)
        from email.utils import parsedate_to_datetime

        said = head["ResponseMetadata"]["HTTPHeaders"].get("date")
        return None if not said else (parsedate_to_datetime(said) - head["LastModified"]).total_seconds()

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object."""
        with self._asked() as (fs, path):
            try:
                fs.rm_file(path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove_unfinished(self) -> None:
        """Remove the parts of uploads below a folder that were never finished, where the store lets one see them."""
        with self._asked() as (fs, path):
            if not hasattr(fs, "call_s3"):
                return
            bucket, _, key = path.partition("/")
            # Who may not list them did not leave them; and some stores do not have the call.
            with contextlib.suppress(OSError):
                found = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/")
                for upload in found.get("Uploads", []):
                    fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


AnyPath = Path
"""A path on this machine or in a store: one of pathlib's, or a `RemotePath`."""


def read_all(paths: Sequence[RemotePath]) -> dict[RemotePath, bytes]:
    """Read many small objects, many at a time; those that are gone are left out."""

    def read(path: RemotePath) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    found = zip(paths, map_parallel(read, paths, _SMALL_AT_ONCE), strict=True)
    return {path: data for path, data in found if data is not None}


def fetch_all(paths: Sequence[RemotePath], folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Fetch objects to a folder of this machine, several at a time; give their paths there, of `names` if given."""

    def fetch(item: tuple[RemotePath, Path]) -> Path:
        path, local = item
        local.parent.mkdir(parents=True, exist_ok=True)
        with path._asked() as (fs, name):
            fs.get_file(name, os.fspath(local))
        return local

    wanted = names or [f"{index:06d}-{path.name}" for index, path in enumerate(paths)]
    return map_parallel(
        fetch, [(path, folder / name) for path, name in zip(paths, wanted, strict=True)], _LARGE_AT_ONCE
    )


def remove_all(paths: Iterable[RemotePath]) -> None:
    """Remove objects, 1,000 a request where the store can; none is fine."""
    wanted = list(paths)
    for begin in range(0, len(wanted), 1000):
        some = wanted[begin : begin + 1000]
        with some[0]._asked() as (fs, path):
            if not hasattr(fs, "call_s3"):
                map_parallel(lambda path: path.unlink(missing_ok=True), some, _SMALL_AT_ONCE)
                continue
            keys = [{"Key": file_system(path.url)[1].partition("/")[2]} for path in some]
            delete = {"Objects": keys, "Quiet": True}
            answer = fs.call_s3("delete_objects", Bucket=path.partition("/")[0], Delete=delete)
            for error in answer.get("Errors", []):
                raise PermissionError(f"{error.get('Key')}: {error.get('Message')}")


def relative_path(path: AnyPath, other: AnyPath) -> str:
    """Give the way from a folder to another: relative within one machine or store, else the whole path."""
    if isinstance(path, RemotePath) and isinstance(other, RemotePath):
        one, two = path.url.partition("://"), other.url.partition("://")
        return posixpath.relpath(two[2], one[2]) if one[0] == two[0] else other.url
    if isinstance(path, RemotePath) or isinstance(other, RemotePath):
        return absolute_path(other)
    return os.path.relpath(other, path)


def absolute_path(path: AnyPath) -> str:
    """Give the whole path of a folder."""
    return path.url if isinstance(path, RemotePath) else os.path.abspath(path)


def is_inside(path: AnyPath, folder: AnyPath) -> bool:
    """Tell whether a path is a folder, or below it; of both, links are resolved."""
    return isinstance(path, RemotePath) == isinstance(folder, RemotePath) and path.is_relative_to(folder)


def resolve_path(path: AnyPath, way: str) -> AnyPath:
    """Follow a way that `relative_path` gave from a folder."""
    return as_path(way) if "://" in way or os.path.isabs(way) else path / way
