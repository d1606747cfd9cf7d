"""Finds the files of a crawl, draws a sample of them, and reads their bytes with retries.

A crawl is given as paths, folders, globs, addresses, or lists of these (``wat.paths.gz``), local or in anything that fsspec
opens. An address is not requested before it is read: a crawl has 90,000.

A remote file is read in blocks of 8 MiB, one request each. After a failure, reading continues at the byte that was reached,
after 1, 2, 4, ... 60 s, up to eight times in a row, unless the answer says that the file will never be there.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import heapq
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from metaclip import __version__
from metaclip.errors import BrokenInput, MetaclipError, StoreError, one_line
from metaclip.extract.settings import ExtractSettings
from metaclip.pool.columns import is_utf8
from metaclip.pool.files import Paths, list_paths
from metaclip.storage.files import as_path, check_size, decode_utf8, gunzip, is_remote, read_bytes
from metaclip.storage.object_store import file_system, opened_store, refuse_secrets, translate_errors
from metaclip.storage.retries import RetryPolicy

USER_AGENT: Final = f"metaclip/{__version__} (reads web crawls; fsspec)"
BLOCK: Final = 1 << 23
_LOCAL_BLOCK: Final = 1 << 20
_LISTS: Final = (".paths", ".paths.gz")
_NEVER: Final = frozenset({400, 401, 403, 404, 405, 410, 451})
"""Status codes after which no retry helps."""
RETRY: Final = RetryPolicy(tries=8, longest_wait=60.0)
_SUFFIXES: Final = (".warc", ".warc.gz", ".wat", ".wat.gz", ".arc.gz")


@dataclasses.dataclass(frozen=True)
class CrawlFile:
    """One file of a crawl."""

    name: str
    """Its name in pool and manifest: the line of a list, an address, or the path below the folder that contains all."""
    path: str
    """Absolute path, or address."""
    size: int | None = None
    """In bytes; None for a remote file."""
    stamp: str | None = None
    """Modification time in nanoseconds; None for a remote file."""

    @property
    def remote(self) -> bool:
        """Whether the file is on another machine."""
        return "://" in self.path

    def check_unchanged(self) -> None:
        """Raise BrokenInput if a local file has changed since it was found."""
        if self.remote:
            return
        try:
            status = os.stat(self.path)
        except OSError:
            raise BrokenInput(
                f"{self.path} is gone; put it back and run the same command again"
            ) from None
        if (status.st_size, str(status.st_mtime_ns)) != (self.size, self.stamp):
            raise BrokenInput(f"{self.path} was changed while it was read; run the same command again")


def find_crawl_files(crawl: Paths, settings: ExtractSettings) -> list[CrawlFile]:
    """Return the files of a crawl, each once, in the order given (those of a folder or glob sorted), or a sample of them.

    Raise MetaclipError if there is none.
    """
    by_path: dict[str, CrawlFile] = {}
    for given in list_paths("crawl", crawl):
        for file in (
            _files_in_list(given, settings.prefix) if given.endswith(_LISTS) else _files_at(given)
        ):
            by_path.setdefault(file.path, file)
    if not by_path:
        raise MetaclipError(
            "no crawl is given; name WAT or WARC files, a folder, a glob or a list (wat.paths.gz)"
        )
    files = _with_names(list(by_path.values()))
    if settings.sample is not None:
        files = draw_sample(files, settings.sample, settings.seed)
    return files[: settings.first]


def draw_sample(files: Sequence[CrawlFile], size: int, seed: int) -> list[CrawlFile]:
    """Draw `size` files without replacement, in the order given: those whose names have the lowest hashes."""

    def hashed(item: tuple[int, CrawlFile]) -> tuple[bytes, int]:
        return hashlib.sha256(f"{seed}\n{item[1].name}".encode()).digest(), item[0]

    return [file for _, file in sorted(heapq.nsmallest(size, enumerate(files), hashed))]


def _files_in_list(path: str, prefix: str) -> Iterator[CrawlFile]:
    """Yield the files that a list names, one per line."""
    if "://" in path:
        data = b""
        for block in CrawlFileReader(CrawlFile(path, path)).blocks():
            data += block
            check_size(len(data), path)
    else:
        data = read_bytes(path, "the list of files")
    for line in filter(None, map(str.strip, decode_utf8(gunzip(data, path), path).splitlines())):
        if "://" in line or line.startswith(("/", "~/")):
            yield from _files_at(line)
        elif "://" in prefix:
            yield CrawlFile(line, prefix.rstrip("/") + "/" + line)
        else:
            yield dataclasses.replace(next(_files_at(os.path.join(prefix, line))), name=line)


def _files_at(given: str) -> Iterator[CrawlFile]:
    """Yield the files of a path, a folder, a glob or an address; local ones have no name yet."""
    if is_remote(given):
        given = re.sub("^[^:]*", lambda scheme: scheme[0].lower(), given)
        magic = glob.has_magic(refuse_secrets(given).partition("?")[0])
        is_file = given.startswith("http") or (given.endswith(_SUFFIXES) and not magic)
        yield from (CrawlFile(name, name) for name in ([given] if is_file else _list_store(given, magic)))
        return
    path = os.fspath(as_path(given))
    if os.path.isdir(path):
        walked = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        paths = _refuse_empty(sorted(name for name in walked if name.endswith(_SUFFIXES)), given)
    else:
        paths = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        if not paths:
            raise MetaclipError(f"there is no crawl at {given}; check the path")
    for path in paths:
        status = os.stat(path)
        yield CrawlFile("", os.path.abspath(path), status.st_size, str(status.st_mtime_ns))


def _list_store(given: str, magic: bool) -> list[str]:
    """Return the addresses that a glob (`magic`) or a folder in a store stands for; the address itself if it is neither."""
    try:
        with opened_store(given) as (fs, path):
            if magic and not fs.exists(path):
                return [fs.unstrip_protocol(name) for name in sorted(fs.glob(path))]
            if not fs.isdir(path):
                return [given]
            names = [
                fs.unstrip_protocol(name) for name in sorted(fs.find(path)) if name.endswith(_SUFFIXES)
            ]
    except (StoreError, FileNotFoundError) as error:
        raise MetaclipError(f"the crawl {given} cannot be listed: {one_line(error)}") from None
    return _refuse_empty(names, given)


def _refuse_empty(names: list[str], folder: str) -> list[str]:
    if not names:
        raise MetaclipError(f"there is no crawl in {folder}: no file that ends in {', '.join(_SUFFIXES)}")
    return names


def _with_names(files: list[CrawlFile]) -> list[CrawlFile]:
    """Name local files that no list names by their paths below the folder that contains all of them."""
    for file in files:
        if not is_utf8(file.path):
            raise MetaclipError(f"the name of {file.path!a} is not valid UTF-8; rename the file")
    folders = [os.path.dirname(file.path) for file in files if not file.name]
    root = os.path.commonpath(folders) if folders else ""
    return [
        file if file.name else dataclasses.replace(file, name=os.path.relpath(file.path, root))
        for file in files
    ]


class CrawlFileReader:
    """Reads the bytes of a file, with retries, and computes their digest."""

    def __init__(
        self, file: CrawlFile, retry: RetryPolicy = RETRY, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Name the file; nothing is opened yet."""
        self.file, self._retry, self._wait = file, retry, wait
        self._digest = hashlib.sha256()
        self.size = 0
        """Number of bytes read."""
        self.tried = 0
        """Number of failed reads that were retried."""
        self._length: int | None = None  # as the first answer gives it
        self._by_range = True

    @property
    def sha256(self) -> str:
        """The digest of the bytes read."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the file in blocks. Raise BrokenInput if they cannot be read."""
        path, failures = self.file.path, 0
        while True:
            try:
                for block in self._remote_blocks(self.size) if self.file.remote else self._local_blocks():
                    self._digest.update(block)
                    self.size += len(block)
                    failures = 0
                    yield block
                return
            except MetaclipError as error:  # of the store; the other files are still worth reading
                raise BrokenInput(str(error)) from None
            except Exception as error:  # the errors of fsspec's stores have no common base
                what = f"{path} cannot be read ({one_line(error, 160)})"
                if "Credentials" in type(error).__name__:
                    raise BrokenInput(f"{path}: {one_line(error, 160)}; set AWS_PROFILE") from None
                if self._by_range and isinstance(error, ValueError) and path.startswith("http"):
                    self._by_range = False  # the server gives only whole files
                    continue
                failures += 1
                if not self.file.remote:
                    raise BrokenInput(f"{what}; mend it and run the same command again") from None
                if failures >= self._retry.tries:
                    raise BrokenInput(
                        f"{what}, tried {failures} times; run the same command again later"
                    ) from None
                self.tried += 1
                self._wait(self._retry.pause(failures))

    def _local_blocks(self) -> Iterator[bytes]:
        with open(self.file.path, "rb") as file:
            yield from iter(lambda: file.read(_LOCAL_BLOCK), b"")

    def _remote_blocks(self, offset: int) -> Iterator[bytes]:
        """Yield the bytes from `offset` on. Raise OSError if the file ends early."""
        with _open(self.file.path, BLOCK if self._by_range else 0) as file:
            length = getattr(file, "size", None)
            if self._length not in (None, length):
                raise _gone(self.file.path, f"it had {self._length} bytes and has {length} now")
            self._length = length
            position = 0
            if self._by_range and length is not None:
                file.seek(offset)
                position = offset
            while block := file.read(BLOCK):
                position += len(block)
                if position > offset:
                    yield block[max(0, len(block) - (position - offset)) :]
            expected = offset if length is None else length
            if position < expected:
                raise OSError(f"it ended after {position} of {expected} bytes")


def _open(path: str, block: int) -> Any:
    """Open a remote file, to be read by ranges, or as a whole if `block` is 0. Raise BrokenInput if no retry would help."""
    try:
        if path.startswith("http"):
            import fsspec

            headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
            fs, name = fsspec.core.url_to_fs(path, client_kwargs={"headers": headers})
        else:
            fs, name = file_system(path)
        return fs.open(name, "rb", block_size=block, cache_type="none")
    except ImportError:
        with translate_errors(path):
            raise
    except (FileNotFoundError, PermissionError) as error:
        status = getattr(
            error.__cause__, "status", None
        )  # fsspec reports any answer of a server as "not found"
        if not path.startswith("http") or status in _NEVER:
            raise _gone(path, f"HTTP status {status}" if status else one_line(error)) from None
        if error.__cause__ is not None:
            raise OSError(one_line(error.__cause__)) from None
        raise


def _gone(path: str, why: str) -> BrokenInput:
    return BrokenInput(f"{path} cannot be read ({why}); check the path")
