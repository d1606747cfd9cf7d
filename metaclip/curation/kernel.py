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
them. Nothing is raised inside. Everything is compiled in the process that uses it, on first use (numba's on-disk cache
is not safe with several processes).
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any, Final

import numpy as np
from numba import njit, types

from metaclip.curation.raw import (
    at64,
    get8,
    get32,
    get64,
    lowest_bit,
    prefetch,
    put32,
    put64,
    separators64,
    sort4,
    sort8,
)

if sys.byteorder != "little":
    raise ImportError("metaclip's matching kernel needs a little-endian machine")

u64, i64 = np.uint64, np.int64

SHORT: Final = 11
"""Symbols of up to this many bytes are stored whole in their slot."""
LONGEST: Final = 0xFFFFFF
"""A symbol of an entry must be shorter than this many bytes: 24 bits of a long key hold the length."""
READABLE: Final = 64
"""Bytes behind each text, and behind the symbols' bytes, that may be read."""
CHUNK: Final = 4096
"""Symbols a pass works on. 1,000 to 16,000 measure alike; the scratch of 4,096 fits a second-level cache."""
_SPLIT_ROOM: Final = 2 * 64 + 2  # symbols that one block of 64 bytes and the end of its text can give

_SHORT: Final = i64(SHORT)
_LONG: Final = u64(0xFF000000)
_LOW: Final = u64(0xFFFFFFFF)
_ONE: Final = u64(1)
_END: Final = u64(1 << 63)  # in a key row's address: the text's last symbol
_POSITION: Final = i64(0x7FFFFFFF)  # in a known row: the bits of the position; the highest says that the text ends
_ALL: Final = u64(0xFFFFFFFFFFFFFFFF)
# Odd 64-bit constants with well mixed bits: SplitMix64's and two of its relatives.
_A: Final = u64(0xD6E8FEB86659FD93)
_B: Final = u64(0xBF58476D1CE4E5B9)
_C: Final = u64(0x94D049BB133111EB)

# The machine: addresses and sizes of an automaton's arrays, one uint64 vector (see Automaton for the arrays).
SLOTS, SHIFT, DISPLACEMENTS, BUCKETS, BYTES, SYMBOLS, NODES, EDGES, EDGE_SHIFT, EDGE_MASK = range(10)
FILTER, FILTER_SHIFT, SEED, OUTPUTS = range(10, 14)
MACHINE_SIZE: Final = 14

# The state of a call, one int64 vector: where to go on.
_TEXT, _START, _BLOCK, _SPACED, _NODE, _RAW, _SYMBOL, _WRITTEN = range(8)
STATE_SIZE: Final = 8

_inner: Any = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]  # not in numba's stubs
"""For what only kernels call: without the wrappers for Python it compiles in two thirds of the time."""


@_inner
def _long_hash(start, size):
    h = get64(start, 0) * _A
    h ^= h >> u64(32)
    at = start + 8
    end = start + size
    while at + 8 <= end:
        h = (h ^ get64(at, 0)) * _B
        h ^= h >> u64(29)
        at += 8
    h = (h ^ get64(end - 8, 0)) * _C
    return h ^ (h >> u64(32))


@_inner
def _key(start, size):
    """Give the key of the symbol of `size` bytes at `start`; reads 12 bytes there, whatever the size."""
    if size > _SHORT:
        return _long_hash(start, size), _LONG | u64(size if size < LONGEST else LONGEST)
    # Branch-free: the lengths of words are not predictable.
    bits = 8 * size
    over = bits - 64
    head = get64(start, 0) & ((_ALL >> u64(-over if over < 0 else 0)) if size > 0 else u64(0))
    tail = u64(get32(start, 2)) & ((_ONE << u64(over if over > 0 else 0)) - _ONE)
    return head, tail | u64(size << 24)


@_inner
def _hash(head, tail, seed):
    h = (head ^ (tail * seed)) * _A
    return h ^ (h >> u64(32))


@_inner
def _slot(h, displacement, shift):
    return i64(((h ^ (u64(displacement) * _B)) * _C) >> shift)


@_inner
def _put_row(keys, n, head, tail, h, address):
    row = keys + 32 * n
    put64(row, 0, head)
    put64(row, 1, tail)
    put64(row, 2, h)
    put64(row, 3, u64(address))


@_inner
def _put(keys, n, start, size, seed):
    """Append the key row {head, tail, hash, address} (32 bytes) of a symbol."""
    head, tail = _key(start, size)
    _put_row(keys, n, head, tail, _hash(head, tail, seed), start)


@_inner
def _put_end(keys, n, emitted, seed):
    """Mark the last symbol of a text; where it has none, append a row that no symbol equals and mark that."""
    if not emitted:
        _put_row(keys, n, u64(0), _ALL, u64(0), i64(0))
        n += 1
    last = 4 * n - 1
    put64(keys, last, get64(keys, last) | _END)
    return n


