"""Evaluation sets: the same images, labels and captions however they lie; what is no set is refused in a line."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[train]'")

from metaclip.errors import MetaclipError
from metaclip.training.evaluation.evaluation_set import EvaluationSet
from metaclip.training.evaluation.sets import open_set
from tests.training.labelled import (
    caption_lines,
    class_files,
    labelled,
    png,
    write_benchmark,
    write_files,
    write_zip,
)
from tests.training.shards import Content, write_tar
from training.shapes import CLASSES

pytestmark = pytest.mark.extra

IMAGES = labelled(30, 4)
FILES = dict(class_files(IMAGES))
NAMES = "".join(f"{name}\n" for name in CLASSES[:4])


def content(opened: EvaluationSet) -> list[tuple[bytes, str]]:
    """Return the bytes of each image and the name of its class, sorted."""
    return sorted(
        (opened.images[i].read(), opened.classes[label]) for i, label in enumerate(opened.labels)
    )


EXPECTED = sorted((png(number), CLASSES[label]) for number, label in IMAGES)


def bare(files: Mapping[str, Content]) -> dict[str, Content]:
    """Return files without the split in their names."""
    return {name.removeprefix("test/"): data for name, data in files.items()}


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "folder with a split": lambda path: write_files(path / "set", FILES),
    "folder of classes": lambda path: write_files(path / "set", bare(FILES)),
    "zip with a split": lambda path: write_zip(path / "set.zip", FILES),
    "zip of classes": lambda path: write_zip(path / "set.zip", bare(FILES)),
    "zip in one outer folder": lambda path: write_zip(
        path / "s.zip", {f"cifar/{n}": d for n, d in FILES.items()}
    ),
    "zip by macOS": lambda path: write_zip(
        path / "s.zip",
        {
            **FILES,
            ".hidden/0.png": png(0),
            **{f"__MACOSX/{n.replace('/0', '/._0')}": b"x" for n in FILES},
        },
    ),
    "folders in folders": lambda path: write_files(
        path / "set", {name.replace("/0", "/deeper/0"): d for name, d in FILES.items()}
    ),
    "other files beside": lambda path: write_files(
        path / "set", {**FILES, "test/x.png": png(0), "README.md": "set"}
    ),
    "CLIP_benchmark's": lambda path: write_benchmark(path / "set", IMAGES, classnames_txt=NAMES),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_set_in_every_layout(layout: str, tmp_path: Path) -> None:
    """Images and classes are the same however they lie; a set travels to another process."""
    opened = open_set(LAYOUTS[layout](tmp_path))
    assert opened.kind == "classification"
    assert content(opened) == EXPECTED
    assert len(opened.images) == len(IMAGES)
    images = pickle.loads(pickle.dumps(opened.images))
    assert [image.read() for image in images[:3]] == [image.read() for image in opened.images[:3]]


def test_classes_are_in_the_order_of_folders(tmp_path: Path) -> None:
    """As torchvision's ImageFolder: sorted folders; classnames.txt names them in that order, another file may too."""
    from metaclip.training.models import import_torchvision

    folder = write_files(tmp_path / "set", FILES)
    oracle = import_torchvision().datasets.ImageFolder(os.fspath(folder / "test"))
    opened = open_set(folder)
    assert list(opened.classes) == [name.replace("_", " ") for name in oracle.classes]
    assert [
        (str(image), label) for image, label in zip(opened.images, opened.labels, strict=True)
    ] == oracle.samples
    write_files(folder, {"classnames.txt": "a\nb\r\nc\n d \n"})
    named = open_set(folder)
    assert named.classes == ("a", "b", "c", "d")
    assert named.labels == opened.labels
    assert open_set(folder, classes=["w", "x", "y", "z"]).classes == ("w", "x", "y", "z")


def test_a_set_brings_its_templates(tmp_path: Path) -> None:
    """zeroshot_classification_templates.txt is read in both layouts."""
    text = "a {c}.\nthe {c}\n"
    name = "zeroshot_classification_templates"
    assert open_set(write_files(tmp_path / "a", {**FILES, f"{name}.txt": text})).templates == (
        "a {c}.",
        "the {c}",
    )
    tars = write_benchmark(tmp_path / "b", IMAGES, classnames_txt=NAMES, **{f"{name}_txt": text})
    assert open_set(tars).templates == ("a {c}.", "the {c}")


CAPTIONS = {
    "0.png": ["a red circle", "a circle"],
    "sub/1.png": ["a blue square"],
    "2.png": ["one", "two", "three"],
}
CAPTIONED = {name: png(i) for i, name in enumerate(CAPTIONS)}


