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
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from metaclip.errors import MetaclipError, one_line
from metaclip.stage.stage import digest_of
from metaclip.storage.files import read_whole
from metaclip.training.evaluation.evaluation_set import (
    CLASS_NAMES,
    SUFFIXES,
    EvaluationSet,
    ImageFile,
    check_names,
    read_file,
    read_lines,
    read_templates,
    read_text,
)
from metaclip.training.evaluation.tar_sets import open_tars

CAPTION_NAMES: Final = ("metadata.jsonl", "pairs.jsonl")
SPLITS: Final = ("train", "test", "val", "validation", "dev")
_FILE_FIELDS: Final = ("file_name", "image", "id")
_TEXT_FIELDS: Final = ("text", "texts", "caption", "captions", "alt")


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
            open_tars(where, split, columns)
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
        check_names(where, classes, len(made.classes))
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
        lambda name: read_file(folder / name),
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
            lines = read_text(read, where, outer + captions) or ""
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
    classes = read_lines(read, where, outer + CLASS_NAMES, "class names")
    if classes:
        check_names(where, classes, len(folders))
    digest = digest_of([[name.removeprefix(outer), found[name]] for name in chosen])
    place = {name: i for i, name in enumerate(folders)}
    return EvaluationSet(
        tuple(map(image, chosen)), digest, tuple(place[name] for name in folder_of),
        classes or tuple(name.replace("_", " ") for name in folders), read_templates(read, where, outer),
    )  # fmt: skip


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
