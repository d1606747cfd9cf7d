"""What an evaluation set is: its images, where they are, and their labels, captions or cues; and its files of text."""

from __future__ import annotations

import dataclasses
import functools
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from metaclip.errors import MetaclipError, one_line
from metaclip.stage.stage import digest_of
from metaclip.storage.files import check_size, decode_utf8, read_bytes, read_whole
from metaclip.training.evaluation.prompts import checked_lines, checked_templates

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
CLASS_NAMES: Final = "classnames.txt"
TEMPLATE_NAMES: Final = "zeroshot_classification_templates.txt"


class ImageFile(NamedTuple):
    """An encoded image: a file, a member of a zip, or a member of a tar, which then has a span."""

    path: Path
    member: str = ""
    span: tuple[int, int] | None = None
    """The first byte in the tar, and the number of bytes."""

    def __str__(self) -> str:
        """Return the name for messages: the path, and the member."""
        return f"{self.path}, {self.member}" if self.member else os.fspath(self.path)

    def read(self) -> bytes:
        """Read the image. Raise OSError, KeyError or zipfile's errors."""
        if not self.member:
            return read_bytes(os.fspath(self.path), "the image")
        if self.span is None:
            archive = _opened_zip(self.path, self.path.stat().st_mtime_ns, os.getpid())
            with archive.open(self.member) as member:
                return read_whole(member, str(self))
        begin, size = self.span
        check_size(size, str(self))
        with self.path.open("rb") as file:
            file.seek(begin)
            data = file.read(size)
        if len(data) < size:
            raise OSError(f"it ends after {begin + len(data)} bytes")
        return data


@functools.lru_cache(maxsize=1)
def _opened_zip(path: Path, modified: int, process: int) -> zipfile.ZipFile:
    """Open a zip once in each process, because processes that share an open file share its position."""
    return zipfile.ZipFile(path)


class Association(NamedTuple):
    """A cue, the images among which it is looked for, and which of them it stands for."""

    cue: str
    candidates: tuple[int, ...]
    """Indices of images."""
    right: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Images with the class of each, with the texts of each, or with associations."""

    images: tuple[ImageFile, ...]
    digest: str
    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    """The set's own; empty if it has none."""
    texts: tuple[tuple[str, ...], ...] = ()
    numbers: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """The number of each image in each column of the `.npy` that was asked for."""
    attributes: tuple[str, ...] = ()
    """The columns of `numbers` that are labels; the classes and templates of each begin with its name and a colon."""
    associations: tuple[Association, ...] = ()

    @property
    def kind(self) -> str:
        """What can be measured on it: "classification", "attributes", "retrieval" or "association"."""
        if self.associations:
            return "association"
        if self.texts:
            return "retrieval"
        return "attributes" if self.attributes else "classification"

    def named_only(self) -> EvaluationSet:
        """Return the set without the classes whose name is empty, and without their images.

        Raise MetaclipError if no image is left.
        """
        number = {old: new for new, old in enumerate(i for i, name in enumerate(self.classes) if name)}
        rows = [row for row, label in enumerate(self.labels) if label in number]
        if not rows:
            raise MetaclipError("no image has a class with a name; write names into the file of classes")
        return dataclasses.replace(
            self,
            images=tuple(self.images[row] for row in rows),
            digest=digest_of([self.digest, list(self.classes)]),
            labels=tuple(number[self.labels[row]] for row in rows),
            classes=tuple(filter(None, self.classes)),
            numbers={name: tuple(values[row] for row in rows) for name, values in self.numbers.items()},
        )


def check_names(where: Path, names: Sequence[str], classes: int) -> None:
    """Raise MetaclipError unless there is a name for each class."""
    if len(names) != classes:
        raise MetaclipError(
            f"{where}: {len(names)} class names for {classes} classes; give one for each, in their order"
        )


def read_file(path: Path) -> bytes:
    """Read a small file of a set. Raise MetaclipError beyond the limit of such files."""
    with path.open("rb") as file:
        return read_whole(file, str(path))


def read_text(read: Callable[[str], bytes], where: Path, name: str) -> str | None:
    """Read a text file of a set; return None if the set does not have it."""
    try:
        data = read(name)
    except (FileNotFoundError, KeyError):
        return None
    except (OSError, zipfile.BadZipFile) as error:
        raise MetaclipError(f"{where}, {name}: it cannot be read ({one_line(error)})") from None
    return decode_utf8(data, f"{where}, {name}")


def read_lines(read: Callable[[str], bytes], where: Path, name: str, what: str) -> tuple[str, ...]:
    """Read the lines of a text file of a set; return none if the set does not have it."""
    text = read_text(read, where, name)
    return () if text is None else checked_lines(text, f"{where}, {name}", what)


def read_templates(read: Callable[[str], bytes], where: Path, outer: str = "") -> tuple[str, ...]:
    """Read the templates of a set below its outermost folder; return none if the set does not have them."""
    name = outer + TEMPLATE_NAMES
    return checked_templates(read_lines(read, where, name, "templates"), f"{where}, {name}")