@_inner
def _split_words(machine, starts, stops, n_texts, fold, state, keys):
    """Split texts into words until the chunk is full; give the number of keys."""
    n = i64(0)
    seed = get64(machine, SEED)
    t = at64(state, _TEXT)
    start = at64(state, _START)
    block = at64(state, _BLOCK)
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
    put64(state, _TEXT, t)
    put64(state, _START, start)
    put64(state, _BLOCK, block)
    return n


@_inner
def _put_space(keys, n, unwanted, seed):
    """Append the key of a space, unless it is unwanted."""
    head = u64(32)
    tail = u64(1 << 24)
    _put_row(keys, n, head, tail, _hash(head, tail, seed), i64(0))
    return n + i64(not unwanted)


@_inner
def _split_characters(machine, starts, stops, n_texts, fold, state, keys):
    """Split texts into the characters of their padded, spaced form until the chunk is full, as `_split_words` does."""
    n = i64(0)
    seed = get64(machine, SEED)
    t = at64(state, _TEXT)
    at = at64(state, _BLOCK)
    spaced = at64(state, _SPACED) != 0  # whether the last symbol was a space
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
    put64(state, _TEXT, t)
    put64(state, _BLOCK, at)
    put64(state, _SPACED, i64(spaced))
    return n


@_inner
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


@_inner
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
        place = slots + 16 * _slot(h, get8(displacements, i64(h & buckets)), shift)
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
        if tail >= _LONG and symbol:
            size = i64(tail & u64(LONGEST))
            put32(known, 2 * i, _same_bytes(machine, symbol, i64(get64(row, 3) & ~_END), size))
    return found


@_inner
def _child(machine, node, symbol):
    """Find the child of `node` by `symbol`, 0 if there is none."""
    edges = at64(machine, EDGES)
    wanted = u64(node) | (u64(symbol) << u64(32))
    at = (wanted * _A) >> get64(machine, EDGE_SHIFT)
    while True:
        row = edges + 16 * i64(at)
        child = get32(row, 2)
        if child == 0 or get64(row, 0) == wanted:
            return child
        at = (at + _ONE) & get64(machine, EDGE_MASK)


@_inner
def _may_lead(machine, node, symbol):
    """Ask the edges' filter: 0 if `node` has no child by `symbol`, else most often 1."""
    bit = ((u64(node) | (u64(symbol) << u64(32))) * _A) >> get64(machine, FILTER_SHIFT)
    return (get8(at64(machine, FILTER), i64(bit >> u64(3))) >> i64(bit & u64(7))) & 1


@_inner
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


@_inner
def _walk(machine, known, found, n, state, raw, raw_ends):
    """Walk the automaton over the known symbols of a chunk and append entry ids to `raw`; give how many texts ended.

    `raw_ends` gets, for each text that ends in the chunk, the number of ids up to its end.
    """
    nodes = at64(machine, NODES)
    for i in range(found):
        prefetch(nodes + 16 * get32(known, 2 * i))
    out = at64(state, _RAW)
    node = at64(state, _NODE)
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
    put64(state, _RAW, out)
    put64(state, _NODE, node * i64(last == n - 1))
    return done


@_inner
def _walk_longest(machine, known, found, n, state, raw, raw_ends, firsts):
    """As `_walk`, but keep only occurrences that lie inside no longer one.

    Ends come in ascending order, so an occurrence can only be inside a later one: `raw` is a stack from which a new
    occurrence takes all that begin where it begins or later. `firsts` holds the position of each one's first symbol in
    its text.
    """
    nodes = at64(machine, NODES)
    out = at64(state, _RAW)
    node = at64(state, _NODE)
    base = at64(state, _SYMBOL)  # position in its text of the chunk's first symbol
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
    put64(state, _RAW, out)
    put64(state, _NODE, node * i64(last == n - 1))
    put64(state, _SYMBOL, base + n)
    return done


@_inner
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
    split = _split_words if words else _split_characters

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
        while at64(state, _TEXT) < n_texts:
            written = at64(state, _WRITTEN)
            if written + at64(state, _RAW) + burst > values_room:
                return 1
            if at64(state, _RAW) + burst > raw_room:  # a long text: its ids so far are at most all entries once
                put64(state, _RAW, _sort_unique(raw, at64(state, _RAW), raw))
            text = at64(state, _TEXT)
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
            put64(state, _WRITTEN, written)
            # The ids of the text that goes on in the next chunk move to the front.
            left = at64(state, _RAW) - begin
            for i in range(left):
                put32(raw, i, get32(raw, begin + i))
                if longest:
                    put64(firsts, i, at64(firsts, begin + i))
            put64(state, _RAW, left)
        return 0

    return match


