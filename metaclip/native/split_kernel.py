"""The first pass of matching: from texts to key rows of symbols, a chunk at a time.

A key row is 32 bytes: {head, tail << 32 | position, hash, address}. Positions number all symbols of the chunk, kept or
not, and skip one number behind each text, so that symbols of two texts are never consecutive.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from metaclip.native.layout import BLOCK, BLOOM, BLOOM_SHIFT, CHUNK, POSITIONS, SEED, SPACED, START, TEXT
from metaclip.native.raw import at64, get8, get64, inner, lowest_bit, put64, separators64
from metaclip.native.symbol_kernel import hash_of, key, may_be_known

u64, i64 = np.uint64, np.int64

_SPLIT_ROOM: Final = 2 * 64 + 2  # symbols that one block of 64 bytes and the end of its text can give
_ONE: Final = u64(1)


@inner
def _put_row(keys, n, head, tail, position, h, address):
    row = keys + 32 * n
    put64(row, 0, head)
    put64(row, 1, (tail << u64(32)) | u64(position))
    put64(row, 2, h)
    put64(row, 3, u64(address))


@inner
def _put(keys, n, start, size, position, seed):
    """Append the key row of a symbol; return its hash."""
    head, tail = key(start, size)
    h = hash_of(head, tail, seed)
    _put_row(keys, n, head, tail, position, h, start)
    return h


@inner
def _put_end(ends, ended, n, position):
    """Record the end of a text: {key rows, positions} (2 x int64) up to it; return the first position of the next text."""
    put64(ends, 2 * ended, n)
    put64(ends, 2 * ended + 1, position)
    return position + 1


def _splitter(every):
    """Return the function that splits into words: with a key row for `every` word, or only for words that may be known."""

    @inner
    def split_words(machine, starts, stops, n_texts, fold, state, keys, ends):
        """Split texts into words until the chunk is full; return the number of key rows."""
        n = i64(0)
        position = i64(0)
        ended = i64(0)
        seed = get64(machine, SEED)
        bloom = at64(machine, BLOOM)
        bloom_shift = get64(machine, BLOOM_SHIFT)
        t = at64(state, TEXT)
        start = at64(state, START)
        block = at64(state, BLOCK)
        while t < n_texts:
            stop = at64(stops, t)
            if block == 0:
                start = at64(starts, t)
                block = start
            while block < stop and position + _SPLIT_ROOM <= CHUNK:
                both, marks = separators64(block)
                if stop - block < 64:
                    both &= (_ONE << u64(stop - block)) - _ONE
                while both:
                    bit = lowest_bit(both)
                    at = block + bit
                    # Always written, kept if it is wanted: a branch would be unpredictable.
                    h = _put(keys, n, start, at - start, position, seed)
                    there = i64((at != start) | (not fold))
                    n += there if every else there & i64(may_be_known(bloom, bloom_shift, h))
                    position += there
                    if (marks >> u64(bit)) & _ONE:  # most separators are blanks
                        _put(keys, n, at, i64(1), position, seed)
                        n += 1
                        position += 1
                    start = at + 1
                    both &= both - _ONE
                block += 64
            if block < stop or position + 2 > CHUNK:
                break
            # A null stops before it starts and has no symbols, not even the empty word.
            there = i64((stop > start) | ((stop == start) & (not fold)))
            h = _put(keys, n, start, (stop - start) * there, position, seed)
            n += there if every else there & i64(may_be_known(bloom, bloom_shift, h))
            position = _put_end(ends, ended, n, position + there)
            ended += 1
            t += 1
            block = i64(0)
        put64(state, TEXT, t)
        put64(state, START, start)
        put64(state, BLOCK, block)
        put64(state, POSITIONS, position)
        return n

    return split_words


split_words, _split_every_word = _splitter(every=False), _splitter(every=True)


@inner
def _put_space(keys, n, position, seed):
    """Append the key row of a space."""
    head = u64(32)
    tail = u64(1 << 24)
    _put_row(keys, n, head, tail, position, hash_of(head, tail, seed), i64(0))


@inner
def split_characters(machine, starts, stops, n_texts, fold, state, keys, ends):
    """Split texts into the characters of their padded, spaced form until the chunk is full, as `split_words` does.

    All characters are kept, because nearly all are known.
    """
    n = i64(0)
    gap = i64(0)  # position - n: one for each text that has ended
    seed = get64(machine, SEED)
    t = at64(state, TEXT)
    at = at64(state, BLOCK)
    spaced = at64(state, SPACED) != 0  # whether the last symbol was a space
    while t < n_texts and n + gap + 4 <= CHUNK:
        start = at64(starts, t)
        stop = at64(stops, t)
        if at == 0:
            at = start
            spaced = stop >= start
            _put_space(keys, n, n + gap, seed)
            n += i64(spaced)
        while at < stop and n + gap + 4 <= CHUNK:
            c = get8(at, 0)
            if c == 32 or c == 9 or c == 10 or c == 13:
                _put_space(keys, n, n + gap, seed)
                n += i64(not (fold and spaced))
                spaced = True
                at += 1
            elif c == 44 or c == 46 or c == 59 or c == 58 or c == 63 or c == 33 or c == 96:
                _put_space(keys, n, n + gap, seed)
                n += i64(not (fold and spaced))
                _put(keys, n, at, i64(1), n + gap, seed)
                _put_space(keys, n + 1, n + 1 + gap, seed)
                n += 2
                spaced = True
                at += 1
            else:
                size = i64(1) + i64(c >= 0xC0) + i64(c >= 0xE0) + i64(c >= 0xF0)
                # Invalid UTF-8 must not hide a separator: only continuation bytes belong to a character.
                follow = i64(1)
                while follow < size and at + follow < stop and (get8(at, follow) & 0xC0) == 0x80:
                    follow += 1
                _put(keys, n, at, follow, n + gap, seed)
                n += 1
                spaced = False
                at += follow
        if at < stop or n + gap + 2 > CHUNK:
            break
        _put_space(keys, n, n + gap, seed)
        n += i64(stop >= start and not (fold and spaced))
        _put_end(ends, gap, n, n + gap)
        gap += 1
        t += 1
        at = i64(0)
    put64(state, TEXT, t)
    put64(state, BLOCK, at)
    put64(state, SPACED, i64(spaced))
    put64(state, POSITIONS, n + gap)
    return n


def _split_only(machine, starts, stops, n_texts, state, keys, ends):
    """Run the first pass alone, for the benchmark, with a row for every word; return the number of words."""
    total = i64(0)
    while at64(state, TEXT) < n_texts:
        total += _split_every_word(machine, starts, stops, n_texts, False, state, keys, ends)
    return total


KERNELS: Final[dict[str, tuple[Any, Any]]] = {"split": (_split_only, types.int64(*[types.int64] * 7))}
