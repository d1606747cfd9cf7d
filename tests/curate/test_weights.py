"""Weights: t[e] = t * weight[e] everywhere, the laws of one t, and one line for weights that mean nothing."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip import (
    Balancer,
    MetaclipError,
    Metadata,
    Run,
    RunOptions,
    balance,
    curate,
    explain,
    match,
)
from metaclip.curate.draw import probabilities
from metaclip.curate.settings import BalanceSettings
from metaclip.curate.threshold import (
    entry_thresholds,
    head_limits,
    scaled,
    solve_tail_share,
    tail_share,
    threshold_hints,
    whole_from,
)
from metaclip.curate.weights import EntryWeights
from metaclip.engine import Engine
from tests import commands
from tests.curate.test_balance import LIST, ONE, by_hand, held, pool_of, split, write
from tests.curate.test_restart import stop
from tests.processes import start
from tests.runs import WORDS, T, holds, result
from tests.runs import curate as curate_command

WEIGHTS = {"dog": 3.0, "a": 0.1, "photo of": 0.3, "the": 1 / 3, "unseen": 7.0}


def vector(weights: dict[str, float], entries: Sequence[str] = LIST) -> list[float]:
    return [weights.get(entry, 1.0) for entry in entries]


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A matched run of 1,200 pairs; the tests only read it."""
    folder = tmp_path_factory.mktemp("weights")
    return match(write(pool_of(1200), folder / "pool.parquet"), LIST, out=folder / "run", options=ONE)


def kept(run: Run) -> set[int]:
    return set(run.curated["n"].to_pylist())


# --- the law


@pytest.mark.parametrize("t", [0.3, 1, 20, 20.5, 400, 1e6])
def test_a_run_is_the_naive_algorithm(tmp_path: Path, t: float) -> None:
    """Probabilities, expected and kept numbers and pairs are those of curation/naive.py with a t of each entry."""
    table, each = pool_of(900), [t * weight for weight in vector(WEIGHTS)]
    pool = write(table, tmp_path / "pool.parquet")
    run = curate(pool, LIST, out=tmp_path / "run", t=t, seed=3, weights=WEIGHTS, options=ONE)
    held(run, table, by_hand(table, each, 3))
    assert run.entries["t"].to_pylist() == each
    assert run.thresholds.tolist() == each  # type: ignore[union-attr]
    assert run.t == run.account["balance"]["t"] == t
    counts = run.counts.values
    below = [0 < count < of for count, of in zip(counts.tolist(), each, strict=True)]
    assert run.account["entries"]["tail"] == sum(below)
    assert run.account["balance"]["tail_share"] == int(counts[below].sum()) / int(counts.sum())