def _split_only(machine, starts, stops, n_texts, state, keys):
    """Run the first pass alone, for the benchmark; give the number of words."""
    total = i64(0)
    while at64(state, _TEXT) < n_texts:
        total += _split_words(machine, starts, stops, n_texts, False, state, keys)
    return total


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


def _symbol_keys(blob, symbols, n_symbols, seed, heads, tails, hashes):
    """Compute the keys of an automaton's symbols 1..n_symbols (arrays of n_symbols + 1)."""
    for i in range(1, n_symbols + 1):
        first = get32(symbols, 2 * i)
        size = get32(symbols, 2 * i + 2) - first
        head, tail = _key(blob + first, size)
        heads[i] = head
        tails[i] = np.uint32(tail)
        hashes[i] = _hash(head, tail, seed)


def _displace(hashes, order, bucket_starts, buckets, shift, displacements, used, slots):
    """Find for each bucket the first displacement that sends its keys to free slots; largest buckets come first.

    `order` holds the keys by bucket. False if a bucket finds no place.
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
                slot = _slot(hashes[order[j]], displacement, shift)
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


def _fill_edges(pairs, children, table, shift, mask, bits, bits_shift):
    """Put {node, symbol, child} rows into the empty hash table that `_child` reads, and their bits into the filter."""
    for i in range(len(children)):
        node = pairs[i, 0]
        symbol = pairs[i, 1]
        h = (u64(node) | (u64(symbol) << u64(32))) * _A
        bits[i64(h >> (bits_shift + u64(3)))] |= np.uint8(1) << np.uint8((h >> bits_shift) & u64(7))
        at = h >> shift
        while table[at, 2]:
            at = (at + _ONE) & mask
        table[at, 0] = node
        table[at, 1] = symbol
        table[at, 2] = children[i]


def seed_of(attempt: int) -> int:
    """Give the odd multiplier of the key hash for the n-th attempt to build a table."""
    return (0x9E3779B97F4A7C15 * (2 * attempt + 1)) & 0xFFFFFFFFFFFFFFFF


_MATCH: Final = types.int64(types.int64, types.boolean, *[types.int64] * 13)
_SIGNATURES: Final[dict[str, tuple[Any, Any]]] = {
    "split": (_split_only, types.int64(*[types.int64] * 6)),
    "unite": (_unite, types.void(*[types.int64] * 7)),
    "symbol_keys": (
        _symbol_keys,
        types.void(*[types.int64] * 3, types.uint64, types.uint64[::1], types.uint32[::1], types.uint64[::1]),
    ),
    "fill_edges": (
        _fill_edges,
        types.void(
            types.uint32[:, ::1], types.uint32[::1], types.uint32[:, ::1], types.uint64, types.uint64,
            types.uint8[::1], types.uint64,
        ),
    ),
    "displace": (
        _displace,
        types.boolean(
            types.uint64[::1], types.int64[::1], types.int64[::1], types.int64[::1], types.uint64,
            types.uint8[::1], types.boolean[::1], types.int64[::1],
        ),
    ),
}  # fmt: skip


_COMPILING: Final = threading.Lock()
"""The cache alone would let two threads that come at once both compile."""


def compiled(name: str) -> Any:
    """Compile a kernel on first use in this process (a few tenths of a second each)."""
    with _COMPILING:
        return _compiled(name)


@functools.cache
def _compiled(name: str) -> Any:
    function, signature = _SIGNATURES[name]
    return njit(signature, nogil=True)(function)


@functools.cache
def compiled_match(words: bool, longest: bool) -> Any:
    """Compile the matching kernel of one alphabet on first use in this process (2-3 s)."""
    return njit(_MATCH, nogil=True)(_matcher(words, longest))


class Scratch:
    """The working memory of one call: a few hundred kilobytes in use, more only for texts of megabytes."""

    def __init__(self, n_entries: int, outputs: int, longest_text: int, longest: bool) -> None:
        """Size it for a list, the most outputs a symbol can have, and the longest text in bytes."""
        burst = CHUNK * outputs
        # A byte gives at most three symbols (a mark between two spaces).
        self.raw_room = burst + (outputs * (3 * longest_text + 4) if longest else n_entries + 64)
        self.keys = np.empty((CHUNK + 8, 4), np.uint64)
        self.raw_ends = np.empty(CHUNK + 8, np.int64)
        self.known = np.empty((CHUNK + 8, 2), np.uint32)
        # Memory that is never touched is never taken.
        self.raw = np.empty(self.raw_room, np.uint32)
        self.firsts = np.empty(self.raw_room if longest else 0, np.int64)
