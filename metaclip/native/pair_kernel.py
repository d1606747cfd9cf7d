"""Kernels over pairs: uids parsed and hashed, rows of matches drawn. Plain loops as in `metaclip.native.kernel`.

Their only callers, `metaclip.pool.uid` and `metaclip.curate.draw`, state the laws.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from metaclip.native.layout import HEX, LANES, NONE, OTHER
from metaclip.native.raw import get8, get32, inner

u32, i64, u64 = np.uint32, np.int64, np.uint64


def _hex(address, starts, sizes, uids, kinds, values):
    """Parse strings of hex digits as numbers of 128 bits; `kinds` receives the kind of each string.

    `values` has each byte's digit, 16 for other bytes, so that no branch depends on the digits.
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


@inner
def _word(first, first_size, second, size, at):
    """Return the four bytes at `at` of MD5's message: two pieces of `size` bytes in total, a byte of 0x80, zeros."""
    word = i64(0)
    for i in range(4):
        place = at + i
        byte = i64(128) if place == size else i64(0)
        if place < first_size:
            byte = get8(first, place)
        elif place < size:
            byte = get8(second, place - first_size)
        word |= byte << (8 * i)
    return word


@inner
def _fill(words, lane, blocks, first, first_size, second, size):
    """Write the words of one message, which takes `blocks` blocks, into its lane."""
    end = 16 * blocks - 2
    w = 0
    while 4 * w + 4 <= first_size:
        words[w * LANES + lane] = u32(get32(first, w))
        w += 1
    if 4 * w < first_size:
        words[w * LANES + lane] = u32(_word(first, first_size, second, size, 4 * w))
        w += 1
    while 4 * w + 4 <= size:
        words[w * LANES + lane] = u32(get32(second + 4 * w - first_size, 0))
        w += 1
    words[w * LANES + lane] = u32(_word(first, first_size, second, size, 4 * w))
    for rest in range(w + 1, end):
        words[rest * LANES + lane] = 0
    words[end * LANES + lane] = u32(8 * size)
    words[(end + 1) * LANES + lane] = u32(size >> 29)


@inner
def _compress(words, first, state, lanes, constants, turns):
    """Run RFC 1321's compression over one block, whose words begin at row `first` of uint32[16 * blocks, lanes]."""
    for i in range(4 * LANES):
        lanes[i] = state[i]
    for step in range(64):
        # The four words change their roles at each step instead of being moved.
        a, b, c, d = (-step & 3) * LANES, (1 - step & 3) * LANES, (2 - step & 3) * LANES, (3 - step & 3) * LANES
        turn, place = step >> 4, step & 15
        times, plus = (1, 0) if turn == 0 else (5, 1) if turn == 1 else (3, 5) if turn == 2 else (7, 0)
        w = (first + ((times * place + plus) & 15)) * LANES
        k = constants[step]
        left = turns[turn, step & 3]
        right = u32(32) - left
        # Masks instead of a branch for each round: four loops would take four times as long to compile.
        x0, x1, x2, x3 = u32(-(turn == 0)), u32(-(turn == 1)), u32(-(turn == 2)), u32(-(turn == 3))
        for j in range(LANES):
            p, q, r = lanes[b + j], lanes[c + j], lanes[d + j]
            mixed = (x0 & (r ^ (p & (q ^ r)))) | (x1 & (q ^ (r & (p ^ q)))) | (x2 & (p ^ q ^ r)) | (x3 & (q ^ (p | ~r)))
            x = u32(lanes[a + j] + mixed + k + words[w + j])
            lanes[a + j] = p + (u32(x << left) | u32(x >> right))
    for i in range(4 * LANES):
        state[i] += lanes[i]


@inner
def _half(high, low):
    """Combine two little-endian words of the digest into the number that their bytes are in big-endian order."""
    x = (u64(low) << u64(32)) | u64(high)
    x = ((x >> u64(8)) & u64(0x00FF00FF00FF00FF)) | ((x & u64(0x00FF00FF00FF00FF)) << u64(8))
    x = ((x >> u64(16)) & u64(0x0000FFFF0000FFFF)) | ((x & u64(0x0000FFFF0000FFFF)) << u64(16))
    return (x >> u64(32)) | (x << u64(32))


def _md5(
    first, first_starts, first_sizes, second, second_starts, second_sizes, rows, blocks, constants, turns,
    words, state, lanes, uids,
):  # fmt: skip
    """Write md5 of two concatenated pieces, for the given rows, which all take `blocks` blocks of 64 bytes.

    Scratch: `words` of 16 * blocks * LANES numbers, `state` and `lanes` of 4 * LANES.
    """
    for begin in range(0, len(rows), LANES):
        n = min(LANES, len(rows) - begin)
        for j in range(n):
            row = rows[begin + j]
            size = first_sizes[row] + second_sizes[row]
            _fill(words, j, blocks, first + first_starts[row], first_sizes[row], second + second_starts[row], size)
        for j in range(LANES):
            state[j] = u32(0x67452301)
            state[LANES + j] = u32(0xEFCDAB89)
            state[2 * LANES + j] = u32(0x98BADCFE)
            state[3 * LANES + j] = u32(0x10325476)
        for block in range(blocks):
            _compress(words, 16 * block, state, lanes, constants, turns)
        for j in range(n):
            uids[rows[begin + j], 0] = _half(state[j], state[LANES + j])
            uids[rows[begin + j], 1] = _half(state[2 * LANES + j], state[3 * LANES + j])


@inner
def _chance(values, begin, end, probability):
    """Return P(keep) of one row, multiplied in the order that the law states."""
    dropped = 1.0
    for j in range(begin, end):
        dropped *= 1.0 - probability[values[j]]
    return 1.0 - dropped


def _chances(values, offsets, n, probability, chances):
    """Compute P(keep) of rows of matches; see `draw.keep_probabilities`."""
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


def _expect(values, offsets, n, counts, thresholds, sums, by_entry, dropped):
    """Sum P(keep) of rows of matches for many t at once; see `draw.expect_rows`.

    `by_entry` may have no columns; `dropped` is scratch with one number for each t.
    """
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
_IDS, _UIDS = types.Array(types.uint32, 1, "C", readonly=True), types.uint64[:, ::1]
_STRINGS = (types.int64, _I64S, _I64S)  # address, starts, sizes
KERNELS: Final[dict[str, tuple[Any, Any]]] = {
    "hex": (_hex, types.void(*_STRINGS, _UIDS, types.uint8[::1], types.uint8[::1])),
    "md5": (
        _md5,
        types.void(
            *_STRINGS,
            *_STRINGS,
            types.int64[::1],
            types.int64,
            types.uint32[::1],
            types.uint32[:, ::1],
            *[types.uint32[::1]] * 3,
            _UIDS,
        ),
    ),
    "draw": (
        _draw,
        types.void(
            _IDS, _I64S, types.int64, _F64S, _UIDS, types.uint64, _F64S, types.boolean[::1], _U64S, _U64S, _U64S
        ),
    ),
    "chances": (_chances, types.void(_IDS, _I64S, types.int64, _F64S, _F64S)),
    "expect": (_expect, types.void(_IDS, _I64S, types.int64, _U64S, _F64S, _U64S, _UIDS, _F64S)),
}
