"""A run can be stopped anywhere; the same command continues it and gives the result of an uninterrupted run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import MetaclipError, Run
from metaclip import curate as curate_here
from metaclip.curate import balance as balancing
from metaclip.curate import match_shard as matching
from tests import commands
from tests.processes import Running, start, until
from tests.runs import (
    FILES,
    T,
    curate,
    holds,
    made,
    made_as,
    markers,
    result,
    write_pool,
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A pool of 20 small files that the test may change."""
    return write_pool(tmp_path / "small", 20, 100, seed=1)


@pytest.fixture(scope="module")
def finished(words: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pool of 20 small files and its finished run, for tests that only read them."""
    folder = tmp_path_factory.mktemp("finished")
    pool = write_pool(folder / "pool", 20, 100, seed=1)
    commands.done(*curate(pool, words, folder / "run"))
    return pool, folder / "run"


def stop(process: Running, run: Path, stage: str, after: int, number: int) -> dict[str, tuple[int, int]]:
    """Wait until so many shards of a stage are made, send a signal, wait for the end; return the shards that were made."""

    def reached() -> bool:
        assert process.code is None, (
            f"ended before shard {after} of {stage}: {process.code} {process.err}"
        )
        return len(markers(run, stage)) >= after

    until(reached, f"shard {after} of {stage}")
    process.send(number)
    code = process.wait()
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        # The line that a terminal began with ^C is ended first.
        assert re.fullmatch(
            "metaclip: interrupted; ([0-9]+ of [0-9]+ tasks are finished and stay; the same command does the others, each "
            "from its start.*|the same command goes on from here)\n",
            process.err.removeprefix("\n"),
        )
        assert process.out == ""
        assert not list(run.rglob("*.tmp"))
    left = made(run, stage)
    assert 0 < len(left) < FILES, "the signal hit no work"
    return left


# --- killed


def test_killed_at_six_moments(large: Path, words: Path, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL, SIGTERM and SIGINT in each stage of one run: the result is that of an undisturbed run."""
    run = tmp_path / "run"
    moments = [
        ("match", 3, signal.SIGKILL), ("match", 9, signal.SIGTERM), ("match", 15, signal.SIGINT),
        ("balance", 3, signal.SIGTERM), ("balance", 9, signal.SIGINT), ("balance", 15, signal.SIGKILL),
    ]  # fmt: skip
    kept: dict[str, dict[str, tuple[int, int]]] = {"match": {}, "balance": {}}
    for stage, after, number in moments:
        with start(*curate(large, words, run), into=tmp_path) as process:
            left = stop(process, run, stage, after, number)
        assert kept[stage].items() <= left.items(), "a finished shard was made again"
        kept[stage] = left
    with start(*curate(large, words, run), into=tmp_path) as process:
        assert process.wait() == 0, process.err
    holds(run, undisturbed)
    for stage, left in kept.items():
        assert left.items() <= made(run, stage).items(), "a finished shard was made again"


def test_as_a_user_starts_and_stops_it(
    large: Path, words: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """``python -m metaclip`` is stopped by SIGTERM and started again: exit code 130, then 0 and the same run."""
    run = tmp_path / "run"
    with start(*curate(large, words, run), into=tmp_path, cold=True) as process:
        left = stop(process, run, "match", 5, signal.SIGTERM)
    with start(*curate(large, words, run), into=tmp_path, cold=True) as process:
        assert process.wait() == 0, process.err
    assert left.items() <= made(run, "match").items()
    holds(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random(large: Path, words: Path, undisturbed: Path, tmp_path: Path, seed: int) -> None:
    """Stopped at random moments until one run ends, also while results are combined: the bytes are the same."""
    rng, run = random.Random(seed), tmp_path / "run"

    def done() -> int:
        return len(markers(run, "match")) + len(markers(run, "balance"))

    for _ in range(100):
        before, moment = done(), time.monotonic() + rng.random() * (12 if seed == 0 else 2)
        goal = before + rng.randrange(1, FILES)
        with start(
            *curate(large, words, run, "--workers", rng.choice([1, 2, 3])), into=tmp_path, cold=seed == 0
        ) as process:
            until(
                lambda p=process, g=goal, m=moment: (
                    p.code is not None or done() >= g or time.monotonic() > m
                ),
                "a moment",
            )
            with contextlib.suppress(ProcessLookupError):
                process.send(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            if process.wait() == 0:
                break
    with start(*curate(large, words, run), into=tmp_path) as process:
        assert process.wait() == 0, process.err
    holds(run, undisturbed)


# --- side by side


def test_parts_in_processes_of_their_own(
    large: Path, words: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The parts of a job array run at once, one is killed and run again; the last one combines them: the same bytes."""
    run, n = tmp_path / "run", 3
    match = ["match", large, "--metadata", words, "--out", run]
    with contextlib.ExitStack() as stack:
        parts = [
            stack.enter_context(start(*match, "--part", f"{i}/{n}", into=tmp_path))
            for i in range(1, n + 1)
        ]
        until(lambda: len(markers(run, "match")) >= 6, "shards of parts")
        assert "is in use by part " in commands.refused(*match)
        parts[0].send(signal.SIGKILL)
        parts[0].wait()
        assert [part.wait() for part in parts[1:]] == [0] * (n - 1), [part.err for part in parts]
        for part in parts[1:]:
            assert "is done; when all are, the same command without --part combines them" in part.out
    before = made(run, "match")
    assert not (run / "manifest.json").exists()
    with start(*match, "--part", f"1/{n}", into=tmp_path) as process:
        assert process.wait() == 0, process.err
        assert "matched" in process.out
    assert before.items() <= made(run, "match").items()
    assert commands.done(*match, "--part", f"2/{n}").out == commands.done(*match).out
    with start("balance", run, "--t", T, into=tmp_path) as process:
        assert process.wait() == 0, process.err
    holds(run, undisturbed)


# --- the same command again


def test_a_finished_run_returns_at_once(small: Path, words: Path, tmp_path: Path) -> None:
    """The same command prints the same and changes no file; `balance` does so even without the pool."""
    run = tmp_path / "run"
    first = commands.done(*curate(small, words, run))
    before = stamps(run)
    assert commands.done(*curate(small, words, run)).out == first.out
    assert commands.done(*curate(small, words, run, "--overwrite", "--workers", 1)).out == first.out
    assert stamps(run) == before
    (run / "card.md").write_text("someone's own words")
    before = stamps(run)
    shutil.rmtree(small)
    assert commands.done("balance", run, "--t", T).out == first.out
    assert stamps(run) == before


def stamps(run: Path) -> dict[Path, tuple[int, int]]:
    return {path: made_as(path) for path in run.rglob("*") if path.name != "lock"}


CHANGES: dict[str, tuple[list[Any], str]] = {
    "t": (["--t", T + 1], "t: 60 -> 61"),
    "seed": (["--seed", 1], "seed: 0 -> 1"),
    "limit": (["--limit", 10], "limit: null -> 10"),
    "rule": (["--fold-case"], "rule.fold_case: false -> true"),
    "column": (["--uid-column", "row"], 'columns.uid: null -> "row"'),
    "text": (["--with-text"], "with_text: false -> true"),
}
"""Flags that change the result, and how the difference is named."""


@pytest.mark.parametrize("name", CHANGES)
def test_another_recipe_is_refused_or_replaces(
    finished: tuple[Path, Path], words: Path, tmp_path: Path, name: str
) -> None:
    """A flag that changes the result is refused by name, and nothing is touched; --overwrite makes the other run."""
    pool, made_before = finished
    run, (flags, named) = Path(shutil.copytree(made_before, tmp_path / "run")), CHANGES[name]
    before = stamps(run)
    line = commands.refused(*curate(pool, words, run, *flags))
    assert f"{run} holds another run: {named}; " in line
    instead = f"metaclip balance {run} --out FOLDER" if name in ("t", "seed") else "choose another --out"
    assert f"; {instead}" in line
    assert line.endswith(", or replace it with --overwrite")
    assert stamps(run) == before
    commands.done(*curate(pool, words, run, *flags, "--overwrite"))
    commands.done(*curate(pool, words, tmp_path / "other", *flags))
    holds(run, tmp_path / "other")


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a parquet file again, without compression: its letters can be found in its bytes."""
    pq.write_table(change(pq.read_table(path)), path, compression="none", use_dictionary=False)


def letter(path: Path) -> None:
    """Change one letter in a file: same size, other bytes."""
    data = path.read_bytes()
    at = data.index(b"word")
    path.write_bytes(data[:at] + b"ward" + data[at + 4 :])


INPUTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "rows": (lambda path: rewrite(path, lambda table: table.slice(1)), "007.parquet has changed since"),
    "order": (lambda path: rewrite(path, lambda table: table[::-1]), "007.parquet has changed since"),
    "letter": (letter, "007.parquet has changed since"),
    "truncated": (lambda path: os.truncate(path, 1000), "007.parquet has changed since"),
    "added": (
        lambda path: shutil.copy(path, path.with_name("007b.parquet")),
        'pool: "007b.parquet" is new',
    ),
    "removed": (lambda path: path.unlink(), 'pool: "007.parquet" is gone'),
    "renamed": (lambda path: path.rename(path.with_name("7.parquet")), 'pool: "007.parquet" is gone'),
}
"""What can happen to a pool, and how it is named."""


@pytest.mark.parametrize("name", INPUTS)
def test_another_pool_is_refused_or_replaces(small: Path, words: Path, tmp_path: Path, name: str) -> None:
    """A changed pool is refused, the message names the file, and the run is untouched; --overwrite makes the other run."""
    run, path, (change, named) = tmp_path / "run", small / "007.parquet", INPUTS[name]
    rewrite(path, lambda table: table)
    commands.done(*curate(small, words, run))
    before, size = stamps(run), path.stat().st_size
    change(path)
    assert (path.exists() and path.stat().st_size == size) is (name in ("letter", "order", "added"))
    line = commands.refused(*curate(small, words, run))
    assert named in line
    assert "choose another --out, or replace " in line
    assert stamps(run) == before
    results = [
        commands.call(*curate(small, words, out, "--overwrite")) for out in (run, tmp_path / "other")
    ]
    assert [done.code for done in results] == ([3, 3] if name == "truncated" else [0, 0])
    if name != "truncated":
        holds(run, tmp_path / "other")


def test_another_list_is_refused_or_replaces(small: Path, words: Path, tmp_path: Path) -> None:
    """A list with one entry more is another list; the same entries in another form are the same."""
    run, entries = tmp_path / "run", words.read_text().splitlines()
    first = commands.done(*curate(small, words, run))
    (tmp_path / "same.json").write_text(json.dumps(entries))
    assert commands.done(*curate(small, tmp_path / "same.json", run)).out == first.out
    (tmp_path / "more.txt").write_text("\n".join([*entries, "word1999"]))
    assert "holds another run: metadata: more.txt has changed; " in commands.refused(
        *curate(small, tmp_path / "more.txt", run)
    )
    commands.done(*curate(small, tmp_path / "more.txt", run, "--overwrite"))
    assert Run(run).metadata.entries[-1].as_py() == "word1999"


def test_a_touched_or_moved_pool_is_the_same(small: Path, words: Path, tmp_path: Path) -> None:
    """Files with other times of modification, or in another place, are the same pool, for unfinished and finished runs."""
    run, wanted = tmp_path / "run", tmp_path / "wanted"
    commands.done(*curate(small, words, wanted))
    commands.done("match", small, "--metadata", words, "--out", run, "--part", "1/2")
    before = made(run, "match")
    assert 0 < len(before) < 20
    for path in small.iterdir():
        os.utime(path, ns=(0, 0))
    first = commands.done(*curate(small, words, run)).out
    assert before.items() <= made(run, "match").items()
    moved = small.rename(tmp_path / "moved")
    for path in moved.iterdir():
        path.touch()
    before = made(run, "match")
    assert commands.done(*curate(moved, words, run)).out == first
    assert made(run, "match") == before
    holds(run, wanted)
    # The run knows the new place: the pool is read from there.
    commands.done("balance", run, "--t", T - 1, "--out", tmp_path / "less")


def test_a_pool_that_moved_is_found_by_matching_again(small: Path, words: Path, tmp_path: Path) -> None:
    """`balance` needs the pool where it was matched; the message says how to name its new place, and that works."""
    run, pool = tmp_path / "run", small
    commands.done("match", pool, "--metadata", words, "--out", run)
    moved = pool.rename(tmp_path / "moved")
    line = commands.refused("balance", run, "--t", T)
    assert f"the pool's file {pool / '000.parquet'} is gone" in line
    assert f"metaclip match --out {run}" in line
    commands.done("match", moved, "--metadata", words, "--out", run)
    commands.done("balance", run, "--t", T)


def test_a_pool_changed_between_the_stages_is_refused(small: Path, words: Path, tmp_path: Path) -> None:
    """Pairs are not drawn from a file that is not the one that was matched."""
    run = tmp_path / "run"
    rewrite(small / "007.parquet", lambda table: table)
    commands.done("match", small, "--metadata", words, "--out", run)
    letter(small / "007.parquet")
    assert "007.parquet has changed since it was matched" in commands.refused("balance", run, "--t", T)
    assert not list(run.glob("curated/*"))


# --- lost inputs


def torn(path: Path) -> None:
    """Damage a page inside a file, each time with other bytes: the file opens, and cannot be read."""
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 180 + os.urandom(16)
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "torn": torn,
    "truncated": lambda path: os.truncate(path, 1000),
}
"""A file that cannot be read to its end, and one that cannot even be opened."""


@pytest.mark.parametrize("verb", ["curate", "match"])
def test_a_lost_input_is_listed_and_read_later(
    small: Path, words: Path, tmp_path: Path, verb: str
) -> None:
    """One damaged file of 20 is listed, with code 3, and tried again, also if it is damaged otherwise by then.

    The others are finished; once it is whole, the same command reads only that file.
    """
    run, wanted, path = tmp_path / "run", tmp_path / "wanted", small / "013.parquet"
    commands.done(*curate(small, words, wanted))
    whole = path.read_bytes()
    command = (
        curate(small, words, run)
        if verb == "curate"
        else ["match", small, "--metadata", words, "--out", run]
    )
    for damage in ("torn", "truncated", "torn"):
        path.write_bytes(whole)
        DAMAGES[damage](path)
        done = commands.call(*command)
        assert done.code == 3
        assert "1 of 20 inputs were lost" in done.err
        assert str(path) in done.err
        assert "Traceback" not in done.err
        assert len(markers(run, "match")) == 19
        assert Run(run).match["funnel"]["rows"] == 1900
    before = made(run, "match")
    refused = commands.call("balance", run, "--t", T)
    assert refused.code == 2
    assert "--allow-lost" in refused.err
    assert not list(run.glob("curated/*"))
    path.write_bytes(whole)
    commands.done(*command)
    commands.done("balance", run, "--t", T)
    after = made(run, "match")
    assert {name for name in after if after[name] != before.get(name)} == {"000013-0000"}
    holds(run, wanted)


def test_a_run_without_its_lost_inputs(small: Path, words: Path, tmp_path: Path) -> None:
    """With --allow-lost the rest is balanced and the card says so; once the file is whole, so is the run."""
    run, wanted, path = tmp_path / "run", tmp_path / "wanted", small / "013.parquet"
    commands.done(*curate(small, words, wanted))
    whole = path.read_bytes()
    for damage in DAMAGES.values():
        path.write_bytes(whole)
        damage(path)
        done = commands.call(*curate(small, words, run, "--allow-lost"))
        assert done.code == 3
        assert "1 of 20 inputs were lost" in done.err
        account = Run(run).account
        assert [item["name"] for item in account["lost_inputs"]] == ["013.parquet"]
        assert account["funnel"]["rows"] == 1900
        page = (run / "card.md").read_text()
        assert "Not all inputs could be read" in page
        assert "013.parquet" in page
    path.write_bytes(whole)
    commands.done(*curate(small, words, run, "--allow-lost"))
    assert Run(run).account["lost_inputs"] == []
    holds(run, wanted)


def test_the_last_part_lists_what_all_parts_lost(small: Path, words: Path, tmp_path: Path) -> None:
    """A part that lost an input ends with code 3; the last one ends with it too, and counts the inputs of all parts."""
    run = tmp_path / "run"
    match = ["match", small, "--metadata", words, "--out", run]
    torn(small / "004.parquet")
    results = [commands.call(*match, "--part", f"{i}/2") for i in (1, 2)]
    assert [done.code for done in results] == [3, 3]
    assert "1 of 10 inputs were lost" in results[0].err
    assert "1 of 20 inputs were lost" in results[1].err
    assert Run(run).match["funnel"]["rows"] == 1900


def test_a_limit_counts_the_rows_that_can_be_read(small: Path, words: Path, tmp_path: Path) -> None:
    """If a file is lost, later rows count towards the limit; once it is whole, the run has the first rows again."""
    run, wanted, path = tmp_path / "run", tmp_path / "wanted", small / "001.parquet"
    commands.done(*curate(small, words, wanted, "--limit", 450))
    whole = path.read_bytes()
    os.truncate(path, 1000)
    assert commands.call(*curate(small, words, run, "--limit", 450)).code == 3
    assert Run(run).match["funnel"]["rows"] == 450
    assert len(markers(run, "match")) == 5
    path.write_bytes(whole)
    commands.done(*curate(small, words, run, "--limit", 450))
    holds(run, wanted)


def test_nothing_can_be_read(small: Path, words: Path, tmp_path: Path) -> None:
    """If no file can be read, the exit code is 2 every time, the message is that of the first file, and there is no run."""
    for path in small.iterdir():
        torn(path)
    for _ in range(2):
        assert "000.parquet cannot be read" in commands.refused(*curate(small, words, tmp_path / "run"))
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_nothing_matches(small: Path, tmp_path: Path) -> None:
    """If no entry occurs in the pool, the exit code is 2 every time, and there is no run."""
    (tmp_path / "list.txt").write_text("elsewhere\n")
    for verb in ("match", "curate"):
        for _ in range(2):
            line = commands.refused(
                verb, small, "--metadata", tmp_path / "list.txt", "--out", tmp_path / "run"
            )
            assert "none of the 2000 rows matches any of the 1 entries" in line
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_file_that_changes_while_it_is_read(
    small: Path, words: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """A file that changes while it is read is lost in this run; the next run reads it in its new form."""
    run, path = tmp_path / "run", small / "007.parquet"
    whole, match_shard = path.read_bytes(), matching.match_shard

    def and_change(shard: Any, *more: Any) -> Any:
        marker = match_shard(shard, *more)
        if shard.file.name == path.name:
            rewrite(path, lambda table: table.slice(1))
        return marker

    monkeypatch.setattr(matching, "match_shard", and_change)
    done = commands.call(*curate(small, words, run, "--workers", 1))
    assert done.code == 3
    assert f"{path} was changed while it was read" in done.err
    assert Run(run).match["funnel"]["rows"] == 1900
    monkeypatch.undo()
    commands.done(*curate(small, words, run))
    assert Run(run).match["funnel"]["rows"] == 1999
    assert path.read_bytes() != whole
    commands.done(*curate(small, words, tmp_path / "wanted"))
    holds(run, tmp_path / "wanted")


# --- what time does to a run folder


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json", "counts.parquet", "duplicates.npy", "matched/000007-0000.parquet", "entries.parquet",
        "curated.npy", "curated/000007-0000.parquet", "card.json", ".state/match/000007-0000.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("damage", [Path.unlink, empty])
def test_a_file_of_the_run_is_made_again(
    finished: tuple[Path, Path], words: Path, tmp_path: Path, name: str, damage: Callable[[Path], Any]
) -> None:
    """If a file was removed or is empty after a power cut, the same command completes the run again."""
    pool, wanted = finished
    run = Path(shutil.copytree(wanted, tmp_path / "run"))
    card = made_as(run / "card.json")
    damage(run / name)
    commands.done(*curate(pool, words, run))
    holds(run, wanted)
    # What is drawn anew is accounted for anew: other versions may have made it.
    assert (made_as(run / "card.json") == card) is name.startswith(".state")


def test_stopped_between_result_and_account(
    small: Path, words: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """A run that ends after its record and before its card gets the card from the same command."""
    run, wanted = tmp_path / "run", tmp_path / "wanted"
    commands.done(*curate(small, words, wanted))

    def interrupted(_: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(balancing, "write_account", interrupted)
    assert commands.call(*curate(small, words, run)).code == 130
    with pytest.raises(MetaclipError, match=r"card\.json is gone or damaged; run the same command again"):
        _ = Run(run).account
    monkeypatch.undo()
    commands.done(*curate(small, words, run))
    holds(run, wanted)


def test_a_run_folder_moves(small: Path, words: Path, tmp_path: Path) -> None:
    """A finished run, and one that refers to it, can be moved together or alone and are still runs."""
    run, less = tmp_path / "run", tmp_path / "less"
    commands.done(*curate(small, words, run))
    commands.done("balance", run, "--t", 5, "--out", less)
    shown = Run(less).account
    (tmp_path / "new").mkdir()
    for path in (run, less):  # together: found beside it
        path.rename(tmp_path / "new" / path.name)
    run, less = tmp_path / "new" / "run", tmp_path / "new" / "less"
    assert Run(less).matched.path.resolve() == run
    commands.done(*curate(small, words, run))
    commands.done("balance", less, "--t", 5)
    less = less.rename(tmp_path / "elsewhere")  # alone: found where it was
    shutil.rmtree(tmp_path / "new")
    opened = Run(less)  # without: all but the matches is in it
    assert opened.account == shown
    assert opened.counts.values.sum() == shown["sums"]["count"]
    assert len(opened.curated) == shown["pairs"]["kept"]
    assert opened.metadata.digest == shown["list"]["digest"]
    assert "matches that" in commands.refused("balance", less, "--t", 6, "--out", tmp_path / "more")


def test_another_folder_for_another_t(small: Path, words: Path, tmp_path: Path) -> None:
    """Balanced into another folder, a run is the same as balanced in place, and the first one is not touched."""
    run = tmp_path / "run"
    commands.done(*curate(small, words, run))
    before = stamps(run)
    for source, out in ((run, "a"), (tmp_path / "a", "b")):
        commands.done("balance", source, "--t", 5, "--out", tmp_path / out)
    assert stamps(run) == before
    commands.done("balance", run, "--t", 5, "--overwrite")
    wanted = {name: value for name, value in result(run).items() if name in result(tmp_path / "a")}
    assert result(tmp_path / "a") == result(tmp_path / "b") == wanted


def test_folders_that_would_mix(small: Path, words: Path, tmp_path: Path) -> None:
    """A folder with matches of its own takes no pairs of another run, and the other way round."""
    for name in ("run", "other"):
        commands.done(*curate(small, words, tmp_path / name))
    line = commands.refused("balance", tmp_path / "run", "--t", 5, "--out", tmp_path / "other")
    assert "holds matches of its own" in line
    commands.done("balance", tmp_path / "run", "--t", 5, "--out", tmp_path / "less")
    line = commands.refused(*curate(small, words, tmp_path / "less"))
    assert f"holds pairs balanced from the matches in {tmp_path / 'run'}" in line
    commands.done(*curate(small, words, tmp_path / "less", "--overwrite"))
    holds(tmp_path / "less", tmp_path / "other")


def test_matches_that_changed_under_a_run(small: Path, words: Path, tmp_path: Path) -> None:
    """A run balanced into another folder stays valid when its matches are replaced, but cannot be balanced again."""
    run, less = tmp_path / "run", tmp_path / "less"
    commands.done(*curate(small, words, run))
    commands.done("balance", run, "--t", 5, "--out", less)
    shown = Run(less).account
    commands.done(*curate(small, words, run, "--limit", 500, "--overwrite"))
    assert Run(less).account == shown
    assert "match and balance again" in commands.refused("balance", less, "--t", 6, "--overwrite")
    line = commands.refused("balance", run, "--t", 5, "--out", less)
    assert "holds another run: the result of match has changed; " in line


def test_a_solved_t_is_solved_once(small: Path, words: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A target is part of the recipe, and the t that was solved for it is remembered."""
    run = tmp_path / "run"
    commands.done(*curate(small, words, run)[:4], "--target-pairs", 500, "--out", run)
    t = Run(run).t
    assert abs(Run(run).account["pairs"]["expected"] - 500) < 10
    monkeypatch.setattr(balancing, "resolve", None)
    shutil.rmtree(run / "curated")
    commands.done("balance", run, "--target-pairs", 500)
    assert Run(run).t == t
    assert "target_pairs: 500 -> " in commands.refused("balance", run, "--target-pairs", 501)
    assert "t: null -> " in commands.refused("balance", run, "--t", t)


def test_pools_that_hold_each_other(small: Path, words: Path, tmp_path: Path) -> None:
    """A run may not lie in its pool, where it would be read as a part of it, nor a pool in its run."""
    line = commands.refused(*curate(small, words, small / "run"))
    assert f"{small / 'run'} lies in the pool {small}" in line
    assert not (small / "run").exists()
    commands.done(*curate(small, words, tmp_path / "run"))
    before = stamps(tmp_path / "run")
    line = commands.refused(*curate(tmp_path / "run" / "curated", words, tmp_path / "run", "--overwrite"))
    assert f"lie in {tmp_path / 'run'}; choose another --out" in line
    assert stamps(tmp_path / "run") == before


def test_files_of_one_name_are_different_files(words: Path, tmp_path: Path) -> None:
    """Pools in several folders whose files have the same names: each pair comes from its own file."""
    pools = [write_pool(tmp_path / name, 2, 50, seed) for seed, name in enumerate("ab")]
    commands.done("curate", *pools, "--metadata", words, "--t", 10**6, "--out", tmp_path / "run")
    texts = {uid: text for pool in pools for path in pool.iterdir() for text, uid in _pairs(path)}
    kept = Run(tmp_path / "run").curated
    assert len(kept) > 150
    for text, uid in zip(kept["text"].to_pylist(), kept["uid"].to_pylist(), strict=True):
        assert texts[uid] == text


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    table = pq.read_table(path)
    return zip(table["text"].to_pylist(), table["uid"].to_pylist(), strict=True)


def test_the_recorded_recipe_makes_the_run_again(
    small: Path, words: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """The recipe in a run folder names the list by a path that is valid from any working directory."""
    monkeypatch.chdir(words.parent)
    curate_here(small, words.name, out=tmp_path / "run", t=T)
    monkeypatch.chdir(tmp_path)
    commands.done(
        "curate", small, "--recipe", tmp_path / "run" / "recipe.toml", "--out", tmp_path / "again"
    )
    assert (
        Run(tmp_path / "again").account["result_digest"] == Run(tmp_path / "run").account["result_digest"]
    )
    assert (
        Run(tmp_path / "again").account["recipe_digest"] == Run(tmp_path / "run").account["recipe_digest"]
    )
