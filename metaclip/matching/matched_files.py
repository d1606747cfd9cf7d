"""Files of pairs that were matched as they were extracted: what a parquet file says of the pairs that it lacks.

``metaclip extract --matched`` writes only pairs that match an entry. Such a file can be matched again by the same list and
rule alone, and the pairs that were not written belong to its pool: they are rows that match nothing. So the metadata of the
file holds the list, the rule and their number, wherever the file goes. Another program that writes some of its rows to a
file may copy the metadata; since the number of rows is then another one, the pairs that were not written are not counted.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from metaclip.errors import BrokenInput
from metaclip.matching.text_rule import TextRule

_KEY: Final = b"metaclip.matched"
_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class MatchedFile(msgspec.Struct, frozen=True):
    """By what the pairs of a file were matched, and how many."""

    list: str
    """The digest of the query list."""
    rule: TextRule
    pairs: _Number
    """Number of pairs that match an entry: the rows of the file."""
    unmatched: _Number
    """Number of pairs that match none, and were not written."""

    def metadata(self) -> dict[bytes, bytes]:
        """Return the metadata of the parquet file."""
        return {_KEY: msgspec.json.encode(self)}


def read_matched_file(metadata: Any, path: str) -> MatchedFile | None:
    """Read the metadata of a parquet file; return None if it was not matched. Raise BrokenInput if it is damaged."""
    if not metadata or (data := metadata.get(_KEY)) is None:
        return None
    try:
        return msgspec.json.decode(data, type=MatchedFile)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise BrokenInput(
            f"{path} says by a damaged record what its pairs were matched by; extract it again"
        ) from None
