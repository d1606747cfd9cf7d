"""The images of an evaluation set: read by their place from files, a zip or tars.

Names from archives only say which image is meant: nothing is unpacked, no name becomes a path.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Final, Protocol

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")
"""Of files with these suffixes, as Pillow calls them."""


class Images(Protocol):
    """Images in order; picklable, because the processes that decode read for themselves."""

    def __len__(self) -> int:
        """Give their number."""
        ...

    def name(self, place: int) -> str:
        """Say which image stands there, for a message."""
        ...

    def read(self, place: int) -> bytes:
        """Read the encoded image. Raise OSError, or zipfile's errors."""
        ...


@dataclasses.dataclass(frozen=True)
class Files:
    """Images that are files below a folder."""

    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, place: int) -> str:
        """Give the file."""
        return os.fspath(self.folder / self.names[place])

    def read(self, place: int) -> bytes:
        """Read the file."""
        return (self.folder / self.names[place]).read_bytes()


class Zipped:
    """Images in a zip, which each process opens for itself: one open file has one position."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        """Take the zip and the names of members."""
        self.path, self.names = path, names
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __reduce__(self) -> tuple[object, tuple[Path, tuple[str, ...]]]:
        """Travel closed."""
        return Zipped, (self.path, self.names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, place: int) -> str:
        """Give the zip and the member."""
        return f"{self.path}, {self.names[place]}"

    def read(self, place: int) -> bytes:
        """Read the member; its check sum is checked."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), zipfile.ZipFile(self.path)
        return self._opened[1].read(self.names[place])


@dataclasses.dataclass(frozen=True)
class Spans:
    """Images that are members of tars: so many bytes from a place on."""

    tars: tuple[Path, ...]
    spans: tuple[tuple[int, int, int, str], ...]
    """Of each image: the tar, the first byte, the number of bytes, the member's name."""

    def __len__(self) -> int:
        return len(self.spans)

    def name(self, place: int) -> str:
        """Give the tar and the member."""
        tar, _, _, name = self.spans[place]
        return f"{self.tars[tar]}, {name}"

    def read(self, place: int) -> bytes:
        """Read the member."""
        tar, begin, size, _ = self.spans[place]
        with self.tars[tar].open("rb") as file:
            file.seek(begin)
            data = file.read(size)
        if len(data) < size:
            raise OSError(f"it ends after {begin + len(data)} bytes")
        return data
