"""Measure extraction against cc2dataset's own WAT function, in one run, on one core.

    METACLIP_DATA=... python -m tests.bench.bench_extract [--rounds 5]

All sides read the shared WAT pages, and then these and seven copies of them with other texts: the difference divided by the size
of the copies is the rate, so that start-up does not count. The sides, in processes that take turns:

- cc2dataset's function, in its own environment, without Spark: uid, url, alt and page_url of every image with a text and an
  http(s) address;
- the same pairs from metaclip, asserted equal (but for those without an address, which cc2dataset takes for the page, and
  with a text of nothing but blanks);
- what a user would combine: cc2dataset's function, fastText's lid.176 for each text, and pyarrow to write parquet;
- the whole of `metaclip extract`: filters, deduplication and parquet, without and with languages.

All times are CPU seconds, to be independent of other load: medians, and the median of the ratios of the rounds. Then peak
memory is measured on one file eight times as large.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.bench import corpus
from tests.bench.peers import CC2DATASET, CC2DATASET_DRIVER, FASTTEXT, Driver, environment

COPIES: Final = 8
OURS = """
import json, sys, tempfile, time
from collections import Counter
from pathlib import Path
from metaclip.extract.extract import extract
from metaclip.extract.extract_file import page_of
from metaclip.extract.filters import Filters
from metaclip.extract.image_columns import ImageBatch, extract_pairs
from metaclip.extract.settings import ExtractSettings
from metaclip.extract.warc_records import read_records
from metaclip.native import ListStruct, load
from metaclip.stage.runner import RunOptions

paths = [Path(path) for path in sys.argv[1:]]
datas = {path: path.read_bytes() for path in paths}

def pairs(paths):
    settings = ExtractSettings(max_text=1 << 40, identify=False)
    batch = ImageBatch(load(), Filters(settings), Counter())
    for name in ("svg_endings", "blank_names", "blank_endings", "counter_domains", "counter_urls"):
        setattr(batch._rules, name, ListStruct.of(()))
    batch._rules.max_url = 1 << 40
    def pages():
        for path in paths:
            for record in read_records([datas[path]], lambda reason, position: None, str(path)):
                scanned = batch.scan(record)
                page = page_of(record, settings) if scanned is None else None
                if scanned or not isinstance(page, (str, type(None))):
                    yield page
    return list(extract_pairs(pages(), batch))

def whole(paths, identify):
    with tempfile.TemporaryDirectory() as folder:
        settings, options = ExtractSettings(identify=identify, **NOTHING_OPTED_OUT), RunOptions(workers=1)
        made = extract(paths, out=Path(folder, "pool"), settings=settings, options=options)
        return made.funnel["pairs"]

NOTHING_OPTED_OUT = {}
for line in sys.stdin:
    side, n = line.split()
    some = paths[:int(n)]
    wall, cpu = time.perf_counter(), time.process_time()
    if side in ("pairs", "rows"):
        found = pairs(some)
    else:
        found = whole(some, side == "languages")
    took = time.perf_counter() - wall, time.process_time() - cpu
    if side == "rows":
        found = [(row["uid"], row["page_url"]) for batch in found for row in batch.to_pylist()]
    elif side == "pairs":
        found = sum(map(len, found))
    print(json.dumps([*took, found]), flush=True)
"""
NAMES: Final = {
    "cc2dataset": "cc2dataset 1.5, its WAT function",
    "pairs": "metaclip, the same pairs",
    "user": "cc2dataset, fastText and pyarrow, combined",
    "filters": "metaclip extract: filters, dedupe, parquet",
    "languages": "metaclip extract, with language identification",
}


def write_copies(folder: Path) -> list[Path]:
    """Write the real WAT and copies of it with a number before each text, record by record."""
    from metaclip.extract.warc_records import read_records

    real = corpus.data_folder() / "wat" / "web-pages.warc.wat.gz"
    paths = [folder / f"{i}.warc.wat.gz" for i in range(COPIES)]
    paths[0].write_bytes(real.read_bytes())
    records = list(read_records([real.read_bytes()], lambda *_: None, "real"))
    for i, path in enumerate(paths[1:], 1):
        with path.open("wb") as file:
            for record in records:
                block = bytes(record.block).replace(b'"alt":"', b'"alt":"%d ' % i)
                lines = {**record.headers, b"content-length": b"%d" % len(block)}
                # fastwarc, which cc2dataset reads with, takes names in no other case.
                head = b"".join(
                    b"%s: %s\r\n" % (name.title().replace(b"Warc", b"WARC"), value)
                    for name, value in lines.items()
                )
                file.write(
                    gzip.compress(b"WARC/1.0\r\n" + head + b"\r\n" + block + b"\r\n\r\n", 6, mtime=0)
                )
    return paths


def peak_memory(paths: list[Path], folder: Path) -> float:
    """Return the peak memory, in MB, of extracting one file as large as all."""
    large = folder / "large.warc.wat.gz"
    large.write_bytes(b"".join(path.read_bytes() for path in paths))
    code = (
        "import resource, sys; from metaclip.cli import main; main(sys.argv[1:]); "
        "print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
    )
    run = [
        sys.executable,
        "-c",
        code,
        "extract",
        str(large),
        "--out",
        str(folder / "pool"),
        "--workers",
        "1",
    ]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1e3


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_copies(folder)
        megabytes = sum(path.stat().st_size for path in paths[1:]) / 1e6
        given = os.environ.get("METACLIP_CC2DATASET")  # the Python of an environment that has it
        python = Path(given) if given else environment(folder / "cc2dataset", *CC2DATASET, FASTTEXT)
        theirs = Driver(python, CC2DATASET_DRIVER, *paths)
        ours = Driver(Path(sys.executable), OURS, *paths)
        one, other = theirs.ask("rows 1")[2], ours.ask("rows 1")[2]
        rest = iter((uid, page) for uid, _, _, page in one)
        assert all(tuple(pair) in rest for pair in other), "the two sides differ"  # in the same order
        assert len(other) > 0.97 * len(one)
        took: dict[str, list[tuple[float, int]]] = {name: [] for name in NAMES}
        for _ in range(rounds):
            for side, measured in took.items():
                driver = theirs if side in ("cc2dataset", "user") else ours
                (_, first, few), (_, all_, many) = driver.ask(f"{side} 1"), driver.ask(f"{side} {COPIES}")
                measured.append((all_ - first, many - few))
        theirs.close()
        ours.close()
        memory = peak_memory(paths, folder)
    base = [cpu for cpu, _ in took["cc2dataset"]]
    print(
        f"{len(one):,} and {len(other):,} pairs of the first file, equal but for images without an address or a text\n"
    )
    print("| one core | pairs out | pairs/s | MB/s | against cc2dataset |\n|---|---:|---:|---:|---:|")
    for key, name in NAMES.items():
        cpu = [seconds for seconds, _ in took[key]]
        middle = statistics.median(cpu)
        ratio = statistics.median(b / c for b, c in zip(base, cpu, strict=True))
        rows = took[key][0][1]
        print(f"| {name} | {rows:,} | {rows / middle:,.0f} | {megabytes / middle:.1f} | {ratio:.2f} x |")
    print(f"\npeak memory for a file of {COPIES / (COPIES - 1) * megabytes:.0f} MB: {memory:.0f} MB")


if __name__ == "__main__":
    main()
