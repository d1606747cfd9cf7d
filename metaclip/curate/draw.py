"""The draw: which pairs stay. Frozen: a published card is checked with it years later.

    p[e]    = min(1, t / count[e])                          float64; 1 where count is 0
    P(keep) = 1 - product over matched e of (1 - p[e])      ascending entry_id, float64, no reordering
    keep      iff u(seed, epoch, uid) < P(keep)

t is one number, or float64[n], a number for each entry (`metaclip.curate.threshold`): t[e] stands where t stands here.

u is a hash of its arguments, not a generator: order, sharding, number of workers and engine cannot change the result,
the same draw made online at epoch 0 gives the same pairs, and where no t[e] gets smaller, a superset is kept.

Sums are identities of a run, so they are made of integers, ``floor(x * 2**32)``, and do not depend on grouping.
Cost: 0.05 us a pair.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from metaclip.matching import check_ids
from metaclip.native import WIDTH, RowsStruct, address, load
from metaclip.pool.uid import Uids

FIXED_POINT: Final = 1 << 32
"""One, in the integers that expected numbers are summed in."""

Thresholds: TypeAlias = float | npt.NDArray[np.float64]
"""t: one number, or float64[number of entries]."""

_WORD: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """Mix 64 bits: the finaliser of SplitMix64."""
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & _WORD
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & _WORD
    return x ^ x >> 31


def stream_key(seed: int, epoch: int) -> int:
    """Mix seed and epoch (each taken modulo 2**64) into the 64-bit start of every draw of that epoch."""
    return mix((int(seed) + _GOLDEN * (int(epoch) + 1)) & _WORD)  # numbers of numpy would overflow


def uniform(seed: int, epoch: int, uid: str | int) -> float:
    """Draw u in [0, 1) for one uid, given as up to 32 hex digits or as a 128-bit number."""
    return (_hash(seed, epoch, uid) >> 11) * 2.0**-53


def choice(seed: int, epoch: int, uid: str | int, n: int) -> int:
    """Draw one of an image's `n` texts for a visit: an index below n, from a hash of its own.

    ``mix(h ^ 0x9E3779B97F4A7C15) * n >> 64``, where h is the hash that u is made of.
    """
    return mix(_hash(seed, epoch, uid) ^ _GOLDEN) * n >> 64


def _hash(seed: int, epoch: int, uid: str | int) -> int:
    number = int(uid, 16) if isinstance(uid, str) else uid
    return mix(mix(stream_key(seed, epoch) ^ (number >> 64 & _WORD)) ^ (number & _WORD))


def uniforms(seed: int, epoch: int, uids: Uids) -> npt.NDArray[np.float64]:
    """Draw u in [0, 1) for uint64[n, 2] uids: float64[n]."""
    return _uniforms(stream_key(seed, epoch), uids)


def _uniforms(key: int, uids: Uids) -> npt.NDArray[np.float64]:
    return (_hashes(key, uids) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def hashes(seed: int, epoch: int, uids: Uids) -> npt.NDArray[np.uint64]:
    """Return the 64-bit hashes that draws are made of: uint64[n]."""
    return _hashes(stream_key(seed, epoch), uids)


def _hashes(key: int, uids: Uids) -> npt.NDArray[np.uint64]:
    return mixed(mixed(np.uint64(key) ^ uids[:, 0]) ^ uids[:, 1])


def mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix each of 64-bit numbers as `mix` does."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def probabilities(counts: npt.NDArray[np.uint64], t: Thresholds) -> npt.NDArray[np.float64]:
    """Return each entry's probability min(1, t / count), 1 where the count is 0: float64[number of entries]."""
    return np.minimum(
        1.0, t / np.maximum(counts, 1).astype(np.float64), where=counts > 0, out=np.ones(len(counts))
    )


def keep_probability(matches: Any, probability: npt.NDArray[np.float64]) -> float:
    """Return P(keep) of one text from its ascending entry ids; 0 for a text that matches nothing."""
    dropped = 1.0
    for entry_id in matches:
        dropped *= 1.0 - float(probability[entry_id])
    return 1.0 - dropped


