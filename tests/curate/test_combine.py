"""Runs that are balanced together give, pair by pair, one run over all their pools."""

from __future__ import annotations

import json
import random
import shutil
import signal
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
    MatchSettings,
    MetaclipError,
    Run,
    RunOptions,
    TextRule,
    balance,
    curate,
    match,
)
from metaclip.card.scan import scan_run
from metaclip.engine import Engine
from tests import commands
from tests.processes import start, until
from tests.runs import T, markers, result, write_pool

FILES, ROWS = 12, 400
RULE = TextRule(fold_case=True)


def outputs(run: Path) -> dict[str, str]:
    """Return the digests of all files of a run, and its account without the time, and without the names of runs and inputs."""
    found = result(run)
    card = json.loads(found.pop("card"))
    card.pop("runs", None)
    for item in card["inputs"]:
        del item["name"]
    return found | {"card": json.dumps(card)}


def pools_of(folder: Path, number: int, files: int = FILES, rows: int = ROWS) -> list[Path]:
    """Write pools; some uids stand in several of them, with other texts, and some in several files of one."""
    pools = [write_pool(folder / f"pool{i}", files, rows, seed=i) for i in range(number)]
    shared = pq.read_table(pools[0] / "000.parquet")["uid"].slice(0, rows // 2)
    for path in (*(pool / "001.parquet" for pool in pools[1:]), pools[0] / "002.parquet"):
        table = pq.read_table(path)
        uids = pa.chunked_array([*shared.chunks, table["uid"].slice(len(shared)).combine_chunks()])
        pq.write_table(table.set_column(1, "uid", uids), path)
    return pools


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three pools."""
    return pools_of(tmp_path_factory.mktemp("pools"), 3)


@pytest.fixture(scope="module")
def matched(pools: list[Path], words: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A matched run of each pool; the tests only read them."""
    folder = tmp_path_factory.mktemp("matched")
    return [Path(match(pool, words, out=folder / f"run{i}").path) for i, pool in enumerate(pools)]


@pytest.fixture(scope="module")
def whole(pools: list[Path], words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run over all pools at T."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return Path(curate(pools, words, t=T, out=out).path)


# --- the law


def test_the_result_is_that_of_one_run(
    matched: list[Path], whole: Path, engine: Engine, tmp_path: Path
) -> None:
    """Every byte of the result, on every engine: counts, uids, matches, pairs, account."""
    options = RunOptions(engine=engine)
    run = balance(matched, out=tmp_path / "run", t=T, options=options)
    assert outputs(tmp_path / "run") == outputs(whole)
    assert run.match["duplicates"]["rows"] > ROWS
    assert [one["name"] for one in run.match["runs"]] == ["run0", "run1", "run2"]
    assert not list((tmp_path / "run").glob(".state/*/*.npy"))


@pytest.mark.parametrize(
    "asked", [{}, {"tail_share": 0.3}, {"target_pairs": 5000}, {"t": 5.0, "seed": 7}]
)
def test_t_is_resolved_on_the_sum(
    matched: list[Path], whole: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    """Whatever t is asked for; also when the combined run is balanced again, here or elsewhere."""
    wanted = balance(whole, out=tmp_path / "wanted", **asked)
    run = balance(matched, out=tmp_path / "run", **asked)
    again = balance(run, out=tmp_path / "again", t=3.0)
    assert run.t == wanted.t
    assert run.account["result_digest"] == wanted.account["result_digest"]
    assert run.entries.equals(wanted.entries)
    assert (
        again.account["result_digest"]
        == balance(whole, out=tmp_path / "wanted3", t=3.0).account["result_digest"]
    )
    assert [one["name"] for one in again.account["runs"]] == ["run0", "run1", "run2"]


@settings(max_examples=15)
@given(data=st.data())
def test_random_pools(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Random texts and uids, in random parts, combined in one or two steps."""
    folder = tmp_path_factory.mktemp("random")
    rows = data.draw(
        st.lists(
            st.tuples(st.sampled_from(["dog", "cat dog", "a cat", "x"]), st.integers(0, 8)),
            min_size=3,
            max_size=30,
        )
    )
    parts = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    files = []
    for part in range(3):
        mine = [row for row, of in zip(rows, parts, strict=True) if of == part]
        # A pool in which nothing matches is no run.
        mine.append(("dog", 10 + part))
        table = pa.table({"text": [text for text, _ in mine], "uid": [f"{uid:032x}" for _, uid in mine]})
        files.append(folder / f"{part}.parquet")
        pq.write_table(table, files[-1])
    entries = ["dog", "cat", "a"]
    runs: list[Any] = [match(file, entries, out=folder / f"run{i}") for i, file in enumerate(files)]
    wanted = curate(files, entries, t=2, out=folder / "wanted")
    assert (
        balance(runs, out=folder / "all", t=2.0).account["result_digest"]
        == wanted.account["result_digest"]
    )
    pair = balance(runs[:2], out=folder / "pair", t=2.0)
    nested = balance([pair, runs[2]], out=folder / "nested", t=2.0)
    assert nested.account["result_digest"] == wanted.account["result_digest"]
    assert np.array_equal(
        np.load(folder / "nested" / "curated.npy"), np.load(folder / "wanted" / "curated.npy")
    )
    shutil.rmtree(folder)


def test_columns_may_have_other_names(words: Path, tmp_path: Path) -> None:
    """Each pool keeps the columns that were named for it, also in the card."""
    (pool,) = pools_of(tmp_path, 1, files=3)
    table = pq.read_table(pool / "000.parquet")
    named = table.rename_columns(["words", "key", "row"]).append_column(
        "address", pa.array([f"http://x.org/{i}" for i in range(len(table))])
    )
    (tmp_path / "other").mkdir()
    pq.write_table(
        named.set_column(1, "key", pa.array([f"{i:032x}" for i in range(len(table))])),
        tmp_path / "other" / "0.parquet",
    )
    one = match(pool, words, out=tmp_path / "run0")
    columns = MatchSettings(text_column="words", uid_column="key", url_column="address")
    other = match(tmp_path / "other", words, out=tmp_path / "run1", settings=columns)
    run = balance([one, other], out=tmp_path / "run", t=T)
    kept = run.curated
    assert {"text", "words", "address", "uid", "key"} <= set(kept.column_names)
    assert (
        kept.filter(kept["words"].is_valid())["uid"].to_pylist()
        == kept.filter(kept["words"].is_valid())["key"].to_pylist()
    )
    found = scan_run(run, RunOptions())
    assert dict(found.hosts["hosts"].counts) == {"x.org": len(kept.filter(kept["address"].is_valid()))}
    assert found.samples.num_rows > 0


# --- what a person sees


def test_the_source_runs_are_named(matched: list[Path], tmp_path: Path) -> None:
    """By the account and explain."""
    out = tmp_path / "run"
    commands.done("balance", *matched, "--t", T, "--out", out)
    assert [one["matched"] for one in Run(out).account["runs"]] == [
        Run(path).match["funnel"]["matched"] for path in matched
    ]
    assert "| run1 | " in (out / "card.md").read_text()
    explained = commands.done("explain", "word0 word5", "--run", out).out
    assert "counts  = sums of the runs 'run0', 'run1', 'run2'" in explained


@pytest.mark.extra
def test_the_card_names_them_too(matched: list[Path], tmp_path: Path) -> None:
    """The published card lists the runs, and all its figures follow from the combined run."""
    pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
    run = balance(matched, out=tmp_path / "run", t=T)
    commands.done("card", run.path, "--out", tmp_path / "card")
    assert "| run1 | " in (tmp_path / "card" / "README.md").read_text()
    assert "every figure" in commands.done("card", "verify", tmp_path / "card", "--run", run.path).out


def test_a_plan_of_runs(matched: list[Path]) -> None:
    """Plan estimates what it takes to balance runs together, and refuses runs that cannot be."""
    out = commands.done("plan", *matched).out
    assert f"pool      {3 * FILES * ROWS:,} pairs in {3 * FILES} shards" in out
    assert "combine   " in out
    assert "hold the same input" in commands.refused("plan", matched[0], matched[0])


def test_the_sources_may_go(matched: list[Path], tmp_path: Path) -> None:
    """The matches are linked, so they take no disk, and stay when the runs that they came from are removed."""
    sources = [shutil.copytree(path, tmp_path / path.name) for path in matched]
    run = balance(sources, out=tmp_path / "run", t=T)
    file = next((tmp_path / "run" / "matched").glob("000013-*.parquet"))
    assert file.stat().st_ino == (sources[1] / "matched" / "000001-0000.parquet").stat().st_ino
    for source in sources:
        shutil.rmtree(source)
    assert (
        balance(run, out=tmp_path / "again", t=T).account["result_digest"] == run.account["result_digest"]
    )


def test_a_pool_that_was_moved(words: Path, tmp_path: Path) -> None:
    """Its new place is named to match, for the run that it was matched in; then the runs are combined again."""
    pools = pools_of(tmp_path, 2, files=3, rows=50)
    runs = [match(pool, words, out=tmp_path / f"run{i}") for i, pool in enumerate(pools)]
    command = ["balance", *(one.path for one in runs), "--t", 3, "--out", tmp_path / "out"]
    commands.done(*command)
    before = outputs(tmp_path / "out")
    pools[1].rename(tmp_path / "moved")
    said = commands.refused("balance", tmp_path / "out", "--t", 3, "--out", tmp_path / "again")
    assert "metaclip match --out of the run that it was matched in, and combine the runs again" in said
    commands.done("match", tmp_path / "moved", "--metadata", words, "--out", runs[1].path)
    commands.done(*command)
    commands.done("balance", tmp_path / "out", "--t", 3, "--out", tmp_path / "again")
    assert outputs(tmp_path / "out") == before


def test_a_next_version_names_the_runs_too(matched: list[Path], tmp_path: Path) -> None:
    """Pairs are taken out of a combined run as of any other; a version is not combined with others."""
    run = balance(matched, out=tmp_path / "run", t=T)
    (tmp_path / "gone.txt").write_text(run.curated["uid"][0].as_py() + "\n")
    commands.done("card", "remove", run.path, "--uids", tmp_path / "gone.txt", "--out", tmp_path / "next")
    version = Run(tmp_path / "next")
    assert [one["name"] for one in version.account["runs"]] == ["run0", "run1", "run2"]
    said = commands.refused("balance", version.path, matched[0], "--out", tmp_path / "out")
    assert "pairs were taken out of" in said


# --- what is refused


def test_other_lists_and_rules_are_refused_by_name(
    pools: list[Path], words: Path, matched: list[Path], tmp_path: Path
) -> None:
    """One line that names both runs; nothing is written."""
    match(pools[1], ["word0", "word5"], out=tmp_path / "list")
    match(pools[1], words, out=tmp_path / "rule", settings=MatchSettings(rule=RULE))
    for path, what in (
        (tmp_path / "list", "different query lists"),
        (tmp_path / "rule", "fold_case is False and True"),
    ):
        said = commands.refused("balance", matched[0], path, "--out", tmp_path / "out")
        assert what in said
        assert f"{matched[0]} and {path}" in said
    assert not (tmp_path / "out").exists()


def test_what_else_is_refused(
    matched: list[Path], pools: list[Path], words: Path, tmp_path: Path
) -> None:
    """Pairs that would count twice, no folder for the result, one of the runs as that folder, another result there."""
    out = tmp_path / "out"
    assert "hold the same input" in commands.refused("balance", matched[0], matched[0], "--out", out)
    commands.done("balance", matched[0], matched[1], "--t", T, "--out", out)
    said = commands.refused("balance", out, matched[1], "--out", tmp_path / "twice")
    assert "hold the same input (000.parquet and 11 more)" in said
    assert "name it: --out" in commands.refused("balance", matched[0], matched[1])
    copies = [shutil.copytree(path, tmp_path / path.name) for path in matched]
    assert "is one of the runs" in commands.refused("balance", *copies, "--out", copies[1], "--overwrite")
    assert "the list of runs, or what was matched in one of them, has changed" in commands.refused(
        "balance", *matched, "--t", T, "--out", out
    )
    assert "holds another run" in commands.refused("match", pools[0], "--metadata", words, "--out", out)
    before = outputs(out)
    commands.done("balance", matched[0], matched[1], "--t", T, "--out", out)
    assert outputs(out) == before
    commands.done("balance", *matched, "--t", T, "--out", out, "--overwrite")
    assert len(Run(out).account["runs"]) == 3


def test_a_run_that_lost_inputs(words: Path, matched: list[Path], tmp_path: Path) -> None:
    """It is refused without --allow-lost; with it, the lost input stands in the account under its new number."""
    pool = write_pool(tmp_path / "pool", 3, 50, seed=9)
    (pool / "001.parquet").write_bytes(b"PAR1 no parquet PAR1")
    match(pool, words, out=tmp_path / "lost")
    given = ["balance", matched[0], tmp_path / "lost", "--t", T, "--out", tmp_path / "out"]
    said = commands.call(*given).err
    assert "1 of 3 inputs were lost" in said
    assert (
        f"match the pool again with metaclip match --out {tmp_path / 'lost'} (it reads just these)"
        in said
    )
    commands.done(*given, "--allow-lost")
    assert [one["name"] for one in Run(tmp_path / "out").account["lost_inputs"]] == ["001.parquet"]
    assert Run(tmp_path / "out").match["lost"][0]["index"] == FILES + 1


def test_matches_that_were_changed_are_refused(matched: list[Path], tmp_path: Path) -> None:
    """A file of a source that is not as it was written is named, before anything is combined."""
    copy = shutil.copytree(matched[1], tmp_path / "copy")
    victim = next((copy / "matched").glob("*.parquet"))
    victim.unlink()
    with pytest.raises(MetaclipError, match="is gone or not what the run wrote"):
        balance([matched[0], copy], out=tmp_path / "out", t=T)


# --- killed


@pytest.fixture(scope="module")
def many(words: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Two runs of many shards, and one run over both pools."""
    folder = tmp_path_factory.mktemp("many")
    pools = pools_of(folder, 2, files=40, rows=2_000)
    runs = [Path(match(pool, words, out=folder / f"run{i}").path) for i, pool in enumerate(pools)]
    return runs, Path(curate(pools, words, t=T, out=folder / "whole").path)


def test_killed_at_ten_moments(many: tuple[list[Path], Path], tmp_path: Path) -> None:
    """Kill -9 at ten random moments of one run, while shards are linked, drawn and added up: the result is the same."""
    runs, wanted = many
    rng, out = random.Random(16), tmp_path / "out"
    command = ["balance", *runs, "--t", T, "--out", out, "--workers", 1]

    def done() -> int:
        return len(markers(out, "match")) + len(markers(out, "balance"))

    hits = 0
    for goal in sorted(rng.sample(range(1, 156), 10)):
        with start(*command, into=tmp_path) as process:
            until(lambda p=process, g=goal: p.code is not None or done() >= g, f"shard {goal}")
            if process.code is None:
                process.send(signal.SIGKILL)
                hits += process.wait() == -signal.SIGKILL
    assert hits >= 8, "the kills hit no work"
    with start(*command, into=tmp_path) as process:
        assert process.wait() == 0, process.err
    assert outputs(out) == outputs(wanted)
    assert not list(out.rglob("*.tmp"))


def test_a_balancer_of_runs_with_other_columns(tmp_path: Path) -> None:
    """Samples of both pools are found by their runs' names, and the Balancer says that it may find another column."""
    rows = [{"alt": f"a cat {i}", "uid": f"{i:032x}"} for i in range(100)]
    others = [{"text": f"a dog {i}", "uid": f"{i + 1000:032x}"} for i in range(100)]
    one = match(
        pa.Table.from_pylist(rows),
        ["dog", "cat"],
        out=tmp_path / "one",
        settings=MatchSettings(text_column="alt"),
    )
    other = match(pa.Table.from_pylist(others), ["dog", "cat"], out=tmp_path / "other")
    both = balance([one, other], t=30, out=tmp_path / "both")
    with pytest.warns(UserWarning, match="different columns"):
        kept = list(Balancer(both).kept([{"json": row} for row in (*rows, *others)]))
    assert [sample["json"]["uid"] for sample in kept] == both.curated["uid"].to_pylist()


def test_no_runs(tmp_path: Path) -> None:
    """No run at all is refused in one line."""
    with pytest.raises(MetaclipError, match="no run is given"):
        balance([], out=tmp_path / "both")


def test_a_run_folder_that_was_renamed(matched: list[Path], tmp_path: Path) -> None:
    """Names of folders are shown only: the same runs under other names continue a combination."""
    runs = [Path(shutil.copytree(run, tmp_path / run.name)) for run in matched[:2]]
    balance(runs, t=9, out=tmp_path / "both")
    runs[0] = runs[0].rename(tmp_path / "renamed")
    assert balance(runs, t=9, out=tmp_path / "both").t == 9
    with pytest.raises(
        MetaclipError, match="the list of runs, or what was matched in one of them, has changed"
    ):
        balance(runs[::-1], t=9, out=tmp_path / "both")
