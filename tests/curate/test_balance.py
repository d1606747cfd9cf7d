"""Balance: whole runs against the naive algorithm, and the laws that no sharding, order or number of workers breaks."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import naive
from metaclip import (
    MatchSettings,
    MetaclipError,
    Metadata,
    Run,
    RunOptions,
    balance,
    curate,
    match,
)
from metaclip.curate import match_shard as matching
from metaclip.curate.balance_outputs import _repeats_variance
from metaclip.curate.draw import FIXED_POINT
from metaclip.curate.match import match_part
from metaclip.matching import MATCHES
from metaclip.pool import shards
from metaclip.pool.files import CODECS
from metaclip.stage.folder import Part
from tests.curate.test_threshold import by_definition

LIST = [
    "dog", "cat", "a", "photo of", "a photo of", "red", "ski", "the", "unseen", "red dog", "bird .", "猫", "x", "of",
]  # fmt: skip
WORDS = [
    "a", "a", "a", "the", "photo", "of", "dog", "dog", "cat", "red", "ski", "bird.", "猫", "nothing", "else", "(dog)",
]  # fmt: skip
ONE = RunOptions(workers=1)


# --- pools


def texts_of(n: int, seed: int = 0, shortest: int = 0) -> list[str]:
    """Random texts: a head (a, dog), a tail, many that match nothing, many the same."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, len(WORDS) + 1)
    chosen = rng.choice(WORDS, (n, 6), p=weights / weights.sum())
    return [" ".join(row[:k]) for row, k in zip(chosen, rng.integers(shortest, 7, n), strict=True)]


def pool_of(n: int, seed: int = 0) -> pa.Table:
    """A pool of n rows: text (some null), url (some null, some the same), and a row's own number."""
    texts: list[str | None] = list(texts_of(n, seed))
    for i in range(0, n, 37):
        texts[i] = None
    urls = [None if i % 11 == 0 else f"http://example.org/{i % 90}.jpg" for i in range(n)]
    return pa.table({"text": pa.array(texts, pa.string()), "url": urls, "n": np.arange(n)})


