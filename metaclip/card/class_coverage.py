"""Coverage: how often the class names of a benchmark occur in captions, before and after balancing.

    count         matched pairs whose caption contains the name, by the run's text rule
    kept          those of them that were kept
    divergence    KL(p, uniform) = sum of p ln(p n), in nats, p a name's share of all n names' counts: 0 if all names are
                  equally frequent (the appendix of "Demystifying CLIP Data" measures balance so)

A name that is an entry has the entry's figures; in a list with languages it is one of English, or of the first language. Other
names are searched for in the kept captions, and in the matched ones of a run ``--with-text``. Without matched texts their
count is not known, and shares and divergences leave them out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metaclip.card.run_files import find_column
from metaclip.curate.language_thresholds import base_language
from metaclip.curate.run import Run
from metaclip.curate.tables import read_pairs
from metaclip.matching.matcher import Matcher
from metaclip.metadata import Metadata
from metaclip.pool.columns import plain_texts
from metaclip.storage.files import read_lines


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """The class names of one benchmark, in the order of their file; a name may occur twice."""

    name: str
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: str) -> ClassNames:
        """Read a file of one name a line; the file's name names the list. Raise MetaclipError as `read_lines` does."""
        return cls(Path(path).stem, tuple(read_lines(path, "class names")))

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> list[ClassNames]:
        """Return the lists that a card was made with."""
        return [
            cls(one["name"], tuple(row["name"] for row in one["entries"]))
            for one in card.get("classes", [])
        ]


class ClassCoverage:
    """Counts class names in a run: entries by the run's figures, other names by a search of its files."""

    def __init__(self, run: Run, lists: Sequence[ClassNames]) -> None:
        """Find out which names are entries, and prepare the search for the others."""
        self._run, self._lists = run, lists
        names = dict.fromkeys(name for one in lists for name in one.names)
        self._entry_ids = _entry_ids(run, names) if names else {}
        self._others = [name for name in names if name not in self._entry_ids]
        self._matcher = Matcher(Metadata(self._others), run.rule, cache=False) if self._others else None

    def search(self, path: Path) -> Counter[tuple[str, str]]:
        """Count the names that are no entries in a file of matched/ or curated/, by (folder, name).

        The result is empty if there are none, or if the file has no texts.
        """
        if self._matcher is None or (column := find_column(self._run, path, "text")) is None:
            return Counter()
        counts = np.zeros(len(self._others), np.int64)
        for batch in read_pairs(path, [column]):
            found = self._matcher.match(plain_texts(batch.column(column))).flatten().to_numpy()
            counts += np.bincount(found, minlength=len(counts))
        return Counter(
            {(path.parent.name, name): n for name, n in zip(self._others, counts.tolist(), strict=True)}
        )

    def result(self, found: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
        """Return the coverage of each list, as card.json has it; `found` is the sum of what `search` counted."""
        entries = self._run.entries
        count, kept = entries["count"].to_pylist(), entries["kept"].to_pylist()
        rows: dict[str, dict[str, Any]] = {
            name: {"name": name, "entry_id": entry_id, "count": count[entry_id], "kept": kept[entry_id]}
            for name, entry_id in self._entry_ids.items()
        }
        for name in self._others:
            known = found.get(("matched", name)), found["curated", name]
            rows[name] = {"name": name, "entry_id": None, "count": known[0], "kept": known[1]}
        return [_summarise(one.name, [rows[name] for name in one.names]) for one in self._lists]


def _entry_ids(run: Run, names: Iterable[str]) -> dict[str, int]:
    """Find the entries that match exactly the texts that a name would match: they have the same form under the rule."""
    rule, metadata = run.rule, run.metadata
    ids = (
        metadata.languages[base_language(metadata.languages)]
        if metadata.languages
        else range(len(metadata))
    )
    entries = metadata.entries[ids.start : ids.stop].to_pylist()
    forms = {name: rule.entry(name) for name in names}
    wanted = set(forms.values()) - {None}
    rows = reversed([*zip(ids, entries, strict=True)])
    first = {form: i for i, entry in rows if (form := rule.entry(entry)) in wanted}
    return {name: first[form] for name, form in forms.items() if form in first}


def _summarise(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the rows {name, entry_id, count, kept} of a list: shares at zero and divergences, of names of known count."""
    known = [row for row in rows if row["count"] is not None]
    return {
        "name": name,
        "digest": hashlib.sha256("\n".join(row["name"] for row in rows).encode()).hexdigest(),
        "names": len(rows),
        "known": len(known),
        "zero": sum(row["count"] == 0 for row in known) / max(1, len(known)),
        "zero_kept": sum(row["kept"] == 0 for row in known) / max(1, len(known)),
        "divergence": divergence(row["count"] for row in known),
        "divergence_kept": divergence(row["kept"] for row in known),
        "entries": list(rows),
    }


def divergence(counts: Iterable[int]) -> float | None:
    """Return KL(p, uniform) of counts in nats, 0 to ln n; None if all are zero."""
    values = list(counts)
    total = sum(values)
    if not total:
        return None
    terms = (value / total * math.log(value / total * len(values)) for value in values if value)
    return max(0.0, math.fsum(terms))
