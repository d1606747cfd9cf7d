"""The draw: frozen vectors, and the law of P(keep) to the last bit, in plain Python, in numpy and in the kernel."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation import naive
from metaclip.curate.draw import (
    FIXED_POINT,
    DrawSums,
    draw_rows,
    draw_rows_numpy,
    expect_rows,
    keep_probabilities,
    keep_probability,
    mix,
    probabilities,
    slopes,
    stream_key,
    uniform,
    uniforms,
)

# Frozen: seed, epoch, uid, h, u. A published card is checked with them.
VECTORS = [
    (0, 0, "00000000000000000000000000000000", 0x33FE8BD4F9C57863, 0.20310281705476096),
    (0, 0, "00000000000000000000000000000001", 0x2AEA2EC8299DF491, 0.1676358450582638),
    (0, 1, "00000000000000000000000000000001", 0xC941F344952016FF, 0.7861625711858553),
    (7, 0, "91efd8562038d219f5099b42bcee1346", 0x33552C343F6BB976, 0.20051838183955695),
    (2**64 - 1, 3, "ffffffffffffffffffffffffffffffff", 0x5F2192F8CDDB45A4, 0.3716060502464247),
]
ULP = 2.0**-53
"""The step of u."""

SEEDS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1])
EPOCHS = st.integers(0, 2**20)
UIDS = st.integers(0, 2**128 - 1) | st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**127, 2**128 - 1])
COUNTS = st.integers(0, 50) | st.integers(0, 2**63) | st.sampled_from([0, 1, 2**53, 2**53 + 1, 2**64 - 1])
THRESHOLDS = st.one_of(
    st.floats(0.01, 100),
    st.floats(min_value=0, max_value=1e30, exclude_min=True),
    st.sampled_from([5e-324, 1e-300, 0.1, 1 / 3, 1.0, 1 - 2**-53, 2.5, 20_000.0, 1e300]),
    st.integers(1, 10**6),
)


def halves(uids: Sequence[int]) -> Any:
    return np.array([divmod(uid, 2**64) for uid in uids], np.uint64).reshape(-1, 2)


def ragged(rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    values = np.array([entry_id for ids in rows for entry_id in ids], np.uint32)
    return values, np.array([0, *itertools.accumulate(map(len, rows))], np.int64)


def bits(x: float) -> bytes:
    return struct.pack("<d", x)


def by_hand(ids: Sequence[int], p: Sequence[float]) -> float:
    """The law in float64, written out once more."""
    dropped = 1.0
    for entry_id in sorted(ids):
        dropped = dropped * (1.0 - p[entry_id])
    return 1.0 - dropped


def drawn(
    rows: Sequence[Sequence[int]], p: Any, uids: Any, seed: int = 0, epoch: int = 0
) -> tuple[Any, Any, DrawSums]:
    sums = DrawSums(len(p))
    problem = *ragged(rows), np.asarray(p, np.float64), uids, stream_key(seed, epoch)
    p_keep, kept = draw_rows(*problem, sums)
    # numpy, where there is no library, gives the same to the bit.
    same = DrawSums(len(p))
    in_numpy, kept_in_numpy = draw_rows_numpy(*problem, same)
    assert in_numpy.tobytes() == p_keep.tobytes()
    assert kept_in_numpy.tolist() == kept.tolist()
    for name in ("expected", "kept", "totals"):
        assert getattr(same, name).tolist() == getattr(sums, name).tolist()
    return p_keep, kept, sums


# --- u


@pytest.mark.parametrize(("seed", "epoch", "uid", "h", "u"), VECTORS)
def test_published_vectors(seed: int, epoch: int, uid: str, h: int, u: float) -> None:
    """Each published vector holds to the last bit: in plain Python, in naive.py, in numpy and in the kernel."""
    high, low = divmod(int(uid, 16), 2**64)
    assert mix(mix(stream_key(seed, epoch) ^ high) ^ low) == h
    assert (h >> 11) * 2.0**-53 == u
    assert uniform(seed, epoch, uid) == uniform(seed, epoch, int(uid, 16)) == u
    assert naive.draw(seed, epoch, uid) == u
    uids = halves([int(uid, 16)] * 2)
    assert uniforms(seed, epoch, uids).tolist() == [u, u]
    # For multiples of 2**-53, 1 - (1 - p) is p: the kernel's u is at least u and less than the next.
    p_keep, kept, _ = drawn([[0], [1]], [u, u + ULP], uids, seed, epoch)
    assert p_keep.tolist() == [u, u + ULP]
    assert kept.tolist() == [False, True]


@given(SEEDS, EPOCHS, st.lists(UIDS, max_size=8))
@settings(max_examples=300)
def test_all_forms_draw_the_same(seed: int, epoch: int, uids: list[int]) -> None:
    """The scalar, numpy and naive forms of u are the same number in [0, 1), and the kernel's is that number too."""
    wanted = [naive.draw(seed, epoch, f"{uid:032x}") for uid in uids]
    assert all(0.0 <= u < 1.0 for u in wanted)
    assert [uniform(seed, epoch, uid) for uid in uids] == wanted
    assert [uniform(seed, epoch, f"{uid:x}") for uid in uids] == wanted
    assert uniforms(seed, epoch, halves(uids)).tolist() == wanted
    p = [*wanted, *(u + ULP for u in wanted)]
    _, kept, _ = drawn([[i] for i in range(len(p))], p, halves(uids * 2), seed, epoch)
    assert kept.tolist() == [False] * len(uids) + [True] * len(uids)


