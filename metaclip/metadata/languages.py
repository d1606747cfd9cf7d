"""The languages of a query list: which rows are of which, and what a code may look like."""

from __future__ import annotations

import re
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from metaclip.errors import MetaclipError

_CODE: Final = re.compile(r"[A-Za-z0-9]{1,8}(?:[-_][A-Za-z0-9]{1,8}){0,3}")
"""The codes of BCP 47 and of Wikipedia: en, zh-Hant, be-x-old, pt_BR; names such as "other" have the same form."""


def is_language_code(code: str) -> bool:
    """Return whether a string has the form of a code: letters and digits of ASCII, in up to four parts of at most eight."""
    return _CODE.fullmatch(code) is not None


def language_ranges(language: pa.Array, name: str, first_row: int) -> dict[str, range]:
    """Return the rows of each language, in the list's order.

    `language` is an array of strings; `name` and `first_row` are for messages. Raise MetaclipError for a language that is
    null, that is no code, or whose rows do not stand together.
    """
    runs = pc.run_end_encode(language)
    ranges: dict[str, range] = {}
    start = 0
    for code, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        where = f"{name}, row {start + first_row}"
        if code is None:
            raise MetaclipError(
                f"{where}: the language is null; name it, or leave the whole column out for a list without languages"
            )
        if not is_language_code(code):
            raise MetaclipError(
                f"{where}: the language {code!r:.80} is no code such as en or zh-Hant; correct it"
            )
        if (earlier := ranges.get(code)) is not None:
            raise MetaclipError(
                f"{where}: the language {code!r} stands in two places, here and in row {earlier.start + first_row}; "
                "sort the rows by language"
            )
        ranges[code] = range(start, end)
        start = end
    return ranges
