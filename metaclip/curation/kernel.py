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
             id, so that the root has no table; a node holds a 32-bit mask of its children's ids, so that a word
             without a continuation never probes the edge table.
4. collect   sort and deduplicate the ids of each text.

Cost, one thread, 500,000 entries, web captions of 59 bytes: 0.09 + 0.06 + 0.07 + 0.05 us a text (tests/bench).

The functions are scalar loops over addresses and numbers with explicit signatures: a compiled extension could replace
them. Nothing is raised inside. Everything is compiled in the process that uses it, on first use (numba's on-disk cache
is not safe with several processes).
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Final

import numpy as np
from numba import njit, types

from metaclip.curation.raw import (
    load8,
    load32,
    load64,
    lowest_bit,
    prefetch,
    separators64,
    store32,
    store64,
)

if sys.byteorder != "little":
    raise ImportError("metaclip's matching kernel needs a little-endian machine")

u32, u64, i64 = np.uint32, np.uint64, np.int64

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
_LONG: Final = u32(0xFF000000)
_LENGTH: Final = u32(LONGEST)
_ONE: Final = u64(1)
_ALL: Final = u64(0xFFFFFFFFFFFFFFFF)
# Odd 64-bit constants with well mixed bits: SplitMix64's and two of its relatives.
_A: Final = u64(0xD6E8FEB86659FD93)
_B: Final = u64(0xBF58476D1CE4E5B9)
_C: Final = u64(0x94D049BB133111EB)

# The machine: addresses and sizes of an automaton's arrays, one uint64 vector (see Automaton for the arrays).
SLOTS, SHIFT, DISPLACEMENTS, BUCKETS, BYTES, SYMBOLS, NODES, EDGES, EDGE_SHIFT, EDGE_MASK, DEPTHS, SEED, OUTPUTS = range(13)
MACHINE_SIZE: Final = 13

# The state of a call, one int64 vector: where to go on.
_TEXT, _START, _BLOCK, _SPACED, _NODE, _ADJACENT, _RAW, _SYMBOL, _WRITTEN = range(9)
STATE_SIZE: Final = 9


@njit
def _long_hash(start, size):
    h = load64(start) * _A
    h ^= h >> u64(32)
    at = start + 8
    end = start + size
    while at + 8 <= end:
        h = (h ^ load64(at)) * _B
        h ^= h >> u64(29)
        at += 8
    h = (h ^ load64(end - 8)) * _C
    return h ^ (h >> u64(32))


@njit
def _key(start, size):
    """Give the key of the symbol of `size` bytes at `start`; reads 12 bytes there, whatever the size."""
    if size > _SHORT:
        return _long_hash(start, size), u64(_LONG) | u64(min(size, i64(LONGEST)))
    # Branch-free: the lengths of words are not predictable.
    bits = 8 * size
    head = load64(start) & ((_ALL >> u64(max(64 - bits, 0))) if size > 0 else u64(0))
    tail = u64(load32(start + 8)) & ((_ONE << u64(max(bits - 64, 0))) - _ONE)
    return head, tail | u64(size << 24)


@njit
def _hash(head, tail, seed):
    h = (head ^ (tail * seed)) * _A
    return h ^ (h >> u64(32))


@njit
def _slot(h, displacement, shift):
    return i64(((h ^ (u64(displacement) * _B)) * _C) >> shift)


@njit
def _put(keys, n, start, size, seed):
    """Append the key row {head, tail, hash, address} (32 bytes) of a symbol."""
    head, tail = _key(start, size)
    row = keys + 32 * n
    store64(row, head)
    store64(row + 8, tail)
    store64(row + 16, _hash(head, tail, seed))
    store64(row + 24, u64(start))


@njit
def _split_words(machine, starts, stops, n_texts, fold, state, keys, ends):
    """Split texts into words until the chunk is full: (number of keys, number of texts that ended)."""
    n = i64(0)
    done = i64(0)
    seed = machine[SEED]
    t = state[_TEXT]
    start = state[_START]
    block = state[_BLOCK]
    while t < n_texts and done < CHUNK:
        stop = i64(load64(stops + 8 * t))
        if block == 0:
            start = i64(load64(starts + 8 * t))
            block = start
        if stop < start:  # a null: no symbol, not even the empty word
            pass
        else:
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
                    _put(keys, n, at, 1, seed)
                    n += i64((marks >> u64(bit)) & _ONE)
                    start = at + 1
                    both &= both - _ONE
                block += 64
            if block < stop or n + 2 > CHUNK:
                break
            _put(keys, n, start, stop - start, seed)
            n += i64((stop != start) | (not fold))
        store64(ends + 8 * done, u64(n))
        done += 1
        t += 1
        block = i64(0)
    state[_TEXT] = t
    state[_START] = start
    state[_BLOCK] = block
    return n, done


