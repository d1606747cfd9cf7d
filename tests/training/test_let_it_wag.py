"""Let It Wag!: the parquet files of its authors become a set with their classes and prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")

from metaclip.errors import MetaclipError
from metaclip.training.evaluation.sets import open_set
from metaclip.training.evaluation.suites import find_folder, read_suite
from metaclip.training.models import import_open_clip
from tests.training.labelled import png
from tests.training.shards import jpeg
from training.let_it_wag import write_set

pytestmark = pytest.mark.extra

NAMES = ["A310_aircraft", "African_rock_python", "Artic_Tern_bird"]


def write_parquet(path: Path, labels: list[int], names: Any = NAMES) -> None:
    """Write images as Hugging Face's library does: bytes and path, and the names of classes in the metadata of the schema."""
    images = [{"bytes": png(i) if i % 2 else jpeg(i), "path": f"{i}"} for i, _ in enumerate(labels)]
    table = pa.table({"image": images, "label": pa.array(labels, pa.int64())})
    described = {
        "info": {
            "features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        }
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(described)}), path)


def test_parquets_become_a_set(tmp_path: Path) -> None:
    """All images with their labels in the order of files, names without kinds, OpenAI's templates; where the suite looks."""
    for number, labels in enumerate(([0, 0, 1], [2, 1, 2, 0])):
        write_parquet(tmp_path / "data" / f"train-0000{number}-of-00002-5eed.parquet", labels)
    assert write_set(tmp_path, tmp_path / "sets") == (7, 3)
    task = read_suite("datacomp")[-1]
    folder = find_folder(task, tmp_path / "sets")
    assert folder is not None
    opened = open_set(folder)
    assert opened.classes == ("A310", "African_rock_python", "Artic_Tern")
    assert opened.labels == (0, 0, 1, 2, 1, 2, 0)
    assert [image.read() for image in opened.images] == [
        png(i) if i % 2 else jpeg(i) for i in (0, 1, 2, 0, 1, 2, 3)
    ]
    templates = import_open_clip().OPENAI_IMAGENET_TEMPLATES
    assert [one.replace("{c}", "dog") for one in opened.templates] == [fill("dog") for fill in templates]
    assert (task.name, task.classes, task.images) == ("Let It Wag!", 290, 290 * 450)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "has 0 of the parquet files; download all of them"),
        ({"train-00000-of-00002-x": {"labels": [0]}}, "has 1 of 00002 parquet files"),
        ({"a": {"labels": [3]}}, "a.parquet cannot be read (a label is 3, must be below the 3 classes)"),
        ({"a": {"labels": [-1]}}, "a label is -1"),
        ({"a": {"labels": [0], "names": None}}, "a.parquet cannot be read ("),
        ({"a": {"labels": [0]}, "b": {"labels": [0], "names": ["x"]}}, "its classes are not those of the files before it"),
    ],
)  # fmt: skip
def test_what_is_no_let_it_wag(files: dict[str, Any], says: str, tmp_path: Path) -> None:
    """One line; no number of tars is written, so that nothing is evaluated."""
    for name, content in files.items():
        write_parquet(tmp_path / f"{name}.parquet", **content)
    with pytest.raises(MetaclipError) as error:
        write_set(tmp_path, tmp_path / "sets")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sets" / "wds_let_it_wag_test" / "test" / "nshards.txt").exists()