@given(st.data())
@settings(max_examples=20)
def test_where_no_t_gets_smaller_a_superset_is_kept(
    matched: Run, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Larger weights of some entries, and a larger t, keep all that was kept before."""
    some = st.dictionaries(st.sampled_from(LIST), st.floats(0.01, 100), min_size=1)
    weights, t = data.draw(some), data.draw(st.floats(0.1, 50))
    more = {entry: weight * data.draw(st.floats(1, 9)) for entry, weight in weights.items()}
    more_t = t * data.draw(st.sampled_from([1.0, 1.5]))
    out = tmp_path_factory.mktemp("superset")
    first = balance(matched, out=out / "first", t=t, weights=weights, options=ONE)
    second = balance(matched, out=out / "second", t=more_t, weights=more, options=ONE)
    assert kept(first) <= kept(second)
    each = second.entries["t"].to_numpy()
    whole = second.counts.values <= each
    for name in ("kept", "expected"):
        assert (second.entries[name].to_numpy()[whole] == second.counts.values[whole]).all()


def test_more_dogs_and_fewer_cats(matched: Run, tmp_path: Path) -> None:
    """An entry of a larger weight keeps more pairs than with one t, one of a smaller weight fewer."""
    alone = balance(matched, out=tmp_path / "one", t=20, options=ONE)
    run = balance(matched, out=tmp_path / "run", t=20, weights={"ski": 3, "cat": 0.2}, options=ONE)
    before, after = (
        dict(zip(LIST, found.entries["kept"].to_pylist(), strict=True)) for found in (alone, run)
    )
    assert after["ski"] > before["ski"]
    assert after["cat"] < before["cat"]


def test_the_number_kept_is_near_the_expected_one(matched: Run, tmp_path: Path) -> None:
    """Over many seeds it lies within five standard deviations, in all and for each entry."""
    off = []
    for seed in range(10):
        run = balance(matched, out=tmp_path / str(seed), t=10, seed=seed, weights=WEIGHTS, options=ONE)
        pairs = run.account["pairs"]
        off.append((pairs["kept"] - pairs["expected"]) / pairs["deviation"])
        for row in run.entries.to_pylist():
            assert abs(row["kept"] - row["expected"]) <= 5 * math.sqrt(row["expected"]) + 1e-6
    assert max(map(abs, off)) < 5
    assert 0.2 < math.fsum(x * x for x in off) / len(off) < 4


def test_weights_of_one_keep_what_one_t_keeps(matched: Run, tmp_path: Path) -> None:
    """The pairs are the same, but the account says that t is by entry, and has another digest."""
    alone = balance(matched, out=tmp_path / "one", t=20, options=ONE)
    run = balance(matched, out=tmp_path / "run", t=20, weights={"dog": 1}, options=ONE)
    assert (alone.path / "curated.npy").read_bytes() == (run.path / "curated.npy").read_bytes()
    assert "t" not in alone.entries.column_names
    assert (alone.account["schema"]["version"], run.account["schema"]["version"]) == (1, 2)
    assert alone.account["result_digest"] != run.account["result_digest"]
    assert run.entries.drop_columns("t").equals(alone.entries)


def test_every_engine_keeps_the_same_pairs(
    large: Path, words: Path, engine: Engine, tmp_path: Path
) -> None:
    """Threads, processes and Ray give the same bytes."""
    weights = {WORDS[0]: 0.25, WORDS[5]: 4.0, f"{WORDS[1]} {WORDS[2]}": 2.0}
    wanted = curate(large, words, out=tmp_path / "one", t=T, weights=weights, options=ONE)
    options = RunOptions(engine=engine)
    found = curate(large, words, out=tmp_path / "run", t=T, weights=weights, options=options)
    files = [result(run.path) for run in (wanted, found)]
    assert files[0] == files[1]
    assert "t" in found.entries.column_names


def test_killed_and_continued(large: Path, words: Path, tmp_path: Path) -> None:
    """A run that is killed while it draws, with a solved t, ends as one that was left alone."""
    file = tmp_path / "weights.csv"
    file.write_text(f"entry,weight\n{WORDS[0]},0.25\n{WORDS[5]},4\n")
    command = [
        word for word in curate_command(large, words, tmp_path / "run") if word not in ("--t", T)
    ] + ["--target-pairs", "5000", "--weights", file]
    with start(*command, into=tmp_path) as process:
        stop(process, tmp_path / "run", "balance", 5, signal.SIGKILL)
    with start(*command, into=tmp_path) as process:
        assert process.wait() == 0, process.err
    wanted = curate(large, words, out=tmp_path / "whole", target_pairs=5000, weights=file, options=ONE)
    holds(tmp_path / "run", wanted.path)
    assert abs(wanted.account["pairs"]["expected"] - 5000) < 50


@pytest.mark.parametrize("asked", [{"t": 9.0}, {"tail_share": 0.3}, {"target_pairs": 300}])
def test_runs_are_combined(tmp_path: Path, asked: dict[str, Any]) -> None:
    """Several runs balanced as one, with weights, keep what one run over all pools keeps."""
    table = pool_of(900)
    pools = split(table, tmp_path / "pools", 3)
    parts = [
        match(path, LIST, out=tmp_path / f"run{i}", options=ONE)
        for i, path in enumerate(sorted(pools.iterdir()))
    ]
    wanted = curate(pools, LIST, out=tmp_path / "whole", weights=WEIGHTS, options=ONE, **asked)
    run = balance(parts, out=tmp_path / "run", weights=WEIGHTS, options=ONE, **asked)
    assert run.account["result_digest"] == wanted.account["result_digest"]
    assert run.entries.equals(wanted.entries)


# --- solving


def limits_by_definition(count: int, weight: float) -> float:
    t = count / weight
    while t * weight > count:
        t = math.nextafter(t, 0.0)
    return t


COUNTS = st.lists(st.integers(0, 40) | st.integers(0, 10**9), min_size=1, max_size=30).filter(any)
FACTORS = st.floats(1e-3, 1e3) | st.sampled_from([1.0, 0.1, 0.3, 1 / 3, 3.0, 7.0])


@given(COUNTS, st.floats(0, 0.999), st.data())
@settings(max_examples=300)
def test_a_tail_share_is_solved_by_one_factor(
    counts: list[int], share: float, data: st.DataObject
) -> None:
    """The t is the largest of the quotients count / weight whose tail share, by count < t[e], is at most the asked one."""
    weights = data.draw(st.lists(FACTORS, min_size=len(counts), max_size=len(counts)))
    values, weight = np.array(counts, np.uint64), np.array(weights)

    def share_at(t: float) -> float:
        return sum(c for c, w in zip(counts, weights, strict=True) if c < t * w) / sum(counts)

    limits = [limits_by_definition(c, w) for c, w in zip(counts, weights, strict=True) if c]
    assert sorted(head_limits(values, weight).tolist()) == sorted(limits)
    found = solve_tail_share(values, share, weight)
    assert found == max(t for t in limits if share_at(t) <= share)
    assert tail_share(values, entry_thresholds(found, weight)) == share_at(found)
    top = whole_from(values, weight)
    assert (probabilities(values, entry_thresholds(top, weight)) == 1).all()


@given(COUNTS, st.floats(0, 0.999))
def test_one_weight_of_one_is_no_weight(counts: list[int], share: float) -> None:
    """With weights of 1, the t of a tail share is that of one t."""
    values = np.array(counts, np.uint64)
    assert solve_tail_share(values, share, np.ones(len(values))) == solve_tail_share(values, share)
    assert whole_from(values) == max(counts)


def test_a_number_of_pairs_is_hit(matched: Run, tmp_path: Path) -> None:
    """Any target is hit within 1% and rises with t; one of all matched pairs keeps every pair."""
    before = 0.0
    n = matched.match["funnel"]["matched"]
    for target in (20, 100, 500, n):
        run = balance(
            matched, out=tmp_path / str(target), target_pairs=target, weights=WEIGHTS, options=ONE
        )
        assert run.account["pairs"]["expected"] == pytest.approx(target, rel=0.01)
        assert run.t > before
        before = run.t
    assert run.account["pairs"]["kept"] == n


def test_hints_know_the_weights() -> None:
    """A t that the weights lift above every count is named, and one that they do not is not."""
    counts = np.array([0, 10, 20, 400, 900], np.uint64)
    weight = np.array([1, 1, 1, 5, 10.0])
    assert threshold_hints(BalanceSettings(t=95), counts=counts, t=95, matched=100, weight=weight) == [
        "t = 95 balances nothing here: no count is larger than t times its weight; a tail share of 0.06 would be t = 80: "
        "use `tail_share=0.06` or `t=80`"
    ]
    assert not threshold_hints(BalanceSettings(t=50), counts=counts, t=50, matched=100, weight=weight)


# --- who reads the vector


def test_offline_equals_online(matched: Run, tmp_path: Path) -> None:
    """At epoch 0 a Balancer of the run keeps what the run kept; at another t all thresholds move by one factor."""
    run = balance(matched, out=tmp_path / "run", t=20, weights=WEIGHTS, options=ONE)
    table = pool_of(1200)
    for t in (None, 40.0):
        balancer = Balancer(run, t=t, cache=False)
        wanted = (
            run if t is None else balance(matched, out=tmp_path / "40", t=t, weights=WEIGHTS, options=ONE)
        )
        chosen = balancer.keep(table["text"], urls=table["url"])
        assert set(np.flatnonzero(chosen).tolist()) == kept(wanted)
        assert balancer.probability.tolist() == wanted.entries["probability"].to_pylist()


def test_a_balancer_with_weights_of_its_own(matched: Run, tmp_path: Path) -> None:
    """Weights beside a run without, with others, beside Counts, and with a t that is solved: those of `balance`."""
    arguments: dict[str, Any] = {"weights": WEIGHTS, "options": ONE}
    wanted = balance(matched, out=tmp_path / "20", t=20, **arguments)
    solved = balance(matched, out=tmp_path / "solved", **arguments)
    other = balance(matched, out=tmp_path / "other", t=20, weights={"dog": 2.0}, options=ONE)
    counts, metadata = matched.counts, matched.metadata
    for balancer, run in [
        (Balancer(matched, 20, weights=WEIGHTS, cache=False), wanted),
        (Balancer(other, weights=WEIGHTS, cache=False), wanted),
        (Balancer(counts, 20, metadata=metadata, weights=WEIGHTS, cache=False), wanted),
        (Balancer(counts, metadata=metadata, weights=WEIGHTS, cache=False), solved),
    ]:
        assert balancer.t == run.t
        assert balancer.probability.tolist() == run.entries["probability"].to_pylist()
    with pytest.raises(MetaclipError, match="'dogg' is no entry of the query list"):
        Balancer(matched, 20, weights={"dogg": 2.0}, cache=False)


def test_explain_shows_the_t_of_each_entry(matched: Run, tmp_path: Path) -> None:
    """The table and the text have t by entry; head and tail are told by it; P(keep) is that of the run."""
    run = balance(matched, out=tmp_path / "run", t=20, weights=WEIGHTS, options=ONE)
    row = run.curated.to_pylist()[0]
    found = explain(row["text"], run=run, uid=row["uid"])
    assert found.p == row["keep_probability"]
    assert found.kept
    entries = dict(zip(LIST, vector(WEIGHTS), strict=True))
    for entry in found.entries.to_pylist():
        assert entry["t"] == 20 * entries[entry["entry"]]
        where = "head" if entry["count"] >= entry["t"] else "tail"
        line = next(line for line in repr(found).splitlines() if line.startswith(f"  {entry['entry']!r}"))
        assert line.split()[-1] == where
        assert f"{entry['t']:,g}" in line.split()
    twice = explain(row["text"], run=run, t=40)
    assert [e["t"] for e in twice.entries.to_pylist()] == [2 * e["t"] for e in found.entries.to_pylist()]


def test_thresholds_move_by_one_factor() -> None:
    """At the set's own t they are exactly its own; one t is replaced."""
    each = np.array([49 * weight for weight in (1 / 3, 0.1, 7.0)])
    assert scaled(each, 49.0, 49.0).tolist() == each.tolist()  # type: ignore[union-attr]
    assert scaled(each, 49.0, 98.0).tolist() == (2 * each).tolist()  # type: ignore[union-attr]
    assert scaled(49.0, 49.0, 98.0) == 98.0


def test_older_versions_refuse(matched: Run, tmp_path: Path) -> None:
    """The account has a raised schema, and the record of the run no number where versions that know one t read one."""
    run = balance(matched, out=tmp_path / "run", t=20, weights=WEIGHTS, options=ONE)
    assert run.account["schema"] == {"name": "metaclip-account", "version": 2}
    record = json.loads((run.path / "manifest.json").read_text())["stages"]["balance"]
    assert record["t"]["base"] == 20
    assert not isinstance(record["t"], int | float)


def test_the_digest_covers_the_thresholds(matched: Run, tmp_path: Path) -> None:
    """Weights that change no pair and no count, of an entry that matches nothing, still give another result digest."""
    runs = [
        balance(matched, out=tmp_path / str(weight), t=20, weights={"unseen": weight}, options=ONE)
        for weight in (2.0, 3.0)
    ]
    accounts = [run.account for run in runs]
    assert accounts[0]["pairs"] == accounts[1]["pairs"]
    assert accounts[0]["result_digest"] != accounts[1]["result_digest"]
    assert accounts[0]["digests"]["t"] != accounts[1]["digests"]["t"]


def test_a_column_t_that_was_edited_is_noticed(matched: Run, tmp_path: Path) -> None:
    """A run whose thresholds are not those that it wrote is refused, also where the file's checksum was edited too."""
    run = balance(matched, out=tmp_path / "run", t=20, weights=WEIGHTS, options=ONE)
    path = run.path / "entries.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("t")
    pq.write_table(table.set_column(place, "t", pa.array([20.0] * len(table))), path)
    with pytest.raises(MetaclipError, match="entries.parquet"):
        _ = Run(run.path).thresholds
    manifest = json.loads((run.path / "manifest.json").read_text())
    del manifest["stages"]["balance"]["crc32"]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MetaclipError, match="its column t is not what the run wrote"):
        _ = Run(run.path).thresholds