def write(table: pa.Table, path: Path, rows: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path


def split(table: pa.Table, folder: Path, files: int, rows: int | None = None) -> Path:
    """Write a table as so many files of uneven length."""
    bounds = [len(table) * i * i // (files * files) for i in range(files + 1)]
    for i, (begin, end) in enumerate(itertools.pairwise(bounds)):
        write(table.slice(begin, end - begin), folder / f"{i:03}.parquet", rows)
    return folder


# --- the oracle


@dataclasses.dataclass
class ByHand:
    """A run as curation/naive.py has it; rows without text or match have none of it."""

    ids: list[list[int]]
    uids: list[str]
    counts: list[int]
    p: list[float]
    p_keep: list[float]
    kept: list[int]
    """The numbers of the rows that are kept."""

    def entry_expected(self, e: int) -> Fraction:
        return Fraction(sum(self._fixed(i) for i, ids in enumerate(self.ids) if e in ids), FIXED_POINT)

    def entry_kept(self, e: int) -> int:
        return sum(e in self.ids[i] for i in self.kept)

    @property
    def expected(self) -> Fraction:
        return Fraction(sum(map(self._fixed, range(len(self.ids)))), FIXED_POINT)

    def _fixed(self, i: int) -> int:
        return math.floor(Fraction(self.p_keep[i]) * FIXED_POINT)

    @property
    def variance(self) -> float:
        """By the definition: rows of one uid share u, all others are independent; Cov = P(both) - P(one) P(other)."""
        rows: dict[str, list[float]] = {}
        for uid, p in zip(self.uids, self.p_keep, strict=True):
            rows.setdefault(uid, []).append(p)
        return math.fsum(min(p, q) - p * q for some in rows.values() for p in some for q in some)


def by_hand(
    table: pa.Table, t: float | Sequence[float], seed: int = 0, entries: Sequence[str] = LIST
) -> ByHand:
    nothing = pa.nulls(len(table))
    columns = [table[name] if name in table.schema.names else nothing for name in ("text", "url", "uid")]
    texts, urls, given_uids = (column.to_pylist() for column in columns)
    ids = [[] if text is None else naive.match(entries, text) for text in texts]
    counts = naive.counts(ids, len(entries))
    each = [t] * len(counts) if isinstance(t, int | float) else t
    p = [naive.probability(count, t) for count, t in zip(counts, each, strict=True)]
    p_keep = [naive.keep_probability(row, p) for row in ids]
    uids = []
    for text, url, uid in zip(texts, urls, given_uids, strict=True):
        uids.append(uid or hashlib.md5(((text or "") + (url or "")).encode()).hexdigest())
    kept = [i for i, uid in enumerate(uids) if naive.draw(seed, 0, uid) < p_keep[i]]
    return ByHand(ids, uids, counts, p, p_keep, kept)


def held(run: Run, table: pa.Table, wanted: ByHand) -> None:
    """Assert that a run is what the naive algorithm makes of the table, in every figure and file."""
    matched = (
        pq.read_table(run.path / "matched").sort_by("row") if (run.path / "matched").exists() else None
    )
    rows_matched = [i for i, ids in enumerate(wanted.ids) if ids]
    if matched is not None and len(run.manifest["inputs"]) == 1:
        assert matched["row"].to_pylist() == rows_matched
        assert matched["matches"].to_pylist() == [wanted.ids[i] for i in rows_matched]
        assert [uid.hex() for uid in matched["uid"].to_pylist()] == [wanted.uids[i] for i in rows_matched]
    assert run.counts.values.tolist() == wanted.counts
    entries = run.entries
    assert entries["entry_id"].to_pylist() == list(range(len(LIST)))
    assert entries["entry"].to_pylist() == LIST
    assert entries["count"].to_pylist() == wanted.counts
    assert entries["probability"].to_pylist() == wanted.p
    assert entries["expected"].to_pylist() == [float(wanted.entry_expected(e)) for e in range(len(LIST))]
    assert entries["kept"].to_pylist() == [wanted.entry_kept(e) for e in range(len(LIST))]
    curated = run.curated.sort_by("n")
    assert curated["n"].to_pylist() == wanted.kept
    assert curated["text"].to_pylist() == [table["text"][i].as_py() for i in wanted.kept]
    assert curated["uid"].to_pylist() == [wanted.uids[i] for i in wanted.kept]
    assert curated["matches"].to_pylist() == [wanted.ids[i] for i in wanted.kept]
    assert curated["keep_probability"].to_pylist() == [wanted.p_keep[i] for i in wanted.kept]
    subset = np.load(run.path / "curated.npy", allow_pickle=False)
    assert subset.dtype == np.dtype("u8,u8")
    assert [f"{high:016x}{low:016x}" for high, low in subset.tolist()] == sorted(
        wanted.uids[i] for i in wanted.kept
    )
    pairs = run.account["pairs"]
    assert pairs["matched"] == len(rows_matched)
    assert pairs["kept"] == len(wanted.kept)
    assert pairs["expected"] == float(wanted.expected)
    assert pairs["deviation"] == pytest.approx(math.sqrt(wanted.variance), abs=1e-4)
    assert run.account["funnel"].get("null_text", 0) == table["text"].null_count
    assert run.account["funnel"]["not_drawn"] == len(rows_matched) - len(wanted.kept)


def result(run: Run) -> dict[str, Any]:
    """What no sharding may change."""
    return {
        "digest": run.account["result_digest"],
        "counts": run.counts.values.tolist(),
        "entries": run.entries.to_pylist(),
        "subset": np.load(run.path / "curated.npy").tolist(),
        "rows": run.curated.sort_by("n")
        .select(["n", "text", "uid", "matches", "keep_probability"])
        .to_pylist(),
        "pairs": run.account["pairs"],
        "funnel": run.account["funnel"],
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut shards and batches at a few rows, so that small pools have many of both."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 130)
    monkeypatch.setattr(shards, "BATCH_ROWS", 23)


# --- against the naive algorithm


@pytest.mark.parametrize("t", [0.3, 1, 20, 20.5, 400, 1e6])
def test_a_run_is_the_naive_algorithm(tmp_path: Path, t: float) -> None:
    """Matches, counts, probabilities, expected and kept numbers, uids and rows are those of curation/naive.py."""
    table = pool_of(900)
    run = curate(
        write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "run", t=t, seed=3, options=ONE
    )
    held(run, table, by_hand(table, t, 3))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("group", [10, 50, 131, 1000])
def test_batches_and_shards_that_do_not_meet(tmp_path: Path, group: int) -> None:
    """Pool and matched rows are read in batches that end at different rows; the pairs that come out are the same."""
    table = pool_of(700, 1)
    run = curate(
        write(table, tmp_path / "pool.parquet", group), LIST, out=tmp_path / "run", t=15, options=ONE
    )
    n_shards = {10: 6, 50: 7, 131: 6, 1000: 1}
    assert len(list((run.path / "matched").iterdir())) == n_shards[group]
    wanted = by_hand(table, 15)
    held(run, table, wanted)
    assert run.curated["n"].to_pylist() == wanted.kept  # in the pool's order


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "jsonl.gz", "csv.bz2"])
def test_other_forms_of_a_pool(tmp_path: Path, form: str) -> None:
    """Pools of csv and jsonl, compressed or not, give the result that parquet gives."""
    table = pool_of(300, 2)
    rows = [
        {**row, "url": row["url"] or "", "text": row["text"] or "nothing"} for row in table.to_pylist()
    ]
    path = tmp_path / f"pool.{form}"
    with pa.output_stream(path, compression=CODECS.get(path.suffix)) as stream:
        if "jsonl" in form:
            stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        else:
            lines = _Lines(stream)
            writer = csv.DictWriter(lines, ["text", "url", "n"], delimiter="\t" if form == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    run = curate(path, LIST, out=tmp_path / "run", t=9, options=ONE)
    wanted = by_hand(pa.Table.from_pylist(rows), 9)
    assert sorted(map(int, run.curated["n"].to_pylist())) == wanted.kept
    assert sorted(run.curated["uid"].to_pylist()) == sorted(wanted.uids[i] for i in wanted.kept)
    assert run.entries["expected"].to_pylist() == [
        float(wanted.entry_expected(e)) for e in range(len(LIST))
    ]
    table = pa.Table.from_pylist(rows)
    parquet = curate(
        write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "other", t=9, options=ONE
    )
    assert run.account["result_digest"] == parquet.account["result_digest"]


class _Lines:
    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        self.stream.write(text.encode())


@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join), min_size=1, max_size=25),
    st.floats(0.05, 30),
    st.integers(0, 2**64 - 1),
    st.integers(1, 4),
)
@settings(max_examples=25)
def test_any_pool(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], t: float, seed: int, files: int
) -> None:
    """Any texts under any t and seed, in any number of files: the pairs and figures of the naive algorithm."""
    folder = tmp_path_factory.mktemp("any")
    texts = [*texts, "a dog"]  # something matches
    table = pa.table(
        {"text": texts, "url": [f"u{i % 5}" for i in range(len(texts))], "n": range(len(texts))}
    )
    wanted = by_hand(table, t, seed)
    run = curate(
        split(table, folder / "pool", files), LIST, out=folder / "run", t=t, seed=seed, options=ONE
    )
    if wanted.kept:
        held(run, table, wanted)
    assert run.account["pairs"]["kept"] == len(wanted.kept)


