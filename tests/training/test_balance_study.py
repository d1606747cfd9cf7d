"""The study of balancing: its pool is what it says it is, its figures are by definition, and it runs and goes on."""

from __future__ import annotations

import collections
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'metaclip[train]'")
pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")

from metaclip import Matcher, Metadata
from metaclip.errors import MetaclipError
from metaclip.metadata import shipped_list
from metaclip.training.evaluation.sets import open_set
from tests.training.labelled import class_files, labelled, write_zip
from tests.training.shards import read_tar
from training.balance_study.__main__ import command
from training.balance_study.arms import arms_of, figures
from training.balance_study.pool import (
    JUNK,
    NAMES,
    SENTENCES,
    PoolSettings,
    _unmatched,
    plan,
    uid_of,
    write_pool,
)
from training.balance_study.sizes import STUDIES
from training.balance_study.summary import Estimate, summarise, table

pytestmark = [
    pytest.mark.extra,
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create"
    ),  # torch's advice on the number of workers
]

CLASSES = [f"class {i}" for i in range(5)]
LABELS = [i % 5 for i in range(1_000)]
SETTINGS = PoolSettings(head=100, exponent=1.0)


# -- the pool


@pytest.mark.parametrize("seed", [0, 1])
def test_a_pool_is_as_skewed_and_as_dirty_as_it_says(seed: int) -> None:
    """Zipf's classes by rank, so many unmatched and junk pairs, no image twice, each caption of its image's class."""
    ranked, pairs = plan(LABELS, CLASSES, SETTINGS, seed)
    of_class = collections.Counter(pair.label for pair in pairs if pair.kind == "class")
    assert [of_class[label] for label in ranked] == [100, 50, 33, 25, 20]
    kinds = collections.Counter(pair.kind for pair in pairs)
    assert kinds == {"class": 228, "unmatched": round(0.3 * 456), "junk": round(0.2 * 456)}
    assert len({pair.image for pair in pairs}) == len(pairs)
    assert all(LABELS[pair.image] == pair.label for pair in pairs)
    assert all(CLASSES[pair.label] in pair.text for pair in pairs if pair.kind == "class")
    assert all(pair.text in JUNK for pair in pairs if pair.kind == "junk")
    assert plan(LABELS, CLASSES, SETTINGS, seed) == (ranked, pairs), "a pure function"


def test_seeds_differ() -> None:
    """Each seed has its own order of classes and its own pairs."""
    assert len({tuple(plan(LABELS, CLASSES, SETTINGS, seed)[0]) for seed in range(4)}) > 1
    assert plan(LABELS, CLASSES, SETTINGS, 0)[1] != plan(LABELS, CLASSES, SETTINGS, 1)[1]
    assert len({uid_of(seed, image) for seed in range(3) for image in range(1_000)}) == 3_000


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (PoolSettings(head=201), "there are 200 images of class"),
        (PoolSettings(head=180, exponent=0.1), "images left for"),
    ],
)
def test_too_few_images(settings: PoolSettings, says: str) -> None:
    """A pool that the set cannot fill is refused with what there is and what is wanted."""
    with pytest.raises(MetaclipError, match=says):
        plan(LABELS, CLASSES, settings, 0)


@pytest.mark.slow
def test_kinds_of_text_under_the_shipped_list() -> None:
    """Every caption and every junk text matches entries, the class's name among them; what is unmatched matches none."""
    metadata = Metadata.read(shipped_list())
    chance = random.Random(0)
    captions = [sentence.format(name) for own in NAMES.values() for name in own for sentence in SENTENCES]
    texts = [*captions, *JUNK, *(_unmatched(chance) for _ in range(500))]
    matches = Matcher(metadata).match(texts).to_pylist()
    named = [name for own in NAMES.values() for name in own for _ in SENTENCES]
    entries = [{metadata.entries[i].as_py() for i in own} for own in matches[: len(captions)]]
    assert all(name in found for name, found in zip(named, entries, strict=True))
    assert all(matches[len(captions) : len(captions) + len(JUNK)])
    assert not any(matches[len(captions) + len(JUNK) :])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled set of four classes, in CIFAR-10's layout."""
    all_images = labelled(150, 4)
    by_class: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
    for image in all_images:
        by_class[image[1]].append(image)
    test = [image for own in by_class.values() for image in own[:4]]
    train = [image for own in by_class.values() for image in own[4:]]
    files = dict([*class_files(train, "train/"), *class_files(test, "test/")])
    return write_zip(tmp_path_factory.mktemp("images") / "images.zip", files)


