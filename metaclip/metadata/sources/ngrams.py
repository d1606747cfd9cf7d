"""Words and pairs of words of a Wikipedia, as candidates: by count, PMI or normalised PMI.

PMI (see `metaclip.metadata.sources.pmi`) grows as words get rarer: at PMI >= 30 both words occur about 1 to 4 times in all of
Wikipedia, and with N < 1.07 G nothing can pass. So the default ranks pairs of some count by NPMI; the paper's rule is
rank = "pmi", min_pmi = 30, min_count = 1.

Memory: words of the minimum count and 2 M pairs at a time, 2.3 GB for 12 M words; and what
passes, unless `limit` bounds it.
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.engine.contract import Engine
from metaclip.errors import MetaclipError
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import dump_count, spill
from metaclip.metadata.sources.dump_count import BIGRAMS, UNIGRAMS, DumpCounts
from metaclip.metadata.sources.pmi import pmi
from metaclip.storage import download

Kind = Literal["unigram", "bigram"]

LICENCE: Final = "CC BY-SA 4.0"
_PAIRS: Final = 1 << 21
"""Pairs that are looked up at a time: each look-up makes the words' table of hashes anew."""


@dataclasses.dataclass(frozen=True)
class NgramSettings:
    """Which words or pairs of words of a dump are candidates."""

    counts: str = "wikipedia-counts"
    """Folder of the dump's counts, shared by words and pairs: made, or taken up where it stopped."""
    dump: str | None = None
    """The dump: a file, a folder, or a pattern; None: `counts` is finished."""
    url: str | None = None
    """Where the files that `dump`, then a folder, lacks are fetched: "https://dumps.wikimedia.org/enwiki/20240101/"."""
    wiki: str = "enwiki"
    """Whose dump it must be."""
    min_count: int = 100
    """The least count; of a pair: how often the two words stand side by side."""
    rank: Literal["count", "pmi", "npmi"] = "npmi"
    """Which pairs are best; words are always ranked by count."""
    min_pmi: float | None = None
    """The least PMI of a pair."""
    min_npmi: float | None = None
    """The least normalised PMI of a pair, -1 to 1."""
    limit: int | None = None
    """Give the best so many; None: all that pass."""
    contact: str = ""
    """How the publisher reaches who downloads: an address of mail or page, for the user agent."""

    def __post_init__(self) -> None:
        """Refuse what no source could fulfil."""
        if self.url is not None and self.dump is None:
            raise ValueError("url needs dump, the folder that the files are fetched into")
        if self.url is not None and glob.has_magic(self.dump or ""):
            raise ValueError(f"dump is the pattern {self.dump!r}, with url it must be the folder to fetch into")
        if self.min_count < 1:
            raise ValueError(f"min_count is {self.min_count}, must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}, must be at least 1")
        if self.min_npmi is not None and not -1 <= self.min_npmi <= 1:
            raise ValueError(f"min_npmi is {self.min_npmi}, must be from -1 to 1")


def candidates(
    settings: NgramSettings,
    kind: Kind,
    *,
    workers: int | None = None,
    memory: int = dump_count.MEMORY,
    engine: Engine | None = None,
) -> Candidates:
    """Give the words or pairs of words of a dump that pass, best first; count the dump first where that is to be done.

    Ties go to the larger count, then to the lesser string. Scores are counts, or the measure that ranks pairs. Raise
    MetaclipError for what `dump_count.count` refuses, and if nothing passes.
    """
    if kind == "unigram" and (settings.min_pmi is not None or settings.min_npmi is not None):
        raise MetaclipError("min_pmi and min_npmi are for pairs of words: one word has none; take them out")
    if settings.dump is None:
        counts = dump_count.opened(settings.counts)
    else:
        if settings.url is not None:
            download.fetch_dump(settings.url, Path(settings.dump), contact=settings.contact)
        counts = dump_count.count(
            settings.dump, settings.wiki, settings.counts, workers=workers, memory=memory, engine=engine
        )
    tables = _unigrams(counts, settings) if kind == "unigram" else _bigrams(counts, settings)
    best, passed = spill.best_first(tables, settings.limit)
    if not len(best):
        raise MetaclipError(_nothing(counts, settings, kind))
    record = counts.record
    facts = {
        "licence": LICENCE,
        "passed": passed,
        "left_out": {"below the thresholds": record[f"{kind}s"] - passed},
        **{key: record[key] for key in ("wiki", "language", "schema", "parser", "dump", "tokens", f"{kind}s")},
        "pages": record["funnel"],
    }
    return Candidates(spill.whole(best["key"]), spill.whole(best["score"]), facts)


def _unigrams(counts: DumpCounts, settings: NgramSettings) -> Iterator[pa.Table]:
    for table in spill.read(counts.folder / UNIGRAMS):
        some = table.filter(pc.greater_equal(table["count"], settings.min_count))
        yield some.append_column("score", some["count"].cast(pa.float64()))


def _bigrams(counts: DumpCounts, settings: NgramSettings) -> Iterator[pa.Table]:
    # No pair is more frequent than its words, so that words below its minimum count are not needed.
    words = pa.concat_tables(
        table.filter(pc.greater_equal(table["count"], settings.min_count))
        for table in spill.read(counts.folder / UNIGRAMS)
    ).combine_chunks()
    of_word = words["count"].to_numpy()
    pairs = (
        table.filter(pc.greater_equal(table["count"], settings.min_count))
        for table in spill.read(counts.folder / BIGRAMS)
    )
    for table in spill.gathered(pairs, _PAIRS):
        both = spill.whole(pc.split_pattern(table["key"], " ")).flatten()
        places = pc.index_in(both, value_set=spill.whole(words["key"])).to_numpy().reshape(-1, 2)
        c12 = table["count"].to_numpy()
        information, normalised = pmi(c12, of_word[places[:, 0]], of_word[places[:, 1]], counts.tokens)
        keep = np.ones(len(table), bool)
        if settings.min_pmi is not None:
            keep &= information >= settings.min_pmi
        if settings.min_npmi is not None:
            keep &= normalised >= settings.min_npmi
        score = {"count": c12.astype(np.float64), "pmi": information, "npmi": normalised}[settings.rank]
        yield table.append_column("score", pa.array(score)).filter(pa.array(keep))


def _nothing(counts: DumpCounts, settings: NgramSettings, kind: Kind) -> str:
    asked: dict[str, Any] = {
        "min_count": settings.min_count,
        "min_pmi": settings.min_pmi,
        "min_npmi": settings.min_npmi,
    }
    rule = ", ".join(f"{key} = {value}" for key, value in asked.items() if value is not None)
    return (
        f"none of the {counts.record[f'{kind}s']:,} {kind}s of {counts.folder} passes {rule} "
        f"({counts.tokens:,} words in all); lower these, or count a larger dump"
    )
