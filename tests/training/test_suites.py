"""Suites: DataComp's 38 tasks, each with its own metric, on small sets as its script leaves them; averages; what is missing."""

from __future__ import annotations

import collections
import io
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")

import torch

from metaclip.errors import BadSetting, LostInputs, MetaclipError
from metaclip.training.evaluate import EvaluateOptions, Task, evaluate_suite, measure
from metaclip.training.evaluation import hugging_face, prompts, scores
from metaclip.training.evaluation.evaluation_set import Association, EvaluationSet
from metaclip.training.evaluation.results import read_results
from metaclip.training.evaluation.sets import open_set
from metaclip.training.evaluation.suites import FIGURES, find_folder, read_suite, summarise
from tests import commands
from tests.training.clips import make_clip, write_clip
from tests.training.evalsets import (
    FACES,
    IMAGES,
    npy,
    write_arrow,
    write_evalset,
    write_evalsets,
    write_wds,
)
from tests.training.labelled import png, write_files
from training.shapes import CLASSES

pytestmark = pytest.mark.extra

torch.set_num_threads(1)  # the models are too small to share, and other tests run beside these

CPU = EvaluateOptions("cpu", batch=16)
DATACOMP = read_suite("datacomp")
TASKS = {task.key: task for task in DATACOMP}


# -- the table


def test_the_average_is_of_38_tasks() -> None:
    """The faces have no score and are in no average, nor is Let It Wag!; the families are those of DataComp's tables."""
    assert len(DATACOMP) == len(TASKS) == len({task.name for task in DATACOMP}) == 41
    outside = ["fairness/fairface", "fairness/utkface", "let_it_wag"]
    assert [task.key for task in DATACOMP if not task.averaged] == outside
    assert [task.key for task in DATACOMP if not task.metric] == outside[:2]
    assert collections.Counter(task.family for task in DATACOMP if task.family) == {
        "vtab": 13, "shifts": 6, "retrieval": 3,
    }  # fmt: skip
    assert {task.metric for task in DATACOMP} - {""} == FIGURES.keys()
    assert all(
        task.images > 0 and 0 <= task.chance < 1 and (task.group or "x") in ("x", *task.columns)
        for task in DATACOMP
    )


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("vtab/caltech101", "wds_vtab-caltech101_test"),
        ("imagenet-a", "wds_imagenet-a_test"),
        ("wilds/fmow", "wds_wilds-fmow_test"),
        ("fairness/geode", "wds_geode_test"),
        ("misc/winogavil", "hf_cache/nlphuji___winogavil"),
        (
            "retrieval/flickr_1k_test_image_text_retrieval",
            "hf_cache/nlphuji___flickr_1k_test_image_text_retrieval",
        ),
        (
            "retrieval/mscoco_2014_5k_test_image_text_retrieval",
            "wds_retrieval-mscoco_2014_5k_test_image_text_retrieval_test",
        ),
    ],
)
def test_where_a_set_lies(key: str, place: str, tmp_path: Path) -> None:
    """Folders have the names that DataComp's script gives them."""
    assert find_folder(TASKS[key], tmp_path) is None
    (tmp_path / place).mkdir(parents=True)
    assert find_folder(TASKS[key], tmp_path) == tmp_path / place


# -- metrics, by their definitions

TABLES = st.lists(
    st.tuples(st.permutations(range(7)), st.integers(0, 6), st.integers(-1, 3)), min_size=1, max_size=40
)


