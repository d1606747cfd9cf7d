"""The processes of a run: one, or those that torchrun started; their devices, and what they tell each other.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK for each process; without them there is one process. GPUs communicate by NCCL,
processors by gloo. Every rank makes the calls here in the same order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from metaclip.errors import MetaclipError, one_line


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    ranks: int
    device: Any
    """The torch.device of this process."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in order, on every rank."""
        if self.ranks == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.ranks
        torch.distributed.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def joined(device: str | None) -> Iterator[Ranks]:
    """Be one of the ranks for the length of a block. Raise MetaclipError if the device cannot be used."""
    import torch.distributed

    defaults = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    ranks, rank, local = (int(os.environ.get(name, default)) for name, default in defaults.items())
    found = open_device(device, local)
    if ranks == 1:
        yield Ranks(0, 1, found)
        return
    own = not torch.distributed.is_initialized()
    if own:
        more: dict[str, Any] = {"device_id": found} if found.type == "cuda" else {}
        torch.distributed.init_process_group("nccl" if found.type == "cuda" else "gloo", **more)
    try:
        yield Ranks(rank, ranks, found)
    finally:
        if own:
            torch.distributed.destroy_process_group()


def open_device(name: str | None, local_rank: int = 0) -> Any:
    """Return the torch.device of a name; without a name, the GPU of a local rank if there are GPUs, else the processor.

    Raise MetaclipError if the device cannot be used.
    """
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda":
            index, count = device.index if ":" in name else local_rank, torch.cuda.device_count()
            if index >= count:
                raise RuntimeError(
                    f"torch sees {count} GPUs, and this would be number {index}, counted from 0"
                )
            device = torch.device("cuda", index)
            torch.cuda.set_device(device)
        torch.empty(0, device=device)
    except Exception as error:  # which one depends on the kind of device
        raise MetaclipError(
            f"the device {name} cannot be used ({one_line(error, 120)}); give another `device=...`"
        ) from None
    return device


def loading_processes(given: int | None, device: Any) -> int:
    """Return the number of loading processes of a rank: as given, else up to 8 beside a GPU if there are processors, else 0."""
    if given is not None or device.type != "cuda":
        return given or 0
    return min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
