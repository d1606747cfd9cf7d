"""Merges candidates of several sources into one list.

Law: sources in their order, each in its own; an entry belongs to the first source that offers it; a source with a budget
gives exactly that many new entries, its best; one without gives all that are new, or as many as the total has room for. What
can never match is left out, and of sources that are not `trusted` what looks wrong (`metaclip.metadata.clean`): both are
counted by reason. The total is exact.

Cost: 500,000 entries from 720,000 candidates in 2.4 s.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa

from metaclip.errors import MetaclipError
from metaclip.metadata import clean, lint
from metaclip.metadata.candidates import Candidates

SCHEMA: Final = pa.schema(
    [
        pa.field("entry", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("rank", pa.uint32(), nullable=False),
    ]
)
"""A built list: `rank` is the place among the candidates of the source, from 1."""


@dataclasses.dataclass(frozen=True)
class Share:
    """What a source may put into the list."""

    source: str
    """Its name in the list; several may share one."""
    budget: int | None = None
    """Exactly so many new entries; None: all there are, or as many as there is room for."""
    trusted: bool = False
    """Its entries stay however they look, as long as they can match."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What a source put into the list."""

    share: Share
    candidates: int
    new: int
    left_out: Mapping[str, int]
    """Candidates that were looked at and left out, by reason."""
    facts: Mapping[str, Any]


def merge(
    offers: Iterable[tuple[Share, Candidates]], rule: lint.Rule, total: int | None = None
) -> tuple[pa.Table, list[Given]]:
    """Give the list as a table of `SCHEMA`, and what each source gave.

    `rule` is the text rule under which every entry must be able to match. Raise MetaclipError where a source gives
    nothing, or less than its budget, or all together something else than `total`.
    """
    entries, taken = dict[str, None](), list[pa.Table]()
    given: list[Given] = []
    for share, candidates in offers:
        room = share.budget if share.budget is not None or total is None else max(0, total - len(entries))
        rows, left = _take(share, candidates, room, rule, entries)
        if not rows:
            raise MetaclipError(
                f"{_name(share, candidates)} gives nothing{_reasons(left)}; check its settings, or take it out"
            )
        if share.budget is not None and len(rows) < share.budget:
            raise MetaclipError(
                f"{_name(share, candidates)} has {len(rows):,} new entries, its budget is {share.budget:,}{_reasons(left)}; "
                "lower the budget, or what it asks of its candidates"
            )
        columns = [
            candidates.entries.take(pa.array(rows, pa.int64())),
            pa.array([share.source] * len(rows), pa.string()),
            candidates.scores.take(pa.array(rows, pa.int64())),
            pa.array([row + 1 for row in rows], pa.uint32()),
        ]
        taken.append(pa.table(columns, SCHEMA))
        given.append(Given(share, len(candidates.entries), len(rows), dict(left), candidates.facts))
    if total is not None and len(entries) != total:
        parts = " + ".join(f"{one.new:,} {one.share.source}" for one in given)
        raise MetaclipError(
            f"the sources give {len(entries):,} entries ({parts}), the total is {total:,}; mend the budgets"
        )
    return pa.concat_tables(taken).combine_chunks() if taken else SCHEMA.empty_table(), given


def _take(
    share: Share, candidates: Candidates, room: int | None, rule: lint.Rule, entries: dict[str, None]
) -> tuple[list[int], collections.Counter[str]]:
    """Add up to `room` new entries of a source to `entries`; give their rows, and what was left out and why."""
    rows, left = list[int](), collections.Counter[str]()
    for row, entry in enumerate(candidates.entries.to_pylist()):
        if len(rows) == room:
            break
        if entry in entries:
            left["an earlier source has it"] += 1
        elif not entry:
            left["empty"] += 1
        elif not lint.alive(entry, rule):
            left[lint.KINDS["dead"]] += 1
        elif not share.trusted and (fault := clean.fault(entry)):
            left[clean.MEANING[fault]] += 1
        else:
            entries[entry] = None
            rows.append(row)
    return rows, left


def _name(share: Share, candidates: Candidates) -> str:
    return (
        f"the source {share.source!r} ({candidates.facts['read']})"
        if "read" in candidates.facts
        else f"the source {share.source!r}"
    )


def _reasons(left: Mapping[str, int]) -> str:
    return f" (left out: {', '.join(f'{count:,} {reason}' for reason, count in left.items())})" if left else ""