# --- what changes nothing


@pytest.mark.usefixtures("small")
def test_sharding_changes_nothing(tmp_path: Path) -> None:
    """One file, seven files, many row groups or a file a row of a hundred: one result, one digest."""
    table = pool_of(600, 4)
    whole = curate(
        write(table, tmp_path / "one.parquet"), LIST, out=tmp_path / "whole", t=12, options=ONE
    )
    held(whole, table, by_hand(table, 12))
    wanted = result(whole)
    cuts: dict[str, Callable[[Path], Path]] = {
        "seven files": lambda folder: split(table, folder, 7),
        "row groups of 9": lambda folder: write(table, folder / "pool.parquet", 9),
        "three files, row groups of 50": lambda folder: split(table, folder, 3, 50),
        "a hundred files": lambda folder: split(table, folder, 100),
    }
    for name, cut in cuts.items():
        run = curate(cut(tmp_path / name), LIST, out=tmp_path / f"{name} run", t=12, options=ONE)
        assert result(run) == wanted, name


@pytest.mark.usefixtures("small")
def test_order_changes_nothing(tmp_path: Path) -> None:
    """Rows shuffled, and files put in another order, leave the same pairs, figures and digest."""
    table = pool_of(600, 5)
    wanted = result(
        curate(split(table, tmp_path / "pool", 4), LIST, out=tmp_path / "run", t=8, options=ONE)
    )
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(table))
        shuffled = split(table.take(order), tmp_path / f"shuffled{seed}", 4)
        assert result(curate(shuffled, LIST, out=tmp_path / f"run{seed}", t=8, options=ONE)) == wanted
    files = sorted((tmp_path / "pool").iterdir(), reverse=True)
    assert result(curate([*files], LIST, out=tmp_path / "reversed", t=8, options=ONE)) == wanted


