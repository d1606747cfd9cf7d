"""The files of a crawl: found, sampled, read - and fetched again where that fails.

A path, a folder, a glob, an address, or a list of these (``wat.paths.gz``), local or anything fsspec opens. An address is
not asked about before it is read: a crawl has 90,000.

A remote file is read by blocks of 8 MiB, one request each. One that fails is tried again from the byte that was reached,
after 1, 2, 4, ... 60 s, eight times, unless the answer says that it will never be there.
"""

from __future__ import annotations

import dataclasses
import glob
import gzip
import hashlib
import heapq
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from metaclip._version import __version__
from metaclip.errors import BrokenInput, MetaclipError, one_line
from metaclip.extract.settings import ExtractSettings
from metaclip.storage.download import RetryPolicy
from metaclip.storage.files import read_bytes
from metaclip.storage.remote import StoreError, file_system, is_remote, refuse_secrets, translate_errors

USER_AGENT: Final = f"metaclip/{__version__} (reads web crawls; fsspec)"
BLOCK: Final = 1 << 23
_LOCAL_BLOCK: Final = 1 << 20
_LISTS: Final = (".paths", ".paths.gz")
_NEVER: Final = frozenset({400, 401, 403, 404, 405, 410, 451})
RETRY: Final = RetryPolicy(tries=8, longest_wait=60.0)
_ENDS: Final = (".warc", ".warc.gz", ".wat", ".wat.gz", ".arc.gz")

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of a crawl."""

    name: str
    """What pool and manifest call it: the line of a list, an address, or the path below the folder of all."""
    path: str
    """Absolute path, or address."""
    size: int | None = None
    """In bytes; not known of what is remote."""
    stamp: str | None = None
    """Time of modification in nanoseconds, of a local file."""

    @property
    def remote(self) -> bool:
        """Whether it is on another machine."""
        return "://" in self.path


def find(given: Paths, settings: ExtractSettings, retry: RetryPolicy = RETRY) -> list[Source]:
    """Find the files of a crawl in the order given, those of a folder or glob sorted; each once; the sample of them.

    Raise MetaclipError where there is none.
    """
    wanted = [given] if isinstance(given, str | os.PathLike) else list(given)
    found: dict[str, Source] = {}
    for path in [os.fspath(path) for path in wanted]:
        for source in _listed(path, settings.prefix, retry) if path.endswith(_LISTS) else _at(path):
            found.setdefault(source.path, source)
    if not found:
        raise MetaclipError("no crawl is given; name WAT or WARC files, a folder, a glob or a list (wat.paths.gz)")
    sources = _named(list(found.values()))
    if settings.sample is not None:
        sources = sample(sources, settings.sample, settings.seed)
    return sources[: settings.first]


def sample(sources: Sequence[Source], size: int, seed: int) -> list[Source]:
    """Draw `size` files without replacement, in the order given: those whose names have the lowest hashes."""

    def hashed(item: tuple[int, Source]) -> tuple[bytes, int]:
        return hashlib.sha256(f"{seed}\n{item[1].name}".encode()).digest(), item[0]

    return [source for _, source in sorted(heapq.nsmallest(size, enumerate(sources), hashed))]


def _listed(path: str, prefix: str, retry: RetryPolicy) -> Iterator[Source]:
    """Give the files that a list names, a line each."""
    remote = "://" in path
    data = b"".join(Reader(Source(path, path), retry).blocks()) if remote else read_bytes(path, "the list of files")
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, ValueError) as error:
        raise MetaclipError(f"the list {path} cannot be read ({one_line(error)}); fetch it again") from None
    for line in filter(None, map(str.strip, text.splitlines())):
        if "://" in line or line.startswith("/"):
            yield from _at(line)
        elif "://" in prefix:
            yield Source(line, prefix.rstrip("/") + "/" + line)
        else:
            yield dataclasses.replace(next(_at(os.path.join(prefix, line))), name=line)


def _at(given: str) -> Iterator[Source]:
    """Give the files of a path, a folder, a glob or an address."""
    if is_remote(given):
        magic = glob.has_magic(refuse_secrets(given).partition("?")[0])
        if given.startswith("http") or (given.endswith(_ENDS) and not magic):
            yield Source(given, given)
            return
        for name in _below(given, magic):
            yield Source(name, name)
        return
    path = given.removeprefix("file://")
    if os.path.isdir(path):
        names = sorted(
            os.path.join(at, name) for at, _, names in os.walk(path) for name in names if name.endswith(_ENDS)
        )
        if not names:
            raise MetaclipError(f"there is no crawl in {given}: no file that ends in {', '.join(_ENDS)}")
    elif os.path.exists(path):
        names = [path]
    else:
        names = sorted(glob.glob(path, recursive=True))
        if not names:
            raise MetaclipError(f"there is no crawl at {given}; check the path")
    for name in names:
        status = os.stat(name)
        yield Source("", os.path.abspath(name), status.st_size, str(status.st_mtime_ns))


def _named(sources: list[Source]) -> list[Source]:
    """Name the local files that no list names by their paths below the folder that all of them are in."""
    folders = [os.path.dirname(source.path) for source in sources if not source.name]
    above = os.path.commonpath(folders) if folders else ""
    for source in sources:
        try:
            source.path.encode()
        except UnicodeEncodeError:
            raise MetaclipError(f"the name of {source.path!a} is not valid UTF-8; rename the file") from None
    return [
        source if source.name else dataclasses.replace(source, name=os.path.relpath(source.path, above))
        for source in sources
    ]


def check_unchanged(source: Source) -> None:
    """Raise BrokenInput if a local file is not any more what it was when it was found."""
    if source.remote:
        return
    try:
        status = os.stat(source.path)
    except OSError:
        raise BrokenInput(f"{source.path} is gone; put it back and run the same command again") from None
    if (status.st_size, str(status.st_mtime_ns)) != (source.size, source.stamp):
        raise BrokenInput(f"{source.path} was changed while it was read; run the same command again")


class Reader:
    """Reads a file's bytes, whatever it takes, and digests them."""

    def __init__(self, source: Source, retry: RetryPolicy, wait: Callable[[float], None] = time.sleep) -> None:
        """Name the file; nothing is opened yet."""
        self.source, self._retry, self._wait = source, retry, wait
        self._digest = hashlib.sha256()
        self.size = 0
        """Bytes read."""
        self.tried = 0
        """Reads that failed and were tried again."""
        self._length: int | None = None  # as the first answer has it
        self._by_range = True

    @property
    def sha256(self) -> str:
        """The digest of what was read."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Give the file's bytes in blocks. Raise BrokenInput where they cannot be had."""
        failed = 0
        while True:
            try:
                for block in self._from(self.size):
                    self._digest.update(block)
                    self.size += len(block)
                    failed = 0
                    yield block
                return
            except _Gone as error:
                raise BrokenInput(f"{self.source.path} cannot be read ({error}); check the path") from None
            except Exception as error:  # what fsspec's stores raise has no common base
                if isinstance(error, MetaclipError):
                    raise
                if "Credentials" in type(error).__name__:
                    raise MetaclipError(f"{self.source.path}: {one_line(error, 160)}; set AWS_PROFILE") from None
                if self._by_range and isinstance(error, ValueError) and self.source.path.startswith("http"):
                    self._by_range = False  # the server gives only the whole
                    continue
                failed += 1
                what = f"{self.source.path} cannot be read ({one_line(error, 160)})"
                if not self.source.remote:
                    raise BrokenInput(f"{what}; mend it and run the same command again") from None
                if failed >= self._retry.tries:
                    raise BrokenInput(f"{what}, tried {failed} times; run the same command again later") from None
                self.tried += 1
                self._wait(self._retry.pause(failed))

    def _from(self, offset: int) -> Iterator[bytes]:
        """Open the file and give its bytes from `offset` on."""
        if not self.source.remote:
            with open(self.source.path, "rb") as file:
                file.seek(offset)
                while block := file.read(_LOCAL_BLOCK):
                    yield block
            return
        with _open(self.source.path, BLOCK if self._by_range else 0) as file:
            length = getattr(file, "size", None)
            if self._length not in (None, length):
                raise _Gone(f"it had {self._length} bytes and has {length} now")
            self._length = length
            if self._by_range and length is not None:
                file.seek(offset)
            else:
                _skip(file, offset)
            while block := file.read(BLOCK):
                yield block
                offset += len(block)
            if length is not None and offset != length:
                raise OSError(f"it ended after {offset} of {length} bytes")


