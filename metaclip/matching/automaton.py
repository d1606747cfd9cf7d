"""The automaton: a query list under a text rule, as flat arrays.

One `Machine` holds the entries of one alphabet (`metaclip.native.kernel` says how it is walked):

    bloom          uint64[2^b]      two bits in one word for each symbol's hash, at most 1 in 3 set
    slots          uint64[2^k, 4]   {first 8 bytes, tail << 32 | symbol id, next output << 32 | entry_id + 1, 0} of the
                                    symbol that is stored in this slot
    displacements  uint8[2^(k-2)]   by bucket of the hash: gives each symbol a slot of its own
    bytes, symbols                  the symbols' bytes; {offset, next symbol with the same key} by symbol id
    nodes          uint32[n, 4]     {fallback, entry_id + 1, next output, depth}
    edges          uint32[2^m, 4]   hash table {node, symbol, child, 0}, open addressing, at most half full
    filter         uint8[2^f]       one bit for each edge's hash, at most 1 in 6 set

Measurements behind the layout (one thread, 500,000 entries, captions of 59 bytes, each compared with what it replaced):

- One displaced slot takes a third of the time of probing: 69% of real words are unknown, and the branch predictor cannot
  learn a probe that may end at any step.
- The Bloom filter (256 KiB) keeps unknown words away from the slots, and a slot that names the entry of its symbol keeps
  most other words away from the nodes. Together they reduce the time of all passes to three quarters.
- Rows have 16 or 32 bytes, so that none straddles two cache lines.
- Symbol ids are ordered by the number of entries that hold the symbol: 5 to 10% faster than the order of the list.
- Children are in one hash table, because just the frequent words have long lists of children, behind a filter of 256 KiB.
  A 32-bit mask of children in each node, which is full for just those words, took a tenth more in total.

Cost for 500,000 entries: 38 MiB, built in 6 s, opened in 0.03 s including the check of its digest.
"""

from __future__ import annotations

import collections
import contextlib
import gc
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.errors import MetaclipError
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata.entries import Metadata
from metaclip.native import layout
from metaclip.native.compiling import compiled

_CAPACITY: Final = 0.8  # maximum load of the slots
_ATTEMPTS: Final = 16
_FILTER_BITS: Final = 6  # minimum number of bits of a filter per edge or symbol

Arrays = dict[str, npt.NDArray[Any]]


class Machine:
    """The arrays of one alphabet, with the vector of addresses that the kernels take."""

    def __init__(self, arrays: Arrays, info: dict[str, Any]) -> None:
        """Wrap `arrays` (see the module) and `info`: the seed, the most outputs of a symbol, whether symbols are words."""
        self.arrays, self.info = arrays, info
        self.words: bool = info["words"]
        address = {name: array.ctypes.data for name, array in arrays.items()}
        bits = {name: len(array).bit_length() - 1 for name, array in arrays.items()}
        values = {
            layout.SLOTS: address["slots"],
            layout.SHIFT: 64 - bits["slots"],
            layout.DISPLACEMENTS: address["displacements"],
            layout.BUCKETS: len(arrays["displacements"]) - 1,
            layout.BYTES: address["bytes"],
            layout.SYMBOLS: address["symbols"],
            layout.NODES: address["nodes"],
            layout.EDGES: address["edges"],
            layout.EDGE_SHIFT: 64 - bits["edges"],
            layout.EDGE_MASK: len(arrays["edges"]) - 1,
            layout.FILTER: address["filter"],
            layout.FILTER_SHIFT: 61 - bits["filter"],
            layout.SEED: info["seed"],
            layout.OUTPUTS: info["outputs"],
            layout.BLOOM: address["bloom"],
            layout.BLOOM_SHIFT: 64 - bits["bloom"],
        }
        self.vector = np.zeros(layout.MACHINE_SIZE, np.uint64)
        self.vector[list(values)] = np.fromiter(values.values(), np.uint64)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the addresses; protocol 5 does not copy the arrays where memory is shared."""
        return Machine, (self.arrays, self.info)


class Automaton:
    """The machines of a list under a rule: one for words, and one for characters if entries need it."""

    def __init__(self, machines: list[Machine], rule: TextRule, size: int, list_digest: str) -> None:
        """Wrap machines; use `build` or `open_automaton` to make an automaton."""
        self.machines, self.rule, self.size, self.list_digest = machines, rule, size, list_digest

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes."""
        return sum(array.nbytes for machine in self.machines for array in machine.arrays.values())

    def __repr__(self) -> str:
        """Return a short description with the sizes."""
        return f"Automaton({self.size} entries, {len(self.machines)} machine(s), {self.nbytes / 2**20:.1f} MiB)"


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Turn the garbage collector off: searching millions of live tuples would take a third of the time to build."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collector_off()
def build(metadata: Metadata, rule: TextRule = PAPER) -> Automaton:
    """Build the automaton of a list under a rule, in memory."""
    words: list[tuple[int, list[bytes]]] = []
    characters: list[tuple[int, list[bytes]]] = []
    # If longer matches hide shorter ones, one machine must see words and characters.
    split_words = not (rule.longest_only and rule.unspaced_scripts != "none")
    for entry_id, entry in enumerate(metadata.entries.to_pylist()):
        padded = rule.entry(entry)
        if padded is None:
            continue
        if split_words and padded[:1] == " " and padded[-1:] == " ":
            words.append((entry_id, padded.encode()[1:-1].split(b" ")))
        else:
            characters.append((entry_id, [char.encode() for char in padded]))
    machines = []
    for alphabet in (words, characters):
        if alphabet or (alphabet is words and not characters):
            machines.append(_machine(alphabet, words=alphabet is words, longest=rule.longest_only))
    return Automaton(machines, rule, len(metadata), metadata.digest)


