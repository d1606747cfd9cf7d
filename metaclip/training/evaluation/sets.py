"""Evaluation sets: labelled or captioned images, found at a path by how they lie there.

    folder or zip      [test/]<class>/**.jpg                    classes: the folders, sorted, as torchvision's ImageFolder
                       classnames.txt beside them               names for the sorted folders, one a line
                       metadata.jsonl or pairs.jsonl            captions instead: {"file_name": ..., "text": ... or [...]}
    CLIP_benchmark     test/nshards.txt, test/0.tar ...         members .jpg .png .webp with .cls (labels) or .txt (captions)
                       classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt

`test` is the split. A zip's single outermost folder counts for nothing.

Law: a set is known by the names and sizes of its images (of a zip their check sums too, of files and tars the time of
change) and by its labels or captions; whoever changes one of these has another set. Nothing is unpacked or unpickled.
Cost: 0.7 s for the 60,000 members of a zip, on a busy machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from metaclip.errors import MetaclipError, one_line
from metaclip.pool.tar_format import ForwardReader, read_members
from metaclip.stage.stage import digest_of
from metaclip.training.evaluation.images import SUFFIXES, Files, Images, Spans, Zipped
from metaclip.training.evaluation.prompts import checked_lines, checked_templates

CLASS_NAMES: Final = "classnames.txt"
TEMPLATE_NAMES: Final = "zeroshot_classification_templates.txt"
KIND_NAME: Final = "dataset_type.txt"
CAPTION_NAMES: Final = ("metadata.jsonl", "pairs.jsonl")
SPLITS: Final = ("train", "test", "val", "validation", "dev")
_FILE_FIELDS: Final = ("file_name", "image", "id")
_TEXT_FIELDS: Final = ("text", "texts", "caption", "captions", "alt")

Kind = Literal["classification", "retrieval"]


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Images with the class of each, or with the texts of each."""

    path: Path
    images: Images
    digest: str
    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    """The set's own; empty where it has none."""
    texts: tuple[tuple[str, ...], ...] = ()

    @property
    def kind(self) -> Kind:
        """What can be measured on it."""
        return "retrieval" if self.texts else "classification"


def open_set(path: str | os.PathLike[str], split: str = "test", classes: Sequence[str] = ()) -> EvaluationSet:
    """Open the set at a path; `classes` name its classes instead of the set's own names.

    Raise MetaclipError for what is no set, or contradicts itself.
    """
    where = Path(path)
    if where.is_dir():
        made = _tars(where, split) if (where / split / "nshards.txt").exists() else _folder(where, split)
    elif zipfile.is_zipfile(where):
        made = _zip(where, split)
    elif where.exists():
        raise MetaclipError(f"{where} is neither a folder nor a zip; give a folder of classes, a zip of it, or tars")
    else:
        raise MetaclipError(f"there is no evaluation set {where}; check the path")
    if classes and made.kind == "retrieval":
        raise MetaclipError(f"{where} has captions and no classes; take `classes` out of its task")
    if classes:
        _check_names(where, classes, len(made.classes))
        made = dataclasses.replace(made, classes=tuple(classes))
    doubles = sorted({name for name in made.classes if made.classes.count(name) > 1}) if made.classes else []
    if doubles:
        raise MetaclipError(f"{where}: two classes are called {doubles[0]!r}; a prompt could not tell them apart")
    return made


def _folder(folder: Path, split: str) -> EvaluationSet:
    found: dict[str, list[int]] = {}
    for root, folders, files in os.walk(folder):
        folders.sort()
        for file in files:
            path = Path(root, file)
            stat = path.stat()
            found[path.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return _named(folder, found, split, lambda name: (folder / name).read_bytes(), lambda names: Files(folder, names))


def _zip(path: Path, split: str) -> EvaluationSet:
    try:
        with zipfile.ZipFile(path) as archive:
            found = {info.filename: [info.file_size, info.CRC] for info in archive.infolist() if not info.is_dir()}
            return _named(path, found, split, archive.read, lambda names: Zipped(path, names))
    except (OSError, zipfile.BadZipFile) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); fetch it again") from None


