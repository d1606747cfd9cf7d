"""The matcher: finds for each text the sorted set of ids of the entries that match. Arrow in, Arrow out.

    matcher = Matcher(metadata)                  # or Matcher("list.txt", TextRule(fold_case=True))
    matcher.match(["a photo of a dog"])          # ListArray of uint32

Any number of threads may share a matcher: it is never modified, and the native backend runs without the GIL.
Cost: 0.15-0.3 us per text of 59 bytes under the paper's rule, one thread; rules that rewrite texts add 0.3-2 us, in Python, for
each text that is not simple.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.arguments import Column, as_column, check_type
from metaclip.matching import MATCHES, Backend, count_matches
from metaclip.matching.automaton import build, open_automaton
from metaclip.matching.native_backend import NativeBackend
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import MetadataLike, as_metadata
from metaclip.native import load

BackendName = Literal["native", "pyahocorasick"]
Texts: TypeAlias = Column | Sequence[str | None]


class Matcher:
    """Finds the entries of a list in texts.

    >>> from metaclip import Matcher, TextRule
    >>> matcher = Matcher(["dog", "hot dog"], TextRule(fold_case=True))
    >>> matches = matcher.match(["A hot dog.", None, "Dogs"])
    >>> matches.to_pylist()
    [[0, 1], None, []]
    >>> matcher.count(matches)
    array([1, 1], dtype=uint64)
    """

    def __init__(
        self,
        metadata: MetadataLike | None = None,
        rule: TextRule = PAPER,
        *,
        backend: BackendName | None = None,
        cache: str | os.PathLike[str] | bool = True,
    ) -> None:
        """Open the automaton of a list (a Metadata, a path, or strings; default: the shipped list) under a rule.

        `cache` is the folder of built automata; True stands for the default folder, False builds the automaton in memory.
        Both backends give the same matches: "native" is the compiled library, the default where it is installed;
        "pyahocorasick" builds an automaton of its own, and is 40 times slower.
        """
        if backend not in (None, *get_args(BackendName)):
            raise ValueError(f"backend is {backend!r}, must be 'native' or 'pyahocorasick'")
        check_type("rule", rule, TextRule)
        self.metadata, self.rule = as_metadata(metadata), rule
        self._options = (backend, cache)
        self._backend: Backend
        if backend == "pyahocorasick" or (backend is None and load() is None):
            from metaclip.matching.pyahocorasick_backend import PyAhocorasickBackend

            self._backend = PyAhocorasickBackend(self.metadata, rule)
        elif cache is False:
            self._backend = NativeBackend(build(self.metadata, rule))
        else:
            folder = None if cache is True else Path(cache)
            self._backend = NativeBackend(open_automaton(self.metadata, rule, folder))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the list and the rule; the automaton is opened again from the cache of the machine."""
        backend, cache = self._options
        return functools.partial(Matcher, backend=backend, cache=cache), (self.metadata, self.rule)

    def __repr__(self) -> str:
        """Show the list, and what the rule changes in the paper's."""
        return f"Matcher({self.metadata!r}, {self.rule!r})"

    def match(self, texts: Texts) -> pa.Array | pa.ChunkedArray:
        """Find the entries in each text.

        `texts` is a list of strings, or a column of strings of any library that speaks Arrow (pyarrow, polars, pandas);
        slices and nulls are allowed, and bytes that are not UTF-8 count as characters that no entry holds. Return a
        ListArray of uint32 (a ChunkedArray for a pa.ChunkedArray): sorted distinct entry ids, null for a null text.
        """
        array = as_column("texts", texts, pa.string())
        if isinstance(array, pa.ChunkedArray):
            return pa.chunked_array([self.match(chunk) for chunk in array.chunks], MATCHES)
        if pa.types.is_dictionary(array.type):
            return self.match(array.dictionary).take(array.indices)
        if pa.types.is_null(array.type):
            array = array.cast(pa.string())
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise TypeError(
                f"texts are {array.type}, must be string, large_string or dictionary of these"
            )
        return self._backend.match_array(array)

    def find(self, text: str) -> list[int]:
        """Find the entries in one text; return ascending entry ids. For loaders that have no batches; 2 us per text."""
        check_type("text", text, str)
        return self._backend.match_text(text)

    def count(self, matches: Column) -> npt.NDArray[np.uint64]:
        """Count the texts that match each entry, given the result of `match`: uint64[number of entries]."""
        return count_matches(as_column("matches", matches, MATCHES), len(self.metadata))
