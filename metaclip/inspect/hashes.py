"""Two perceptual hashes of an image, of 64 bits each: similar images have hashes that differ in few bits.

Both come from one thumbnail of 32 x 32 grey pixels. A JPEG is decoded at the smallest scale that is at least that size
(libjpeg's scaled decoding, Pillow's draft mode), which costs less than decoding it, and finds the same damage.

    pHash    the lowest 8 x 8 frequencies of the thumbnail's cosine transform, each above their median or not (Zauner,
             "Implementation and benchmarking of perceptual image hash functions", 2010, section 3.2.1)
    dHash    the thumbnail averaged to 8 rows of 9 columns, each column brighter than the one to its left or not

Both see differences between the pixels of an image, and not which colours these are: images of a single colour are all alike.

Law: the arithmetic is exact. The cosines are rounded to 1/4096, the areas are whole numbers, and no sum exceeds 2**53, so
that float64 holds each result whatever the order of additions: a thumbnail has the same hashes on every machine and in
every batch. (The thumbnail itself depends on the decoder; libjpeg-turbo's results do not depend on the processor.)
Cost: 12 us for both hashes of a thumbnail, in batches of 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from metaclip.training.stream.decode import to_rgb

SIDE: Final = 32
"""Rows and columns of a thumbnail."""
BITS: Final = 64
"""Bits of a hash."""
_LOW: Final = 8  # rows and columns of the lowest frequencies
_SCALE: Final = 1 << 12

Hashes = npt.NDArray[np.uint64]


class ImageHashes(NamedTuple):
    """What is computed from thumbnails."""

    phash: Hashes
    dhash: Hashes
    contrast: npt.NDArray[np.uint8]
    """The largest difference between two pixels of a thumbnail in one of its three colours; 0 for a single colour."""


def make_thumbnail(image: Any) -> Any:
    """Decode an open PIL image, a JPEG at a reduced scale, and shrink it to SIDE x SIDE pixels in RGB."""
    from PIL import Image

    image.draft("RGB", (SIDE, SIDE))
    # BILINEAR averages over all pixels below one of the thumbnail when it shrinks.
    return to_rgb(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def hash_images(thumbnails: Sequence[Any]) -> ImageHashes:
    """Return the hashes and the contrast of thumbnails, PIL images."""
    from PIL import Image

    n = len(thumbnails)
    if not n:
        return ImageHashes(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))
    # One sheet for all: a conversion of each would cost more than the hashes.
    sheet = Image.new("RGB", (SIDE, SIDE * n))
    for place, thumbnail in enumerate(thumbnails):
        sheet.paste(thumbnail, (0, SIDE * place))
    pixels = np.asarray(sheet).reshape(n, SIDE * SIDE, 3)
    contrast = (pixels.max(axis=1) - pixels.min(axis=1)).max(axis=1)
    grey = np.asarray(sheet.convert("L")).reshape(n, SIDE, SIDE)
    return ImageHashes(*hash_thumbnails(grey), contrast)


def _cosines() -> npt.NDArray[np.float64]:
    k = np.arange(SIDE)
    angles = np.pi * (2 * k[None] + 1) * np.arange(_LOW)[:, None] / (2 * SIDE)
    rounded: npt.NDArray[np.float64] = np.round(np.cos(angles) * _SCALE)
    return rounded


def _areas(n: int) -> npt.NDArray[np.float64]:
    """Return the shares of SIDE pixels in `n` equal parts of their line, times n: float64[n, SIDE] of whole numbers."""
    part, pixel = np.arange(n)[:, None], np.arange(SIDE)[None]
    low = np.maximum(part * SIDE, pixel * n)
    high = np.minimum((part + 1) * SIDE, (pixel + 1) * n)
    shares: npt.NDArray[np.float64] = np.maximum(high - low, 0).astype(np.float64)
    return shares


_COSINES: Final = _cosines()
_ROWS: Final = _areas(_LOW)
_COLUMNS: Final = _areas(_LOW + 1)


def hash_thumbnails(grey: npt.NDArray[np.uint8]) -> tuple[Hashes, Hashes]:
    """Return pHash and dHash of thumbnails, uint8[n, SIDE, SIDE]: uint64[n] each."""
    pixels = grey.astype(np.float64)
    frequencies = (_COSINES @ pixels @ _COSINES.T).reshape(len(grey), BITS)
    middle = np.partition(frequencies, (BITS // 2 - 1, BITS // 2), axis=1)[
        :, BITS // 2 - 1 : BITS // 2 + 1
    ]
    parts = _ROWS @ pixels @ _COLUMNS.T
    return _pack(2 * frequencies > middle.sum(axis=1, keepdims=True)), _pack(
        (parts[:, :, 1:] > parts[:, :, :-1]).reshape(len(grey), BITS)
    )


def _pack(bits: npt.NDArray[np.bool_]) -> Hashes:
    """Pack bool[n, 64] into uint64[n], the first bit highest."""
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
