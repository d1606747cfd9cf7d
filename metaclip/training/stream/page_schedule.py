"""Which worker takes which page of an epoch, what has been consumed, and how that is saved and resumed.

The workers of all ranks are numbered through. The pending pages of an epoch are dealt to them in turn, and the dealing
continues from epoch to epoch, so no worker waits for another: a batch may hold the end of one epoch and the beginning of
the next, and no remainder of either is dropped.

A worker takes its pages in order, so what it has consumed is three numbers (epoch, number of its pages, number of samples
of the next page); the state of a stream is the schedule with the positions of all workers. With the same number of
workers each continues where it was, and the same batches follow as if nothing had happened. With another number, what all
workers consumed is combined and the rest is dealt anew. Either way no sample is repeated and none is left out.

    {"plan": {"lanes": 8, "epoch": 3, "taken": {"3": {"pages": [[0, 40]], "places": {"41": "7fff"}}}},
     "at": {"0": [3, 2, 17], ...}, ...}            # lanes: workers; places: samples of a page, as bits
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from metaclip.errors import MetaclipError
from metaclip.stage.stage import Size
from metaclip.storage.files import fault_in
from metaclip.training.stream.sample_order import Ints, SampleOrder

_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 20)]
"""Of an epoch or a worker: loops run up to it."""
_Digits = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,18}$")]


class _Taken(msgspec.Struct):
    pages: list[tuple[int, int]]
    places: dict[_Digits, Annotated[str, msgspec.Meta(pattern="^[0-9a-f]+$")]]


class _Plan(msgspec.Struct):
    lanes: Annotated[int, msgspec.Meta(ge=1, lt=1 << 20)]
    epoch: _Number
    taken: dict[_Digits, _Taken]


class ScheduleState(msgspec.Struct):
    """The fields and types of a saved state that the schedule reads."""

    stream: str
    ranks: _Number
    plan: _Plan
    at: dict[_Digits, tuple[_Number, Size, Size]]


class LoaderState(ScheduleState):
    """All of the saved state of a loader."""

    rank: _Number
    workers: _Number
    turn: _Number
    reasons: dict[str, Size]


class Position(NamedTuple):
    """The position of a worker: it has consumed `pages` of its pages of an epoch, and `samples` of the next page."""

    epoch: int
    pages: int = 0
    samples: int = 0


@dataclasses.dataclass(frozen=True)
class Consumed:
    """What has been consumed of an epoch: whole pages, as ranges, and samples of other pages, as bits by page."""

    pages: tuple[tuple[int, int], ...] = ()
    samples: Mapping[int, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, pages: Iterable[int], samples: Mapping[int, int]) -> Consumed:
        """Combine page numbers into ranges, and drop pages without samples."""
        ranges: list[list[int]] = []
        for page in sorted(set(pages)):
            if ranges and ranges[-1][1] == page:
                ranges[-1][1] += 1
            else:
                ranges.append([page, page + 1])
        return cls(
            tuple((begin, end) for begin, end in ranges),
            {p: bits for p, bits in sorted(samples.items()) if bits},
        )

    def pending(self, n_pages: int) -> Ints:
        """Return the pages below `n_pages` that are not wholly consumed."""
        free = np.ones(n_pages, np.bool_)
        for begin, end in self.pages:
            free[begin:end] = False
        return np.flatnonzero(free)


@dataclasses.dataclass(frozen=True)
class PageSchedule:
    """How the pages from an epoch on, except what was consumed before, are dealt to workers."""

    n_workers: int
    """Number of workers of all ranks."""
    epoch: int = 0
    consumed: Mapping[int, Consumed] = dataclasses.field(default_factory=dict)
    """By epoch."""

    def pages(self, order: SampleOrder, epoch: int, worker: int) -> Ints:
        """Return the pages of an epoch that a worker takes, ascending."""
        before = (one.pages for e, one in self.consumed.items() if self.epoch <= e < epoch)
        dealt = _n_pages(order, self.epoch, epoch) - sum(
            end - begin for pages in before for begin, end in pages
        )
        pending = self.consumed.get(epoch, _NOTHING).pending(order.n_pages(epoch))
        return pending[(worker - dealt) % self.n_workers :: self.n_workers]

    def consumed_samples(self, epoch: int, page: int) -> int:
        """Return the samples of a page that were consumed before, as bits."""
        return self.consumed.get(epoch, _NOTHING).samples.get(page, 0)

    def after(
        self, order: SampleOrder, positions: Mapping[int, Position], n_workers: int
    ) -> PageSchedule:
        """Return the schedule of what is left, for `n_workers`, if the workers of this one are at `positions`."""
        consumed: dict[int, Consumed] = {}
        for epoch in range(
            self.epoch, max([*self.consumed, *(at.epoch for at in positions.values())]) + 1
        ):
            before = self.consumed.get(epoch, _NOTHING)
            whole, samples = (
                {page for pages in before.pages for page in range(*pages)},
                dict(before.samples),
            )
            for worker, at in positions.items():
                if at.epoch < epoch:
                    continue
                pages = self.pages(order, epoch, worker)
                whole.update((pages if at.epoch > epoch else pages[: at.pages]).tolist())
                if at.epoch == epoch and at.samples:
                    page = int(pages[at.pages])
                    samples[page] = samples.get(page, 0) | (1 << at.samples) - 1
            consumed[epoch] = Consumed.of(
                whole, {page: bits for page, bits in samples.items() if page not in whole}
            )
        first = self.epoch
        while first in consumed and not len(consumed[first].pending(order.n_pages(first))):
            del consumed[first]
            first += 1
        return PageSchedule(n_workers, first, consumed)

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as a JSON object."""
        taken = {
            str(epoch): {
                "pages": [list(pair) for pair in one.pages],
                "places": {str(page): f"{bits:x}" for page, bits in one.samples.items()},
            }
            for epoch, one in self.consumed.items()
        }
        return {"lanes": self.n_workers, "epoch": self.epoch, "taken": taken}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> PageSchedule:
        """Read what `to_json` returned."""
        consumed = {
            int(epoch): Consumed(
                tuple((int(a), int(b)) for a, b in one["pages"]),
                {int(p): int(b, 16) for p, b in one["places"].items()},
            )
            for epoch, one in state["taken"].items()
        }
        return cls(int(state["lanes"]), int(state["epoch"]), consumed)


