"""`metaclip curate` as a whole, against reading and writing the same parquet with pyarrow alone.

    METACLIP_DATA=... python -m tests.bench.bench_curate [--millions 10] [--rounds 3]

Both sides run two threads and write zstd. Each run is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import corpus

COPY = """
import concurrent.futures, sys
import pyarrow.parquet as pq
source, target = sys.argv[1:]
def copy(group):
    file = pq.ParquetFile(source)
    with pq.ParquetWriter(f"{target}/{group}.parquet", file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches(1 << 17, row_groups=[group], use_threads=False):
            writer.write_batch(batch)
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(copy, range(pq.ParquetFile(source).num_row_groups)))
"""
"""Read and write the pool: the floor for anything that does both."""


LAUNCH = """
import os, subprocess, sys, time
begin = time.perf_counter()
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid, 0)
print(time.perf_counter() - begin, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process hands its peak down to those that it starts: what starts the measured one must be small."""


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command: (wall seconds, peak MiB)."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCH, *command], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak) / 1024


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    entries = str(corpus.data_folder() / "entries_500k.txt.gz")
    real = str(corpus.data_folder() / "alt_text_10k.parquet")
    metaclip = [sys.executable, "-m", "metaclip"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["METACLIP_CACHE"] = str(folder / "cache")

        def curate(pool: Path | str, *more: str) -> tuple[float, float]:
            shutil.rmtree(folder / "run", ignore_errors=True)
            return measured(
                [
                    *metaclip,
                    "curate",
                    str(pool),
                    "--metadata",
                    entries,
                    "--out",
                    str(folder / "run"),
                    *more,
                ]
            )

        curate(real, "--t", "20")
        helps = [measured([*metaclip, "--help"])[0] for _ in range(5)]
        cold = [curate(real, "--t", "20")[0] for _ in range(5)]
        print(f"metaclip --help                              {statistics.median(helps):.2f} s")
        print(f"metaclip curate, 10,000 pairs, cold start    {statistics.median(cold):.2f} s\n")

        print(
            "| pool | copy with pyarrow | metaclip curate | ratio | peak of curate |\n|---|---:|---:|---:|---:|"
        )
        for millions, uid in ((1, True), (arguments.millions, True), (arguments.millions, False)):
            pool = folder / "pool.parquet"
            corpus.write_pool(pool, millions * 1_000_000, uid=uid)
            copies, runs, peaks = [], [], []
            for _ in range(arguments.rounds):
                target = folder / "copy"
                target.mkdir()
                copies.append(measured([sys.executable, "-c", COPY, str(pool), str(target)])[0])
                shutil.rmtree(target)
                seconds, peak = curate(pool, "--workers", "2")
                runs.append(seconds)
                peaks.append(peak)
            copy, run = statistics.median(copies), statistics.median(runs)
            kind = "uid" if uid else "no uid: md5"
            print(
                f"| {millions} M pairs, {kind} | {copy:.1f} s | {run:.1f} s | {run / copy:.2f} x | {max(peaks):,.0f} MiB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
