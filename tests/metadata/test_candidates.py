"""Sources become one list: in order, each within its budget, every entry from the first source that offers it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata.candidates import SCHEMA, Candidates, SourceLimits, merge


def offer(entries: Sequence[str], scores: Sequence[float | None] | None = None) -> Candidates:
    """Return candidates."""
    return Candidates.of(entries, {}, scores)


def test_a_list() -> None:
    """Order, provenance, scores and ranks are the sources' own; an entry belongs to the first source that offers it."""
    table, given_ = merge(
        [
            (SourceLimits("number"), offer(["0", "1"])),
            (SourceLimits("word", budget=2), offer(["the", "1", "dog", "cat"], [9.0, 8.0, 7.0, 6.0])),
            (SourceLimits("title"), offer(["dog", "Dog", "Cat"], [3.0, None, 1.0])),
        ],
        PAPER,
        total=6,
    )
    assert table.schema == SCHEMA
    assert table.to_pydict() == {
        "entry": ["0", "1", "the", "dog", "Dog", "Cat"],
        "source": ["number", "number", "word", "word", "title", "title"],
        "score": [None, None, 9.0, 7.0, None, 1.0],
        "rank": [1, 2, 1, 3, 2, 3],
    }
    assert [(one.source, one.candidates, one.new) for one in given_] == [
        ("number", 2, 2), ("word", 4, 2), ("title", 3, 2),
    ]  # fmt: skip
    assert given_[1].left_out == {"an earlier source has it": 1}


def test_the_last_source_fills_the_total() -> None:
    """A source without a budget stops where the total is reached."""
    table, _ = merge(
        [(SourceLimits("a"), offer(["x"])), (SourceLimits("b"), offer(["p", "q", "r"]))], PAPER, total=3
    )
    assert table["entry"].to_pylist() == ["x", "p", "q"]


def test_what_is_left_out() -> None:
    """What can never match is left out of every source, what looks wrong of those that are not trusted, with counts."""
    entries = ["St. Louis", "dog", '"dog', "lt;br&gt", "", "cat"]
    table, (given_,) = merge([(SourceLimits("a"), offer(entries))], PAPER)
    assert table["entry"].to_pylist() == ["dog", "cat"]
    assert given_.left_out == {
        "can never match under the rule": 2, "has a quote glued to a word": 1, "empty": 1,
    }  # fmt: skip
    table, _ = merge([(SourceLimits("a", trusted=True), offer(entries))], PAPER)
    assert table["entry"].to_pylist() == ["dog", '"dog', "cat"]
    table, _ = merge([(SourceLimits("a", trusted=True), offer(entries))], TextRule(space_entries=True))
    assert table["entry"].to_pylist() == ["St. Louis", "dog", '"dog', "lt;br&gt", "cat"]


@pytest.mark.parametrize(
    ("shares", "total", "says"),
    [
        ([("a", None, [])], None, ["'a' gives nothing"]),
        (
            [("a", None, ["x"]), ("b", None, ["x"])],
            None,
            ["'b' gives nothing", "1 an earlier source has it"],
        ),
        ([("a", 3, ["x", "y"])], None, ["'a' has 2 new entries", "its budget is 3"]),
        ([("a", 1, ["x", "y"])], 2, ["give 1 entries", "1 a", "total is 2"]),
        ([("a", 2, ["x", "y"]), ("b", 1, ["z"])], 2, ["give 3 entries (2 a + 1 b)", "total is 2"]),
        ([("a", None, ["x"]), ("b", None, ["y"])], 3, ["give 2 entries", "total is 3"]),
        ([("a", None, ["x"]), ("b", None, ["y"])], 1, ["'b' gives nothing"]),
    ],
)
def test_what_does_not_add_up(
    shares: list[tuple[str, int | None, list[str]]], total: int | None, says: list[str]
) -> None:
    """A source that gives nothing, a budget above what there is, a total that is not reached: named with both values."""
    with pytest.raises(MetaclipError) as error:
        merge(
            [(SourceLimits(name, budget), offer(entries)) for name, budget, entries in shares],
            PAPER,
            total,
        )
    for words in says:
        assert words in str(error.value)
    assert "\n" not in str(error.value)


WORDS = st.sampled_from(["a", "b", "c", "d", "e.f", "g", "h h", "ä"])


@given(st.lists(st.tuples(st.lists(WORDS, unique=True), st.none() | st.integers(1, 4)), max_size=4))
def test_against_a_naive_merge(sources: list[tuple[list[str], int | None]]) -> None:
    """The list is that of a loop that looks for each entry in all the earlier ones, or both refuse."""
    expected: list[tuple[str, str, int]] = []
    fits = True
    for number, (entries, budget) in enumerate(sources):
        mine: list[tuple[str, str, int]] = []
        for rank, entry in enumerate(entries, 1):
            known = [row[0] for row in expected + mine]
            if entry not in known and "." not in entry and (budget is None or len(mine) < budget):
                mine.append((entry, str(number), rank))
        fits = fits and bool(mine) and (budget is None or len(mine) == budget)
        expected += mine
    offers = [
        (SourceLimits(str(number), budget), offer(entries))
        for number, (entries, budget) in enumerate(sources)
    ]
    if not fits:
        with pytest.raises(MetaclipError):
            merge(offers, PAPER)
        return
    table, _ = merge(offers, PAPER)
    assert [
        tuple(row.values()) for row in table.select(["entry", "source", "rank"]).to_pylist()
    ] == expected
