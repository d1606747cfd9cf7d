"""Constants shared by kernels and their callers: the layouts of vectors of addresses and state, sizes and codes."""

from __future__ import annotations

from typing import Final

import numpy as np

READABLE: Final = 64
"""Number of bytes behind each text, and behind the symbols' bytes, that kernels may read."""
CHUNK: Final = 4096
"""Number of positions per pass. 1,000 to 8,000 are equally fast; the scratch of 4,096 fits a second-level cache."""
IN_ONE: Final = 16
"""Number of ids that are sorted in one vector; all of them are read and written, even if there are fewer."""

# The machine: addresses and sizes of an automaton's arrays, one uint64 vector (`matching.automaton` has the arrays).
SLOTS, SHIFT, DISPLACEMENTS, BUCKETS, BYTES, SYMBOLS, NODES, EDGES, EDGE_SHIFT, EDGE_MASK = range(10)
FILTER, FILTER_SHIFT, SEED, OUTPUTS, BLOOM, BLOOM_SHIFT = range(10, 16)
MACHINE_SIZE: Final = 16

# The state of a call, one int64 vector: where to continue.
TEXT, START, BLOCK, SPACED, NODE, N_RAW, POSITIONS, SYMBOL, WRITTEN = range(9)
STATE_SIZE: Final = 9

# The scratch: addresses of a call's working memory, one int64 vector (`native_backend.Scratch` has the arrays).
KEYS, KNOWN, BEFORE, ENDS, CANDIDATES, DEEPER, RAW, RAW_ROOM, FIRSTS = range(9)
SCRATCH_SIZE: Final = 9

# Symbols.
SHORT: Final = 11
"""Symbols of up to this many bytes are stored completely in their slot."""
LONGEST: Final = 0xFFFFFF
"""A symbol of an entry must be shorter than this many bytes: 24 bits of a long key hold the length."""
MULTIPLIER: Final = np.uint64(0xD6E8FEB86659FD93)
"""The multiplier of the hashes of keys and edges."""


def seed_of(attempt: int) -> int:
    """Return the odd multiplier of the key hash for the n-th attempt to build a table."""
    return (0x9E3779B97F4A7C15 * (2 * attempt + 1)) & 0xFFFFFFFFFFFFFFFF


# Uids.
HEX: Final = 0
OTHER: Final = 1
NONE: Final = 2
"""Kinds of ids that a pool gives: up to 32 hex digits, another string, none."""

DIGITS: Final = np.full(256, 16, np.uint8)
"""The value of each byte as a hex digit; 16 for a byte that is not a hex digit."""
for _digits, _first in ((b"0123456789", 0), (b"abcdef", 10), (b"ABCDEF", 10)):
    DIGITS[list(_digits)] = np.arange(_first, _first + len(_digits))

LANES: Final = 64
"""Number of messages that MD5 processes together: enough for vector registers, few enough for a first-level cache."""
