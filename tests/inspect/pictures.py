"""Pictures with some structure, samples of them, and the rows that `metaclip inspect` writes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.training.shards import uid


def encoded(image: Any, form: str = "PNG", **options: Any) -> bytes:
    """Encode an image."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(seed: int = 0, size: tuple[int, int] = (64, 48)) -> Any:
    """Return an image with some structure: a few coarse random patches, enlarged smoothly."""
    from PIL import Image

    patches = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def pair(number: int, image: bytes, suffix: str = "jpg", text: str = "a dog") -> list[tuple[str, Any]]:
    """Return the members of a sample with this image."""
    key = f"{number:09d}"
    return [
        (f"{key}.{suffix}", image), (f"{key}.json", {"uid": uid(number), "url": f"https://example.org/{number}"}),
        (f"{key}.txt", text),
    ]  # fmt: skip


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all tars, in order."""
    return [
        row
        for path in sorted((out / "images").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
