"""Paths in a store: ``s3://bucket/run`` and whatever else fsspec opens, with the operations that a run folder needs.

An object is complete or absent: an upload becomes visible when all of it has arrived. Nothing is cached, because other
processes write too. Operations on many objects share requests: a listing returns 1,000 names and sizes per request, and
small objects are read in parallel.

Cost: one request per 1,000 objects listed or removed; about 55 requests per shard of a run, from the pool to the account.
A request took 8 ms to a server on the same two busy cores; over a network, latency dominates.
"""

# The signatures are narrower than those of pathlib: a run folder needs no more.
# mypy: disable-error-code="override, misc"

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from metaclip.storage.threads import map_parallel

_SMALL_AT_ONCE: Final = 32
_LARGE_AT_ONCE: Final = 8


def is_remote(path: object) -> bool:
    """Return whether a path is an address, such as ``s3://bucket/run``."""
    is_path = isinstance(path, RemotePath | str | os.PathLike)
    return is_path and "://" in str(path) and not str(path).startswith("file://")


def as_path(path: str | os.PathLike[str] | RemotePath) -> AnyPath:
    """Return a path on this machine or in a store. Raise MetaclipError for an address that contains a secret."""
    if isinstance(path, RemotePath):
        return path
    if not is_remote(path):
        return Path(os.fspath(path).removeprefix("file://")).expanduser()
    from metaclip.storage.object_store import refuse_secrets

    scheme, _, rest = refuse_secrets(os.fspath(path)).partition("://")
    return RemotePath(f"{scheme}://{'/'.join(part for part in rest.split('/') if part)}")


@contextlib.contextmanager
def opened_store(url: str) -> Iterator[tuple[Any, str]]:
    """Yield the file system of an address, and the path in it.

    Raise MetaclipError for an address that contains a secret. Exceptions of store clients that are raised in the block become
    a StoreError of one line, except FileNotFoundError for a missing file.
    """
    from metaclip.storage import object_store

    with object_store.translate_errors(object_store.refuse_secrets(url)):
        yield object_store.file_system(url)


if TYPE_CHECKING:
    # Code that joins, lists, reads and writes works with both kinds of path, so RemotePath is a Path to mypy. At run time
    # it is not, so that operations on local files raise instead of creating a folder named "s3:".
    _Path = Path
else:
    _Path = object


