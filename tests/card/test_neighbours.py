"""Neighbours are those of the law, in whatever files the matches are; a sample of captions is always the same sample."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from metaclip.card import neighbours
from metaclip.card.neighbours import MOST_ENTRIES, MOST_NEIGHBOURS, MOST_SEEN, find_neighbours
from metaclip.curate.tables import matched_writer
from metaclip.matching import MATCHES


def write(folder: Path, rows: Sequence[Sequence[int]], files: int = 1, order: int = 1) -> list[Path]:
    """Write matched rows to some files, in order or reversed; a row's uid depends on its index in `rows`."""
    numbered = list(enumerate(rows))[::order]
    size = -(-len(rows) // files)
    paths = []
    for i in range(files):
        part = numbered[i * size : (i + 1) * size]
        path = folder / f"{len(list(folder.iterdir()))}.parquet"
        digests = b"".join(hashlib.md5(b"%d" % number).digest() for number, _ in part)
        uids = np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)
        with matched_writer(path, with_text=False) as add_rows:
            matches = pa.array([sorted(row) for _, row in part], MATCHES)
            if part:
                add_rows(np.arange(len(part)), uids, matches, None, None)
        paths.append(path)
    return paths


def counts_of(rows: Sequence[Sequence[int]], n: int) -> np.ndarray:
    return np.bincount(list(itertools.chain(*rows)), minlength=n).astype(np.uint64)


def naive(rows: Sequence[Sequence[int]], entries: Sequence[str]) -> list[list[tuple[int, int, float]]]:
    """The law over all captions, in plain Python."""
    count = Counter(itertools.chain(*rows))
    together = Counter(
        pair for row in rows for pair in itertools.permutations(row, 2) if len(row) <= MOST_ENTRIES
    )
    seen = Counter(e for row in rows for e in row if len(row) <= MOST_ENTRIES)
    result = []
    for e, entry in enumerate(entries):
        found = []
        for f, other in enumerate(entries):
            m = together[e, f]
            lift = m / seen[e] * (len(rows) / count[f]) if m else 0.0
            nested = f" {entry} " in f" {other} " or f" {other} " in f" {entry} "
            if m >= 2 and lift >= 2.0 and not nested:
                found.append((-m * math.log(lift), f, m, lift))
        result.append([(f, m, lift) for _, f, m, lift in sorted(found)[:MOST_NEIGHBOURS]])
    return result


def rows_of(n_rows: int, n: int, seed: int = 0) -> list[list[int]]:
    """Return captions with stop words, and with entries that occur in pairs."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n_rows):
        first = int(rng.integers(2, n))
        row = {first, int(rng.integers(2, n)), *np.flatnonzero(rng.random(2) < 0.7).tolist()}
        if rng.random() < 0.5:
            row.add(first ^ 1 if (first ^ 1) < n else first)
        rows.append(sorted(row))
    return rows


def test_the_law(tmp_path: Path) -> None:
    """The neighbours, their order and numbers are those of counting every pair of entries in plain Python."""
    entries = ["the", "a", *[f"word {i}" for i in range(58)]]
    rows = [*rows_of(400, 60), list(range(50)), *[[5, 7]] * 3]
    counts = counts_of(rows, 60)
    assert counts[2:].max() < MOST_SEEN < counts[:2].max()
    found = find_neighbours(write(tmp_path, rows), pa.array(entries), counts, len(rows))
    expected = naive(rows, entries)
    assert [found.of(e) for e in range(2, 60)] == expected[2:]  # the two others are sampled
    assert sum(map(len, expected)) > 100


def test_files_order_and_passes_change_nothing(tmp_path: Path) -> None:
    """One file or seven, in order or reversed, one pass or forty give the same neighbours, also of sampled entries."""
    entries = pa.array([f"e{i}" for i in range(40)])
    rows = rows_of(20_000, 40)
    counts = counts_of(rows, 40)
    assert counts.min() > 2 * MOST_SEEN
    whole = find_neighbours(write(tmp_path, rows), entries, counts, len(rows))
    for files, order, keys in ((7, 1, 10**9), (3, -1, 5000), (1, 1, 1)):
        other = find_neighbours(write(tmp_path, rows, files, order), entries, counts, len(rows), keys)
        assert [other.of(e) for e in range(40)] == [whole.of(e) for e in range(40)]
        assert np.array_equal(other.seen, whole.seen)
    assert len(whole.entry)
    assert (abs(whole.seen.astype(int) - MOST_SEEN) < 6 * MOST_SEEN**0.5).all()


def test_who_is_written_inside_is_no_neighbour(tmp_path: Path) -> None:
    """An entry that contains another ("hot dog", "dog") is not its neighbour, in either direction."""
    entries = pa.array(["dog", "hot dog", "mustard", "dogma", "filler"])
    rows = [[0, 1, 2, 3]] * 5 + [[4]] * 50
    found = find_neighbours(write(tmp_path, rows), entries, counts_of(rows, 5), len(rows))
    assert {e: {f for f, _, _ in found.of(e)} for e in range(4)} == {
        0: {2, 3},
        1: {2, 3},
        2: {0, 1, 3},
        3: {0, 1, 2},
    }


def test_lists_are_left_out(tmp_path: Path) -> None:
    """A caption of more entries than `MOST_ENTRIES` is a list and is left out."""
    n = MOST_ENTRIES + 1
    rows = [list(range(n))] * 3 + [[0, 1]] * 2 + [[2]] * 20
    found = find_neighbours(
        write(tmp_path, rows), pa.array([f"e{i}" for i in range(n)]), counts_of(rows, n), len(rows)
    )
    assert found.seen.tolist() == [2, 2, 20, *[0] * (n - 3)]
    assert [f for f, _, _ in found.of(0)] == [1]
    assert len(found.entry) == 2


def test_nothing_matched(tmp_path: Path) -> None:
    """A run without matches, or without files, has no neighbours."""
    entries, counts = pa.array(["a", "b"]), np.zeros(2, np.uint64)
    for files in ([], write(tmp_path, [])):
        found = find_neighbours(files, entries, counts, 0)
        assert found.offsets.tolist() == [0, 0, 0]
        assert neighbours.Neighbours.of(found, 1) == []
