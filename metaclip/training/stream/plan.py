"""Who takes which page of an epoch, what has been taken, and how that is saved and put together again.

A lane is one worker of one rank. The pages of an epoch that are pending are dealt to the lanes in turn, and the dealing
goes on from epoch to epoch, so no lane waits for another: a batch may hold the end of one epoch and the beginning of
the next, and nothing of either is left over.

A lane goes through its pages in order, so what it has taken is three numbers (epoch, how many of its pages, how many
places of the next one), and that of all lanes with the plan is the state. With as many lanes as before each goes on
where it was: the same batches come as if nothing had happened. With others, what was taken is put together from all
lanes, and the rest is dealt anew. No sample comes twice and none is left out, in either.

    {"plan": {"lanes": 8, "epoch": 3, "taken": {"3": {"pages": [[0, 40]], "places": {"41": "7fff"}}}},
     "at": {"0": [3, 2, 17], ...}, ...}
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metaclip.errors import MetaclipError
from metaclip.training.stream.order import Ints, Order


class At(NamedTuple):
    """Where a lane is: `pages` of its pages of this epoch are done, and `places` of the next one."""

    epoch: int
    pages: int = 0
    places: int = 0


@dataclasses.dataclass(frozen=True)
class Taken:
    """What has been taken of an epoch: whole pages, as ranges, and places of others, as bits."""

    pages: tuple[tuple[int, int], ...] = ()
    places: Mapping[int, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, pages: Iterable[int], places: Mapping[int, int]) -> Taken:
        """Put together pages that were taken and places of others."""
        ranges: list[list[int]] = []
        for page in sorted(set(pages)):
            if ranges and ranges[-1][1] == page:
                ranges[-1][1] += 1
            else:
                ranges.append([page, page + 1])
        return cls(
            tuple((begin, end) for begin, end in ranges), {p: bits for p, bits in sorted(places.items()) if bits}
        )

    def pending(self, pages: int) -> Ints:
        """Give the pages, of so many, that are not taken whole."""
        free = np.ones(pages, np.bool_)
        for begin, end in self.pages:
            free[begin:end] = False
        return np.flatnonzero(free)

    def whole(self) -> Iterable[int]:
        """Give the pages that are taken whole."""
        return (page for begin, end in self.pages for page in range(begin, end))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the pages from an epoch on, but for what was taken before, are dealt to lanes."""

    lanes: int
    epoch: int = 0
    taken: Mapping[int, Taken] = dataclasses.field(default_factory=dict)

    def pages(self, order: Order, epoch: int, lane: int) -> Ints:
        """Give the pages of an epoch that a lane takes, ascending."""
        pending = self.pending(order, epoch)
        return pending[(lane - self._dealt(order, epoch)) % self.lanes :: self.lanes]

    def pending(self, order: Order, epoch: int) -> Ints:
        """Give the pages of an epoch that are dealt."""
        return self.taken.get(epoch, _NOTHING).pending(order.pages(epoch))

    def places(self, epoch: int, page: int) -> int:
        """Give the places of a page that were taken before, as bits."""
        return self.taken.get(epoch, _NOTHING).places.get(page, 0)

    def _dealt(self, order: Order, epoch: int) -> int:
        """Give the number of pages dealt before an epoch, modulo the lanes."""
        before = (one.pages for e, one in self.taken.items() if self.epoch <= e < epoch)
        return (
            _pages(order, self.epoch, epoch) - sum(end - begin for pages in before for begin, end in pages)
        ) % self.lanes

    def after(self, order: Order, at: Mapping[int, At], lanes: int) -> Plan:
        """Give the plan for so many lanes of what is left when the lanes of this one are where `at` says."""
        taken: dict[int, Taken] = {}
        for epoch in range(self.epoch, max([*self.taken, *(where.epoch for where in at.values())]) + 1):
            before = self.taken.get(epoch, _NOTHING)
            pages, places = list(before.whole()), dict(before.places)
            for lane, where in at.items():
                if where.epoch < epoch:
                    continue
                mine = self.pages(order, epoch, lane)
                done = mine if where.epoch > epoch else mine[: where.pages]
                pages.extend(done.tolist())
                if where.epoch == epoch and where.places:
                    page = int(mine[where.pages])
                    places[page] = places.get(page, 0) | (1 << where.places) - 1
            whole = set(pages)
            taken[epoch] = Taken.of(whole, {page: bits for page, bits in places.items() if page not in whole})
        first = self.epoch
        while first in taken and not len(taken[first].pending(order.pages(first))):
            del taken[first]
            first += 1
        return Plan(lanes, first, taken)

    def to_json(self) -> dict[str, Any]:
        """Give the plan as JSON."""
        taken = {
            str(epoch): {"pages": [list(pair) for pair in one.pages], "places": {str(p): f"{b:x}" for p, b in one.places.items()}}
            for epoch, one in self.taken.items()
        }  # fmt: skip
        return {"lanes": self.lanes, "epoch": self.epoch, "taken": taken}

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> Plan:
        """Read what `to_json` made."""
        taken = {
            int(epoch): Taken(
                tuple((int(a), int(b)) for a, b in one["pages"]), {int(p): int(b, 16) for p, b in one["places"].items()}
            )
            for epoch, one in made["taken"].items()
        }
        return cls(int(made["lanes"]), int(made["epoch"]), taken)


_NOTHING = Taken()


@functools.lru_cache(maxsize=64)
def _pages(order: Order, begin: int, end: int) -> int:
    return sum(order.pages(epoch) for epoch in range(begin, end))


def lane_of(rank: int, ranks: int, worker: int) -> int:
    """Give the lane of a rank's worker."""
    return worker * ranks + rank


def resume(order: Order, stream: str, states: Sequence[Mapping[str, Any]], lanes: int) -> tuple[Plan, dict[int, At]]:
    """Give the plan for so many lanes, and where they are, from the states of all ranks; a new one from none.

    Raise MetaclipError for states of another stream, of different moments of planning, or of which some are missing.
    """
    if not states:
        return Plan(lanes), {lane: At(0) for lane in range(lanes)}
    at: dict[int, At] = {}
    for state in states:
        if state.get("stream") != stream:
            raise MetaclipError(
                f"the state is of the stream {state.get('stream')}, this is {stream}: other tars, sizes or seed; "
                "give the stream that the state was saved from, or begin anew without a state"
            )
        if state["plan"] != states[0]["plan"]:
            raise MetaclipError("the states are not of ranks that began together; give those of one checkpoint")
        at.update({int(lane): At(*where) for lane, where in state["at"].items()})
    plan = Plan.from_json(states[0]["plan"])
    if missing := sorted(set(range(plan.lanes)) - at.keys()):
        raise MetaclipError(
            f"the states hold {len(at)} of {plan.lanes} lanes, without {missing[0]}; give the states of all "
            f"{states[0]['ranks']} ranks"
        )
    if lanes == plan.lanes:
        return plan, at
    new = plan.after(order, at, lanes)
    return new, {lane: At(new.epoch) for lane in range(lanes)}
