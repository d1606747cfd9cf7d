"""Tars of image-text samples for tests: written by `tarfile`, with small real JPEGs."""

from __future__ import annotations

import functools
import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Content = bytes | str | Mapping[str, Any]


def bytes_of(content: Content) -> bytes:
    """Return the bytes of a member: JSON of an object, UTF-8 of a text."""
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content, indent=4)).encode()


def write_tar(
    path: Path, files: Iterable[tuple[str, Content]], form: int = tarfile.USTAR_FORMAT, mode: str = "w"
) -> Path:
    """Write files (name, content) to a tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=form) as tar:
        for name, content in files:
            data = bytes_of(content)
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return path


def read_tar(path: Path) -> list[tuple[str, bytes]]:
    """Read the files of a tar by `tarfile`."""
    with tarfile.open(path) as tar:
        found = [(info.name, tar.extractfile(info)) for info in tar if info.isreg()]
        return [(name, file.read()) for name, file in found if file is not None]


@functools.lru_cache(maxsize=64)
def jpeg(number: int = 0, size: tuple[int, int] = (12, 10)) -> bytes:
    """Make a small JPEG of one colour; without Pillow, bytes that only look like one, since nothing can decode them."""
    try:
        from PIL import Image
    except ImportError:
        return b"\xff\xd8\xff\xe0" + bytes([number]) * 700

    file = io.BytesIO()
    Image.new("RGB", size, (number * 7 % 256, number * 31 % 256, number * 101 % 256)).save(file, "JPEG")
    return file.getvalue()


def uid(number: int) -> str:
    """Return a uid as 32 hex digits; the order of uids is not that of the numbers."""
    return f"{random.Random(number).getrandbits(128):032x}"


def sample(number: int, text: str | None = None, **fields: Any) -> list[tuple[str, Content]]:
    """Return the members of a sample as img2dataset writes it with `--save_additional_columns '["uid"]'`."""
    text = f"a photo of dog {number}" if text is None else text
    row = {"uid": uid(number), "caption": text, "url": f"https://example.org/{number}.jpg", "key": f"{number:09d}",
           "status": "success", "error_message": None, "width": 12, "height": 10, **fields}  # fmt: skip
    return [
        (f"{number:09d}.jpg", jpeg(number % 64)),
        (f"{number:09d}.json", row),
        (f"{number:09d}.txt", text),
    ]


def write_shards(folder: Path, sizes: Sequence[int], **fields: Any) -> list[Path]:
    """Write tars of the given numbers of samples, which are numbered through all tars."""
    paths, first = [], 0
    for index, size in enumerate(sizes):
        files = [file for number in range(first, first + size) for file in sample(number, **fields)]
        paths.append(write_tar(folder / f"{index:05d}.tar", files))
        first += size
    return paths
