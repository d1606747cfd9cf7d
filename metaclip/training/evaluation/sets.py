"""Evaluation sets: labelled or captioned images in a folder, a zip or tars.

    folder or zip      [test/]<class>/**.jpg                    classes: the folders, sorted, as torchvision's ImageFolder
                       classnames.txt beside them               names for the sorted folders, one a line
                       metadata.jsonl or pairs.jsonl            captions instead: {"file_name": ..., "text": ... or [...]}
    CLIP_benchmark     test/nshards.txt, test/0.tar ...         members .jpg .png .webp with .cls (labels) or .txt (captions),
                                                                and .npy (an array of further numbers), in DataComp's sets
                       classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt

`test` is the split. A single outermost folder of a zip is ignored. What Hugging Face's cache holds is read by
`metaclip.training.evaluation.hugging_face`.

Law: a set is identified by the names and sizes of its images (with their check sums in a zip, and their times of change in
folders and tars) and by its labels or captions; a change of any of these makes another set. Names from archives only say
which image is meant: nothing is unpacked or unpickled, and no name becomes a path.
Cost: 0.7 s for the 60,000 members of a zip, on a busy machine.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from metaclip.errors import MetaclipError, one_line
from metaclip.pool.tars import read_samples
from metaclip.stage.stage import digest_of
from metaclip.storage.files import check_size, decode_utf8, read_bytes, read_whole
from metaclip.training.evaluation.prompts import checked_lines, checked_templates

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
CLASS_NAMES: Final = "classnames.txt"
TEMPLATE_NAMES: Final = "zeroshot_classification_templates.txt"
KIND_NAME: Final = "dataset_type.txt"
CAPTION_NAMES: Final = ("metadata.jsonl", "pairs.jsonl")
SPLITS: Final = ("train", "test", "val", "validation", "dev")
_MOST_NUMBERS: Final = 64  # of a .npy
_NPY: Final = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|](?:[iu][1248]|f[248]))', 'fortran_order': (?:True|False), "
    rb"'shape': \(([\d, ]*)\), \} *\n",
    re.DOTALL,
)
"""The header of an array of numbers, as numpy writes it."""
_FILE_FIELDS: Final = ("file_name", "image", "id")
_TEXT_FIELDS: Final = ("text", "texts", "caption", "captions", "alt")


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


def open_set(
    path: str | os.PathLike[str],
    split: str = "test",
    classes: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> EvaluationSet:
    """Open the set at a path; `classes` name its classes instead of the set's own names.

    `columns` are the names of the first numbers of each `.npy`; without names it is not read. Columns for which there are
    class names such as "age:0-2" are labels, as in DataComp's FairFace, and the `.cls` is not read.

    Raise MetaclipError if there is no set, or if it contradicts itself.
    """
    where = Path(path)
    if where.is_dir():
        made = (
            _open_tars(where, split, columns)
            if (where / split / "nshards.txt").exists()
            else _open_folder(where, split)
        )
    elif zipfile.is_zipfile(where):
        made = _open_zip(where, split)
    elif where.exists():
        raise MetaclipError(
            f"{where} is neither a folder nor a zip; give a folder of classes, a zip of it, or tars"
        )
    else:
        raise MetaclipError(f"there is no evaluation set {where}; check the path")
    if columns and not made.numbers:
        raise MetaclipError(
            f"{where}: only CLIP_benchmark's layout has .npy members; take `columns` out of its task"
        )
    if classes and made.kind == "retrieval":
        raise MetaclipError(f"{where} has captions and no classes; take `classes` out of its task")
    if classes:
        _check_names(where, classes, len(made.classes))
        made = dataclasses.replace(made, classes=tuple(classes))
    return made


def _open_folder(folder: Path, split: str) -> EvaluationSet:
    found: dict[str, list[int]] = {}
    for root, _, files in os.walk(folder):
        for file in files:
            path = Path(root, file)
            stat = path.stat()
            found[path.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return _open_named(
        folder,
        found,
        split,
        lambda name: _read_file(folder / name),
        lambda name: ImageFile(folder / name),
    )


def _open_zip(path: Path, split: str) -> EvaluationSet:
    try:
        with zipfile.ZipFile(path) as archive:
            found = {
                info.filename: [info.file_size, info.CRC]
                for info in archive.infolist()
                if not info.is_dir()
            }

            def read(name: str) -> bytes:
                with archive.open(name) as member:
                    return read_whole(member, f"{path}, {name}")

            return _open_named(path, found, split, read, lambda name: ImageFile(path, name))
    except (OSError, zipfile.BadZipFile) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); fetch it again") from None


def _open_named(
    where: Path,
    found: Mapping[str, list[int]],
    split: str,
    read: Callable[[str], bytes],
    image: Callable[[str], ImageFile],
) -> EvaluationSet:
    """Open a set of files in folders, given what identifies each file; hidden files, and those that macOS adds, are skipped."""
    found = {
        name: known
        for name, known in found.items()
        if "/." not in f"/{name}" and not name.startswith("__MACOSX/")
    }
    tops = {name.partition("/")[0] for name in found}
    outer = f"{tops.pop()}/" if len(tops) == 1 and "/" in next(iter(found)) else ""
    if outer.removesuffix("/") in (*SPLITS, split):
        outer = ""  # a set of one split
    names = sorted(name for name in found if name.lower().endswith(SUFFIXES))
    for captions in (*(f"{split}/{name}" for name in CAPTION_NAMES), *CAPTION_NAMES):
        if outer + captions in found:
            lines = _read_text(read, where, outer + captions) or ""
            base = "".join((outer + captions).rpartition("/")[:2])
            texts = _read_captions(
                f"{where}, {captions}", lines, {name.removeprefix(base): name for name in names}
            )
            digest = digest_of([[name, found[name]] for name in texts] + list(texts.values()))
            return EvaluationSet(
                tuple(map(image, texts)), digest, texts=tuple(map(tuple, texts.values()))
            )
    tops = {top for top, slash, _ in (name.removeprefix(outer).partition("/") for name in names) if slash}
    if tops and split not in tops and tops <= set(SPLITS):
        raise MetaclipError(f"{where}: there is no split {split!r}; splits: {', '.join(sorted(tops))}")
    begin = f"{outer}{split}/" if split in tops else outer  # else the outermost folders are the classes
    chosen = [name for name in names if name.startswith(begin) and "/" in name[len(begin) :]]
    if not chosen:
        raise MetaclipError(
            f"{where}: there are no images in folders of classes, no {' or '.join(CAPTION_NAMES)}, "
            f"and no {split}/nshards.txt; see metaclip evaluate --help for the layouts"
        )
    folder_of = [name[len(begin) :].partition("/")[0] for name in chosen]
    folders = sorted(set(folder_of))
    classes = _read_lines(read, where, outer + CLASS_NAMES, "class names")
    if classes:
        _check_names(where, classes, len(folders))
    digest = digest_of([[name.removeprefix(outer), found[name]] for name in chosen])
    place = {name: i for i, name in enumerate(folders)}
    return EvaluationSet(
        tuple(map(image, chosen)), digest, tuple(place[name] for name in folder_of),
        classes or tuple(name.replace("_", " ") for name in folders), _read_templates(read, where, outer),
    )  # fmt: skip


def _check_names(where: Path, names: Sequence[str], classes: int) -> None:
    if len(names) != classes:
        raise MetaclipError(
            f"{where}: {len(names)} class names for {classes} classes; give one for each, in their order"
        )


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return read_whole(file, str(path))


def _read_text(read: Callable[[str], bytes], where: Path, name: str) -> str | None:
    """Read a text file of a set; return None if the set does not have it."""
    try:
        data = read(name)
    except (FileNotFoundError, KeyError):
        return None
    except (OSError, zipfile.BadZipFile) as error:
        raise MetaclipError(f"{where}, {name}: it cannot be read ({one_line(error)})") from None
    return decode_utf8(data, f"{where}, {name}")


def _read_lines(read: Callable[[str], bytes], where: Path, name: str, what: str) -> tuple[str, ...]:
    """Read the lines of a text file of a set; return none if the set does not have it."""
    text = _read_text(read, where, name)
    return () if text is None else checked_lines(text, f"{where}, {name}", what)


def _read_templates(read: Callable[[str], bytes], where: Path, outer: str = "") -> tuple[str, ...]:
    name = outer + TEMPLATE_NAMES
    return checked_templates(_read_lines(read, where, name, "templates"), f"{where}, {name}")


def _read_captions(where: str, text: str, images: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the texts of the images that lines of captions name, in the order of the lines.

    `images` are full names by the path relative to the captions. A line names an image by this path, with or without its
    suffix; the lines of one image are added up.
    """
    stems = {name.rpartition(".")[0]: full for name, full in images.items()}
    texts: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        at = f"{where}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise MetaclipError(f"{at}: it is no JSON ({one_line(error)})") from None
        row = row if isinstance(row, dict) else {}
        name = next((row[field] for field in _FILE_FIELDS if isinstance(row.get(field), str)), None)
        found = next((row[field] for field in _TEXT_FIELDS if field in row), None)
        own = [found] if isinstance(found, str) else found
        if (
            name is None
            or not isinstance(own, list)
            or not own
            or not all(isinstance(one, str) for one in own)
        ):
            raise MetaclipError(
                f"{at}: it needs a file_name (or {', '.join(_FILE_FIELDS[1:])}) and a text, or a list of texts"
            )
        full = images.get(name) or stems.get(name)
        if full is None:
            raise MetaclipError(f"{at}: there is no image {name!r}")
        texts.setdefault(full, []).extend(own)
    if not texts:
        raise MetaclipError(f"{where}: it has no lines")
    return texts