def _named(
    where: Path,
    found: Mapping[str, list[int]],
    split: str,
    read: Callable[[str], bytes],
    make: Callable[[tuple[str, ...]], Images],
) -> EvaluationSet:
    """Make a set of files by name; hidden ones, and what macOS puts beside the files of a zip, are not of it."""
    found = {
        name: known for name, known in found.items() if not f"/{name}".count("/.") and not name.startswith("__MACOSX/")
    }
    tops = {name.partition("/")[0] for name in found}
    outer = f"{tops.pop()}/" if len(tops) == 1 and "/" in next(iter(found)) else ""
    if outer and PurePosixPath(outer).name in (*SPLITS, split):
        outer = ""  # a set of one split

    def text(name: str) -> str | None:
        if outer + name not in found:
            return None
        try:
            return read(outer + name).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise MetaclipError(f"{where}, {outer}{name}: it cannot be read ({one_line(error)})") from None

    captions = next((name for name in (f"{split}/{n}" for n in CAPTION_NAMES) if outer + name in found), None)
    captions = captions or next((name for name in CAPTION_NAMES if outer + name in found), None)
    images = sorted(name for name in found if name.lower().endswith(SUFFIXES))
    if captions is not None:
        base = outer + captions.rpartition("/")[0]
        base += "/" if base and not base.endswith("/") else ""
        lines = text(captions) or ""
        chosen, texts = _captioned(f"{where}, {captions}", lines, {name.removeprefix(base): name for name in images})
        digest = digest_of([[name, found[name]] for name in chosen] + [list(line) for line in texts])
        return EvaluationSet(where, make(chosen), digest, texts=texts)
    begin = _split(where, [name.removeprefix(outer) for name in images], split)
    chosen = tuple(name for name in images if name.startswith(outer + begin) and "/" in name[len(outer + begin) :])
    if not chosen:
        raise MetaclipError(
            f"{where}: there are no images in folders of classes, no {' or '.join(CAPTION_NAMES)}, "
            f"and no {split}/nshards.txt; see metaclip evaluate --help for the layouts"
        )
    folder_of = [name[len(outer + begin) :].partition("/")[0] for name in chosen]
    folders = sorted(set(folder_of))
    place = {name: i for i, name in enumerate(folders)}
    names = text(CLASS_NAMES)
    classes = tuple(folders) if names is None else checked_lines(names, f"{where}, {CLASS_NAMES}", "class names")
    _check_names(where, classes, len(folders))
    if names is None:
        classes = tuple(name.replace("_", " ") for name in folders)
    digest = digest_of([[name.removeprefix(outer), found[name]] for name in chosen])
    labels = tuple(place[name] for name in folder_of)
    return EvaluationSet(where, make(chosen), digest, labels, classes, _own_templates(where, text(TEMPLATE_NAMES)))


def _split(where: Path, images: Sequence[str], split: str) -> str:
    """Give the folder of the split, with its slash; none where the outermost folders are the classes."""
    tops = {name.partition("/")[0] for name in images if "/" in name}
    if split in tops:
        return f"{split}/"
    if tops and tops <= set(SPLITS):
        raise MetaclipError(f"{where}: there is no split {split!r}; splits: {', '.join(sorted(tops))}")
    return ""


def _check_names(where: Path, names: Sequence[str], classes: int) -> None:
    if len(names) != classes:
        raise MetaclipError(
            f"{where}: {len(names)} class names for {classes} classes; give one for each, in their order"
        )