@dataclasses.dataclass(frozen=True, order=True)
class RemotePath(_Path):
    """A path in a store, with the method names of pathlib; a folder exists as long as it contains files."""

    url: str

    def __str__(self) -> str:
        """Return the address."""
        return self.url

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        """Return the path of a file below this folder, or beside it (``..``)."""
        scheme, _, rest = self.url.partition("://")
        return RemotePath(f"{scheme}://{posixpath.normpath(posixpath.join(rest, os.fspath(name)))}")

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self.url.partition("://")[2])

    @property
    def name(self) -> str:
        """The last component."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The last component without its suffix."""
        return self._pure.stem

    @property
    def parent(self) -> RemotePath:
        """The folder that contains the path."""
        return self / ".."

    def with_name(self, name: str) -> RemotePath:
        """Return the path of another name in the same folder."""
        return self.parent / name

    def relative_to(self, other: AnyPath) -> PurePosixPath:
        """Return the path relative to a parent folder."""
        return PurePosixPath(self.url).relative_to(PurePosixPath(str(other)))

    def is_relative_to(self, other: AnyPath) -> bool:
        """Return whether the path is `other` or below it."""
        return PurePosixPath(self.url).is_relative_to(PurePosixPath(str(other)))

    def resolve(self) -> RemotePath:
        """Return the path itself: a store has no links."""
        return self

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a store has no folders."""

    def _opened(self) -> contextlib.AbstractContextManager[tuple[Any, str]]:
        return opened_store(self.url)

    def _info(self) -> dict[str, Any] | None:
        # A missing bucket is a StoreError, which is not suppressed.
        with contextlib.suppress(FileNotFoundError), self._opened() as (fs, path):
            return dict(fs.info(path))
        return None

    def exists(self) -> bool:
        """Return whether there is an object, or a folder that contains one."""
        return self._info() is not None

    def is_dir(self) -> bool:
        """Return whether there is a folder that contains an object."""
        return (self._info() or {}).get("type") == "directory"

    def size(self) -> int | None:
        """Return the size of an object in bytes; None if there is no object."""
        found = self._info()
        return int(found["size"]) if found is not None and found["type"] == "file" else None

    def tag(self) -> str | None:
        """Return a string that changes when the object does; None if there is no object."""
        found = self._info()
        return (
            None
            if found is None
            else str(found.get("ETag") or found.get("etag") or found.get("mtime") or "")
        )

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield the paths of the files and folders in a folder, sorted."""
        found: list[str] = []
        with contextlib.suppress(FileNotFoundError), self._opened() as (fs, path):
            found = fs.ls(path, detail=False)
        return (self / name for name in sorted(name.rstrip("/").rpartition("/")[2] for name in found))

    def glob(self, pattern: str) -> list[RemotePath]:
        """Return the paths in a folder whose names match a pattern without folders; one listing."""
        return [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern)]

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all files below a folder, by their relative paths; one listing."""
        with self._opened() as (fs, path):
            found = fs.find(path, detail=True)
        prefix = path.rstrip("/") + "/"
        return {
            name.removeprefix(prefix): int(info["size"])
            for name, info in found.items()
            if name.startswith(prefix) and not name.endswith("/")
        }

    def open(self, mode: str = "rb") -> Any:
        """Open an object to read its bytes."""
        assert mode == "rb"
        with self._opened() as (fs, path):
            return fs.open(path, "rb")

    def read_bytes(self) -> bytes:
        """Return the bytes of an object. Raise FileNotFoundError if there is none."""
        with self._opened() as (fs, path):
            return bytes(fs.cat_file(path))

    def download(self, local: Path) -> Path:
        """Download the object to a file of this machine; return the path of the file."""
        local.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as (fs, path):
            fs.get_file(path, os.fspath(local))
        return local

    def upload(self, local: Path) -> None:
        """Upload a file of this machine; the object is complete or absent."""
        with self._opened() as (fs, path):
            fs.put_file(os.fspath(local), path)

    def copy_to(self, target: RemotePath) -> bool:
        """Copy the object without reading it here; return False if `target` is in another store."""
        with self._opened() as (fs, path), target._opened() as (other, there):
            if fs is other:
                fs.cp_file(path, there)
            return fs is other

    def put(self, data: bytes, *, if_new: bool = False, if_tag: str | None = None) -> str | None:
        """Write an object; return its tag if the store has tags.

        With `if_new`, raise AlreadyExists if there is an object; with `if_tag`, if the object has another tag. A store
        without conditional puts cannot guarantee either.
        """
        condition = {"IfNoneMatch": "*"} if if_new else {} if if_tag is None else {"IfMatch": if_tag}
        with self._opened() as (fs, path):
            if (target := _s3_key(fs, path)) is None:
                if if_new and fs.exists(path):
                    raise FileExistsError(path)
                fs.pipe_file(path, data)
                return None
            try:
                put = fs.call_s3("put_object", **target, Body=data, **condition)
            except OSError as error:
                from metaclip.storage.object_store import error_code

                if not condition or error_code(error) not in ("NotImplemented", "501", "InvalidArgument"):
                    raise
                put = fs.call_s3("put_object", **target, Body=data)
            return str(put["ETag"])

    def age(self) -> float | None:
        """Return the age of an object in seconds, by the clock of the store; None if the store gives no time."""
        with self._opened() as (fs, path):
            if (target := _s3_key(fs, path)) is None:
                return None
            head = fs.call_s3("head_object", **target)
        from email.utils import parsedate_to_datetime

        now = head["ResponseMetadata"]["HTTPHeaders"].get("date")
        return (parsedate_to_datetime(now) - head["LastModified"]).total_seconds() if now else None

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object. Raise FileNotFoundError if there is none, unless `missing_ok`."""
        missing = contextlib.suppress(FileNotFoundError) if missing_ok else contextlib.nullcontext()
        with self._opened() as (fs, path), missing:
            fs.rm_file(path)

    def remove_unfinished(self) -> None:
        """Remove the parts of unfinished uploads below a folder, if the store lists them."""
        with self._opened() as (fs, path):
            if (target := _s3_key(fs, path)) is None:
                return
            # A user without list permission cannot have created them; and some stores do not have the call.
            with contextlib.suppress(OSError):
                found = fs.call_s3(
                    "list_multipart_uploads", Bucket=target["Bucket"], Prefix=f"{target['Key']}/"
                )
                for upload in found.get("Uploads", []):
                    fs.call_s3(
                        "abort_multipart_upload",
                        **target | {"Key": upload["Key"]},
                        UploadId=upload["UploadId"],
                    )


