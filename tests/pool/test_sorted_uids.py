"""Sorting uids out of core: any runs come out as sorted() has them, in blocks that no uid straddles."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.pool import sorted_uids as sorting
from metaclip.pool.sorted_uids import (
    SUBSET,
    UidSet,
    duplicate_uids,
    load_array,
    merge_runs,
    sort_rows,
    write_rows,
    write_run,
    write_subset,
)

U64 = 2**64


def rows(uids: Iterable[Any], width: int = 2) -> Any:
    return np.array(list(uids), np.uint64).reshape(-1, width)


def written(folder: Path, runs: Iterable[Any]) -> list[Path]:
    paths = []
    for i, run in enumerate(runs):
        paths.append(folder / f"{i}.npy")
        write_run(paths[-1], run)
    return paths


# Few different values beside all, so that equal halves and equal uids are frequent.
HALF = st.integers(0, U64 - 1) | st.integers(0, 3) | st.sampled_from([2**63 - 1, 2**63, U64 - 1])
UID = st.tuples(HALF, HALF)
RUNS = st.one_of(
    st.lists(st.lists(UID, max_size=30), max_size=6),
    st.lists(st.lists(st.tuples(st.just(7), HALF), max_size=30), max_size=6),  # all high halves equal
    st.lists(st.lists(st.just((7, 9)), max_size=30), max_size=6),  # all uids equal
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.just(0)), max_size=200), max_size=3),
)


@given(
    RUNS,
    st.sampled_from([1, 2, 5, 64, 200, 1 << 20]),
    st.sampled_from([2, 3, 128]),
    st.sampled_from([1, 3]),
)
@example([[], [], []], 4, 2, 1)
@example([], 4, 2, 3)
@settings(max_examples=150)
def test_merged_runs_are_sorted(
    tmp_path_factory: pytest.TempPathFactory, runs: list[Any], block: int, fan_in: int, threads: int
) -> None:
    """Runs of any lengths, skewed or empty, merge to what sorted() gives, in any number of passes, and leave nothing.

    Equal uids stand in one block; threads change nothing.
    """
    folder = tmp_path_factory.mktemp("runs")
    paths = written(folder, map(rows, runs))
    blocks = [[tuple(row) for row in part.tolist()] for part in merge_runs(paths, block, fan_in, threads)]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert [row for part in blocks for row in part] == sorted(row for run in runs for row in run)
    for before, after in itertools.pairwise(blocks):
        assert before[-1] < after[0]
    assert all(blocks)


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), HALF), max_size=20), max_size=4))
@settings(max_examples=100)
def test_what_goes_with_a_uid_follows_it(
    tmp_path_factory: pytest.TempPathFactory, runs: list[Any]
) -> None:
    """Further columns stay with their uid and ascend within it, so that the order depends on the rows alone."""
    paths = written(tmp_path_factory.mktemp("runs"), (rows(run, 3) for run in runs))
    for block, fan_in in ((1, 2), (1 << 20, 2), (1, 128), (1 << 20, 128)):
        found = [
            tuple(row) for part in merge_runs(paths, block, fan_in, columns=3) for row in part.tolist()
        ]
        assert found == sorted(row for run in runs for row in run)


@given(st.lists(UID, max_size=50) | st.lists(st.tuples(st.integers(0, 2), HALF), max_size=50))
@settings(max_examples=150)
def test_sort_rows(uids: list[Any]) -> None:
    """Rows are sorted by both halves as unsigned numbers; the argument is not modified."""
    given_rows = rows(uids)
    given_rows.flags.writeable = False
    assert [tuple(row) for row in sort_rows(given_rows).tolist()] == sorted(uids)


@pytest.mark.parametrize(
    "lengths",
    [
        [60_000],
        [4096] * 15,
        [1000] * 60,
        [128] * 480,
        [64] * 900,
        [10] * 2000,
        [*[7] * 500, 50_000],
        [50_000, 1, 0, 9000],
    ],
    ids=["one", "4096", "1000", "128", "64", "10", "short and long", "uneven"],
)
def test_blocks_have_the_size_asked_for(lengths: list[int], tmp_path: Path) -> None:
    """However many runs there are and however short, no block of random uids is half as large again as asked for."""
    rng = np.random.default_rng(1)
    paths = written(tmp_path, (rng.integers(0, U64, (n, 2), np.uint64) for n in lengths))
    for block in (1 << 14, 1 << 12):
        sizes = [len(part) for part in merge_runs(paths, block)]
        assert sum(sizes) == sum(lengths)
        assert max(sizes) < 1.5 * block
        assert len(sizes) <= sum(lengths) // block + 1


def test_more_runs_than_files_may_be_open(tmp_path: Path) -> None:
    """Merging opens a bounded number of runs at once: a pool may have more shards than a process may have files."""
    paths = written(tmp_path, (rows([(i, i)]) for i in range(300)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = len(os.listdir("/dev/fd"))  # what tests before this one left to the process
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(others + 150, hard), hard))
    try:
        assert np.concatenate(list(merge_runs(paths, 50)))[:, 0].tolist() == list(range(300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- DataComp's subset format


@given(st.lists(UID, max_size=30))
@example([])
@settings(max_examples=50)
def test_subset_is_datacomps(tmp_path_factory: pytest.TempPathFactory, uids: list[Any]) -> None:
    """A subset is an .npy of dtype u8,u8, one (high, low) a uid, sorted, and holds no pickle; repeats stay."""
    folder = tmp_path_factory.mktemp("subset")
    paths = written(folder, [rows(uids[::2]), rows(uids[1::2])])
    write_subset(folder / "subset.npy", merge_runs(paths, 7), len(uids))
    # As DataComp makes it: https://github.com/mlfoundations/datacomp, from strings of 32 hex digits.
    digits = [f"{high:016x}{low:016x}" for high, low in uids]
    wanted = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in digits], np.dtype("u8,u8"))
    wanted.sort()
    found = np.load(folder / "subset.npy", allow_pickle=False)
    assert found.dtype == wanted.dtype == SUBSET
    assert found.shape == (len(uids),)
    assert found.tolist() == wanted.tolist() == sorted(uids)
    np.save(folder / "theirs.npy", wanted)
    assert (folder / "subset.npy").read_bytes() == (folder / "theirs.npy").read_bytes()


def test_subset_of_other_length_is_refused(tmp_path: Path) -> None:
    """A subset with another number of rows than its header states is never left on disk."""
    with pytest.raises(MetaclipError, match="1 uids where markers count 2"):
        write_subset(tmp_path / "subset.npy", iter([rows([(1, 2)])]), 2)
    assert list(tmp_path.iterdir()) == []


def test_further_columns_stay_out_of_a_subset(tmp_path: Path) -> None:
    """Of wider rows, the uid alone goes into a subset."""
    write_subset(tmp_path / "subset.npy", iter([rows([(1, 2, 3), (4, 5, 6)], 3)]), 2)
    assert np.load(tmp_path / "subset.npy", allow_pickle=False).tolist() == [(1, 2), (4, 5)]


# --- duplicate_uids, UidSet


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_repeated(uids: list[Any]) -> None:
    """Each uid that occurs more than once in a sorted block is returned once, in order."""
    found = [tuple(row) for row in duplicate_uids(rows(sorted(uids))).tolist()]
    assert found == sorted({uid for uid in uids if uids.count(uid) > 1})


def _colliding(high: int, wanted: int) -> tuple[int, int]:
    """A uid of this high half whose hash in UidSet is that of (0, wanted)."""
    return high, (high * 0x9E3779B97F4A7C15 ^ wanted) % U64


UIDS = st.lists(
    UID | st.tuples(st.integers(0, 40), st.integers(0, 2)).map(lambda x: _colliding(*x)), max_size=40
)


@given(UIDS, UIDS)
@settings(max_examples=200)
def test_uid_set_is_a_set(members: list[Any], asked: list[Any]) -> None:
    """A UidSet answers as a Python set does, for any uids, also where their 64-bit hashes are the same."""
    members = list(dict.fromkeys(members))
    uids = UidSet(rows(members))
    asked += members
    assert len(uids) == len(members)
    assert uids.contains(rows(asked)).tolist() == [uid in set(members) for uid in asked]


def test_collisions_are_collisions() -> None:
    """The constructed uids collide: all have one hash, and are told apart by their bits."""
    members = [_colliding(high, 5) for high in range(50)]
    assert len(set(sorting._hash(rows(members)).tolist())) == 1
    uids = UidSet(rows(members[:25]))
    assert uids.contains(rows(members)).tolist() == [True] * 25 + [False] * 25
    assert uids.contains(rows([(low, high) for high, low in members])).sum() == 0


def test_arrays_are_loaded_in_many_threads(tmp_path: Path) -> None:
    """`load_array` works in many threads, although numpy parses headers with a function that does not."""
    write_rows(tmp_path / "rows.npy", np.arange(6, dtype=np.uint64).reshape(3, 2))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_array(tmp_path / "rows.npy", 2).sum(), range(4000)))
    assert set(found) == {15}
