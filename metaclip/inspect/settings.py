"""What determines the result of `metaclip inspect`: the table [inspect] of a recipe, and the reasons in its funnel."""

from __future__ import annotations

import dataclasses
from typing import Final

from metaclip.arguments import check_fields

BROKEN: Final = (
    "malformed_json",
    "missing_image",
    "missing_text",
    "invalid_utf8",
    "oversized_image",
    "broken_image",
)
"""Why training cannot use a sample (`metaclip.training.stream.reader`), in the order of the checks."""


@dataclasses.dataclass(frozen=True)
class InspectSettings:
    """What determines which images stay: the table [inspect] of a recipe."""

    text_column: str | None = None
    """Name of the field with the text, where it is not .txt, text, caption or alt."""
    url_column: str | None = None
    """Name of the url field, where it is not url."""
    uid_column: str | None = None
    """Name of the uid field, where it is not uid."""

    def __post_init__(self) -> None:
        check_fields(self)
