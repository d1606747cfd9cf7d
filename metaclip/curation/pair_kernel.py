"""Kernels over pairs: uids read and hashed, rows of matches drawn. As `metaclip.curation.kernel`: plain loops.

The laws stand in `metaclip.curation.uid` and `metaclip.curation.draw`, which call these; there is no other caller.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from metaclip.curation.compiling import inner, on_first_use
from metaclip.curation.raw import get8, put8

HEX: Final = 0
OTHER: Final = 1
NONE: Final = 2
"""What an upstream id is: up to 32 hex digits, something else, nothing."""

DIGITS: Final = np.full(256, 16, np.uint8)
"""The value of each byte as a hex digit, 16 for what is none."""
for _digits, _first in ((b"0123456789", 0), (b"abcdef", 10), (b"ABCDEF", 10)):
    DIGITS[list(_digits)] = np.arange(_first, _first + len(_digits))

u32, u64 = np.uint32, np.uint64


def _hex(address, starts, sizes, uids, kinds, values):
    """Read strings of hex digits as numbers of 128 bits; `kinds` says what each string is.

    `values` has each byte's digit, 16 for what is none: no branch on what the digits are.
    """
    for i in range(len(starts)):
        size = sizes[i]
        if size == 0 or size > 32:
            kinds[i] = NONE if size == 0 else OTHER
            continue
        high = u64(0)
        low = u64(0)
        wrong = u64(0)
        at = address + starts[i]
        for j in range(size):
            value = u64(values[get8(at, j)])
            wrong |= value
            high = (high << u64(4)) | (low >> u64(60))
            low = (low << u64(4)) | (value & u64(15))
        uids[i, 0] = high
        uids[i, 1] = low
        kinds[i] = OTHER if wrong > u64(15) else HEX


def _pack(
    address,
    starts,
    sizes,
    other_address,
    other_starts,
    other_sizes,
    target,
    width,
):
    """Put the two pieces of each row one behind the other into a row of `width` bytes."""
    for i in range(len(starts)):
        at = target + width * i
        for j in range(sizes[i]):
            put8(at, j, get8(address + starts[i], j))
        at += sizes[i]
        for j in range(other_sizes[i]):
            put8(at, j, get8(other_address + other_starts[i], j))


def _md5(words, state, constants, turns):
    """Run RFC 1321's compression over uint32[16 * blocks, rows], 32 rows in step."""
    lanes = np.empty((4, 32), np.uint32)
    for first in range(0, words.shape[1], 32):
        n = min(32, words.shape[1] - first)
        for i, start in enumerate((u32(0x67452301), u32(0xEFCDAB89), u32(0x98BADCFE), u32(0x10325476))):
            for j in range(n):
                state[i, first + j] = start
        for block in range(0, words.shape[0], 16):
            for i in range(4):
                for j in range(n):
                    lanes[i, j] = state[i, first + j]
            for step in range(64):
                # The four words change their parts at each step instead of their places.
                a, b, c, d = lanes[-step & 3], lanes[1 - step & 3], lanes[2 - step & 3], lanes[3 - step & 3]
                turn, place = step >> 4, step & 15
                times, plus = (1, 0) if turn == 0 else (5, 1) if turn == 1 else (3, 5) if turn == 2 else (7, 0)
                w = words[block + ((times * place + plus) & 15), first : first + n]
                k = constants[step]
                left = turns[turn, step & 3]
                right = u32(32) - left
                if turn == 0:
                    for j in range(n):
                        x = u32(a[j] + (d[j] ^ (b[j] & (c[j] ^ d[j]))) + k + w[j])
                        a[j] = b[j] + (u32(x << left) | u32(x >> right))
                elif turn == 1:
                    for j in range(n):
                        x = u32(a[j] + (c[j] ^ (d[j] & (b[j] ^ c[j]))) + k + w[j])
                        a[j] = b[j] + (u32(x << left) | u32(x >> right))
                elif turn == 2:
                    for j in range(n):
                        x = u32(a[j] + (b[j] ^ c[j] ^ d[j]) + k + w[j])
                        a[j] = b[j] + (u32(x << left) | u32(x >> right))
                else:
                    for j in range(n):
                        x = u32(a[j] + (c[j] ^ (b[j] | ~d[j])) + k + w[j])
                        a[j] = b[j] + (u32(x << left) | u32(x >> right))
            for i in range(4):
                for j in range(n):
                    state[i, first + j] += lanes[i, j]


