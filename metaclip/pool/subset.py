"""A subset of a pool in DataComp's format: sorted uids, in which a repeated uid is used as often as it occurs.

The file is memory-mapped: a billion uids (16 GB) take no memory of their own, and all processes of a machine share its
pages.
Cost: 1 us per uid looked up among 10 million, in batches.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from metaclip.errors import MetaclipError, damaged, one_line
from metaclip.pool.sorted_uids import read_array
from metaclip.pool.uid import Uids
from metaclip.storage.files import crc32, file_digest, read_json

_BLOCK: Final = 1 << 20
_NAMES: Final = ("curated.npy", "subset.npy")
"""The subset files of a run folder, and of one of `metaclip inspect`."""


class _Digests(msgspec.Struct):
    curated: str


class _Account(msgspec.Struct):
    """The field of a run's card.json that names the content of its curated.npy."""

    digests: _Digests


class _Step(msgspec.Struct):
    step: str
    samples: int
    meaning: str


class _Files(msgspec.Struct):
    crc32: dict[str, str]


class _Selected(msgspec.Struct):
    select: _Files


class _Inspected(msgspec.Struct):
    """The fields of the manifest of `metaclip inspect` that say how a subset came about."""

    stages: _Selected
    steps: list[_Step]


class Subset:
    """Sorted uids in a file. It is pickled as the file's path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a subset file. Raise MetaclipError if it is not a subset, or not sorted."""
        self.path = Path(path)
        last: tuple[int, int] = (0, 0)
        for block in self.blocks():
            high, low = block[:, 0], block[:, 1]
            down = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] < low[:-1]))
            if down.any() or (int(high[0]), int(low[0])) < last:
                raise MetaclipError(
                    f"{path} is not sorted, as a subset must be; sort it: numpy.sort(numpy.load(...))"
                )
            last = int(high[-1]), int(low[-1])

    def __getstate__(self) -> dict[str, Path]:
        """Return the path alone; a copy is not checked again."""
        return {"path": self.path}

    @functools.cached_property
    def uids(self) -> Uids:
        """The uids: uint64[n, 2], memory-mapped."""
        try:
            found = read_array(self.path, mmap_mode="r")
        except FileNotFoundError:
            raise MetaclipError(f"there is no subset {self.path}; check the path") from None
        except (OSError, ValueError) as error:
            inside = [self.path / name for name in _NAMES if (self.path / name).is_file()]
            hint = inside[0] if inside else "a run's curated.npy, or the subset.npy of metaclip inspect"
            raise MetaclipError(
                f"{self.path} is not a subset file ({one_line(error, 200)}); give {hint}"
            ) from None
        return np.asarray(found).view(np.uint64).reshape(-1, 2)

    def __len__(self) -> int:
        """Return the number of uids, including repetitions."""
        return len(self.uids)

    def digest(self) -> str:
        """Return the sha256 of the file. Raise MetaclipError if it is a run's and not the one that its account names."""
        with self.path.open("rb") as file:
            digest = file_digest(file)
        account = (
            read_json(self.path.parent / "card.json", _Account)
            if self.path.name == "curated.npy"
            else None
        )
        if account is not None and account["digests"]["curated"] != digest:
            raise damaged(self.path, "card.json beside it names other uids")
        return digest

    def image_steps(self) -> list[dict[str, Any]]:
        """Return what `metaclip inspect` states of the samples that it selected this subset from, step by step.

        Return none unless the manifest beside it is of the run that wrote it.
        """
        stated = read_json(self.path.parent / "manifest.json", _Inspected)
        if stated is None:
            return []
        known = stated["stages"]["select"]["crc32"].get(self.path.name)
        return list(stated["steps"]) if known == crc32(self.path) else []

    def blocks(self, begin: int = 0, end: int | None = None) -> Iterator[Uids]:
        """Yield the uids from `begin` to `end` in order, a million at a time."""
        end = len(self) if end is None else end
        for at in range(begin, end, _BLOCK):
            yield self.uids[at : min(end, at + _BLOCK)]

    def count(self, uids: Uids) -> npt.NDArray[np.int64]:
        """Return how often each of uint64[n, 2] occurs in the subset: int64[n]."""
        return self.searchsorted(uids, "right") - self.searchsorted(uids)

    def contains(self, uids: Uids) -> npt.NDArray[np.bool_]:
        """Return whether each of uint64[n, 2] is in the subset: bool[n]."""
        places = np.minimum(self.searchsorted(uids), max(0, len(self) - 1))
        return (self.uids[places] == uids).all(axis=1) if len(self) else np.zeros(len(uids), np.bool_)

    def searchsorted(self, uids: Uids, side: Literal["left", "right"] = "left") -> npt.NDArray[np.int64]:
        """Return where to insert each of uint64[n, 2] to keep the order, as `numpy.searchsorted` does: int64[n]."""
        low = np.zeros(len(uids), np.int64)
        high = np.full(len(uids), len(self), np.int64)
        for _ in range(len(self).bit_length()):
            middle = (low + high) >> 1
            found = self.uids[np.minimum(middle, len(self) - 1)]
            below = found[:, 1] <= uids[:, 1] if side == "right" else found[:, 1] < uids[:, 1]
            less = (found[:, 0] < uids[:, 0]) | ((found[:, 0] == uids[:, 0]) & below)
            less &= low < high
            low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
        return low
