"""What the workers of a rank do: whole batches of a lane each, as a data set of torch's. The one file here with torch."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from metaclip.training.stream.plan import At, Plan, lane_of
from metaclip.training.stream.reader import Sample
from metaclip.training.stream.visits import Stream

Item = tuple[Any, int, At, dict[str, int]]
"""A batch (None for none), its lane, where the lane is after it, and what became of the samples since the last one."""


class Lanes(IterableDataset[Item]):
    """The lanes of a rank; which of them is that of this worker is found out where it runs."""

    def __init__(
        self, stream: Stream, plan: Plan, at: Mapping[int, At], turn: int, size: int, epochs: int | None,
        rank: int, ranks: int, workers: int, collate: Callable[[Sequence[Sample]], Any],
    ) -> None:  # fmt: skip
        """Take what a `Loader` settled; `turn` is the worker whose batch comes first."""
        self._stream, self._plan, self._at, self._size, self._epochs = stream, plan, at, size, epochs
        self._turn, self._rank, self._ranks, self._workers = turn, rank, ranks, workers
        self._collate = collate

    def __iter__(self) -> Iterator[Item]:
        """Give this worker's batches."""
        info = get_worker_info()
        lane = lane_of(self._rank, self._ranks, ((info.id if info else 0) + self._turn) % self._workers)
        at, reasons, samples = self._at[lane], collections.Counter[str](), list[Sample]()
        for visited in self._stream.visit(self._plan, lane, at, self._epochs):
            at = visited.at
            reasons.update(visited.reasons)
            if visited.sample is not None:
                samples.append(visited.sample)
            if len(samples) == self._size:
                yield self._collate(samples), lane, at, dict(reasons)
                samples = []
                reasons.clear()
        yield (self._collate(samples) if samples else None), lane, at, dict(reasons)
