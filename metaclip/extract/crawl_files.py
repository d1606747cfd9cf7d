"""Finds the files of a crawl, draws a sample of them, and reads their bytes with retries.

A crawl is given as paths, folders, globs, addresses, or lists of these (``wat.paths.gz``), local or in anything that fsspec
opens. An address is not requested before it is read: a crawl has 90,000.

A remote file is read in blocks of at most 4 MiB, one request each, of which eight are under way while the earlier ones are
extracted: one connection is slower than one core (`tests/bench/bench_remote`). They take 36 MiB of memory. A request of a web
server that fails is tried eight times, after 1, 2, 4, ... 60 s, unless the answer says that the file will never be there; the
client of a store has its own retries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import heapq
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fsspec.spec import AbstractBufferedFile

from metaclip.errors import BrokenInput, MetaclipError, StoreError, one_line
from metaclip.extract.settings import ExtractSettings
from metaclip.pool.columns import is_utf8
from metaclip.pool.files import Paths, list_paths
from metaclip.storage.files import as_path, decode_utf8, file_digest, gunzip, is_remote, read_bytes
from metaclip.storage.object_store import opened_store, refuse_secrets
from metaclip.storage.retries import RetryPolicy
from metaclip.storage.threads import map_ordered
from metaclip.storage.web import WebFileSystem

_FIRST_BLOCK: Final = 1 << 19
_REMOTE_BLOCK: Final = 1 << 22
_BLOCKS_AHEAD: Final = 8
_LOCAL_BLOCK: Final = 1 << 20
_LISTS: Final = (".paths", ".paths.gz")
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

    def is_untouched(self, known: Mapping[str, Any]) -> bool:
        """Return whether it has the size and the time of change in a marker; nobody knows them of a remote file."""
        return self.remote or (self.size, self.stamp) == (known["size"], known["stamp"])

    def has_changed(self, known: Mapping[str, Any]) -> bool:
        """Return whether it has other bytes than when a marker was written; a file that was only touched has not."""
        if self.is_untouched(known):
            return False
        with open(self.path, "rb") as opened:
            return bool(self.size != known["size"] or file_digest(opened) != known["sha256"])

    def check_unchanged(self) -> None:
        """Raise BrokenInput if a local file has changed since it was found."""
        if self.remote:
            return
        try:
            found = as_path(self.path).identity()
        except OSError:
            raise BrokenInput(
                f"{self.path} is gone; put it back and run the same command again"
            ) from None
        if found != (self.size, self.stamp):
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
        yield CrawlFile("", os.path.abspath(path), *as_path(path).identity())


def _list_store(given: str, magic: bool) -> list[str]:
    """Return the addresses that a glob (`magic`), a folder in a store or an object stands for."""
    try:
        with opened_store(given) as (fs, path):
            is_glob = magic and not fs.exists(path)
            names = [
                fs.unstrip_protocol(name)
                for name in sorted(fs.glob(path) if is_glob else fs.find(path))
                if is_glob or name == path or name.endswith(_SUFFIXES)
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
    """Reads the bytes of a file and computes their digest."""

    def __init__(self, file: CrawlFile) -> None:
        """Name the file; nothing is opened yet."""
        self.file, self._digest = file, hashlib.sha256()
        self.size = 0
        """Number of bytes read."""

    @property
    def sha256(self) -> str:
        """The digest of the bytes read."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the file in blocks. Raise BrokenInput if they cannot be read."""
        path = self.file.path
        try:
            with _open(path) if self.file.remote else open(path, "rb") as file:
                for block in _read_ahead(file) if self.file.remote else _read_blocks(file, _LOCAL_BLOCK):
                    self._digest.update(block)
                    self.size += len(block)
                    yield block
        except StoreError as error:  # the other files are still worth reading
            raise BrokenInput(str(error)) from None
        except OSError as error:
            hint = "check the path" if self.file.remote else "mend it and run the same command again"
            raise BrokenInput(f"{path} cannot be read ({one_line(error, 160)}); {hint}") from None


def _read_blocks(file: Any, size: int) -> Iterator[bytes]:
    while block := file.read(size):
        yield block


def _read_ahead(file: Any) -> Iterator[bytes]:
    """Yield the blocks of a remote file, with several requests under way; of one without ranges, what is downloaded."""
    size = getattr(file, "size", None)
    if not isinstance(file, AbstractBufferedFile) or not size:
        yield from _read_blocks(file, _REMOTE_BLOCK)
        return
    with contextlib.closing(
        map_ordered(
            lambda part: bytes(file._fetch_range(*part)),
            _ranges(size, _FIRST_BLOCK, _REMOTE_BLOCK),
            _BLOCKS_AHEAD,
        )
    ) as blocks:
        yield from blocks


def _ranges(size: int, first: int, largest: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file: short ones at first, each twice as long as the one before, so that work begins soon."""
    begin, length = 0, min(first, largest)
    while begin < size:
        yield begin, min(begin + length, size)
        begin, length = begin + length, min(2 * length, largest)


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    """Open a remote file for a block."""
    with opened_store(path) as (fs, name):
        if path.startswith("http"):
            fs = WebFileSystem(retry=RETRY)
        with fs.open(name, "rb", block_size=_REMOTE_BLOCK, cache_type="none") as file:
            yield file