def test_a_pool_on_disk(images: Path, tmp_path: Path) -> None:
    """Tars in img2dataset's form with the images' own bytes; opened again, and refused to another study."""
    opened, settings = open_set(images, "train"), PoolSettings(20)
    pool = write_pool(tmp_path, opened, settings, 0)
    ranked, pairs = plan(opened.labels, opened.classes, settings, 0)
    assert pool.ranked == tuple(opened.classes[label] for label in ranked)
    members = [member for tar in sorted(pool.tars.glob("*.tar")) for member in read_tar(tar)]
    assert len(members) == 3 * len(pairs)
    for i, pair in enumerate(pairs):
        (image, data), (_, fields), (_, text) = members[3 * i : 3 * i + 3]
        assert (image, data) == (f"{i:09d}.png", opened.images[pair.image].read())
        assert text.decode() == json.loads(fields)["caption"] == pair.text
        assert pool.of[json.loads(fields)["uid"]] == (opened.classes[pair.label], pair.kind)
    before = {tar: tar.stat().st_mtime_ns for tar in pool.tars.iterdir()}
    assert write_pool(tmp_path, opened, settings, 0) == pool
    assert {tar: tar.stat().st_mtime_ns for tar in pool.tars.iterdir()} == before
    with pytest.raises(MetaclipError, match="holds the pool of another study"):
        write_pool(tmp_path, opened, settings, 1)


# -- figures


def test_head_and_tail() -> None:
    """The more frequent half of the classes, and the rarer half; of an odd number the middle one is in neither."""
    per_class = {"a": 0.9, "b": 0.5, "c": 0.4, "d": 0.2, "e": 0.1}
    made = figures(per_class, ("a", "b", "c", "d", "e"))
    assert made == pytest.approx({"all": 0.42, "head": 0.7, "tail": 0.15})


def test_an_interval_covers() -> None:
    """Of many studies of three seeds, 95 in a hundred have the true mean in their interval."""
    draw = np.random.default_rng(0)
    estimates = [Estimate.of(draw.normal(0.3, 0.02, 3).tolist()) for _ in range(4_000)]
    inside = np.mean([abs(one.mean - 0.3) <= one.half for one in estimates])
    assert inside == pytest.approx(0.95, abs=0.012)


def test_estimates() -> None:
    """Student's interval by hand; of one seed there is none."""
    made = Estimate.of([0.1, 0.2, 0.3])
    assert made.mean == pytest.approx(0.2)
    assert made.half == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert made.percent() == "20.0 ± 24.8"
    assert Estimate.of([0.25]).percent("+") == "+25.0"


def result(arm: str, seed: int, accuracy: float) -> dict[str, Any]:
    pairs = {"class": 10 + seed, "unmatched": 0, "junk": 2, "tail": 3, "total": 12 + seed}
    return {
        "arm": arm,
        "seed": seed,
        "all": accuracy,
        "head": accuracy + 0.1,
        "tail": accuracy - 0.1,
        "pairs": pairs,
    }


def test_differences_are_taken_seed_by_seed() -> None:
    """What makes a seed hard is not in the difference from matched: two arms that always differ by 2 have no spread."""
    values = [0.2, 0.3, 0.5]
    results = [
        result(arm, s, v + more)
        for s, v in enumerate(values)
        for arm, more in (("matched", 0), ("online 9", 0.02))
    ]
    matched, online = summarise(results)
    assert not matched.against
    assert online.against["all"].mean == pytest.approx(0.02)
    assert online.against["tail"].half == pytest.approx(0, abs=1e-9)
    assert online.figures["all"].half > 0.1
    assert online.pairs["total"] == 13
    text = table([matched, online], 3)
    assert "| matched | 13 | 3 | 2 | 33.3 ± 37.9 |" in text
    assert "| +2.0 ± 0.0 | +2.0 ± 0.0 | +2.0 ± 0.0 |" in text


