"""The published card of the icons: whole, and what a part of the pool, made again from the registry, says it should be."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metaclip import Balancer, Metadata
from metaclip.card.publish import read_card
from metaclip.metadata import shipped_list
from tests.training.shards import read_tar

ROOT = Path(__file__).parents[2]
CARD = ROOT / "data_cards" / "icons"
MOST = 12_000_000
"""Bytes that the card may add to the tree."""
FREE = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "OFL-1.1"}
PINNED_RESULT = "a29972f63e6de69dc81f849a3da2a91e05b29d6a6b56ce24ee735bcb64e40b5c"
"""Result digest of the card of the pinned sets."""


def test_it_is_whole() -> None:
    """The card names its files correctly, and the published uids are as many as it says."""
    card = read_card(CARD)
    for item in card["files"]:
        data = (CARD / item["name"]).read_bytes()
        assert (item["size"], item["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), item
    uids = np.load(CARD / "curated.npy")
    assert len(uids) == card["pairs"]["kept"] == card["funnel"]["kept"]
    assert card["list"]["digest"] == Metadata.read(shipped_list()).digest
    assert sum(path.stat().st_size for path in CARD.rglob("*") if path.is_file()) < MOST


def sets() -> list[dict[str, str]]:
    """The sets of icons that the pool was made of."""
    with (CARD / "sets.tsv").open(encoding="utf-8", newline="") as file:
        return [one for one in csv.DictReader(file, delimiter="\t") if one["split"] == "train"]


def test_the_sets_are_named() -> None:
    """Each set has its author and its licence, which allows that it is passed on."""
    assert sum(int(one["icons"]) for one in sets()) == read_card(CARD)["funnel"]["rows"]
    for one in sets():
        assert one["licence"] in FREE, one
        assert one["author"], one


@pytest.mark.network
@pytest.mark.extra
@pytest.mark.slow
def test_it_is_made_again_from_fifteen_sets(tmp_path: Path) -> None:
    """The command makes the known result of the pinned sets; of their pairs, the card keeps those that it published."""
    pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
    pytest.importorskip("resvg", reason="needs the extra icons: pip install -e '.[icons]'")
    environment = {
        **os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "ICONS": str(tmp_path / "pool"),
    }  # fmt: skip
    command = ["bash", str(ROOT / "data_cards" / "icons.sh"), str(tmp_path / "card"), "pinned"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert read_card(tmp_path / "card")["result_digest"] == PINNED_RESULT
    members: dict[str, bytes] = {}
    for path in sorted((tmp_path / "pool" / "train").glob("*.tar")):
        members |= read_tar(path)
    texts = [text.decode() for name, text in members.items() if name.endswith(".txt")]
    uids = [json.loads(data)["uid"] for name, data in members.items() if name.endswith(".json")]
    published = {f"{high:016x}{low:016x}" for high, low in np.load(CARD / "curated.npy").tolist()}
    kept = Balancer(CARD).keep(texts, uids).tolist()
    # Another set may be held out among fifteen than among all.
    here = {one["set"] for one in sets()}
    known = [json.loads(data)["set"] in here for name, data in members.items() if name.endswith(".json")]
    assert sum(known) > 2_000
    found = [
        (keep, uid in published) for keep, uid, of_card in zip(kept, uids, known, strict=True) if of_card
    ]
    assert all(keep == listed for keep, listed in found)
    assert not any(uid in published for uid, of_card in zip(uids, known, strict=True) if not of_card)
    assert 500 < sum(kept) < len(kept)
