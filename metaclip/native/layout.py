"""What kernels and their callers agree on: the vectors that carry addresses and state, their sizes, and what numbers mean."""

from __future__ import annotations

from typing import Final

import numpy as np

READABLE: Final = 64
"""Bytes behind each text, and behind the symbols' bytes, that may be read."""
CHUNK: Final = 4096
"""Positions a pass works on. 1,000 to 8,000 measure alike; the scratch of 4,096 fits a second-level cache."""
IN_ONE: Final = 16
"""Ids that are sorted in one vector: so many are read and written, whatever the number."""

# The machine: addresses and sizes of an automaton's arrays, one uint64 vector (see Automaton for the arrays).
SLOTS, SHIFT, DISPLACEMENTS, BUCKETS, BYTES, SYMBOLS, NODES, EDGES, EDGE_SHIFT, EDGE_MASK = range(10)
FILTER, FILTER_SHIFT, SEED, OUTPUTS, BLOOM, BLOOM_SHIFT = range(10, 16)
MACHINE_SIZE: Final = 16

# The state of a call, one int64 vector: where to go on.
TEXT, START, BLOCK, SPACED, NODE, N_RAW, POSITIONS, SYMBOL, WRITTEN = range(9)
STATE_SIZE: Final = 9

# The scratch: addresses of a call's working memory, one int64 vector (see Scratch for the arrays).
KEYS, KNOWN, BEFORE, ENDS, CANDIDATES, DEEPER, RAW, RAW_ROOM, FIRSTS = range(9)
SCRATCH_SIZE: Final = 9

# Symbols.
SHORT: Final = 11
"""Symbols of up to this many bytes are stored whole in their slot."""
LONGEST: Final = 0xFFFFFF
"""A symbol of an entry must be shorter than this many bytes: 24 bits of a long key hold the length."""
MULTIPLIER: Final = np.uint64(0xD6E8FEB86659FD93)
"""By which keys and edges are hashed."""


def seed_of(attempt: int) -> int:
    """Give the odd multiplier of the key hash for the n-th attempt to build a table."""
    return (0x9E3779B97F4A7C15 * (2 * attempt + 1)) & 0xFFFFFFFFFFFFFFFF


# Uids.
HEX: Final = 0
OTHER: Final = 1
NONE: Final = 2
"""What an upstream id is: up to 32 hex digits, something else, nothing."""

DIGITS: Final = np.full(256, 16, np.uint8)
"""The value of each byte as a hex digit, 16 for what is none."""
for _digits, _first in ((b"0123456789", 0), (b"abcdef", 10), (b"ABCDEF", 10)):
    DIGITS[list(_digits)] = np.arange(_first, _first + len(_digits))

LANES: Final = 64
"""Messages that MD5 takes in step: enough for vector registers, few enough for a first-level cache."""
