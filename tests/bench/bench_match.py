"""Benchmark of matching against the alternatives, in one run on the same texts.

    METACLIP_DATA=... python -m tests.bench.bench_match [--texts 1000000] [--rounds 3]

All sides start from an Arrow array of texts and produce Arrow lists of sorted entry ids, which must be equal. Rounds
alternate between the sides; the table shows medians, and ratios of medians.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ahocorasick
import ahocorasick_rs
import daachorse
import polars as pl
import pyarrow as pa

from curation import naive
from metaclip import Matcher, Metadata
from metaclip.matching import MATCHES
from metaclip.matching import automaton as automata
from metaclip.matching.automaton import build
from metaclip.matching.text_rule import PAPER
from tests.bench import corpus

SPACED = {mark: f" {mark} " for mark in ",.;:?!`"}


def spaced(text: str) -> str:
    """Pad a text as the paper does, in the fastest way known in plain Python."""
    for mark, wide in SPACED.items():
        if mark in text:
            text = text.replace(mark, wide)
    return f" {text} ".replace("\t", " ").replace("\n", " ").replace("\r", " ")


def pyahocorasick_side(entries: list[str]) -> Callable[[pa.Array], pa.Array]:
    """Return the loop over pyahocorasick: pad, iter, set, sort."""
    machine = ahocorasick.Automaton()
    for entry_id, entry in enumerate(entries):
        machine.add_word(f" {entry} ", entry_id)
    machine.make_automaton()

    def match(texts: pa.Array) -> pa.Array:
        return pa.array(
            [sorted({i for _, i in machine.iter(spaced(text))}) for text in texts.to_pylist()], MATCHES
        )

    return match


def ahocorasick_rs_side(entries: list[str]) -> Callable[[pa.Array], pa.Array]:
    """Return the loop over ahocorasick-rs: pad, find, set, sort."""
    machine = ahocorasick_rs.AhoCorasick([f" {entry} " for entry in entries])
    find = functools.partial(machine.find_matches_as_indexes, overlapping=True)

    def match(texts: pa.Array) -> pa.Array:
        return pa.array(
            [sorted({found[0] for found in find(spaced(text))}) for text in texts.to_pylist()], MATCHES
        )

    return match


def daachorse_side(entries: list[str]) -> Callable[[pa.Array], pa.Array]:
    """Return the loop over daachorse's Python binding: pad, find, set, sort."""
    machine = daachorse.CharwiseDoubleArrayAhoCorasick([f" {entry} " for entry in entries])
    find = machine.find_overlapping

    def match(texts: pa.Array) -> pa.Array:
        return pa.array(
            [sorted({found[2] for found in find(spaced(text))}) for text in texts.to_pylist()], MATCHES
        )

    return match


def polars_side(entries: list[str]) -> Callable[[pa.Array], pa.Array]:
    """Return polars' extract_many, which gives strings, on all threads; then their ids, unique and sorted."""
    padded = pl.Series([f" {entry} " for entry in entries])
    ids = dict(zip(padded, range(len(entries)), strict=True))
    marks, wide = list(SPACED), list(SPACED.values())
    of_element = pl.element().replace_strict(ids, return_dtype=pl.UInt32).unique().sort()

    def match(texts: pa.Array) -> pa.Array:
        column = pl.from_arrow(texts).str.replace_many([*marks, "\t", "\n", "\r"], [*wide, " ", " ", " "])
        found = (" " + column + " ").str.extract_many(padded.implode(), overlapping=True)
        return found.to_frame("x").select(pl.col("x").list.eval(of_element))["x"].to_arrow().cast(MATCHES)

    return match


def naive_side(entries: list[str]) -> Callable[[pa.Array], pa.Array]:
    """Return the naive double loop."""
    return lambda texts: pa.array([naive.match(entries, text) for text in texts.to_pylist()], MATCHES)


def batched(matcher: Matcher, texts: pa.Array, threads: int) -> pa.ChunkedArray:
    """Match in batches of 65,536 texts on some threads."""
    parts = [texts.slice(i, 1 << 16) for i in range(0, len(texts), 1 << 16)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return pa.chunked_array(list(pool.map(matcher.match, parts)))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Run a function once; return (seconds, result)."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    entries, texts = corpus.entries(), corpus.texts(arguments.texts)
    metadata = Metadata(entries)
    print(
        f"{len(texts):,} texts of {texts.nbytes / len(texts) - 4:.0f} bytes, {len(entries):,} entries\n"
    )

    with tempfile.TemporaryDirectory() as folder:
        build_s, built = timed(lambda: build(metadata))
        path = Path(folder) / "x.automaton"
        automata.write(built, path)
        automata.read(path, metadata, PAPER)
        open_s = statistics.median(
            timed(lambda: automata.read(path, metadata, PAPER))[0] for _ in range(5)
        )
        print(
            f"automaton: {path.stat().st_size / 2**20:.1f} MiB, built in {build_s:.1f} s, opened in {1000 * open_s:.0f} ms\n"
        )
        matcher = Matcher(metadata, PAPER, cache=Path(folder))

    peers = {
        "pyahocorasick loop": pyahocorasick_side(entries),
        "ahocorasick-rs loop": ahocorasick_rs_side(entries),
        "daachorse loop": daachorse_side(entries),
        "polars extract_many": polars_side(entries),
    }
    ours: dict[str, Callable[[], Any]] = {
        "metaclip": lambda: batched(matcher, texts, 1),
        "metaclip, 2 threads": lambda: batched(matcher, texts, 2),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*peers, *ours)}
    results: dict[str, Any] = {}
    for _ in range(arguments.rounds):
        for name, side in peers.items():
            took, results[name] = timed(functools.partial(side, texts))
            seconds[name].append(took)
            for (
                own,
                run,
            ) in ours.items():  # measured beside each peer, so that drift of the machine affects both
                took, results[own] = timed(run)
                seconds[own].append(took)
    few = texts[:50]
    naive_s, naive_result = timed(functools.partial(naive_side(entries), few))
    seconds["naive double loop (50 texts)"] = [naive_s * len(texts) / len(few)]
    expected = results["metaclip"]
    assert pa.chunked_array([naive_result]).equals(expected[:50])
    for name in (*peers, "metaclip, 2 threads"):
        other = (
            results[name]
            if isinstance(results[name], pa.ChunkedArray)
            else pa.chunked_array([results[name]])
        )
        assert other.equals(expected), f"{name} differs"
    print(
        f"{sum(len(chunk.values) for chunk in expected.chunks) / len(expected):.2f} matches a text, equal on all sides\n",
        file=sys.stderr,
    )

    base = statistics.median(seconds["pyahocorasick loop"])
    print("| | texts/s | us a text | against the loop over pyahocorasick |\n|---|---:|---:|---:|")
    for name in ("naive double loop (50 texts)", *peers, *ours):
        middle = statistics.median(seconds[name])
        print(
            f"| {name} | {len(texts) / middle:,.0f} | {1e6 * middle / len(texts):.2f} | {base / middle:.3g} x |"
        )
    one, two = (statistics.median(seconds[name]) for name in ours)
    print(f"\ntwo threads are {one / two:.2f} x one")
    singles = texts[:20_000].to_pylist()
    find_s = statistics.median(
        timed(lambda: [matcher.find(text) for text in singles])[0] for _ in range(5)
    )
    print(f"Matcher.find, one text at a time: {1e6 * find_s / len(singles):.2f} us a text")


if __name__ == "__main__":
    main()
