"""Counts out of core: whatever the bound, the files and the memory, they are those of one Counter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.metadata.sources import string_counts

pytest.importorskip("duckdb", reason="needs metaclip[build]")

KEYS = st.sampled_from(
    ["a", "b", "a b", "ab", "é", "z\0", "", "\U0001f436", "\uffff", "A", "a-b", "a'b"]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


def counts_of(*paths: Path) -> list[tuple[str, int]]:
    return [
        (key, count)
        for table in string_counts.sums(paths, rows=7)
        for key, count in zip(table["key"].to_pylist(), table["count"].to_pylist(), strict=True)
    ]


def sorted_counts(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: item[0].encode())


@settings(max_examples=25)  # duckdb is started anew for each sum
@given(st.lists(st.lists(KEYS, max_size=20), max_size=10), st.integers(1, 30))
def test_any_bound_gives_the_counts_of_a_counter(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]], bound: int
) -> None:
    """A bound of one string and a bound never reached give the same sums, sorted by bytes."""
    folder = tmp_path_factory.mktemp("counter")
    with string_counts.string_counter(folder / "counts.parquet", bound) as counter:
        for batch in batches:
            counter.add(batch)
    assert counts_of(folder / "counts.parquet") == sorted_counts(
        Counter(key for batch in batches for key in batch)
    )
    assert [path.name for path in folder.iterdir()] == ["counts.parquet"]


def test_a_counter_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """What was counted before an error is not taken for all."""
    with pytest.raises(TypeError), string_counts.string_counter(tmp_path / "x.parquet", 1) as counter:
        counter.add(["a", 1])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25)
@given(
    st.lists(st.dictionaries(KEYS, st.integers(1, 1 << 40), max_size=30), min_size=1, max_size=9),
    st.integers(0, 1 << 40),
)
def test_sums_of_several_files(
    tmp_path_factory: pytest.TempPathFactory, files: list[dict[str, int]], least: int
) -> None:
    """Files are added up, sums below the least are left out, and the files stay."""
    folder = tmp_path_factory.mktemp("sums")
    paths, expected = [], Counter[str]()
    for number, counts in enumerate(files):
        paths.append(folder / f"{number}.parquet")
        string_counts.write_counts(paths[-1], [table_of(counts)])
        expected.update(counts)
    assert counts_of(*paths) == sorted_counts(expected)
    rows = [row for table in string_counts.sums(paths, least) for row in table["key"].to_pylist()]
    assert rows == [key for key, count in sorted_counts(expected) if count >= least]
    assert len(list(folder.iterdir())) == len(files)


def test_more_sums_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its memory the sum goes on, on disk, with the same result."""
    counts = {f"a string of some length, number {i}": i for i in range(400_000)}
    string_counts.write_counts(tmp_path / "a.parquet", [table_of(counts)])
    monkeypatch.setattr(string_counts, "_MEMORY", "60MB")
    monkeypatch.setattr(string_counts, "_THREADS", 1)
    found = pa.concat_tables(string_counts.sums([tmp_path / "a.parquet"] * 2))
    assert found.equals(table_of({key: 2 * counts[key] for key in sorted(counts)}))


def table_of(counts: dict[str, int]) -> pa.Table:
    return pa.table([pa.array(counts, pa.string()), pa.array(counts.values())], string_counts.SCHEMA)


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


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """Counts that a power cut left short are one clear line that names them."""
    string_counts.write_counts(tmp_path / "x.parquet", [table_of({"a": 1})])
    data = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(data[:-4])
    with pytest.raises(MetaclipError, match=r"cannot be added up \(.*x\.parquet.*remove what is damaged"):
        list(string_counts.sums([tmp_path / "x.parquet"]))
