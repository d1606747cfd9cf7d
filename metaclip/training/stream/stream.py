"""A stream: image-text tars in an order, and which of their samples are kept. It needs no torch.

Samples are read by `metaclip.training.stream.reader`.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from metaclip.errors import BrokenInput, LostInputs, MetaclipError
from metaclip.pool.files import Paths, PoolFile, find_files
from metaclip.reshard.index import Names, open_index
from metaclip.reshard.subset import Subset
from metaclip.stage.stage import digest_of
from metaclip.training.stream.order import Order

MAX_PIXELS: Final = 1 << 26
NO_UID: Final = (
    "{} of {} tars have no uid in their .json (the first: {}), so md5(text + url) is taken for it; where the offline run had "
    "uids, download with img2dataset --save_additional_columns '[\"uid\"]'"
)


class Keeper(Protocol):
    """What decides which pairs stay: a `metaclip.curate.balancer.Balancer`."""

    def keep(self, texts: Any, uids: Any, *, epoch: int) -> npt.NDArray[np.bool_]:
        """Decide on a batch."""
        ...


@dataclasses.dataclass(frozen=True)
class Stream:
    """Image-text tars in an order. It is picklable, and does nothing until a `Loader` (or `read_lane`) reads it."""

    tars: Paths
    """Tars, folders or globs, local or anything fsspec opens; not compressed."""
    seed: int = 0
    keep: Keeper | Subset | Callable[[str, str], bool] | None = None
    """A Balancer, a subset, or a function of (text, uid)."""
    transform: Callable[[Any], Any] | None = None
    names: Names = Names()  # noqa: RUF009 - it is frozen
    max_pixels: int = MAX_PIXELS
    allow_lost: bool = False
    """Go on without tars that cannot be read; they are `lost`."""
    cache: Path | None = None
    """The folder of indexes; None for the user's cache."""

    @functools.cached_property
    def _opened(self) -> tuple[tuple[PoolFile, ...], tuple[int, ...], tuple[str, ...]]:
        files, sizes, lost, unnamed = [], [], [], []
        for file in find_files(self.tars, form="tar"):
            if file.codec is not None:
                raise MetaclipError(f"{file.path} is compressed, and a stream reads where it wants; decompress it")
            try:
                index = open_index(file, self.names, self.cache)
            except BrokenInput as error:
                lost.append(str(error))
                continue
            files.append(file)
            sizes.append(len(index))
            if len(index) and not index.has_uid:
                unnamed.append(file.path)
        if lost and not self.allow_lost:
            raise LostInputs("\n".join([f"{len(lost)} of {len(lost) + len(files)} tars cannot be read:", *lost]))
        if not sum(sizes):
            raise MetaclipError(f"there are no samples in {self.tars}; check the path")
        if unnamed and (isinstance(self.keep, Subset) or hasattr(self.keep, "keep")):
            warnings.warn(NO_UID.format(len(unnamed), len(files), unnamed[0]), stacklevel=2)
        return tuple(files), tuple(sizes), tuple(lost)

    @property
    def files(self) -> tuple[PoolFile, ...]:
        """The tars."""
        return self._opened[0]

    @property
    def lost(self) -> tuple[str, ...]:
        """What is wrong with the tars that cannot be read."""
        return self._opened[2]

    @functools.cached_property
    def order(self) -> Order:
        """The order of its epochs."""
        return Order(self._opened[1], self.seed)

    @functools.cached_property
    def identity(self) -> str:
        """What a saved state must be of: names, sizes and seed."""
        return digest_of([[file.name for file in self.files], list(self.order.sizes), self.seed])[:16]

    def __len__(self) -> int:
        """Give the number of samples in the tars, of whatever kind."""
        return self.order.total