def test_seed_and_epoch_wrap() -> None:
    """Seed and epoch count modulo 2**64, as the frozen law's arithmetic does."""
    assert stream_key(2**64 + 5, 0) == stream_key(5, 0)
    assert stream_key(-1, 0) == stream_key(2**64 - 1, 0)
    assert stream_key(5, 2**64) == stream_key(5, 0)


def test_draws_are_uniform_and_unrelated() -> None:
    """Over counting uids, u fills 64 bins evenly, and those of other epochs, seeds and neighbours do not follow it."""
    n = 40_000
    uids = halves(range(n))
    base = uniforms(0, 0, uids)
    bins = np.bincount((base * 64).astype(int), minlength=64)
    chi2 = float(((bins - n / 64) ** 2 / (n / 64)).sum())
    assert abs(chi2 - 63) < 5 * math.sqrt(2 * 63)
    others = [uniforms(0, 1, uids), uniforms(1, 0, uids), uniforms(0, 0, uids[:, ::-1]), np.roll(base, 1)]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / math.sqrt(n)


# --- probabilities of entries


@pytest.mark.parametrize(
    ("count", "t", "p"),
    [
        (0, 20, 1.0),
        (0, 5e-324, 1.0),
        (1, 0.25, 0.25),
        (19, 20, 1.0),
        (20, 20, 1.0),
        (21, 20, 20 / 21),
        (3, 2.5, 2.5 / 3),
        (54_000_000, 20_000, 1 / 2700),
        (2**64 - 1, 5e-324, 0.0),
        (1, 1e300, 1.0),
    ],
)
def test_probability_table(count: int, t: float, p: float) -> None:
    """min(1, t / count), 1 where the count is 0; t is any real number above 0."""
    assert probabilities(np.array([count], np.uint64), t).tolist() == [p]
    assert naive.probability(count, t) == p


@given(st.lists(COUNTS, max_size=12), THRESHOLDS)
@settings(max_examples=400)
def test_probabilities_are_the_naive_ones(counts: list[int], t: float) -> None:
    """Every probability is naive.py's to the last bit; none is NaN or outside [0, 1]."""
    found = probabilities(np.array(counts, np.uint64), t)
    assert found.dtype == np.float64
    assert ((found >= 0) & (found <= 1)).all()
    wanted = [naive.probability(float(count), float(t)) for count in counts]
    assert list(map(bits, found.tolist())) == list(map(bits, wanted))


# --- P(keep)

PROBABILITIES = st.one_of(
    st.floats(0, 1),
    st.sampled_from([0.0, 5e-324, 2.0**-60, 2.0**-53, 0.1, 1 / 3, 0.5, 1 - 2.0**-53, 1.0]),
    st.tuples(st.floats(0.5, 50), st.integers(1, 10**6)).map(lambda x: min(1.0, x[0] / x[1])),
)


@st.composite
def rows_of_matches(draw: Any) -> tuple[list[list[int]], list[float]]:
    """Rows of ascending entry ids, some of them long, with each entry's probability."""
    p = draw(st.lists(PROBABILITIES, min_size=1, max_size=80))
    ids = st.lists(st.integers(0, len(p) - 1), max_size=60, unique=True).map(sorted)
    return draw(st.lists(ids, max_size=10)), p