# --- where weights come from


def files_of(folder: Path) -> dict[str, Any]:
    """The same weights in every form."""
    folder.mkdir(exist_ok=True)
    entries, weights = list(WEIGHTS), list(WEIGHTS.values())
    table = pa.table({"entry": entries, "weight": weights})
    lines = [f'{weight!r},"{entry}",note' for entry, weight in WEIGHTS.items()]
    (folder / "w.csv").write_text(
        "weight,entry,remark\n" + "\n".join(lines) + "\n\n", encoding="utf-8-sig"
    )
    (folder / "crlf.csv").write_text(
        "entry,weight\r\n" + "\r\n".join(f"{e},{w!r}" for e, w in WEIGHTS.items())
    )
    pq.write_table(table, folder / "w.parquet")
    coded = table.set_column(0, "entry", table["entry"].dictionary_encode()).append_column(
        "id", table["weight"]
    )
    pq.write_table(coded, folder / "coded.parquet")
    return {
        "csv": folder / "w.csv", "crlf": str(folder / "crlf.csv"), "parquet": folder / "w.parquet",
        "dictionary": folder / "coded.parquet", "dict": WEIGHTS, "table": table, "batch": table.to_batches()[0],
        "turned": dict(reversed(WEIGHTS.items())), "large": table.cast(pa.schema([("entry", pa.large_string()), ("weight", pa.float64())])),
        "with ones": {**WEIGHTS, "cat": 1.0, "x": 1},
    }  # fmt: skip


