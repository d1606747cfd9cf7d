"""Measure extraction from a slow web server against the same files on this machine.

    METACLIP_DATA=... python -m tests.bench.bench_remote [--rounds 3]

The server is a process of this machine that waits 50 ms before it answers, and sends at most 20 MB/s over each connection. The
file is the real WAT 32 times, as large as those of Common Crawl; both sides give the same pairs. Times are wall seconds of one worker, medians.
"""

from __future__ import annotations

import argparse
import http.server
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from metaclip.extract.extract import extract
from metaclip.extract.settings import ExtractSettings
from metaclip.stage.runner import RunOptions
from tests.bench import corpus

LATENCY: Final = 0.05
RATE: Final = 20e6
_STEP: Final = 1 << 16


def serve(path: Path, port: Any) -> None:
    """Serve one file, slowly."""
    data = path.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(LATENCY)
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            part = memoryview(data)[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            begin = time.perf_counter()
            for at in range(0, len(part), _STEP):
                self.wfile.write(part[at : at + _STEP])
                time.sleep(max(0.0, at / RATE - (time.perf_counter() - begin)))

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_address[1])
    server.serve_forever()


def main() -> None:
    """Run and print the rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    real = corpus.data_folder() / "wat" / "web-pages.warc.wat.gz"
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "large.warc.wat.gz")
        path.write_bytes(real.read_bytes() * 32)
        here, there = multiprocessing.Pipe()
        server = multiprocessing.Process(target=serve, args=(path, there), daemon=True)
        server.start()
        address = f"http://127.0.0.1:{here.recv()}/{path.name}"
        took: dict[str, list[float]] = {str(path): [], address: []}
        found = []
        for i in range(rounds):
            for crawl, seconds in took.items():
                begin = time.perf_counter()
                settings, options = ExtractSettings(identify=False), RunOptions(workers=1, progress=False)
                made = extract(
                    crawl, out=Path(name, f"{i}-{len(found)}"), settings=settings, options=options
                )
                seconds.append(time.perf_counter() - begin)
                found.append(made.funnel)
        server.terminate()
        size = path.stat().st_size / 1e6
    assert all(funnel == found[0] for funnel in found), "the two sides differ"
    local, remote = (size / statistics.median(seconds) for seconds in took.values())
    print(f"local {local:.1f} MB/s, from the server {remote:.1f} MB/s: {100 * remote / local:.0f}%")


if __name__ == "__main__":
    main()
