"""What the workers of a rank do: whole batches of a lane each, as a data set of torch's. The one file here with torch."""

from __future__ import annotations

import collections
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from metaclip.errors import MetaclipError
from metaclip.training.stream.plan import At, Plan, lane_of
from metaclip.training.stream.reader import Sample, read_lane
from metaclip.training.stream.stream import Stream

Item = tuple[Any, int, At, dict[str, int]]
"""A batch (None for none), its lane, where the lane is after it, and what became of the samples since the last one."""


class Lanes(IterableDataset[Item | MetaclipError]):
    """The lanes of a rank; which of them is that of this worker is found out where it runs."""

    def __init__(
        self, stream: Stream, plan: Plan, at: Mapping[int, At], turn: int, size: int, epochs: int | None,
        rank: int, ranks: int, workers: int, collate: Callable[[Sequence[Sample]], Any],
    ) -> None:  # fmt: skip
        """Take what a `Loader` settled; `turn` is the worker whose batch comes first."""
        self._stream, self._plan, self._at, self._size, self._epochs = stream, plan, at, size, epochs
        self._turn, self._rank, self._ranks, self._workers = turn, rank, ranks, workers
        self._collate = collate

    def __iter__(self) -> Iterator[Item | MetaclipError]:
        """Give this worker's batches; of a worker that is a process an error too, which torch would wrap in a traceback."""
        info = get_worker_info()
        if info is None:
            yield from self._batches(0)
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; when to stop is for the main process to say
        try:
            yield from self._batches(info.id)
        except MetaclipError as error:
            yield error

    def _batches(self, worker: int) -> Iterator[Item]:
        lane = lane_of(self._rank, self._ranks, (worker + self._turn) % self._workers)
        at, reasons, samples = self._at[lane], collections.Counter[str](), list[Sample]()
        for visited in read_lane(self._stream, self._plan, lane, at, self._epochs):
            at = visited.at
            reasons.update(visited.reasons)
            if visited.sample is not None:
                samples.append(visited.sample)
            if len(samples) == self._size:
                yield self._collate(samples), lane, at, dict(reasons)
                samples = []
                reasons.clear()
        yield (self._collate(samples) if samples else None), lane, at, dict(reasons)