@pytest.mark.usefixtures("small")
def test_workers_change_nothing(tmp_path: Path) -> None:
    """One, two and four workers give the same result, and the same files to the byte."""
    table = pool_of(600, 6)
    pool = split(table, tmp_path / "pool", 5, 40)
    runs = [
        curate(pool, LIST, out=tmp_path / f"run{n}", t=8, options=RunOptions(workers=n))
        for n in (1, 2, 4)
    ]
    assert result(runs[1]) == result(runs[2]) == result(runs[0])
    names = [path.relative_to(runs[0].path) for path in sorted(runs[0].path.rglob("*.parquet"))]
    assert len(names) > 10
    for run in runs[1:]:
        assert all((run.path / name).read_bytes() == (runs[0].path / name).read_bytes() for name in names)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_add_up_to_the_whole(tmp_path: Path, order: tuple[int, ...]) -> None:
    """The parts of a job array, done in any order, leave what one process leaves."""
    table = pool_of(500, 7)
    pool = split(table, tmp_path / "pool", 4, 30)
    wanted = result(curate(pool, LIST, out=tmp_path / "whole", t=8, options=ONE))
    done = [
        match_part(pool, LIST, out=tmp_path / "parts", options=RunOptions(1, Part(number, 3)))
        for number in order
    ]
    assert done[:-1] == [None, None]
    assert done[-1] is not None
    assert result(balance(tmp_path / "parts", t=8, options=ONE)) == wanted


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [2, 22, 23, 131, 250, 10_000])
def test_a_limit_is_a_shorter_pool(tmp_path: Path, limit: int) -> None:
    """The first rows of a pool of several files, and no others, are matched, counted and drawn."""
    table = pool_of(400, 17)
    pool = split(table, tmp_path / "pool", 3, 30)
    run = curate(pool, LIST, out=tmp_path / "run", t=4, settings=MatchSettings(limit=limit), options=ONE)
    held(run, table.slice(0, limit), by_hand(table.slice(0, limit), 4))
    assert run.account["funnel"]["rows"] == min(limit, len(table))


# --- the laws of t


def test_larger_t_keeps_a_superset(tmp_path: Path) -> None:
    """Each t keeps all that a smaller one keeps, and entries with count <= t whole; one above all counts keeps all."""
    table = pool_of(1200, 8)
    match(write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "run", options=ONE)
    before: set[int] = set()
    for t in (0.5, 3, 3.25, 17, 60, 150, 400, 2000):
        run = balance(tmp_path / "run", out=tmp_path / f"t{t}", t=t, options=ONE)
        kept = set(run.curated["n"].to_pylist())
        assert before <= kept
        before = kept
        for row in run.entries.to_pylist():
            if row["count"] <= t:
                assert row["kept"] == row["count"] == row["expected"]
                assert row["probability"] == 1.0
            assert row["kept"] <= row["count"]
            assert row["expected"] >= min(row["count"], t) - 1e-6
    assert len(before) == run.account["pairs"]["matched"]
    assert run.account["pairs"]["deviation"] == 0


def test_realised_total_is_near_the_expected_one(tmp_path: Path) -> None:
    """Over many seeds the number kept lies within five standard deviations, and spreads as the reported one says."""
    table = pool_of(1500, 9)
    match(write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "run", options=ONE)
    off = []
    for seed in range(12):
        run = balance(
            tmp_path / "run",
            out=tmp_path / f"s{seed}",
            t=10,
            seed=seed,
            options=ONE,
        )
        pairs = run.account["pairs"]
        off.append((pairs["kept"] - pairs["expected"]) / pairs["deviation"])
        for row in run.entries.to_pylist():
            assert abs(row["kept"] - row["expected"]) <= 5 * math.sqrt(row["expected"]) + 1e-6
    assert max(map(abs, off)) < 5
    assert 0.3 < math.fsum(x * x for x in off) / len(off) < 3
    assert len(set(off)) > 6  # seeds differ


def test_no_figure_is_nan(tmp_path: Path) -> None:
    """With entries at zero, in the tail and in the head, for tiny and huge t, every figure is a finite number."""
    table = pool_of(300, 10)
    match(write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "run", options=ONE)
    for t in (5e-324, 1e-9, 1, 1e300):
        run = balance(tmp_path / "run", out=tmp_path / f"t{t}", t=t, options=ONE)
        for name in ("probability", "expected"):
            assert np.isfinite(run.entries[name].to_numpy()).all()
        for value in run.account["pairs"].values():
            assert math.isfinite(value)
        if run.account["pairs"]["kept"]:
            assert np.isfinite(run.curated["keep_probability"].to_numpy()).all()
    zero = by_hand(table, 1).counts.count(0)
    assert zero > 0
    assert run.account["entries"] == {"zero": zero, "tail": len(LIST) - zero, "head": 0}


def test_nothing_kept(tmp_path: Path) -> None:
    """A t so small that nothing is kept gives an empty set with its account, not an error."""
    table = pool_of(100)
    run = curate(
        write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "run", t=1e-300, options=ONE
    )
    assert run.account["pairs"]["kept"] == 0
    assert run.account["pairs"]["deviation"] == 0
    assert np.load(tmp_path / "run" / "curated.npy").shape == (0,)
    assert len(run.curated) == 0
    assert pc.sum(run.entries["kept"]).as_py() == 0


# --- duplicates of a uid


