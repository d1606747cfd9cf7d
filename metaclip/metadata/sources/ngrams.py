"""Words and pairs of words of a Wikipedia dump, as candidates: by count, PMI or normalised PMI.

PMI (see `string_counts.pmi`) grows as words get rarer: at PMI >= 30 both words occur about 1 to 4 times in all of Wikipedia,
and with N < 1.07 G nothing can pass. So the default ranks pairs with a minimum count by NPMI; the paper's rule is
rank = "pmi", min_pmi = 30, min_count = 1.

Memory: words with the minimum count and 2 M pairs at a time, 2.3 GB for 12 M words; and everything that passes, unless
`limit` bounds it.
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.engine import Engine
from metaclip.errors import MetaclipError
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import dump, dump_count
from metaclip.metadata.sources.dump_count import BIGRAMS, UNIGRAMS
from metaclip.metadata.sources.segmentation import BY_ICU, joined
from metaclip.metadata.sources.string_counts import SCHEMA, best_first, pmi, scored_by_count, sums
from metaclip.recipe import check_minimums
from metaclip.stage.stage import FinishedStage

NgramKind = Literal["unigram", "bigram"]

_PAIRS: Final = 1 << 21
"""Number of pairs in a look-up, each of which builds the hash table of the words again."""


@dataclasses.dataclass(frozen=True)
class NgramSettings:
    """The dump, and which of its words or pairs of words are candidates."""

    counts: str = "wikipedia-counts"
    """Folder of the dump's counts, shared by words and pairs; it is created, or continued where a count stopped."""
    dump: str | None = None
    """The dump: a file, a folder, or a pattern; None if `counts` is finished."""
    url: str | None = None
    """Where to fetch the files that the folder `dump` lacks: "https://dumps.wikimedia.org/enwiki/20240101/"."""
    wiki: str = "enwiki"
    """The wiki that the dump must be of."""
    min_count: int = 100
    """The minimum count; for pairs, how often the two words occur side by side."""
    rank: Literal["count", "pmi", "npmi"] = "npmi"
    """The measure that ranks pairs; words are always ranked by count."""
    min_pmi: float | None = None
    """The minimum PMI of a pair."""
    min_npmi: float | None = None
    """The minimum normalised PMI of a pair, -1 to 1."""
    limit: int | None = None
    """The maximum number of candidates; None for all that pass."""
    share: float | None = None
    """The maximum number of candidates as a share of all different words, or pairs of words, of the dump."""
    contact: str = ""
    """A mail address or page by which the publisher can reach the downloader, for the user agent."""

    def __post_init__(self) -> None:
        if self.url is not None and self.dump is None:
            raise ValueError("url needs dump, the folder that the files are fetched into")
        if self.url is not None and glob.has_magic(self.dump or ""):
            raise ValueError(
                f"dump is the pattern {self.dump!r}, with url it must be the folder to fetch into"
            )
        check_minimums(self, min_count=1, limit=1)
        if self.min_npmi is not None and not -1 <= self.min_npmi <= 1:
            raise ValueError(f"min_npmi is {self.min_npmi}, must be from -1 to 1")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}, must be over 0 and at most 1")


def candidates(
    settings: NgramSettings,
    kind: NgramKind,
    *,
    language: str | None = None,
    engine: Engine | None = None,
    memory: int = dump_count.MEMORY,
) -> Candidates:
    """Return the words or pairs of words of a dump that pass, best first; count the dump first if that is not done yet.

    Equal scores are ordered by descending count, then by string. Scores are counts, or the measure that ranks pairs. Words are
    those of `language`, as `dump_count.count` finds them; the two of a pair are joined by a blank or, where ICU finds the
    words, as `segmentation.joined` does, and of pairs that are then one string the best is kept. Raise MetaclipError for a dump
    that `dump_count.count` refuses, and if nothing passes.
    """
    if kind == "unigram" and (settings.min_pmi is not None or settings.min_npmi is not None):
        raise MetaclipError(
            "min_pmi and min_npmi are for pairs of words, and a single word has none; remove them"
        )
    if settings.dump is None:
        counts = dump_count.open_counts(settings.counts)
    else:
        if settings.url is not None:
            dump.download(settings.url, Path(settings.dump), contact=settings.contact)
        counts = dump_count.count(
            settings.dump, settings.wiki, settings.counts, language=language, engine=engine, memory=memory
        )
    record = counts.record
    words = scored_by_count(sums([counts.path / UNIGRAMS], settings.min_count))
    limits = [settings.limit] if settings.limit is not None else []
    if settings.share is not None:
        limits.append(int(settings.share * record[f"{kind}s"]))
    best, passed = best_first(
        words if kind == "unigram" else _bigrams(counts, settings), min(limits, default=None)
    )
    if not len(best):
        thresholds = {
            "min_count": settings.min_count,
            "min_pmi": settings.min_pmi,
            "min_npmi": settings.min_npmi,
        }
        rule = ", ".join(f"{key} = {value}" for key, value in thresholds.items() if value is not None)
        raise MetaclipError(
            f"none of the {record[f'{kind}s']:,} {kind}s of {counts.path} passes {rule} "
            f"({record['tokens']:,} words in all); lower these, or count a larger dump"
        )
    facts = {
        "licence": "CC BY-SA 4.0",
        "passed": passed,
        "left_out": {"below the thresholds": record[f"{kind}s"] - passed},
        **{
            key: record[key]
            for key in ("wiki", "language", "schema", "parser", "dump", "tokens", f"{kind}s")
        },
        "pages": record["funnel"],
    }
    if language in BY_ICU and kind == "bigram":
        scores = dict[str, float]()
        for pair, score in zip(best["key"].to_pylist(), best["score"].to_pylist(), strict=True):
            scores.setdefault(joined(*pair.split(" ")), score)
        return Candidates.of(scores, facts, scores.values())
    return Candidates(best["key"].combine_chunks(), best["score"].combine_chunks(), facts)


def _bigrams(counts: FinishedStage, settings: NgramSettings) -> Iterator[pa.Table]:
    # No pair is more frequent than its words, so words below its minimum count are not needed.
    frequent = sums([counts.path / UNIGRAMS], settings.min_count)
    words = pa.concat_tables([SCHEMA.empty_table(), *frequent])
    least_pmi, least_npmi = (
        -np.inf if least is None else least for least in (settings.min_pmi, settings.min_npmi)
    )
    keys, word_counts = words["key"].combine_chunks(), words["count"].to_numpy()
    for table in sums([counts.path / BIGRAMS], settings.min_count, _PAIRS):
        both = pc.split_pattern(table["key"], " ").combine_chunks().flatten()
        rows = pc.index_in(both, value_set=keys).to_numpy().reshape(-1, 2)
        c12 = table["count"].to_numpy()
        information, normalised = pmi(
            c12, word_counts[rows[:, 0]], word_counts[rows[:, 1]], counts.record["tokens"]
        )
        keep = (information >= least_pmi) & (normalised >= least_npmi)
        score = {"count": c12.astype(np.float64), "pmi": information, "npmi": normalised}[settings.rank]
        yield table.append_column("score", pa.array(score)).filter(pa.array(keep))