def _open_tars(folder: Path, split: str, columns: Sequence[str]) -> EvaluationSet:
    """Open a set in CLIP_benchmark's layout."""

    def read(name: str) -> bytes:
        return _read_file(folder / name)

    kind = (_read_text(read, folder, KIND_NAME) or "classification").strip().lower()
    if kind not in ("classification", "retrieval"):
        raise MetaclipError(
            f"{folder / KIND_NAME} is {kind!r}; classification and retrieval are evaluated"
        )
    number = (_read_text(read, folder, f"{split}/nshards.txt") or "").strip()
    if not re.fullmatch("[0-9]{1,6}", number) or not int(number):
        raise MetaclipError(
            f"{folder / split / 'nshards.txt'} is {number!r:.40}, must be the number of tars"
        )
    paths = [folder / split / f"{i}.tar" for i in range(int(number))]
    classes = () if kind == "retrieval" else _read_lines(read, folder, CLASS_NAMES, "class names")
    attributes = tuple(name for name in columns if attribute_lines(classes, name))
    content = "txt" if kind == "retrieval" else "cls"
    suffixes = [*([] if attributes else [content]), *(["npy"] if columns else [])]
    samples = [one for path in paths for one in _read_samples(path, suffixes)]
    if not samples:
        raise MetaclipError(f"{folder / split}: its tars hold no images")
    images = tuple(image for image, _ in samples)
    digest = digest_of([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths])
    if kind == "retrieval":
        for image, own in samples:
            if not own["txt"]:
                raise MetaclipError(f"{image}: its .txt is empty; each image needs a text")
        return EvaluationSet(
            images, digest, texts=tuple(tuple(own["txt"].splitlines()) for _, own in samples)
        )
    if not classes:
        raise MetaclipError(
            f"there is no {folder / CLASS_NAMES}; write the class names there, one a line"
        )
    for image, own in samples:
        label = own.get("cls", "0")
        if not label.strip().isdecimal() or int(label) >= len(classes):
            raise MetaclipError(
                f"{image}: its .cls is {label!r:.40}, must be below the {len(classes)} classes"
            )
        if columns and len(own["npy"]) < len(columns):
            raise MetaclipError(
                f"{image}: its .npy has {len(own['npy'])} numbers, must have {len(columns)}: {', '.join(columns)}"
            )
        for name in attributes:
            value = own["npy"][columns.index(name)]
            if not 0 <= value < (most := len(attribute_lines(classes, name))):
                raise MetaclipError(
                    f"{image}: the {name} in its .npy is {value}, must be below the {most} classes"
                )
    return EvaluationSet(
        images, digest, () if attributes else tuple(int(own["cls"]) for _, own in samples), classes,
        _read_templates(read, folder), attributes=attributes,
        numbers={name: tuple(own["npy"][i] for _, own in samples) for i, name in enumerate(columns)},
    )  # fmt: skip


