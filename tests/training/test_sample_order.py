"""The order of an epoch: a pure function of seed and epoch that takes every sample once."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip.training.stream.sample_order import PAGE_SIZE, SampleOrder, permutation

SIZES = st.lists(st.integers(0, 90), min_size=1, max_size=24).filter(any)


def everything(order: SampleOrder, epoch: int) -> list[tuple[int, int]]:
    """Return the samples of an epoch in order."""
    pages = [order.page(epoch, number) for number in range(order.n_pages(epoch))]
    return [
        (tar, row) for tars, rows in pages for tar, row in zip(tars.tolist(), rows.tolist(), strict=True)
    ]


@settings(max_examples=60)
@given(sizes=SIZES, seed=st.integers(0, 1 << 64), epoch=st.integers(0, 5))
def test_an_epoch_is_every_sample_once(sizes: list[int], seed: int, epoch: int) -> None:
    """Whatever the tars' sizes, seed and epoch: all samples, each once, in pages that are not empty."""
    order = SampleOrder(tuple(sizes), seed)
    assert sorted(everything(order, epoch)) == [
        (tar, row) for tar, size in enumerate(sizes) for row in range(size)
    ]
    assert all(0 < len(order.page(epoch, n)[0]) <= order.page_size for n in range(order.n_pages(epoch)))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """Another epoch or seed gives another order, the same gives the same; neighbours do not stay together."""
    order = SampleOrder((3000, 2000, 4000), 1)
    first = everything(order, 0)
    assert first == everything(SampleOrder((3000, 2000, 4000), 1), 0)
    for other in (everything(order, 1), everything(SampleOrder((3000, 2000, 4000), 2), 0)):
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 20
    beside = sum(a[0] == b[0] and abs(a[1] - b[1]) == 1 for a, b in itertools.pairwise(first))
    assert beside < len(first) / 50
    assert order.page_size == 140
    assert SampleOrder((100_000,)).page_size == PAGE_SIZE


def test_the_shuffle_is_frozen() -> None:
    """A state that was saved is of this order, for good."""
    assert permutation(10, 0, 0, 1).tolist() == FROZEN
    assert permutation(10, 0, 1, 1).tolist() != FROZEN
    assert [part.tolist() for part in SampleOrder((5, 4), 7).page(2, 3)] == FROZEN_PAGE


FROZEN = [7, 6, 4, 9, 2, 5, 1, 3, 8, 0]
FROZEN_PAGE = [[0], [1]]
