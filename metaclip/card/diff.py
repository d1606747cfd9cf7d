"""The difference of two cards: settings, figures, and entries that gained or lost; as data, and as Markdown.

Entries are compared by their text, since two lists may number them differently; by shares of the kept pairs as well as by
numbers, since two sets may be of different size. Bars beside the entries plot the changes of their shares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.card.publish import read_card
from metaclip.curate.account import MEANING, escaped, shown_entry
from metaclip.curate.tables import ENTRIES, read_table
from metaclip.curate.threshold import column_thresholds

MOST_CHANGES: Final = 25
_FIGURES: Final = ("funnel", "entries", "pairs")
_SETTINGS: Final = (
    "list.digest.", "rule.", "balance.t.", "balance.t_by.", "digests.t.", "balance.seed.", "recipe.match.limit.", "semantics.",
    "versions.",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Difference:
    """What differs from the first card to the second."""

    names: tuple[str, str]
    settings: list[tuple[str, Any, Any]]
    """(field, first, second) of the settings that determine a set, where they differ."""
    figures: list[tuple[str, float, float]]
    """(field, first, second) of the funnel, entries, pairs and the tail share, all of them."""
    entries: pa.Table
    """entry, count, count_after, kept, kept_after, share, share_after of each entry whose count or kept differs.

    If one of the lists has languages, also language.
    """
    only: tuple[int, int]
    """Numbers of entries in the first list alone, and in the second alone."""
    removed: tuple[int, int] | None = None
    """(matched pairs, kept pairs) taken out from the first to the second, if that is a later version of the first."""
    thresholds: int | None = None
    """Number of entries of both lists whose t differs; None if both cards have one t for all."""


def diff(first: Path, second: Path) -> Difference:
    """Compare two cards. Raise MetaclipError if one cannot be read."""
    one, other = read_card(first), read_card(second)
    flat_one, flat_other = dict(_flatten(one)), dict(_flatten(other))
    settings = [
        (name, flat_one.get(name), flat_other.get(name))
        for name in flat_one | flat_other
        if f"{name}.".startswith(_SETTINGS) and flat_one.get(name) != flat_other.get(name)
    ]
    figures = sorted(
        (name for name in flat_one | flat_other if name.partition(".")[0] in _FIGURES), key=_figure_order
    )
    tables = _read_entries(first, one), _read_entries(second, other)
    joined = tables[0].join(
        tables[1], ["language", "entry"], join_type="full outer", right_suffix="_after"
    )
    columns = {"entry": joined["entry"]}
    if any("by_language" in card for card in (one, other)):
        columns["language"] = joined["language"]
    columns |= {
        name: pc.fill_null(joined[name], 0) for name in ("count", "count_after", "kept", "kept_after")
    }
    for suffix, card in (("", one), ("_after", other)):
        columns[f"share{suffix}"] = pc.divide(
            columns[f"kept{suffix}"].cast(pa.float64()), max(1, card["pairs"]["kept"])
        )
    differs = (pc.not_equal(columns[name], columns[f"{name}_after"]) for name in ("count", "kept"))
    thresholds = None
    if "t_by" in one["balance"] or "t_by" in other["balance"]:
        thresholds = pc.sum(pc.not_equal(joined["t"], joined["t_after"])).as_py() or 0
    names = str(one["name"]), str(other["name"])
    if names[0] == names[1]:  # versions of one set
        names = f"{names[0]} {one['result_digest'][:8]}", f"{names[1]} {other['result_digest'][:8]}"
    return Difference(
        names, settings,
        [(name, flat_one.get(name, 0), flat_other.get(name, 0)) for name in [*figures, "balance.tail_share"]],
        pa.table(columns).filter(pc.or_(*differs)).sort_by(_order(columns)),
        (joined["count_after"].null_count, joined["count"].null_count), _removed_between(one, other), thresholds,
    )  # fmt: skip


def _order(columns: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, "ascending") for name in ("entry", "language") if name in columns]


def _flatten(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner


def _figure_order(name: str) -> tuple[int, int, str]:
    """Order figures: the funnel in its steps, then entries, then pairs."""
    section, _, step = name.partition(".")
    return _FIGURES.index(section), list(MEANING).index(step) if step in MEANING else 0, name


def _read_entries(folder: Path, card: Mapping[str, Any]) -> pa.Table:
    table = read_table(folder / "entries.parquet", ENTRIES)
    t = np.broadcast_to(column_thresholds(table, float(card["balance"]["t"])), len(table))
    columns = table.select(["entry", "count", "kept"]).append_column("t", pa.array(t))
    # Entries are compared by (language, entry); those of a list without languages are of no language.
    language = table["language"] if "language" in table.column_names else pa.array([""] * len(table))
    return columns.append_column("language", language)


def _removed_between(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[int, int] | None:
    versions = second.get("removed", {"versions": []})["versions"]
    for i, version in enumerate(versions):
        if version["parent"] == first["result_digest"]:
            return sum(later["pairs"] for later in versions[i:]), sum(
                later["kept"] for later in versions[i:]
            )
    return None


def sentences(found: Difference) -> list[str]:
    """Return sentences on what tables do not show: a later version, lists of other entries, how many entries differ."""
    result = []
    if found.removed is not None:
        pairs, kept = found.removed
        result.append(
            f"The second is a later version of the first, with {pairs:,} matched pairs taken out, {kept:,} of them kept "
            "ones; no other pair's draw changed."
        )
    if any(found.only):
        result.append(
            f"{found.only[0]:,} entries stand in the first list alone, {found.only[1]:,} in the second alone."
        )
    if found.thresholds is not None:
        result.append(f"{found.thresholds:,} entries that stand in both lists have another t.")
    return [
        *result,
        f"{len(found.entries):,} entries have another count or another number of kept pairs.",
    ]


def largest_changes(found: Difference, *, lost: bool = False) -> list[dict[str, Any]]:
    """Return up to 25 entries whose share of the kept pairs rose most, or fell most if `lost`; ties by entry."""
    change = found.entries["share_after"].to_numpy() - found.entries["share"].to_numpy()
    order = np.argsort(change if lost else -change, kind="stable")[:MOST_CHANGES]
    order = order[(change[order] < 0) if lost else (change[order] > 0)]
    return list(found.entries.take(order).to_pylist())


def format_number(value: float, *, sign: bool = False) -> str:
    """Format a figure: whole ones without a point, small ones such as shares with four digits after it."""
    plus = "+" if sign and value else ""
    if isinstance(value, int):
        return f"{value:{plus},}"  # a seed may exceed what a float holds
    digits = 0 if value == int(value) else 1 if abs(value) >= 10 else 4
    return f"{value:{plus},.{digits}f}"


def render_markdown(found: Difference) -> str:
    """Return a difference as Markdown: in words and percentage points, without figures that are 0 in both cards."""
    a, b = (escaped(name) for name in found.names)
    lines = [f"# {a} and {b}", ""]
    if found.settings:
        lines += ["Settings that differ:", "", f"| setting | {a} | {b} |", "|---|---|---|"]
        lines += [
            f"| {_setting(name)} | {_setting_value(one)} | {_setting_value(other)} |"
            for name, one, other in found.settings
        ]
    else:
        lines.append("No setting that determines the set differs.")
    lines += ["", f"| figure | {a} | {b} | change |", "|---|---:|---:|---:|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _figure_cells(found)]
    for sentence in sentences(found):
        lines += ["", sentence]
    gained, lost = largest_changes(found), largest_changes(found, lost=True)
    longest = max((abs(_points(row)) for row in (*gained, *lost)), default=0.0)
    for title, rows in (("Gained most", gained), ("Lost most", lost)):
        if rows:
            lines += ["", f"## {title}, as a share of the kept pairs", ""]
            lines += [
                f"| entry | kept in {a} | kept in {b} | share in {a} | share in {b} | percentage points | |",
                "|---|---:|---:|---:|---:|---:|---|",
            ]
            lines += [
                f"| {shown_entry(row)} | {row['kept']:,} | {row['kept_after']:,} | {100 * row['share']:.3f}% "
                f"| {100 * row['share_after']:.3f}% | {_points(row):+.3f} | {_bar(abs(_points(row)) / longest)} |"
                for row in rows
            ]
    return "\n".join([*lines, ""])


_SETTING_WORDS: Final = {
    "list.digest": "query list (sha256)",
    "balance.t": "threshold t",
    "balance.t_by": "what t varies by from entry to entry",
    "digests.t": "thresholds of the entries (sha256)",
    "balance.seed": "seed of the draw",
    "recipe.match.limit": "rows read at most",
    "semantics.match": "version of the matching rules",
    "semantics.balance": "version of the drawing rules",
}
_FIGURE_WORDS: Final = {
    **{f"funnel.{step}": meaning for step, meaning in MEANING.items()},
    "entries.head": "entries of the head (count of t or more)",
    "entries.tail": "entries of the tail (count below t)",
    "entries.zero": "entries found in no pair",
    "pairs.expected": "pairs expected to be kept",
    "pairs.deviation": "standard deviation of the pairs kept",
    "pairs.repeated_uids": "uids on more than one matched row",
    "pairs.repeated_rows": "matched rows that repeat a uid",
    "balance.tail_share": "tail share",
}
"""The figures that are shown; matched and kept pairs are those of the funnel."""
_BAR_WIDTH: Final = 20
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


def _setting(name: str) -> str:
    """Return a setting in words; one of a later version by its name."""
    section, _, rest = name.partition(".")
    begin = {"rule": "text rule: ", "versions": "version of "}.get(section)
    return _SETTING_WORDS.get(name) or escaped(name if begin is None else begin + rest.replace("_", " "))


def _setting_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", False: "no", True: "yes"}[value]
    return format_number(value) if isinstance(value, int | float) else escaped(value)


def _figure_cells(found: Difference) -> Iterator[tuple[str, str, str, str]]:
    for name, one, other in found.figures:
        if name not in _FIGURE_WORDS or not (one or other):
            continue
        if name == "balance.tail_share":
            shares = f"{100 * one:.2f}%", f"{100 * other:.2f}%"
            yield _FIGURE_WORDS[name], *shares, f"{100 * (other - one):+.2f} percentage points"
        else:
            change = format_number(other - one, sign=True)
            yield _FIGURE_WORDS[name], format_number(one), format_number(other), change


def _points(row: Mapping[str, Any]) -> float:
    """Return the change of an entry's share of the kept pairs, in percentage points."""
    return float(100 * (row["share_after"] - row["share"]))


def _bar(part: float) -> str:
    """Return a bar of block characters for a part of the longest bar: a plot that shows wherever Markdown does."""
    whole, eighths = divmod(max(1, round(8 * _BAR_WIDTH * part)), 8)
    return "█" * whole + _EIGHTHS[eighths].strip()
