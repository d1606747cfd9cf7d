"""Small labelled and captioned sets for tests, in every layout: rendered shapes, so that classes differ to the eye of a model."""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.training.shards import Content, write_tar
from training.shapes import CLASSES, draw


@functools.lru_cache(maxsize=256)
def png(number: int, seed: int = 5) -> bytes:
    """Encode an image of a seed."""
    file = io.BytesIO()
    draw(seed, number)[0].save(file, "PNG")
    return file.getvalue()


def labelled(n: int, classes: int) -> list[tuple[int, int]]:
    """Return the first n images of the first `classes` classes: their numbers, with their labels."""
    found: list[tuple[int, int]] = []
    number = 0
    while len(found) < n:
        label = draw(5, number)[1]
        if label < classes:
            found.append((number, label))
        number += 1
    return found


def class_files(images: Sequence[tuple[int, int]], begin: str = "test/") -> Iterator[tuple[str, bytes]]:
    """Yield images as files in folders of classes."""
    for number, label in images:
        yield f"{begin}{CLASSES[label].replace(' ', '_')}/{number:05d}.png", png(number)


def write_files(folder: Path, files: Mapping[str, Content]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    return folder


def write_zip(path: Path, files: Mapping[str, Content]) -> Path:
    """Write files to a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else str(content))
    return path


def write_benchmark(
    folder: Path, images: Sequence[tuple[int, int]], per_tar: int = 20, **texts: str
) -> Path:
    """Write images in CLIP_benchmark's layout; `texts` are other files of it, "_" for "."."""
    tars = [images[i : i + per_tar] for i in range(0, len(images), per_tar)]
    for i, part in enumerate(tars):
        members: list[tuple[str, Content]] = []
        for number, label in part:
            members += [(f"s{number:07d}.png", png(number)), (f"s{number:07d}.cls", str(label))]
        write_tar(folder / "test" / f"{i}.tar", members)
    (folder / "test" / "nshards.txt").write_text(f"{len(tars)}\n")
    return write_files(folder, {name.replace("_txt", ".txt"): text for name, text in texts.items()})


def caption_lines(captions: Mapping[str, Sequence[str]]) -> str:
    """Return captions as the lines of a metadata.jsonl."""
    return "".join(
        json.dumps({"file_name": name, "text": list(own)}) + "\n" for name, own in captions.items()
    )
