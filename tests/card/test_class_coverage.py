"""Coverage of class names: the figures are those of a count by hand, under any rule, for entries and for other names."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip import MatchSettings, Run, RunOptions, TextRule, curate
from metaclip.card.class_coverage import ClassCoverage, ClassNames, divergence
from metaclip.card.publish import CardInfo, make_card
from metaclip.card.scan import scan_run
from metaclip.card.verify import verify
from metaclip.matching.matcher import Matcher
from tests import commands

ROOT = Path(__file__).parents[2]
NAMES = ("dog", "hot dog", "telephone", "cat", "St. Bernard", "unicorn", "dog", "happiest dog", "Cat")


def run_of(folder: Path, *, with_text: bool, rule: TextRule | None = None) -> Run:
    settings = MatchSettings(with_text=with_text, rule=rule or TextRule())
    pool, entries = ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt"
    return curate(pool, entries, out=folder, t=20, settings=settings, options=RunOptions(workers=1))


@pytest.mark.parametrize(
    "rule", [TextRule(), TextRule(fold_case=True, space_entries=True)], ids=["paper", "folded"]
)
def test_counts_are_those_of_the_captions(tmp_path: Path, rule: TextRule) -> None:
    """A name's count and kept are the numbers of captions that it matches, whether it is an entry or not."""
    run = run_of(tmp_path / "run", with_text=True, rule=rule)
    found = scan_run(run, RunOptions(workers=1), [ClassNames("toy", NAMES)]).classes[0]
    pool = [json.loads(line) for line in (ROOT / "curation" / "toy_pool.jsonl").read_text().splitlines()]
    texts = [pair["text"] for pair in pool if pair.get("text")]
    matched = [text for text in texts if Matcher(run.metadata, rule).match([text])[0].as_py()]
    kept = run.curated["text"].to_pylist()
    for row, name in zip(found["entries"], NAMES, strict=True):
        matcher = Matcher([name], rule)
        here, there = (
            sum(bool(ids) for ids in matcher.match(some).to_pylist()) for some in (matched, kept)
        )
        assert (row["name"], row["count"], row["kept"]) == (name, here, there)
        if row["entry_id"] is not None:
            assert row["count"] == run.counts.values[row["entry_id"]]
    assert (found["names"], found["known"]) == (9, 9)
    assert sum(row["entry_id"] is not None for row in found["entries"]) >= 4
    counts = np.array([row["count"] for row in found["entries"]])
    assert found["zero"] == (counts == 0).mean()
    p = counts / counts.sum()
    assert found["divergence"] == pytest.approx(sum(x * math.log(x * 9) for x in p if x))


def test_without_texts_a_count_may_be_unknown(tmp_path: Path) -> None:
    """Without texts in matched/, names that are not entries have no count and are left out of the shares."""
    run = run_of(tmp_path / "run", with_text=False)
    found = scan_run(run, RunOptions(workers=1), [ClassNames("toy", NAMES)]).classes[0]
    rows = {row["name"]: row for row in found["entries"]}
    assert rows["happiest dog"]["count"] is None
    assert rows["happiest dog"]["kept"] == sum(
        " happiest dog " in f" {text} " for text in run.curated["text"].to_pylist()
    )
    assert rows["St. Bernard"] == {"name": "St. Bernard", "entry_id": None, "count": None, "kept": 0}
    assert found["known"] == sum(row["count"] is not None for row in found["entries"]) < 9


@given(st.lists(st.integers(0, 10**12), max_size=30))
def test_divergence(counts: list[int]) -> None:
    """The divergence is 0 for equal counts, at most ln n, independent of order and unit, and None if all counts are zero."""
    found = divergence(counts)
    if not sum(counts):
        assert found is None
        return
    assert found is not None
    assert 0 <= found <= math.log(len(counts)) + 1e-9
    assert divergence(counts[::-1]) == found
    assert divergence([7 * count for count in counts]) == pytest.approx(found, abs=1e-9)
    assert divergence([counts[0] + 1] * 5) == pytest.approx(0, abs=1e-12)
    assert divergence([0, 0, 3, 0]) == pytest.approx(math.log(4))


def test_no_names_cost_nothing(tmp_path: Path) -> None:
    """A card without lists of class names has no coverage."""
    run = run_of(tmp_path / "run", with_text=False)
    assert ClassCoverage(run, []).result(Counter()) == []


def test_lists_that_are_refused(tmp_path: Path) -> None:
    """An empty or missing file of class names is refused in one line."""
    run = run_of(tmp_path / "run", with_text=False)
    (tmp_path / "empty.txt").write_text("\n")
    arguments = ("--out", tmp_path / "card", "--classes")
    assert "names no class names" in commands.refused(
        "card", run.path, *arguments, tmp_path / "empty.txt"
    )
    assert "there is no file" in commands.refused("card", run.path, *arguments, tmp_path / "none.txt")


@pytest.mark.extra
def test_a_card_tells_it(tmp_path: Path) -> None:
    """card.json and README.md contain the coverage; verify computes it again from the names in the card, and finds an edit."""
    pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
    run = run_of(tmp_path / "run", with_text=False)
    for name in ("toy", "other"):
        (tmp_path / f"{name}.txt").write_text("dog\ncat\nhappiest dog\n<b>|x\n")
    lists = [option for name in ("toy", "other") for option in ("--classes", tmp_path / f"{name}.txt")]
    commands.done("card", run.path, "--out", tmp_path / "card", *lists)
    assert verify(tmp_path / "card", run) == []
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert [one["name"] for one in card["classes"]] == ["toy", "other"]
    text = (tmp_path / "card" / "README.md").read_text()
    assert "| toy | 4 |" in text
    assert "<b>" not in text
    card["classes"][0]["entries"][0]["kept"] += 1
    (tmp_path / "card" / "card.json").write_text(json.dumps(card))
    assert any("classes" in line for line in verify(tmp_path / "card", run))
    again = make_card(run, tmp_path / "plain", CardInfo("x"))
    assert again["classes"] == []
