"""The matcher: finds for each text the sorted set of ids of the entries that match. Arrow in, Arrow out.

    matcher = Matcher(metadata)                  # or Matcher("list.txt", TextRule(fold_case=True))
    matcher.match(["a photo of a dog"])          # ListArray of uint32

A list with languages is matched by the language of each text (`metaclip.matching.routing`):

    matcher = Matcher("worldwide.parquet", TextRule(unspaced_scripts="fixed"))
    matcher.match(["ein Hund", "猫カフェ"], languages=["de", "ja"])

Any number of threads may share a matcher: it is never modified, and the native backend runs without the GIL.
Cost: 0.15-0.3 us per text of 59 bytes under the paper's rule, one thread; rules that rewrite texts add 0.3-2 us, in Python, for
each text that is not simple.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.arguments import Column, as_column, check_type, check_types
from metaclip.errors import MetaclipError
from metaclip.matching import MATCHES, Backend, count_matches
from metaclip.matching.automaton import build, open_automaton
from metaclip.matching.native_backend import NativeBackend
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata, MetadataLike, as_metadata
from metaclip.native import load

if TYPE_CHECKING:
    from metaclip.matching.language_lists import LanguageLists
    from metaclip.matching.routing import Routing

BackendName = Literal["native", "pyahocorasick"]
Texts: TypeAlias = Column | Sequence[str | None]


class Matcher:
    """Finds the entries of a list in texts.

    >>> from metaclip import Matcher, Metadata, TextRule
    >>> matcher = Matcher(["dog", "hot dog"], TextRule(fold_case=True))
    >>> matches = matcher.match(["A hot dog.", None, "Dogs"])
    >>> matches.to_pylist()
    [[0, 1], None, []]
    >>> matcher.count(matches)
    array([1, 1], dtype=uint64)
    >>> both = Matcher(Metadata(["dog", "Hund"], language=["en", "de"]), also=["en"])
    >>> both.match(["Hund", "dog", "Hund dog"], languages=["en", "en", "de-AT"]).to_pylist()
    [[], [0], [0, 1]]
    """

    def __init__(
        self,
        metadata: MetadataLike | None = None,
        rule: TextRule = PAPER,
        *,
        languages: Sequence[str] | None = None,
        also: Sequence[str] = (),
        backend: BackendName | None = None,
        cache: str | os.PathLike[str] | bool = True,
    ) -> None:
        """Open the automaton of a list (a Metadata, a path, or strings; default: the shipped list) under a rule.

        Of a list with languages, one automaton is opened for each language when a text of it comes; `languages` are the ones
        to search (None for all), `also` those to search in all texts. Raise MetaclipError for one that the list does not have,
        and for `languages` and `also` with a list without languages.

        `cache` is the folder of built automata; True stands for the default folder, False builds the automaton in memory.
        Both backends give the same matches: "native" is the compiled library, the default where it is installed;
        "pyahocorasick" builds an automaton of its own, and is 40 times slower.
        """
        if backend not in (None, *get_args(BackendName)):
            raise ValueError(f"backend is {backend!r}, must be 'native' or 'pyahocorasick'")
        check_type("rule", rule, TextRule)
        self.metadata, self.rule = as_metadata(metadata), rule
        self._options: dict[str, Any] = {
            "languages": languages, "also": also, "backend": backend, "cache": cache,
        }  # fmt: skip
        self._backend: Backend
        self._lists: LanguageLists | None = None
        if self.metadata.languages:
            from metaclip.matching.language_lists import LanguageLists
            from metaclip.matching.routing import Routing

            routing = Routing([*self.metadata.languages], languages, also)
            self._lists = LanguageLists(self.metadata, routing, self._open_backend)
        elif languages is not None or also:
            raise MetaclipError(
                "languages are chosen, but the query list has none; leave them out, or give a list with a column 'language'"
            )
        else:
            self._backend = self._open_backend(self.metadata)

    def _open_backend(self, metadata: Metadata) -> Backend:
        """Open the automaton of a list without languages."""
        backend, cache = self._options["backend"], self._options["cache"]
        if backend == "pyahocorasick" or (backend is None and load() is None):
            from metaclip.matching.pyahocorasick_backend import PyAhocorasickBackend

            return PyAhocorasickBackend(metadata, self.rule)
        if cache is False:
            return NativeBackend(build(metadata, self.rule))
        folder = None if cache is True else Path(cache)
        return NativeBackend(open_automaton(metadata, self.rule, folder))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the list and the rule; the automaton is opened again from the cache of the machine."""
        return functools.partial(Matcher, **self._options), (self.metadata, self.rule)

    def __repr__(self) -> str:
        """Show the list, and what the rule changes in the paper's."""
        return f"Matcher({self.metadata!r}, {self.rule!r})"

    @property
    def routing(self) -> Routing | None:
        """What says which lists a text is matched against; None for a list without languages."""
        return None if self._lists is None else self._lists.routing

    def match(self, texts: Texts, languages: Texts | None = None) -> pa.Array | pa.ChunkedArray:
        """Find the entries in each text.

        `texts` is a list of strings, or a column of strings of any library that speaks Arrow (pyarrow, polars, pandas);
        slices and nulls are allowed, and bytes that are not UTF-8 count as characters that no entry holds. `languages` are
        the codes of their languages, null if not known, in any of the forms that `metaclip.matching.routing` reads; a list
        with languages needs them, and one without ignores them. Return a ListArray of uint32 (a ChunkedArray for a
        pa.ChunkedArray): sorted distinct entry ids, null for a null text.
        """
        array = as_column("texts", texts, pa.string())
        if self._lists is not None:
            return self._match_lists(array, languages)
        if isinstance(array, pa.ChunkedArray):
            return pa.chunked_array([self.match(chunk) for chunk in array.chunks], MATCHES)
        if pa.types.is_dictionary(array.type):
            return self.match(array.dictionary).take(array.indices)
        return self._backend.match_array(_plain("texts", array))

    def _match_lists(
        self, texts: pa.Array | pa.ChunkedArray, languages: Texts | None
    ) -> pa.Array | pa.ChunkedArray:
        assert self._lists is not None
        if languages is None:
            raise MetaclipError(
                "the query list has languages: give the language of each text too (null where it is not known)"
            )
        codes = as_column("languages", languages, pa.string())
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        if len(codes) != len(texts):
            raise ValueError(f"{len(codes)} languages beside {len(texts)} texts")
        codes = _plain("languages", codes)
        if not isinstance(texts, pa.ChunkedArray):
            return self._lists.match_array(_plain("texts", texts), codes)
        made, first = [], 0
        for chunk in texts.chunks:
            made.append(
                self._lists.match_array(_plain("texts", chunk), codes[first : first + len(chunk)])
            )
            first += len(chunk)
        return pa.chunked_array(made, MATCHES)

    def find(self, text: str, language: str | None = None) -> list[int]:
        """Find the entries in one text; return ascending entry ids. For loaders that have no batches; 2 us per text.

        `language` is the code of its language, None if it is not known; a list without languages ignores it.
        """
        check_types(text=(text, str), language=(language, str | None))
        if self._lists is not None:
            return self._lists.match_text(text, language)
        return self._backend.match_text(text)

    def count(self, matches: Column) -> npt.NDArray[np.uint64]:
        """Count the texts that match each entry, given the result of `match`: uint64[number of entries]."""
        return count_matches(as_column("matches", matches, MATCHES), len(self.metadata))


def _plain(name: str, column: pa.Array) -> pa.Array:
    """Return a column as a string or large_string array. Raise TypeError if it is of another type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise TypeError(f"{name} are {column.type}, must be string, large_string or dictionary of these")
    return column
