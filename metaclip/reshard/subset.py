"""A subset of a pool, in DataComp's format: sorted uids, a repeated one to be used as often as it stands there.

The file is mapped, not read: a billion uids (16 GB) cost no memory, and all processes of a machine share its pages.
Cost: 1 us a uid looked up among 10 million, in batches.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from metaclip.errors import MetaclipError, one_line
from metaclip.pool.sorted_uids import SUBSET, load_array
from metaclip.pool.uid import Uids
from metaclip.storage.files import file_digest

_BLOCK: Final = 1 << 20


class Subset:
    """Sorted uids in a file; picklable, since it travels as the file's path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a subset file. Raise MetaclipError for what is none, or is not sorted."""
        self.path = Path(path)
        last: tuple[int, int] = (0, 0)
        for block in self.blocks():
            high, low = block[:, 0], block[:, 1]
            down = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] < low[:-1]))
            if down.any() or (int(high[0]), int(low[0])) < last:
                raise MetaclipError(f"{path} is not sorted, as a subset must be; sort it: numpy.sort(numpy.load(...))")
            last = int(high[-1]), int(low[-1])

    def __repr__(self) -> str:
        """Show the path and the size."""
        return f"Subset({str(self.path)!r}: {len(self)} uids)"

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        """Travel as the path; on arrival it is not looked through again."""
        return _opened, (self.path,)

    @functools.cached_property
    def uids(self) -> Uids:
        """The uids: uint64[n, 2], mapped."""
        try:
            found = load_array(self.path, "r")
        except FileNotFoundError:
            raise MetaclipError(f"there is no subset {self.path}; check the path") from None
        except (OSError, ValueError, EOFError) as error:
            raise MetaclipError(
                f"{self.path} is no subset file ({one_line(error)}); give a run's curated.npy"
            ) from None
        if found.dtype != SUBSET or found.ndim != 1:
            raise MetaclipError(
                f"{self.path} holds {found.dtype} in shape {found.shape}, a subset is u8,u8 in shape (n,); "
                "give a run's curated.npy"
            )
        return np.asarray(found).view(np.uint64).reshape(-1, 2)

    def __len__(self) -> int:
        """Give the number of uids, repeated ones included."""
        return len(self.uids)

    def digest(self) -> str:
        """Compute the file's sha256."""
        with self.path.open("rb") as file:
            return file_digest(file)

    def blocks(self, begin: int = 0, end: int | None = None) -> Iterator[Uids]:
        """Give the uids in order, a million at a time."""
        end = len(self) if end is None else end
        for at in range(begin, end, _BLOCK):
            yield self.uids[at : min(end, at + _BLOCK)]

    def count(self, uids: Uids) -> npt.NDArray[np.int64]:
        """Tell how often each of uint64[n, 2] stands in the subset: int64[n]."""
        return self.place(uids, after=True) - self.place(uids)

    def contains(self, uids: Uids) -> npt.NDArray[np.bool_]:
        """Tell for each of uint64[n, 2] whether it is in the subset: bool[n]."""
        places = np.minimum(self.place(uids), max(0, len(self) - 1))
        return (self.uids[places] == uids).all(axis=1) if len(self) else np.zeros(len(uids), np.bool_)

    def place(self, uids: Uids, after: bool = False) -> npt.NDArray[np.int64]:
        """Find where uint64[n, 2] stand or would stand: before those that are equal, or `after` them."""
        low = np.zeros(len(uids), np.int64)
        high = np.full(len(uids), len(self), np.int64)
        for _ in range(len(self).bit_length()):
            middle = (low + high) >> 1
            found = self.uids[np.minimum(middle, len(self) - 1)]
            less = (found[:, 0] < uids[:, 0]) | (
                (found[:, 0] == uids[:, 0]) & ((found[:, 1] <= uids[:, 1]) if after else (found[:, 1] < uids[:, 1]))
            )
            less &= low < high
            low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
        return low


def _opened(path: Path) -> Subset:
    made = Subset.__new__(Subset)
    made.path = path
    return made
