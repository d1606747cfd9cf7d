"""Small sets for the tasks of a suite, in the folders, layouts and files that DataComp's `download_evalsets.py` makes."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metaclip.training.evaluation.suites import SuiteTask
from tests.training.labelled import png, write_files
from tests.training.shards import Content, write_tar
from training.shapes import CLASSES

IMAGES = 9
CACHE = Path("TEST", "1.1.0", "d0c5")
FACES = {
    "age": ("0-2", "3-9", "10-19"),
    "gender": ("male", "female"),
    "race": ("black", "white"),
    "toxic": ("crime",),
}


def npy(values: Any) -> bytes:
    """Encode numbers as webdataset does."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(values))
    return file.getvalue()


def write_wds(
    folder: Path,
    samples: Sequence[Mapping[str, Content]],
    classes: Sequence[str],
    templates: Sequence[str],
) -> Path:
    """Write samples (the content by suffix) to two tars in CLIP_benchmark's layout."""
    half = len(samples) // 2
    for number, part in enumerate((samples[:half], samples[half:])):
        members = [
            (f"s{number}{i:06d}.{suffix}", content)
            for i, own in enumerate(part)
            for suffix, content in own.items()
        ]
        write_tar(folder / "test" / f"{number}.tar", members)
    return write_files(folder, {
        "test/nshards.txt": "2\n", "classnames.txt": "\n".join(classes) + "\n",
        "zeroshot_classification_templates.txt": "\n".join(templates) + "\n",
    })  # fmt: skip


def write_arrow(path: Path, columns: Mapping[str, Sequence[Any]], **options: Any) -> Path:
    """Write columns as a stream of two batches, as Hugging Face's library writes its cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {"image": image, "candidate_images": pa.list_(image)}
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(values, kinds.get(name))
        for name, values in columns.items()
    }
    table = pa.table(arrays)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table) // 2))
    return path


def encoded(number: int) -> dict[str, Any]:
    """Return an image as the library keeps it in a column."""
    return {"bytes": png(number), "path": f"{number}.png"}


def write_evalset(folder: Path, task: SuiteTask) -> SuiteTask:
    """Write a small set for a task below a folder; return the task with the size of this set."""
    kind, _, name = task.key.rpartition("/")
    cache = folder / "hf_cache" / f"nlphuji___{name}" / CACHE / f"{name}-test.arrow"
    if kind == "retrieval":
        texts = [[f"{CLASSES[i]} {n}" for n in range(1 + i % 3)] for i in range(IMAGES)]
        write_arrow(cache, {"image": [encoded(i) for i in range(IMAGES)], "caption": texts})
        return dataclasses.replace(task, images=IMAGES)
    if kind == "misc":
        sizes = (5, 6, 10, 12, 10)
        chosen = [[(7 * row + i) % 13 for i in range(size)] for row, size in enumerate(sizes)]
        write_arrow(cache, {
            "cue": ["owl", "Red", "night", "Ink", "shape"],
            "candidates": [[f"image {i}" for i in own] for own in chosen],
            "associations": [[f"image {i}" for i in own[: 2 + row]] for row, own in enumerate(chosen)],
            "candidate_images": [[encoded(i) for i in own] for own in chosen],
        })  # fmt: skip
        return dataclasses.replace(task, images=len(sizes))
    place = folder / f"wds_{name if kind == 'fairness' else task.key.replace('/', '-')}_test"
    classes, templates = CLASSES[:6], ("a photo of a {c}.", "the {c}")
    samples: list[dict[str, Content]] = []
    for i in range(IMAGES):
        sample: dict[str, Content] = {"png": png(i), "cls": str(i * i % 6)}
        if task.columns:
            sample["npy"] = npy([i % 2] * len(task.columns) if "age" in task.columns else [i % 3, i, 7])
        samples.append(sample)
    if not task.metric:
        classes = tuple(f"{key}:{value}" for key, values in FACES.items() for value in values)
        templates = (
            "age:a person {c} years old",
            "gender:a photo of a {c}",
            "race:a {c} person",
            "toxic:a {c}",
        )
        samples = [
            {suffix: content for suffix, content in own.items() if suffix != "cls"} for own in samples
        ]
    write_wds(place, samples, classes, templates)
    return dataclasses.replace(task, images=IMAGES, classes=len(classes) if task.classes else 0)


def write_evalsets(folder: Path, tasks: Sequence[SuiteTask]) -> tuple[SuiteTask, ...]:
    """Write a small set for each task; return the tasks with the sizes of these sets."""
    return tuple(itertools.starmap(write_evalset, ((folder, task) for task in tasks)))