@given(rows_of_matches())
@example(([[0, 1, 2]], [0.1, 0.2, 0.3]))
@example(([[], [0]], [1.0]))
@settings(max_examples=400)
def test_keep_probability_to_the_bit(problem: tuple[list[list[int]], list[float]]) -> None:
    """P(keep) is the float64 product in ascending id order, to the bit: in Python, in naive.py and in the kernel."""
    rows, p = problem
    wanted = [bits(by_hand(ids, p)) for ids in rows]
    assert [bits(keep_probability(ids, np.array(p))) for ids in rows] == wanted
    assert [bits(naive.keep_probability(ids, p)) for ids in rows] == wanted
    p_keep, kept, _ = drawn(rows, p, halves(range(len(rows))))
    assert list(map(bits, p_keep.tolist())) == wanted
    assert ((p_keep >= 0) & (p_keep <= 1)).all()
    assert kept.tolist() == [naive.draw(0, 0, f"{i:032x}") < x for i, x in enumerate(p_keep)]


def test_nothing_is_fused_or_reordered() -> None:
    """Where a fused multiply-add or another order of the factors gives another last bit, the kernel gives the law's."""
    rng = np.random.default_rng(3)
    p = (
        rng.random(4000) / 10
    )  # small: the last bit of the product is then one of P; and 1 - p is not exact
    rows = [list(range(i, i + 4)) for i in range(0, len(p), 4)]
    fused, backwards = [], []
    for ids in rows:
        one = 1.0
        for i in ids:  # d (1 - p) as d - d p, rounded once
            one = float(Fraction(one) - Fraction(one) * Fraction(float(p[i])))
        fused.append(1.0 - one)
        backwards.append(1.0 - math.prod(1.0 - float(p[i]) for i in reversed(ids)))
    wanted = [by_hand(ids, p.tolist()) for ids in rows]
    assert sum(a != b for a, b in zip(fused, wanted, strict=True)) > 50
    assert sum(a != b for a, b in zip(backwards, wanted, strict=True)) > 50
    assert drawn(rows, p, halves(range(len(rows))))[0].tolist() == wanted


def test_edges() -> None:
    """A text that matches nothing is never kept, one with an entry of p = 1 always, one with p = 0 alone never."""
    p = [1.0, 0.0, 2.0**-60, 0.5]
    rows = [[], [0], [1], [2], [0, 1, 2, 3], [3]]
    n = 2000
    p_keep, kept, sums = drawn(rows * n, p, halves(range(len(rows) * n)))
    assert p_keep[: len(rows)].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0, 0.5]
    by_row = kept.reshape(n, len(rows)).sum(axis=0)
    assert by_row[[0, 1, 2, 3, 4]].tolist() == [0, n, 0, 0, n]
    assert sums.kept.tolist() == [2 * n, 0 + n, 0 + n, n + by_row[5]]
    assert sums.expected[0] == 2 * n * FIXED_POINT