def _s3_key(fs: Any, path: str) -> dict[str, str] | None:
    """Return the bucket and the key of an object for calls of S3's API; None if the store has another API."""
    bucket, _, key = path.partition("/")
    return {"Bucket": bucket, "Key": key} if hasattr(fs, "call_s3") else None


AnyPath = Path
"""A path on this machine or in a store: a `pathlib.Path` or a `RemotePath`."""


def read_all(paths: Sequence[AnyPath]) -> dict[AnyPath, bytes]:
    """Return the bytes of many small files, read in parallel; missing files are left out."""

    def read(path: AnyPath) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    found = zip(paths, map_parallel(read, paths, _SMALL_AT_ONCE), strict=True)
    return {path: data for path, data in found if data is not None}


def fetch_all(
    paths: Sequence[RemotePath], folder: Path, names: Sequence[str] | None = None
) -> list[Path]:
    """Download objects to a folder of this machine, in parallel; return their local paths, with `names` if given."""
    wanted = names or [f"{index:06d}-{path.name}" for index, path in enumerate(paths)]
    targets = [(path, folder / name) for path, name in zip(paths, wanted, strict=True)]
    return map_parallel(lambda target: target[0].download(target[1]), targets, _LARGE_AT_ONCE)


def remove_all(paths: Iterable[AnyPath]) -> None:
    """Remove files; missing ones are ignored. Remove up to 1,000 objects per request if the store can."""
    wanted = list(paths)
    remote = [path for path in wanted if isinstance(path, RemotePath)]
    for path in wanted:
        if not isinstance(path, RemotePath):
            path.unlink(missing_ok=True)
    for begin in range(0, len(remote), 1000):
        batch = remote[begin : begin + 1000]
        with batch[0]._opened() as (fs, name):
            if (target := _s3_key(fs, name)) is None:
                map_parallel(lambda path: path.unlink(missing_ok=True), batch, _SMALL_AT_ONCE)
                continue
            keys = [{"Key": path.url.partition("://")[2].partition("/")[2]} for path in batch]
            delete = {"Objects": keys, "Quiet": True}
            response = fs.call_s3("delete_objects", Bucket=target["Bucket"], Delete=delete)
            for error in response.get("Errors", []):
                raise PermissionError(f"{error.get('Key')}: {error.get('Message')}")


def relative_path(path: AnyPath, other: AnyPath) -> str:
    """Return the path from a folder to `other`: relative on one machine or in one store, otherwise absolute."""
    if isinstance(path, RemotePath) and isinstance(other, RemotePath):
        (scheme, _, start), (other_scheme, _, end) = path.url.partition("://"), other.url.partition("://")
        return posixpath.relpath(end, start) if scheme == other_scheme else other.url
    if isinstance(path, RemotePath) or isinstance(other, RemotePath):
        return absolute_path(other)
    return os.path.relpath(other, path)


def absolute_path(path: AnyPath) -> str:
    """Return the absolute path of a folder, or its address."""
    return path.url if isinstance(path, RemotePath) else os.path.abspath(path)


def is_inside(path: AnyPath, folder: AnyPath) -> bool:
    """Return whether a path is a folder or below it; links in both must be resolved."""
    return isinstance(path, RemotePath) == isinstance(folder, RemotePath) and path.is_relative_to(folder)


def resolve_path(path: AnyPath, relative: str) -> AnyPath:
    """Return the path that `relative_path` described, seen from a folder."""
    return as_path(relative) if "://" in relative or os.path.isabs(relative) else path / relative
