"""Coverage: how often the class names of a benchmark stand in captions, before and after balancing.

    count         matched pairs whose caption holds the name, by the run's text rule
    kept          those of them that were kept
    divergence    KL(p, uniform) = sum of p ln(p n), in nats, p a name's share of all n names' counts: 0 where each
                  name is as frequent as the others (the appendix of "Demystifying CLIP Data" looks at balance so)

A name that is an entry has the entry's figures. Of other names the kept captions are searched; the matched ones too, in
a run ``--with-text``. Without, their count is not known, and they stand outside of shares and divergences.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from metaclip.card.lines import read_lines
from metaclip.curate.run import Run
from metaclip.matching.matcher import Matcher
from metaclip.matching.text_rule import PAPER
from metaclip.metadata.entries import Metadata
from metaclip.pool import pool as pools
from metaclip.pool.texts import plain_texts

Counts = npt.NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class Classes:
    """The class names of one benchmark, as they stand in its file; a name may stand twice."""

    name: str
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: str) -> Classes:
        """Read a file of names, one a line; it is called as the file is. Raise MetaclipError as `read_lines` does."""
        return cls(Path(path).stem, tuple(read_lines(path, "class names")))

    @classmethod
    def of_card(cls, card: dict[str, Any]) -> list[Classes]:
        """Give those that a card was made with."""
        return [cls(one["name"], tuple(row["name"] for row in one["entries"])) for one in card.get("classes", [])]


class Coverage:
    """Looks class names up in a run: entries at once, other names shard by shard."""

    def __init__(self, run: Run, lists: Sequence[Classes]) -> None:
        """Find out which names are entries, and make ready to search for the others."""
        self._run, self._lists = run, lists
        names = list(dict.fromkeys(name for one in lists for name in one.names))
        self._ids = _entry_ids(run, names) if names else {}
        others = [name for name in names if name not in self._ids]
        self._others = {name: i for i, name in enumerate(others)}
        self._matcher = Matcher(Metadata(others), run.rule, cache=False) if others else None
        self._count, self._kept = np.zeros(len(others), np.uint64), np.zeros(len(others), np.uint64)
        self._searched = False

    def search(self, path: Path) -> Counts | None:
        """Count the names that are no entries in one file of matched/ or curated/; None where there is nothing to do."""
        if self._matcher is None:
            return None
        counts = np.zeros(len(self._others), np.uint64)
        with pq.ParquetFile(path) as file:
            name = _text_column(self._run, file.schema_arrow, path)
            if name is None:
                return None
            for batch in file.iter_batches(pools.BATCH_ROWS, columns=[name], use_threads=False):
                found = self._matcher.match(plain_texts(batch.column(name))).flatten().to_numpy()
                counts += np.bincount(found, minlength=len(counts)).astype(np.uint64)
        return counts

    def add(self, path: Path, counts: Counts | None) -> None:
        """Add what `search` found in a file."""
        if counts is None:
            return
        if path.parent.name == "matched":
            self._count += counts
            self._searched = True
        else:
            self._kept += counts

    def result(self) -> list[dict[str, Any]]:
        """Give the coverage of each list, as card.json has it."""
        entries = self._run.entries
        count, kept = entries["count"].to_numpy(), entries["kept"].to_numpy()

        def row(name: str) -> dict[str, Any]:
            if (entry_id := self._ids.get(name)) is not None:
                return {"name": name, "entry_id": entry_id, "count": int(count[entry_id]), "kept": int(kept[entry_id])}
            place = self._others[name]
            return {
                "name": name,
                "entry_id": None,
                "count": int(self._count[place]) if self._searched else None,
                "kept": int(self._kept[place]),
            }

        return [summarise(one.name, [row(name) for name in one.names]) for one in self._lists]


def _entry_ids(run: Run, names: Sequence[str]) -> dict[str, int]:
    """Find the entries that match whatever a name would: of the same form under the rule."""
    forms = {name: f" {name} " if run.rule == PAPER else run.rule.entry(name) for name in names}
    wanted, found = set(forms.values()) - {None}, dict[str | None, int]()
    for entry_id, entry in enumerate(run.metadata.entries.to_pylist()):
        form = f" {entry} " if run.rule == PAPER else run.rule.entry(entry)
        if form in wanted:
            found.setdefault(form, entry_id)
    return {name: found[form] for name, form in forms.items() if form in found}


def _text_column(run: Run, schema: Any, path: Path) -> str | None:
    if path.parent.name == "matched":
        return "text" if "text" in schema.names else None
    return pools.find_columns(schema, str(path), run.match["columns"]["text"]).text


def summarise(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up one list's rows {name, entry_id, count, kept}: shares at zero and divergences, over names of known count."""
    known = [row for row in rows if row["count"] is not None]
    digest = hashlib.sha256("\n".join(row["name"] for row in rows).encode()).hexdigest()
    return {
        "name": name,
        "digest": digest,
        "names": len(rows),
        "known": len(known),
        "zero": sum(row["count"] == 0 for row in known) / max(1, len(known)),
        "zero_kept": sum(row["kept"] == 0 for row in known) / max(1, len(known)),
        "divergence": divergence(row["count"] for row in known),
        "divergence_kept": divergence(row["kept"] for row in known),
        "entries": list(rows),
    }


def divergence(counts: Iterable[int]) -> float | None:
    """Give KL(p, uniform) of counts in nats: 0 to ln n; None where all are zero."""
    values = [int(value) for value in counts]
    total = sum(values)
    if not total:
        return None
    terms = (value / total * math.log(value / total * len(values)) for value in values if value)
    return max(0.0, math.fsum(terms))
