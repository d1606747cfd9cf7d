"""Files of a web server, for reading, as a file system of fsspec. It needs no package besides the standard library.

A folder is the page that the server makes of it, with a link to each file. Such a page is not trusted: of its links, only
those to a name in the folder itself count, and a pool has at most 100,000 names. A file is read in blocks where the server
sends ranges; otherwise all of it is downloaded to an unnamed temporary file, each time that it is opened. Memory holds
one block, or one page of a folder (16 MiB at most).

Paths are addresses as a person reads them: only what would be ambiguous (%, ?, #, +) is percent-encoded in a name.
"""

from __future__ import annotations

import contextlib
import html
import http.client
import re
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any, Final

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from metaclip import __version__
from metaclip.errors import StoreError
from metaclip.storage.retries import RetryPolicy, with_retries
from metaclip.storage.threads import map_ordered, map_parallel

RETRY: Final = RetryPolicy(first_wait=0.5, longest_wait=60.0)
"""Six tries over 15 seconds, as the client of S3 does."""
_BLOCK: Final = 1 << 22
_LONGEST_PAGE: Final = 1 << 24
_MOST_NAMES: Final = 100_000
_MOST_DIGITS: Final = 15
"""A server that states a size with more digits is not believed."""
_LINK: Final = re.compile(
    r"""<a\s[^>]{0,999}?\bhref\s{0,9}=\s{0,9}(?:"([^"]{1,4000})"|'([^']{1,4000})'|([^\s"'>]{1,4000}))""",
    re.I,
)
"""A link in a page, found in time that grows with the length of the page only."""
_PARALLEL_REQUESTS: Final = 16


def readable(url: str) -> str:
    """Return an address with its names as a person writes them."""

    def decode(found: re.Match[str]) -> str:
        try:
            text = urllib.parse.unquote_to_bytes(found[0]).decode()
        except UnicodeDecodeError:
            return found[0]
        return "".join(
            c if c.isprintable() and c not in "%?#/+" else urllib.parse.quote(c, safe="") for c in text
        )

    path, mark, query = url.partition("?")
    return re.sub("(%[0-9A-Fa-f]{2})+", decode, path) + mark + query


def _requestable(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}{urllib.parse.quote(path, safe='%/?&=+:@!$,;~()')}"


@contextlib.contextmanager
def _requested(url: str, **headers: str) -> Iterator[Any]:
    """Request an address once. Raise HTTPError if the server refuses it."""
    headers = {"User-Agent": f"metaclip/{__version__}", "Accept-Encoding": "identity", **headers}
    try:
        request = urllib.request.Request(_requestable(url), headers=headers)
        response = urllib.request.urlopen(request, timeout=RETRY.timeout)
    except (ValueError, http.client.InvalidURL) as error:
        raise StoreError(f"{url} is not a valid address ({error}); correct it") from None
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        response = error
    with response:
        yield response


class WebFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The files of web servers."""

    protocol = ("https", "http")

    def __init__(self, retry: RetryPolicy | None = None, **named: Any) -> None:
        """Set how requests are tried again, if not by RETRY."""
        super().__init__(**named)
        self._retry = retry

    def ask(self, url: str, request: Callable[[], Any]) -> Any:
        """Return ``request()``, tried again while that may help. Raise FileNotFoundError if the server has no such file."""
        try:
            return with_retries(url, self._retry or RETRY, request)
        except urllib.error.HTTPError as error:
            if error.code in (http.client.NOT_FOUND, http.client.GONE):
                raise FileNotFoundError(f"HTTP status {error.code}") from None
            raise StoreError(
                f"{url}: the server answers {error.code} {error.reason}; check the address, and whether it needs a login"
            ) from None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return readable(path.rstrip("/"))

    def exists(self, path: str, **_: Any) -> bool:
        """Return whether there is a file or a folder; a server that cannot be reached is an error."""
        with contextlib.suppress(FileNotFoundError):
            return bool(self.info(path))
        return False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return size (0 if the server does not state it), type and ETag of a file, and whether the server sends ranges."""
        path = self._strip_protocol(path)

        def head(url: str) -> tuple[str, int, Message]:
            with _requested(url, Range="bytes=0-0") as response:
                return response.url, response.status, response.headers

        try:
            url, status, headers = self.ask(path, lambda: head(path))
        except FileNotFoundError:  # some servers know a folder only with its slash
            url, status, headers = self.ask(path, lambda: head(f"{path}/"))
        name = urllib.parse.urlsplit(url).path.rpartition("/")[2]
        if not name or (headers.get_content_type() == "text/html" and "." not in name):
            return {"name": path, "size": 0, "type": "directory"}
        by_range = status != http.client.OK
        stated = (
            headers.get("Content-Range", "").rpartition("/")[2]
            if by_range
            else headers.get("Content-Length", "")
        )
        known = stated.isascii() and stated.isdigit()
        if known and len(stated) > _MOST_DIGITS:
            raise StoreError(
                f"{path}: the server states a size of {stated:.40} bytes, which cannot be; check the server"
            )
        version = headers.get("ETag") or headers.get("Last-Modified") or ""
        return {
            "name": path, "size": int(stated) if known else 0, "type": "file", "ETag": version, "ranges": by_range and known,
        }  # fmt: skip

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Return what a folder contains: names, or their infos."""
        found = self.find(path, maxdepth=1, withdirs=True, detail=True)
        found.pop(self._strip_protocol(path), None)
        return list(found.values()) if detail else list(found)

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **_: Any,
    ) -> Any:
        """Return the files below a folder; a file that is listed and missing has the stamp "gone"."""
        path = self._strip_protocol(path)
        found: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError):
            found[path] = self.info(path)
        level, depth = [info for info in found.values() if info["type"] == "directory"], 0
        while level and depth != maxdepth:
            below: list[str] = []
            for names in map_ordered(self._listed, [info["name"] for info in level], _PARALLEL_REQUESTS):
                below += [name for name in names if name.rstrip("/") not in found]
                if len(found) + len(below) > _MOST_NAMES:
                    raise StoreError(
                        f"{path} lists more than {_MOST_NAMES:,} names; name a smaller folder"
                    )
            infos = map_parallel(self._listed_info, below, _PARALLEL_REQUESTS)
            found |= {info["name"]: info for info in infos}
            level, depth = [info for info in infos if info["type"] == "directory"], depth + 1
        kept = {name: info for name, info in sorted(found.items()) if withdirs or info["type"] == "file"}
        return kept if detail else list(kept)

    def _listed(self, folder: str) -> list[str]:
        """Return the paths of the files in a folder, and those of its folders with a slash at their ends."""

        def read() -> tuple[str, bytes]:
            with _requested(f"{folder}/") as response:
                page = response.read(_LONGEST_PAGE + 1)
                if response.length and len(page) <= _LONGEST_PAGE:
                    raise ConnectionError(f"the connection ended {response.length:,} bytes too early")
                return response.url, page

        url, page = self.ask(folder, read)
        if len(page) > _LONGEST_PAGE:
            raise StoreError(
                f"{folder}: the list of its files has more than {_LONGEST_PAGE:,} bytes; name the files"
            )
        base = urllib.parse.urlsplit(url)
        above = readable(base.path.rstrip("/") + "/")
        names = set()
        for quoted in _LINK.findall(page.decode("utf-8", "replace")):
            link = html.unescape("".join(quoted))
            with contextlib.suppress(ValueError):  # no address at all
                there = urllib.parse.urlsplit(urllib.parse.urljoin(url, link))
                name = readable(there.path).removeprefix(above)
                is_here = there[:2] == base[:2] and readable(there.path).startswith(above)
                if is_here and re.fullmatch(r"(?!\.\.?(/|$))[^/]+/?", name) and "%2F" not in name:
                    names.add(f"{folder}/{name}")
        return sorted(names)

    def _listed_info(self, path: str) -> dict[str, Any]:
        if path.endswith("/"):
            return {"name": path.rstrip("/"), "size": 0, "type": "directory"}
        try:
            return self.info(path)
        except FileNotFoundError:
            return {"name": path, "size": 0, "type": "file", "ETag": "gone"}

    def _open(
        self, path: str, mode: str = "rb", block_size: Any = None, cache_type: str = "readahead", **_: Any
    ) -> Any:
        if mode != "rb":
            raise StoreError(
                f"{path}: nothing can be written to a web server; choose a folder or a store"
            )
        info = self.info(path)
        if info["ranges"]:
            block = _BLOCK if block_size is None else block_size
            return _WebFile(
                self, info["name"], mode, block, cache_type=cache_type, size=info["size"], version=info["ETag"]
            )  # fmt: skip
        with contextlib.ExitStack() as failed:
            file = failed.enter_context(tempfile.TemporaryFile())
            self.ask(path, lambda: _download(path, file))
            file.seek(0)
            failed.pop_all()
        return file


class _WebFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file of a server that sends ranges."""

    def __init__(self, *args: Any, version: str, **named: Any) -> None:
        """Name the version of the file that is read: a strong ETag, or the time of the last change."""
        super().__init__(*args, **named)
        self._same = {"If-Range": version} if version and not version.startswith("W/") else {}

    def _fetch_range(self, start: int, end: int) -> bytes:
        end = min(end, self.size)

        def read() -> bytes:
            with _requested(self.path, Range=f"bytes={start}-{end - 1}", **self._same) as response:
                found, _, total = response.headers.get("Content-Range", "").rpartition("/")
                if response.status == http.client.OK or (total.isdigit() and int(total) != self.size):
                    raise StoreError(
                        f"{self.path} was changed while it was read; run the same command again"
                    )
                if not found.startswith(f"bytes {start}-"):
                    raise ConnectionError("the server sent another part than was requested")
                data: bytes = response.read(end - start)
                if len(data) < end - start:
                    raise ConnectionError(
                        f"{end - start:,} bytes were requested, and {len(data):,} arrived"
                    )
                return data

        return bytes(self.fs.ask(self.path, read)) if start < end else b""


def _download(url: str, file: Any) -> None:
    """Download a whole file. Raise ConnectionError if it has not the length that the server states."""
    file.seek(0)
    file.truncate()
    with _requested(url) as response:
        stated = response.length
        if stated is not None:
            # A byte more than the server states shows a false statement, which would cut the file.
            response.length += 1
        shutil.copyfileobj(response, file, _BLOCK)
        if stated is not None and file.tell() != stated:
            raise ConnectionError(
                f"the server states {stated:,} bytes, and {file.tell():,} or more arrived"
            )