@pytest.mark.usefixtures("small")
def test_equal_pairs_share_one_draw(tmp_path: Path) -> None:
    """Rows with one uid stay or go together, and the deviation is that of sum m^2 P (1 - P) over distinct uids."""
    texts = texts_of(40, 11, shortest=2)
    table = pa.table({"text": texts * 9 + texts[:13], "n": range(40 * 9 + 13)})
    wanted = by_hand(table, 25)
    run = curate(
        split(table, tmp_path / "pool", 5, 20),
        LIST,
        out=tmp_path / "run",
        t=25,
        options=RunOptions(workers=2),
    )
    held(run, table, wanted)
    rows: dict[str, int] = {}
    for uid, ids in zip(wanted.uids, wanted.ids, strict=True):
        if ids:
            rows[uid] = rows.get(uid, 0) + 1
    p = dict(zip(wanted.uids, wanted.p_keep, strict=True))
    variance = math.fsum(m * m * p[uid] * (1 - p[uid]) for uid, m in rows.items())
    pairs = run.account["pairs"]
    assert pairs["deviation"] == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert variance > 2 * math.fsum(p * (1 - p) for p in wanted.p_keep)  # it matters
    assert pairs["repeated_uids"] == sum(m > 1 for m in rows.values())
    assert pairs["repeated_rows"] == sum(m - 1 for m in rows.values())
    for uid in rows:
        assert run.curated["uid"].to_pylist().count(uid) in (0, rows[uid])


@pytest.mark.usefixtures("small")
def test_other_texts_under_one_uid(tmp_path: Path) -> None:
    """Texts under one uid share u, each has its own P: the variance is the sum of min(P_i, P_j) - P_i P_j."""
    rng = np.random.default_rng(12)
    texts = texts_of(400, 12, shortest=1)
    uids = [f"{i:032x}" for i in rng.integers(0, 90, 400)]
    table = pa.table({"text": texts, "uid": uids, "n": range(400)})
    wanted = by_hand(table, 7)
    run = curate(
        split(table, tmp_path / "pool", 3, 25),
        LIST,
        out=tmp_path / "run",
        t=7,
        options=RunOptions(workers=2),
    )
    held(run, table, wanted)
    p_keep: dict[str, list[tuple[float, bool]]] = {}
    for i, uid in enumerate(uids):
        p_keep.setdefault(uid, []).append((wanted.p_keep[i], i in set(wanted.kept)))
    for rows in p_keep.values():
        kept = [stays for _, stays in sorted(rows)]
        assert kept == sorted(kept)  # never a smaller P without a larger
    shuffled = table.take(rng.permutation(400))
    again = curate(split(shuffled, tmp_path / "other", 2), LIST, out=tmp_path / "again", t=7, options=ONE)
    assert result(again) == result(run)


def test_variance_of_certain_pairs_is_nothing(tmp_path: Path) -> None:
    """Thousands of rows of one uid whose P is all but 1 have a deviation of a number at least 0."""
    table = pa.table(
        {"text": ["a dog, cat. the red"] * 3000 + ["a"] * 10, "uid": ["1"] * 3010, "n": range(3010)}
    )
    run = curate(
        write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "run", t=2999.9, options=ONE
    )
    assert run.account["pairs"]["kept"] in (3000, 3010)
    assert run.account["pairs"]["deviation"] == pytest.approx(
        math.sqrt(by_hand_variance(table, 2999.9)), abs=1e-3
    )


def by_hand_variance(table: pa.Table, t: float) -> float:
    texts = table["text"].to_pylist()
    different = {text: naive.match(LIST, text) for text in set(texts)}
    counts = [
        sum(texts.count(text) for text, ids in different.items() if e in ids) for e in range(len(LIST))
    ]
    p = [naive.probability(count, t) for count in counts]
    p_keep = {text: Fraction(naive.keep_probability(ids, p)) for text, ids in different.items()}
    pairs = itertools.product(different, repeat=2)
    return float(
        sum(
            texts.count(a) * texts.count(b) * (min(p_keep[a], p_keep[b]) - p_keep[a] * p_keep[b])
            for a, b in pairs
        )
    )


P_KEEP = st.floats(0, 1) | st.sampled_from([1 - 2**-53, 2**-53, 1.0])


@given(st.lists(st.tuples(st.integers(0, 3), P_KEEP), max_size=40))
@settings(max_examples=200)
def test_variance_of_repeated_uids(rows: list[tuple[int, float]]) -> None:
    """The variance of rows under several uids is that of the exact fractions, and never below 0."""
    rows = sorted(rows)
    p = np.array([x for _, x in rows], np.float64)
    low = np.array([uid for uid, _ in rows], np.uint64)
    block = np.stack([np.zeros_like(low), low, p.view(np.uint64)], axis=1)
    fractions = [(uid, Fraction(x)) for uid, x in rows]
    exact = sum(min(x, y) - x * y for (a, x), (b, y) in itertools.product(fractions, repeat=2) if a == b)
    found = _repeats_variance(block) if rows else 0
    assert found >= 0
    assert found / FIXED_POINT == pytest.approx(float(exact), rel=1e-12, abs=5 / FIXED_POINT)