@given(TABLES)
def test_macro_f1_and_worst_groups(rows: list[tuple[list[int], int, int]]) -> None:
    """F1 is over classes that have images, as scikit-learn's with labels=unique(y); a group is one that has images."""
    found = np.array([order[:5] for order, _, _ in rows])
    labels, groups = (np.array(column) for column in list(zip(*rows, strict=True))[1:])
    f1 = []
    for name in set(labels.tolist()):
        right = int(((found[:, 0] == name) & (labels == name)).sum())
        recall, taken = right / (labels == name).sum(), (found[:, 0] == name).sum()
        f1.append(2 * (right / taken) * recall / (right / taken + recall) if right else 0.0)
    figures, _ = scores.accuracies(found, labels, list("abcdefg"))
    assert figures["macro_f1"] == pytest.approx(np.mean(f1))
    worst = scores.worst_groups(found, labels, groups)
    for name, top in (("worst_group", 1), ("worst_group_top5", 5)):
        accuracy = [
            np.mean([labels[i] in found[i, :top] for i in np.flatnonzero(groups == group)])
            for group in set(groups)
        ]
        assert worst[name] == pytest.approx(min(accuracy))


@given(st.lists(st.integers(2, 12), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_jaccard_means(sizes: list[int], seed: int) -> None:
    """As many images are taken as are right; the index of each cue is that of the two sets."""
    draw = np.random.default_rng(seed)
    images, cues = draw.normal(size=(20, 4)), draw.normal(size=(len(sizes), 4))
    associations, expected = [], []
    for cue, size in zip(cues, sizes, strict=True):
        chosen = draw.choice(20, size, replace=False)
        right = draw.permutation(np.arange(size) < draw.integers(1, size + 1))
        associations.append(Association("", tuple(chosen.tolist()), tuple(right.tolist())))
        taken = set(np.argsort(-(images[chosen] @ cue))[: right.sum()].tolist())
        wanted = set(np.flatnonzero(right).tolist())
        expected.append((size, len(taken & wanted) / len(taken | wanted)))
    figures = scores.jaccard_means(torch.tensor(images), torch.tensor(cues), associations)
    for name, least, most in (("jaccard", 0, 99), ("jaccard_5-6", 0, 6), ("jaccard_10-12", 10, 99)):
        own = [value for size, value in expected if least <= size <= most]
        assert figures.get(name) == (pytest.approx(np.mean(own)) if own else None)


def test_the_prompt_of_a_cue() -> None:
    """In lower case, with the article of its first letter."""
    assert [prompts.cue_prompt(cue) for cue in ("Owl", "werewolf", "Ink")] == [
        "An owl",
        "A werewolf",
        "An ink",
    ]


# -- each metric on a set of its task, from features


def logits(clip: Any, numbers: Any, texts: list[list[str]]) -> np.ndarray:
    """Return the cosines of images and of the means of groups of texts."""
    from PIL import Image

    shown = torch.stack([clip.transform(Image.open(io.BytesIO(png(i)))) for i in numbers])
    unit = torch.nn.functional.normalize
    with torch.inference_mode():
        rows = [
            unit(unit(clip.model.encode_text(clip.tokenizer(own)), dim=-1).mean(0), dim=0)
            for own in texts
        ]
        made: np.ndarray = (unit(clip.model.encode_image(shown), dim=-1) @ torch.stack(rows).T).numpy()
    return made


def score_by_hand(clip: Any, key: str) -> float:
    """Compute the score of a task on the set of `write_evalset`, from the definition of its metric."""
    if key == "misc/winogavil":
        cues, values = ["An owl", "A red", "A night", "An ink", "A shape"], []
        for row, (cue, size) in enumerate(zip(cues, (5, 6, 10, 12, 10), strict=True)):
            near = logits(clip, [(7 * row + i) % 13 for i in range(size)], [[cue]])[:, 0]
            taken, wanted = set(np.argsort(-near)[: 2 + row].tolist()), set(range(2 + row))
            values.append(len(taken & wanted) / len(taken | wanted))
        return float(np.mean(values[2:]))
    if key.startswith("retrieval/"):
        texts = [[f"{CLASSES[i]} {n}"] for i in range(IMAGES) for n in range(1 + i % 3)]
        image_of = np.array([i for i in range(IMAGES) for _ in range(1 + i % 3)])
        near = logits(clip, range(IMAGES), texts)
        return float(
            np.mean(
                [(image_of[near.argmax(1)] == range(IMAGES)).mean(), (near.argmax(0) == image_of).mean()]
            )
        )
    near = logits(clip, range(IMAGES), [[f"a photo of a {c}.", f"the {c}"] for c in CLASSES[:6]])
    labels, groups = np.arange(IMAGES) ** 2 % 6, np.arange(IMAGES) % 3
    right = near.argmax(1) == labels
    top5 = (np.argsort(-near)[:, :5] == labels[:, None]).any(1)
    match TASKS[key].metric:
        case "acc1":
            return float(right.mean())
        case "mean_per_class_recall":
            return float(np.mean([right[labels == c].mean() for c in set(labels)]))
        case "F1-macro_all":
            taken = near.argmax(1)
            return float(
                np.mean(
                    [
                        2 * (right & (labels == c)).sum() / ((labels == c).sum() + (taken == c).sum())
                        for c in set(labels)
                    ]
                )
            )
        case "acc_top5_wg":
            return float(min(top5[groups == g].mean() for g in range(3)))
    return float(min(right[groups == g].mean() for g in range(3)))


@pytest.fixture(scope="module")
def evalsets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with small sets of all tasks, and the tasks with their sizes."""
    folder = tmp_path_factory.mktemp("evalsets")
    return folder, write_evalsets(folder, DATACOMP)


@pytest.fixture
def copy(evalsets: tuple[Path, Any], tmp_path: Path) -> tuple[Path, Any]:
    """A copy of the folder, to be damaged, and the tasks."""
    return Path(shutil.copytree(evalsets[0], tmp_path / "evalsets")), evalsets[1]


def test_all_tasks(evalsets: tuple[Path, Any], tmp_path: Path) -> None:
    """Each task has its metric's score, the averages are over 38, and the second time nothing is left to do."""
    clip, out, seen = make_clip(23), tmp_path / "r.jsonl", list[tuple[str, bool]]()
    folder, suite = evalsets

    def run() -> dict[str, Any]:
        return evaluate_suite(
            clip,
            suite,
            folder,
            out,
            options=CPU,
            report=lambda line, before: seen.append((line["task"], before)),
        )

    line = run()
    assert seen == [(key, False) for key in (*TASKS, "average")]
    assert (line["averaged"], line["of"], line["missing"]) == (38, 38, {})
    scored = {key: row["score"] for key, row in line["scores"].items()}
    by_hand = {
        metric: score_by_hand(clip, next(key for key in TASKS if TASKS[key].metric == metric))
        for metric in FIGURES
    }
    assert scored == {
        key: pytest.approx(by_hand[task.metric]) for key, task in TASKS.items() if task.metric
    }
    assert len(set(scored.values())) > 6, "metrics that differ"
    own = [key for key in scored if TASKS[key].averaged]
    assert line["metrics"]["average"] == pytest.approx(statistics.fmean(scored[key] for key in own))
    above = [(scored[key] - TASKS[key].chance) / (1 - TASKS[key].chance) for key in own]
    assert line["metrics"]["average_above_chance"] == pytest.approx(statistics.fmean(above))
    assert list(line["metrics"]) == [
        "average",
        "average_above_chance",
        "vtab",
        "shifts",
        "retrieval",
        "head_minus_tail",
    ]
    assert read_results(out)[-1] == line
    assert len(read_results(out)) == 42
    seen.clear()
    assert run() == line
    assert seen == [(key, True) for key in (*TASKS, "average")]
    assert len(read_results(out)) == 42


def test_faces_by_attribute(evalsets: tuple[Path, Any]) -> None:
    """Age, gender and race are each told among their own classes by their own templates; the label is in the .npy."""
    opened = open_set(evalsets[0] / "wds_fairface_test", columns=TASKS["fairness/fairface"].columns)
    assert (opened.kind, opened.attributes, opened.labels) == (
        "attributes",
        ("age", "gender", "race"),
        (),
    )
    clip = make_clip(5)
    begin = {"age": "a person {} years old", "gender": "a photo of a {}", "race": "a {} person"}
    assert measure(clip, opened, opened.templates)["metrics"] == {
        f"accuracy_{name}": (logits(clip, range(IMAGES), [[begin[name].format(c)] for c in FACES[name]]).argmax(1)
                             == np.arange(IMAGES) % 2).mean()
        for name in begin
    }  # fmt: skip
    with pytest.raises(MetaclipError, match="no template begins with age:"):
        measure(clip, opened, ["a {c}"])


# -- missing, damaged and incomplete sets


def test_what_is_missing(copy: tuple[Path, Any], tmp_path: Path) -> None:
    """A set that is not there is missing; one that is damaged or incomplete is a loss too; the others are done."""
    folder, suite = copy
    shutil.rmtree(folder / "wds_mnist_test")
    (folder / "wds_cifar10_test" / "test" / "1.tar").unlink()
    tar = folder / "wds_vtab-dtd_test" / "test" / "0.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    (folder / "wds_stl10_test" / "test" / "nshards.txt").write_text("1")
    (folder / "wds_sun397_test" / "classnames.txt").write_text("Entry not found\n")
    (folder / "wds_food101_test" / "zeroshot_classification_templates.txt").unlink()
    (
        folder / "hf_cache" / "nlphuji___winogavil" / "TEST" / "1.1.0" / "d0c5" / "winogavil-test.arrow"
    ).write_bytes(b"x" * 900)
    lines: list[Any] = []
    with pytest.raises(LostInputs) as lost:
        evaluate_suite(
            make_clip(),
            suite,
            folder,
            tmp_path / "r.jsonl",
            options=CPU,
            report=lambda line, _: lines.append(line),
        )
    missing = lines[-1]["missing"]
    assert (lines[-1]["averaged"], len(lines), len(read_results(tmp_path / "r.jsonl"))) == (31, 35, 35)
    assert missing.pop("mnist") == "not in the folder"
    says = {
        "cifar10": "1.tar cannot be read", "vtab/dtd": "0.tar cannot be read",
        "stl10": "it has 4 images and 6 classes, the published set 9 and 6; fetch it again",
        "sun397": "its .cls is", "food101": "it has no zeroshot_classification_templates.txt",
        "misc/winogavil": "winogavil-test.arrow cannot be read",
    }  # fmt: skip
    assert missing.keys() == says.keys()
    assert all(says[key] in why for key, why in missing.items())
    assert str(lost.value).split("\n") == [
        "6 of 40 tasks cannot be done:", *(f"{key}: {why}" for key, why in missing.items() if key != "misc/winogavil"),
        f"misc/winogavil: {missing['misc/winogavil']}",
    ]  # fmt: skip
    assert not {"vtab", "retrieval"} & lines[-1]["metrics"].keys(), (
        "a family has an average if it is complete"
    )
    assert {"shifts", "average", "head_minus_tail"} <= lines[-1]["metrics"].keys()


def test_averages_of_some() -> None:
    """An average is over the tasks with a score; one without the figure of its metric has none."""
    results = {
        "cifar10": {"metrics": {"accuracy": 0.55}},
        "misc/winogavil": {"metrics": {"jaccard": 0.9}},
    }
    line = summarise(DATACOMP, results, {})
    assert line["metrics"] == {"average": 0.55, "average_above_chance": pytest.approx(0.5)}
    assert (line["averaged"], list(line["scores"])) == (1, ["cifar10"])
    assert summarise(DATACOMP, {}, {})["metrics"] == {}


def write_kitti(folder: Path, images: int) -> None:
    """Write a set for the smallest task."""
    write_wds(
        folder / "wds_vtab-kitti_closest_vehicle_distance_test",
        [{"png": png(i % 40), "cls": str(i % 4)} for i in range(images)], ("a", "b", "c", "d"), ("{c}",),
    )  # fmt: skip


def test_the_command(tmp_path: Path) -> None:
    """A row for each task, the averages, and what is missing with its reason; exit code 3 for a set that is incomplete."""
    write_kitti(tmp_path, 711)
    arguments = ("evaluate", write_clip(tmp_path / "m"), "--suite", "datacomp", "--data", tmp_path, "--device", "cpu",
                 "--out", tmp_path / "r.jsonl")  # fmt: skip
    first = commands.done(*arguments)
    line, average = read_results(tmp_path / "r.jsonl")
    score, chance = 100 * line["metrics"]["accuracy"], 29.5289
    above = f"{100 * (score - chance) / (100 - chance):.2f}%"
    rows = first.out.splitlines()
    assert rows[0].split() == [
        "KITTI",
        "Vehicle",
        "Distance",
        "acc1",
        f"{score:.2f}%",
        "above",
        "chance",
        above,
    ]
    assert rows[2].split() == ["average", "of", "1", "of", "38", "tasks", f"{score:.2f}%"]
    assert "missing: 40 of 41" in rows
    absent = ", ".join(task.name for task in DATACOMP if task.name != "KITTI Vehicle Distance")
    assert f"  {absent}: not in the folder" in rows
    assert rows[-1] == f"results   {tmp_path / 'r.jsonl'}"
    write_evalset(tmp_path, TASKS["fairness/fairface"])
    again = commands.call(*arguments)
    assert again.code == 3
    assert "(done before)" in again.out
    why = f"it has {IMAGES} images and 0 classes, the published set 10,954 and 0; fetch it again, or evaluate it by itself with --data"
    assert f"  FairFace: {why}\n" in again.out
    assert again.err == f"metaclip: 1 of 2 tasks cannot be done:\nfairness/fairface: {why}\n"
    assert average["missing"]["fairness/fairface"] == "not in the folder"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--data", "SETS"],
            "SETS has no set of the suite (wds_cifar10_test and so on); fill it with DataComp's",
        ),
        ([], "--suite needs one --data, the folder of its sets"),
        (["--data", "SETS", "--data", "SETS"], "--suite needs one --data"),
        (["--data", "SETS", "--templates", "name"], "--suite needs one --data"),
    ],
)
def test_bad_arguments(arguments: list[str], says: str, tmp_path: Path) -> None:
    """What cannot be is one line."""
    given = [str(tmp_path) if a == "SETS" else a for a in arguments]
    said = commands.refused("evaluate", write_clip(tmp_path / "m"), "--suite", "datacomp", *given)
    assert says.replace("SETS", str(tmp_path)) in said


