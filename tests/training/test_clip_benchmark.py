"""The figures of CLIP_benchmark itself, on the same files, for the same model: CIFAR-10, MNIST, and captions."""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")

import torch

from metaclip.training.evaluate import EvaluateOptions, evaluate_suite, measure
from metaclip.training.evaluation.sets import open_set
from metaclip.training.evaluation.suites import SuiteTask, read_suite
from metaclip.training.models import import_torchvision
from tests.training.clips import make_clip
from tests.training.evalsets import write_wds
from tests.training.labelled import png, write_files
from tests.training.shards import Content, write_tar
from training.shapes import CLASSES

import_torchvision()  # where the wheel of torchvision does not fit that of torch, a plain import fails
builder: Any = pytest.importorskip(
    "clip_benchmark.datasets.builder", reason="needs clip-benchmark: pip install '.[dev]'"
)

pytestmark = [
    pytest.mark.extra,
    pytest.mark.filterwarnings("ignore"),
]  # it uses what its libraries have deprecated

torch.set_num_threads(1)  # the models are too small to share, and other tests run beside these

BATCH = 64
SETS = {"cifar10": ("cifar10_jpg.zip", "jpg"), "mnist": ("mnist_png.zip", "png")}
TASKS = {task.key: task for task in read_suite("datacomp")}


def write_from_zip(folder: Path, archive: Path, key: str, suffix: str, images: int | None) -> int:
    """Write the test images of a zip, their bytes as they are, with CLIP_benchmark's own names and templates."""
    own = Path(builder.__file__).parent
    templates = json.loads((own / "en_zeroshot_classification_templates.json").read_text())[key]
    with zipfile.ZipFile(archive) as opened:
        names = sorted(
            name for name in opened.namelist() if "/test/" in f"/{name}" and name.endswith(suffix)
        )
        names = names if images is None else names[:: len(names) // images][:images]
        labels = sorted({name.split("/")[-2] for name in names})
        known = json.loads((own / "en_classnames.json").read_text())
        samples: list[dict[str, Content]] = [
            {suffix: opened.read(name), "cls": str(labels.index(name.split("/")[-2]))} for name in names
        ]
    write_wds(folder, samples, known.get(key, labels), templates)
    return len(samples)


def of_clip_benchmark(clip: Any, key: str, folder: Path) -> dict[str, float]:
    """Measure as DataComp's `evaluate_webdataset` calls CLIP_benchmark."""
    from clip_benchmark.metrics import zeroshot_classification

    data = builder.build_dataset(
        dataset_name=f"wds/{key}",
        root=os.fspath(folder),
        transform=clip.transform,
        split="test",
        download=False,
    )
    loader = torch.utils.data.DataLoader(
        data.batched(BATCH), batch_size=None, shuffle=False, num_workers=0
    )
    with pytest.MonkeyPatch.context() as patch:
        # Its own ends with float(array of one), which numpy 2.4 refuses; this is the same sum.
        patch.setattr(zeroshot_classification, "accuracy", lambda logits, target, topk: [
            (logits.topk(max(topk), 1).indices[:, :k] == target[:, None]).sum().item() / len(target) for k in topk
        ])  # fmt: skip
        made: dict[str, float] = zeroshot_classification.evaluate(
            clip.model, loader, clip.tokenizer, data.classes, data.templates, "cpu", amp=False
        )
    return made


@pytest.mark.parametrize("key", SETS)
@pytest.mark.parametrize("images", [300, pytest.param(None, marks=pytest.mark.slow)])
def test_the_numbers_of_clip_benchmark(
    key: str, images: int | None, data_folder: Path, tmp_path: Path
) -> None:
    """Accuracy at one and five and the mean recall per class, and so the score of the task; all images are a slow test."""
    archive, suffix = SETS[key]
    folder = tmp_path / f"wds_{key}_test"
    number = write_from_zip(folder, data_folder / "images" / archive, key, suffix, images)
    assert number == (images or TASKS[key].images)
    clip = make_clip(3)
    wanted = of_clip_benchmark(clip, key, folder)
    suite = (SuiteTask(key, key, number, 10, "acc1", 0.1, True, "", (), ""),)
    lines: list[Any] = []
    evaluate_suite(
        clip, suite, tmp_path, tmp_path / "r.jsonl", options=EvaluateOptions("cpu", batch=BATCH),
        report=lambda line, _: lines.append(line),
    )  # fmt: skip
    figures = lines[0]["metrics"]
    assert (figures["accuracy"], figures["accuracy_top5"]) == (wanted["acc1"], wanted["acc5"])
    assert figures["mean_per_class"] == pytest.approx(wanted["mean_per_class_recall"], abs=1e-12)
    assert lines[1]["scores"][key]["score"] == wanted["acc1"]
    assert 0 < wanted["acc1"] < wanted["acc5"] < 1, "figures that tell something"


def test_the_recalls_of_clip_benchmark(tmp_path: Path) -> None:
    """Retrieval with one to three captions for each image, both ways, and their mean, which is DataComp's score."""
    from clip_benchmark.metrics import zeroshot_retrieval

    texts = [[f"{CLASSES[i % 8]} {i} {n}" for n in range(1 + i % 3)] for i in range(40)]
    members: list[tuple[str, Content]] = list(itertools.chain.from_iterable(
        ((f"s{i:07d}.png", png(i)), (f"s{i:07d}.txt", "\n".join(own))) for i, own in enumerate(texts)
    ))  # fmt: skip
    write_tar(tmp_path / "test" / "0.tar", members)
    write_files(tmp_path, {"test/nshards.txt": "1", "dataset_type.txt": "retrieval\n"})
    clip = make_clip(3)
    data = builder.build_dataset(
        dataset_name="wds/captions", root=os.fspath(tmp_path), transform=clip.transform, split="test", download=False,
        task="zeroshot_retrieval",
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(
        data.batched(BATCH, collation_fn=builder.image_captions_collate_fn),
        batch_size=None,
        num_workers=0,
    )
    wanted = zeroshot_retrieval.evaluate(
        clip.model, loader, clip.tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10]
    )
    figures = measure(clip, open_set(tmp_path), (), batch=BATCH)["metrics"]
    for k in (1, 5, 10):
        assert figures[f"image_to_text@{k}"] == pytest.approx(wanted[f"text_retrieval_recall@{k}"])
        assert figures[f"text_to_image@{k}"] == pytest.approx(wanted[f"image_retrieval_recall@{k}"])
    both = (wanted["text_retrieval_recall@1"] + wanted["image_retrieval_recall@1"]) / 2
    assert figures["mean@1"] == pytest.approx(both)
    assert both > 0, "a figure that tells something"
