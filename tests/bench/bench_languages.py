"""Time and memory of a query list of many languages.

    python -m tests.bench.bench_languages [--languages 100] [--entries 50000] [--texts 200000]

Makes a list of so many languages with so many entries each, drawn from the shipped list, and builds all automata. A process
of its own then measures what a worker takes that matches texts in ten of these languages, in batches of 65,536: seconds to
open, memory of its own (resident beyond that of a process that matches a list of one entry, files left out), and bytes of
automata that are mapped. The matches are compared with those of each language's list alone, and the processor's time of a
second pass with that of one list after the other.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metaclip import Matcher, Metadata, TextRule
from metaclip.matching.routing import LABELS
from metaclip.metadata import shipped_list
from metaclip.pool.shards import BATCH_ROWS

RULE = TextRule(unspaced_scripts="fixed")
USED = 10


def make_list(languages: int, entries: int, seed: int = 0) -> Metadata:
    """Make a list of which each language has so many entries of the shipped list, drawn at random."""
    codes, shipped = LABELS["lid.176"].split()[:languages], Metadata.read(shipped_list()).entries
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.choice(len(shipped), entries, replace=False)) for _ in codes]
    strings = shipped.cast(pa.large_string()).take(pa.array(np.concatenate(rows)))
    return Metadata(strings.cast(pa.string()), language=np.repeat(codes, entries).tolist())


def make_texts(metadata: Metadata, n: int, seed: int = 1) -> tuple[pa.Array, pa.Array]:
    """Make texts in ten languages, evenly: of six entries each."""
    rng = np.random.default_rng(seed)
    texts, codes = list[str](), list[str]()
    spans = [*metadata.languages.items()][:: max(1, len(metadata.languages) // USED)][:USED]
    for code, ids in spans:
        entries = metadata.entries[ids.start : ids.stop].to_pylist()
        texts += [" ".join(entries[i] for i in row) for row in rng.integers(0, len(ids), (n // USED, 6))]
        codes += [code] * (n // USED)
    order = rng.permutation(len(texts))
    return pa.array(texts).take(pa.array(order)), pa.array(codes).take(pa.array(order))


def resident() -> dict[str, int]:
    """Return the resident memory of this process in bytes: of its own ("RssAnon"), and of files ("RssFile")."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) << 10 for line in lines if line[0].startswith("Rss")}


def mapped() -> int:
    """Return the bytes of automata that this process has mapped."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if ".automaton" in line:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            total += end - begin
    return total


def worker(folder: Path) -> dict[str, Any]:
    """Match the texts as a worker does: with a list and texts that are not yet in memory."""
    with (folder / "texts.pickle").open("rb") as file:
        texts, codes = pickle.load(file)
    Matcher(["warm"], RULE).match(texts[:BATCH_ROWS])  # what any run loads
    before = resident()
    begin = time.perf_counter()
    with (folder / "list.pickle").open("rb") as file:
        matcher = Matcher(pickle.load(file), RULE)
    listed = resident()
    loaded = time.perf_counter() - begin
    matcher.match(texts[:1000], codes[:1000])
    opened = time.perf_counter() - begin - loaded
    for _ in range(2):  # pages of files are in memory the second time
        begin, total = time.thread_time(), 0
        for first in range(0, len(texts), BATCH_ROWS):
            end = first + BATCH_ROWS
            total += len(matcher.match(texts[first:end], codes[first:end]).flatten())
        seconds = time.thread_time() - begin
    after = resident()
    return {
        "list": listed["RssAnon"] - before["RssAnon"], "own": after["RssAnon"] - listed["RssAnon"],
        "files": after["RssFile"] - before["RssFile"], "mapped": mapped(), "load": loaded, "open": opened,
        "match": seconds, "matches": total,
    }  # fmt: skip


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--languages", type=int, default=100)
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--worker", type=Path)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        print(json.dumps(worker(arguments.worker)))
        return
    metadata = make_list(arguments.languages, arguments.entries)
    texts, codes = make_texts(metadata, arguments.texts)
    print(
        f"list      {len(metadata):,} entries of {len(metadata.languages)} languages, {len(texts):,} texts in {USED}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["METACLIP_CACHE"] = str(folder / "cache")
        for file, value in (("list", metadata), ("texts", (texts, codes))):
            with (folder / f"{file}.pickle").open("wb") as opened:
                pickle.dump(value, opened, protocol=5)
        every = pa.array([*metadata.languages], pa.string())
        begin = time.perf_counter()
        Matcher(metadata, RULE).match(pa.array(["x"] * len(every)), every)
        print(f"build     {time.perf_counter() - begin:.1f} s for all automata")
        gc.collect()
        begin = time.perf_counter()
        matcher = Matcher(metadata, RULE)
        matcher.match(pa.array(["x"] * len(every)), every)
        print(
            f"open      {time.perf_counter() - begin:.2f} s for all, {mapped() / 2**20:.0f} MiB of files"
        )
        command = [sys.executable, "-m", "tests.bench.bench_languages", "--worker", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"worker    {found['own'] / 2**20:.0f} MiB of its own and {found['list'] / 2**20:.0f} MiB for the list, "
            f"{found['files'] / 2**20:.0f} MiB of files resident, {found['mapped'] / 2**20:.0f} MiB mapped; "
            f"{found['load']:.2f} s to load the list, {found['open']:.2f} s to open {USED} automata"
        )
        parts = {code: Matcher(metadata.of_language(code), RULE) for code in set(codes.to_pylist())}
        own = {
            code: texts.filter(pa.array([code == other for other in codes.to_pylist()])) for code in parts
        }
        for _ in range(2):
            begin = time.thread_time()
            alone = sum(len(parts[code].match(of).values) for code, of in own.items())
            seconds = time.thread_time() - begin
        assert alone == found["matches"]
        print(
            f"speed     {len(texts) / found['match'] / 1e6:.2f} M texts/s mixed, {len(texts) / seconds / 1e6:.2f} M texts/s of "
            f"one language after the other ({alone / len(texts):.1f} matches a text)"
        )


if __name__ == "__main__":
    main()
