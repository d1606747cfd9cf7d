"""The dealing of an epoch's pages: every sample once, whichever workers take them, however often it is dealt anew."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.training.stream.page_schedule import Consumed, PageSchedule, Position, global_worker, resume
from metaclip.training.stream.sample_order import SampleOrder

SIZES = st.lists(st.integers(0, 90), min_size=1, max_size=24).filter(any)


def walk(
    order: SampleOrder, schedule: PageSchedule, worker: int, at: Position, steps: int
) -> tuple[list[tuple[int, int, int]], Position]:
    """Take `steps` samples of a worker, as the stream does."""
    taken: list[tuple[int, int, int]] = []
    while True:
        pages = schedule.pages(order, at.epoch, worker)
        while at.pages < len(pages):
            page = int(pages[at.pages])
            tars, rows = order.page(at.epoch, page)
            before = schedule.consumed_samples(at.epoch, page)
            for place in range(at.samples, len(tars)):
                if before >> place & 1:
                    continue
                if len(taken) == steps:
                    return taken, at
                taken.append((at.epoch, int(tars[place]), int(rows[place])))
                at = Position(at.epoch, at.pages, place + 1)
            at = Position(at.epoch, at.pages + 1)
        if len(taken) == steps:
            return taken, at
        at = Position(at.epoch + 1)


@settings(max_examples=80)
@given(data=st.data(), sizes=SIZES)
def test_nothing_is_lost_or_repeated_however_often_it_is_dealt_anew(
    data: st.DataObject, sizes: list[int]
) -> None:
    """Workers stop wherever they are and others go on, again and again: every epoch that is whole has every sample once."""
    order = SampleOrder(tuple(sizes), 3)
    states: list[dict] = []
    taken: Counter[tuple[int, int, int]] = Counter()
    for _ in range(data.draw(st.integers(1, 4))):
        workers = data.draw(st.integers(1, 5))
        schedule, at = resume(order, "s", states, workers)
        for worker in range(workers):
            more, at[worker] = walk(
                order, schedule, worker, at[worker], data.draw(st.integers(0, order.total))
            )
            taken.update(more)
        states = [
            {
                "stream": "s",
                "plan": schedule.to_json(),
                "at": {str(worker): list(at[worker])},
                "ranks": workers,
            }
            for worker in range(workers)
        ]
    assert max(taken.values(), default=1) == 1
    # Now one worker takes all that is left, up to an epoch that no one began.
    schedule, at = resume(order, "s", states, 1)
    last = max((epoch for epoch, _, _ in taken), default=0) + 1
    rest, _ = walk(order, schedule, 0, at[0], order.total * last - sum(taken.values()))
    taken.update(rest)
    assert taken == Counter(
        (e, tar, row) for e in range(last) for tar, size in enumerate(sizes) for row in range(size)
    )


@given(sizes=SIZES, workers=st.integers(1, 7), epochs=st.integers(1, 4))
def test_pages_are_dealt_in_turn_through_the_epochs(sizes: list[int], workers: int, epochs: int) -> None:
    """Each page has one worker, and over all epochs no worker has two pages more than another."""
    order, schedule = SampleOrder(tuple(sizes)), PageSchedule(workers)
    dealt = Counter[int]()
    for epoch in range(epochs):
        parts = [schedule.pages(order, epoch, worker).tolist() for worker in range(workers)]
        assert sorted(page for part in parts for page in part) == list(range(order.n_pages(epoch)))
        dealt.update({worker: len(part) for worker, part in enumerate(parts)})
    assert max(dealt.values()) - min(dealt.values()) <= 1


def test_as_many_workers_go_on_as_they_were() -> None:
    """With the number of workers unchanged nothing is dealt anew."""
    order, schedule = SampleOrder((50, 60)), PageSchedule(3)
    at = {worker: Position(0, worker, 0) for worker in range(3)}
    state = {
        "stream": "s",
        "plan": schedule.to_json(),
        "at": {str(k): list(v) for k, v in at.items()},
        "ranks": 1,
    }
    assert resume(order, "s", [state], 3) == (schedule, at)
    assert resume(order, "s", [state], 2)[0] != schedule


def test_states_that_do_not_belong_together() -> None:
    """States of another stream, of another moment, or without some rank are refused, with what to do."""
    order, schedule = SampleOrder((50, 60)), PageSchedule(2)
    states = [
        {"stream": "s", "plan": schedule.to_json(), "at": {str(worker): [0, 1, 0]}, "ranks": 2}
        for worker in range(2)
    ]
    with pytest.raises(MetaclipError, match="the state belongs to the stream s, this is other"):
        resume(order, "other", states, 2)
    with pytest.raises(
        MetaclipError, match="the states hold 1 of 2 workers, without 1; give the states of all 2 ranks"
    ):
        resume(order, "s", states[:1], 2)
    with pytest.raises(MetaclipError, match="ranks that did not begin together"):
        resume(order, "s", [states[0], {**states[1], "plan": PageSchedule(3).to_json()}], 2)


@given(st.sets(st.integers(0, 40)), st.dictionaries(st.integers(41, 50), st.integers(1, 255)))
def test_a_schedule_is_json(pages: set[int], places: dict[int, int]) -> None:
    """What is written is read back."""
    schedule = PageSchedule(4, 2, {2: Consumed.of(pages, places), 3: Consumed()})
    assert PageSchedule.from_json(schedule.to_json()) == schedule
    assert {page for begin, end in schedule.consumed[2].pages for page in range(begin, end)} == pages
    assert np.setdiff1d(np.arange(60), schedule.consumed[2].pending(60)).tolist() == sorted(pages)


def test_workers_of_ranks() -> None:
    """Each worker of each rank has a number of its own."""
    assert sorted(global_worker(rank, 3, worker) for rank in range(3) for worker in range(4)) == list(
        range(12)
    )
