"""The explorer: a page to look inside a card, written as files that open from disk and from any static host.

    index.html                     the page
    explorer/*.js, style.css       law, elements, data, chart, entries, asking, figures, page: classic scripts, in this order
    explorer/data/card.0.js        the account, the grid: what the first view shows
    explorer/data/entries.0.js     the entries, and `numbers`: their counts; the first search needs them
    explorer/data/rule.0.js        what the text rule needs, other than the paper's
    explorer/data/block-7.0.js     samples, neighbours and grid of 1,024 entries: loaded when one of them is opened
    explorer/data/uid-3f.0.js      look-ups (`look_ups`): loaded when asked

Cost: 500,000 entries with five samples each are written in 12 s; a first view loads 3.2 to 4.5 MB, by the order of the list.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.card.explorer.look_ups import write_look_ups
from metaclip.card.explorer.packing import varints, write_data, write_json_data
from metaclip.card.explorer.rule_tables import tables_of
from metaclip.card.neighbours import EACH, SEEN, WIDEST, Neighbours, find_neighbours
from metaclip.curate.account import MEANING
from metaclip.curate.draw import probabilities
from metaclip.errors import MetaclipError
from metaclip.matching.text_rule import TextRule
from metaclip.storage.files import atomic_write, remove, temporary_path

if TYPE_CHECKING:
    from metaclip.card.grid import Grid
    from metaclip.curate.run import Run

FORMAT: Final = 1
"""Raised when an older page could not read newer data."""
LOOK_UPS: Final = 500_000
"""Matched pairs up to which look-ups are written without being asked for."""
_BLOCK: Final = 1024
_MOST_BLOCKS: Final = 1024
_SHOWN_INPUTS: Final = 50
_RANKS: Final = 200
_SCRIPTS: Final = ("law", "elements", "data", "chart", "entries", "asking", "figures", "page")
_PAGE: Final = (*(f"{name}.js" for name in _SCRIPTS), "style.css")

Counts = npt.NDArray[np.uint64]


def write_explorer(
    folder: Path, *, name: str, account: Mapping[str, Any], entries: pa.Table, grid: Grid | None, run: Run | None,
    look_ups: bool | None = None,
) -> None:  # fmt: skip
    """Write ``index.html`` and ``explorer/`` into a card's folder, in place of older ones.

    `account` is card.json's object; `entries` has entry_id (uint32, from 0), entry, source, count, probability,
    expected, kept and samples (list of string), maybe null. `run` gives neighbours and look-ups; None leaves both out, as
    `look_ups` does, which is by default true for up to `LOOK_UPS` matched pairs. Raise MetaclipError for entries that are
    not the account's, or whose figures cannot be.
    """
    _check(entries, account)
    folder.mkdir(parents=True, exist_ok=True)
    new = temporary_path(folder / "explorer")
    try:
        new.mkdir()
        data = new / "data"
        for file in _PAGE:
            _copy(file, new / file)
        columns = entries.combine_chunks()
        rule = tables_of(TextRule(**account["rule"]), columns["entry"].to_pylist()) if _known(account["rule"]) else None
        neighbours = None if run is None else _neighbours(run, columns)
        wanted = account["pairs"]["matched"] <= LOOK_UPS if look_ups is None else look_ups
        found = write_look_ups(data, run) if run is not None and wanted else None
        block = _block_of(len(columns))
        _write_first_view(data, columns, account, name, grid, found, block, neighbours is not None, rule is not None)
        if rule is not None:
            write_json_data(data, "rule", rule)
        for number, rows in enumerate(_details(columns, grid, neighbours, block)):
            write_json_data(data, f"block-{number}", rows)
        remove(folder / "explorer")
        new.rename(folder / "explorer")
    finally:
        remove(new)
    _copy("index.html", folder / "index.html")


def _check(entries: pa.Table, account: Mapping[str, Any]) -> None:
    if len(entries) != account["list"]["entries"]:
        raise MetaclipError(
            f"the account is of {account['list']['entries']} entries and the table has {len(entries)}; "
            f"take both from one run"
        )
    ids, count, kept = (entries[name].to_numpy() for name in ("entry_id", "count", "kept"))
    if not np.array_equal(ids, np.arange(len(ids))):
        raise MetaclipError("the table's entry_id does not run from 0; sort the entries by it")
    if (wrong := np.flatnonzero(kept > count)).size:
        row = int(wrong[0])
        raise MetaclipError(f"entry {row}: {kept[row]} pairs kept of {count[row]}; take the table from a run")


def _known(rule: Mapping[str, Any]) -> bool:
    """Tell whether this version knows all settings of a text rule; the page says so where it does not."""
    return set(rule) <= set(TextRule.__dataclass_fields__)


def _copy(name: str, path: Path) -> None:
    source = resources.files("metaclip.card.explorer") / "page" / name
    with atomic_write(path) as temporary, source.open("rb") as file, temporary.open("wb") as out:
        shutil.copyfileobj(file, out)


def _neighbours(run: Run, entries: pa.Table) -> Neighbours:
    files = sorted((run.matched / "matched").glob("*.parquet"))
    entry, counts = entries["entry"].combine_chunks(), entries["count"].to_numpy().astype(np.uint64)
    return find_neighbours(files, entry, counts, int(run.match["funnel"]["matched"]))


def _block_of(n: int) -> int:
    """Give the number of entries whose details share a file: a power of two, so that there are not too many files."""
    block = _BLOCK
    while n > block * _MOST_BLOCKS:
        block *= 2
    return block


def _write_first_view(
    data: Path, entries: pa.Table, account: Mapping[str, Any], name: str, grid: Grid | None,
    look_ups: dict[str, Any] | None, block: int, with_neighbours: bool, with_rule: bool,
) -> None:  # fmt: skip
    """Write the account, the entries and their numbers.

    `numbers` are four columns of varints: count, count - kept, ten times count - expected, and the source's place in
    `sources` (0: none). A probability is min(1, t / count) and not written, but for those that are something else.
    """
    count = entries["count"].to_numpy().astype(np.uint64)
    missing = np.maximum(0.0, count.astype(np.float64) - entries["expected"].to_numpy())
    codes = entries["source"].combine_chunks().dictionary_encode()
    source = codes.indices.fill_null(-1).to_numpy().astype(np.int64) + 1
    kept = entries["kept"].to_numpy().astype(np.uint64)
    columns = [count, count - kept, np.rint(10.0 * missing).astype(np.uint64), source]
    write_data(data, "numbers", b"".join(varints(column.astype(np.uint64)) for column in columns))
    write_data(data, "entries", "\n".join(entries["entry"].to_pylist()).encode())
    probability = entries["probability"].to_numpy()
    given = np.flatnonzero(probability != probabilities(count, account["balance"]["t"]))
    shown = {key: value for key, value in account.items() if key != "inputs"}
    value = {
        "format": FORMAT,
        "name": name,
        "account": shown,
        "seed": str(account["balance"]["seed"]),  # JavaScript's numbers end at 2^53
        "inputs": {
            "files": len(account["inputs"]),
            "bytes": sum(item["size"] for item in account["inputs"]),
            "first": account["inputs"][:_SHOWN_INPUTS],
        },
        "meaning": MEANING,
        "sources": codes.dictionary.to_pylist(),
        "by_source": _by_source(source, count, kept),
        "ranks": _ranks(count, kept),
        "probabilities": [[int(row), float(probability[row])] for row in given],
        "block": block,
        "grid": None if grid is None else _grid(grid),
        "neighbours": {"each": EACH, "seen": SEEN, "widest": WIDEST} if with_neighbours else None,
        "look_ups": look_ups,
        "rule_tables": with_rule,
    }
    write_json_data(data, "card", value)


def _by_source(source: npt.NDArray[np.int64], count: Counts, kept: Counts) -> list[list[int]]:
    """Give [source's place, entries, entries at zero, sum of count, sum of kept] of each source."""
    rows = ((int(code), source == code) for code in np.unique(source))
    return [
        [code, int(here.sum()), int((count[here] == 0).sum()), int(count[here].sum()), int(kept[here].sum())]
        for code, here in rows
    ]


def _ranks(count: Counts, kept: Counts) -> list[list[int]]:
    """Give [rank, the count of that rank, the kept of that rank] at ranks evenly apart in the logarithm."""
    ranks = np.unique(np.geomspace(1, len(count), _RANKS).round().astype(np.int64))
    columns = (np.sort(values)[::-1][ranks - 1].tolist() for values in (count, kept))
    return [list(point) for point in zip(ranks.tolist(), *columns, strict=True)]


def _grid(grid: Grid) -> dict[str, Any]:
    columns = {name: getattr(grid, name).tolist() for name in ("thresholds", "pairs", "tail_share")}
    return {**columns, "share": float(getattr(grid, "share", 1.0))}


def _details(
    entries: pa.Table, grid: Grid | None, neighbours: Neighbours | None, block: int
) -> Iterator[list[list[Any]]]:
    """Give the details of each block of entries: [samples, seen, neighbours, expected at the grid's t] of each.

    Where pairs were taken out, an entry whose count differs from the corrected one has that as a fifth.
    Neighbours are [entry, captions together, lift]; of the expected numbers, to a tenth, those at the end that are the
    count are left out.
    """
    for first in range(0, len(entries), block):
        part = entries.slice(first, block)
        samples = part["samples"].to_pylist()
        expected = [[]] * len(part) if grid is None else _expected(grid, first, part["count"].to_numpy())
        left = _left(part)
        yield [[samples[i] or [], *_fellows(neighbours, first + i), expected[i], *left[i]] for i in range(len(part))]


def _left(part: pa.Table) -> list[list[int]]:
    """Give [the corrected count] of entries that pairs were taken out of, [] of others."""
    if "count_corrected" not in part.column_names:
        return [[]] * len(part)
    pairs = zip(part["count"].to_pylist(), part["count_corrected"].to_pylist(), strict=True)
    return [[] if count == left else [left] for count, left in pairs]


def _fellows(neighbours: Neighbours | None, entry_id: int) -> tuple[int, list[list[Any]]]:
    if neighbours is None:
        return 0, []
    rows = [[entry, together, float(f"{lift:.3g}")] for entry, together, lift in neighbours.of(entry_id)]
    return int(neighbours.seen[entry_id]), rows


def _expected(grid: Grid, first: int, count: npt.NDArray[np.uint64]) -> list[list[float]]:
    rows = np.round(grid.expected[:, first : first + len(count)].T, 1)
    differs = rows != count.astype(np.float64)[:, None]
    sizes = np.where(differs.any(axis=1), differs.shape[1] - np.argmax(differs[:, ::-1], axis=1), 0)
    short = (row[:size] for row, size in zip(rows.tolist(), sizes.tolist(), strict=True))
    return [[int(value) if value.is_integer() else value for value in row] for row in short]