def test_every_form_gives_the_same_run(matched: Run, tmp_path: Path) -> None:
    """A file of either form, a dict and a table, in any order, and weights of 1 beside them: one result digest."""
    found = {
        name: balance(matched, out=tmp_path / name, t=20, weights=given, options=ONE)
        for name, given in files_of(tmp_path / "files").items()
    }
    assert len({run.account["result_digest"] for run in found.values()}) == 1
    assert len({run.account["recipe_digest"] for run in found.values()}) == 1
    assert len(found) == 10


def test_polars_and_pandas(matched: Run, tmp_path: Path) -> None:
    """Tables of other libraries are taken as they are."""
    wanted = EntryWeights.of(WEIGHTS)
    columns = {"entry": list(WEIGHTS), "weight": list(WEIGHTS.values())}
    for library in ("polars", "pandas"):
        module = pytest.importorskip(library)
        found = EntryWeights.of(module.DataFrame(columns))
        assert found.entries.equals(wanted.entries)
        assert found.values.tolist() == wanted.values.tolist()
    lazy = pytest.importorskip("polars").DataFrame(columns).lazy()
    with pytest.raises(TypeError, match="collect"):
        EntryWeights.of(lazy)


@pytest.mark.parametrize("form", ["csv", "dict"])
def test_the_recipe_makes_the_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """recipe.toml names the file by a path that holds from anywhere; weights of a dict are written beside it."""
    pool = write(pool_of(300), tmp_path / "pool.parquet")
    (tmp_path / "list.txt").write_text("\n".join(LIST))
    weights = files_of(tmp_path / "files")[form]
    run = curate(pool, tmp_path / "list.txt", out=tmp_path / "run", t=9, weights=weights, options=ONE)
    monkeypatch.chdir(tmp_path / "files")
    commands.done("curate", pool, "--recipe", run.path / "recipe.toml", "--out", tmp_path / "again")
    again = Run(tmp_path / "again").account
    for digest in ("result_digest", "recipe_digest"):
        assert again[digest] == run.account[digest]
    assert (run.path / "weights.parquet").exists() == (form == "dict")
    # The same command goes on, and --overwrite does not take away what the recipe names.
    more = ["curate", pool, "--recipe", run.path / "recipe.toml", "--out", run.path]
    commands.done(*more)
    commands.done(*more, "--t", "12", "--overwrite")
    assert Run(run.path).account["recipe"]["balance"]["t"] == 12
    assert (run.path / "weights.parquet").exists() == (form == "dict")


