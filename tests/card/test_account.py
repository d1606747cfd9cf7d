"""The account says what came out, as documented, and no text of a pair or an entry does anything on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import metaclip
from metaclip.card.account import render

ENTRIES = ["a", "dog", "photo", "red panda", "nothing here"]
TEXTS = ["a dog", "a photo of a dog", "a red panda", "the cat", None, "", *["a dog again"] * 30, *["a thing"] * 20]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> metaclip.Run:
    folder = tmp_path_factory.mktemp("account")
    urls = [f"https://example.org/{i}.jpg" for i in range(len(TEXTS))]
    pq.write_table(pa.table({"url": urls, "text": pa.array(TEXTS, pa.string())}), folder / "pool.parquet")
    return metaclip.curate(folder / "pool.parquet", ENTRIES, t=10, out=folder / "run")


def fields(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, dict):
        return [path for key, inner in value.items() for path in fields(inner, f"{prefix}{key}.")]
    return [prefix.rstrip(".")]


def test_every_field_is_documented(run: metaclip.Run) -> None:
    """Each field of card.json stands in data_cards/README.md, and each field that stands there is in card.json."""
    text = (Path(__file__).parents[2] / "data_cards" / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## card.json") : text.index("## The run folder")]
    documented = re.findall(r"^\| `([a-z_.*]+)` \|", table, re.MULTILINE)
    real = fields(run.account)

    def covers(pattern: str, field: str) -> bool:
        return field == pattern or (pattern.endswith("*") and field.startswith(pattern[:-1]))

    assert [field for field in real if not any(covers(pattern, field) for pattern in documented)] == []
    assert [pattern for pattern in documented if not any(covers(pattern, field) for field in real)] == []


def test_the_funnel_adds_up(run: metaclip.Run) -> None:
    """Rows are the reasons and the matched; the matched are the not drawn and the kept."""
    funnel = run.account["funnel"]
    lost = {reason: rows for reason, rows in funnel.items() if rows and reason not in ("not_drawn", "kept")}
    assert lost == {"rows": 56, "null_text": 1, "empty_text": 1, "no_match": 1, "matched": 53}
    assert funnel["not_drawn"] + funnel["kept"] == 53


def test_the_sums_are_those_of_the_tables(run: metaclip.Run) -> None:
    """Sums, parts of the list and kept per entry follow from counts.parquet and the curated pairs."""
    account, entries = run.account, run.entries
    counts = np.array(entries["count"].to_pylist())
    assert counts.tolist() == [53, 32, 1, 1, 0]
    assert account["entries"] == {"zero": 1, "tail": 2, "head": 2}
    assert account["sums"]["count"] == counts.sum() == account["sums"]["count_tail"] + account["sums"]["count_head"]
    kept = np.bincount(np.concatenate([np.array(ids) for ids in run.curated["matches"].to_pylist()]), minlength=5)
    assert entries["kept"].to_pylist() == kept.tolist()
    assert account["sums"]["kept"] == kept.sum()
    assert account["pairs"]["kept"] == len(run.curated) == len(np.load(run.path / "curated.npy", allow_pickle=False))
    assert [row["entry"] for row in account["top_entries"]] == ["a", "dog", "photo", "red panda"]


def test_the_same_pairs_have_the_same_digest(run: metaclip.Run, tmp_path: Path) -> None:
    """Cut into other files, in another order and folder, by another number of workers: the same result digest."""
    table = pq.read_table(run.path.parent / "pool.parquet")
    (tmp_path / "pool").mkdir()
    for i in range(5):
        pq.write_table(table.take(list(range(len(table) - 1 - i, -1, -5))), tmp_path / "pool" / f"{i}.parquet")
    work = metaclip.Work(workers=3)
    other = metaclip.curate(tmp_path / "pool", ENTRIES, t=10, out=tmp_path / "run", work=work)
    assert other.account["result_digest"] == run.account["result_digest"]
    assert other.account["created"] >= run.account["created"]
    again = metaclip.curate(tmp_path / "pool", ENTRIES, t=11, out=tmp_path / "run11")
    assert again.account["result_digest"] != run.account["result_digest"]


def test_card_md_is_the_same_for_a_reader(run: metaclip.Run) -> None:
    """card.md shows what card.json holds."""
    page = (run.path / "card.md").read_text(encoding="utf-8")
    account = json.loads((run.path / "card.json").read_text(encoding="utf-8"))
    assert page == render(account)
    for shown in ("# Account of a curated set", account["result_digest"], "| 56 | rows |", "red panda", "no_match"):
        assert shown in page


@pytest.mark.parametrize(
    "entry", ["<script>alert(1)</script>", "a|b", "`x`", "\u202egnp.exe", "a\x1b[31m", "[x](javascript:y)", "&lt;"]
)
def test_hostile_entries_change_nothing_on_the_page(entry: str, run: metaclip.Run) -> None:
    """Markup, separators, control and direction characters of an entry stay text, in one cell of one line."""
    account = run.account
    account["top_entries"] = [{**account["top_entries"][0], "entry": entry, "source": entry}]
    account["inputs"] = [{**account["inputs"][0], "name": entry}]
    account["lost_inputs"] = [{"name": entry, "first": 0, "rows": None}]
    page = render(account)
    assert len(page.splitlines()) == len(
        render({**account, "lost_inputs": [{"name": "x", "first": 5, "rows": 3}]}).splitlines()
    )
    assert "<script" not in page
    assert not any(ord(char) < 32 and char != "\n" for char in page)
    assert "\u202e" not in page
    row = next(line for line in page.splitlines() if "| 53 | 0." in line)
    assert row.count("|") == 7