@pytest.mark.parametrize("size", STUDIES)
def test_arms(size: Any) -> None:
    """Raw, matched, and offline and online at each t."""
    study = STUDIES[size]
    names = [arm.name for arm in arms_of(study)]
    assert names == [
        "raw",
        "matched",
        *(f"{way} {t:g}" for way in ("offline", "online") for t in study.ts),
    ]


# -- the study


def test_it_runs_and_goes_on(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny study, killed in the middle and begun again: finished arms stay, the table has every arm."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = tmp_path / "list.txt"
    words.write_text(
        "\n".join(
            sorted(
                {word for text in (*SENTENCES, *JUNK) for word in text.split() if "{" not in word}
                | {"red", "circle", "square", "triangle", "star"}
            )
        )
    )
    out = tmp_path / "study"
    flags = [
        "--images",
        images,
        "--size",
        "tiny",
        "--out",
        out,
        "--device",
        "cpu",
        "--metadata",
        words,
        "--seeds",
    ]
    arguments = [os.fspath(flag) for flag in flags]
    process = subprocess.Popen(
        [sys.executable, "-m", "training.balance_study", *arguments, "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    with process:
        until = time.monotonic() + 900
        while len(list(out.glob("*/*/result.json"))) < 2:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/result.json")}
    assert 2 <= len(before) < 4, "killed before the end"
    command.main([*arguments, "2"], standalone_mode=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    made = json.loads((out / "results.json").read_text())["results"]
    assert [(one["seed"], one["arm"]) for one in made] == [
        (seed, arm) for seed in (0, 1) for arm in ("raw", "matched", "offline 6", "online 6")
    ]
    raw, matched, offline, online = (one["pairs"] for one in made[:4])
    assert raw["unmatched"] > matched["unmatched"] == 0
    assert raw["class"] == matched["class"] > offline["class"], "t thins the head"
    assert offline == online, "at epoch 0 they are the same pairs"
    assert all(one["samples"] == 64 for one in made)
    text = (out / "table.md").read_text()
    assert text.count("±") > 8
    assert (out / "plot.svg").read_text().startswith("<svg")
    assert not list(out.rglob("*.pt")), "models go when they are evaluated"
    # The finished arms are another study's if a setting differs.
    with pytest.raises(MetaclipError, match="is an arm of another study"):
        command.main([*arguments, "2", "--samples", "96"], standalone_mode=False)


@pytest.mark.slow
@pytest.mark.gpu
def test_the_study_on_a_gpu(data_folder: Path, tmp_path: Path) -> None:
    """The study itself, as large as half an hour on a GPU allows: more than chance in every arm."""
    images = data_folder / "images" / "cifar10_jpg.zip"
    command.main(
        ["--images", os.fspath(images), "--size", "gpu", "--out", os.fspath(tmp_path)],
        standalone_mode=False,
    )
    made = json.loads((tmp_path / "results.json").read_text())["results"]
    assert len(made) == 3 * 8
    assert all(one["all"] > 0.2 for one in made)


@pytest.mark.slow
def test_the_study_learns(data_folder: Path, tmp_path: Path) -> None:
    """One seed and one t of the small study, cut short, as its own process: every arm is above chance (10%)."""
    images = data_folder / "images" / "cifar10_jpg.zip"
    flags = ["--seeds", "1", "--t", "100", "--samples", "4800", "--device", "cpu", "--workers", "1"]
    place = ["--images", os.fspath(images), "--out", os.fspath(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "training.balance_study", *place, *flags], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # beside other tests two threads are slower than one
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [one["arm"] for one in made] == ["raw", "matched", "offline 100", "online 100"]
    assert all(one["all"] > 0.12 for one in made), done.stdout
