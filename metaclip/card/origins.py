"""Where kept pairs come from: the hosts of their urls, and their languages where the pool names them.

Counted over all shards in bounded memory by lossy counting (Manku and Motwani, 2002): whenever a table holds too many
names, those counted at most `floor` times are dropped and the floor rises; a count is then too small by at most the
floor, which is reported. Below a million hosts nothing is dropped and counts are exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.pool import pool as pools

MOST: Final = 1_000_000
LANGUAGES: Final = ("lang", "language")
"""Names of the column of languages (metaclip extract, LAION), in any case of letters."""
_HOST: Final = r"^(?i:https?)://(?:[^/?#@]*@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:?#\s]+)"


@dataclasses.dataclass
class Tally:
    """Counts by name; `floor` is by how much each may be too small."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    total: int = 0
    """Pairs that have a name at all."""
    floor: int = 0
    most: int = MOST

    def add(self, counts: Mapping[str, int], total: int, floor: int = 0) -> None:
        """Add counts of other pairs."""
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number
        self.total += total
        self.floor += floor
        while len(self.counts) > self.most:
            least = sorted(self.counts.values())[len(self.counts) // 2]
            self.counts = {name: number - least for name, number in self.counts.items() if number > least}
            self.floor += least

    def top(self, n: int) -> list[dict[str, Any]]:
        """Give the n largest: [{name, pairs}], ties by name."""
        order = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:n]
        return [{"name": name, "pairs": number} for name, number in order]


@dataclasses.dataclass
class Origins:
    """Hosts and languages of kept pairs; None where the pool has no such column."""

    hosts: Tally | None = None
    languages: Tally | None = None

    def add(self, other: Origins) -> None:
        """Add those of another shard."""
        for name in ("hosts", "languages"):
            theirs: Tally | None = getattr(other, name)
            if theirs is not None:
                mine = getattr(self, name) or Tally()
                mine.add(theirs.counts, theirs.total, theirs.floor)
                setattr(self, name, mine)


def merge(parts: Iterable[Origins]) -> Origins:
    """Put shards together."""
    whole = Origins()
    for part in parts:
        whole.add(part)
    return whole


def origins_shard(path: Path, url_column: str | None = None) -> Origins:
    """Count one file of curated/."""
    with pq.ParquetFile(path) as file:
        names = {name.lower(): name for name in reversed(file.schema_arrow.names)}
        url = url_column or next((names[name] for name in pools.URL_NAMES if name in names), None)
        language = next((names[name] for name in LANGUAGES if name in names), None)
        found = Origins(None if url is None else Tally(), None if language is None else Tally())
        wanted = [name for name in (url, language) if name is not None]
        for batch in file.iter_batches(pools.BATCH_ROWS, columns=wanted, use_threads=False) if wanted else ():
            if found.hosts is not None:
                _count(found.hosts, hosts(batch.column(url)))
            if found.languages is not None:
                _count(found.languages, batch.column(language).cast(pa.string()))
    return found


def hosts(urls: pa.Array) -> pa.Array:
    """Give each url's host in lower case, without "www."; null where it is no http url."""
    found = pc.struct_field(pc.extract_regex(urls.cast(pa.string()), _HOST), "host")
    return pc.replace_substring_regex(pc.utf8_lower(found), r"^www\.(.+\..+)", r"\1")


def _count(tally: Tally, names: pa.Array) -> None:
    counts = pc.value_counts(names.drop_null()).to_pylist()
    tally.add({item["values"]: item["counts"] for item in counts}, sum(item["counts"] for item in counts))