def attribute_lines(lines: Sequence[str], attribute: str) -> tuple[str, ...]:
    """Return the classes or templates of an attribute, which begin with its name and a colon, without these."""
    begin = f"{attribute}:"
    return tuple(line.removeprefix(begin) for line in lines if line.startswith(begin))


def _read_samples(path: Path, suffixes: Sequence[str]) -> list[tuple[ImageFile, dict[str, Any]]]:
    """Return the image of each sample of a tar, with its members of the suffixes: texts, and the numbers of a `.npy`."""
    wanted = {suffix.encode(): suffix for suffix in suffixes}
    found: list[tuple[ImageFile, dict[str, Any]]] = []
    try:
        with path.open("rb") as file:
            for sample in read_samples(file, wanted):
                names = {
                    end: member.name.decode("utf-8", "replace") for end, member in sample.members.items()
                }
                image = next((end for end in names if f".{end.decode('latin-1')}" in SUFFIXES), None)
                missing = [f".{suffix}" for end, suffix in wanted.items() if end not in sample.contents]
                if image is None or missing or sample.flaw:
                    what = missing[0] if missing else "image"
                    why = sample.flaw or f"its sample has no {what}; each needs both"
                    raise MetaclipError(f"{path}, {next(iter(names.values()))}: {why}")
                span = (sample.members[image].data, sample.members[image].size)
                contents = {
                    suffix: _numbers(sample.contents[end]) if suffix == "npy" else sample.contents[end].decode()
                    for end, suffix in wanted.items()
                }  # fmt: skip
                found.append((ImageFile(path, names[image], span), contents))
    except (OSError, ValueError) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); fetch it again") from None
    return found


def _numbers(data: bytes) -> list[int]:
    """Return the whole numbers of an array in numpy's format 1.0.

    Raise ValueError for anything else. numpy's own reader would unpickle, allocate what a header claims, and evaluate it.
    """
    if (header := _NPY.match(data)) is None:
        raise ValueError("a .npy is not an array of numbers in numpy's format 1.0")
    dtype = np.dtype(header[1].decode())
    shape = [int(size) for size in header[2].split(b",") if size.strip()]
    if dtype.itemsize * math.prod(shape) != len(data) - header.end():
        raise ValueError(f"a .npy of {len(data)} bytes cannot have the shape {shape}")
    if math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"a .npy holds {math.prod(shape)} numbers, must hold at most {_MOST_NUMBERS}")
    array = np.frombuffer(data, dtype, offset=header.end())
    if not np.isfinite(array).all() or (array % 1).any():
        raise ValueError("a .npy holds fractions, must hold whole numbers")
    return [int(value) for value in array.tolist()]