# -- numbers beside the labels


def one_set(path: Path, **over: Any) -> Path:
    sample = {"png": png(0), "cls": "0", "npy": npy([1, 2]), **over}
    return write_wds(path / "set", [sample, sample], ("a", "b"), ("{c}",))


NOT_NUMBERS = "a .npy is not an array of numbers in numpy's format 1.0"
NUMBERS: dict[str, tuple[Any, str]] = {
    "too few": (npy([1]), "its .npy has 1 numbers, must have 2: x, y"),
    "fractions": (npy([0.5, 1.0]), "a .npy holds fractions"),
    "infinity": (npy([np.inf, 1.0]), "a .npy holds fractions"),
    "objects": (npy(np.array([{}, 1], dtype=object)), NOT_NUMBERS),
    "a claim": (npy(np.zeros(3)).replace(b"(3,), }         ", b"(9999999999,), }"), "cannot have the shape [9999999999]"),
    "a header cut off": (npy([1, 2])[:60], NOT_NUMBERS),
    "many": (npy(np.zeros(65)), "a .npy holds 65 numbers, must hold at most 64"),
    "cut": (npy([1, 2])[:-3], "cannot have the shape [2]"),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMBERS)
def test_bad_numbers(case: str, tmp_path: Path) -> None:
    """One line; nothing is unpickled, and no memory is taken on a claim."""
    content, says = NUMBERS[case]
    with pytest.raises(MetaclipError) as error:
        open_set(one_set(tmp_path, npy=content), columns=("x", "y"))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_of_columns(tmp_path: Path) -> None:
    """The first numbers are those of the columns; whole numbers in any type are read."""
    opened = open_set(one_set(tmp_path, npy=npy(np.array([3, 4, 5], np.float32))), columns=("x", "y"))
    assert opened.numbers == {"x": (3, 3), "y": (4, 4)}
    assert open_set(tmp_path / "set").numbers == {}
    write_files(tmp_path / "plain", {"a/0.png": png(0), "b/0.png": png(1)})
    with pytest.raises(MetaclipError, match="take `columns` out of its task"):
        open_set(tmp_path / "plain", columns=("x",))
    with pytest.raises(BadSetting, match="group is 'z', must be one of columns: x"):
        Task("set", columns=("x",), group="z")