def test_a_recipe_beside_its_weights(tmp_path: Path) -> None:
    """A path in a recipe is relative to the recipe; a flag replaces it."""
    pool = write(pool_of(300), tmp_path / "pool.parquet")
    (tmp_path / "list.txt").write_text("\n".join(LIST))
    files_of(tmp_path / "recipes")
    recipe = tmp_path / "recipes" / "birds.toml"
    recipe.write_text('[match]\nmetadata = "../list.txt"\n[balance]\nt = 9\nweights = "w.csv"\n')
    said = commands.done("curate", pool, "--recipe", recipe, "--out", tmp_path / "run").out
    assert Run(tmp_path / "run").thresholds.tolist() == [9 * w for w in vector(WEIGHTS)]  # type: ignore[union-attr]
    assert "(asked: t = 9), times the weight of each entry" in said
    other = tmp_path / "other.csv"
    other.write_text("entry,weight\ndog,2\n")
    commands.done(
        "balance", tmp_path / "run", "--recipe", recipe, "--weights", other, "--out", tmp_path / "b"
    )
    assert Run(tmp_path / "b").thresholds.tolist() == [9 * w for w in vector({"dog": 2})]  # type: ignore[union-attr]


def test_other_weights_are_other_runs(matched: Run, tmp_path: Path) -> None:
    """A folder with other weights is refused by that name; the same weights from another file go on."""
    files = files_of(tmp_path / "files")
    arguments: dict[str, Any] = {"out": tmp_path / "run", "t": 20, "options": ONE}
    run = balance(matched, weights=files["csv"], **arguments)
    made = (run.path / "entries.parquet").stat().st_mtime_ns
    balance(matched, weights=files["parquet"], **arguments)
    assert (run.path / "entries.parquet").stat().st_mtime_ns == made
    for other in ({"dog": 2.0}, None):
        with pytest.raises(MetaclipError, match="the weights of entries"):
            balance(matched, weights=other, **arguments)


