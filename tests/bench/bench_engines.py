"""Engines and size: one worker against two, Ray against local, time to the first shard, memory as the pool grows.

    METACLIP_DATA=... python -m tests.bench.bench_engines [--millions 10] [--sizes 1 10 50] [--seconds 10] [--shards 6]
                                                          [--only workers ray first sizes]

All runs are of the command line, each in a process of its own with its own peak, of `metaclip curate` with 500,000 real
entries; those that are compared must have one result digest. Ray's processes are started and stopped by each run. Disk: 0.3
GB for each million pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq

from tests.bench import corpus
from tests.bench.bench_curate import measured

METACLIP = [sys.executable, "-m", "metaclip"]
PILOT_ROWS = 500_000
START_ROWS = 60_000
"""Pairs that go the way of many, and take little time."""


class Bench:
    """A folder, a list, and runs of one pool after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.entries = folder, str(corpus.data_folder() / "entries_500k.txt.gz")

    def command(self, pool: Path, *more: Any) -> list[str]:
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        given = [
            "curate",
            pool,
            "--metadata",
            self.entries,
            "--t",
            2000,
            "--out",
            self.folder / "run",
            *more,
        ]
        return [*METACLIP, *map(str, given)]

    def curate(self, pool: Path, *more: Any) -> tuple[float, float, str]:
        """Run: (seconds, peak MiB of the driver, result digest)."""
        seconds, peak = measured(self.command(pool, *more))
        return seconds, peak, json.loads((self.folder / "run" / "card.json").read_text())["result_digest"]

    def first(self, pool: Path, *more: Any) -> tuple[float, float]:
        """Run: seconds from the command to the first finished shard, and to the end."""
        begin, found = time.perf_counter(), 0.0
        process = subprocess.Popen(self.command(pool, *more), stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if not found and list((self.folder / "run" / ".state" / "match").glob("*-*.json")):
                found = time.perf_counter() - begin
            time.sleep(0.002)
        if process.returncode:
            sys.exit("failed")
        return found, time.perf_counter() - begin

    def pool(self, pairs: int) -> Path:
        """Write a pool of one parquet file."""
        path = self.folder / f"{pairs}.parquet"
        corpus.write_pool(path, pairs, uid=True)
        return path


def workers(bench: Bench, arguments: argparse.Namespace) -> None:
    """Local, one worker and two."""
    pool = bench.pool(arguments.millions * 1_000_000)
    bench.curate(bench.pool(START_ROWS))  # builds the automaton and compiles, once for all that follow
    start = {n: bench.curate(bench.pool(START_ROWS), "--workers", n)[0] for n in (1, 2)}
    runs = {n: bench.curate(pool, "--workers", n) for n in (1, 2)}
    assert runs[1][2] == runs[2][2]
    print(
        f"\n| local, {arguments.millions} M pairs | wall | beyond start-up | pairs/s | peak |\n|---|---:|---:|---:|---:|"
    )
    for n, (seconds, peak, _) in runs.items():
        rate = arguments.millions * 1e6 / seconds
        print(
            f"| {n} worker{'s' * (n > 1)} | {seconds:.1f} s | {seconds - start[n]:.1f} s | {rate:,.0f} | {peak:,.0f} MiB |"
        )
    all_of_it = runs[1][0] / runs[2][0]
    beyond = (runs[1][0] - start[1]) / (runs[2][0] - start[2])
    print(f"two workers against one: {all_of_it:.2f} x, beyond start-up {beyond:.2f} x", flush=True)
    pool.unlink()


def ray(bench: Bench, arguments: argparse.Namespace) -> None:
    """Ray against local, on shards that take some seconds each: files of csv, which are shards each."""
    pilot = bench.folder / "pilot"
    write_csv(pilot, 1, PILOT_ROWS)
    start_pool = bench.folder / "start"
    write_csv(start_pool, 2, START_ROWS)
    engines: dict[str, list[Any]] = {
        "local": ["--engine", "local", "--workers", 2],
        "ray": ["--engine", "ray", "--workers", 2],
    }
    bench.curate(start_pool)
    start = {name: bench.curate(start_pool, *flags)[0] for name, flags in engines.items()}
    a_row = (bench.curate(pilot, "--workers", 1)[0] - start["local"]) / PILOT_ROWS
    rows = max(100_000, int(arguments.seconds / max(a_row, 1e-7)))
    pool = bench.folder / "csv"
    write_csv(pool, arguments.shards, rows)
    runs = {name: bench.curate(pool, *flags) for name, flags in engines.items()}
    assert runs["local"][2] == runs["ray"][2]
    print(
        f"\n| {arguments.shards} shards of {rows:,} pairs (both stages: {a_row * rows:.1f} s) | start-up | wall | beyond start-up |"
    )
    print("|---|---:|---:|---:|")
    for name, (seconds, _, _) in runs.items():
        print(
            f"| {name}, 2 workers | {start[name]:.1f} s | {seconds:.1f} s | {seconds - start[name]:.1f} s |"
        )
    ratio = (runs["ray"][0] - start["ray"]) / (runs["local"][0] - start["local"])
    print(f"Ray against local, beyond start-up: {ratio:.2f} x", flush=True)
    for path in (pool, pilot, start_pool):
        shutil.rmtree(path)


def write_csv(folder: Path, files: int, rows: int) -> None:
    """Write a pool of csv files, each with other pairs."""
    folder.mkdir()
    whole = folder.with_suffix(".parquet")
    corpus.write_pool(whole, files * rows, uid=True)
    with pq.ParquetFile(whole) as source:
        batches = source.iter_batches(1 << 16)
        held: list[Any] = []
        for i in range(files):
            left = rows
            with pyarrow.csv.CSVWriter(folder / f"{i:03}.csv", source.schema_arrow) as writer:
                while left:
                    batch = held.pop() if held else next(batches)
                    writer.write_batch(batch.slice(0, left))
                    if len(batch) > left:
                        held.append(batch.slice(left))
                    left -= min(left, len(batch))
    whole.unlink()


def first(bench: Bench, arguments: argparse.Namespace) -> None:
    """From the command to the first finished shard."""
    few = bench.folder / "few"
    few.mkdir()
    corpus.write_pool(few / "0.parquet", 10_000, uid=True)
    many = bench.pool(1_000_000)
    print("\n| from the command | first shard | end |\n|---|---:|---:|")
    for name, pool in (("10,000 pairs", few), ("1 M pairs", many)):
        for engine in ("local", "ray"):
            found, end = bench.first(pool, "--engine", engine, "--workers", 2)
            print(f"| {name}, {engine} | {found:.1f} s | {end:.1f} s |", flush=True)
    shutil.rmtree(few)
    many.unlink()


def sizes(bench: Bench, arguments: argparse.Namespace) -> None:
    """Memory and rate as the pool grows."""
    print("\n| pairs | wall | pairs/s | peak of curate, two workers |\n|---|---:|---:|---:|")
    for millions in arguments.sizes:
        pool = bench.pool(millions * 1_000_000)
        seconds, peak, _ = bench.curate(pool, "--workers", 2)
        print(
            f"| {millions} M | {seconds:.1f} s | {millions * 1e6 / seconds:,.0f} | {peak:,.0f} MiB |",
            flush=True,
        )
        pool.unlink()


PARTS: dict[str, Callable[[Bench, argparse.Namespace], None]] = {
    "workers": workers, "ray": ray, "first": first, "sizes": sizes,
}  # fmt: skip


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["METACLIP_CACHE"] = str(Path(name) / "cache")
        bench = Bench(Path(name))
        bench.curate(bench.pool(10_000))  # builds the automaton
        for part in arguments.only:
            PARTS[part](bench, arguments)


if __name__ == "__main__":
    main()
