"""Verifying a card: an unchanged card passes, and each change is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import MetaclipError, Metadata, balance, curate
from metaclip.card.publish import CardInfo, make_card
from metaclip.card.verify import verify
from tests import commands
from tests.runs import forget_checksums

pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
pytestmark = pytest.mark.extra

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with run/ and card/."""
    home = tmp_path_factory.mktemp("verify")
    run = curate(
        ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt", out=home / "run", t=20
    )
    make_card(run, home / "card", CardInfo("A toy"))
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "home"))


def test_what_the_run_gives_passes(made: Path) -> None:
    """A card made from the run has no differences."""
    assert verify(made / "card", made / "run") == []


def test_a_card_alone(home: Path) -> None:
    """Without its run, a card is compared with its own digests."""
    said = commands.done("card", "verify", home / "card").out
    assert said == f"the files of {home / 'card'} agree with its digests\n"
    (home / "card" / "plots" / "ranks.svg").write_text("<svg/>")
    assert "plots/ranks.svg" in commands.call("card", "verify", home / "card").err


def test_a_run_balanced_elsewhere_passes(made: Path, tmp_path: Path) -> None:
    """A run whose matches are in another folder can be verified."""
    run = balance(made / "run", out=tmp_path / "less", t=5)
    make_card(run, tmp_path / "card", CardInfo("Less"))
    assert verify(tmp_path / "card", tmp_path / "less") == []


def test_uids_that_differ_in_their_last_bits_are_sorted(tmp_path: Path) -> None:
    """The order of curated.npy is checked on 64-bit integers: as floats, these two high halves would be equal."""
    uids = [f"{2**63 + 1:016x}{5:016x}", f"{2**63 + 2:016x}{3:016x}"]
    pq.write_table(pa.table({"text": ["a dog", "a cat"], "uid": uids}), tmp_path / "pool.parquet")
    run = curate(tmp_path / "pool.parquet", Metadata(["a"]), out=tmp_path / "run", t=10)
    make_card(run, tmp_path / "card", CardInfo("Two"))
    assert verify(tmp_path / "card", run) == []


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_column(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    table = pq.read_table(path)
    values = change(table[name].to_pylist())
    pq.write_table(
        table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type)), path
    )


def one_more(values: list[Any]) -> list[Any]:
    return [values[0] + 1, *values[1:]]


SPOILED: list[tuple[str, Callable[[Path], None], str]] = [
    ("a figure of the card", lambda h: edit_json(h / "card/card.json", lambda c: c["pairs"].update(kept=7)), "card.json, pairs.kept: 7 where the run"),
    ("a figure more", lambda h: edit_json(h / "card/card.json", lambda c: c.update(extra=1)), "card.json, extra: not of the run"),
    ("another grid", lambda h: edit_json(h / "card/card.json", lambda c: c["grid"]["pairs"].append(1)), "card.json, grid.pairs"),
    ("the page", lambda h: (h / "card/README.md").write_text("x"), "README.md is not the file"),
    ("a plot gone", lambda h: (h / "card/plots/kept.svg").unlink(), "plots/kept.svg is gone"),
    ("a count of the card", lambda h: edit_column(h / "card/entries.parquet", "count", one_more), "entries.parquet, count: not what"),
    ("a sample", lambda h: edit_column(h / "card/entries.parquet", "samples", lambda v: [["x"], *v[1:]]), "entries.parquet, samples: not what"),
    ("kept of the run", lambda h: edit_column(h / "run/entries.parquet", "kept", one_more), "run: entries.parquet, kept"),
    ("probability of the run", lambda h: edit_column(h / "run/entries.parquet", "probability", lambda v: [0.5, *v[1:]]), "run: entries.parquet, probability"),
    ("matches", lambda h: edit_column(next((h / "run/matched").iterdir()), "matches", lambda v: [v[0][:-1] or [0], *v[1:]]), "entries have another count than their matches"),
    ("the subset", lambda h: np.save(h / "run/curated.npy", np.load(h / "run/curated.npy")[1:]), "curated.npy does not hold"),
    ("the subset's order", lambda h: np.save(h / "run/curated.npy", np.load(h / "run/curated.npy")[::-1]), "curated.npy is not sorted"),
    ("a kept pair", lambda h: edit_column(next((h / "run/curated").iterdir()), "uid", lambda v: ["f" * 32, *v[1:]]), "curated/ does not hold"),
    ("the account", lambda h: edit_json(h / "run/card.json", lambda c: c["sums"].update(kept=1)), "run: card.json, sums.kept"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), [pytest.param(*case[1:], id=case[0]) for case in SPOILED])
def test_each_change_is_named(home: Path, spoil: Callable[[Path], None], message: str) -> None:
    """Each change is named by file and figure, where no checksum gives it away."""
    forget_checksums(home / "run")
    spoil(home)
    assert any(message in line for line in verify(home / "card", home / "run")), verify(
        home / "card", home / "run"
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda h: (h / "card/card.json").unlink(), "holds no card.json that can be read"),
        (lambda h: edit_json(h / "card/card.json", lambda c: c["schema"].update(version=3)), "schema version 3, this metaclip reads 1 and 2"),
        (lambda h: edit_json(h / "card/card.json", lambda c: c.pop("grid")), "card.json: grid is missing"),
        (lambda h: edit_json(h / "card/card.json", lambda c: c["pairs"].update(kept="7")), "card.json: pairs.kept is '7', must be integer"),
        (lambda h: shutil.copy(h / "run/card.json", h / "card/card.json"), "is no published card"),
        (lambda h: edit_json(h / "card/card.json", lambda c: c.update(result_digest="0" * 64)), "give the run that the card was made from"),
        (lambda h: shutil.rmtree(h / "run"), "is no run folder"),
    ],
)  # fmt: skip
def test_refusals(home: Path, spoil: Callable[[Path], Any], message: str) -> None:
    """A folder that is not a card, or the card of another run, is refused in one line."""
    spoil(home)
    with pytest.raises(MetaclipError, match=message):
        verify(home / "card", home / "run")


def test_the_files_of_a_card_stay_in_it(home: Path) -> None:
    """Files outside the card's folder that a card.json names are not read."""
    (home / "secret").write_text("x")
    edit_json(
        home / "card/card.json",
        lambda c: c["files"].append({"name": "../secret", "size": 1, "sha256": "0" * 64}),
    )
    assert "../secret is gone" in verify(home / "card", home / "run")
