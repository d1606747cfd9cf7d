"""Near hashes: every pair within the distance is found, once, and no other; a naive comparison of all pairs is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip.inspect.near import blocks_of, find_pairs


def planted(n: int, seed: int, flips: int) -> np.ndarray:
    """Return hashes of which half differ from an earlier one in up to `flips` bits of each, in few distinct regions."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 1 << 64, (n, 2), np.uint64)
    hashes[n // 4 : n // 2] &= np.uint64(0xFFFF)  # crowded buckets
    for row in range(max(1, n // 2), n):
        hashes[row] = hashes[rng.integers(0, row)]
        for column in range(2):
            for _ in range(rng.integers(0, flips + 1)):
                hashes[row, column] ^= np.uint64(1) << np.uint64(rng.integers(0, 64))
    return hashes


def naive(hashes: np.ndarray, distance: int) -> list[tuple[int, int]]:
    """Return all pairs (later, earlier) within the distance in both hashes."""
    return [
        (one, other)
        for one in range(len(hashes))
        for other in range(one)
        if all(
            int(a ^ b).bit_count() <= distance for a, b in zip(hashes[one], hashes[other], strict=True)
        )
    ]


def found(hashes: np.ndarray, distance: int, parts: int = 1) -> list[tuple[int, int]]:
    """Return the pairs that the blocks and parts find together."""
    pairs = [
        tuple(pair)
        for block in range(distance + 1)
        for part in range(parts)
        for some in find_pairs(hashes, distance, block, part, parts)
        for pair in some.tolist()
    ]
    return sorted(pairs)


@settings(max_examples=40)
@given(
    st.integers(0, 10**6), st.sampled_from([0, 1, 2, 3, 4, 6, 8]), st.integers(1, 4), st.integers(0, 120)
)
def test_all_pairs_are_found_once(seed: int, distance: int, parts: int, n: int) -> None:
    """What is found is what a comparison of all pairs finds, for any distance and in any number of parts."""
    hashes = planted(n, seed, distance + 1)
    expected = naive(hashes, distance)
    assert found(hashes, distance, parts) == expected
    if n > 100:
        assert expected, "nothing to find"


@pytest.mark.parametrize("distance", range(9))
def test_blocks_cover_a_hash(distance: int) -> None:
    """The blocks are one more than the distance, and together all bits."""
    blocks = blocks_of(distance)
    assert len(blocks) == distance + 1
    assert sum(((1 << bits) - 1) << low for low, bits in blocks) == (1 << 64) - 1