# --- the t of a run


def test_tail_share_is_the_default(tmp_path: Path) -> None:
    """Without a t, the tail holds at most 6% of all counts; the account says which t that is, and the share."""
    table = pool_of(800, 13)
    run = curate(write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "run", options=ONE)
    counts = by_hand(table, 1).counts
    assert run.t == by_definition(counts, 0.06)
    assert run.account["balance"] == {
        "t": run.t, "asked": "tail_share = 0.06", "tail_share": sum(c for c in counts if c < run.t) / sum(counts),
        "seed": 0, "epoch": 0,
    }  # fmt: skip
    held(run, table, by_hand(table, run.t))


def test_target_pairs_of_a_run(tmp_path: Path) -> None:
    """A run's expected number is within 1% of the target, ascends with it, and a target above the matched keeps all."""
    table = pool_of(2500, 14)
    match(split(table, tmp_path / "pool", 3), LIST, out=tmp_path / "run", options=ONE)
    matched = Run(tmp_path / "run").match["funnel"]["matched"]
    found = []
    for target in (30, 200, 800, 1200, matched, 10 * matched):
        run = balance(
            tmp_path / "run",
            out=tmp_path / f"for{target}",
            target_pairs=target,
            options=RunOptions(workers=2),
        )
        assert run.account["pairs"]["expected"] == pytest.approx(min(target, matched), rel=0.01)
        assert run.account["balance"]["asked"] == f"target_pairs = {target}"
        held(run, table, by_hand(table, run.t))
        found.append(run.t)
    assert run.account["pairs"]["kept"] == matched
    assert found == sorted(found)
    assert len(set(found)) == 5