@given(rows_of_matches(), SEEDS, st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_tally_is_exact_whatever_the_grouping(problem: Any, seed: int, random: Any) -> None:
    """Sums are integers, floor(x * 2**32) a row: exactly the same for any order of the rows and any cut."""
    rows, p = problem
    p_keep, kept, whole = drawn(rows, p, halves(range(len(rows))), seed)
    fixed = [math.floor(Fraction(x) * FIXED_POINT) for x in p_keep.tolist()]
    spread = [math.floor(x * (1.0 - x) * FIXED_POINT) for x in p_keep.tolist()]
    assert whole.totals.tolist() == [sum(fixed), sum(spread), sum(kept.tolist())]
    for e in range(len(p)):
        assert whole.expected[e] == sum(x for x, ids in zip(fixed, rows, strict=True) if e in ids)
        assert whole.kept[e] == sum(x for x, ids in zip(kept.tolist(), rows, strict=True) if e in ids)
    order = random.sample(range(len(rows)), len(rows))
    cut = random.randint(0, len(rows))
    pieces = DrawSums(len(p))
    for part in (order[:cut], order[cut:]):
        values, offsets = ragged([rows[i] for i in part])
        again, kept_again = draw_rows(
            values, offsets, np.array(p), halves(part), stream_key(seed, 0), pieces
        )
        assert again.tolist() == p_keep[part].tolist()
        assert kept_again.tolist() == kept[part].tolist()
    assert pieces.totals.tolist() == whole.totals.tolist()
    assert pieces.expected.tolist() == whole.expected.tolist()
    assert pieces.kept.tolist() == whole.kept.tolist()


@given(rows_of_matches(), st.lists(COUNTS, min_size=80, max_size=80), THRESHOLDS, THRESHOLDS, SEEDS)
@settings(max_examples=200)
def test_larger_t_keeps_a_superset(
    problem: Any, counts: list[int], t: float, other: float, seed: int
) -> None:
    """What a t keeps, a larger t keeps too; and a text with an entry whose count is at most t is kept."""
    rows = problem[0]
    uids = halves(range(len(rows)))
    low, high = sorted([float(t), float(other)])
    few = drawn(rows, probabilities(np.array(counts, np.uint64), low), uids, seed)[1]
    many = drawn(rows, probabilities(np.array(counts, np.uint64), high), uids, seed)[1]
    assert not (few & ~many).any()
    for ids, kept in zip(rows, few.tolist(), strict=True):
        assert kept or not any(counts[e] <= low for e in ids)


@pytest.mark.parametrize("p", [[0.3], [0.02, 0.4], [0.1] * 12, [0.9, 0.5], [0.001, 0.0001]])
def test_one_uniform_has_the_law_of_independent_draws(p: list[float]) -> None:
    """P is the chance that any of independent draws succeeds, and over many seeds a pair is kept that often."""
    some = sum(
        math.prod(x if hit else 1 - x for x, hit in zip(p, hits, strict=True))
        for hits in itertools.product([False, True], repeat=len(p))
        if any(hits)
    )
    p_keep = keep_probability(range(len(p)), np.array(p))
    assert p_keep == pytest.approx(some, rel=1e-9)
    n = 20_000
    uid = VECTORS[3][2]
    over_seeds = sum(uniform(seed, 0, uid) < p_keep for seed in range(n))
    over_epochs = sum(uniform(0, epoch, uid) < p_keep for epoch in range(n))
    over_uids = int(drawn([list(range(len(p)))] * n, p, halves(range(n)))[1].sum())
    for kept in (over_seeds, over_epochs, over_uids):
        assert abs(kept - n * p_keep) < 5 * math.sqrt(n * p_keep * (1 - p_keep))


def test_rows_as_arrow_gives_them() -> None:
    """Read-only ids and offsets that do not begin at 0, as a slice of an Arrow column has them, are drawn alike."""
    rows = [[0, 2], [], [1], [0, 1, 2]]
    column = pa.array([[7], *rows], pa.list_(pa.uint32())).slice(1)
    p, uids = np.array([0.25, 0.5, 0.75] + [0.0] * 5), halves(range(4))
    values, offsets = column.values.to_numpy(), np.asarray(column.offsets).astype(np.int64)
    assert not values.flags.writeable
    assert offsets[0] == 1
    found = draw_rows(values, offsets, p, uids, stream_key(0, 0), DrawSums(len(p)))
    wanted = drawn(rows, p, uids)
    assert [x.tolist() for x in found] == [x.tolist() for x in wanted[:2]]


@given(rows_of_matches(), st.lists(st.integers(1, 10**6), min_size=80, max_size=80))
@settings(max_examples=100)
def test_many_thresholds_in_one_pass(problem: Any, counts: list[int]) -> None:
    """One pass gives, for each of many t, the expected number that the law gives, up to rounding; it ascends with t."""
    rows = problem[0]
    thresholds = np.geomspace(0.5, 2e6, 16)
    sums = np.zeros(16, np.uint64)
    expect_rows(*ragged(rows), slopes(np.array(counts, np.uint64)), thresholds, sums)
    expected = sums.astype(np.float64) / FIXED_POINT
    for t, found in zip(thresholds.tolist(), expected.tolist(), strict=True):
        p = [naive.probability(count, t) for count in counts]
        assert found == pytest.approx(sum(by_hand(ids, p) for ids in rows), abs=1e-8)
    assert (np.diff(expected) >= 0).all()
    assert expected[-1] == sum(map(bool, rows))  # t above every count: all that match anything


def test_entry_ids_beyond_the_list_are_refused() -> None:
    """An entry id beyond the list is an error in every loop, not a write beyond the sums."""
    values, offsets = np.array([0, 7], np.uint32), np.array([0, 2], np.int64)
    sums, uids = DrawSums(2), np.zeros((1, 2), np.uint64)
    for call in (
        lambda: keep_probabilities(values, offsets, np.ones(2)),
        lambda: draw_rows(values, offsets, np.ones(2), uids, stream_key(0, 0), sums),
        lambda: expect_rows(values, offsets, np.ones(2), np.ones(1), np.zeros(1, np.uint64)),
    ):
        with pytest.raises((ValueError, IndexError), match="7"):
            call()
