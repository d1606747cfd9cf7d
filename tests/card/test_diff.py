"""The difference of two cards: settings that differ, figures, and the entries that gained and lost."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from metaclip import MatchSettings, MetaclipError, Run, TextRule, balance, curate
from metaclip.card.diff import Difference, diff, largest_changes, render_markdown
from metaclip.card.publish import CardInfo, make_card
from tests import commands

pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
pytestmark = pytest.mark.extra

ROOT = Path(__file__).parents[2]
POOL, LIST = ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cards of one pool: a at t = 20, b at t = 2, c under another rule by a shorter list."""
    home = tmp_path_factory.mktemp("diff")
    run = curate(POOL, LIST, out=home / "run", t=20)
    balance(run, out=home / "less", t=2)
    (home / "short.txt").write_text(
        "\n".join([*LIST.read_text(encoding="utf-8").splitlines()[:100], "zebra crossing"])
    )
    other = MatchSettings(rule=TextRule(fold_case=True))
    curate(POOL, home / "short.txt", out=home / "other", t=20, settings=other)
    for name, of in (("a", "run"), ("b", "less"), ("c", "other")):
        make_card(Run(home / of), home / name, CardInfo(f"Card {name}"))
    return home


def test_another_t(home: Path) -> None:
    """Only t differs in the settings; the figures of every entry are those of the two runs."""
    found = diff(home / "a", home / "b")
    assert found.names == ("Card a", "Card b")
    assert found.settings == [("balance.t", 20.0, 2.0)]
    figures = {name: (one, other) for name, one, other in found.figures}
    runs = [Run(home / name) for name in ("run", "less")]
    assert figures["pairs.kept"] == tuple(run.balance["kept"] for run in runs)
    assert figures["balance.tail_share"] == tuple(run.account["balance"]["tail_share"] for run in runs)
    assert figures["funnel.rows"] == (400, 400)
    kept = [
        dict(zip(run.entries["entry"].to_pylist(), run.entries["kept"].to_pylist(), strict=True))
        for run in runs
    ]
    rows = {row["entry"]: row for row in found.entries.to_pylist()}
    assert rows.keys() == {entry for entry in kept[0] if kept[0][entry] != kept[1][entry]}
    for entry, row in rows.items():
        assert (row["kept"], row["kept_after"]) == (kept[0][entry], kept[1][entry])
        assert row["share"] == pytest.approx(kept[0][entry] / runs[0].balance["kept"])
    assert found.only == (0, 0)


def test_who_gained_and_lost(home: Path) -> None:
    """Entries are sorted by their change of share, largest first; the reverse difference has the same entries reversed."""
    found, back = diff(home / "a", home / "b"), diff(home / "b", home / "a")
    for lost in (False, True):
        rows = largest_changes(found, lost=lost)
        changes = [row["share_after"] - row["share"] for row in rows]
        assert changes == sorted(changes, reverse=not lost)
        assert all((change < 0) == lost for change in changes)
        assert {row["entry"] for row in rows} == {
            row["entry"] for row in largest_changes(back, lost=not lost)
        }


def test_another_list_and_rule(home: Path) -> None:
    """Lists are compared by their entries; the differing rule and list digest are named."""
    found = diff(home / "a", home / "c")
    assert {name for name, _, _ in found.settings} == {"list.digest", "rule.fold_case"}
    assert found.only == (57, 1)


def test_one_card_beside_itself(home: Path) -> None:
    """A card does not differ from itself, and the Markdown says so."""
    found = diff(home / "a", home / "a")
    assert (found.settings, len(found.entries), largest_changes(found)) == ([], 0, [])
    assert "No setting that determines the set differs." in render_markdown(found)


def test_the_command(home: Path) -> None:
    """`metaclip card diff` writes Markdown to standard output."""
    shown = commands.done("card", "diff", home / "a", home / "b").out
    assert shown == render_markdown(diff(home / "a", home / "b")) + "\n"
    assert "| threshold t | 20 | 2 |" in shown
    assert "## Lost most" in shown


def test_the_markdown_is_in_words(home: Path) -> None:
    """The Markdown names no field of card.json, shows no figure that is 0 in both cards, and counts shares in percentage points."""
    for first, second in (("a", "b"), ("a", "c")):
        found = diff(home / first, home / second)
        page = render_markdown(found)
        fields = {name for name, *_ in (*found.settings, *found.figures)}
        assert not [name for name in fields if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", page)]
        cells = [re.split(r" *\| *", line)[1:-1] for line in page.splitlines() if line.startswith("|")]
        assert not [row for row in cells if row[1:3] == ["0", "0"]]
        shares = dict((name, (one, other)) for name, one, other in found.figures)["balance.tail_share"]
        change = 100 * (shares[1] - shares[0])
        assert (
            f"{100 * shares[0]:.2f}% | {100 * shares[1]:.2f}% | {change:+.2f} percentage points" in page
        )


def test_the_bars_plot_the_changes(home: Path) -> None:
    """Bars of both tables are of one scale: the largest change is 20 blocks long, and none deviates by more than an eighth."""
    found = diff(home / "a", home / "b")
    rows = re.findall(r"\| ([+-][0-9.]+) \| ([█▏▎▍▌▋▊▉]+) \|", render_markdown(found))
    changes = [
        100 * (row["share_after"] - row["share"])
        for lost in (False, True)
        for row in largest_changes(found, lost=lost)
    ]
    assert len(rows) == len(changes) > 2
    lengths = [bar.count("█") + " ▏▎▍▌▋▊▉".find(bar[-1]) / 8 * (bar[-1] != "█") for _, bar in rows]
    assert max(lengths) == 20
    for length, (shown, _), change in zip(lengths, rows, changes, strict=True):
        assert float(shown) == pytest.approx(change, abs=0.0006)
        assert length == pytest.approx(20 * abs(change) / max(map(abs, changes)), abs=1 / 8)


def test_what_is_no_card(home: Path, tmp_path: Path) -> None:
    """A folder that is not a card is refused in one line that names it."""
    with pytest.raises(MetaclipError, match="holds no card"):
        diff(home / "a", tmp_path)
    assert "is no published card" in commands.refused("card", "diff", home / "run", home / "a")


HOSTILE = [
    "<script>alert(1)</script>",
    "| a | b |",
    "\u202eabc\u202c",
    "a\x00b\x1b[31m",
    "![x](http://x.org)",
    "a\nb",
]


def test_hostile_names() -> None:
    """No text of a card becomes markup, a row of its own, or a control character."""
    n = len(HOSTILE)
    entries = pa.table(
        {
            "entry": HOSTILE, "count": [9] * n, "count_after": [1] * n, "kept": [5] * n, "kept_after": [1] * n,
            "share": [0.5] * n, "share_after": [0.1 * i for i in range(n)],
        }
    )  # fmt: skip
    settings = [(f"rule.{text}", text, [text]) for text in HOSTILE]
    page = render_markdown(Difference((HOSTILE[0], HOSTILE[2]), settings, [], entries, (0, 1)))
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", page)
    assert "<script" not in page
    assert "](http" not in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len(tables) == (2 + n) + 2 + (2 + n - 1)  # settings, no figures, lost
    assert {line.count("|") for line in tables} == {4, 5, 8}