@njit
def _put_space(keys, n, fold, spaced, seed):
    """Append the key of a space, unless spaces are folded and the last symbol was one."""
    row = keys + 32 * n
    head = u64(32)
    tail = u64(1 << 24)
    store64(row, head)
    store64(row + 8, tail)
    store64(row + 16, _hash(head, tail, seed))
    return n + i64((not fold) | (not spaced))


@njit
def _split_characters(machine, starts, stops, n_texts, fold, state, keys, ends):
    """Split texts into the characters of their padded, spaced form until the chunk is full, as `_split_words` does."""
    n = i64(0)
    done = i64(0)
    seed = machine[SEED]
    t = state[_TEXT]
    at = state[_BLOCK]
    spaced = state[_SPACED] != 0
    while t < n_texts and done < CHUNK and n + 4 <= CHUNK:
        start = i64(load64(starts + 8 * t))
        stop = i64(load64(stops + 8 * t))
        if at == 0:
            at = start
            spaced = False
            if stop >= start:
                n = _put_space(keys, n, fold, spaced, seed)
                spaced = True
        while at < stop and n + 4 <= CHUNK:
            c = load8(at)
            if c == 32 or c == 9 or c == 10 or c == 13:
                n = _put_space(keys, n, fold, spaced, seed)
                spaced = True
                at += 1
            elif c == 44 or c == 46 or c == 59 or c == 58 or c == 63 or c == 33 or c == 96:
                n = _put_space(keys, n, fold, spaced, seed)
                _put(keys, n, at, 1, seed)
                n = _put_space(keys, n + 1, fold, False, seed)
                spaced = True
                at += 1
            else:
                size = i64(1) + i64(c >= 0xC0) + i64(c >= 0xE0) + i64(c >= 0xF0)
                # In bytes that are not UTF-8, a character ends where its continuation bytes do.
                follow = i64(1)
                while follow < size and at + follow < stop and (load8(at + follow) & 0xC0) == 0x80:
                    follow += 1
                size = follow
                _put(keys, n, at, size, seed)
                n += 1
                spaced = False
                at += size
        if at < stop or n + 1 > CHUNK:
            break
        if stop >= start:
            n = _put_space(keys, n, fold, spaced, seed)
        store64(ends + 8 * done, u64(n))
        done += 1
        t += 1
        at = i64(0)
    state[_TEXT] = t
    state[_BLOCK] = at
    state[_SPACED] = i64(spaced)
    return n, done


@njit
def _same_bytes(machine, symbol, start, size):
    """Find the symbol of exactly these bytes among those that share a key with `symbol`; 0 if there is none."""
    while symbol:
        row = i64(machine[SYMBOLS]) + 8 * i64(symbol)
        first = i64(load32(row))
        if i64(load32(row + 8)) - first == size:
            at = i64(machine[BYTES]) + first
            same = True
            for j in range(size):
                if load8(at + j) != load8(start + j):
                    same = False
                    break
            if same:
                return symbol
        symbol = load32(row + 4)
    return u32(0)


@njit
def _look_up(machine, keys, n, known):
    """Write {symbol id, position in the chunk} (2 x uint32) of the symbols that the automaton knows; give their number."""
    slots = i64(machine[SLOTS])
    shift = machine[SHIFT]
    buckets = machine[BUCKETS]
    displacements = i64(machine[DISPLACEMENTS])
    for i in range(n):
        row = keys + 32 * i + 16
        h = load64(row)
        place = slots + 16 * _slot(h, load8(displacements + i64(h & buckets)), shift)
        prefetch(place)
        store64(row, u64(place))
    # One flat loop without a branch on the data: by text and with the check of long keys inside, it took four times as long.
    found = i64(0)
    for i in range(n):
        row = keys + 32 * i
        place = i64(load64(row + 16))
        word = load64(place + 8)
        differs = (load64(place) ^ load64(row)) | ((word >> u64(32)) ^ load64(row + 8))
        store64(known + 8 * found, (word & u64(0xFFFFFFFF)) | (u64(i) << u64(32)))
        found += i64(differs == 0)
    # A long key holds a hash: the bytes decide. What they refute stays as symbol 0, which ends a row of symbols.
    for i in range(found):
        at = known + 8 * i
        row = keys + 32 * i64(load32(at + 4))
        tail = load64(row + 8)
        if tail >= u64(_LONG):
            store32(at, _same_bytes(machine, load32(at), i64(load64(row + 24)), i64(tail & u64(_LENGTH))))
    return found