def test_numbers_that_webdataset_writes(tmp_path: Path) -> None:
    """Arrays by webdataset's own writer, as DataComp's sets are made, are read."""
    wds = pytest.importorskip("webdataset", reason="needs webdataset: pip install '.[train]'")
    one_set(tmp_path)
    with wds.TarWriter(os.fspath(tmp_path / "set" / "test" / "0.tar")) as sink:
        for i in range(3):
            sink.write({"__key__": f"s{i:07d}", "png": png(i), "cls": i % 2, "npy": np.array([i, 9])})
    assert open_set(tmp_path / "set", columns=("x", "y")).numbers == {
        "x": (0, 1, 2, 1),
        "y": (9, 9, 9, 2),
    }


def test_a_label_of_an_attribute_too_large(tmp_path: Path) -> None:
    """It is told with its image."""
    path = write_wds(
        tmp_path / "set", [{"png": png(0), "npy": npy([2])}] * 2, ("age:a", "age:b"), ("age:{c}",)
    )
    with pytest.raises(
        MetaclipError, match=r"s0000000\.png: the age in its \.npy is 2, must be below the 2 classes"
    ):
        open_set(path, columns=("age",))


# -- the cache of Hugging Face's library


def opened_cache(folder: Path) -> EvaluationSet:
    return hugging_face.open_cached(str(folder), hugging_face.find_files(str(folder), "test"))


