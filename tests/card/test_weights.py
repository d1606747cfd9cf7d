"""Cards of sets with weights: made, verified, compared, read by a Balancer, and pairs taken out of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import Balancer, MetaclipError, Run, balance, curate
from metaclip.card.diff import diff, render_markdown
from metaclip.card.publish import CardInfo, make_card, read_card, sha256_of
from metaclip.card.removal.remove import remove
from metaclip.card.verify import own_differences, verify
from tests import commands
from tests.card.page_data import read_data
from tests.card.test_removal import METADATA, ONE, pool_of, request, rows_of
from tests.curate.test_schema import edit

WEIGHTS = {"dog": 3.0, "a": 0.3, "the": 1 / 3, "unseen": 2.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with weights and its card, and a run of the same matches with one t and its card; tests only read them."""
    pytest.importorskip("altair", reason="needs metaclip[cards]")
    home = tmp_path_factory.mktemp("weights")
    pool_of(home / "pool")
    curate(home / "pool", METADATA, out=home / "run", t=40, weights=WEIGHTS, options=ONE)
    balance(home / "run", out=home / "one_t", t=40, options=ONE)
    for name in ("run", "one_t"):
        make_card(home / name, home / f"{name}_card", CardInfo(name), options=ONE)
    return home


def test_what_a_card_says(home: Path) -> None:
    """Schema 2, the base and by what it varies, the thresholds with their digest, and their column in every description."""
    card, run = read_card(home / "run_card"), Run(home / "run")
    assert card["schema"] == {"name": "metaclip-card", "version": 2}
    assert (card["balance"]["t"], card["balance"]["t_by"]) == (40, "weight")
    entries = pq.read_table(home / "run_card" / "entries.parquet")
    assert entries["t"].to_pylist() == [
        40 * WEIGHTS.get(entry, 1.0) for entry in METADATA.entries.to_pylist()
    ]
    assert card["digests"]["t"] == run.account["digests"]["t"]
    readme = (home / "run_card" / "README.md").read_text(encoding="utf-8")
    assert "balanced at t = 40 times the weight of each entry" in readme
    assert "that of an entry is 40 times its weight" in readme
    croissant = json.loads((home / "run_card" / "croissant.json").read_text(encoding="utf-8"))
    assert "t" in [field["name"] for field in croissant["recordSet"][0]["field"]]
    assert "column t of entries.parquet" in (home / "run" / "card.md").read_text(encoding="utf-8")
    data = home / "run_card" / "explorer" / "data"
    assert json.loads(read_data(data, "card"))["format"] == 2
    assert np.frombuffer(read_data(data, "t"), "<f8").tolist() == entries["t"].to_pylist()


def test_a_card_of_one_t_says_nothing_of_it(home: Path) -> None:
    """Schema 1, and none of the fields and columns."""
    card = read_card(home / "one_t_card")
    assert card["schema"]["version"] == 1
    assert "t_by" not in card["balance"]
    assert "t" not in card["digests"]
    assert "weights" not in card["recipe"]["balance"]
    assert "t" not in pq.read_schema(home / "one_t_card" / "entries.parquet").names
    assert json.loads(read_data(home / "one_t_card" / "explorer" / "data", "card"))["format"] == 1
    assert not list((home / "one_t_card" / "explorer" / "data").glob("t.*"))


def test_the_grid_moves_all_thresholds_by_one_factor(home: Path, tmp_path: Path) -> None:
    """Its axis is the t that the weights multiply; the set's own t is a point, with the set's expected number."""
    grid, run = read_card(home / "run_card")["grid"], Run(home / "run")
    place = grid["t"].index(40)
    assert grid["pairs"][place] == pytest.approx(run.account["pairs"]["expected"], abs=1e-5)
    assert grid["tail_share"][place] == run.account["balance"]["tail_share"]
    other = balance(run, out=tmp_path / "other", t=grid["t"][place + 1], weights=WEIGHTS, options=ONE)
    assert grid["pairs"][place + 1] == pytest.approx(other.account["pairs"]["expected"], abs=1e-5)


def test_a_card_is_verified(home: Path, tmp_path: Path) -> None:
    """The card follows from its run; a threshold that was changed in either is found."""
    assert verify(home / "run_card", home / "run") == []
    card = Path(shutil.copytree(home / "run_card", tmp_path / "card"))
    table = pq.read_table(card / "entries.parquet")
    t = table["t"].to_numpy().copy()
    t[0] *= 2
    pq.write_table(
        table.set_column(table.column_names.index("t"), "t", pa.array(t)), card / "entries.parquet"
    )
    assert "entries.parquet, t: not what the run gives" in verify(card, home / "run")
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    table = pq.read_table(run / "entries.parquet")
    pq.write_table(
        table.set_column(table.column_names.index("t"), "t", pa.array(t)), run / "entries.parquet"
    )
    with pytest.raises(MetaclipError, match="entries.parquet"):
        verify(home / "run_card", run)


