"""The order of an epoch: all samples of all tars, once, in pages; a pure function of (seed, epoch, sizes of the tars).

The tars are shuffled and taken 16 at a time. Their samples, in runs of 16 that stand side by side in a tar (so that
a store is asked for few ranges), are shuffled run by run and dealt out in pages of 256, and each page is shuffled. A
page is what one lane of a loader takes, so for small sets it is smaller: there are at least 64 pages where there are
64 samples.

Shuffling sorts by the frozen hash of `metaclip.curate.draw`, not by a library's generator: a state that was saved
holds for any version of numpy.
Cost: 40 ns a sample; memory by the 16 tars, not by the set.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from metaclip.curate.draw import uniforms

PAGE: Final = 256
RUN: Final = 16
SPREAD: Final = 16
_LEAST_PAGES: Final = 64

Ints = npt.NDArray[np.int64]


def shuffled(n: int, *key: int) -> Ints:
    """Give the numbers below n in the order that a key of up to four numbers (seed, epoch, what, which) stands for."""
    seed, epoch, what, which = (*key, 0, 0, 0, 0)[:4]
    ids = np.empty((n, 2), np.uint64)
    ids[:, 0] = np.uint64(((what << 56) ^ which) & (1 << 64) - 1)
    ids[:, 1] = np.arange(n, dtype=np.uint64)
    return np.argsort(uniforms(seed, epoch, ids), kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)  # known by identity: to hash all sizes for each page would cost
class Order:
    """The order of the epochs of some tars."""

    sizes: tuple[int, ...]
    """Samples of each tar."""
    seed: int = 0

    @functools.cached_property
    def total(self) -> int:
        """All samples."""
        return sum(self.sizes)

    @functools.cached_property
    def page_size(self) -> int:
        """Samples a page; the last of each block may have fewer."""
        return max(1, min(PAGE, self.total // _LEAST_PAGES))

    @property
    def run_size(self) -> int:
        """Samples that stay side by side until their page is shuffled."""
        return max(1, min(RUN, self.page_size // 8))

    def pages(self, epoch: int) -> int:
        """Give the number of pages of an epoch."""
        return int(_blocks(self, epoch)[1][-1])

    def page(self, epoch: int, number: int) -> tuple[Ints, Ints]:
        """Give the samples of a page, in order: (tar, number in it)."""
        ends = _blocks(self, epoch)[1]
        block = int(np.searchsorted(ends, number, side="right"))
        within = number - (int(ends[block - 1]) if block else 0)
        tars, rows = _block(self, epoch, block)
        part = slice(within * self.page_size, (within + 1) * self.page_size)
        order = shuffled(len(tars[part]), self.seed, epoch, 3, number)
        return tars[part][order], rows[part][order]


@functools.lru_cache(maxsize=4)
def _blocks(order: Order, epoch: int) -> tuple[Ints, Ints]:
    tars = shuffled(len(order.sizes), order.seed, epoch, 1)
    sizes = np.array(order.sizes, np.int64)[tars]
    samples = np.add.reduceat(sizes, np.arange(0, len(sizes), SPREAD)) if len(sizes) else np.zeros(1, np.int64)
    return tars, np.cumsum(-(-samples // order.page_size))


@functools.lru_cache(maxsize=2)
def _block(order: Order, epoch: int, block: int) -> tuple[Ints, Ints]:
    """Give the samples of a block of tars, run by run."""
    tars = _blocks(order, epoch)[0][block * SPREAD : (block + 1) * SPREAD]
    size = order.run_size
    runs = [(tar, first) for tar in tars.tolist() for first in range(0, order.sizes[tar], size)]
    if not runs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    chosen = np.array(runs, np.int64)[shuffled(len(runs), order.seed, epoch, 2, block)]
    rows = chosen[:, 1, None] + np.arange(size)
    there = rows < np.array(order.sizes, np.int64)[chosen[:, 0], None]
    return np.broadcast_to(chosen[:, :1], rows.shape)[there], rows[there]
