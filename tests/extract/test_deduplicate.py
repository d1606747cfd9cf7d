"""Deduplication: the first pair with each key stays, whatever the runs, the ranges and the order of work."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaclip.extract import deduplicate
from metaclip.extract.deduplicate import KeyRunWriter

Files = list[list[bytes]]


def naive(files: Files) -> list[list[int]]:
    """Return the rows of each file whose key occurs earlier, found with a set."""
    seen: set[bytes] = set()
    lost = []
    for keys in files:
        rows = []
        for row, key in enumerate(keys):
            if key in seen:
                rows.append(row)
            seen.add(key)
        lost.append(rows)
    return lost


def found(folder: Path, files: Files, run_keys: int, ranges: int, seed: int = 0) -> list[list[int]]:
    """Return the same, found out of core, files and ranges in any order."""
    order = random.Random(seed)
    runs: dict[str, int] = {}
    for index in order.sample(range(len(files)), len(files)):
        keys = KeyRunWriter(folder, f"{index:06d}", run_keys)
        uids = np.frombuffer(b"".join(files[index]), ">u8").reshape(-1, 2).astype(np.uint64)
        while len(uids):  # in batches of any size
            size = order.randint(1, len(uids))
            keys.add(uids[:size])
            uids = uids[size:]
        keys.flush()
        assert sum(keys.runs) <= len(files[index])
        runs[f"{index:06d}"] = len(keys.runs)
    for key_range in order.sample(range(ranges), ranges):
        deduplicate.find_duplicates(folder, runs, key_range, ranges)
    return [
        deduplicate.duplicate_rows(folder, name, n, ranges).tolist() for name, n in sorted(runs.items())
    ]


KEY = st.one_of(
    st.integers(0, 3).map(lambda i: bytes(15) + bytes([i])),
    st.integers(0, 3).map(lambda i: bytes([64 * i]) + bytes(15)),
    st.just(b"\xff" * 16),
    st.binary(min_size=16, max_size=16),
)


@given(
    st.lists(st.lists(KEY, max_size=12), min_size=1, max_size=5),
    st.integers(1, 13),
    st.integers(1, 9),
    st.integers(0, 99),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_the_first_of_each_key_stays(
    tmp_path_factory: pytest.TempPathFactory, files: Files, run_keys: int, ranges: int, seed: int
) -> None:
    """Rows that are left out are those that a set of all keys leaves out, for any runs, ranges and order."""
    assert found(tmp_path_factory.mktemp("d"), files, run_keys, ranges, seed) == naive(files)


def test_a_pair_that_is_everywhere(tmp_path: Path) -> None:
    """A key that every row has makes no range large: each run has it once."""
    files = [[bytes(16)] * 500, [bytes(16)] * 500]
    assert found(tmp_path, files, 100, 4) == naive(files)
    assert len(np.load(deduplicate.positions_path(tmp_path, 0))) == 9  # of ten runs


@pytest.mark.parametrize(
    ("keys", "workers", "ranges"),
    [(0, 1, 1), (10**8, 1, 5), (10**8, 2, 10), (10**8, 16, 80), (22 * 10**9, 1, 1100)],
)
def test_ranges_fit_in_memory(keys: int, workers: int, ranges: int) -> None:
    """Duplicates among a hundred million keys are found in 2 GB in as many ranges as the workers need."""
    assert deduplicate.range_count(keys, 2_000_000_000, workers) == ranges


@pytest.mark.slow
def test_memory_of_a_range(tmp_path: Path) -> None:
    """Finding duplicates among four million keys, half of them repeated, takes at most `KEY_BYTES` per key."""
    rng = np.random.default_rng(0)
    n = 2_000_000
    keys = rng.integers(0, 1 << 64, (n, 2), np.uint64, endpoint=False)
    for index in range(2):
        rows = np.concatenate([keys, np.arange(n, dtype=np.uint64)[:, None]], axis=1)
        kept, _ = deduplicate.split_repeated(rows)
        path, same = deduplicate.run_paths(tmp_path, f"{index:06d}", 0)
        np.save(path, kept)
        np.save(same, np.zeros((0, 1), np.uint64))
    tracemalloc.start()
    assert deduplicate.find_duplicates(tmp_path, {"000000": 1, "000001": 1}, 0, 1) == n
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 2 * n * deduplicate.KEY_BYTES