def test_what_the_library_writes(tmp_path: Path) -> None:
    """Rows by the library itself, images within and as paths, are read back; the cache may have moved since."""
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install '.[dev]'")
    image = tmp_path / "old" / "hf_cache" / "downloads" / "extracted" / "e1" / "b.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(png(1))
    rows = [
        {"image": {"bytes": png(0), "path": "a.png"}, "caption": ["a", "b"]},
        {"image": str(image), "caption": ["c"]},
    ]
    features = datasets.Features({"image": datasets.Image(), "caption": [datasets.Value("string")]})
    made = datasets.Dataset.from_generator(
        lambda: iter(rows), features=features, cache_dir=str(tmp_path / "made"), split="test"
    )
    target = tmp_path / "old" / "hf_cache" / "nlphuji___x" / "TEST"
    target.mkdir(parents=True)
    shutil.copy(made.cache_files[0]["filename"], target / "x-test.arrow")
    os.rename(tmp_path / "old", tmp_path / "new")
    opened = opened_cache(tmp_path / "new" / "hf_cache" / "nlphuji___x")
    assert opened.texts == (("a", "b"), ("c",))
    assert [one.read() for one in opened.images] == [png(0), png(1)]
    (tmp_path / "new" / "hf_cache" / "downloads" / "extracted" / "e1" / "b.png").write_bytes(png(2))
    assert opened_cache(tmp_path / "new" / "hf_cache" / "nlphuji___x").digest != opened.digest