def test_a_card_is_checked_without_its_run(home: Path, tmp_path: Path) -> None:
    """As before it is pushed: it contradicts itself where its thresholds are not those of its digest, though files agree."""
    assert own_differences(home / "run_card") == []
    card = Path(shutil.copytree(home / "run_card", tmp_path / "card"))
    path = card / "entries.parquet"
    table = pq.read_table(path)
    t = pa.array(table["t"].to_numpy() * 2)
    pq.write_table(table.set_column(table.column_names.index("t"), "t", t), path)

    def state_the_file(fields: Any) -> None:
        item = next(item for item in fields["files"] if item["name"] == path.name)
        item.update(sha256=sha256_of(path), size=path.stat().st_size)

    edit(card / "card.json", state_the_file)
    assert own_differences(card) == ["entries.parquet, t: not what card.json has the digest of"]


def test_a_balancer_of_a_card(home: Path, tmp_path: Path) -> None:
    """It decides as the run did; a card whose thresholds or schema are others is refused."""
    run = Run(home / "run")
    balancer = Balancer(home / "run_card", cache=False)
    assert balancer.probability.tolist() == run.entries["probability"].to_pylist()
    card = Path(shutil.copytree(home / "run_card", tmp_path / "card"))
    edit(card / "card.json", lambda c: c["digests"].update(t="0" * 64))
    with pytest.raises(MetaclipError, match="does not hold the counts and thresholds"):
        Balancer(card, cache=False)
    edit(card / "card.json", lambda c: c["schema"].update(version=3))
    with pytest.raises(
        MetaclipError, match="schema version 3, this metaclip reads 1 and 2; install a newer one"
    ):
        Balancer(card, cache=False)


def test_cards_are_compared(home: Path) -> None:
    """The difference names what t is multiplied by, and counts the entries of another t; between cards of one t it does not."""
    found = diff(home / "one_t_card", home / "run_card")
    settings = {name: (one, other) for name, one, other in found.settings}
    assert settings["balance.t_by"] == (None, "weight")
    assert found.thresholds == len(WEIGHTS)
    page = render_markdown(found)
    assert "| what t varies by from entry to entry | none | weight |" in page
    assert "4 entries that stand in both lists have another t." in page
    same = diff(home / "one_t_card", home / "one_t_card")
    assert same.thresholds is None
    assert "another t" not in render_markdown(same)


def test_pairs_are_taken_out(home: Path, tmp_path: Path) -> None:
    """The next version has the parent's thresholds and draws, also where the file of weights is gone; its card verifies."""
    run = Run(home / "run")
    uids = [row["uid"].hex() for row in rows_of(run)][:40]
    version = remove(run, request(uids=uids), tmp_path / "next", ONE)
    gone = set(uids)
    assert version.thresholds.tolist() == run.thresholds.tolist()  # type: ignore[union-attr]
    assert version.entries["probability"].equals(run.entries["probability"])
    assert set(version.curated["uid"].to_pylist()) == set(run.curated["uid"].to_pylist()) - gone
    assert version.account["balance"] == run.account["balance"]
    assert version.account["digests"]["t"] == run.account["digests"]["t"]
    make_card(version, tmp_path / "card", CardInfo("next"), options=ONE)
    assert verify(tmp_path / "card", version) == []
    # `balance` with the same weights and t finds it finished, and with others it balances elsewhere.
    made = (version.path / "curated.npy").stat().st_mtime_ns
    balance(version, t=40, weights=WEIGHTS, options=ONE)
    assert (version.path / "curated.npy").stat().st_mtime_ns == made


def test_removal_by_the_command_line(home: Path, tmp_path: Path) -> None:
    """`card remove` writes a recipe and an account that name the weights."""
    (tmp_path / "uids.txt").write_text(rows_of(Run(home / "run"))[0]["uid"].hex())
    commands.done(
        "card", "remove", home / "run", "--uids", tmp_path / "uids.txt", "--out", tmp_path / "next"
    )
    run = Run(tmp_path / "next")
    assert (
        run.account["recipe"]["balance"]["weights"]
        == Run(home / "run").account["recipe"]["balance"]["weights"]
    )
    assert "weights.parquet" in (run.path / "recipe.toml").read_text(encoding="utf-8")


def test_neighbours_and_look_ups_do_not_depend_on_t(home: Path) -> None:
    """They are of matches: the pages of both sets have the same ones."""
    files: list[dict[str, Any]] = []
    for name in ("run_card", "one_t_card"):
        data = home / name / "explorer" / "data"
        blocks = json.loads(read_data(data, "block-0"))
        files.append({"neighbours": [block[2] for block in blocks], "uids": read_data(data, "uid-all")})
    assert files[0] == files[1]
