"""The processes of a run: one, or those that torchrun started; what they tell each other.

torchrun gives each process RANK, WORLD_SIZE and LOCAL_RANK; without them there is one. GPUs talk by NCCL, processors by
gloo. Every rank comes to the calls here in the same order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any, Final

from metaclip.errors import MetaclipError, one_line

_NAMES: Final = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    ranks: int
    device: Any
    """torch.device of this process."""

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Give every rank's value, in order, on every rank."""
        if self.ranks == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.ranks
        torch.distributed.all_gather_object(values, value)
        return values

    def parallel(self, model: Any) -> Any:
        """Give a model whose gradients are the mean over ranks after each backward pass."""
        if self.ranks == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextlib.contextmanager
def joined(device: str | None) -> Iterator[Ranks]:
    """Be one of the ranks for the length of a block. Raise MetaclipError for a device that is not there."""
    import torch

    ranks, rank, local = (int(os.environ.get(name, default)) for name, default in _NAMES)
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(kind)
        if found.type == "cuda":
            index, there = int(kind.partition(":")[2] or local), torch.cuda.device_count()
            if index >= there:
                raise RuntimeError(f"torch sees {there} GPUs, this one would be number {index}, from 0")
            found = torch.device("cuda", index)
            torch.cuda.set_device(found)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MetaclipError(
            f"there is no device {kind} for rank {rank} ({one_line(error, 120)}); give another --device"
        ) from None
    if ranks == 1:
        yield Ranks(0, 1, found)
        return
    import torch.distributed

    own = not torch.distributed.is_initialized()
    if own:
        more: dict[str, Any] = {"device_id": found} if found.type == "cuda" else {}
        torch.distributed.init_process_group("nccl" if found.type == "cuda" else "gloo", **more)
    try:
        yield Ranks(rank, ranks, found)
    finally:
        if own:
            torch.distributed.destroy_process_group()
