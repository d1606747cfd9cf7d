"""Counts out of core: whatever the bound, the runs and the fan-in, they are those of one Counter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.metadata.sources import string_counts
from metaclip.metadata.sources.string_counts import StringCounter

KEYS = st.sampled_from(
    ["a", "b", "a b", "ab", "é", "z\0", "", "\U0001f436", "\uffff", "A", "a-b", "a'b"]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


def counts_of(path: Path) -> list[tuple[str, int]]:
    return [
        (key, count)
        for table in string_counts.read_run(path, rows=7)
        for key, count in zip(table["key"].to_pylist(), table["count"].to_pylist(), strict=True)
    ]


def sorted_counts(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: item[0].encode())


@given(st.lists(st.lists(KEYS, max_size=20), max_size=10), st.integers(1, 30))
def test_any_bound_gives_the_counts_of_a_counter(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]], bound: int
) -> None:
    """A bound of one string and a bound never reached give the same file, sorted by bytes; no run is left."""
    folder = tmp_path_factory.mktemp("counter")
    counter = StringCounter(folder / "counts.parquet", bound)
    for batch in batches:
        counter.add(batch)
    counter.finish()
    assert counts_of(folder / "counts.parquet") == sorted_counts(
        Counter(key for batch in batches for key in batch)
    )
    assert [path.name for path in folder.iterdir()] == ["counts.parquet"]


def test_counts_added_are_bounded_too(tmp_path: Path) -> None:
    """A stream of counts spills while it flows, not when it ends."""
    counter, most = StringCounter(tmp_path / "x.parquet", 10), 0

    def stream() -> object:
        nonlocal most
        for i in range(200):
            most = max(most, len(counter._counts))
            yield f"{i % 50:02}", i

    counter.add_counts(stream())  # type: ignore[arg-type]
    counter.finish()
    assert most <= 10
    expected: Counter[str] = Counter()
    for i in range(200):
        expected[f"{i % 50:02}"] += i
    assert counts_of(tmp_path / "x.parquet") == sorted_counts(expected)


@given(
    st.lists(st.dictionaries(KEYS, st.integers(1, 1 << 40), max_size=30), min_size=1, max_size=9),
    st.integers(2, 4),
)
def test_any_fan_in_gives_the_sums(
    tmp_path_factory: pytest.TempPathFactory, runs: list[dict[str, int]], fan_in: int
) -> None:
    """Runs merged in one step or in several, some rows at a time, give the sums; the runs stay."""
    folder = tmp_path_factory.mktemp("merge")
    paths, expected = [], Counter[str]()
    for number, run in enumerate(runs):
        paths.append(folder / f"{number}.parquet")
        keys = sorted(run)
        table = pa.table([pa.array(keys, pa.string()), [run[key] for key in keys]], string_counts.SCHEMA)
        string_counts.write_run(paths[-1], [table])
        expected.update(run)
    string_counts.merge_runs(paths, folder / "all.parquet", fan_in)
    assert counts_of(folder / "all.parquet") == sorted_counts(expected)
    assert [
        row for table in string_counts.iter_merged(paths, rows=3) for row in table["key"].to_pylist()
    ] == [key for key, _ in sorted_counts(expected)]
    assert len(list(folder.iterdir())) == len(runs) + 1


def test_best_first(tmp_path: Path) -> None:
    """Scores first, then counts, then the lesser key; a limit holds no more than it must, and the number passed is told."""
    rows = [("b", 1, 2.0), ("a", 1, 2.0), ("c", 5, 2.0), ("d", 1, 9.0), ("e", 1, 1.0)]
    tables = [pa.table({"key": [key], "count": [count], "score": [score]}) for key, count, score in rows]
    best, passed = string_counts.best_first(tables, 4)
    assert (best["key"].to_pylist(), passed) == (["d", "c", "a", "b"], 5)
    assert string_counts.best_first([], None)[0].num_rows == 0


def test_best_first_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting along the way gives what sorting all at once gives."""
    tables = [
        pa.table({"key": [f"{i}-{j}" for j in range(50)], "count": [j % 7 for j in range(50)], "score": [float(j * i % 11) for j in range(50)]})
        for i in range(20)
    ]  # fmt: skip
    at_once, _ = string_counts.best_first(tables, 30)
    monkeypatch.setattr(string_counts, "_HELD_ROWS", 60)
    assert string_counts.best_first(tables, 30)[0].equals(at_once)


def test_a_broken_run_is_named(tmp_path: Path) -> None:
    """A run that a power cut left short is one clear line."""
    string_counts.write_run(tmp_path / "x.parquet", [pa.table([["a"], [1]], schema=string_counts.SCHEMA)])
    data = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(data[:-4])
    with pytest.raises(MetaclipError, match=r"x\.parquet cannot be read"):
        list(string_counts.read_run(tmp_path / "x.parquet"))