def _own_templates(where: Path, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    name = f"{where}, {TEMPLATE_NAMES}"
    return checked_templates(checked_lines(text, name, "templates"), name)


def _captioned(where: str, text: str, images: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Give the images that lines of captions name, in their order, and the texts of each.

    An image is named by its path below the file, or by that without its suffix; lines of one image add up.
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
        if name is None or not isinstance(own, list) or not own or not all(isinstance(one, str) for one in own):
            raise MetaclipError(
                f"{at}: it needs a file_name (or {', '.join(_FILE_FIELDS[1:])}) and a text, or a list of texts"
            )
        full = images.get(name) or stems.get(name)
        if full is None:
            raise MetaclipError(f"{at}: there is no image {name!r}")
        texts.setdefault(full, []).extend(own)
    if not texts:
        raise MetaclipError(f"{where}: it has no lines")
    return tuple(texts), tuple(tuple(own) for own in texts.values())


def _tars(folder: Path, split: str) -> EvaluationSet:
    """Open a set in CLIP_benchmark's layout."""

    def text(name: str) -> str | None:
        try:
            return (folder / name).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise MetaclipError(f"{folder / name} cannot be read ({one_line(error)})") from None

    kind = (text(KIND_NAME) or "classification").strip().lower()
    if kind not in ("classification", "retrieval"):
        raise MetaclipError(f"{folder / KIND_NAME} is {kind!r}; classification and retrieval are evaluated")
    number = (text(f"{split}/nshards.txt") or "").strip()
    if not number.isdecimal() or not int(number):
        raise MetaclipError(f"{folder / split / 'nshards.txt'} is {number!r:.40}, must be the number of tars")
    paths = tuple(folder / split / f"{i}.tar" for i in range(int(number)))
    spans, own = [], []
    for i, path in enumerate(paths):
        for key, image, label in _samples(path, "cls" if kind == "classification" else "txt"):
            spans.append((i, *image))
            own.append((f"{path}, {key}", label))
    images = Spans(paths, tuple(spans))
    if not spans:
        raise MetaclipError(f"{folder / split}: its tars hold no images")
    stats = [path.stat() for path in paths]
    digest = digest_of([[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats, strict=True)])
    if kind == "retrieval":
        texts = tuple(tuple(label.splitlines()) for _, label in own)
        if (bare := next((at for (at, _), lines in zip(own, texts, strict=True) if not lines), None)) is not None:
            raise MetaclipError(f"{bare}: its .txt is empty; each image needs a text")
        return EvaluationSet(folder, images, digest, texts=texts)
    names = text(CLASS_NAMES)
    if names is None:
        raise MetaclipError(f"there is no {folder / CLASS_NAMES}; write the class names there, one a line")
    classes = checked_lines(names, os.fspath(folder / CLASS_NAMES), "class names")
    for at, label in own:
        if not label.strip().isdecimal() or int(label) >= len(classes):
            raise MetaclipError(f"{at}: its .cls is {label!r:.40}, must be below the {len(classes)} classes")
    labels = tuple(int(label) for _, label in own)
    return EvaluationSet(folder, images, digest, labels, classes, _own_templates(folder, text(TEMPLATE_NAMES)))


def _samples(path: Path, suffix: str) -> list[tuple[str, tuple[int, int, str], str]]:
    """Give of each sample of a tar its key, where its image stands, and its member of a suffix."""
    found: dict[str, dict[str, Any]] = {}
    try:
        with path.open("rb") as file:
            forward = ForwardReader(file)
            for member in read_members(forward):
                name = member.name.decode("utf-8", "replace")
                key, _, ending = name.rpartition("/")[2].partition(".")
                sample = found.setdefault(f"{name.rpartition('/')[0]}/{key}", {"name": name})
                if f".{ending.lower()}" in SUFFIXES:
                    sample["image"] = (member.data, member.size, name)
                elif ending == suffix:
                    sample["label"] = forward.read(member.data, member.size).decode()
    except (OSError, ValueError) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); fetch it again") from None
    for sample in found.values():
        if missing := {"image", "label"} - sample.keys():
            what = f".{suffix}" if "label" in missing else "image"
            raise MetaclipError(f"{path}, {sample['name']}: its sample has no {what}; each needs both")
    return [(sample["name"], sample["image"], sample["label"]) for sample in found.values()]