def _below(given: str, magic: bool) -> list[str]:
    """List the addresses that a glob or a folder in a store stands for; of one that is neither, itself."""
    try:
        with translate_errors(given):
            fs, path = file_system(given)
            if magic:
                return [fs.unstrip_protocol(name) for name in sorted(fs.glob(path))]
            if not fs.isdir(path):
                return [given]
            names = [fs.unstrip_protocol(name) for name in sorted(fs.find(path)) if name.endswith(_ENDS)]
    except (StoreError, FileNotFoundError) as error:
        raise MetaclipError(f"the crawl {given} cannot be listed: {one_line(error)}") from None
    if not names:
        raise MetaclipError(f"there is no crawl in {given}: no file that ends in {', '.join(_ENDS)}")
    return names


class _Gone(Exception):
    """The answer says that there is no such file, or not for us."""


def _open(path: str, block: int) -> Any:
    """Open a remote file, to be read by blocks, or through where `block` is 0. Raise _Gone where no try would help."""
    try:
        fs, name = _file_system(path)
        return fs.open(name, "rb", block_size=block, cache_type="none")
    except ImportError:
        with translate_errors(path):
            raise
    except (FileNotFoundError, PermissionError) as error:
        cause = getattr(error.__cause__, "status", None)  # fsspec says "not found" for whatever a server answers
        if not path.startswith("http") or cause in _NEVER:
            raise _Gone(f"HTTP status {cause}" if cause else one_line(error)) from None
        if error.__cause__ is not None:
            raise OSError(one_line(error.__cause__)) from None
        raise


def _file_system(path: str) -> tuple[Any, str]:
    if not path.startswith("http"):
        return file_system(path)
    import fsspec

    options = {"client_kwargs": {"headers": {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}}}
    fs, name = fsspec.core.url_to_fs(path, **options)
    return fs, str(name)


def _skip(file: Any, size: int) -> None:
    while size > 0:
        block = file.read(min(size, BLOCK))
        if not block:
            raise OSError("it ended before the byte that was reached")
        size -= len(block)