def _log2(size: int) -> int:
    return size.bit_length() - 1


def _power_of_two(least: float) -> int:
    return 1 << max(1, int(np.ceil(np.log2(max(2.0, least)))))


def _machine(entries: list[tuple[int, list[bytes]]], *, words: bool, longest: bool) -> Machine:
    frequency = collections.Counter(symbol for _, symbols in entries for symbol in symbols)
    ordered = sorted(frequency, key=lambda symbol: (-frequency[symbol], symbol))
    if ordered and max(map(len, ordered)) >= layout.LONGEST:
        raise MetaclipError(f"an entry has a word of over {layout.LONGEST} bytes; take it out of the list")
    arrays, seed = _symbol_arrays(ordered)
    ids = {symbol: symbol_id for symbol_id, symbol in enumerate(ordered, 1)}
    trie, info = _trie_arrays(
        [(entry_id, [ids[s] for s in symbols]) for entry_id, symbols in entries], len(ids), longest
    )
    # A slot holds the outputs of its symbol's node.
    held, nodes = (arrays["slots"][:, 1] & np.uint64(0xFFFFFFFF)).astype(np.int64), trie["nodes"].astype(np.uint64)
    arrays["slots"][:, 2] = nodes[held, 1] | (nodes[held, 2] << np.uint64(32))
    return Machine({**arrays, **trie}, {"words": words, "seed": seed, **info})


def _symbol_arrays(ordered: list[bytes]) -> tuple[Arrays, int]:
    """Lay out the table of symbols and return it with its seed; symbol ids are 1-based ranks in `ordered`."""
    n = len(ordered)
    blob = np.frombuffer(b"".join(ordered) + bytes(layout.READABLE), np.uint8)
    if len(blob) > 0xFFFFFFFF:
        raise MetaclipError("the list's words take over 4 GiB; split the list")
    symbols = np.zeros((n + 2, 2), np.uint32)
    symbols[2:, 0] = np.cumsum([len(symbol) for symbol in ordered], dtype=np.uint64)
    heads, tails, hashes = np.zeros(n + 1, np.uint64), np.zeros(n + 1, np.uint32), np.zeros(n + 1, np.uint64)
    for attempt in range(_ATTEMPTS):
        seed = layout.seed_of(attempt)
        compiled("symbol_kernel", "symbol_keys")(
            blob.ctypes.data, symbols.ctypes.data, n, np.uint64(seed), heads, tails, hashes
        )
        placed = _chain_same_keys(symbols, heads, tails)
        if (displaced := _displace(hashes, placed, attempt)) is not None:
            slots, displacements, capacity = displaced
            table = np.zeros((capacity, 4), np.uint64)
            table[slots, 0] = heads[placed]
            table[slots, 1] = (tails[placed].astype(np.uint64) << np.uint64(32)) | placed.astype(np.uint64)
            bloom = np.zeros(_power_of_two(_FILTER_BITS * n / 64), np.uint64)
            compiled("symbol_kernel", "fill_bloom")(hashes[1:], bloom, np.uint64(64 - _log2(len(bloom))))
            return {
                "slots": table, "displacements": displacements, "bytes": blob, "symbols": symbols, "bloom": bloom,
            }, seed  # fmt: skip
    raise MetaclipError(
        "the words of the list cannot be hashed without collisions; the list seems constructed for that"
    )


def _chain_same_keys(symbols: npt.NDArray[np.uint32], heads: Any, tails: Any) -> npt.NDArray[np.int64]:
    """Chain the (long) symbols that share a key; return the ids that get a slot, one of each chain."""
    symbols[:, 1] = 0
    ids = np.arange(1, len(heads), dtype=np.int64)
    order = ids[np.lexsort((ids, heads[1:], tails[1:]))]
    same = (heads[order[1:]] == heads[order[:-1]]) & (tails[order[1:]] == tails[order[:-1]])
    symbols[order[:-1][same], 1] = order[1:][same]
    return np.sort(np.delete(order, np.flatnonzero(same) + 1))