def keep_probabilities(
    values: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return P(keep) of rows of matches, as `draw_rows` takes them: float64[n]."""
    n = len(offsets) - 1
    if (library := load()) is None:
        return 1.0 - _products(values, offsets, 1.0 - probability)
    result = np.empty(n, np.float64)
    library.mc_keep_probabilities(
        _rows(values, offsets, len(probability)),
        address(probability, np.float64),
        address(result, np.float64),
    )
    return result


def _rows(values: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], n_entries: int) -> RowsStruct:
    check_ids(values, n_entries)
    return RowsStruct(address(values, np.uint32), address(offsets, np.int64), len(offsets) - 1)


def _products(
    values: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], factors: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the product of the factors of each row's entries, in the law's order: the first entry, then the second."""
    sizes = np.diff(offsets)
    result = np.ones(len(sizes))
    for position in range(int(sizes.max(initial=0))):
        rows = np.flatnonzero(sizes > position)
        result[rows] *= factors[values[offsets[rows] + position]]
    return result


class DrawSums:
    """Sums over drawn rows, of less than 2**32 rows: the sums of shards are added in any order with one result.

    `expected` and `kept` hold a sum for each entry, `totals` the expected number, the variance and the kept number of all
    rows: uint64, expected numbers and variance in units of 1 / FIXED_POINT.
    """

    def __init__(self, n_entries: int) -> None:
        """Start at zero."""
        self.expected, self.kept = np.zeros(n_entries, np.uint64), np.zeros(n_entries, np.uint64)
        self.totals = np.zeros(3, np.uint64)


def draw_rows(
    values: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    probability: npt.NDArray[np.float64],
    uids: Uids,
    key: int,
    sums: DrawSums,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Draw rows of matches: (P(keep) float64[n], kept bool[n]).

    Row i matches the entries ``values[offsets[i]:offsets[i + 1]]``, ascending; `key` is `stream_key` of seed and
    epoch. The rows' expected and kept numbers and their variance are added to `sums`.
    """
    n = len(offsets) - 1
    if (library := load()) is None:
        return draw_rows_numpy(values, offsets, probability, uids, key, sums)
    drawn, keep = np.empty(n, np.float64), np.empty(n, np.bool_)
    library.mc_draw(
        _rows(values, offsets, len(probability)), address(probability, np.float64), address(uids, np.uint64), key,
        address(drawn, np.float64), address(keep, np.bool_),
        *(address(array, np.uint64, written=True) for array in (sums.expected, sums.kept, sums.totals)),
    )  # fmt: skip
    return drawn, keep


def draw_rows_numpy(
    values: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    probability: npt.NDArray[np.float64],
    uids: Uids,
    key: int,
    sums: DrawSums,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Do the same as `draw_rows` in numpy, with the same bits."""
    drawn = 1.0 - _products(values, offsets, 1.0 - probability)
    keep = _uniforms(key, uids) < drawn
    fixed, variance = (_fixed(x) for x in (drawn, drawn * (1.0 - drawn)))
    sums.totals += np.array([fixed.sum(), variance.sum(), keep.sum()], np.uint64)
    matched, row = values[offsets[0] : offsets[-1]], _row_of_each(offsets)
    np.add.at(sums.expected, matched, fixed[row])
    np.add.at(sums.kept, matched, keep[row].astype(np.uint64))
    return drawn, keep


def _fixed(x: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    return (x * FIXED_POINT).astype(np.uint64)


def _row_of_each(offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def slopes(counts: npt.NDArray[np.uint64], weight: Thresholds = 1.0) -> npt.NDArray[np.float64]:
    """Return weight / count of each entry, by which `expect_rows` multiplies a t: float64[number of entries]."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(weight / counts.astype(np.float64))


def expect_rows(
    values: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    slope: npt.NDArray[np.float64],
    thresholds: npt.NDArray[np.float64],
    sums: npt.NDArray[np.uint64],
    by_entry: npt.NDArray[np.uint64] | None = None,
) -> None:
    """Add the P(keep) of rows of matches under each of k `thresholds` to `sums` (uint64[k], units of 1 / FIXED_POINT).

    `slope` is what `slopes` returns. With `by_entry` (uint64[m, k]), add them to the sums of each row's entries too, of the
    first m entries. Only for the search of a t: the quotient is rounded differently than in `probabilities`.
    """
    if (library := load()) is None:
        expect_rows_numpy(values, offsets, slope, thresholds, sums, by_entry)
        return
    k = len(thresholds)
    padded = np.zeros(-(-k // WIDTH) * WIDTH)
    padded[:k] = thresholds
    scratch = np.empty(2 * len(padded))
    library.mc_expect(
        _rows(values, offsets, len(slope)), address(slope, np.float64), address(padded, np.float64), k,
        address(sums, np.uint64, written=True), None if by_entry is None else address(by_entry, np.uint64, written=True),
        0 if by_entry is None else len(by_entry), address(scratch, np.float64),
    )  # fmt: skip


def expect_rows_numpy(
    values: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    slope: npt.NDArray[np.float64],
    thresholds: npt.NDArray[np.float64],
    sums: npt.NDArray[np.uint64],
    by_entry: npt.NDArray[np.uint64] | None = None,
) -> None:
    """Do the same as `expect_rows` in numpy, with the same bits."""
    matched, row = values[offsets[0] : offsets[-1]], _row_of_each(offsets)
    for k, t in enumerate(thresholds):
        fixed = _fixed(1.0 - _products(values, offsets, np.fmax(0.0, 1.0 - t * slope)))
        sums[k] += fixed.sum()
        if by_entry is not None:
            first = matched < len(by_entry)
            np.add.at(by_entry[:, k], matched[first], fixed[row][first])
