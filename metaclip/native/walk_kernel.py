"""The third pass of matching: goto, fail and output of Aho-Corasick over consecutive known symbols.

The node at depth 1 of a symbol has the symbol's own id, so the root needs no table, and the second pass has already output
the entries of one symbol. Entries of several symbols are rare: of ten words in a caption, one follows another known word;
of those, one in eight passes the filter of one bit per edge, and one in forty is on an edge.

A known row is 8 bytes: {symbol id, position}. Matches beyond depth 1 are written to `deeper`: {position, entry id}.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from metaclip.native.layout import (
    EDGE_MASK,
    EDGE_SHIFT,
    EDGES,
    FILTER,
    FILTER_SHIFT,
    MULTIPLIER,
    N_RAW,
    NODE,
    NODES,
    POSITIONS,
    SYMBOL,
)
from metaclip.native.raw import at64, get8, get32, get64, inner, prefetch, put32, put64

u64, i64 = np.uint64, np.int64

NEVER: Final = i64(0xFFFFFFFF)
"""A position after all others."""

_LOW: Final = u64(0xFFFFFFFF)
_ONE: Final = u64(1)


@inner
def _edge(node, symbol):
    """Return the key of an edge, made of the low 32 bits of both."""
    return (u64(node) & _LOW) | (u64(symbol) << u64(32))


@inner
def _child(machine, node, symbol):
    """Return the child of `node` by `symbol`, 0 if there is none."""
    edges = at64(machine, EDGES)
    wanted = _edge(node, symbol)
    at = (wanted * MULTIPLIER) >> get64(machine, EDGE_SHIFT)
    while True:
        row = edges + 16 * i64(at)
        child = get32(row, 2)
        if child == 0 or get64(row, 0) == wanted:
            return child
        at = (at + _ONE) & get64(machine, EDGE_MASK)


@inner
def _may_lead(machine, h):
    """Look the hash of an edge up in the filter: 0 only if there is no such edge, mostly 1 otherwise."""
    bit = h >> get64(machine, FILTER_SHIFT)
    return (get8(at64(machine, FILTER), i64(bit >> u64(3))) >> i64(bit & u64(7))) & 1


@inner
def _step(machine, nodes, node, symbol):
    """Follow goto and fail from `node` by `symbol`."""
    while node:
        if _may_lead(machine, _edge(node, symbol) * MULTIPLIER):
            child = _child(machine, node, symbol)
            if child:
                return child
        node = get32(nodes, 4 * node)
    return symbol


@inner
def _candidates(machine, known, found, candidates):
    """Write the indices of the rows that may continue the row before them, followed by `found`.

    One loop collects the pairs, another one reads the filter: in a single loop, each pair would wait for the filter's
    memory, which took twice as long.
    """
    edges = at64(machine, EDGES)
    edge_shift = get64(machine, EDGE_SHIFT)
    n = i64(0)
    before = u64(0)
    expected = u64(NEVER)
    for i in range(found):
        row = get64(known, i)
        position = row >> u64(32)
        # Always written, kept if they are consecutive: a branch would be unpredictable.
        put64(candidates, 2 * n, _edge(before, row) * MULTIPLIER)
        put64(candidates, 2 * n + 1, i)
        n += i64(position == expected)
        before = row
        expected = position + _ONE
    pairs = n
    n = i64(0)
    for i in range(pairs):
        h = get64(candidates, 2 * i)
        may = _may_lead(machine, h)
        put64(candidates, n, at64(candidates, 2 * i + 1))
        prefetch(edges + 16 * i64(h >> edge_shift) * may)
        n += may
    put64(candidates, n, found)


@inner
def walk(machine, known, found, state, candidates, deeper):
    """Walk the automaton where it can go beyond depth 1. `deeper` ends with the position NEVER."""
    _candidates(machine, known, found, candidates)
    nodes = at64(machine, NODES)
    n = i64(0)
    c = i64(0)
    i = i64(0)
    node = at64(state, NODE)
    last = i64(-1)  # position of the symbol that led to `node`
    while True:
        while node and i < found:
            symbol = get32(known, 2 * i)
            position = get32(known, 2 * i + 1)
            if position != last + 1:
                node = i64(0)
                break
            node = _step(machine, nodes, node, symbol)
            if node == symbol:
                node = i64(0)
                break
            source = node
            while source and source != symbol:  # the second pass has output those of the symbol alone
                entry = get32(nodes, 4 * source + 1)
                put32(deeper, 2 * n, position)
                put32(deeper, 2 * n + 1, entry - 1)
                n += i64(entry != 0)
                source = get32(nodes, 4 * source + 2)
            last = position
            i += 1
        # Here no row up to `i` continues the one before it, or there are no more rows.
        while at64(candidates, c) <= i and at64(candidates, c) < found:
            c += 1
        i = at64(candidates, c)
        if i == found:
            break
        node = get32(known, 2 * i - 2)
        last = get32(known, 2 * i - 1)
    if node == 0 and found:
        node = get32(known, 2 * found - 2)
        last = get32(known, 2 * found - 1)
    put64(state, NODE, node * i64(last == at64(state, POSITIONS) - 1))
    put32(deeper, 2 * n, NEVER)


@inner
def walk_longest(machine, known, before, ends, done, found, state, raw, firsts):
    """Walk the automaton over all rows, but keep only occurrences that do not lie inside a longer one.

    Ends are ascending, so an occurrence can only lie inside a later one: `raw` is a stack from which a new occurrence
    removes all that begin where it begins or later. `firsts` holds the position of the first symbol of each occurrence,
    counted from the start of the call. In `ends`, the number of ids replaces the number of key rows.
    """
    nodes = at64(machine, NODES)
    out = at64(state, N_RAW)
    node = at64(state, NODE)
    base = at64(state, SYMBOL)
    bottom = i64(0)  # index of the text's first id in `raw`
    last = i64(-1)
    i = i64(0)
    for t in range(done + 1):
        stop = get32(before, at64(ends, 2 * t)) if t < done else found
        while i < stop:
            position = get32(known, 2 * i + 1)
            node = _step(machine, nodes, node * i64(position == last + 1), get32(known, 2 * i))
            last = position
            source = node
            while source and get32(nodes, 4 * source + 1) == 0:
                source = get32(nodes, 4 * source + 2)
            if source:
                depth = get32(nodes, 4 * source + 3)
                first = base + position + 1 - depth
                while out > bottom and at64(firsts, out - 1) >= first:
                    out -= 1
                # Entries that a rule makes equal have the same end and length: all of them are kept.
                while source and get32(nodes, 4 * source + 3) == depth:
                    put32(raw, out, get32(nodes, 4 * source + 1) - 1)
                    put64(firsts, out, first)
                    out += 1
                    source = get32(nodes, 4 * source + 2)
            i += 1
        if t < done:
            put64(ends, 2 * t, out)
            bottom = out
    positions = at64(state, POSITIONS)
    put64(state, N_RAW, out)
    put64(state, NODE, node * i64(last == positions - 1))
    put64(state, SYMBOL, base + positions)


def _fill_edges(pairs, children, table, shift, mask, bits, bits_shift):
    """Add {node, symbol, child} rows to the empty hash table that `_child` reads, and their bits to the filter."""
    for i in range(len(children)):
        node = pairs[i, 0]
        symbol = pairs[i, 1]
        h = _edge(node, symbol) * MULTIPLIER
        bits[i64(h >> (bits_shift + u64(3)))] |= np.uint8(1) << np.uint8((h >> bits_shift) & u64(7))
        at = h >> shift
        while table[at, 2]:
            at = (at + _ONE) & mask
        table[at, 0] = node
        table[at, 1] = symbol
        table[at, 2] = children[i]


KERNELS: Final[dict[str, tuple[Any, Any]]] = {
    "fill_edges": (
        _fill_edges,
        types.void(
            types.uint32[:, ::1], types.uint32[::1], types.uint32[:, ::1], types.uint64, types.uint64,
            types.uint8[::1], types.uint64,
        ),
    ),
}  # fmt: skip
