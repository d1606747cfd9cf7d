"""The order of an epoch and the dealing of its pages: every sample once, whoever takes them, however often it is dealt anew."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.training.stream.order import PAGE, Order, shuffled
from metaclip.training.stream.plan import At, Plan, Taken, lane_of, resume

SIZES = st.lists(st.integers(0, 90), min_size=1, max_size=24).filter(any)


def everything(order: Order, epoch: int) -> list[tuple[int, int]]:
    """Give the samples of an epoch in order."""
    pages = [order.page(epoch, number) for number in range(order.pages(epoch))]
    return [(tar, row) for tars, rows in pages for tar, row in zip(tars.tolist(), rows.tolist(), strict=True)]


@settings(max_examples=60)
@given(sizes=SIZES, seed=st.integers(0, 1 << 64), epoch=st.integers(0, 5))
def test_an_epoch_is_every_sample_once(sizes: list[int], seed: int, epoch: int) -> None:
    """Whatever the tars' sizes, seed and epoch: all samples, each once, in pages that are not empty."""
    order = Order(tuple(sizes), seed)
    assert sorted(everything(order, epoch)) == [(tar, row) for tar, size in enumerate(sizes) for row in range(size)]
    assert all(0 < len(order.page(epoch, n)[0]) <= order.page_size for n in range(order.pages(epoch)))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """Another epoch or seed gives another order, the same gives the same; neighbours do not stay together."""
    order = Order((3000, 2000, 4000), 1)
    first = everything(order, 0)
    assert first == everything(Order((3000, 2000, 4000), 1), 0)
    for other in (everything(order, 1), everything(Order((3000, 2000, 4000), 2), 0)):
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 20
    beside = sum(a[0] == b[0] and abs(a[1] - b[1]) == 1 for a, b in itertools.pairwise(first))
    assert beside < len(first) / 50
    assert order.page_size == 140
    assert Order((100_000,)).page_size == PAGE


def test_the_shuffle_is_frozen() -> None:
    """A state that was saved is of this order, for good."""
    assert shuffled(10, 0, 0, 1).tolist() == FROZEN
    assert shuffled(10, 0, 1, 1).tolist() != FROZEN
    assert [part.tolist() for part in Order((5, 4), 7).page(2, 3)] == FROZEN_PAGE


FROZEN = [7, 6, 4, 9, 2, 5, 1, 3, 8, 0]
FROZEN_PAGE = [[0], [1]]


def walk(order: Order, plan: Plan, lane: int, at: At, steps: int) -> tuple[list[tuple[int, int, int]], At]:
    """Take so many samples of a lane, as the stream does."""
    taken: list[tuple[int, int, int]] = []
    while True:
        pages = plan.pages(order, at.epoch, lane)
        while at.pages < len(pages):
            page = int(pages[at.pages])
            tars, rows = order.page(at.epoch, page)
            before = plan.places(at.epoch, page)
            for place in range(at.places, len(tars)):
                if before >> place & 1:
                    continue
                if len(taken) == steps:
                    return taken, at
                taken.append((at.epoch, int(tars[place]), int(rows[place])))
                at = At(at.epoch, at.pages, place + 1)
            at = At(at.epoch, at.pages + 1)
        if len(taken) == steps:
            return taken, at
        at = At(at.epoch + 1)


@settings(max_examples=80)
@given(data=st.data(), sizes=SIZES)
def test_nothing_is_lost_or_repeated_however_often_it_is_dealt_anew(data: st.DataObject, sizes: list[int]) -> None:
    """Lanes stop wherever they are and others go on, again and again: every epoch that is whole has every sample once."""
    order = Order(tuple(sizes), 3)
    states: list[dict] = []
    taken: Counter[tuple[int, int, int]] = Counter()
    for _ in range(data.draw(st.integers(1, 4))):
        lanes = data.draw(st.integers(1, 5))
        plan, at = resume(order, "s", states, lanes)
        for lane in range(lanes):
            more, at[lane] = walk(order, plan, lane, at[lane], data.draw(st.integers(0, order.total)))
            taken.update(more)
        states = [
            {"stream": "s", "plan": plan.to_json(), "at": {str(lane): list(at[lane])}, "ranks": lanes}
            for lane in range(lanes)
        ]
    assert max(taken.values(), default=1) == 1
    # Now one lane takes all that is left, up to an epoch that no one began.
    plan, at = resume(order, "s", states, 1)
    last = max((epoch for epoch, _, _ in taken), default=0) + 1
    rest, _ = walk(order, plan, 0, at[0], order.total * last - sum(taken.values()))
    taken.update(rest)
    assert taken == Counter((e, tar, row) for e in range(last) for tar, size in enumerate(sizes) for row in range(size))


@given(sizes=SIZES, lanes=st.integers(1, 7), epochs=st.integers(1, 4))
def test_pages_are_dealt_in_turn_through_the_epochs(sizes: list[int], lanes: int, epochs: int) -> None:
    """Each page has one lane, and over all epochs no lane has two pages more than another."""
    order, plan = Order(tuple(sizes)), Plan(lanes)
    dealt = Counter[int]()
    for epoch in range(epochs):
        parts = [plan.pages(order, epoch, lane).tolist() for lane in range(lanes)]
        assert sorted(page for part in parts for page in part) == list(range(order.pages(epoch)))
        dealt.update({lane: len(part) for lane, part in enumerate(parts)})
    assert max(dealt.values()) - min(dealt.values()) <= 1


def test_as_many_lanes_go_on_as_they_were() -> None:
    """With the number of lanes unchanged nothing is dealt anew."""
    order, plan = Order((50, 60)), Plan(3)
    at = {lane: At(0, lane, 0) for lane in range(3)}
    state = {"stream": "s", "plan": plan.to_json(), "at": {str(k): list(v) for k, v in at.items()}, "ranks": 1}
    assert resume(order, "s", [state], 3) == (plan, at)
    assert resume(order, "s", [state], 2)[0] != plan


def test_states_that_do_not_belong_together() -> None:
    """States of another stream, of another moment, or without some rank are refused, with what to do."""
    order, plan = Order((50, 60)), Plan(2)
    states = [{"stream": "s", "plan": plan.to_json(), "at": {str(lane): [0, 1, 0]}, "ranks": 2} for lane in range(2)]
    with pytest.raises(MetaclipError, match="the state is of the stream s, this is other"):
        resume(order, "other", states, 2)
    with pytest.raises(MetaclipError, match="the states hold 1 of 2 lanes, without 1; give the states of all 2 ranks"):
        resume(order, "s", states[:1], 2)
    with pytest.raises(MetaclipError, match="not of ranks that began together"):
        resume(order, "s", [states[0], {**states[1], "plan": Plan(3).to_json()}], 2)


@given(st.sets(st.integers(0, 40)), st.dictionaries(st.integers(41, 50), st.integers(1, 255)))
def test_a_plan_is_json(pages: set[int], places: dict[int, int]) -> None:
    """What is written is read back."""
    plan = Plan(4, 2, {2: Taken.of(pages, places), 3: Taken()})
    assert Plan.from_json(plan.to_json()) == plan
    assert set(plan.taken[2].whole()) == pages
    assert np.setdiff1d(np.arange(60), plan.taken[2].pending(60)).tolist() == sorted(pages)


def test_lanes_of_ranks() -> None:
    """Each worker of each rank has a lane of its own."""
    assert sorted(lane_of(rank, 3, worker) for rank in range(3) for worker in range(4)) == list(range(12))