IMAGE = {"bytes": png(0), "path": None}
GAME = {
    "cue": ["x"],
    "candidates": [["a", "b"]],
    "associations": [["a"]],
    "candidate_images": [[IMAGE, IMAGE]],
}
CACHES: dict[str, tuple[dict[str, Any], str]] = {
    "a path outside": ({"image": [{"bytes": None, "path": "/etc/passwd"}], "caption": [["a"]]}, "is not below downloads"),
    "a path upwards": (
        {"image": [{"bytes": None, "path": "/x/downloads/../../secret.png"}], "caption": [["a"]]}, "is not below downloads",
    ),
    "a path to nothing": ({"image": [{"bytes": None, "path": "/x/downloads/0.png"}], "caption": [["a"]]}, "No such file"),
    "no captions": ({"image": [IMAGE], "caption": [[]]}, "is no list of texts"),
    "a caption alone": ({"image": [IMAGE], "caption": ["abc"]}, "'abc' is no list of texts"),
    "other columns": ({"a": [1]}, "does not exist"),
    "images of numbers": ({"caption": [["a"]], "image": pa.array([1])}, "a column of images is int64"),
    "candidates of numbers": ({**GAME, "candidate_images": pa.array([1])}, "must be lists of images"),
    "no rows": ({"image": [], "caption": []}, "hold neither captions alone nor associations alone"),
    "too few images": ({**GAME, "candidate_images": [[IMAGE]]}, "'x' has 1 images"),
    "nothing right": ({**GAME, "associations": [["c"]]}, "and the associations ('c',)"),
}  # fmt: skip


