"""Symbols: the form of words and characters in the kernels, and the table of the known ones.

A key is 12 bytes: the symbol's own bytes, up to 11, and its length; for a longer symbol, a hash and its length. A Bloom
filter, small enough for a second-level cache, recognises most unknown symbols. The table is a perfect hash by
displacement: the bucket of a key's hash holds a displacement, and hash and displacement determine the only slot in which
the key can be.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from metaclip.native.layout import BYTES, LONGEST, MULTIPLIER, SHORT, SYMBOLS
from metaclip.native.raw import at64, get8, get32, get64, inner

u64, i64 = np.uint64, np.int64

LONG: Final = u64(0xFF000000)
"""The second half of a long key is at least this."""

_SHORT: Final = i64(SHORT)
_ONE: Final = u64(1)
_BIT: Final = u64(63)
_ALL: Final = u64(0xFFFFFFFFFFFFFFFF)
# Odd 64-bit constants with well mixed bits: SplitMix64's and two of its relatives.
_B: Final = u64(0xBF58476D1CE4E5B9)
_C: Final = u64(0x94D049BB133111EB)


@inner
def _long_hash(start, size):
    h = get64(start, 0) * MULTIPLIER
    h ^= h >> u64(32)
    at = start + 8
    end = start + size
    while at + 8 <= end:
        h = (h ^ get64(at, 0)) * _B
        h ^= h >> u64(29)
        at += 8
    h = (h ^ get64(end - 8, 0)) * _C
    return h ^ (h >> u64(32))


@inner
def key(start, size):
    """Return the key of the symbol of `size` bytes at `start`; 12 bytes are read there, whatever the size."""
    if size > _SHORT:
        return _long_hash(start, size), LONG | u64(size if size < LONGEST else LONGEST)
    # Branch-free: the lengths of words are unpredictable.
    bits = 8 * size
    over = bits - 64
    head = get64(start, 0) & ((_ALL >> u64(-over if over < 0 else 0)) if size > 0 else u64(0))
    tail = u64(get32(start, 2)) & ((_ONE << u64(over if over > 0 else 0)) - _ONE)
    return head, tail | u64(size << 24)


@inner
def hash_of(head, tail, seed):
    """Hash a key under a seed."""
    h = (head ^ (tail * seed)) * MULTIPLIER
    return h ^ (h >> u64(32))


@inner
def slot_of(h, displacement, shift):
    """Return the slot that a hash and its bucket's displacement determine."""
    return i64(((h ^ (u64(displacement) * _B)) * _C) >> shift)


@inner
def may_be_known(bloom, shift, h):
    """Look a hash up in the Bloom filter: 0 only if no symbol has it, mostly 1 otherwise (as uint64)."""
    word = get64(bloom, i64(h >> shift))
    return (word >> (h & _BIT)) & (word >> ((h >> u64(6)) & _BIT)) & _ONE


@inner
def same_bytes(machine, symbol, start, size):
    """Find the symbol of exactly these bytes among those that share a key with `symbol`; 0 if there is none."""
    symbols = at64(machine, SYMBOLS)
    while symbol:
        first = get32(symbols, 2 * symbol)
        if get32(symbols, 2 * symbol + 2) - first == size:
            at = at64(machine, BYTES) + first
            j = i64(0)
            while j < size and get8(at, j) == get8(start, j):
                j += 1
            if j == size:
                return symbol
        symbol = get32(symbols, 2 * symbol + 1)
    return i64(0)


def _fill_bloom(hashes, words, shift):
    """Add hashes to the empty Bloom filter that `may_be_known` reads."""
    for h in hashes:
        words[h >> shift] |= (_ONE << (h & _BIT)) | (_ONE << ((h >> u64(6)) & _BIT))


def _symbol_keys(blob, symbols, n_symbols, seed, heads, tails, hashes):
    """Compute the keys of an automaton's symbols 1..n_symbols (arrays of n_symbols + 1)."""
    for i in range(1, n_symbols + 1):
        first = get32(symbols, 2 * i)
        size = get32(symbols, 2 * i + 2) - first
        head, tail = key(blob + first, size)
        heads[i] = head
        tails[i] = np.uint32(tail)
        hashes[i] = hash_of(head, tail, seed)


def _displace(hashes, order, bucket_starts, buckets, shift, displacements, used, slots):
    """Find for each bucket the first displacement that sends its keys to free slots; largest buckets come first.

    `order` holds the keys by bucket. Return False if there is none for some bucket.
    """
    for b in buckets:
        begin = bucket_starts[b]
        end = bucket_starts[b + 1]
        if begin == end:
            break
        placed = False
        for displacement in range(256):
            j = begin
            while j < end:
                slot = slot_of(hashes[order[j]], displacement, shift)
                if used[slot]:
                    break
                used[slot] = True
                slots[order[j]] = slot
                j += 1
            if j == end:
                displacements[b] = displacement
                placed = True
                break
            for k in range(begin, j):
                used[slots[order[k]]] = False
        if not placed:
            return False
    return True


KERNELS: Final[dict[str, tuple[Any, Any]]] = {
    "symbol_keys": (
        _symbol_keys,
        types.void(*[types.int64] * 3, types.uint64, types.uint64[::1], types.uint32[::1], types.uint64[::1]),
    ),
    "fill_bloom": (_fill_bloom, types.void(types.uint64[::1], types.uint64[::1], types.uint64)),
    "displace": (
        _displace,
        types.boolean(
            types.uint64[::1], types.int64[::1], types.int64[::1], types.int64[::1], types.uint64,
            types.uint8[::1], types.boolean[::1], types.int64[::1],
        ),
    ),
}  # fmt: skip
