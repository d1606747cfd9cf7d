"""Pointwise mutual information of pairs of words, from counts.

With N the sum of all counts of words, c1 and c2 those of a pair's words and c12 its own:

    PMI  = log2(c12 * N / (c1 * c2))        "Demystifying CLIP Data", section 3.1: bigrams of PMI >= 30
    NPMI = PMI / -log2(c12 / N)             1 where the two words never stand apart, 0 where they meet by chance (Bouma 2009)
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_DIGITS: Final = 6
"""Of a logarithm that is kept: the last bits of log2 differ between processors, and the order must not."""

Values = npt.NDArray[Any]


def pmi(c12: Values, c1: Values, c2: Values, tokens: int) -> tuple[Values, Values]:
    """Compute PMI and normalised PMI of pairs (float64) from counts (int64) and the sum of all counts of words.

    Rounded to six digits after the point. A pair that is all there is (c12 = N) has NPMI 1.
    """
    together, apart = c12.astype(np.float64) * tokens, c1.astype(np.float64) * c2
    information = np.log2(together / apart)
    self_information = -np.log2(c12 / tokens)
    normalised = np.divide(information, self_information, out=np.ones_like(information), where=self_information > 0)
    return np.round(information, _DIGITS), np.round(normalised, _DIGITS)
