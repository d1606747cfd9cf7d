"""Rendered shapes: a pure function of seed and number, of all classes, in the neighbours' layouts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[train]'")

from tests.training.shards import read_tar
from training import shapes

pytestmark = pytest.mark.extra


def test_an_image_is_a_function_of_seed_and_number() -> None:
    """The same image each time, another one for another seed or number; its class is what its caption says."""
    image, label, caption = shapes.draw(0, 7)
    again, *rest = shapes.draw(0, 7)
    assert (image.tobytes(), [label, caption]) == (again.tobytes(), rest)
    assert (image.size, image.mode) == ((shapes.SIDE, shapes.SIDE), "RGB")
    assert len({shapes.draw(seed, n)[0].tobytes() for seed in (0, 1) for n in range(50)}) == 100
    assert all(shapes.CLASSES[label] in text for _, label, text in (shapes.draw(0, n) for n in range(50)))


def test_a_shape_has_its_colour() -> None:
    """Somewhere in each image its colour is seen, whatever the ground."""
    for n in range(100):
        image, label, _ = shapes.draw(2, n)
        red, green, blue = shapes.COLOURS[shapes.CLASSES[label].split()[0]]
        far = np.abs(np.asarray(image, np.int64) - (red, green, blue)).sum(axis=2)
        assert far.min() < 60, n


def test_all_classes_come() -> None:
    """Of 2,000 images each class has some, none many."""
    counts = Counter(shapes.draw(0, n, side=8)[1] for n in range(2_000))
    assert len(counts) == len(shapes.CLASSES) == 48
    assert 15 < min(counts.values()) <= max(counts.values()) < 80


def test_pairs(tmp_path: Path) -> None:
    """Pairs are samples as img2dataset writes them, 1,000 a tar, with uids of their own; what is there stays."""
    paths = shapes.write_pairs(tmp_path, 1_003)
    assert [path.name for path in paths] == ["00000.tar", "00001.tar"]
    members = read_tar(paths[1])
    assert [name for name, _ in members] == [
        f"00000{n}.{kind}" for n in (1000, 1001, 1002) for kind in ("json", "png", "txt")
    ]
    fields = json.loads(members[0][1])
    assert fields["caption"].encode() == members[2][1] == shapes.draw(0, 1_000)[2].encode()
    assert (
        len({json.loads(data)["uid"] for name, data in read_tar(paths[0]) if name.endswith("json")})
        == 1_000
    )
    before = [path.stat().st_mtime_ns for path in paths]
    shapes.write_pairs(tmp_path, 1_003)
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_classes(tmp_path: Path) -> None:
    """A labelled set has CLIP_benchmark's layout: images with .cls, names and templates a line each."""
    folder = shapes.write_classes(tmp_path / "set", 20)
    members = dict(read_tar(folder / "test" / "0.tar"))
    assert len(members) == 40
    assert [int(members[f"{n:06d}.cls"]) for n in range(20)] == [shapes.draw(1, n)[1] for n in range(20)]
    assert members["000003.png"].startswith(b"\x89PNG")
    assert (folder / "test" / "nshards.txt").read_text() == "1\n"
    assert (folder / "classnames.txt").read_text().splitlines() == list(shapes.CLASSES)
    assert (folder / "zeroshot_classification_templates.txt").read_text().splitlines()[0] == "a {c}."
