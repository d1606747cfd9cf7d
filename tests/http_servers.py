"""A real server on this machine for what is fetched: files with ranges, a MediaWiki's categories, and bad days of both."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    at: float

    @property
    def query(self) -> dict[str, str]:
        """The parameters of its query."""
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))


@dataclasses.dataclass
class Server:
    """A running server: where it is, and what it was asked."""

    address: str
    asked: list[Asked]


class Handler(http.server.BaseHTTPRequestHandler):
    """Hands each request to a function; silent."""

    protocol_version = "HTTP/1.1"
    answer: Callable[[Any, Asked], None]
    asked: list[Asked]

    def do_GET(self) -> None:
        """Answer."""
        import time

        request = Asked(self.path, dict(self.headers), time.monotonic())
        self.asked.append(request)
        type(self).answer(self, request)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def give(self, body: bytes, code: int = 200, **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        """End the connection, whatever was promised."""
        self.wfile.flush()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing about connections that the other side ended."""


@contextlib.contextmanager
def serving(answer: Callable[[Any, Asked], None]) -> Iterator[Server]:
    """Serve for the length of a block."""
    asked: list[Asked] = []
    handler = type("Given", (Handler,), {"answer": staticmethod(answer), "asked": asked})
    server = _Quiet(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def files(
    folder: Path, *, drop_after: int | None = None, ranges: bool = True
) -> Callable[[Any, Asked], None]:
    """Answer with the files of a folder: ETag, Range and If-Range as the standard has them.

    With `drop_after`, every connection ends after so many bytes of a file.
    """

    def answer(handler: Any, request: Asked) -> None:
        path = folder / urllib.parse.unquote(request.path).lstrip("/")
        if not path.is_file():
            handler.give(b"no such file", 404)
            return
        data = path.read_bytes()
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        begin, code, headers = 0, 200, {"ETag": tag}
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if found and ranges and request.headers.get("If-Range", tag) == tag:
            begin, code = int(found[1]), 206
            if begin >= len(data):
                handler.give(b"", 416, Content_Range=f"bytes */{len(data)}")
                return
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        handler.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data) - begin)}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data[begin:] if drop_after is None else data[begin : begin + drop_after])
        if drop_after is not None and len(data) - begin > drop_after:
            handler.hang_up()

    return answer


def folder_pages(
    folder: Path, *, ranges: bool = True, length: bool = True, slash: bool = True
) -> Callable[[Any, Asked], None]:
    """Answer with the files of a folder and, for folders, with pages that link to what they contain.

    Without `length`, files are sent in chunks; without `slash`, links to folders do not end with a slash.
    """

    def answer(handler: Any, request: Asked) -> None:
        path = folder / urllib.parse.unquote(request.path.partition("?")[0]).lstrip("/")
        if path.is_dir():
            links = "".join(
                f'<a href="{urllib.parse.quote(each.name)}{"/" * (each.is_dir() and slash)}">{each.name}</a>\n'
                for each in sorted(path.iterdir())
            )
            page = f'<a href="?C=N;O=D">Name</a> <a href="../">..</a>\n{links}'.encode()
            handler.give(page, Content_Type="text/html; charset=utf-8")
            return
        if not path.exists():
            handler.give(b"no such file", 404)
            return
        data, found = (
            path.read_bytes(),
            re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", "")),
        )
        if found and ranges:
            begin, end = int(found[1]), min(int(found[2]) + 1, len(data))
            if begin >= len(data):
                handler.give(b"", 416, Content_Range=f"bytes */{len(data)}")
            else:
                where = f"bytes {begin}-{end - 1}/{len(data)}"
                handler.give(data[begin:end], 206, Content_Range=where, ETag=f'"{hash(data)}"')
        elif length:
            handler.give(data)
        else:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for begin in range(0, len(data), 1000):
                some = data[begin : begin + 1000]
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(some), some))
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def categories(
    members: dict[str, list[tuple[str, int]]], *, a_page: int = 3
) -> Callable[[Any, Asked], None]:
    """Answer as a MediaWiki's api.php does to list=categorymembers, `a_page` members at a time, with continuation."""

    def answer(handler: Any, request: Asked) -> None:
        query = request.query
        assert (query["action"], query["list"], query["format"]) == (
            "query",
            "categorymembers",
            "json",
        ), query
        found = members.get(query["cmtitle"], [])
        begin = int(query.get("cmcontinue", "page|0").partition("|")[2])
        some = found[begin : begin + a_page]
        result: dict[str, Any] = {
            "batchcomplete": "",
            "query": {
                "categorymembers": [
                    {"pageid": begin + i + 1, "ns": ns, "title": title}
                    for i, (title, ns) in enumerate(some)
                ]
            },
        }
        if begin + a_page < len(found):
            result["continue"] = {"cmcontinue": f"page|{begin + a_page}", "continue": "-||"}
        handler.give(json.dumps(result).encode(), Content_Type="application/json; charset=utf-8")

    return answer