def _displace(
    hashes: npt.NDArray[np.uint64], placed: npt.NDArray[np.int64], attempt: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], int] | None:
    capacity = _power_of_two(len(placed) / _CAPACITY) << (attempt // 4)
    n_buckets = max(2, capacity // 4)
    keys = np.ascontiguousarray(hashes[placed])
    bucket = (keys & np.uint64(n_buckets - 1)).astype(np.int64)
    sizes = np.bincount(bucket, minlength=n_buckets)
    displacements, slots = np.zeros(n_buckets, np.uint8), np.zeros(len(placed), np.int64)
    done = compiled("symbol_kernel", "displace")(
        keys,
        np.argsort(bucket, kind="stable"),
        np.concatenate([[0], np.cumsum(sizes)]),
        np.argsort(-sizes, kind="stable"),
        np.uint64(64 - _log2(capacity)),
        displacements,
        np.zeros(capacity, np.bool_),
        slots,
    )
    return (slots, displacements, capacity) if done else None


def _trie_arrays(
    entries: Iterable[tuple[int, list[int]]], n_symbols: int, longest: bool
) -> tuple[Arrays, dict[str, int]]:
    """Lay out goto, fail and output over symbol ids; the node at depth 1 of a symbol has the symbol's id."""
    by_depth = sorted(entries, key=lambda item: len(item[1]))
    child: dict[tuple[int, int], int] = {}
    parent, symbol_of, depth = [0] * (n_symbols + 1), list(range(n_symbols + 1)), [0] + [1] * n_symbols
    node_of = {entry_id: symbols[0] for entry_id, symbols in by_depth}
    level, d = by_depth, 1
    while level := [item for item in level if len(item[1]) > d]:
        # Breadth first: a node's fallback is always less deep, and so is made before the node.
        for node, symbol in sorted({(node_of[entry_id], symbols[d]) for entry_id, symbols in level}):
            child[node, symbol] = len(parent)
            parent.append(node)
            symbol_of.append(symbol)
            depth.append(d + 1)
        for entry_id, symbols in level:
            node_of[entry_id] = child[node_of[entry_id], symbols[d]]
        d += 1
    n_nodes = len(parent)
    has_children = np.zeros(n_nodes, np.bool_)
    has_children[[node for node, _ in child]] = True
    ids_at: dict[int, list[int]] = collections.defaultdict(list)
    for entry_id in sorted(node_of):
        ids_at[node_of[entry_id]].append(entry_id)

    # Entries that a rule makes equal share a node; all but the first of them get extra nodes in its chain of outputs.
    n_twins = len(node_of) - len(ids_at)
    nodes = np.zeros((n_nodes + n_twins, 4), np.uint32)
    fail, walk_on, next_output = [0] * n_nodes, [0] * n_nodes, [0] * (n_nodes + n_twins)
    outputs, twin, most_outputs = [0] * n_nodes, n_nodes, 1
    for node in range(1, n_nodes):
        if node > n_symbols:
            symbol, back = symbol_of[node], fail[parent[node]]
            while back and (back, symbol) not in child:
                back = fail[back]
            back = child[back, symbol] if back else symbol
            fail[node] = back
            # A fallback without children leads nowhere: continue with its own fallback.
            walk_on[node] = back if has_children[back] else walk_on[back]
            next_output[node] = back if ids_at.get(back) else next_output[back]
            outputs[node] = outputs[back]
        own = ids_at.get(node, ())
        outputs[node] += len(own)
        most_outputs = max(most_outputs, len(own) if longest else outputs[node])
        if own:
            nodes[node, 1] = own[0] + 1
        for entry_id in own[1:]:
            nodes[twin, 1] = entry_id + 1
            depth.append(depth[node])
            next_output[twin], next_output[node] = next_output[node], twin
            twin += 1
    nodes[:n_nodes, 0] = walk_on
    nodes[:, 2] = next_output

    nodes[:, 3] = depth
    pairs = np.array(list(child), np.uint32).reshape(-1, 2)
    edges, edge_filter = _edge_tables(pairs, np.fromiter(child.values(), np.uint32, len(child)))
    return {"nodes": nodes, "edges": edges, "filter": edge_filter}, {"outputs": most_outputs}


def _edge_tables(
    pairs: npt.NDArray[np.uint32], children: npt.NDArray[np.uint32]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    table = np.zeros((_power_of_two(2 * len(pairs)), 4), np.uint32)
    bits = np.zeros(_power_of_two(_FILTER_BITS * len(pairs) / 8), np.uint8)
    compiled("walk_kernel", "fill_edges")(
        np.ascontiguousarray(pairs), children,
        table, np.uint64(64 - _log2(len(table))), np.uint64(len(table) - 1),
        bits, np.uint64(61 - _log2(len(bits))),
    )  # fmt: skip
    return table, bits
