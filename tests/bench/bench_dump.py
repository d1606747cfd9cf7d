"""Counting a dump, measured step by step against what one would use instead, and what a whole Wikipedia then takes.

    METACLIP_DATA=... python -m tests.bench.bench_dump [--copies 4] [--rounds 3]

The dump is the real sample, its pages `--copies` times over as a multistream of 100 pages a stream. MB are 10^6 bytes:
of XML, or of wikitext for what begins with articles. Times are the processor's, so that other work on the machine counts
little; only the last column of the second table is by the clock. Both ways to the text are given the same articles; that ours is the tree's, to the byte, is
asserted for them, and that pieces are the file's text.
"""

from __future__ import annotations

import argparse
import bz2
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mwparserfromhell
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mwparserfromhell.parser import CTokenizer

from metaclip.metadata.sources import bzip2, dump, string_counts, wikitext
from tests.metadata.sources.test_wikitext import from_tree

FULL_BZ2 = 24.0e9
"""Bytes of the multistream dump of English Wikipedia: our assumption for the arithmetic."""


def multistream(source: Path, path: Path, copies: int) -> bytes:
    """Write the sample's pages over and over as a multistream; give its XML."""
    text = bz2.decompress(source.read_bytes())
    begin, end = text.index(b"  <page>"), text.rindex(b"</mediawiki>")
    pages = text[begin:end].split(b"  <page>")[1:] * copies
    streams = [
        b"".join(b"  <page>" + page for page in pages[i : i + 100]) for i in range(0, len(pages), 100)
    ]
    pieces = [text[:begin], *streams, text[end:]]
    path.write_bytes(b"".join(map(bz2.compress, pieces)))
    return b"".join(pieces)


def timed(run: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Run some times: (median seconds, last result)."""
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        result = run()
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds), result


def count_words(texts: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Count words and pairs in memory."""
    words, pairs = Counter[str](), Counter[str]()
    for text in texts:
        for phrase in wikitext.phrases(text):
            words.update(phrase)
            pairs.update(map(" ".join, itertools.pairwise(phrase)))
    return words, pairs


COUNT = """
import resource, sys, time
from metaclip.engine.local import Local
from metaclip.metadata.sources import dump_count
path, out, workers, memory = sys.argv[1:]
begin = time.perf_counter()
dump_count.count(path, "enwiki", out, engine=Local(int(workers)), memory=int(memory), shard_bytes=1 << 20)
seconds = time.perf_counter() - begin
own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime, int(peak) >> 10, workers.ru_maxrss >> 10)
"""
"""A process of its own, whose peak is its own, and whose workers import nothing of this file."""


def counted(path: Path, workers: int, memory: int) -> list[float]:
    """Count in another process: seconds by the clock, of the processor; peak and that of the largest worker, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", COUNT, str(path), f"{folder}/c", str(workers), str(memory)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(field) for field in done.stdout.split()]


def runs_for_merging(folder: Path, pairs: Counter[str], runs: int) -> Iterator[Path]:
    """Write runs of real pairs, each of half of them."""
    rng, keys = np.random.default_rng(0), pa.array(sorted(pairs))
    for number in range(runs):
        some = keys.filter(pa.array(rng.random(len(keys)) < 0.5))
        table = pa.table([some, np.ones(len(some), np.int64)], schema=string_counts.SCHEMA)
        string_counts.write_counts(folder / f"{number}.parquet", [table])
        yield folder / f"{number}.parquet"


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds = arguments.rounds
    source = Path(os.environ["METACLIP_DATA"]) / "enwiki-sample.xml.bz2"
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "enwiki-pages-articles-multistream.xml.bz2"
        xml = multistream(source, path, arguments.copies)
        packed, size = path.stat().st_size, len(xml)
        print(
            f"{size / 1e6:.1f} MB of XML in {packed / 1e6:.2f} MB of bzip2, {xml.count(b'<page>')} pages\n"
        )

        pages = list(dump.pages(source, 0, source.stat().st_size))
        articles = [page.text for page in pages if page.namespace == 0 and page.redirect is None]
        written = sum(len(text.encode()) for text in articles)
        extract = wikitext.extractor(wikitext.NamespaceNames())
        steps: dict[str, tuple[float, float]] = {}

        seconds, text = timed(lambda: bz2.decompress(path.read_bytes()), rounds)
        steps["bz2.decompress"] = seconds, size
        seconds, ours = timed(lambda: b"".join(piece.text for piece in bzip2.pieces(path)), rounds)
        steps["metaclip: pieces"] = seconds, size
        assert ours == text == xml
        seconds, found = timed(lambda: sum(1 for _ in dump.pages(path, 0, packed)), rounds)
        steps["metaclip: pieces, then pages by mwxml"] = seconds, size
        assert found == xml.count(b"<page>")
        seconds, _ = timed(lambda: [CTokenizer().tokenize(text, 0, True) for text in articles], rounds)
        steps["mwparserfromhell: tokens alone"] = seconds, written
        seconds, _ = timed(lambda: [mwparserfromhell.parse(text).strip_code() for text in articles], 1)
        steps["mwparserfromhell: parse().strip_code()"] = seconds, written
        seconds, texts = timed(lambda: [extract(text) for text in articles], rounds)
        steps["metaclip: text from tokens"] = seconds, written
        assert texts == [from_tree(text, wikitext.NamespaceNames()) for text in articles]
        seconds, (_, pairs) = timed(lambda: count_words(texts), rounds)
        steps["metaclip: words and counts"] = seconds, written
        print("| one core | MB/s |\n|---|---:|")
        for step, (seconds, amount) in steps.items():
            print(f"| {step} | {amount / 1e6 / seconds:.1f} |")

        print(
            "\n| whole count | MB/s of XML | MB/s of bzip2 | peak, MiB | of a worker | MB/s of XML by the clock |"
        )
        print("|---|---:|---:|---:|---:|---:|")
        rates = []
        for workers, memory in ((1, 3 << 29), (1, 20 << 20), (2, 3 << 29)):
            clock, seconds, own, other = counted(path, workers, memory)
            rates.append(packed / seconds)
            held = f"{workers} worker{'s' * (workers > 1)}, {memory >> 20} MiB of counts"
            of_a_worker = f"{other:.0f}" if workers > 1 else ""
            print(
                f"| {held} | {size / 1e6 / seconds:.2f} | {packed / 1e6 / seconds:.2f} | {own:.0f} | {of_a_worker} "
                f"| {size / 1e6 / clock:.2f} |"
            )

        folder = Path(name) / "runs"
        folder.mkdir()
        runs = list(runs_for_merging(folder, pairs, 32))
        rows = sum(pq.read_metadata(run).num_rows for run in runs)
        seconds, _ = timed(lambda: sum(map(len, string_counts.sums(runs))), rounds)
        merging = rows / seconds
        print(
            f"\nmerging {len(runs)} runs: {merging / 1e6:.2f} M rows/s, {sum(r.stat().st_size for r in runs) / rows:.1f} bytes a row"
        )

    hours = FULL_BZ2 / rates[0] / 3600
    print(f"all of English Wikipedia, {FULL_BZ2 / 1e9:.0f} GB: {hours:.1f} core hours of counting")


if __name__ == "__main__":
    main()
