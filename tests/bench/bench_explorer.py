"""The explorer page of 500,000 real entries: bytes on disk and sent, time to the first view, to a search, to a paste.

    METACLIP_DATA=... taskset -c 0,1 python -m tests.bench.bench_explorer [--rounds 5]

Served by a plain local server, uncompressed, to a Chromium with an empty cache; medians.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from metaclip import Matcher, Metadata
from metaclip.card.explorer.writer import write_explorer
from metaclip.card.neighbours import find_neighbours
from metaclip.curate.tables import matched_writer
from metaclip.pool.uid import uids_of
from tests.bench import corpus
from tests.card.browser.cards import large_account, large_grid, large_table
from tests.card.browser.chromium import Page, launched

T = 20_000.0
FIRST_VIEW = ("card.0.js", "entries.0.js", "numbers.0.js")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def write(folder: Path, entries: list[str]) -> None:
    """Write the page, and print the cost."""
    table = large_table(entries, T)
    account, grid = large_account(table, T), large_grid(table, T)
    start = time.perf_counter()
    write_explorer(folder, name="bench", account=account, entries=table, grid=grid, run=None)
    print(f"| write the page of {len(entries):,} entries | {time.perf_counter() - start:.1f} s |")
    data = folder / "explorer" / "data"
    files = [path for path in folder.rglob("*") if path.is_file()]
    page = [path for path in files if path.parent != data]
    first = sum((data / name).stat().st_size for name in FIRST_VIEW) + sum(
        path.stat().st_size for path in page
    )
    for name in FIRST_VIEW:
        print(f"| {name} | {(data / name).stat().st_size / 1e6:.2f} MB |")
    print(f"| first view, as sent by a host that does not compress | {first / 1e6:.2f} MB |")
    print(f"| all {len(files)} files | {sum(path.stat().st_size for path in files) / 1e6:.1f} MB |")
    print(f"| largest file | {max(path.stat().st_size for path in files) / 1e6:.2f} MB |")


def view(folder: Path, rounds: int) -> None:
    """Open the page in Chromium, and print how long a reader waits."""
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, launched() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            page = Page(browser, f"http://127.0.0.1:{server.server_port}/index.html")
            try:
                step = times.setdefault
                step("first view, results and charts shown", []).append(
                    page.view.evaluate("performance.now()") / 1000
                )
                for query in ("d", "do", "dog", "dog show"):
                    step(f"search {query!r}", []).append(_typed(page, "query", query, "found"))
                step("first caption (the entries are made ready)", []).append(
                    _typed(page, "text", "a photo of a dog", "verdict")
                )
                step("next caption", []).append(
                    _typed(page, "text", "a photo of two dogs on the beach", "verdict")
                )
                step("move t", []).append(_typed(page, "t", "50000", "would"))
                assert page.rows("#matches"), "the caption matches nothing"
                assert not page.said, page.said
            finally:
                page.close()
        for name, taken in times.items():
            print(f"| {name} | {statistics.median(taken) * 1000:.0f} ms |")
        server.shutdown()


def _typed(page: Page, field: str, value: str, answer: str) -> float:
    """Return the seconds from an input until its answer is in the page and laid out."""
    return page.view.evaluate(
        """([field, value, answer]) => new Promise((resolve) => {
            const target = document.getElementById(answer), begin = performance.now();
            const done = () => { watch.disconnect(); document.body.offsetHeight; resolve((performance.now() - begin) / 1000); };
            const watch = new MutationObserver(done);
            watch.observe(target, { childList: true, characterData: true, subtree: true });
            document.getElementById(field).value = value;
            document.getElementById(field).dispatchEvent(new Event("input"));
        })""",
        [field, value, answer],
    )


def neighbours(folder: Path, entries: list[str], pairs: int) -> None:
    """Find neighbours in `pairs` captions, and print the cost."""
    metadata, texts = Metadata(entries), corpus.texts(pairs)
    matcher = Matcher(metadata)
    matches = matcher.match(texts)
    found = pa.array(np.flatnonzero(np.diff(np.asarray(matches.offsets))))
    counts = matcher.count(matches)
    path = folder / "matched.parquet"
    with matched_writer(path, False) as add_rows:
        add_rows(
            found.to_numpy(), uids_of(texts.take(found), None, None), matches.take(found), None, None
        )
    start = time.perf_counter()
    made = find_neighbours([path], metadata.entries, counts, len(found))
    taken = time.perf_counter() - start
    print(f"| neighbours in {len(found):,} matched pairs | {taken:.1f} s, {len(made.entry):,} found |")


def main() -> None:
    """Write, open, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=500_000)
    arguments = parser.parse_args()
    entries = corpus.entries()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "card"), entries)
        view(Path(folder, "card"), arguments.rounds)
        neighbours(Path(folder), entries, arguments.pairs)


if __name__ == "__main__":
    main()
