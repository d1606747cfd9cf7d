"""The matching kernels: texts in Arrow's buffers in, sorted sets of entry ids out; no Python object per text or match.

An entry matches where its symbols stand in a row in the text. A symbol is a *word* (what stands between two spaces of
the spaced text, the empty word included) or, for entries whose edges get no space, a *character* of the padded text.
Both go the same way, in passes over chunks of a few thousand symbols, because separate passes keep many memory reads in
flight where one pass would wait for each:

1. split     find the separators 64 bytes at a time; a symbol becomes a key of 12 bytes that holds its own bytes up to
             11 of them (a longer one: a hash and its length), and a hash of the key.
2. look up   a perfect hash (hash and displace): one small read for the displacement, one for the only slot where the
             key can be. No probing, so no branch that depends on the data: two thirds of real words are not in a
             real list. A hit on a short key compares the bytes themselves; a long one is confirmed on its bytes.
             Known symbols are packed together with their positions: the rest costs nothing further.
3. walk      Aho-Corasick: goto, fail and output over symbol ids. The node at depth 1 of a symbol has the symbol's own
             id, so that the root has no table; a filter of one bit an edge, small enough for a second-level cache,
             answers for nearly all words without a continuation before the edge table is read.
4. collect   sort and deduplicate the ids of each text.

Cost, one thread, 500,000 entries, web captions of 59 bytes: 0.09 + 0.06 + 0.07 + 0.05 us a text (tests/bench).

The functions are scalar loops over addresses and numbers with explicit signatures: a compiled extension could replace
them. Nothing is raised inside. The first pass stands in `split_kernel`, keys and their table in `symbol_kernel`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from metaclip.curation.layout import (
    BUCKETS,
    BYTES,
    CHUNK,
    DISPLACEMENTS,
    EDGE_MASK,
    EDGE_SHIFT,
    EDGES,
    END_BIT,
    FILTER,
    FILTER_SHIFT,
    LONGEST,
    MULTIPLIER,
    NODE,
    NODES,
    OUTPUTS,
    RAW,
    SHIFT,
    SLOTS,
    SYMBOL,
    SYMBOLS,
    TEXT,
    WRITTEN,
)
from metaclip.curation.raw import at64, get8, get32, get64, inner, prefetch, put32, put64, sort4, sort8
from metaclip.curation.split_kernel import split_characters, split_words
from metaclip.curation.symbol_kernel import LONG, slot_of

u64, i64 = np.uint64, np.int64

_LOW: Final = u64(0xFFFFFFFF)
_ONE: Final = u64(1)
_END: Final = u64(1 << END_BIT)
_POSITION: Final = i64(0x7FFFFFFF)  # in a known row: the bits of the position; the highest says that the text ends


@inner
def _same_bytes(machine, symbol, start, size):
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


@inner
def _look_up(machine, keys, n, known):
    """Write a row {symbol id, position in the chunk} (2 x uint32) for each known symbol and for each text's last one.

    The last one's position carries the highest bit, and its symbol is 0 where it is not known. Give the number of rows.
    """
    slots = at64(machine, SLOTS)
    shift = get64(machine, SHIFT)
    buckets = get64(machine, BUCKETS)
    displacements = at64(machine, DISPLACEMENTS)
    for i in range(n):
        h = get64(keys, 4 * i + 2)
        place = slots + 16 * slot_of(h, get8(displacements, i64(h & buckets)), shift)
        prefetch(place)
        put64(keys, 4 * i + 2, u64(place))
    # One flat loop without a branch on the data: by text and with the check of long keys inside, it took four times as long.
    found = i64(0)
    for i in range(n):
        row = keys + 32 * i
        place = at64(row, 2)
        word = get64(place, 1)
        same = u64(((get64(place, 0) ^ get64(row, 0)) | ((word >> u64(32)) ^ get64(row, 1))) == 0)
        end = get64(row, 3) >> u64(63)
        put64(known, found, (word & (same * _LOW)) | ((u64(i) | (end << u64(31))) << u64(32)))
        found += i64(same | end)
    # A long key holds a hash: the bytes decide. What they refute stays as symbol 0, which ends a row of symbols.
    for i in range(found):
        symbol = get32(known, 2 * i)
        row = keys + 32 * (get32(known, 2 * i + 1) & _POSITION)
        tail = get64(row, 1)
        if tail >= LONG and symbol:
            size = i64(tail & u64(LONGEST))
            put32(known, 2 * i, _same_bytes(machine, symbol, i64(get64(row, 3) & ~_END), size))
    return found


@inner
def _child(machine, node, symbol):
    """Find the child of `node` by `symbol`, 0 if there is none."""
    edges = at64(machine, EDGES)
    wanted = u64(node) | (u64(symbol) << u64(32))
    at = (wanted * MULTIPLIER) >> get64(machine, EDGE_SHIFT)
    while True:
        row = edges + 16 * i64(at)
        child = get32(row, 2)
        if child == 0 or get64(row, 0) == wanted:
            return child
        at = (at + _ONE) & get64(machine, EDGE_MASK)


@inner
def _may_lead(machine, node, symbol):
    """Ask the edges' filter: 0 if `node` has no child by `symbol`, else most often 1."""
    bit = ((u64(node) | (u64(symbol) << u64(32))) * MULTIPLIER) >> get64(machine, FILTER_SHIFT)
    return (get8(at64(machine, FILTER), i64(bit >> u64(3))) >> i64(bit & u64(7))) & 1


