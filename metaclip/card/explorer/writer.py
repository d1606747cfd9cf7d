"""The explorer: a page to look inside a card, written as files that open from disk and from any static host.

    index.html                     the page
    explorer/*.js, style.css       law, elements, data, chart, overview, entries, asking, figures, page: classic scripts
    explorer/data/card.0.js        the account, the grid: what the first view shows
    explorer/data/entries.0.js     the entries, and `numbers`: their counts; the first search needs them
    explorer/data/t.0.js           the thresholds of the entries, where they differ: float64, little-endian
    explorer/data/rule.0.js        tables of the text rule, other than the paper's
    explorer/data/block-7.0.js     samples, neighbours and grid of 1,024 entries: loaded when one of them is opened
    explorer/data/uid-3f.0.js      look-ups (`data_files`): loaded when asked

Cost: 500,000 entries with five samples each are written in 12 s; a first view loads 3.2 to 4.5 MB, by the order of the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.card.explorer.data_files import varints, write_data, write_json_data, write_lookups
from metaclip.card.explorer.rule_tables import rule_tables
from metaclip.card.neighbours import MOST_ENTRIES, MOST_NEIGHBOURS, MOST_SEEN, Neighbours, find_neighbours
from metaclip.card.run_files import matched_files
from metaclip.card.threshold_grid import ThresholdGrid
from metaclip.curate.account import MEANING
from metaclip.curate.draw import probabilities
from metaclip.curate.run import Run
from metaclip.curate.settings import NO_LIST, NOT_IN_SUBSET, split_codes
from metaclip.curate.tables import table_list
from metaclip.curate.threshold import column_thresholds
from metaclip.engine import Progress
from metaclip.matching.routing import Routing
from metaclip.matching.text_rule import TextRule
from metaclip.storage.files import as_path, atomic_write, remove

FORMAT: Final = 1
"""Raised when an older page could not read newer data."""
VARIED_FORMAT: Final = 2
"""The format where t differs from entry to entry."""
MOST_LOOKED_UP: Final = 500_000
"""Matched pairs up to which look-ups are written by default."""
_BLOCK_ENTRIES: Final = 1024
_MOST_BLOCKS: Final = 1024
_SHOWN_INPUTS: Final = 50
_RANKS: Final = 200
_SCRIPTS: Final = ("law", "elements", "data", "chart", "overview", "entries", "asking", "figures", "page")
_PAGE_FILES: Final = (*(f"{name}.js" for name in _SCRIPTS), "style.css")

Counts = npt.NDArray[np.uint64]


def write_explorer(
    folder: Path, *, name: str, account: Mapping[str, Any], entries: pa.Table, grid: ThresholdGrid | None,
    run: Run | None, look_ups: bool | None = None, shown: bool | None = None,
) -> None:  # fmt: skip
    """Write ``index.html`` and ``explorer/`` into a card's folder, in place of older ones.

    `account` is card.json's object; `entries` has entry_id (uint32, from 0), entry, source, count, probability,
    expected, kept and samples (list of string, may be null), and t (float64) if it differs from entry to entry. Neighbours
    and look-ups are read from `run`; None leaves both out. `look_ups` is by default true for up to `MOST_LOOKED_UP` matched
    pairs; `shown` is that of `Progress`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new = as_path(folder / "explorer").temporary()
    try:
        new.mkdir()
        data, columns = new / "data", entries.combine_chunks()
        for file in _PAGE_FILES:
            _copy_page_file(file, new / file)
        # The page itself reports a text rule with settings that this version does not know.
        known = account["rule"].keys() <= TextRule.__dataclass_fields__.keys()
        tables = rule_tables(TextRule(**account["rule"]), columns["entry"].to_pylist()) if known else None
        if tables is not None:
            write_json_data(data, "rule", tables)
        neighbours = None if run is None else find_neighbours(
            matched_files(run), columns["entry"], columns["count"].to_numpy(), account["pairs"]["matched"],
            shown=shown,
        )  # fmt: skip
        with_lookups = account["pairs"]["matched"] <= MOST_LOOKED_UP if look_ups is None else look_ups
        block = _BLOCK_ENTRIES
        while len(columns) > block * _MOST_BLOCKS:
            block *= 2
        parts = {
            "block": block,
            "grid": None if grid is None else {
                "thresholds": grid.thresholds.tolist(), "pairs": grid.pairs.tolist(),
                "tail_share": grid.tail_share.tolist(), "share": float(grid.share),
            },
            "neighbours": None if run is None else {"each": MOST_NEIGHBOURS, "seen": MOST_SEEN, "widest": MOST_ENTRIES},
            "look_ups": write_lookups(data, run, shown=shown) if run is not None and with_lookups else None,
            "rule_tables": tables is not None,
        }  # fmt: skip
        _write_first_view(data, columns, account, name, parts)
        with Progress("page", len(columns), shown, unit="entries") as progress:
            for number, details in enumerate(_details(columns, grid, neighbours, block)):
                write_json_data(data, f"block-{number}", details)
                progress.advance(len(details), 0)
        remove(folder / "explorer")
        new.rename(folder / "explorer")
    finally:
        remove(new)
    _copy_page_file("index.html", folder / "index.html")