# --- weights that mean nothing


def text(content: str) -> Any:
    return lambda path: path.write_bytes(content.encode())


def table(**columns: Any) -> Any:
    return lambda path: pq.write_table(pa.table(columns), path)


BAD = [
    ("unknown", text("entry,weight\ndog,2\nbirb,3\nowll,1\n"), "w.csv, line 3: 'birb' (nor 1 more) is no entry of the query list; correct the entry, or remove the row"),
    ("unknown in parquet", table(entry=["dog", "Dog"], weight=[1.0, 2.0]), "w.csv, row 1: 'Dog' is no entry of the query list"),
    ("zero", text("entry,weight\ndog,0\n"), "w.csv, line 2: the weight of 'dog' is '0', must be a finite number above 0; correct it"),
    ("negative", text("entry,weight\n\ndog,-1\n"), "w.csv, line 3: the weight of 'dog' is '-1', must be"),
    ("nan", text("entry,weight\ndog,nan\n"), "line 2: the weight of 'dog' is 'nan', must be"),
    ("infinite", text("entry,weight\ndog,inf\n"), "line 2: the weight of 'dog' is 'inf', must be"),
    ("too large", text("entry,weight\ndog,1e999\n"), "line 2: the weight of 'dog' is '1e999', must be"),
    ("no number", text("entry,weight\ndog,much\n"), "line 2: the weight of 'dog' is 'much', must be"),
    ("no weight", text("entry,weight\ndog,\n"), "line 2: the weight of 'dog' is '', must be"),
    ("null weight", table(entry=["dog"], weight=pa.array([None], pa.float64())), "row 0: the weight of 'dog' is None, must be"),
    ("no entry", text("entry,weight\n,2\n"), "line 2: the entry is '', must be a string; correct or remove it"),
    ("null entry", table(entry=pa.array([None], pa.string()), weight=[2.0]), "row 0: the entry is None, must be a string"),
    ("twice", text("entry,weight\ndog,2\ncat,1\ndog,2\n"), "line 4: the entry 'dog' has a weight in line 2 already; remove one of them"),
    ("twice in parquet", table(entry=["cat", "cat"], weight=[2, 2]), "row 1: the entry 'cat' has a weight in row 0 already"),
    ("a missing column", text("entry,wieght\ndog,2\n"), "w.csv has no column 'weight' (found: 'entry', 'wieght'); weights are a csv or parquet file"),
    ("no head", text("dog,2\ncat,3\n"), "w.csv has no column 'entry' (found: 'dog', '2')"),
    ("two columns", text("entry,weight,weight\ndog,2,3\n"), "w.csv has 2 columns 'weight'"),
    ("empty", text(""), "w.csv has no column 'entry' (found: none)"),
    ("only a head", text("entry,weight\n"), "w.csv has no weights; leave it out, or add a row with an entry and its weight"),
    ("no rows", table(entry=pa.array([], pa.string()), weight=pa.array([], pa.float64())), "w.csv has no weights"),
    ("languages", text("language,entry,weight\nen,dog,2\n"), "w.csv has weights of the language 'en', but the query list has no languages; remove the column 'language'"),
    ("a comma", text("entry,weight\nred, dog,2\n"), "w.csv, line 2: 3 values for the 2 columns; quote an entry that holds a comma"),
    ("a quote", text('entry,weight\n"dog,2\n'), "not valid csv"),
    ("no text", text("entry,weight\nd\udc00g,2\n".encode("utf-8", "surrogatepass").decode("latin-1")), "is no entry of the query list"),
    ("bytes", lambda path: path.write_bytes(b"entry,weight\nd\xff,2\n"), "w.csv, line 2: not valid UTF-8"),
    ("numbers", table(entry=[1, 2], weight=[1.0, 2.0]), "the column 'entry' is int64, must be string"),
    ("strings", table(entry=["dog"], weight=["2"]), "the column 'weight' is string, must be a number"),
    ("truncated", lambda path: (pq.write_table(pa.table({"entry": ["dog"], "weight": [2.0]}), path), path.write_bytes(path.read_bytes()[:-9])), "is not a readable parquet file"),
    ("gone", lambda path: None, "the weights: there is no file"),
]  # fmt: skip