@njit
def _child(machine, node, symbol):
    edges = i64(machine[EDGES])
    wanted = u64(node) | (u64(symbol) << u64(32))
    at = (wanted * _A) >> machine[EDGE_SHIFT]
    while True:
        row = edges + 16 * i64(at)
        child = i64(load32(row + 8))
        if child == 0 or load64(row) == wanted:
            return child
        at = (at + _ONE) & machine[EDGE_MASK]


@njit
def _step(machine, nodes, node, symbol):
    """Follow goto and fail from `node` by `symbol`."""
    while node:
        row = nodes + 16 * node
        if (load32(row + 12) >> u32(symbol & 31)) & u32(1):
            child = _child(machine, node, symbol)
            if child:
                return child
        node = i64(load32(row))
    return symbol


@njit
def _walk(machine, known, found, ends, done, n, state, raw, raw_ends):
    """Walk the automaton over the known symbols of a chunk; append entry ids to `raw`.

    `raw_ends` gets, for each of the `done` texts that end in the chunk, the number of ids up to its end.
    """
    nodes = i64(machine[NODES])
    for i in range(found):
        prefetch(nodes + 16 * i64(load32(known + 8 * i)))
    out = state[_RAW]
    node = state[_NODE]
    last = i64(-1) if state[_ADJACENT] else i64(-2)
    t = i64(0)
    end = i64(load64(ends)) if done else n
    for i in range(found):
        symbol = i64(load32(known + 8 * i))
        at = i64(load32(known + 8 * i + 4))
        if at != last + 1:
            node = i64(0)
        last = at
        while at >= end:
            store64(raw_ends + 8 * t, u64(out))
            t += 1
            end = i64(load64(ends + 8 * t)) if t < done else n
            node = i64(0)
        node = _step(machine, nodes, node, symbol)
        source = node
        while source:
            row = nodes + 16 * source
            entry = load32(row + 4)
            store32(raw + 4 * out, entry - u32(1))
            out += i64(entry != 0)
            source = i64(load32(row + 8))
    # Texts that ended after the last known symbol: what stands behind them begins anew.
    if t < done:
        node = i64(0)
    while t < done:
        store64(raw_ends + 8 * t, u64(out))
        t += 1
    state[_RAW] = out
    state[_NODE] = node
    state[_ADJACENT] = i64(last == n - 1)


@njit
def _walk_longest(machine, known, found, ends, done, n, state, raw, raw_ends, firsts):
    """As `_walk`, but keep only occurrences that lie inside no longer one.

    Ends come in ascending order, so an occurrence can only be inside a later one: `raw` is a stack from which a new
    occurrence takes all that begin where it begins or later. `firsts` holds the position of each one's first symbol in
    its text.
    """
    nodes = i64(machine[NODES])
    depths = i64(machine[DEPTHS])
    out = state[_RAW]
    node = state[_NODE]
    base = state[_SYMBOL]  # symbols of the text before this chunk
    begin = i64(0)  # where the text begins in this chunk
    bottom = i64(0)  # where its ids begin in `raw`
    last = i64(-1) if state[_ADJACENT] else i64(-2)
    t = i64(0)
    end = i64(load64(ends)) if done else n
    for i in range(found):
        symbol = i64(load32(known + 8 * i))
        at = i64(load32(known + 8 * i + 4))
        if at != last + 1:
            node = i64(0)
        last = at
        while at >= end:
            store64(raw_ends + 8 * t, u64(out))
            t += 1
            begin = end
            base = i64(0)
            bottom = out
            end = i64(load64(ends + 8 * t)) if t < done else n
            node = i64(0)
        node = _step(machine, nodes, node, symbol)
        source = node
        while source and load32(nodes + 16 * source + 4) == 0:
            source = i64(load32(nodes + 16 * source + 8))
        if source:
            depth = load32(depths + 4 * source)
            first = base + at - begin + 1 - i64(depth)
            while out > bottom and i64(load64(firsts + 8 * (out - 1))) >= first:
                out -= 1
            # Entries that a rule makes equal share their end and their length: all of them are kept.
            while source and load32(depths + 4 * source) == depth:
                store32(raw + 4 * out, load32(nodes + 16 * source + 4) - u32(1))
                store64(firsts + 8 * out, u64(first))
                out += 1
                source = i64(load32(nodes + 16 * source + 8))
    if t < done:
        node = i64(0)
        base = i64(0)
        begin = i64(load64(ends + 8 * (done - 1)))
    while t < done:
        store64(raw_ends + 8 * t, u64(out))
        t += 1
    state[_RAW] = out
    state[_NODE] = node
    state[_ADJACENT] = i64(last == n - 1)
    state[_SYMBOL] = base + n - begin


