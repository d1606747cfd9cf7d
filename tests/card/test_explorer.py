"""The files of the explorer page: data read back, files are small, look-ups find pairs, nothing stale is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip import MatchSettings, Metadata, Run, balance
from metaclip.card.explorer import data_files
from metaclip.card.explorer.data_files import FILE_BYTES, varints, write_data, write_lookups
from metaclip.card.explorer.writer import write_explorer
from metaclip.curate.draw import keep_probability, uniform
from metaclip.pool.uid import uid_of
from tests.card.browser.cards import (
    ONE,
    Made,
    large_account,
    large_grid,
    large_table,
    make_card,
    toy_card,
    with_samples,
)
from tests.card.page_data import read_data


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The page of the toy pool."""
    return toy_card(tmp_path_factory.mktemp("toy"))


def data_of(card: Path, name: str) -> Any:
    return json.loads(read_data(card / "explorer" / "data", name))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def columns_of(data: bytes, n: int) -> list[list[int]]:
    """Read columns of n varints: the definition, byte by byte."""
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            values.append(value)
            value = shift = 0
    return [values[i : i + n] for i in range(0, len(values), n)]


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_varints(values: list[int]) -> None:
    """Unsigned integers of any size read back."""
    assert columns_of(varints(np.array(values, np.uint64)), max(1, len(values))) == (
        [values] if values else []
    )


def test_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of any length, in as many files as they need, read back."""
    monkeypatch.setattr(data_files, "_PIECE_BYTES", 1000)
    data = np.random.default_rng(0).bytes(5000)
    write_data(tmp_path, "x", data)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"x.{i}.js" for i in range(7)]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 1100
    assert read_data(tmp_path, "x") == data
    write_data(tmp_path, "empty", b"")
    assert read_data(tmp_path, "empty") == b""


def test_the_first_view_is_the_account_and_the_table(toy: Made) -> None:
    """Entries, counts, kept and expected read back from the page's data as the run has them; the account too."""
    entries, n = toy.entries, len(toy.entries)
    assert (
        read_data(toy.folder / "explorer" / "data", "entries").decode().split("\n")
        == entries["entry"].to_pylist()
    )
    count, dropped, missing, _ = columns_of(read_data(toy.folder / "explorer" / "data", "numbers"), n)
    assert count == entries["count"].to_pylist()
    assert [c - d for c, d in zip(count, dropped, strict=True)] == entries["kept"].to_pylist()
    found = [c - m / 10 for c, m in zip(count, missing, strict=True)]
    assert found == pytest.approx(entries["expected"].to_pylist(), abs=0.051)
    card = data_of(toy.folder, "card")
    account = dict(toy.run.account)
    inputs = account.pop("inputs")
    assert card["account"] == account
    assert card["inputs"] == {"files": 1, "bytes": inputs[0]["size"], "first": inputs}
    assert card["probabilities"] == []
    assert card["grid"]["pairs"] == toy.grid.pairs.tolist()
    assert card["ranks"][0] == [1, max(count), max(entries["kept"].to_pylist())]
    assert card["ranks"][-1][0] == n
    assert card["by_source"] == [[0, n, count.count(0), sum(count), sum(entries["kept"].to_pylist())]]


def test_details_are_in_blocks(toy: Made) -> None:
    """Samples, neighbours and the grid of each entry are at its position in its block."""
    rows = data_of(toy.folder, "block-0")
    assert len(rows) == len(toy.entries)
    for row, (samples, seen, fellows, expected) in zip(toy.entries.to_pylist(), rows, strict=True):
        assert samples == row["samples"]
        assert seen == min(row["count"], 256)
        assert all(len(fellow) == 3 for fellow in fellows)
        filled = expected + [row["count"]] * (len(toy.grid.thresholds) - len(expected))
        assert filled == pytest.approx(toy.grid.expected[:, row["entry_id"]].tolist(), abs=0.051)


def look_up_rows(data: Path, kind: str, digits: int) -> list[list[Any]]:
    """Read a whole look-up; each row is in the file of its prefix, in order."""
    found = []
    for prefix in (f"{i:0{digits}x}" if digits else "" for i in range(16**digits)):
        rows = json.loads(read_data(data, f"{kind}-{prefix or 'all'}"))
        assert rows == sorted(rows)
        assert all(row[0].startswith(prefix) for row in rows)
        found += rows
    assert len(list(data.glob(f"{kind}-*"))) == 16**digits
    return found