@pytest.mark.parametrize("verb", ["curate", "balance"])
@pytest.mark.parametrize(("make", "message"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_what_cannot_be_used_is_one_line(
    matched: Run, tmp_path: Path, make: Any, message: str, verb: str
) -> None:
    """File, row and next step, exit code 2, and nothing is written, before anything is matched or drawn."""
    make(tmp_path / "w.csv")
    (tmp_path / "list.txt").write_text("\n".join(LIST))
    pool = write(pool_of(10), tmp_path / "pool.parquet")
    given = (pool, "--metadata", tmp_path / "list.txt") if verb == "curate" else (matched.path,)
    line = commands.refused(verb, *given, "--weights", tmp_path / "w.csv", "--out", tmp_path / "out")
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"dog": -1}, "weights, row 0: the weight of 'dog' is -1, must be"),
        ({"dog": True}, "the weight of 'dog' is True, must be"),
        ({"dog": "much"}, "the weight of 'dog' is 'much'"),
        ({3: 1.0}, "the entry is 3, must be a string"),
        ({}, "weights has no weights"),
        ({"d\udc00g": 1.0}, "half a surrogate pair"),
        ({"dogg": 1.0}, "weights, row 0: 'dogg' is no entry of the query list"),
        (pa.table({"entry": ["dog"]}), "weights has no column 'weight'"),
        (
            {"dog": 1e-310},
            "the threshold of entry 0 comes to 1e-20 * 1e-310 = 0, must be a finite number above 0",
        ),
    ],
)
def test_python_is_told_too(matched: Run, tmp_path: Path, weights: Any, message: str) -> None:
    """A dict or a table that cannot be used is refused with what is wrong."""
    with pytest.raises(MetaclipError, match=re.escape(message)):
        balance(matched, out=tmp_path / "run", t=1e-20, weights=weights, options=ONE)
    assert not (tmp_path / "run").exists()


