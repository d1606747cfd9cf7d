"""The published card is what its command makes: it is made again and compared file by file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from metaclip import Balancer
from metaclip.card.publish import read_card
from tests.card.page_data import read_data

ROOT = Path(__file__).parents[2]
CARD = ROOT / "data_cards" / "toy"
MOST = 1_500_000
"""Bytes that a published card may add to the tree."""


def files_of(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card, made again by its command."""
    pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
    out = tmp_path_factory.mktemp("published") / "toy"
    # python3 -m metaclip must find this tree, installed or not.
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    command = ["bash", str(ROOT / "data_cards" / "toy.sh"), str(out)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return out


def without_versions(value: Any) -> Any:
    """Remove the parts that depend on the packages that made a card: their versions, and the sizes of compressed files."""
    return {key: inner for key, inner in value.items() if key not in ("versions", "files")}


@pytest.mark.extra
@pytest.mark.slow
def test_it_is_made_again(again: Path) -> None:
    """Both have the same files: texts equal in bytes, tables and the page's data in values, plots in their words."""
    theirs, ours = files_of(CARD), files_of(again)
    assert theirs.keys() == ours.keys()
    for name, path in theirs.items():
        if name.endswith(".parquet"):
            assert pq.read_table(path).equals(pq.read_table(ours[name])), name
        elif name.endswith(".svg"):
            assert words(path) == words(ours[name]), name
        elif name.startswith("explorer/data/"):
            stem = path.name.removesuffix(".0.js")
            mine, made = (read_data(folder / "explorer" / "data", stem) for folder in (CARD, again))
            if stem == "card":
                mine, made = (json.loads(data) for data in (mine, made))
                mine, made = (
                    {**card, "account": without_versions(card["account"])} for card in (mine, made)
                )
            assert mine == made, name
        elif name == "card.json":
            mine, made = (json.loads(folder.read_text(encoding="utf-8")) for folder in (path, ours[name]))
            assert without_versions(mine) == without_versions(made)
            assert [item["name"] for item in mine["files"]] == [item["name"] for item in made["files"]]
        else:
            mine, made = (
                re.sub(rb'"sha256": "[0-9a-f]{64}"|made with metaclip [0-9.]+', b"", p.read_bytes())
                for p in (path, ours[name])
            )
            assert mine == made, f"{name} differs: bash data_cards/toy.sh makes the card again"


def words(path: Path) -> list[str]:
    """Return the texts of a picture, in order."""
    return [text.strip() for text in ET.parse(path).getroot().itertext() if text.strip()]


def test_it_is_whole() -> None:
    """The card follows its schema, names its files correctly, and is small."""
    import hashlib

    card = read_card(CARD)
    for item in card["files"]:
        data = (CARD / item["name"]).read_bytes()
        assert (item["size"], item["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), item[
            "name"
        ]
    assert sum(path.stat().st_size for path in files_of(CARD).values()) < MOST


def test_what_it_is_made_of_is_what_is_shipped() -> None:
    """The card is of the pool, the list and the recipe in this tree."""
    import hashlib

    card = read_card(CARD)
    pool = (ROOT / "curation" / "toy_pool.jsonl").read_bytes()
    assert card["inputs"] == [
        {"name": "toy_pool.jsonl", "size": len(pool), "sha256": hashlib.sha256(pool).hexdigest()}
    ]
    entries = (ROOT / "metadata" / "toy.txt").read_text(encoding="utf-8").splitlines()
    assert card["list"]["digest"] == hashlib.sha256("\n".join(entries).encode()).hexdigest()
    assert (
        f"{card['funnel']['matched']} of {card['funnel']['rows']} rows match, {card['funnel']['kept']} pairs"
        in (ROOT / "curation" / "toy.toml").read_text(encoding="utf-8")
    )


def test_a_balancer_opens_it() -> None:
    """A Balancer opens the card; each sample caption has a probability above 0."""
    balancer = Balancer(CARD)
    assert all(p > 0 for p in balancer.p_keep(list(_samples())))


def _samples() -> Iterator[str]:
    for texts in pq.read_table(CARD / "entries.parquet")["samples"].to_pylist():
        yield from texts