_NOTHING = Consumed()


@functools.lru_cache(maxsize=64)
def _n_pages(order: SampleOrder, begin: int, end: int) -> int:
    return sum(order.n_pages(epoch) for epoch in range(begin, end))


def global_worker(rank: int, ranks: int, worker: int) -> int:
    """Return the number of a rank's worker among the workers of all ranks."""
    return worker * ranks + rank


def resume(
    order: SampleOrder, stream: str, states: Sequence[Mapping[str, Any]], n_workers: int
) -> tuple[PageSchedule, dict[int, Position]]:
    """Return the schedule for `n_workers` and their positions, from the states of all ranks; a new one if there are none.

    Raise MetaclipError if the states belong to another stream or to different checkpoints, or if some are missing.
    """
    if not states:
        return PageSchedule(n_workers), {worker: Position(0) for worker in range(n_workers)}
    if (fault := fault_in(states, list[ScheduleState])) is not None:
        raise MetaclipError(
            f"the state is damaged ({fault}); give another one, or begin anew without a state"
        )
    positions: dict[int, Position] = {}
    for state in states:
        if state.get("stream") != stream:
            raise MetaclipError(
                f"the state belongs to the stream {state.get('stream')}, this is {stream}: other tars, sizes or seed; "
                "give the stream that the state was saved from, or begin anew without a state"
            )
        if state["plan"] != states[0]["plan"]:
            raise MetaclipError(
                "the states belong to ranks that did not begin together; give those of one checkpoint"
            )
        positions.update({int(worker): Position(*at) for worker, at in state["at"].items()})
    schedule = PageSchedule.from_json(states[0]["plan"])
    for epoch, one in schedule.consumed.items():
        if any(not 0 <= begin <= end <= order.n_pages(epoch) for begin, end in one.pages):
            raise MetaclipError(
                "the state is damaged: it names pages that are none; begin anew without a state"
            )
    if missing := sorted(set(range(schedule.n_workers)) - positions.keys()):
        raise MetaclipError(
            f"the states hold {len(positions)} of {schedule.n_workers} workers, without {missing[0]}; give the states of "
            f"all {states[0]['ranks']} ranks"
        )
    if n_workers == schedule.n_workers:
        return schedule, positions
    new = schedule.after(order, positions, n_workers)
    return new, {worker: Position(new.epoch) for worker in range(n_workers)}
