"""The matches that every backend must find: the naive algorithm of curation/naive.py, extended to the options of a rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from curation import naive
from metaclip.matching.text_rule import PAPER, TextRule


def match(entries: Sequence[str], text: str, rule: TextRule = PAPER) -> list[int]:
    """Return the ascending ids of the entries that match: by ``in`` or, for `longest_only`, by comparing all spans."""
    if rule == PAPER:
        return naive.match(entries, text)
    padded, forms = rule.text(text), [rule.entry(entry) for entry in entries]
    if not rule.longest_only:
        return [entry_id for entry_id, form in enumerate(forms) if form is not None and form in padded]
    spans = [
        (begin, end, i)
        for i, form in enumerate(forms)
        if form
        for begin, end in _occurrences(form, padded)
    ]
    return sorted(
        {
            i
            for begin, end, i in spans
            if not any(a <= begin and end <= b and b - a > end - begin for a, b, _ in spans)
        }
    )


def _occurrences(form: str, padded: str) -> Iterator[tuple[int, int]]:
    begin = padded.find(form)
    while begin >= 0:
        yield begin, begin + len(form)
        begin = padded.find(form, begin + 1)
