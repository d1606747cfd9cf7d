"""A real S3 server in a process of its own (moto's), and a proxy in front of it that can be told to fail."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

BUCKET = "pairs"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIDofthetests",
    "AWS_SECRET_ACCESS_KEY": "secretofthetests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "METACLIP_BEAT": "0.3",
}


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """Serve S3 for the length of a block; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not _answers(port):
            assert process.poll() is None, "the S3 server ended"
            assert time.monotonic() < end, "the S3 server does not answer"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request that a proxy received."""

    number: int
    method: str
    path: str
    headers: dict[str, str]


Answer = tuple[int, str] | None
"""A status and S3's name of an error, to be sent instead of the server's answer; None to ask the server."""


@dataclasses.dataclass
class Proxy:
    """A running proxy: its address, the requests that it received, and those that it answered itself."""

    address: str
    asked: list[Asked]
    refused: list[Asked]


@contextlib.contextmanager
def proxy(
    server: str, answer: Callable[[Asked], Answer], without: tuple[str, ...] = (), too_late: bool = False
) -> Iterator[Proxy]:
    """Forward requests to a server for the length of a block, `without` these headers.

    A request that the proxy answers itself does not reach the server or, with `too_late`, is answered after the server has
    executed it.
    """
    asked: list[Asked] = []
    refused: list[Asked] = []
    host = server.removeprefix("http://")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            request = Asked(len(asked), self.command, self.path, dict(self.headers))
            asked.append(request)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            said = answer(request)
            if said is not None and not too_late:
                refused.append(request)
                text = f"<?xml version='1.0'?><Error><Code>{said[1]}</Code><Message>{said[1]} it is</Message></Error>"
                self.reply(said[0], [("Content-Type", "application/xml")], text.encode())
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in without}
            connection = http.client.HTTPConnection(host, timeout=60)
            connection.request(self.command, self.path, body, headers)
            got = connection.getresponse()
            if said is not None:
                refused.append(request)
                got.read()
                connection.close()
                self.reply(said[0], [], b"")
                return
            kept = [
                (k, v)
                for k, v in got.getheaders()
                if k.lower() not in ("connection", "transfer-encoding")
            ]
            self.reply(got.status, kept, got.read())
            connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

        def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Write no log."""

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Report nothing: the other side may close a connection."""

    standing = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=standing.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Proxy(f"http://127.0.0.1:{standing.server_port}", asked, refused)
    finally:
        standing.shutdown()
        thread.join()
        standing.server_close()


def key_of(request: Asked) -> str:
    """Return the key of the object that a request names: its path in the bucket."""
    return re.sub(r"\?.*", "", request.path).removeprefix(f"/{BUCKET}").lstrip("/")
