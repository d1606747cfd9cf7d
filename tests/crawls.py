"""Crawls for tests: records of WARC and WAT files, and a server that fails on request."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def record(kind: str, block: bytes, **headers: str) -> bytes:
    """Return a record; "_" in the names of headers stands for "-"."""
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    head = "\r\n".join([*lines, f"Content-Length: {len(block)}"]).encode()
    return head + b"\r\n\r\n" + block + b"\r\n\r\n"


def image(url: str | None, alt: str | None = None, title: str | None = None) -> dict[str, str]:
    """Return an image as a WAT describes it: a missing field has no key."""
    fields = {"path": "IMG@/src", "url": url, "alt": alt, "title": title}
    return {key: value for key, value in fields.items() if value is not None}


def wat_block(
    url: str,
    links: Iterable[Any],
    base: str | None = None,
    metas: Iterable[Any] = (),
    headers: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the block of a WAT record of a page."""
    head: dict[str, Any] = {"Title": "x"} | ({} if base is None else {"Base": base})
    if metas:
        head["Metas"] = list(metas)
    page = {"Head": head, "Links": list(links)}
    envelope = {
        "Payload-Metadata": {"HTTP-Response-Metadata": {"Headers": headers or {}, "HTML-Metadata": page}},
        "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": url},
    }
    return json.dumps(
        {"Container": {"Filename": "x.warc.gz"}, "Envelope": envelope},
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode("utf-8", "surrogatepass")


def wat(url: str, links: Iterable[Any], base: str | None = None, **more: Any) -> bytes:
    """Return a WAT record; `more` is that of `wat_block`."""
    return record(
        "metadata",
        wat_block(url, links, base, **more),
        WARC_Target_URI=url,
        Content_Type="application/json",
    )


def response(
    url: str, html: str | bytes, *headers: str, content_type: str = "text/html; charset=utf-8"
) -> bytes:
    """Return a response record."""
    body = html.encode() if isinstance(html, str) else html
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {content_type}", *headers]
    block = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    return record(
        "response", block, WARC_Target_URI=url, Content_Type="application/http; msgtype=response"
    )


def packed(records: Iterable[bytes]) -> bytes:
    """Return records, each in a gzip member."""
    return b"".join(gzip.compress(one, mtime=0) for one in records)


def photos(first: int, n: int, page: str = "https://example.org/page") -> bytes:
    """Return a WAT record of a page with `n` different photos."""
    return wat(
        f"{page}{first}",
        [image(f"/photo-{i}.jpg", f"a photo of number {i}") for i in range(first, first + n)],
    )


@contextlib.contextmanager
def served(
    folder: Path, answer: Callable[[Any, int], int | None] = lambda request, n: None
) -> Iterator[tuple[str, list[Any]]]:
    """Serve a folder, ranges too; yield (address, requests so far).

    `answer` is called with each request and its number; it may return a status to refuse with, -1 to close the connection
    in the middle of the body, or 0 to ignore ranges.
    """
    requests: list[Any] = []
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            with lock:
                requests.append((self.command, self.path, dict(self.headers)))
                number = len(requests)
            status = answer(self, number)
            path = folder / self.path.lstrip("/")
            if (status is not None and status > 0) or not path.is_file():
                self.send_response(status or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data, wanted = path.read_bytes(), self.headers.get("Range")
            size = len(data)
            if wanted and status != 0:
                first, last = wanted.removeprefix("bytes=").split("-")
                begin, end = int(first), min(size, int(last) + 1 if last else size)
                data = data[begin:end]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "none" if status == 0 else "bytes")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if status == -1:
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", requests
        finally:
            server.shutdown()
            thread.join()
