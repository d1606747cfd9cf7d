"""The order of samples in an epoch: all samples of all tars, once, in pages; a pure function of (seed, epoch, tar sizes).

The tars are shuffled and taken in blocks of 16. The samples of a block are cut into runs of 16 neighbours in a tar (so
that few ranges are requested from an object store), the runs are shuffled and dealt out in pages of 256, and each page is
shuffled. A page is what a worker of a loader takes at a time, so pages of small sets are smaller: there are at least 64
pages if there are 64 samples.

Shuffling sorts by the frozen hash of `metaclip.curate.draw` instead of using a library's generator, so a saved state is
valid for any version of numpy.
Cost: 40 ns per sample; memory grows with the 16 tars of a block, not with the set.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from metaclip.curate.draw import uniforms

PAGE_SIZE: Final = 256
RUN_SIZE: Final = 16
BLOCK_TARS: Final = 16
_MIN_PAGES: Final = 64

Ints = npt.NDArray[np.int64]


def permutation(n: int, seed: int, epoch: int = 0, level: int = 0, index: int = 0) -> Ints:
    """Return a permutation of range(n), int64[n]: a pure function of the arguments.

    `level` is what is shuffled (1 tars, 2 runs, 3 the samples of a page), `index` the number of the block or page.
    """
    ids = np.empty((n, 2), np.uint64)
    ids[:, 0] = np.uint64(((level << 56) ^ index) & (1 << 64) - 1)
    ids[:, 1] = np.arange(n, dtype=np.uint64)
    return np.argsort(uniforms(seed, epoch, ids), kind="stable")


@dataclasses.dataclass(
    frozen=True, eq=False
)  # compared by identity: hashing all sizes for every page would be slow
class SampleOrder:
    """The order of samples in every epoch."""

    sizes: tuple[int, ...]
    """Number of samples of each tar."""
    seed: int = 0

    @functools.cached_property
    def total(self) -> int:
        """Number of samples of an epoch."""
        return sum(self.sizes)

    @functools.cached_property
    def page_size(self) -> int:
        """Number of samples of a page; the last page of a block may have fewer."""
        return max(1, min(PAGE_SIZE, self.total // _MIN_PAGES))

    @property
    def run_size(self) -> int:
        """Number of neighbours that stay together until their page is shuffled."""
        return max(1, min(RUN_SIZE, self.page_size // 8))

    def n_pages(self, epoch: int) -> int:
        """Return the number of pages of an epoch."""
        return int(_blocks(self, epoch)[1][-1])

    def page(self, epoch: int, number: int) -> tuple[Ints, Ints]:
        """Return the samples of a page in order: (int64[n] tar, int64[n] row in the tar)."""
        ends = _blocks(self, epoch)[1]
        block = int(np.searchsorted(ends, number, side="right"))
        within = number - (int(ends[block - 1]) if block else 0)
        tars, rows = _block(self, epoch, block)
        page = slice(within * self.page_size, (within + 1) * self.page_size)
        order = permutation(len(tars[page]), self.seed, epoch, 3, number)
        return tars[page][order], rows[page][order]


@functools.lru_cache(maxsize=4)
def _blocks(order: SampleOrder, epoch: int) -> tuple[Ints, Ints]:
    """Return the shuffled tars, and the number of pages up to the end of each block of tars."""
    tars = permutation(len(order.sizes), order.seed, epoch, 1)
    sizes = np.array(order.sizes, np.int64)[tars]
    samples = (
        np.add.reduceat(sizes, np.arange(0, len(sizes), BLOCK_TARS))
        if len(sizes)
        else np.zeros(1, np.int64)
    )
    return tars, np.cumsum(-(-samples // order.page_size))


@functools.lru_cache(maxsize=2)
def _block(order: SampleOrder, epoch: int, block: int) -> tuple[Ints, Ints]:
    """Return the samples of a block of tars, in shuffled runs."""
    tars = _blocks(order, epoch)[0][block * BLOCK_TARS : (block + 1) * BLOCK_TARS]
    size = order.run_size
    runs = np.array(
        [(tar, row) for tar in tars.tolist() for row in range(0, order.sizes[tar], size)], np.int64
    )
    chosen = runs.reshape(-1, 2)[permutation(len(runs), order.seed, epoch, 2, block)]
    rows = chosen[:, 1, None] + np.arange(size)
    exists = rows < np.array(order.sizes, np.int64)[chosen[:, 0], None]
    return np.broadcast_to(chosen[:, :1], rows.shape)[exists], rows[exists]