@inner
def _step(machine, nodes, node, symbol):
    """Follow goto and fail from `node` by `symbol`."""
    # One test for the root and for the many nodes that lead nowhere by this symbol and have nothing to fall back to.
    if ((_may_lead(machine, node, symbol) & i64(node != 0)) | get32(nodes, 4 * node)) == 0:
        return symbol
    while node:
        if _may_lead(machine, node, symbol):
            child = _child(machine, node, symbol)
            if child:
                return child
        node = get32(nodes, 4 * node)
    return symbol


@inner
def _walk(machine, known, found, n, state, raw, raw_ends):
    """Walk the automaton over the known symbols of a chunk and append entry ids to `raw`; give how many texts ended.

    `raw_ends` gets, for each text that ends in the chunk, the number of ids up to its end.
    """
    nodes = at64(machine, NODES)
    for i in range(found):
        prefetch(nodes + 16 * get32(known, 2 * i))
    out = at64(state, RAW)
    node = at64(state, NODE)
    last = i64(-1)  # position of the symbol before, as far as `node` goes on from it
    done = i64(0)
    for i in range(found):
        place = get32(known, 2 * i + 1)
        at = place & _POSITION
        end = place >> 31
        node = _step(machine, nodes, node * i64(at == last + 1), get32(known, 2 * i))
        # The first output is taken without asking whether there is one: most often there is (the root's row is empty).
        source = node
        while True:
            entry = get32(nodes, 4 * source + 1)
            put32(raw, out, entry - 1)
            out += i64(entry != 0)
            source = get32(nodes, 4 * source + 2)
            if source == 0:
                break
        # No branch on where texts end: it could not be predicted.
        put64(raw_ends, done, out)
        done += end
        last = at - end
    put64(state, RAW, out)
    put64(state, NODE, node * i64(last == n - 1))
    return done


@inner
def _walk_longest(machine, known, found, n, state, raw, raw_ends, firsts):
    """As `_walk`, but keep only occurrences that lie inside no longer one.

    Ends come in ascending order, so an occurrence can only be inside a later one: `raw` is a stack from which a new
    occurrence takes all that begin where it begins or later. `firsts` holds the position of each one's first symbol in
    its text.
    """
    nodes = at64(machine, NODES)
    out = at64(state, RAW)
    node = at64(state, NODE)
    base = at64(state, SYMBOL)  # position in its text of the chunk's first symbol
    bottom = i64(0)  # where the text's ids begin in `raw`
    last = i64(-1)
    done = i64(0)
    for i in range(found):
        place = get32(known, 2 * i + 1)
        at = place & _POSITION
        end = place >> 31
        node = _step(machine, nodes, node * i64(at == last + 1), get32(known, 2 * i))
        source = node
        while source and get32(nodes, 4 * source + 1) == 0:
            source = get32(nodes, 4 * source + 2)
        if source:
            depth = get32(nodes, 4 * source + 3)
            first = base + at + 1 - depth
            while out > bottom and at64(firsts, out - 1) >= first:
                out -= 1
            # Entries that a rule makes equal share their end and their length: all of them are kept.
            while source and get32(nodes, 4 * source + 3) == depth:
                put32(raw, out, get32(nodes, 4 * source + 1) - 1)
                put64(firsts, out, first)
                out += 1
                source = get32(nodes, 4 * source + 2)
        if end:
            put64(raw_ends, done, out)
            done += 1
            base = -(at + 1)
            bottom = out
        last = at - end
    put64(state, RAW, out)
    put64(state, NODE, node * i64(last == n - 1))
    put64(state, SYMBOL, base + n)
    return done


