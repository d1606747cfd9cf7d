"""Sample captions: up to five kept captions for each entry, so that a reader sees what a number is made of.

Drawn by a hash of entry and caption, so the same whatever the shards and workers; a caption of several pairs is one
caption. What a published page must not show is left out before the draw: captions with urls, e-mail addresses or
telephone numbers (patterns that rather drop too much), with blocked words, control characters, or over 300 bytes.
Cost: 3 us a kept pair; memory for five captions an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.card.run_files import read_schema
from metaclip.curate.draw import mixed
from metaclip.curate.tables import read_pairs
from metaclip.matching import ids_and_offsets
from metaclip.matching.matcher import Matcher
from metaclip.pool.columns import find_columns, plain_texts
from metaclip.pool.uid import uids_of

SAMPLES_PER_ENTRY: Final = 5
_MOST_BYTES: Final = 300
_PRIVATE: Final = "|".join(
    [
        r"(?i)[a-z][a-z0-9+.-]*://|\bwww\d?\.",
        r"(?i)\b[a-z0-9-]+\.(com|net|org|info|biz|edu|gov|io|co|me|tv|eu|uk|de|fr|it|es|nl|pl|ru|cn|jp|in|br|au|ca|us)\b",
        r"\S@\S",
        r"(\+|\b)\d(?:[\s().\-/]{0,3}\d){6,}",  # seven digits or more, however they are grouped
        r"[\x00-\x1f\x7f\x{80}-\x{9f}]",
    ]
)


_SCHEMA: Final = pa.schema([("entry", pa.uint32()), ("rank", pa.uint64()), ("text", pa.large_string())])
"""Samples are a table of captions: a row is a caption for an entry, `rank` a hash that orders the captions of one entry."""


def merge_samples(parts: Iterable[pa.Table]) -> pa.Table:
    """Merge the samples of files or batches into one table: those of lowest rank for each entry."""
    whole = _SCHEMA.empty_table()
    for part in parts:
        whole = _lowest_ranks(pa.concat_tables([whole, part]))
    return whole


def _lowest_ranks(samples: pa.Table) -> pa.Table:
    """Return up to `SAMPLES_PER_ENTRY` captions of lowest rank for each entry, without repetitions, in order."""
    entry, rank = samples["entry"].to_numpy(), samples["rank"].to_numpy()
    order = np.lexsort((rank, entry))
    entry, rank = entry[order], rank[order]
    repeated = (np.diff(entry, prepend=~entry[:1]) == 0) & (np.diff(rank, prepend=rank[:1]) == 0)
    order, entry = order[~repeated], entry[~repeated]
    return samples.take(order[np.arange(len(entry)) - np.searchsorted(entry, entry) < SAMPLES_PER_ENTRY])


def samples_by_entry(samples: pa.Table, n_entries: int) -> pa.Array:
    """Return the captions of each entry: list<string>[n_entries]."""
    offsets = np.searchsorted(samples["entry"].to_numpy(), np.arange(n_entries + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), samples["text"].combine_chunks().cast(pa.string()))


def draw_samples(path: Path, text_column: str | None, blocked: Matcher | None) -> pa.Table:
    """Draw samples from one file of curated/."""

    def batches() -> Iterator[pa.Table]:
        name = find_columns(read_schema(path), str(path), text_column).text
        for batch in read_pairs(path, [name, "matches"]):
            texts = plain_texts(batch.column(name)).cast(pa.large_string())
            shown = pa.array(np.flatnonzero(showable(texts, blocked)))
            texts, matches = texts.take(shown), batch.column("matches").take(shown)
            hashes = uids_of(texts, None, None)[:, 0]
            entry, offsets = ids_and_offsets(matches)
            row = np.repeat(np.arange(len(texts)), np.diff(offsets))
            rank = mixed(hashes[row] ^ mixed(entry.astype(np.uint64) + np.uint64(1)))
            yield _lowest_ranks(
                pa.table({"entry": entry, "rank": rank, "text": texts.take(pa.array(row))})
            )

    return merge_samples(batches())


def showable(texts: pa.Array, blocked: Matcher | None) -> npt.NDArray[np.bool_]:
    """Return which captions a published page may show: bool[n]."""
    hidden = pc.or_(
        pc.match_substring_regex(texts, _PRIVATE), pc.greater(pc.binary_length(texts), _MOST_BYTES)
    )
    shown = ~pc.fill_null(hidden, True).to_numpy(zero_copy_only=False)
    if blocked is not None:
        shown &= np.diff(np.asarray(blocked.match(texts).offsets)) == 0
    return np.asarray(shown)
