"""Batches of a stream by torch's DataLoader, and the state after each.

Every worker of every rank is a lane (`metaclip.training.stream.plan`) and makes whole batches of its own; DataLoader
takes them from the workers in turn. With each batch comes where its lane is after it, so the state is that of the
batches that were handed out, whatever the workers have made in advance.

Cost (tests/bench/bench_stream.py, one worker on a busy machine, 256-pixel JPEGs, against webdataset on the same tars):
decoding 1,092 images/s against 710; with RandomResizedCrop and normalisation 143 against 140.
"""

from __future__ import annotations

import collections
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from metaclip.errors import MetaclipError
from metaclip.training.stream.plan import lane_of, resume
from metaclip.training.stream.reader import Sample
from metaclip.training.stream.stream import Stream

_LOOK: Final = 1.0  # seconds between two looks of a worker at whether its parent is there

Collate = Callable[[Sequence[Sample]], Any]


class Batch(NamedTuple):
    """Samples together."""

    images: Any
    """A tensor of all where the transform gives tensors, else a list."""
    texts: list[str]
    uids: list[str]


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples together, images as one tensor where they are tensors."""
    images: Any = [sample.image for sample in samples]
    if images and hasattr(images[0], "new_empty"):
        import torch

        images = torch.stack(images)
    return Batch(images, [sample.text for sample in samples], [sample.uid for sample in samples])


class Loader:
    """Goes through a stream in batches; one for each rank."""

    def __init__(
        self,
        stream: Stream,
        batch: int,
        *,
        workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
        epochs: int | None = None,
        state: Sequence[Mapping[str, Any]] = (),
        collate: Collate = collate,
        prefetch: int = 2,
        pin_memory: bool = False,
        context: str | None = None,
    ) -> None:
        """Take a stream and the rank's batch size; `state` are the states of all ranks of an earlier time.

        It is endless, batches going on from epoch to epoch, unless it ends after so many `epochs`, the last batch of
        each lane being smaller then. `workers` are processes (0: none), `context` how they start. Raise MetaclipError
        for a state of another stream, or of which ranks are missing.
        """
        if batch < 1 or not 0 <= rank < ranks:
            raise MetaclipError(f"batch {batch}, rank {rank} of {ranks}: a batch has at least 1, a rank is below all")
        self.stream, self.batch, self.workers = stream, batch, workers
        self.rank, self.ranks, self.epochs = rank, ranks, epochs
        self._collate, self._prefetch, self._pin, self._context = collate, prefetch, pin_memory, context
        self._own = max(1, workers)
        self._plan, at = resume(stream.order, stream.identity, state, self._own * ranks)
        self._at = {lane: at[lane] for lane in (lane_of(rank, ranks, worker) for worker in range(self._own))}
        same = [one for one in state if (one["rank"], one["ranks"], one["workers"]) == (rank, ranks, workers)]
        self._turn = int(same[0]["turn"]) if same else 0
        self.reasons: collections.Counter[str] = collections.Counter()
        """What became of the samples of the batches handed out, by reason; of all ranks before the last resumption."""
        if rank == 0:
            for one in state:
                self.reasons.update(one["reasons"])

    def __iter__(self) -> Iterator[Any]:
        """Give batches, from where the last one ended."""
        try:
            import torch
            from torch.utils.data import DataLoader

            from metaclip.training.stream.lanes import Lanes
        except ImportError:
            raise MetaclipError("loading batches needs torch; install it with: pip install 'metaclip[train]'") from None

        lanes = Lanes(
            self.stream, self._plan, dict(self._at), self._turn, self.batch, self.epochs, self.rank, self.ranks, self._own,
            self._collate,
        )  # fmt: skip
        more: dict[str, Any] = {"prefetch_factor": self._prefetch} if self.workers else {}
        loader = DataLoader(
            lanes, batch_size=None, num_workers=self.workers, collate_fn=_as_it_is, pin_memory=self._pin,
            generator=torch.Generator(),  # else it would draw from the one that the caller's model draws from
            multiprocessing_context=self._context if self.workers else None, worker_init_fn=_end_with_parent, **more,
        )  # fmt: skip
        for item in loader:
            if isinstance(item, MetaclipError):
                raise item
            made, lane, at, reasons = item
            self._at[lane] = at
            self._turn = (lane // self.ranks + 1) % self._own
            self.reasons.update(reasons)
            if made is not None:
                yield made

    def state(self) -> dict[str, Any]:
        """Give where this rank is after the last batch it was given, as JSON; all ranks' states together resume."""
        return {
            "stream": self.stream.identity,
            "rank": self.rank,
            "ranks": self.ranks,
            "workers": self.workers,
            "turn": self._turn,
            "plan": self._plan.to_json(),
            "at": {str(lane): list(at) for lane, at in self._at.items()},
            "reasons": dict(self.reasons),
        }


def _end_with_parent(_: int) -> None:
    """End this worker when the process that made it is gone: torch's own look does not where a batch waits to be fetched."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    threading.Thread(target=look, name="parent", daemon=True).start()


def _as_it_is(item: Any) -> Any:
    return item
