"""The funnel adds up, and says so when it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.stage import funnel

FUNNELS = st.dictionaries(st.sampled_from([*funnel.MATCH_REASONS, "matched"]), st.integers(0, 10**12))


def closed(parts: dict[str, int]) -> dict[str, int]:
    return {"rows": sum(parts.values()), **parts}


@given(st.lists(FUNNELS))
def test_sums_of_funnels_are_funnels(parts: list[dict[str, int]]) -> None:
    """Funnels that add up add up together, in any order."""
    total = funnel.add(map(closed, parts))
    funnel.check(total, "rows", funnel.MATCH_REASONS, "matched")
    assert total == funnel.add(map(closed, reversed(parts)))
    assert total.get("rows", 0) == sum(sum(part.values()) for part in parts)


@given(FUNNELS, st.sampled_from(["rows", "matched", "no_match"]), st.integers(1, 9))
def test_a_row_that_no_reason_explains_is_found(parts: dict[str, int], key: str, more: int) -> None:
    """A funnel with one figure off is an error that shows the figures."""
    wrong = closed(parts)
    wrong[key] = wrong.get(key, 0) + more
    with pytest.raises(AssertionError, match="the funnel does not add up: rows = "):
        funnel.check(wrong, "rows", funnel.MATCH_REASONS, "matched")


def test_a_reason_that_is_not_known_is_found() -> None:
    """Rows lost for a reason that is not in the table are rows lost in silence."""
    with pytest.raises(AssertionError):
        funnel.check({"rows": 2, "matched": 1, "eaten": 1}, "rows", funnel.MATCH_REASONS, "matched")


def test_every_reason_has_a_meaning() -> None:
    """A reader of the card learns what each row of the funnel means."""
    assert set(funnel.MEANING) == {
        "rows",
        *funnel.MATCH_REASONS,
        "matched",
        *funnel.BALANCE_REASONS,
        "kept",
    }