@pytest.mark.parametrize("split", ["", "test/"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_captions_beside_images(form: str, split: str, tmp_path: Path) -> None:
    """metadata.jsonl as Hugging Face's image folders have it; lines of an image add up; not all images need to be named."""
    lines = caption_lines(CAPTIONS) + json.dumps({"file_name": "0.png", "text": "once more"}) + "\n"
    files: dict[str, Content] = {f"{split}metadata.jsonl": lines, f"{split}unnamed.png": png(9)}
    files.update({f"{split}{name}": data for name, data in CAPTIONED.items()})
    opened = open_set(
        write_zip(tmp_path / "s.zip", files) if form == "zip" else write_files(tmp_path / "s", files)
    )
    assert opened.kind == "retrieval"
    assert opened.texts == (
        ("a red circle", "a circle", "once more"),
        ("a blue square",),
        ("one", "two", "three"),
    )
    assert [image.read() for image in opened.images] == list(CAPTIONED.values())


def test_pairs_by_id(tmp_path: Path) -> None:
    """An image is found by its name without the suffix too: {"id": ..., "text": ...}."""
    lines = "".join(
        json.dumps({"id": str(i), "text": f"text {i}", "url": "http://x"}) + "\n" for i in (1, 0)
    )
    opened = open_set(
        write_zip(tmp_path / "s.zip", {"0.jpg": png(0), "1.jpg": png(1), "pairs.jsonl": lines})
    )
    assert opened.texts == (("text 1",), ("text 0",))
    assert [image.read() for image in opened.images] == [png(1), png(0)]


def test_captions_in_the_benchmarks_layout(tmp_path: Path) -> None:
    """dataset_type.txt says retrieval; a text a line."""
    members: list[tuple[str, Content]] = []
    for i, own in enumerate(CAPTIONS.values()):
        members += [(f"s{i:07d}.png", png(i)), (f"s{i:07d}.txt", "\n".join(own))]
    write_tar(tmp_path / "test" / "0.tar", members)
    write_files(tmp_path, {"test/nshards.txt": "1", "dataset_type.txt": "retrieval\n"})
    opened = open_set(tmp_path)
    assert opened.kind == "retrieval"
    assert opened.texts == tuple(tuple(own) for own in CAPTIONS.values())


def test_what_the_benchmark_writes(tmp_path: Path) -> None:
    """Tars by webdataset's ShardWriter, as CLIP_benchmark's own builder of sets calls it, in lossless webp."""
    wds = pytest.importorskip("webdataset", reason="needs webdataset: pip install '.[train]'")
    from PIL import Image

    (tmp_path / "test").mkdir()
    with wds.ShardWriter(os.fspath(tmp_path / "test" / "%d.tar"), maxcount=8, verbose=0) as sink:
        for i, (number, label) in enumerate(IMAGES):
            file = io.BytesIO()
            Image.open(io.BytesIO(png(number))).save(file, "webp", lossless=True)
            sink.write({"__key__": f"s{i:07d}", "webp": file.getvalue(), "cls": label})
    tars = len(list((tmp_path / "test").glob("*.tar")))
    write_files(tmp_path, {"test/nshards.txt": f"{tars}\n", "classnames.txt": NAMES})
    opened = open_set(tmp_path)
    assert opened.labels == tuple(label for _, label in IMAGES)
    images = [Image.open(io.BytesIO(image.read())).tobytes() for image in opened.images]
    assert images == [Image.open(io.BytesIO(png(number))).tobytes() for number, _ in IMAGES]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_change_is_another_set(layout: str, tmp_path: Path) -> None:
    """The digest is the same when a set is opened again, and another when an image is another."""
    path = LAYOUTS[layout](tmp_path)
    before = open_set(path).digest
    assert open_set(path).digest == before
    if path.suffix == ".zip":
        changed = {**FILES, next(iter(FILES)): png(77)}
        write_zip(path, changed)
    else:
        victim = next(
            file
            for file in sorted(path.rglob("*"))
            if file.suffix in (".png", ".tar") and "x" not in file.stem
        )
        os.utime(victim, (1, 1))
    assert open_set(path).digest != before


def test_a_moved_set_is_the_same(tmp_path: Path) -> None:
    """Where it lies, and in how many outer folders, does not matter."""
    plain = open_set(write_zip(tmp_path / "a.zip", FILES)).digest
    assert (
        open_set(write_zip(tmp_path / "b.zip", {f"x/{n}": d for n, d in FILES.items()})).digest == plain
    )


def tar(members: list[tuple[str, Content]], **files: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        write_tar(path / "test" / "0.tar", members)
        return write_files(path, {"test/nshards.txt": "1", "classnames.txt": "a\nb\n", **files})

    return make


SAMPLE: list[tuple[str, Content]] = [("0.png", png(0)), ("0.cls", "0")]
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda path: path / "no", "there is no evaluation set {}/no; check the path"),
    "neither": (
        lambda path: write_files(path, {"a.csv": "x"}) / "a.csv",
        "{}/a.csv is neither a folder nor a zip",
    ),
    "empty": (
        lambda path: write_files(path, {"README": "x"}),
        "{}: there are no images in folders of classes",
    ),
    "another split": (
        lambda path: write_files(path, {"train/a/0.png": png(0), "val/a/0.png": png(0)}),
        "{}: there is no split 'test'; splits: train, val",
    ),
    "names too few": (
        lambda path: write_files(path, {"a/0.png": png(0), "b/0.png": png(0), "classnames.txt": "a\n"}),
        "{}: 1 class names for 2 classes",
    ),
    "captions of no image": (
        lambda path: write_files(
            path, {"0.png": png(0), "metadata.jsonl": '{"file_name": "1.png", "text": "x"}\n'}
        ),
        "{}, metadata.jsonl, line 1: there is no image '1.png'",
    ),
    "captions without text": (
        lambda path: write_files(
            path, {"0.png": png(0), "metadata.jsonl": '{"file_name": "0.png", "text": []}\n'}
        ),
        "{}, metadata.jsonl, line 1: it needs a file_name",
    ),
    "captions in no JSON": (
        lambda path: write_files(path, {"0.png": png(0), "metadata.jsonl": "0.png,x\n"}),
        "{}, metadata.jsonl, line 1: it is no JSON",
    ),
    "no captions": (
        lambda path: write_files(path, {"0.png": png(0), "metadata.jsonl": ""}),
        "{}, metadata.jsonl: it has no lines",
    ),
    "shards of no number": (tar(SAMPLE, **{"test/nshards.txt": "one"}), "{}/test/nshards.txt is 'one'"),
    "a shard missing": (tar(SAMPLE, **{"test/nshards.txt": "2"}), "{}/test/1.tar cannot be read"),
    "many labels": (
        tar(SAMPLE, **{"dataset_type.txt": "multilabel"}),
        "{}/dataset_type.txt is 'multilabel'",
    ),
    "no image": (tar([("0.cls", "0")]), "{}/test/0.tar, 0.cls: its sample has no image"),
    "no label": (tar([("0.png", png(0))]), "{}/test/0.tar, 0.png: its sample has no .cls"),
    "a label too large": (
        tar([("0.png", png(0)), ("0.cls", "2")]),
        "{}/test/0.tar, 0.png: its .cls is '2'",
    ),
    "a label of code": (
        tar([("0.png", png(0)), ("0.cls", "os.x()")]),
        "{}/test/0.tar, 0.png: its .cls is 'os.x()'",
    ),
    "no samples": (tar([]), "{}/test: its tars hold no images"),
    "no text": (
        tar([("0.png", png(0)), ("0.txt", "")], **{"dataset_type.txt": "retrieval"}),
        "{}/test/0.tar, 0.png: its .txt is empty",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_set(name: str, tmp_path: Path) -> None:
    """One line names the file and what is wrong."""
    make, says = BAD[name]
    path = make(tmp_path)
    with pytest.raises(MetaclipError) as error:
        open_set(path)
    assert str(error.value).startswith(says.replace("{}", str(tmp_path)))
    assert "\n" not in str(error.value)


def test_a_tar_without_class_names(tmp_path: Path) -> None:
    """Labels are numbers: without names there is nothing to ask a model."""
    write_tar(tmp_path / "test" / "0.tar", SAMPLE)
    write_files(tmp_path, {"test/nshards.txt": "1"})
    with pytest.raises(
        MetaclipError, match=r"there is no .*classnames\.txt; write the class names there"
    ):
        open_set(tmp_path)


def test_class_names_for_captions(tmp_path: Path) -> None:
    """A captioned set has no classes to name."""
    path = write_zip(tmp_path / "s.zip", {"0.png": png(0), "pairs.jsonl": '{"id": "0", "text": "x"}'})
    with pytest.raises(MetaclipError, match="has captions and no classes"):
        open_set(path, classes=["a"])


def test_a_cut_zip(tmp_path: Path) -> None:
    """A zip without its end is none."""
    path = write_zip(tmp_path / "s.zip", FILES)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MetaclipError, match="is neither a folder nor a zip"):
        open_set(path)


def test_cifar10_as_it_lies(data_folder: Path) -> None:
    """The shared CIFAR-10: 10 classes, 1,000 test images of each; MNIST likewise, by digit."""
    opened = open_set(data_folder / "images" / "cifar10_jpg.zip")
    assert opened.classes == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert [opened.labels.count(label) for label in range(10)] == [1000] * 10
    assert opened.images[0].read()[:2] == b"\xff\xd8"
    train: Any = open_set(data_folder / "images" / "mnist_png.zip", "train")
    assert (len(train.images), train.classes) == (60_000, tuple("0123456789"))


def test_captioned_photos_as_they_lie(data_folder: Path) -> None:
    """The shared photos: 3,600 with a text each."""
    opened = open_set(data_folder / "images" / "xm3600_128px.zip")
    assert opened.kind == "retrieval"
    assert len(opened.images) == len(opened.texts) == 3_600