def _copy_page_file(name: str, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes((resources.files("metaclip.card.explorer") / "page" / name).read_bytes())


def _write_first_view(
    data: Path, entries: pa.Table, account: Mapping[str, Any], name: str, parts: Mapping[str, Any]
) -> None:
    """Write `entries`, `numbers` and `card`: the account, and what the page has of each of its `parts`.

    `numbers` are four columns of varints: count, count - kept, ten times count - expected, and the source's place in
    `sources` (0: none). A probability other than min(1, t / count) is written in `probabilities`.
    """
    count, kept = (entries[name].to_numpy().astype(np.uint64) for name in ("count", "kept"))
    missing = np.maximum(0.0, count.astype(np.float64) - entries["expected"].to_numpy())
    codes = entries["source"].combine_chunks().dictionary_encode()
    source = codes.indices.fill_null(-1).to_numpy().astype(np.int64) + 1
    columns = [count, count - kept, np.rint(10.0 * missing).astype(np.uint64), source]
    write_data(data, "numbers", b"".join(varints(column.astype(np.uint64)) for column in columns))
    write_data(data, "entries", "\n".join(entries["entry"].to_pylist()).encode())
    probability = entries["probability"].to_numpy()
    t = column_thresholds(entries, account["balance"]["t"])
    if isinstance(t, np.ndarray):
        write_data(data, "t", t.astype("<f8").tobytes())
    other = np.flatnonzero(probability != probabilities(count, t))
    languages = None
    if "by_language" in account:
        languages = _languages(entries, account)
    ranks = np.unique(np.geomspace(1, len(count), _RANKS).round().astype(np.int64))
    ranked = (np.sort(values)[::-1][ranks - 1].tolist() for values in (count, kept))
    value = {
        "format": VARIED_FORMAT if isinstance(t, np.ndarray) else FORMAT,
        "name": name,
        "account": {key: value for key, value in account.items() if key != "inputs"},
        "seed": str(account["balance"]["seed"]),  # JavaScript's numbers end at 2^53
        "inputs": {
            "files": len(account["inputs"]),
            "bytes": sum(item["size"] for item in account["inputs"]),
            "first": account["inputs"][:_SHOWN_INPUTS],
        },
        "meaning": {
            step: meaning
            for step, meaning in MEANING.items()
            if step not in (NOT_IN_SUBSET, NO_LIST) or step in account["funnel"]
        },
        "sources": codes.dictionary.to_pylist(),
        "by_source": _by_source(source, count, kept),
        "ranks": [list(point) for point in zip(ranks.tolist(), *ranked, strict=True)],
        **({} if languages is None else {"languages": languages}),
        "probabilities": [[int(row), float(probability[row])] for row in other],
        **parts,
    }
    write_json_data(data, "card", value)


def _languages(entries: pa.Table, account: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page needs of a list with languages.

    `ids` has [language, first entry, number of entries] of each, `searched` the languages whose texts are searched, `also` the
    lists that are searched in every text, `other` those for texts of another language.
    """
    ids, settings = table_list(entries).languages, account["recipe"]["match"]
    only, also = (
        split_codes(settings[name]) if settings.get(name) else None for name in ("languages", "also")
    )
    routing, further = Routing([*ids], only), Routing([*ids])
    return {
        "ids": [[name, span.start, len(span)] for name, span in ids.items()],
        "searched": [name for name in ids if routing.lists_of(name)],
        "also": [name for code in also or () for name in further.named(code)],
        "other": [*routing.lists_of(None)],
    }


def _by_source(source: npt.NDArray[np.int64], count: Counts, kept: Counts) -> list[list[int]]:
    """Return [source's place, entries, entries at zero, sum of count, sum of kept] of each source."""
    chosen = ((int(code), source == code) for code in np.unique(source))
    return [
        [code, int(of.sum()), int((count[of] == 0).sum()), int(count[of].sum()), int(kept[of].sum())]
        for code, of in chosen
    ]


def _details(
    entries: pa.Table, grid: ThresholdGrid | None, neighbours: Neighbours | None, block: int
) -> Iterator[list[list[Any]]]:
    """Yield the details of each block of entries: [samples, seen, neighbours, expected at the grid's t] of each.

    Neighbours are [entry, captions together, lift]. Expected numbers are rounded to a tenth; those at the end that equal
    the count are left out, as are all of an entry that has none. Where pairs were taken out, an entry whose count differs
    from the corrected one has that as a fifth item.
    """
    for first in range(0, len(entries), block):
        part = entries.slice(first, block)
        count = part["count"].to_pylist()
        corrected = (
            part["count_corrected"].to_pylist() if "count_corrected" in part.column_names else count
        )
        expected = [[]] * len(part) if grid is None else _expected(grid, first, part["count"].to_numpy())
        details: list[list[Any]] = []
        for i, samples in enumerate(part["samples"].to_pylist()):
            seen = 0 if neighbours is None else int(neighbours.seen[first + i])
            found = [] if neighbours is None else neighbours.of(first + i)
            near = [[entry, n, float(f"{lift:.3g}")] for entry, n, lift in found]
            left = [corrected[i]] if corrected[i] != count[i] else []
            details.append([samples or [], seen, near, expected[i], *left])
        yield details


def _expected(grid: ThresholdGrid, first: int, count: Counts) -> list[list[float]]:
    expected, known = grid.expected_of(first, first + len(count))
    rows = np.round(expected, 1)
    differs = (rows != count.astype(np.float64)[:, None]) & known[:, None]
    sizes = np.where(differs.any(axis=1), differs.shape[1] - np.argmax(differs[:, ::-1], axis=1), 0)
    short = (row[:size] for row, size in zip(rows.tolist(), sizes.tolist(), strict=True))
    return [[int(value) if value.is_integer() else value for value in row] for row in short]
