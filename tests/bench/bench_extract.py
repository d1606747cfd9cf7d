"""Measure extraction against cc2dataset's own WAT function, in one run, on one core.

    METACLIP_DATA=... python -m tests.bench.bench_extract [--rounds 15]

Both sides read the bytes of shared WAT pages and return uid, url, alt and page_url of every image with a text and an http(s)
address, asserted equal, in separate processes that take turns; cc2dataset has its own environment, without Spark. Then the
whole of `metaclip extract` is measured: filters, deduplication and parquet, without and with languages. All times are CPU
seconds, to be independent of other load: medians, and the median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import corpus
from tests.bench.peers import CC2DATASET, CC2DATASET_DRIVER, Driver, environment

OURS = """
import json, sys, tempfile, time
from pathlib import Path
from metaclip.extract.extract_file import page_of
from metaclip.extract.settings import ExtractSettings
from metaclip.extract.warc_records import read_records
from metaclip.pool.uid import uid_of

path = sys.argv[1]
data = open(path, "rb").read()

def pairs():
    options, found = ExtractSettings(), []
    for record in read_records([data], lambda reason, position: None, path):
        page = page_of(record, options)
        if isinstance(page, str):
            continue
        for link, alt, _, _ in page.images:
            if alt:
                url = page.base.resolve(link)
                if url is not None and url.startswith(("http://", "https://")):
                    found.append((uid_of(alt, url), url, alt, page.url))
    return found

def whole(identify):
    from metaclip.extract.extract import extract
    from metaclip.stage.runner import RunOptions
    from metaclip.extract.settings import ExtractSettings
    with tempfile.TemporaryDirectory() as folder:
        settings, options = ExtractSettings(identify=identify), RunOptions(workers=1)
        made = extract(path, out=Path(folder, "pool"), settings=settings, options=options)
        return range(made.funnel["pairs"])

sides = {"go": pairs, "rows": pairs, "filters": lambda: whole(False), "languages": lambda: whole(True)}
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    found = sides[line.strip()]()
    took = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps([*took, found if line.strip() == "rows" else len(found)]), flush=True)
"""


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    path = corpus.data_folder() / "wat" / "web-pages.warc.wat.gz"
    megabytes = path.stat().st_size / 1e6
    with tempfile.TemporaryDirectory() as name:
        given = os.environ.get("METACLIP_CC2DATASET")  # the Python of an environment that has it
        python = Path(given) if given else environment(Path(name, "cc2dataset"), *CC2DATASET)
        theirs = Driver(python, CC2DATASET_DRIVER, path)
        ours = Driver(Path(sys.executable), OURS, path)
        one, other = theirs.ask("rows")[2], ours.ask("rows")[2]
        assert one == other, "the two sides differ"
        assert theirs.ask()[2] == ours.ask()[2] == len(one)
        took: dict[str, list[Any]] = {"cc2dataset": [], "pairs": [], "filters": [], "languages": []}
        for i in range(rounds):
            took["cc2dataset"].append(theirs.ask())
            took["pairs"].append(ours.ask("go"))
            if i < 5:
                took["filters"].append(ours.ask("filters"))
                took["languages"].append(ours.ask("languages"))
        theirs.close()
        ours.close()
    names = {
        "cc2dataset": "cc2dataset 1.5, its WAT function",
        "pairs": "metaclip, the same pairs",
        "filters": "metaclip extract: filters, dedupe, parquet",
        "languages": "metaclip extract, identifying languages too",
    }
    base = [cpu for _, cpu, _ in took["cc2dataset"]]
    print(f"{len(one):,} pairs, equal on both sides, of {megabytes:.1f} MB\n")
    print("| one core | pairs out | pairs/s | MB/s | against cc2dataset |\n|---|---:|---:|---:|---:|")
    for key, name in names.items():
        cpu = [seconds for _, seconds, _ in took[key]]
        middle = statistics.median(cpu)
        ratio = statistics.median(b / c for b, c in zip(base, cpu, strict=False))
        rows = took[key][0][2]
        print(
            f"| {name} | {rows:,} | {len(one) / middle:,.0f} | {megabytes / middle:.1f} | {ratio:.2f} x |"
        )


if __name__ == "__main__":
    main()