@njit
def _sort_unique(source, n, target, scratch):
    """Write the sorted set of `n` uint32 at `source` to `target` (may be `source`); give its size."""
    if n <= 48:
        size = i64(0)
        for i in range(n):
            value = load32(source + 4 * i)
            place = size
            while place > 0 and load32(target + 4 * (place - 1)) > value:
                place -= 1
            if place > 0 and load32(target + 4 * (place - 1)) == value:
                continue
            for j in range(size, place, -1):
                store32(target + 4 * j, load32(target + 4 * (j - 1)))
            store32(target + 4 * place, value)
            size += 1
        return size
    return _radix_unique(source, n, target, scratch)


@njit
def _radix_pass(source, n, target, counts, shift):
    for i in range(2048):
        store64(counts + 8 * i, u64(0))
    for i in range(n):
        at = counts + 8 * i64((load32(source + 4 * i) >> shift) & u32(2047))
        store64(at, load64(at) + _ONE)
    total = u64(0)
    for i in range(2048):
        count = load64(counts + 8 * i)
        store64(counts + 8 * i, total)
        total += count
    for i in range(n):
        value = load32(source + 4 * i)
        at = counts + 8 * i64((value >> shift) & u32(2047))
        store32(target + 4 * i64(load64(at)), value)
        store64(at, load64(at) + _ONE)


@njit
def _radix_unique(source, n, target, scratch):
    """As `_sort_unique`, 11 bits a pass: linear for the matches of a text of 10 MB. `scratch` begins with the counts."""
    counts = scratch
    scratch += 8 * 2048
    _radix_pass(source, n, scratch, counts, u32(0))
    _radix_pass(scratch, n, target, counts, u32(11))
    _radix_pass(target, n, scratch, counts, u32(22))
    size = i64(0)
    for i in range(n):
        value = load32(scratch + 4 * i)
        if size == 0 or load32(target + 4 * (size - 1)) != value:
            store32(target + 4 * size, value)
            size += 1
    return size


def _matcher(words, longest):
    """Give the kernel for one alphabet, with or without hiding shorter matches: only what is used is compiled."""
    split = _split_words if words else _split_characters

    def match(
        machine, fold, starts, stops, n_texts, state, keys, ends, known,
        raw, raw_room, raw_ends, firsts, scratch, values, values_room, offsets,
    ):  # fmt: skip
        """Match texts until all are done (0) or `values` must grow (1); call again with the same state to go on.

        Addresses: `starts`, `stops` int64[n_texts], the texts' addresses (a null's stop lies before its start), with
        READABLE bytes to read behind each text; `values` uint32[values_room], `offsets` int64[n_texts + 1] the result
        as Arrow's list layout; the others scratch (`Scratch` has the sizes).
        """
        burst = CHUNK * i64(machine[OUTPUTS])
        while state[_TEXT] < n_texts:
            if state[_WRITTEN] + state[_RAW] + burst > values_room:
                return 1
            if state[_RAW] + burst > raw_room:  # a long text: its ids so far are at most all entries once
                state[_RAW] = _sort_unique(raw, state[_RAW], raw, scratch)
            first = state[_TEXT]
            n, done = split(machine, starts, stops, n_texts, fold, state, keys, ends)
            found = _look_up(machine, keys, n, known)
            if longest:
                _walk_longest(machine, known, found, ends, done, n, state, raw, raw_ends, firsts)
            else:
                _walk(machine, known, found, ends, done, n, state, raw, raw_ends)
            begin = i64(0)
            written = state[_WRITTEN]
            for t in range(done):
                end = i64(load64(raw_ends + 8 * t))
                written += _sort_unique(raw + 4 * begin, end - begin, values + 4 * written, scratch)
                store64(offsets + 8 * (first + t + 1), u64(written))
                begin = end
            state[_WRITTEN] = written
            if begin:  # the ids of the text that goes on in the next chunk move to the front
                for i in range(state[_RAW] - begin):
                    store32(raw + 4 * i, load32(raw + 4 * (begin + i)))
                    if longest:
                        store64(firsts + 8 * i, load64(firsts + 8 * (begin + i)))
                state[_RAW] -= begin
        return 0

    return match


