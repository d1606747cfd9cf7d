"""A stream: image-text tars in an order, and which of their samples are kept. It needs no torch.

Samples are read by `metaclip.training.stream.reader`.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metaclip.curate.balancer import Balancer
from metaclip.errors import BrokenInput, LostInputs, MetaclipError
from metaclip.pool.files import Paths, PoolFile, find_files
from metaclip.pool.subset import Subset
from metaclip.reshard.index import NO_UID, USUAL_NAMES, Names, open_index
from metaclip.stage.stage import digest_of
from metaclip.training.stream.decode import MAX_PIXELS
from metaclip.training.stream.sample_order import SampleOrder


@dataclasses.dataclass(frozen=True)
class Stream:
    """Image-text tars in an order. It can be pickled, and reads nothing until a `Loader` iterates over it."""

    tars: Paths
    """Tars, folders or globs, local or anything fsspec opens; not compressed."""
    seed: int = 0
    keep: Balancer | Subset | Callable[[str, str], bool] | None = None
    """A Balancer, a subset, or a function of (text, uid)."""
    transform: Callable[[Any], Any] | None = None
    """A function of a PIL image in RGB."""
    names: Names = USUAL_NAMES
    max_pixels: int = MAX_PIXELS
    allow_lost: bool = False
    """Continue without tars that cannot be read; they are listed in `lost`."""
    cache: Path | None = None
    """The folder of indexes; None for the user's cache."""

    def __post_init__(self) -> None:
        if getattr(self.keep, "needs_languages", False):
            raise MetaclipError(
                "the Balancer's run read the language of each text from a column, and a stream of tars reads texts alone; match "
                "the pool with `MatchSettings(identify=True)`, or give the run's curated.npy as the subset"
            )

    @functools.cached_property
    def _opened(self) -> tuple[tuple[PoolFile, ...], tuple[int, ...], tuple[str, ...]]:
        """Index all tars: (files, number of samples of each, errors of tars that cannot be read)."""
        files, sizes, lost, without_uid = [], [], [], []
        for file in find_files(self.tars, form="tar"):
            if file.codec is not None:
                raise MetaclipError(
                    f"{file.path} is compressed, and a stream reads it at random; decompress it"
                )
            try:
                index = open_index(file, self.names, self.cache)
            except BrokenInput as error:
                lost.append(str(error))
                continue
            files.append(file)
            sizes.append(len(index))
            if len(index) and not index.has_uid:
                without_uid.append(file.path)
        if lost and not self.allow_lost:
            raise LostInputs(
                "\n".join([f"{len(lost)} of {len(lost) + len(files)} tars cannot be read:", *lost])
            )
        if not sum(sizes):
            raise MetaclipError(f"there are no samples in {self.tars}; check the path")
        if without_uid and (isinstance(self.keep, Subset) or hasattr(self.keep, "keep")):
            which = f"{len(without_uid)} of {len(files)} tars (the first: {without_uid[0]})"
            warnings.warn(NO_UID.format(which), stacklevel=2)
        return tuple(files), tuple(sizes), tuple(lost)

    @property
    def files(self) -> tuple[PoolFile, ...]:
        """The tars."""
        return self._opened[0]

    @property
    def lost(self) -> tuple[str, ...]:
        """The errors of the tars that cannot be read."""
        return self._opened[2]

    @functools.cached_property
    def order(self) -> SampleOrder:
        """The order of samples in its epochs."""
        return SampleOrder(self._opened[1], self.seed)

    @functools.cached_property
    def identity(self) -> str:
        """A digest of names, sizes and seed, which a saved state must match."""
        return digest_of([[file.name for file in self.files], list(self.order.sizes), self.seed])[:16]

    def __len__(self) -> int:
        """Return the number of samples in the tars, including those that do not come through."""
        return self.order.total