def test_no_weights_at_all(matched: Run) -> None:
    """A number or a list is no set of weights."""
    for wrong in (3, ["dog"], b"w.csv"):
        with pytest.raises(
            TypeError, match="weights must be a path, a dict from entry to weight, or a table"
        ):
            balance(matched, weights=wrong)


# --- languages

LISTS = Metadata(["0", "dog", "chat", "0", "chat"], language=["en", "en", "en", "fr", "fr"])


@pytest.mark.parametrize("form", ["csv", "parquet", "dict", "table"])
def test_weights_name_entries_by_language(tmp_path: Path, form: str) -> None:
    """A weight without a language holds for the entry in all languages, one with a language for it there, whatever the order."""
    rows = [("fr", "chat", 3.0), (None, "chat", 2.0), (None, "0", 0.5), ("en", "dog", 4.0)]
    columns = dict(zip(("language", "entry", "weight"), map(list, zip(*rows, strict=True)), strict=True))
    made: Any = pa.table(columns)
    if form == "dict":
        made = {
            (entry if language is None else (language, entry)): weight for language, entry, weight in rows
        }
    elif form == "csv":
        made = tmp_path / "w.csv"
        lines = [f"{entry},{language or ''},{weight}" for language, entry, weight in rows]
        made.write_text("entry,language,weight\n" + "\n".join(lines))
    elif form == "parquet":
        made = tmp_path / "w.parquet"
        pq.write_table(pa.table(columns), made)
    weights = EntryWeights.of(made)
    assert weights.by_entry(LISTS).tolist() == [0.5, 4.0, 2.0, 0.5, 3.0]
    weights.write(tmp_path / "again.parquet")
    assert EntryWeights.of(tmp_path / "again.parquet").by_entry(LISTS).tolist() == [
        0.5,
        4.0,
        2.0,
        0.5,
        3.0,
    ]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({("fr", "dog"): 2}, "weights, row 0: 'dog' is no entry of the query list in the language 'fr'; correct the entry"),
        ({"chien": 2, "dog": 3}, "weights, row 0: 'chien' is no entry of the query list in any language; correct the entry"),
        ({"dog": 2, ("de", "dog"): 2}, "weights, row 1: 'de' is no language of the query list; correct the language"),
        ({(3, "dog"): 2}, "row 0: the language is 3, must be a string"),
        (pa.table({"entry": ["dog"], "weight": [1], "language": [3]}), "the column 'language' is int64, must be string"),
        (
            pa.table({"entry": ["dog", "dog"], "weight": [1, 2], "language": ["en", "en"]}),
            "row 1: the entry 'dog' has a weight in row 0 already",
        ),
    ],
)  # fmt: skip
def test_weights_of_languages_that_mean_nothing(weights: Any, message: str) -> None:
    """The row, the language and the next step."""
    with pytest.raises(MetaclipError, match=re.escape(message)):
        EntryWeights.of(weights).by_entry(LISTS)


def test_weights_without_any_language() -> None:
    """A column of languages that names none is none, also for a list without languages."""
    weights = EntryWeights.of(pa.table({"entry": ["dog"], "weight": [2], "language": pa.nulls(1)}))
    assert weights.by_entry(Metadata(["dog", "cat"])).tolist() == [2, 1]
    with pytest.raises(
        MetaclipError, match="weights of the language 'en', but the query list has no languages"
    ):
        EntryWeights.of({("en", "dog"): 2}).by_entry(Metadata(["dog"]))
