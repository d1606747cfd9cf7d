"""The difference of two cards: what was set otherwise, what became of the rows, which entries gained and lost.

Entries are compared by their text, since two lists may number them otherwise; shares of the kept pairs as well as
numbers, since two sets may be of different size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.card.publish import read_card
from metaclip.curate.account import MEANING, plain
from metaclip.errors import MetaclipError, one_line

TOP: Final = 25
_FIGURES: Final = ("funnel", "entries", "pairs")
_STEPS: Final = tuple(MEANING)
_SETTINGS: Final = ("list.digest", "rule", "balance.t", "balance.seed", "recipe.match.limit", "semantics", "versions")


@dataclasses.dataclass(frozen=True)
class Difference:
    """What differs from the first card to the second."""

    names: tuple[str, str]
    settings: list[tuple[str, Any, Any]]
    """(field, first, second) of what determines a set, where they are not the same."""
    figures: list[tuple[str, float, float]]
    """(field, first, second): the funnel, entries, pairs and the tail share, all of them."""
    entries: pa.Table
    """entry, count, count_after, kept, kept_after, share, share_after of each entry in which either differs."""
    only: tuple[int, int]
    """Entries that stand in the first list alone, and in the second alone."""
    removed: tuple[int, int] | None = None
    """(matched pairs, kept pairs) taken out from the first to the second, where that is a later version of the first."""


def diff(first: Path, second: Path) -> Difference:
    """Compare two cards. Raise MetaclipError where one cannot be read."""
    cards, tables = [read_card(folder) for folder in (first, second)], [_entries(first), _entries(second)]
    flat = [dict(_flat(card)) for card in cards]
    wanted = [
        name
        for name in dict.fromkeys([*flat[0], *flat[1]])
        if any(name == one or name.startswith(f"{one}.") for one in _SETTINGS)
    ]
    settings = [
        (name, flat[0].get(name), flat[1].get(name)) for name in wanted if flat[0].get(name) != flat[1].get(name)
    ]
    figures = sorted({name for card in flat for name in card if name.partition(".")[0] in _FIGURES}, key=_order)
    joined = tables[0].join(tables[1], "entry", join_type="full outer", right_suffix="_after")
    only = tuple(int(pc.sum(pc.is_null(joined[name])).as_py() or 0) for name in ("count_after", "count"))
    columns = {"entry": joined["entry"]}
    for name in ("count", "kept"):
        columns |= {part: pc.fill_null(joined[part], 0) for part in (name, f"{name}_after")}
    for part, card in zip(("", "_after"), cards, strict=True):
        columns[f"share{part}"] = pc.divide(columns[f"kept{part}"].cast(pa.float64()), max(1, card["pairs"]["kept"]))
    table = pa.table(columns)
    differs = pc.or_(
        pc.not_equal(table["count"], table["count_after"]), pc.not_equal(table["kept"], table["kept_after"])
    )
    return Difference(
        _names(*cards), settings,
        [(name, flat[0].get(name, 0), flat[1].get(name, 0)) for name in [*figures, "balance.tail_share"]],
        table.filter(differs).sort_by("entry"), (only[0], only[1]), _taken_out(*cards),
    )  # fmt: skip


def _names(*cards: Mapping[str, Any]) -> tuple[str, str]:
    """Name two cards; versions of one set by their results too."""
    one, other = (str(card["name"]) for card in cards)
    if one != other:
        return one, other
    return tuple(f"{card['name']} {card['result_digest'][:8]}" for card in cards)  # type: ignore[return-value]


def _order(name: str) -> tuple[int, int, str]:
    """Order figures: the funnel in its steps, then entries, then pairs."""
    of, _, step = name.partition(".")
    return _FIGURES.index(of), _STEPS.index(step) if step in _STEPS else 0, name


def _taken_out(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[int, int] | None:
    versions = second.get("removed", {"versions": []})["versions"]
    since = [i for i, version in enumerate(versions) if version["parent"] == first["result_digest"]]
    if not since:
        return None
    pairs, kept = (sum(version[name] for version in versions[since[0] :]) for name in ("pairs", "kept"))
    return pairs, kept


def sentences(found: Difference) -> list[str]:
    """Say in words what tables do not: a later version, lists of other entries, how many entries differ."""
    said = []
    if found.removed is not None:
        pairs, kept = found.removed
        said.append(
            f"The second is a later version of the first, with {pairs:,} matched pairs taken out, {kept:,} of them kept "
            "ones; no other pair's draw changed."
        )
    if any(found.only):
        said.append(f"{found.only[0]:,} entries stand in the first list alone, {found.only[1]:,} in the second alone.")
    said.append(f"{len(found.entries):,} entries have another count or another number of kept pairs.")
    return said


def _entries(folder: Path) -> pa.Table:
    try:
        return pq.read_table(folder / "entries.parquet", columns=["entry", "count", "kept"])
    except (OSError, pa.ArrowException) as error:
        raise MetaclipError(
            f"{folder / 'entries.parquet'} cannot be read ({one_line(error)}); fetch it again"
        ) from None


def _flat(value: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{where}{key}.")
        else:
            yield f"{where}{key}", inner


def gained(found: Difference, *, lost: bool = False) -> list[dict[str, Any]]:
    """Give the entries whose share of the kept pairs rose most (fell most), up to 25; ties by entry."""
    change = found.entries["share_after"].to_numpy() - found.entries["share"].to_numpy()
    order = np.argsort(change if lost else -change, kind="stable")[:TOP]
    order = order[(change[order] < 0) if lost else (change[order] > 0)]
    rows: list[dict[str, Any]] = found.entries.take(pa.array(order)).to_pylist()
    return rows


def render(found: Difference) -> str:
    """Write a difference as Markdown."""
    a, b = (plain(name) for name in found.names)
    lines = [f"# {a} and {b}", ""]
    if found.settings:
        lines += ["Set otherwise:", "", f"| | {a} | {b} |", "|---|---|---|"]
        lines += [f"| {name} | {plain(one)} | {plain(other)} |" for name, one, other in found.settings]
    else:
        lines.append("Nothing that determines the set was set otherwise.")
    lines += ["", f"| | {a} | {b} | change |", "|---|---:|---:|---:|"]
    for name, one, other in found.figures:
        lines.append(f"| {name} | {number(one)} | {number(other)} | {number(other - one, sign=True)} |")
    for sentence in sentences(found):
        lines += ["", sentence]
    for title, rows in (("Gained most", gained(found)), ("Lost most", gained(found, lost=True))):
        if rows:
            lines += [
                "",
                f"## {title}, as a share of the kept pairs",
                "",
                "| entry | kept | | share | |",
                "|---|---:|---:|---:|---:|",
            ]
            lines += [
                f"| {plain(row['entry'])} | {row['kept']:,} | {row['kept_after']:,} | {100 * row['share']:.3f}% "
                f"| {100 * row['share_after']:.3f}% |"
                for row in rows
            ]
    return "\n".join([*lines, ""])


def number(value: float, *, sign: bool = False) -> str:
    """Show a figure: whole ones without a point, shares and other small ones to four digits behind it."""
    plus = "+" if sign and value else ""
    digits = 0 if value == int(value) else 1 if abs(value) >= 10 else 4
    return f"{value:{plus},.{digits}f}"