def _split_only(machine, starts, stops, n_texts, state, keys, ends):
    """Run the first pass alone, for the benchmark; give the number of words."""
    total = i64(0)
    while state[_TEXT] < n_texts:
        n, done = _split_words(machine, starts, stops, n_texts, False, state, keys, ends)
        total += n
    return total


def _count(values, n, counts):
    """Add 1 to the uint64 at ``counts[v]`` for each of `n` uint32 values."""
    for i in range(n):
        at = counts + 8 * i64(load32(values + 4 * i))
        store64(at, load64(at) + _ONE)


def _unite(first, first_offsets, second, second_offsets, n_texts, values, offsets):
    """Unite the sorted sets of each text of two results into one; all addresses, layouts as in `_match`."""
    written = i64(0)
    store64(offsets, u64(0))
    for t in range(n_texts):
        i = i64(load64(first_offsets + 8 * t))
        i_end = i64(load64(first_offsets + 8 * t + 8))
        j = i64(load64(second_offsets + 8 * t))
        j_end = i64(load64(second_offsets + 8 * t + 8))
        while i < i_end or j < j_end:
            if j == j_end or (i < i_end and load32(first + 4 * i) < load32(second + 4 * j)):
                store32(values + 4 * written, load32(first + 4 * i))
                i += 1
            else:
                store32(values + 4 * written, load32(second + 4 * j))
                j += 1
            written += 1
        store64(offsets + 8 * (t + 1), u64(written))


def _symbol_keys(blob, symbols, n_symbols, seed, heads, tails, hashes):
    """Compute the keys of an automaton's symbols 1..n_symbols (arrays of n_symbols + 1)."""
    for i in range(1, n_symbols + 1):
        first = i64(load32(symbols + 8 * i))
        size = i64(load32(symbols + 8 * i + 8)) - first
        head, tail = _key(blob + first, size)
        heads[i] = head
        tails[i] = u32(tail)
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


def _fill_edges(pairs, children, table, shift, mask):
    """Put {node, symbol, child} rows into the empty hash table that `_child` reads."""
    for i in range(len(children)):
        node = pairs[i, 0]
        symbol = pairs[i, 1]
        at = ((u64(node) | (u64(symbol) << u64(32))) * _A) >> shift
        while table[at, 2]:
            at = (at + _ONE) & mask
        table[at, 0] = node
        table[at, 1] = symbol
        table[at, 2] = children[i]


def seed_of(attempt: int) -> int:
    """Give the odd multiplier of the key hash for the n-th attempt to build a table."""
    return (0x9E3779B97F4A7C15 * (2 * attempt + 1)) & 0xFFFFFFFFFFFFFFFF


_A64, _S64, _MACHINE = types.int64, types.int64[::1], types.uint64[::1]
_MATCH: Final = types.int64(_MACHINE, types.boolean, *[_A64] * 3, _S64, *[_A64] * 11)
_SIGNATURES: Final[dict[str, tuple[Any, Any]]] = {
    "split": (_split_only, types.int64(_MACHINE, *[_A64] * 3, _S64, *[_A64] * 2)),
    "count": (_count, types.void(*[_A64] * 3)),
    "unite": (_unite, types.void(*[_A64] * 7)),
    "symbol_keys": (
        _symbol_keys,
        types.void(*[_A64] * 3, types.uint64, types.uint64[::1], types.uint32[::1], types.uint64[::1]),
    ),
    "fill_edges": (
        _fill_edges,
        types.void(types.uint32[:, ::1], types.uint32[::1], types.uint32[:, ::1], types.uint64, types.uint64),
    ),
    "displace": (
        _displace,
        types.boolean(
            types.uint64[::1], types.int64[::1], types.int64[::1], types.int64[::1], types.uint64,
            types.uint8[::1], types.boolean[::1], types.int64[::1],
        ),
    ),
}  # fmt: skip


@functools.cache
def compiled(name: str) -> Any:
    """Compile a kernel on first use in this process (a few tenths of a second each)."""
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
        self.ends, self.raw_ends = np.empty(CHUNK, np.int64), np.empty(CHUNK, np.int64)
        self.known = np.empty((CHUNK + 8, 2), np.uint32)
        # Memory that is never touched is never taken.
        self.raw, self.sorting = np.empty(self.raw_room, np.uint32), np.empty(self.raw_room + 2 * 2048, np.uint32)
        self.firsts = np.empty(self.raw_room if longest else 0, np.int64)
