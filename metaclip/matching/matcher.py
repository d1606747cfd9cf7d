"""The matcher: texts in, for each the sorted set of ids of the entries that match; Arrow in, Arrow out.

    matcher = Matcher(metadata)                  # or Matcher("list.txt", TextRule(fold_case=True))
    matcher.match(["a photo of a dog"])          # ListArray of uint32

Any number of threads may use one matcher at once: it is never written to, and the kernel runs without the GIL.
Cost: 0.3 us a text of 59 bytes under the paper's rule, one thread; rules that rewrite texts add 0.3-2 us a text that
is not plain, in Python.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.matching.automaton import Automaton, build
from metaclip.matching.automaton_file import open_automaton
from metaclip.matching.matches import MATCHES
from metaclip.matching.native_backend import KernelEngine
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata.entries import Metadata, as_metadata

Engine = Literal["kernel", "plain", "pyahocorasick"]
Texts: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[str | None]


class Matcher:
    """Finds the entries of a list in texts."""

    def __init__(
        self,
        metadata: Metadata | str | os.PathLike[str] | Iterable[str],
        rule: TextRule = PAPER,
        *,
        engine: Engine = "kernel",
        cache: str | os.PathLike[str] | bool = True,
    ) -> None:
        """Open the automaton of a list (a Metadata, a path, or strings) under a rule.

        `cache` is the folder of built automata, True for the default one, False to build in memory. The engine "plain"
        walks the automaton in Python where the rule lets it (as longest matches do not), which is the sooner done for up
        to 100,000 texts; "pyahocorasick" needs no automaton of ours. All give the same matches.
        """
        self.metadata = as_metadata(metadata)
        self.rule = rule
        self._options = (engine, cache)
        self._find: Any
        if engine == "pyahocorasick":
            from metaclip.matching.pyahocorasick_backend import PyahocorasickEngine

            self._find = PyahocorasickEngine(self.metadata, rule)
        elif engine in ("kernel", "plain"):
            folder = None if isinstance(cache, bool) else Path(cache)
            automaton = build(self.metadata, rule) if cache is False else open_automaton(self.metadata, rule, folder)
            self._find = _finder(automaton, engine)
        else:
            raise ValueError(f"engine is {engine!r}, must be 'kernel', 'plain' or 'pyahocorasick'")

    @classmethod
    def over(
        cls, automaton: Automaton, metadata: Metadata, *, engine: Literal["kernel", "plain"] = "kernel"
    ) -> Matcher:
        """Take an automaton that is open: that of the list `metadata`."""
        made = cls.__new__(cls)
        made.metadata, made.rule, made._options = metadata, automaton.rule, (engine, True)
        made._find = _finder(automaton, engine)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as list and rule; the automaton is opened again from the machine's cache."""
        engine, cache = self._options
        return functools.partial(Matcher, engine=engine, cache=cache), (self.metadata, self.rule)

    def match(self, texts: Texts) -> pa.Array | pa.ChunkedArray:
        """Find the entries in each text.

        `texts` is a string, large_string or dictionary-encoded array, a chunked array of these, or a list of strings;
        slices and nulls are fine, and bytes that are not UTF-8 are characters that no entry holds. Give a ListArray of
        uint32 (a ChunkedArray for a ChunkedArray): sorted distinct entry ids, null for a null text.
        """
        if isinstance(texts, pa.ChunkedArray):
            return pa.chunked_array([self.match(chunk) for chunk in texts.chunks], MATCHES)
        if isinstance(texts, str):
            raise TypeError("texts is one string; pass a list of strings")
        array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
        if pa.types.is_dictionary(array.type):
            return self.match(array.dictionary).take(array.indices)
        if pa.types.is_null(array.type):
            array = array.cast(pa.string())
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise TypeError(f"texts are {array.type}, must be string, large_string or dictionary of these")
        return self._find(array)

    def find(self, text: str) -> list[int]:
        """Find the entries in one text: ascending entry ids. For loaders that have no batch; 7 us a text."""
        found: list[int] = self._find.match_text(text)
        return found

    def count(self, matches: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
        """Count the texts that match each entry: uint64[number of entries], from what `match` gave."""
        from metaclip.matching.count import count_matches

        return count_matches(matches, len(self.metadata))


def _finder(automaton: Automaton, engine: str) -> Any:
    from metaclip.matching.python_backend import PlainEngine

    return PlainEngine(automaton) if engine == "plain" and PlainEngine.walks(automaton) else KernelEngine(automaton)
