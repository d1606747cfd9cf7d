"""The funnel: the number of rows read, and for each reason the number of rows lost. It must add up.

A funnel is a dict ``{"rows": n, <reason>: rows lost for it, ..., <last>: rows that remain}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

MATCH_REASONS: Final = (
    "malformed_row",
    "not_downloaded",
    "null_text",
    "invalid_utf8",
    "empty_text",
    "no_match",
)
"""Why a row is lost in stage match, in the order of the checks; the other rows are `matched`."""
BALANCE_REASONS: Final = ("not_drawn",)

MEANING: Final[dict[str, str]] = {
    "rows": "rows read from the pool",
    "malformed_row": "line or row that is not of the file's form",
    "not_downloaded": "img2dataset says that the image could not be fetched",
    "null_text": "no text",
    "invalid_utf8": "text that is not valid UTF-8",
    "empty_text": "text of length 0",
    "no_match": "text that matches no entry",
    "matched": "matched at least one entry",
    "not_drawn": "matched, but not drawn",
    "kept": "kept",
}


def add(funnels: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of funnels, key by key."""
    total: dict[str, int] = {}
    for funnel in funnels:
        for key, rows in funnel.items():
            total[key] = total.get(key, 0) + rows
    return total


def check(funnel: Mapping[str, int], whole: str, reasons: Iterable[str], rest: str) -> None:
    """Raise AssertionError unless `whole` is the sum of the rows lost for `reasons` and of the `rest`."""
    parts = {key: funnel.get(key, 0) for key in (*reasons, rest)}
    if funnel.get(whole, 0) != sum(parts.values()):
        raise AssertionError(
            f"the funnel does not add up: {whole} = {funnel.get(whole, 0)}, parts {parts}"
        )
