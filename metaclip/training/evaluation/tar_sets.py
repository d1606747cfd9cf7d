"""Sets in CLIP_benchmark's layout: tars of images with labels or captions, and in DataComp's sets with further numbers.

Law: nothing is unpickled; a `.npy` is read only in the form that numpy writes an array of numbers in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from metaclip.errors import MetaclipError, one_line
from metaclip.pool.tars import read_samples
from metaclip.stage.stage import digest_of
from metaclip.training.evaluation.evaluation_set import (
    CLASS_NAMES,
    SUFFIXES,
    EvaluationSet,
    ImageFile,
    read_file,
    read_lines,
    read_templates,
    read_text,
)

KIND_NAME: Final = "dataset_type.txt"
_MOST_NUMBERS: Final = 64  # of a .npy
_NPY: Final = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|](?:[iu][1248]|f[248]))', 'fortran_order': (?:True|False), "
    rb"'shape': \(([\d, ]*)\), \} *\n",
    re.DOTALL,
)
"""The header of an array of numbers, as numpy writes it."""


def open_tars(folder: Path, split: str, columns: Sequence[str]) -> EvaluationSet:
    """Open a set in CLIP_benchmark's layout."""

    def read(name: str) -> bytes:
        return read_file(folder / name)

    kind = (read_text(read, folder, KIND_NAME) or "classification").strip().lower()
    if kind not in ("classification", "retrieval"):
        raise MetaclipError(
            f"{folder / KIND_NAME} is {kind!r}; classification and retrieval are evaluated"
        )
    number = (read_text(read, folder, f"{split}/nshards.txt") or "").strip()
    if not re.fullmatch("[0-9]{1,6}", number) or not int(number):
        raise MetaclipError(
            f"{folder / split / 'nshards.txt'} is {number!r:.40}, must be the number of tars"
        )
    paths = [folder / split / f"{i}.tar" for i in range(int(number))]
    classes = () if kind == "retrieval" else read_lines(read, folder, CLASS_NAMES, "class names")
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
        read_templates(read, folder), attributes=attributes,
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
