"""What the matching kernels and the automaton agree on: the vectors that carry addresses and state, and their sizes."""

from __future__ import annotations

from typing import Final

READABLE: Final = 64
"""Bytes behind each text, and behind the symbols' bytes, that may be read."""
CHUNK: Final = 4096
"""Symbols a pass works on. 1,000 to 16,000 measure alike; the scratch of 4,096 fits a second-level cache."""

# The machine: addresses and sizes of an automaton's arrays, one uint64 vector (see Automaton for the arrays).
SLOTS, SHIFT, DISPLACEMENTS, BUCKETS, BYTES, SYMBOLS, NODES, EDGES, EDGE_SHIFT, EDGE_MASK = range(10)
FILTER, FILTER_SHIFT, SEED, OUTPUTS = range(10, 14)
MACHINE_SIZE: Final = 14

# The state of a call, one int64 vector: where to go on.
TEXT, START, BLOCK, SPACED, NODE, RAW, SYMBOL, WRITTEN = range(8)
STATE_SIZE: Final = 8

# Of a key row's address: the bit that says that the symbol is its text's last one.
END_BIT: Final = 63