@inner
def _chance(values, begin, end, probability):
    """Give P(keep) of one row, in the order that the law states."""
    dropped = 1.0
    for j in range(begin, end):
        dropped *= 1.0 - probability[values[j]]
    return 1.0 - dropped


def _chances(values, offsets, n, probability, chances):
    """Give P(keep) of rows of matches; see `draw.keep_probabilities`."""
    for i in range(n):
        chances[i] = _chance(values, offsets[i], offsets[i + 1], probability)


def _draw(
    values,
    offsets,
    n,
    probability,
    uids,
    key,
    drawn,
    keep,
    expected,
    kept,
    sums,
):
    """Draw rows of matches; see `draw.draw_rows`."""
    for i in range(n):
        p = _chance(values, offsets[i], offsets[i + 1], probability)
        x = key ^ uids[i, 0]
        for _ in range(2):
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x ^= x >> np.uint64(31)
            if _ == 0:
                x ^= uids[i, 1]
        stays = np.float64(x >> np.uint64(11)) * 2.0**-53 < p
        drawn[i] = p
        keep[i] = stays
        fixed = np.uint64(p * 4294967296.0)
        sums[0] += fixed
        sums[1] += np.uint64(p * (1.0 - p) * 4294967296.0)
        sums[2] += np.uint64(stays)
        for j in range(offsets[i], offsets[i + 1]):
            expected[values[j]] += fixed
            kept[values[j]] += np.uint64(stays)


def _expect(values, offsets, n, counts, thresholds, sums, by_entry):
    """Sum P(keep) of rows of matches for many t at once; see `draw.expect_rows`. `by_entry` may have no columns."""
    dropped = np.empty(len(thresholds))
    for i in range(n):
        dropped[:] = 1.0
        for j in range(offsets[i], offsets[i + 1]):
            inverse = 1.0 / counts[values[j]]
            for m in range(len(thresholds)):
                dropped[m] *= max(0.0, 1.0 - thresholds[m] * inverse)
        for m in range(len(thresholds)):
            sums[m] += np.uint64((1.0 - dropped[m]) * 4294967296.0)
        for j in range(offsets[i], offsets[i + 1]):
            for m in range(by_entry.shape[1]):
                by_entry[values[j], m] += np.uint64((1.0 - dropped[m]) * 4294967296.0)


_I64S, _U64S, _F64S = types.int64[::1], types.uint64[::1], types.float64[::1]
_IDS, _UIDS, _WORDS = types.Array(types.uint32, 1, "C", readonly=True), types.uint64[:, ::1], types.uint32[:, ::1]
_STRINGS = (types.int64, _I64S, _I64S)  # address, starts, sizes
_SIGNATURES: Final[dict[str, tuple[Any, Any]]] = {
    "hex": (_hex, types.void(*_STRINGS, _UIDS, types.uint8[::1], types.uint8[::1])),
    "pack": (_pack, types.void(*_STRINGS, *_STRINGS, types.int64, types.int64)),
    "md5": (_md5, types.void(_WORDS, _WORDS, types.uint32[::1], _WORDS)),
    "draw": (
        _draw,
        types.void(
            _IDS, _I64S, types.int64, _F64S, _UIDS, types.uint64, _F64S, types.boolean[::1], _U64S, _U64S, _U64S
        ),
    ),
    "chances": (_chances, types.void(_IDS, _I64S, types.int64, _F64S, _F64S)),
    "expect": (_expect, types.void(_IDS, _I64S, types.int64, _U64S, _F64S, _U64S, _UIDS)),
}
compiled = on_first_use(_SIGNATURES)
