"""All pairs of images whose two hashes both differ in at most d bits: multi-index hashing, exact and out of core.

Two hashes of 64 bits that differ in at most d bits, cut into d + 1 blocks, have some block in common (Norouzi, Punjani and
Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014, section 3). Both hashes of a pair have one, so
for each block of the pHash and each of the dHash, images are sorted by the bits of the two blocks, and those with equal
bits are compared. With d = 4 that is 25 sorts by 26 bits: among 10 M images of random hashes, each is compared with 0.15
others in each of them, among 10 M of photographs with 10 times as many, for some bits of hashes are seldom alone.

A pair is written once, by the first blocks that it has in common. Pairs are (later, earlier), places in a file of hashes
in the order in which images are preferred, as a sorted run.

Memory: 24 bytes per hash of a part of the buckets, and 60 MB; each part reads all hashes anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from metaclip.inspect.hashes import BITS, Hashes

PAIR_BYTES: Final = 24
"""Memory per hash of a part of the buckets while pairs are found."""
MAX_HASHES: Final = 1 << 32
_BLOCK: Final = 1 << 20
Pairs = npt.NDArray[np.uint64]


def blocks_of(distance: int) -> list[tuple[int, int]]:
    """Return distance + 1 blocks of the bits of a hash: (lowest bit, number of bits)."""
    cuts = [BITS * i // (distance + 1) for i in range(distance + 2)]
    return [(low, high - low) for low, high in itertools.pairwise(cuts)]


def find_pairs(
    hashes: npt.NDArray[np.uint64], distance: int, block: int, part: int = 0, parts: int = 1
) -> Iterator[Pairs]:
    """Yield pairs of rows of uint64[n, 2] (pHash, dHash) that block number `block` of the pHash finds first.

    Only those in one of `parts` parts of the buckets. Each array is uint64[m, 2] of (later row, earlier row).
    """
    blocks = blocks_of(distance)
    for second in range(len(blocks)):
        packed = _sorted_keys(hashes, blocks[block], blocks[second], part, parts)
        for one, other in _neighbours(packed):
            differ = hashes[one] ^ hashes[other]
            near = (np.bitwise_count(differ) <= distance).all(axis=1)
            for column, number in ((0, block), (1, second)):
                near &= _bits(differ[:, column], blocks[number]) == 0  # keys may be equal by chance
                for earlier in blocks[:number]:  # which found the pair already
                    near &= _bits(differ[:, column], earlier) != 0
            if near.any():
                one, other = one[near], other[near]
                yield np.stack([np.maximum(one, other), np.minimum(one, other)], axis=1)


def _sorted_keys(
    hashes: npt.NDArray[np.uint64], first: tuple[int, int], second: tuple[int, int], part: int, parts: int
) -> Hashes:
    """Return key << 32 | row of the hashes in a part of the buckets, sorted; hashes with equal blocks have equal keys."""
    found = [np.zeros(0, np.uint64)]
    for begin in range(0, len(hashes), _BLOCK):
        some = hashes[begin : begin + _BLOCK]
        mixed = _bits(some[:, 0], first) * _FACTORS[0] + _bits(some[:, 1], second) * _FACTORS[1]
        keys = mixed >> _HALF
        packed = keys << _HALF | np.arange(begin, begin + len(some), dtype=np.uint64)
        found.append(packed if parts == 1 else packed[keys % np.uint64(parts) == part])
    packed = np.concatenate(found)
    packed.sort()
    return packed


def _bits(hashes: Hashes, block: tuple[int, int]) -> Hashes:
    low, bits = block
    return (hashes >> np.uint64(low)) & np.uint64((1 << bits) - 1)


def _neighbours(packed: Hashes) -> Iterator[tuple[Hashes, Hashes]]:
    """Yield all pairs of rows with equal keys, at most _BLOCK at a time."""
    keys = (packed >> _HALF).astype(np.uint32)
    at, step = np.flatnonzero(keys[1:] == keys[:-1]), 1
    while len(at):
        for begin in range(0, len(at), _BLOCK):
            some = at[begin : begin + _BLOCK]
            yield packed[some] & _ROW, packed[some + step] & _ROW
        step += 1
        at = at[at + step < len(keys)]
        at = at[keys[at] == keys[at + step]]


_HALF: Final = np.uint64(32)
_ROW: Final = np.uint64((1 << 32) - 1)
_FACTORS: Final = np.array([0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93], np.uint64)
