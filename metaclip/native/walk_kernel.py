"""The third pass of matching: where known symbols follow each other, goto, fail and output of Aho-Corasick over symbol ids.

The node at depth 1 of a symbol has the symbol's own id, so that the root has no table, and the second pass has given the
entries of one symbol already. Entries of several are rare: of a caption's ten words, one follows another known word, one
in eight of those passes the filter of one bit an edge, one in forty is on an edge.

A known row is 8 bytes: {symbol id, position}. What a walk finds beyond depth 1 goes to `deeper`: {position, entry id}.
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
"""A position behind all others."""

_LOW: Final = u64(0xFFFFFFFF)
_ONE: Final = u64(1)


@inner
def _edge(node, symbol):
    """Give the key of an edge; of both, the low 32 bits count."""
    return (u64(node) & _LOW) | (u64(symbol) << u64(32))


@inner
def _child(machine, node, symbol):
    """Find the child of `node` by `symbol`, 0 if there is none."""
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
    """Ask the edges' filter for the hash of an edge: 0 if there is no such edge, else most often 1."""
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
    """Write the rows that may go on from the row before them, and `found` behind them.

    First the pairs are gathered, then the filter is asked: in one loop, the next pair waits for the filter's memory, which
    took twice as long.
    """
    edges = at64(machine, EDGES)
    edge_shift = get64(machine, EDGE_SHIFT)
    n = i64(0)
    before = u64(0)
    expected = u64(NEVER)
    for i in range(found):
        row = get64(known, i)
        position = row >> u64(32)
        # Written always, kept if they follow each other: no branch, for it could not be predicted.
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
            while source and source != symbol:  # those of the symbol alone are given
                entry = get32(nodes, 4 * source + 1)
                put32(deeper, 2 * n, position)
                put32(deeper, 2 * n + 1, entry - 1)
                n += i64(entry != 0)
                source = get32(nodes, 4 * source + 2)
            last = position
            i += 1
        # Here no row up to `i` goes on from the one before it, or there are no more rows.
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
    """Walk the automaton over all rows, but keep only occurrences that lie inside no longer one.

    Ends come in ascending order, so an occurrence can only be inside a later one: `raw` is a stack from which a new
    occurrence takes all that begin where it begins or later. `firsts` holds the position of each one's first symbol,
    counted from the call's first. In `ends`, the number of ids takes the place of the number of key rows.
    """
    nodes = at64(machine, NODES)
    out = at64(state, N_RAW)
    node = at64(state, NODE)
    base = at64(state, SYMBOL)
    bottom = i64(0)  # where the text's ids begin in `raw`
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
                # Entries that a rule makes equal share their end and their length: all of them are kept.
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
    """Put {node, symbol, child} rows into the empty hash table that `_child` reads, and their bits into the filter."""
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
