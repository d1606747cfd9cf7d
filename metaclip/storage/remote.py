"""Paths in a store: ``s3://bucket/run`` and whatever else fsspec opens, with the operations that a run folder needs.

An object is complete or absent: an upload becomes visible when all of it has arrived. Nothing is cached, because other
processes write too. Operations on many objects share requests: a listing returns 1,000 names and sizes per request, and
small objects are read in parallel.

Cost: one request per 1,000 objects listed or removed; about 50 requests per shard of a run, from the pool to the account.
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
from collections.abc import Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from metaclip.errors import AlreadyExists
from metaclip.storage import object_store
from metaclip.storage.lease import held, live_owner
from metaclip.storage.local import LOCK, LocalPath, remove_stale_scratch, scratch
from metaclip.storage.threads import map_parallel

_SMALL_AT_ONCE: Final = 32
_LARGE_AT_ONCE: Final = 8

# Code that joins, lists, reads and writes works with both kinds of path, so RemotePath is a LocalPath to mypy. At run time
# it is not, so that operations on local files raise instead of creating a folder named "s3:".
if TYPE_CHECKING:
    _Path = LocalPath
else:
    _Path = object


@dataclasses.dataclass(frozen=True, order=True)
class RemotePath(_Path):
    """A path in a store, with the method names of pathlib; a folder exists as long as it contains files."""

    url: str

    @classmethod
    def parse(cls, address: str) -> RemotePath:
        """Return the path of an address. Raise MetaclipError for one that contains a secret."""
        scheme, _, rest = object_store.refuse_secrets(address).partition("://")
        if not scheme.lower().startswith(
            "http"
        ):  # an empty name in the path of a web address may mean something
            rest = posixpath.normpath(f"/{rest}").strip("/")
        return cls(f"{scheme.lower()}://{rest.rstrip('/')}")

    def __str__(self) -> str:
        """Return the address."""
        return self.url

    def __fspath__(self) -> str:
        """Raise TypeError: the system cannot open the path."""
        raise TypeError(f"{self.url} is not a path of this machine")

    @property
    def address(self) -> str:
        """The address."""
        return self.url

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        """Return the path of a file below this folder, or beside it (``..``)."""
        scheme, _, rest = self.url.partition("://")
        return RemotePath(f"{scheme}://{posixpath.normpath(posixpath.join(rest, os.fspath(name)))}")

    @property
    def name(self) -> str:
        """The last component."""
        return PurePosixPath(self.url).name

    @property
    def stem(self) -> str:
        """The last component without its suffix."""
        return PurePosixPath(self.url).stem

    @property
    def parent(self) -> RemotePath:
        """The folder that contains the path."""
        return self / ".."

    def with_name(self, name: str) -> RemotePath:
        """Return the path of another name in the same folder."""
        return self.parent / name

    def relative_to(self, other: LocalPath) -> PurePosixPath:
        """Return the path relative to a parent folder."""
        return PurePosixPath(self.url).relative_to(PurePosixPath(str(other)))

    def resolve(self) -> RemotePath:
        """Return the path itself: a store has no links."""
        return self

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a store has no folders."""

    def _opened(self) -> contextlib.AbstractContextManager[tuple[Any, str]]:
        return object_store.opened_store(self.url)

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

    def identity(self) -> tuple[int, str]:
        """Return the size of an object, and a stamp that changes when the object does, if the store gives one."""
        with self._opened() as (fs, path):
            return size_and_stamp(fs.info(path))

    def tag(self) -> str | None:
        """Return a string that changes when the object does; None if there is no object."""
        found = self._info()
        return None if found is None else size_and_stamp(found)[1]

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

    @contextlib.contextmanager
    def atomic_write(self) -> Iterator[Path]:
        """Yield a path of this machine to write to; upload the file if the block succeeds."""
        with scratch() as folder:
            yield folder / self.name
            self.upload(folder / self.name)

    def copy_from(self, source: LocalPath) -> None:
        """Copy a file to this path: inside one store without reading it here."""
        scheme = self.url.partition("://")[0]
        if source.address.startswith(f"{scheme}://"):
            with object_store.opened_store(source.address) as (fs, there), self._opened() as (_, here):
                fs.cp_file(there, here)
        else:
            with source.local_copy() as local:
                self.upload(local)

    @contextlib.contextmanager
    def local_copy(self) -> Iterator[Path]:
        """Yield the path of a downloaded copy for the length of a block."""
        with scratch() as folder:
            yield self.download(folder / self.name)

    @contextlib.contextmanager
    def local_folder(self) -> Iterator[Path]:
        """Yield a downloaded copy of the folder, without its state, for the length of a block."""
        with scratch() as folder:
            names = [name for name in self.sizes() if not name.startswith(".")]
            map_parallel(lambda name: (self / name).download(folder / name), names, _LARGE_AT_ONCE)
            yield folder

    @contextlib.contextmanager
    def filled_folder(self, last: str) -> Iterator[Path]:
        """Yield a folder of this machine whose files are uploaded after the block; `last` is, last, the proof of the others.

        Files of the same names are replaced, others stay.
        """
        with scratch() as folder:
            yield folder
            names = [
                found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file()
            ]
            for name in sorted(names, key=lambda name: (name == last, name)):
                (self / name).upload(folder / name)

    def put(self, data: bytes, *, if_new: bool = False, if_tag: str | None = None) -> None:
        """Write an object.

        With `if_new`, raise AlreadyExists if there is an object; with `if_tag`, if the object has another tag. A store
        without conditional puts cannot guarantee either.
        """
        condition = {"IfNoneMatch": "*"} if if_new else {} if if_tag is None else {"IfMatch": if_tag}
        with self._opened() as (fs, path):
            if (target := _s3_key(fs, path)) is None:
                if if_new and fs.exists(path):
                    raise FileExistsError(path)
                fs.pipe_file(path, data)
                return
            try:
                fs.call_s3("put_object", **target, Body=data, **condition)
            except OSError as error:
                if not condition or object_store.error_code(error) not in (
                    "NotImplemented",
                    "501",
                    "InvalidArgument",
                ):
                    raise
                fs.call_s3("put_object", **target, Body=data)

    def age(self) -> float | None:
        """Return the age of an object in seconds, by the clock of the store; None if the store gives no time."""
        with self._opened() as (fs, path):
            if (target := _s3_key(fs, path)) is None:
                return None
            head = fs.call_s3("head_object", **target)
        now = head["ResponseMetadata"]["HTTPHeaders"].get("date")
        return (parsedate_to_datetime(now) - head["LastModified"]).total_seconds() if now else None

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object. Raise FileNotFoundError if there is none, unless `missing_ok`."""
        missing = contextlib.suppress(FileNotFoundError) if missing_ok else contextlib.nullcontext()
        with self._opened() as (fs, path), missing:
            fs.rm_file(path)

    def remove(self) -> None:
        """Remove an object, or a folder with its content; do nothing if there is none."""
        self.remove_files([self / name for name in self.sizes()] or [self])

    def remove_files(self, paths: Sequence[LocalPath]) -> None:
        """Remove files of the folder, up to 1,000 per request if the store can; missing ones are ignored."""
        for begin in range(0, len(paths), 1000):
            batch = paths[begin : begin + 1000]
            with self._opened() as (fs, name):
                if (target := _s3_key(fs, name)) is None:
                    map_parallel(lambda path: path.unlink(missing_ok=True), batch, _SMALL_AT_ONCE)
                    continue
                keys = [{"Key": path.address.partition("://")[2].partition("/")[2]} for path in batch]
                delete = {"Objects": keys, "Quiet": True}
                response = fs.call_s3("delete_objects", Bucket=target["Bucket"], Delete=delete)
                for error in response.get("Errors", []):
                    raise PermissionError(f"{error.get('Key')}: {error.get('Message')}")

    def remove_temporaries(self) -> None:
        """Remove what killed processes left: unfinished uploads below the folder, if the store lists them; scratch folders."""
        remove_stale_scratch()
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

    # --- locks

    @contextlib.contextmanager
    def owned(self, part: str = "", who: str = "") -> Iterator[Callable[[], None]]:
        """Own the folder of locks for the length of a block, as `LocalPath.owned` does, by a lease."""
        with held(self / (f"{LOCK}-{part}" if part else LOCK), who) as check:
            # The claim is made before others are looked for: of two processes that begin at once, at least one sees the other.
            self._refuse_owners([self / LOCK] if part else self.glob(f"{LOCK}-*"))
            yield check

    @contextlib.contextmanager
    def read_locked(self) -> Iterator[None]:
        """Raise AlreadyExists if the folder has an owner; a reader cannot keep later ones out."""
        self._refuse_owners([self / LOCK])
        yield

    def _refuse_owners(self, locks: Sequence[RemotePath]) -> None:
        for owner in map_parallel(live_owner, locks, len(locks)):
            if owner is not None:
                raise AlreadyExists(owner)


def size_and_stamp(info: dict[str, Any]) -> tuple[int, str]:
    """Return the size of an object, and a stamp that changes when the object does, as a store lists them."""
    names = (
        "ETag",
        "etag",
        "mtime",
        "LastModified",
        "blob_id",
    )  # the last one on the Hub: git's digest of the content
    stamp = next((info[name] for name in names if info.get(name)), "")
    return int(info["size"]), str(stamp)


def _s3_key(fs: Any, path: str) -> dict[str, str] | None:
    """Return the bucket and the key of an object for calls of S3's API; None if the store has another API."""
    bucket, _, key = path.partition("/")
    return {"Bucket": bucket, "Key": key} if hasattr(fs, "call_s3") else None
