"""Hosts of the urls of kept pairs, and their languages where the pool names them.

Counted over all shards in bounded memory by lossy counting (Manku and Motwani, 2002): whenever a table holds too many
names, those counted at most `floor` times are dropped and the floor rises; a count is then too small by at most the
floor, which is reported. Below a million hosts nothing is dropped and counts are exact.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from metaclip.card.run_files import first_column, read_schema
from metaclip.curate.tables import read_pairs
from metaclip.pool.columns import URL_NAMES

MOST_NAMES: Final = 1_000_000
LANGUAGE_NAMES: Final = ("lang", "language")
"""Names of the column of languages (metaclip extract, LAION), in any case of letters."""
_HOST: Final = r"^(?i:https?)://(?:[^/?#@]*@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:?#\s]+)"


@dataclasses.dataclass
class LossyCounter:
    """Counts of pairs by name; each may be too small by up to `floor`."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    total: int = 0
    """Number of pairs that have a name at all."""
    floor: int = 0
    most_names: int = MOST_NAMES

    def add(self, counts: Mapping[str, int], total: int, floor: int = 0) -> None:
        """Add counts of other pairs."""
        self.counts.update(counts)
        self.total += total
        self.floor += floor
        while len(self.counts) > self.most_names:
            median = sorted(self.counts.values())[len(self.counts) // 2]
            larger = {name: number - median for name, number in self.counts.items() if number > median}
            self.counts = collections.Counter(larger)
            self.floor += median

    def top(self, n: int) -> list[dict[str, Any]]:
        """Return the n largest counts as [{name, pairs}], ties by name."""
        order = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:n]
        return [{"name": name, "pairs": number} for name, number in order]


def count_hosts(path: Path, url_column: str | None = None) -> dict[str, LossyCounter]:
    """Count the pairs of one file of curated/ by "hosts" and by "languages", each if the file has such a column."""
    schema = read_schema(path)
    columns = {
        "hosts": url_column or first_column(schema, URL_NAMES),
        "languages": first_column(schema, LANGUAGE_NAMES),
    }
    found = {key: column for key, column in columns.items() if column is not None}
    counters = {key: LossyCounter() for key in found}
    for batch in read_pairs(path, list(found.values())) if found else ():
        for key, column in found.items():
            values = (
                url_hosts(batch.column(column))
                if key == "hosts"
                else batch.column(column).cast(pa.string())
            )
            counts = {
                item["values"]: item["counts"] for item in pc.value_counts(values.drop_null()).to_pylist()
            }
            counters[key].add(counts, sum(counts.values()))
    return counters


def url_hosts(urls: pa.Array) -> pa.Array:
    """Return the host of each url in lower case, without "www."; null for what is not an http url."""
    found = pc.struct_field(pc.extract_regex(urls.cast(pa.string()), _HOST), "host")
    return pc.replace_substring_regex(pc.utf8_lower(found), r"^www\.(.+\..+)", r"\1")