# --- another t, another folder


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.usefixtures("small")
def test_another_t_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Balancing into another folder gives what balancing in place gives, matches nothing, and leaves the run alone."""
    table = pool_of(600, 15)
    pool = split(table, tmp_path / "pool", 3, 40)
    first = curate(pool, LIST, out=tmp_path / "run", t=6, options=ONE)
    direct = curate(pool, LIST, out=tmp_path / "direct", t=30, seed=2, options=ONE)
    before = files_of(tmp_path / "run")

    def never(*_: Any) -> None:
        raise AssertionError("matched again")

    monkeypatch.setattr(matching, "match_shard", never)
    second = balance(tmp_path / "run", out=tmp_path / "second", t=30, seed=2, options=ONE)
    assert files_of(tmp_path / "run") == before
    assert result(second) == result(direct)
    assert not (tmp_path / "second" / "matched").exists()
    assert second.manifest["stages"]["balance"]["match"]["folder"] == str(tmp_path / "run")
    third = balance(tmp_path / "second", out=tmp_path / "third", t=6, options=ONE)
    assert result(third) == result(first)
    in_place = balance(tmp_path / "run", t=30, seed=2, options=RunOptions(workers=1, overwrite=True))
    assert result(in_place) == result(direct)
    assert files_of(tmp_path / "run" / "curated") == files_of(tmp_path / "second" / "curated")
    assert (tmp_path / "run" / "entries.parquet").read_bytes() == (
        tmp_path / "second" / "entries.parquet"
    ).read_bytes()


def test_another_t_in_place_is_refused(tmp_path: Path) -> None:
    """A run is never replaced in silence: another t in the same folder is refused, naming both."""
    pool = write(pool_of(100), tmp_path / "pool.parquet")
    curate(pool, LIST, out=tmp_path / "run", t=6, options=ONE)
    before = files_of(tmp_path / "run")
    with pytest.raises(
        MetaclipError,
        match=r"t: 6 -> 7; metaclip balance .* --out FOLDER .* matches nothing again, .*overwrite=True",
    ):
        balance(tmp_path / "run", t=7, options=ONE)
    assert files_of(tmp_path / "run") == before


# --- what is carried


def rich(n: int) -> pa.Table:
    """A pool with columns of many types."""
    table = pool_of(n, 16)
    hours = [datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=i) for i in range(n)]
    boxes = [None if i % 4 == 0 else [[i, i + 1]] * (i % 3) for i in range(n)]
    more: dict[str, Any] = {
        "WIDTH": pa.array([None if i % 5 == 0 else i * 10 for i in range(n)], pa.int32()),
        "similarity": pa.array(np.linspace(-1, 1, n)),
        "sha256": pa.array([f"{i:064x}" for i in range(n)], pa.large_string()),
        "boxes": pa.array(boxes, pa.list_(pa.list_(pa.int64()))),
        "meta": pa.array([{"a": i, "b": None if i % 2 else str(i)} for i in range(n)]),
        "when": pa.array(hours, pa.timestamp("us", "UTC")),
        "license": pa.array([["by", "by-nc", None][i % 3] for i in range(n)]).dictionary_encode(),
        "nothing": pa.nulls(n),
        "empty": pa.array([None] * n, pa.float32()),
        "raw": pa.array([bytes([i % 256, 0, 255]) for i in range(n)]),
        "flag": pa.array([i % 3 == 0 for i in range(n)]),
        "half": pa.array(np.arange(n, dtype=np.float16)),
        "weird name, \"quoted\"": pa.array(range(n)),
        "entry_id": pa.array(range(n), pa.uint64()),
    }  # fmt: skip
    for name, values in more.items():
        table = table.append_column(name, values)
    return table


@pytest.mark.usefixtures("small")
def test_other_columns_are_carried(tmp_path: Path) -> None:
    """Every other column comes out with its type, its values and its nulls; ours stand behind them."""
    table = rich(500)
    run = curate(split(table, tmp_path / "pool", 3, 60), LIST, out=tmp_path / "run", t=10, options=ONE)
    curated = run.curated.sort_by("n")
    names = table.schema.names
    assert curated.schema.names == [*names, "uid", "matches", "keep_probability"]
    assert [curated.schema.field(name).type for name in names] == [
        table.schema.field(name).type for name in names
    ]
    assert curated.schema.field("uid").type == pa.string()
    assert curated.schema.field("matches").type.value_type == MATCHES.value_type
    assert curated.schema.field("keep_probability").type == pa.float64()
    wanted = by_hand(table, 10)
    assert curated.select(names).to_pylist() == table.take(wanted.kept).to_pylist()


@pytest.mark.usefixtures("small")
def test_a_curated_folder_is_a_pool(tmp_path: Path) -> None:
    """Curated again, by another list and t, pairs keep uid and columns; matches and keep_probability are new."""
    table = rich(500)
    first = curate(
        write(table, tmp_path / "pool.parquet", 60), LIST, out=tmp_path / "first", t=20, options=ONE
    )
    other = ["dog", "a", "photo"]
    second = curate(
        tmp_path / "first" / "curated", other, out=tmp_path / "second", t=15, seed=5, options=ONE
    )
    kept = table.take(first.curated["n"].to_pylist()).append_column("uid", first.curated["uid"])
    wanted = by_hand(kept, 15, 5, other)
    assert second.curated.schema.equals(first.curated.schema)
    assert second.curated["n"].to_pylist() == [kept["n"][i].as_py() for i in wanted.kept]
    assert second.curated["uid"].to_pylist() == [wanted.uids[i] for i in wanted.kept]
    assert second.curated["matches"].to_pylist() == [wanted.ids[i] for i in wanted.kept]
    assert second.curated["keep_probability"].to_pylist() == [wanted.p_keep[i] for i in wanted.kept]
    names = table.schema.names
    assert (
        second.curated.select(names).to_pylist()
        == table.take(second.curated["n"].to_pylist()).to_pylist()
    )
    # Under the same list, seed and a t above all counts, all stay.
    third = curate(tmp_path / "first" / "curated", LIST, out=tmp_path / "third", t=1e9, options=ONE)
    assert third.curated["uid"].to_pylist() == first.curated["uid"].to_pylist()
    assert (third.path / "curated.npy").read_bytes() == (first.path / "curated.npy").read_bytes()


UPSTREAM = [
    "laion:1",
    "ABCDEF",
    "0" * 31 + "7",
    None,
    "",
    "91efd8562038d219f5099b42bcee1346",
    "x" * 50,
    "猫",
]
FORMS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "string": lambda ids: ids,
    "large_string": lambda ids: ids.cast(pa.large_string()),
    "dictionary": lambda ids: ids.dictionary_encode(),
}


@pytest.mark.parametrize("name", ["uid", "UID"])
@pytest.mark.parametrize("form", FORMS)
def test_an_upstream_uid_stays_as_it_was_written(tmp_path: Path, form: str, name: str) -> None:
    """A uid given upstream stands in the curated set as it was written, under the name uid, and so in the next one."""
    ids = FORMS[form](pa.array(UPSTREAM))
    table = pa.table({"text": [f"a dog {i}" for i in range(8)], name: ids, "n": range(8)})
    run = curate(write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "run", t=100, options=ONE)
    made = [hashlib.md5(f"a dog {i}".encode()).hexdigest() for i in range(8)]
    wanted = [given_uid or made[i] for i, given_uid in enumerate(UPSTREAM)]
    assert run.curated.schema.names == ["text", "n", "uid", "matches", "keep_probability"]
    assert run.curated["uid"].to_pylist() == wanted
    again = curate(tmp_path / "run" / "curated", LIST, out=tmp_path / "again", t=100, options=ONE)
    assert again.curated.equals(run.curated)
    assert again.account["digests"] == run.account["digests"]


@pytest.mark.parametrize(
    ("ids", "written"),
    [
        (pa.array([7, 8, None]), ["7", "8", None]),
        (pa.array([b"\1" * 16, None, b"\2" * 16], pa.binary(16)), ["01" * 16, None, "02" * 16]),
        (pa.nulls(3), [None] * 3),
    ],
    ids=["ints", "16 bytes", "null"],
)
def test_upstream_uids_of_other_types(tmp_path: Path, ids: pa.Array, written: list[str | None]) -> None:
    """Numbers stand there as their digits, 16 bytes as hex; read again, each is the same uid."""
    table = pa.table({"text": [f"a dog {i}" for i in range(3)], "uid": ids})
    run = curate(write(table, tmp_path / "pool.parquet"), LIST, out=tmp_path / "run", t=100, options=ONE)
    made = [hashlib.md5(f"a dog {i}".encode()).hexdigest() for i in range(3)]
    assert run.curated["uid"].to_pylist() == [uid or made[i] for i, uid in enumerate(written)]
    again = curate(tmp_path / "run" / "curated", LIST, out=tmp_path / "again", t=100, options=ONE)
    assert (again.path / "curated.npy").read_bytes() == (run.path / "curated.npy").read_bytes()


def test_a_uid_column_by_another_name(tmp_path: Path) -> None:
    """A uid column named by the user decides the draw, and is carried through beside the uid made of it."""
    table = pa.table({"text": ["a dog", "a cat"], "key": ["00012", "z"], "uid": ["1", "2"]})
    settings = MatchSettings(uid_column="key")
    pool = write(table, tmp_path / "pool.parquet")
    run = curate(pool, LIST, out=tmp_path / "run", t=9, settings=settings, options=ONE)
    assert run.curated["key"].to_pylist() == ["00012", "z"]
    assert run.curated["uid"].to_pylist() == [f"{0x12:032x}", hashlib.md5(b"z").hexdigest()]


# --- real data


@pytest.mark.slow
def test_real_captions_under_a_real_list(tmp_path: Path, data_folder: Path) -> None:
    """10,000 captions, 500,000 entries, t = 20: pyahocorasick's matches row for row, naive.py's draw pair for pair."""
    import ahocorasick

    captions, listed = data_folder / "alt_text_10k.parquet", data_folder / "entries_500k.txt.gz"
    run = curate(captions, str(listed), out=tmp_path / "run", t=20)
    entries = Metadata.read(listed).entries.to_pylist()
    table = pq.read_table(captions)
    machine = ahocorasick.Automaton()
    for entry_id, entry in enumerate(entries):
        machine.add_word(naive.pad_entry(entry), entry_id)
    machine.make_automaton()
    texts, urls = (table[name].to_pylist() for name in ("TEXT", "URL"))
    ids = [
        sorted({e for _, e in machine.iter(naive.pad_text(text))}) if text is not None else []
        for text in texts
    ]

    matched = pq.read_table(tmp_path / "run" / "matched")
    rows = [i for i, row in enumerate(ids) if row]
    assert matched["row"].to_pylist() == rows
    assert matched["matches"].to_pylist() == [ids[i] for i in rows]
    uids = {i: hashlib.md5((texts[i] + (urls[i] or "")).encode()).hexdigest() for i in rows}
    assert [uid.hex() for uid in matched["uid"].to_pylist()] == list(uids.values())

    counts = np.bincount([e for row in ids for e in row], minlength=len(entries)).tolist()
    assert run.counts.values.tolist() == counts
    p = [naive.probability(count, 20) for count in counts]
    p_keep = {i: naive.keep_probability(ids[i], p) for i in rows}
    kept = [i for i in rows if naive.draw(0, 0, uids[i]) < p_keep[i]]
    assert 0.2 * len(rows) < len(kept) < 0.95 * len(rows)
    curated = run.curated
    assert curated["TEXT"].to_pylist() == [texts[i] for i in kept]
    assert curated["uid"].to_pylist() == [uids[i] for i in kept]
    assert curated["keep_probability"].to_pylist() == [p_keep[i] for i in kept]
    assert curated["matches"].to_pylist() == [ids[i] for i in kept]
    assert [f"{a:016x}{b:016x}" for a, b in np.load(run.path / "curated.npy").tolist()] == sorted(
        uids[i] for i in kept
    )
    fixed = {i: math.floor(Fraction(x) * FIXED_POINT) for i, x in p_keep.items()}
    expected = [0] * len(entries)
    for i in rows:
        for e in ids[i]:
            expected[e] += fixed[i]
    assert run.entries["expected"].to_pylist() == [x / FIXED_POINT for x in expected]
    pairs = run.account["pairs"]
    assert pairs["expected"] == sum(fixed.values()) / FIXED_POINT
    assert abs(pairs["kept"] - pairs["expected"]) < 5 * pairs["deviation"]
