"""The matching kernels: from texts in Arrow's buffers to sorted sets of entry ids, without Python objects.

An entry matches if its symbols are consecutive in the text. A symbol is a *word* (the string between two spaces of the
spaced text, which may be empty) or, for entries whose edges get no space, a *character* of the padded text. Both are
processed in the same passes over chunks of a few thousand symbols, because separate passes keep many memory reads in
flight, where a single pass would wait for each:

1. split     find the separators 64 bytes at a time; a symbol becomes a key of 12 bytes that holds its own bytes up to
             11 of them (a longer one: a hash and its length), and a hash of the key. Two thirds of real words are not
             in a real list: a Bloom filter removes nearly all of them.
2. look up   a perfect hash (hash and displace): one small read for the displacement, one for the only slot where the
             key can be. No probing, so no branch that depends on the data. A hit on a short key compares the bytes
             themselves; a long one is confirmed on its bytes. The slot names the symbol's own entry, which is output at
             once: most matches consist of one word, and need no automaton.
3. walk      Aho-Corasick over symbol ids, where a known symbol follows another and passes a filter of one bit per edge.
4. collect   sort and deduplicate the ids of each text.

Cost, one thread, 500,000 entries, web captions of 59 bytes: 0.13 + 0.04 + 0.03 + 0.04 us per text (tests/bench).

The functions are scalar loops over addresses and numbers with explicit signatures: a compiled extension could replace
them. They raise nothing. The first and the third pass are in `split_kernel` and `walk_kernel`, keys and their table in
`symbol_kernel`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from metaclip.native.layout import (
    BEFORE,
    BUCKETS,
    CANDIDATES,
    CHUNK,
    DEEPER,
    DISPLACEMENTS,
    ENDS,
    FIRSTS,
    IN_ONE,
    KEYS,
    KNOWN,
    LONGEST,
    N_RAW,
    NODES,
    OUTPUTS,
    RAW,
    RAW_ROOM,
    SHIFT,
    SLOTS,
    TEXT,
    WRITTEN,
)
from metaclip.native.raw import at64, get8, get32, get64, inner, prefetch, put32, put64, sort8, sort16
from metaclip.native.split_kernel import split_characters, split_words
from metaclip.native.symbol_kernel import LONG, same_bytes, slot_of
from metaclip.native.walk_kernel import NEVER, walk, walk_longest

u64, i64 = np.uint64, np.int64

_LOW: Final = u64(0xFFFFFFFF)
_LONG: Final = LONG << u64(32)


@inner
def _put_outputs(nodes, source, raw, out):
    """Append the entry ids of `source` and of the outputs that follow it; return the number of ids."""
    while source:
        entry = get32(nodes, 4 * source + 1)
        put32(raw, out, entry - 1)
        out += i64(entry != 0)
        source = get32(nodes, 4 * source + 2)
    return out


def _look_up(entries):
    """Return the second pass, with or without the `entries` of single symbols."""

    @inner
    def look_up(machine, keys, n, known, before, state, raw):
        """Write a row {symbol id, position} (2 x uint32) for each known symbol; return their number.

        With entries, `raw` receives the ids of the entries that are one known symbol, and `before` the number of ids in
        `raw` before each key row (and behind the last one); without entries, the number of known rows.
        """
        slots = at64(machine, SLOTS)
        shift = get64(machine, SHIFT)
        buckets = get64(machine, BUCKETS)
        displacements = at64(machine, DISPLACEMENTS)
        for i in range(n):
            h = get64(keys, 4 * i + 2)
            place = slots + 32 * slot_of(h, get8(displacements, i64(h & buckets)), shift)
            prefetch(place)
            put64(keys, 4 * i + 2, u64(place))
        found = i64(0)
        out = at64(state, N_RAW)
        for i in range(n):
            put32(before, i, out if entries else found)
            row = keys + 32 * i
            place = at64(row, 2)
            word = get64(place, 1)
            tail = get64(row, 1)
            same = i64(((get64(place, 0) ^ get64(row, 0)) | ((word ^ tail) >> u64(32))) == 0)
            symbol = word & _LOW
            outputs = get64(place, 2)
            if word >= _LONG and same:  # the key holds a hash: the bytes decide
                symbol = u64(same_bytes(machine, i64(symbol), at64(row, 3), i64((tail >> u64(32)) & u64(LONGEST))))
                outputs = get64(at64(machine, NODES) + 16 * i64(symbol) + 4, 0)
                same = i64(symbol != 0)
            # Always written, kept if it is known: a branch would be unpredictable.
            put64(known, found, symbol | (tail << u64(32)))
            found += same
            if entries:
                put32(raw, out, (outputs & _LOW) - u64(1))
                out += i64((outputs & _LOW) != 0) & same
                if outputs > _LOW and same:
                    out = _put_outputs(at64(machine, NODES), i64(outputs >> u64(32)), raw, out)
        put32(before, n, out if entries else found)
        put64(state, N_RAW, out)
        return found

    return look_up


_look_up_entries, _look_up_symbols = _look_up(entries=True), _look_up(entries=False)


@inner
def _sort_unique(source, n, target):
    """Write the sorted set of `n` uint32 at `source` to `target` (may be `source`); return its size.

    Up to IN_ONE values are read and written, whatever `n` is.
    """
    if n <= 8:
        return sort8(source, n, target)
    if n <= IN_ONE:
        return sort16(source, n, target)
    # Shellsort with Sedgewick's gaps: at worst n^(4/3), so that a text of 10 MB cannot stall it, and quick to compile.
    for i in range(n):
        put32(target, i, get32(source, i))
    level = i64(0)
    while i64(1) << (2 * level) < n:
        level += 1
    while level >= 0:
        gap = (i64(1) << (2 * level)) + 3 * (i64(1) << level >> 1) + i64(level > 0)
        for i in range(gap, n):
            value = get32(target, i)
            place = i
            while place >= gap and get32(target, place - gap) > value:
                put32(target, place, get32(target, place - gap))
                place -= gap
            put32(target, place, value)
        level -= 1
    size = i64(1)
    for i in range(1, n):
        value = get32(target, i)
        put32(target, size, value)
        size += i64(value != get32(target, size - 1))
    return size


def _matcher(words, longest):
    """Return the kernel for one alphabet, with or without hiding shorter matches: each is compiled only if it is used."""
    split = split_words if words else split_characters
    look_up = _look_up_symbols if longest else _look_up_entries

    def match(machine, fold, starts, stops, n_texts, state, scratch, values, values_room, offsets):
        """Match texts until all are done (0) or `values` must grow (1); call again with the same state to continue.

        Addresses: `starts`, `stops` int64[n_texts], the texts' addresses (a null's stop lies before its start), with
        READABLE readable bytes behind each text; `values` uint32[values_room], `offsets` int64[n_texts + 1] the result
        as Arrow's list layout; `machine`, `state` and `scratch` vectors as `layout` says.
        """
        keys = at64(scratch, KEYS)
        known = at64(scratch, KNOWN)
        before = at64(scratch, BEFORE)
        ends = at64(scratch, ENDS)
        raw = at64(scratch, RAW)
        firsts = at64(scratch, FIRSTS)
        burst = CHUNK * at64(machine, OUTPUTS) + IN_ONE
        while at64(state, TEXT) < n_texts:
            written = at64(state, WRITTEN)
            if written + at64(state, N_RAW) + burst > values_room:
                return 1
            # A long text: without duplicates, its ids are at most all entries.
            if at64(state, N_RAW) + burst > at64(scratch, RAW_ROOM):
                put64(state, N_RAW, _sort_unique(raw, at64(state, N_RAW), raw))
            text = at64(state, TEXT)
            deeper = at64(scratch, DEEPER)
            n = split(machine, starts, stops, n_texts, fold, state, keys, ends)
            done = at64(state, TEXT) - text
            found = look_up(machine, keys, n, known, before, state, raw)
            if longest:
                walk_longest(machine, known, before, ends, done, found, state, raw, firsts)
                put32(deeper, 0, NEVER)
            else:
                walk(machine, known, found, state, at64(scratch, CANDIDATES), deeper)
            begin = i64(0)
            more = get32(deeper, 0)  # position of the next id that the walk has found
            for t in range(done):
                end = at64(ends, 2 * t) if longest else get32(before, at64(ends, 2 * t))
                behind = at64(ends, 2 * t + 1)
                source = raw + 4 * begin
                size = end - begin
                if more < behind:
                    for i in range(size):
                        put32(values, written + i, get32(source, i))
                    source = values + 4 * written
                    while more < behind:
                        put32(source, size, get32(deeper, 1))
                        size += 1
                        deeper += 8
                        more = get32(deeper, 0)
                written += _sort_unique(source, size, values + 4 * written)
                put64(offsets, text + t + 1, written)
                begin = end
            put64(state, WRITTEN, written)
            # The ids of the text that continues in the next chunk move to the front.
            left = at64(state, N_RAW) - begin
            for i in range(left):
                put32(raw, i, get32(raw, begin + i))
                if longest:
                    put64(firsts, i, at64(firsts, begin + i))
            while more != NEVER:
                put32(raw, left, get32(deeper, 1))
                left += 1
                deeper += 8
                more = get32(deeper, 0)
            put64(state, N_RAW, left)
        return 0

    return match


def _unite(first, first_offsets, second, second_offsets, n_texts, values, offsets):
    """Unite the sorted sets of each text of two results into one; all addresses, layouts as in `match`."""
    written = i64(0)
    put64(offsets, 0, written)
    for t in range(n_texts):
        i = at64(first_offsets, t)
        i_end = at64(first_offsets, t + 1)
        j = at64(second_offsets, t)
        j_end = at64(second_offsets, t + 1)
        while i < i_end or j < j_end:
            if j == j_end or (i < i_end and get32(first, i) < get32(second, j)):
                put32(values, written, get32(first, i))
                i += 1
            else:
                put32(values, written, get32(second, j))
                j += 1
            written += 1
        put64(offsets, t + 1, written)


_MATCH: Final = types.int64(types.int64, types.boolean, *[types.int64] * 8)
KERNELS: Final[dict[str, tuple[Any, Any]]] = {
    "words": (_matcher(words=True, longest=False), _MATCH),
    "words_longest": (_matcher(words=True, longest=True), _MATCH),
    "characters": (_matcher(words=False, longest=False), _MATCH),
    "characters_longest": (_matcher(words=False, longest=True), _MATCH),
    "unite": (_unite, types.void(*[types.int64] * 7)),
}
