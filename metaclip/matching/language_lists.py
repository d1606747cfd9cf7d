"""Matching against a query list with languages: each text against the lists of its own language.

There is one automaton for each language, opened when the first text of that language comes. Its file is that of the
language's entries as a list without languages, so it is shared by all workers, and by other lists that have the same
entries of this language. Ids are those of the whole list: an entry's row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.matching import MATCHES, Backend, ids_and_offsets
from metaclip.matching.routing import Routing
from metaclip.metadata import Metadata

_MOST: Final = 2**31 - 1
_Found = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]
"""Ids of all texts, and the offsets of those of each text."""


class LanguageLists:
    """Finds entries of the lists that a `Routing` names in texts; any number of threads may share it."""

    def __init__(
        self, metadata: Metadata, routing: Routing, open_backend: Callable[[Metadata], Backend]
    ) -> None:
        """Open no automaton yet; `open_backend` makes the backend of a list without languages."""
        self.routing, self._metadata, self._open = routing, metadata, open_backend
        self._backends: dict[str, Backend] = {}
        self._lock = threading.Lock()

    def _backend(self, language: str) -> Backend:
        with self._lock:
            if (found := self._backends.get(language)) is None:
                found = self._backends[language] = self._open(self._metadata.of_language(language))
            return found

    def match_array(self, texts: pa.Array, codes: pa.Array) -> pa.Array:
        """Match a string or large_string array whose languages have these codes; return an array of the type MATCHES."""
        groups, group_of = self.routing.route(codes)
        # Texts of one group stand side by side, in slices that need no copy.
        order = np.argsort(group_of.astype(np.min_scalar_type(len(groups))), kind="stable")
        side_by_side = texts.take(pa.array(order)).cast(pa.large_string())
        bounds = np.searchsorted(group_of[order], np.arange(len(groups) + 1)).tolist()
        found = [
            self._match_group(side_by_side[begin:end], group)
            for group, begin, end in zip(groups, bounds, bounds[1:], strict=False)
            if begin < end
        ]
        if not found:
            return pa.array([], MATCHES)
        ids = np.concatenate([ids for ids, _ in found])
        sizes = np.concatenate([np.diff(offsets) for _, offsets in found]).astype(np.int64)
        # Back to the order of the texts.
        begins, own_sizes = np.empty(len(texts), np.int64), np.empty(len(texts), np.int64)
        begins[order], own_sizes[order] = np.cumsum(sizes) - sizes, sizes
        offsets = np.concatenate([[0], np.cumsum(own_sizes)])
        if offsets[-1] > _MOST:
            raise ValueError("over 2**31 matches in one array of texts; pass fewer texts at a time")
        values = ids[np.repeat(begins - offsets[:-1], own_sizes) + np.arange(len(ids))]
        made = pa.ListArray.from_arrays(
            pa.array(offsets.astype(np.int32)), pa.array(values), type=MATCHES
        )
        return _with_nulls_of(texts, made) if texts.null_count else made

    def match_text(self, text: str, code: str | None) -> list[int]:
        """Match one text; return the ascending entry ids."""
        return sorted(
            self._metadata.languages[name].start + entry_id
            for name in self.routing.lists_of(code)
            for entry_id in self._backend(name).match_text(text)
        )

    def _match_group(self, texts: pa.Array, group: Sequence[str]) -> _Found:
        """Match texts against all lists of a group; return (ids of all texts, offsets of those of each text)."""
        found = []
        for name in sorted(group, key=lambda name: self._metadata.languages[name].start):
            ids, offsets = ids_and_offsets(self._backend(name).match_array(texts))
            found.append((ids + np.uint32(self._metadata.languages[name].start), offsets))
        if not found:
            return np.empty(0, np.uint32), np.zeros(len(texts) + 1, np.int64)
        return found[0] if len(found) == 1 else _side_by_side(found, len(texts))


def _side_by_side(found: Sequence[_Found], n: int) -> _Found:
    """Join the ids of each of n texts in several lists, given as (ids, offsets), in the order of the lists."""
    sizes = [np.diff(offsets) for _, offsets in found]
    bounds = np.concatenate([[0], np.cumsum(sum(sizes))]).astype(np.int64)
    made, begin = np.empty(bounds[-1], np.uint32), bounds[:-1].copy()
    for (ids, offsets), size in zip(found, sizes, strict=True):
        made[np.repeat(begin - offsets[:-1], size) + np.arange(len(ids))] = ids
        begin += size
    return made, bounds


def _with_nulls_of(texts: pa.Array, matches: pa.Array) -> pa.Array:
    """Return matches, null where the text is null; the texts of these rows match nothing."""
    valid = texts.is_valid().to_numpy(zero_copy_only=False)
    return pa.Array.from_buffers(
        MATCHES, len(matches), [pa.py_buffer(np.packbits(valid, bitorder="little")), matches.buffers()[1]],
        texts.null_count, children=[matches.values],
    )  # fmt: skip