@pytest.mark.parametrize("case", CACHES)
def test_bad_caches(case: str, tmp_path: Path) -> None:
    """One line names the file."""
    columns, says = CACHES[case]
    write_arrow(tmp_path / "hf_cache" / "nlphuji___x" / "x-test.arrow", columns)
    with pytest.raises(MetaclipError) as error:
        opened_cache(tmp_path / "hf_cache" / "nlphuji___x")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_associations_over_files(tmp_path: Path) -> None:
    """Images are numbered through all files, and one that is a path is read once, whatever the number of its cues."""
    paths = [{"bytes": None, "path": f"/old/hf_cache/downloads/extracted/{i}.png"} for i in range(3)]
    write_files(tmp_path / "hf_cache" / "downloads" / "extracted", {f"{i}.png": png(i) for i in range(3)})
    for number, own in enumerate(([0, 1], [2, 1])):
        write_arrow(
            tmp_path / "hf_cache" / "x" / f"x-test-0000{number}-of-00002.arrow",
            {**GAME, "cue": [f"cue {number}"], "candidate_images": [[paths[i] for i in own]]},
        )
    opened = opened_cache(tmp_path / "hf_cache" / "x")
    assert opened.associations == (
        Association("cue 0", (0, 1), (True, False)), Association("cue 1", (2, 1), (True, False)),
    )  # fmt: skip
    assert [image.read() for image in opened.images] == [png(i) for i in range(3)]


def test_files_of_a_cache(tmp_path: Path) -> None:
    """Pieces belong together; a missing piece, a second copy and compressed files are refused; other splits are not read."""
    folder = tmp_path / "nlphuji___x"
    columns = {"image": [IMAGE, IMAGE], "caption": [["a"], ["b"]]}
    for number in range(2):
        write_arrow(folder / "v1" / f"x-test-0000{number}-of-00002.arrow", columns)
    write_arrow(folder / "v1" / "x-train.arrow", columns)
    write_arrow(folder / "v1" / "cache-5eed.arrow", columns)
    assert len(opened_cache(folder).images) == 4
    (folder / "v1" / "x-test-00001-of-00002.arrow").unlink()
    with pytest.raises(MetaclipError, match="has 1 of its 2 Arrow files; fetch it again"):
        opened_cache(folder)
    write_arrow(folder / "v2" / "x-test.arrow", columns)
    with pytest.raises(MetaclipError, match="holds several copies of its set; keep one of .*v1, .*v2"):
        opened_cache(folder)
    packed = {**columns, "image": [{"bytes": bytes(5000), "path": None}] * 2}
    write_arrow(
        tmp_path / "y" / "y-test.arrow", packed, options=pa.ipc.IpcWriteOptions(compression="zstd")
    )
    with pytest.raises(MetaclipError, match="it is compressed"):
        opened_cache(tmp_path / "y")