def kept_of(run: Run, rows: list[list[Any]], uids: set[str]) -> list[str]:
    """Draw the rows of the look-up of uids as the page does; return the uids kept."""
    probability = run.entries["probability"].to_numpy()
    whole = {uid[:16]: uid for uid in uids}
    drawn = ((whole[key], keep_probability(ids, probability)) for key, *ids in rows)
    return sorted(uid for uid, p in drawn if uniform(run.seed, 0, uid) < p)


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("rows", [8192, 4])
def test_look_ups(
    toy: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_text: bool, rows: int
) -> None:
    """Look-ups contain every matched pair, and the urls of kept pairs or of all; in one file or many, in one pass or several."""
    monkeypatch.setattr(data_files, "ROWS_PER_FILE", rows)
    pairs = [
        {"url": f"http://x.org/{i % 300}", "text": f"{'a dog' if i % 3 else 'no'} {i % 350}"}
        for i in range(400)
    ]
    pairs[3]["url"] = pairs[5]["url"] = ""
    settings = MatchSettings(with_text=with_text)
    made = make_card(
        tmp_path, pairs, Metadata(["a", "dog", "7"]), t=30, settings=settings, look_ups=False
    )
    assert not list((made.folder / "explorer" / "data").glob("u*-*"))
    found = write_lookups(tmp_path / "data", made.run, at_once=100)
    assert (found["uid_digits"] > 0) == (rows == 4)
    assert found["urls"] == ("matched" if with_text else "kept")
    uids = {uid_of(pair["text"], pair["url"]) for pair in pairs}
    rows_of_uids = look_up_rows(tmp_path / "data", "uid", found["uid_digits"])
    assert len(rows_of_uids) == made.run.match["funnel"]["matched"]
    assert kept_of(made.run, rows_of_uids, uids) == sorted(made.run.curated["uid"].to_pylist())
    known = (
        [p for p in pairs if {"a", "dog", "7"} & set(p["text"].split())]
        if with_text
        else made.run.curated.to_pylist()
    )
    urls = [[uid_of(p["url"])[:16], uid_of(p["text"], p["url"])] for p in known if p["url"]]
    assert sorted(look_up_rows(tmp_path / "data", "url", found["url_digits"])) == sorted(urls)


def test_a_run_balanced_elsewhere(toy: Made, tmp_path: Path) -> None:
    """A run balanced in a folder of its own reads its matches from the folder of the first stage."""
    run = balance(toy.run.path, t=5, out=tmp_path / "run", options=ONE)
    write_explorer(
        tmp_path / "card", name="x", account=run.account, entries=with_samples(run), grid=None, run=run
    )
    card = data_of(tmp_path / "card", "card")
    assert card["grid"] is None
    assert card["look_ups"] == {"uid_digits": 0, "url_digits": 0, "urls": "kept"}
    assert len(data_of(tmp_path / "card", "uid-all")) == 338


def test_a_pool_without_urls(tmp_path: Path) -> None:
    """A pool without urls has look-ups of uids only."""
    made = make_card(tmp_path, [{"text": "a dog"}, {"text": "a cat"}], Metadata(["a"]), t=5)
    assert data_of(made.folder, "card")["look_ups"] == {"uid_digits": 0, "url_digits": None, "urls": None}


def test_the_same_again_and_nothing_stale(toy: Made, tmp_path: Path) -> None:
    """Writing twice gives the same bytes; files of an older page that the new one does not have are removed."""
    folder = tmp_path / "card"
    arguments = {"name": "toy", "account": toy.run.account, "entries": toy.entries, "grid": toy.grid}
    write_explorer(folder, **arguments, run=toy.run)
    assert contents(folder) == contents(toy.folder)
    write_explorer(folder, **arguments, run=None)
    assert "explorer/data/uid-all.0.js" not in contents(folder)
    assert not list(folder.glob(".*"))


def test_a_page_that_cannot_be_written_leaves_the_old_one(toy: Made, tmp_path: Path) -> None:
    """What fails halfway leaves the older page."""
    arguments = {"name": "toy", "account": toy.run.account, "grid": toy.grid, "run": None}
    write_explorer(tmp_path, entries=toy.entries, **arguments)
    before = contents(tmp_path)
    with pytest.raises(KeyError, match="samples"):
        write_explorer(tmp_path, entries=toy.entries.drop_columns("samples"), **arguments)
    assert contents(tmp_path) == before


def test_probabilities_of_a_parent(toy: Made, tmp_path: Path) -> None:
    """A probability other than min(1, t / count), as after a removal, is written; the others are computed by the page."""
    probability = toy.entries["probability"].to_numpy().copy()
    probability[[0, 15]] = 0.1, 1 / 3
    entries = toy.entries.set_column(4, "probability", pa.array(probability))
    write_explorer(tmp_path, name="x", account=toy.run.account, entries=entries, grid=None, run=None)
    assert data_of(tmp_path, "card")["probabilities"] == [[0, 0.1], [15, 1 / 3]]


def test_the_seed_survives_javascript(tmp_path: Path, toy: Made) -> None:
    """The seed is written as a string: above 2^53 a JavaScript number would be another seed."""
    account = {**toy.run.account, "balance": {**toy.run.account["balance"], "seed": 2**64 - 1}}
    write_explorer(tmp_path, name="x", account=account, entries=toy.entries, grid=None, run=None)
    assert data_of(tmp_path, "card")["seed"] == "18446744073709551615"


@pytest.mark.slow
def test_half_a_million_entries(tmp_path: Path) -> None:
    """The first view loads less than 8 MB even from hosts that do not compress; no file is over 5 MB."""
    rng = np.random.default_rng(0)
    letters = np.array([*"abcdefghijklmnopqrstuvwxyz     "])
    entries = [f"{''.join(rng.choice(letters, 8)).strip()} {i}" for i in range(500_000)]
    table = large_table(entries, 20_000)
    write_explorer(
        tmp_path,
        name="large",
        account=large_account(table, 20_000),
        entries=table,
        grid=large_grid(table, 20_000),
        run=None,
    )
    sizes = {name: len(data) for name, data in contents(tmp_path).items()}
    first = [name for name in sizes if "/block-" not in name]
    assert {"entries", "numbers", "card"} == {
        Path(name).name.split(".")[0] for name in first if "/data/" in name
    }
    assert sum(sizes[name] for name in first) < 8_000_000
    assert max(sizes.values()) <= FILE_BYTES
    assert len(sizes) - len(first) == 489
