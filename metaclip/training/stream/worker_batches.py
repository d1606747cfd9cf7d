"""Whole batches made by each worker of a rank, as an iterable data set of torch: the only module here that imports torch."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from metaclip.errors import MetaclipError
from metaclip.training.stream.page_schedule import PageSchedule, Position, global_worker
from metaclip.training.stream.reader import Reader, Sample
from metaclip.training.stream.stream import Stream


class WorkerBatch(NamedTuple):
    """A batch with its worker, the worker's position after it, and the outcomes of samples since its last batch."""

    batch: Any
    """None if the worker ends without one."""
    worker: int
    """The number among the workers of all ranks."""
    position: Position
    reasons: dict[str, int]


@dataclasses.dataclass(eq=False)
class WorkerBatches(IterableDataset[WorkerBatch | MetaclipError]):
    """The batches of a rank's workers, as a `Loader` set them up; each process finds out which worker it is."""

    stream: Stream
    schedule: PageSchedule
    positions: Mapping[int, Position]
    turn: int
    """The worker whose batch comes first."""
    batch_size: int
    epochs: int | None
    rank: int
    ranks: int
    workers: int
    collate: Callable[[Sequence[Sample]], Any]

    def __iter__(self) -> Iterator[WorkerBatch | MetaclipError]:
        """Yield this worker's batches; a worker process yields errors too, since torch would wrap them in a traceback."""
        info = get_worker_info()
        if info is None:
            yield from self._batches(0)
            return
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C reaches all processes; the main process decides to stop
        try:
            yield from self._batches(info.id)
        except MetaclipError as error:
            yield error

    def _batches(self, worker: int) -> Iterator[WorkerBatch]:
        worker = global_worker(self.rank, self.ranks, (worker + self.turn) % self.workers)
        reasons, samples, start = collections.Counter[str](), list[Sample](), self.positions[worker]
        for sample, position in iter_samples(
            self.stream, self.schedule, worker, start, self.epochs, reasons
        ):
            if sample is not None:
                samples.append(sample)
            if len(samples) == self.batch_size:
                yield WorkerBatch(self.collate(samples), worker, position, dict(reasons))
                samples = []
                reasons.clear()
        yield WorkerBatch(self.collate(samples) if samples else None, worker, position, dict(reasons))


def iter_samples(
    stream: Stream, schedule: PageSchedule, worker: int, at: Position, epochs: int | None, reasons: collections.Counter[str]
) -> Iterator[tuple[Sample | None, Position]]:  # fmt: skip
    """Yield a worker's samples with its position after each, from `at` to the end of `epochs` (None: without end).

    The last item is (None, the final position). Outcomes are counted in `reasons`. Raise MetaclipError if no sample passed
    for as many samples as ten epochs have.
    """
    skipped = 0
    with contextlib.closing(Reader(stream)) as reader:
        while epochs is None or at.epoch < epochs:
            pages = schedule.pages(stream.order, at.epoch, worker)
            while at.pages < len(pages):
                page = int(pages[at.pages])
                tars, rows = stream.order.page(at.epoch, page)
                before = schedule.consumed_samples(at.epoch, page)
                left = [i for i in range(at.samples, len(tars)) if not before >> i & 1]
                for i, sample in reader.read(tars, rows, left, at.epoch, reasons):
                    skipped = 0
                    yield sample, Position(at.epoch, at.pages, i + 1)
                skipped += len(left)
                at = Position(at.epoch, at.pages + 1)
                if skipped > 10 * stream.order.total:
                    raise MetaclipError(
                        f"none of {skipped} samples came through: {dict(reasons)}; check `keep` and the tars"
                    )
            at = Position(at.epoch + 1)
        yield None, at
