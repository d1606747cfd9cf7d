"""The first pass of matching: texts to key rows of symbols, a chunk at a time.

A key row is 32 bytes: {head, tail, hash, address}; of the address, bit 63 says that the symbol is its text's last one.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from metaclip.curation.layout import BLOCK, CHUNK, END_BIT, SEED, SPACED, START, TEXT
from metaclip.curation.raw import at64, get8, get64, inner, lowest_bit, put64, separators64
from metaclip.curation.symbol_kernel import hash_of, key

u64, i64 = np.uint64, np.int64

_SPLIT_ROOM: Final = 2 * 64 + 2  # symbols that one block of 64 bytes and the end of its text can give
_ONE: Final = u64(1)
_END: Final = u64(1 << END_BIT)
_ALL: Final = u64(0xFFFFFFFFFFFFFFFF)


@inner
def _put_row(keys, n, head, tail, h, address):
    row = keys + 32 * n
    put64(row, 0, head)
    put64(row, 1, tail)
    put64(row, 2, h)
    put64(row, 3, u64(address))


@inner
def _put(keys, n, start, size, seed):
    """Append the key row {head, tail, hash, address} (32 bytes) of a symbol."""
    head, tail = key(start, size)
    _put_row(keys, n, head, tail, hash_of(head, tail, seed), start)


@inner
def _put_end(keys, n, emitted, seed):
    """Mark the last symbol of a text; where it has none, append a row that no symbol equals and mark that."""
    if not emitted:
        _put_row(keys, n, u64(0), _ALL, u64(0), i64(0))
        n += 1
    last = 4 * n - 1
    put64(keys, last, get64(keys, last) | _END)
    return n


@inner
def split_words(machine, starts, stops, n_texts, fold, state, keys):
    """Split texts into words until the chunk is full; give the number of keys."""
    n = i64(0)
    seed = get64(machine, SEED)
    t = at64(state, TEXT)
    start = at64(state, START)
    block = at64(state, BLOCK)
    while t < n_texts:
        stop = at64(stops, t)
        if block == 0:
            start = at64(starts, t)
            block = start
        while block < stop and n + _SPLIT_ROOM <= CHUNK:
            both, marks = separators64(block)
            if stop - block < 64:
                both &= (_ONE << u64(stop - block)) - _ONE
            while both:
                bit = lowest_bit(both)
                at = block + bit
                _put(keys, n, start, at - start, seed)
                n += i64((at != start) | (not fold))
                # Written always, kept if it is a mark: cheaper than a branch that cannot be predicted.
                _put(keys, n, at, i64(1), seed)
                n += i64((marks >> u64(bit)) & _ONE)
                start = at + 1
                both &= both - _ONE
            block += 64
        if block < stop or n + 2 > CHUNK:
            break
        # A null stops before it starts and has no symbol, not even the empty word.
        emitted = stop > start or (stop == start and not fold)
        if emitted:
            _put(keys, n, start, stop - start, seed)
            n += 1
        n = _put_end(keys, n, emitted, seed)
        t += 1
        block = i64(0)
    put64(state, TEXT, t)
    put64(state, START, start)
    put64(state, BLOCK, block)
    return n


@inner
def _put_space(keys, n, unwanted, seed):
    """Append the key of a space, unless it is unwanted."""
    head = u64(32)
    tail = u64(1 << 24)
    _put_row(keys, n, head, tail, hash_of(head, tail, seed), i64(0))
    return n + i64(not unwanted)


@inner
def split_characters(machine, starts, stops, n_texts, fold, state, keys):
    """Split texts into the characters of their padded, spaced form until the chunk is full, as `split_words` does."""
    n = i64(0)
    seed = get64(machine, SEED)
    t = at64(state, TEXT)
    at = at64(state, BLOCK)
    spaced = at64(state, SPACED) != 0  # whether the last symbol was a space
    while t < n_texts and n + 4 <= CHUNK:
        start = at64(starts, t)
        stop = at64(stops, t)
        if at == 0:
            at = start
            spaced = stop >= start
            n = _put_space(keys, n, not spaced, seed)
        while at < stop and n + 4 <= CHUNK:
            c = get8(at, 0)
            if c == 32 or c == 9 or c == 10 or c == 13:
                n = _put_space(keys, n, fold and spaced, seed)
                spaced = True
                at += 1
            elif c == 44 or c == 46 or c == 59 or c == 58 or c == 63 or c == 33 or c == 96:
                n = _put_space(keys, n, fold and spaced, seed)
                _put(keys, n, at, i64(1), seed)
                n = _put_space(keys, n + 1, False, seed)
                spaced = True
                at += 1
            else:
                size = i64(1) + i64(c >= 0xC0) + i64(c >= 0xE0) + i64(c >= 0xF0)
                # What is not UTF-8 must not hide a separator: only continuation bytes belong to a character.
                follow = i64(1)
                while follow < size and at + follow < stop and (get8(at, follow) & 0xC0) == 0x80:
                    follow += 1
                _put(keys, n, at, follow, seed)
                n += 1
                spaced = False
                at += follow
        if at < stop or n + 2 > CHUNK:
            break
        emitted = stop >= start and not (fold and spaced)
        if emitted:
            n = _put_space(keys, n, False, seed)
        n = _put_end(keys, n, emitted, seed)
        t += 1
        at = i64(0)
    put64(state, TEXT, t)
    put64(state, BLOCK, at)
    put64(state, SPACED, i64(spaced))
    return n


def _split_only(machine, starts, stops, n_texts, state, keys):
    """Run the first pass alone, for the benchmark; give the number of words."""
    total = i64(0)
    while at64(state, TEXT) < n_texts:
        total += split_words(machine, starts, stops, n_texts, False, state, keys)
    return total


KERNELS: Final[dict[str, tuple[Any, Any]]] = {"split": (_split_only, types.int64(*[types.int64] * 6))}