@inner
def _sort_unique(source, n, target):
    """Write the sorted set of `n` uint32 at `source` to `target` (may be `source`); give its size.

    Reads and writes up to eight values, whatever `n` is.
    """
    if n <= 4:
        return sort4(source, n, target)
    if n <= 8:
        return sort8(source, n, target)
    # Shell's sort with Sedgewick's gaps: at worst n^(4/3), so that no text of 10 MB can stall it, and little to compile.
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
    """Give the kernel for one alphabet, with or without hiding shorter matches: only what is used is compiled."""
    split = split_words if words else split_characters

    def match(
        machine, fold, starts, stops, n_texts, state, keys, known,
        raw, raw_room, raw_ends, firsts, values, values_room, offsets,
    ):  # fmt: skip
        """Match texts until all are done (0) or `values` must grow (1); call again with the same state to go on.

        Addresses: `starts`, `stops` int64[n_texts], the texts' addresses (a null's stop lies before its start), with
        READABLE bytes to read behind each text; `values` uint32[values_room], `offsets` int64[n_texts + 1] the result
        as Arrow's list layout; the others scratch (`Scratch` has the sizes).
        """
        burst = CHUNK * at64(machine, OUTPUTS)
        while at64(state, TEXT) < n_texts:
            written = at64(state, WRITTEN)
            if written + at64(state, RAW) + burst > values_room:
                return 1
            if at64(state, RAW) + burst > raw_room:  # a long text: its ids so far are at most all entries once
                put64(state, RAW, _sort_unique(raw, at64(state, RAW), raw))
            text = at64(state, TEXT)
            n = split(machine, starts, stops, n_texts, fold, state, keys)
            found = _look_up(machine, keys, n, known)
            if longest:
                done = _walk_longest(machine, known, found, n, state, raw, raw_ends, firsts)
            else:
                done = _walk(machine, known, found, n, state, raw, raw_ends)
            begin = i64(0)
            for t in range(done):
                end = at64(raw_ends, t)
                written += _sort_unique(raw + 4 * begin, end - begin, values + 4 * written)
                put64(offsets, text + t + 1, written)
                begin = end
            put64(state, WRITTEN, written)
            # The ids of the text that goes on in the next chunk move to the front.
            left = at64(state, RAW) - begin
            for i in range(left):
                put32(raw, i, get32(raw, begin + i))
                if longest:
                    put64(firsts, i, at64(firsts, begin + i))
            put64(state, RAW, left)
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


def _fill_edges(pairs, children, table, shift, mask, bits, bits_shift):
    """Put {node, symbol, child} rows into the empty hash table that `_child` reads, and their bits into the filter."""
    for i in range(len(children)):
        node = pairs[i, 0]
        symbol = pairs[i, 1]
        h = (u64(node) | (u64(symbol) << u64(32))) * MULTIPLIER
        bits[i64(h >> (bits_shift + u64(3)))] |= np.uint8(1) << np.uint8((h >> bits_shift) & u64(7))
        at = h >> shift
        while table[at, 2]:
            at = (at + _ONE) & mask
        table[at, 0] = node
        table[at, 1] = symbol
        table[at, 2] = children[i]


_MATCH: Final = types.int64(types.int64, types.boolean, *[types.int64] * 13)
KERNELS: Final[dict[str, tuple[Any, Any]]] = {
    "words": (_matcher(words=True, longest=False), _MATCH),
    "words_longest": (_matcher(words=True, longest=True), _MATCH),
    "characters": (_matcher(words=False, longest=False), _MATCH),
    "characters_longest": (_matcher(words=False, longest=True), _MATCH),
    "unite": (_unite, types.void(*[types.int64] * 7)),
    "fill_edges": (
        _fill_edges,
        types.void(
            types.uint32[:, ::1], types.uint32[::1], types.uint32[:, ::1], types.uint64, types.uint64,
            types.uint8[::1], types.uint64,
        ),
    ),
}  # fmt: skip
