"""Evaluate: open_clip's own numbers; a killed evaluation does only the rest; a changed model or set is not mixed up."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")

import numpy as np
import torch

from metaclip.errors import LostInputs, MetaclipError
from metaclip.training.evaluate import (
    EvaluateOptions,
    Task,
    evaluate,
    measure,
    read_tasks,
    tasks_of,
)
from metaclip.training.evaluation import prompts
from metaclip.training.evaluation.evaluation_set import ImageFile
from metaclip.training.evaluation.results import read_results
from metaclip.training.evaluation.sets import open_set
from metaclip.training.models import (
    check_description,
    import_open_clip,
    import_torchvision,
    known,
    load_tensors,
    model_digest,
    open_clip_of,
    open_model,
)  # fmt: skip
from metaclip.training.train import train
from metaclip.training.train_recipe import DataRecipe, TrainOptions, TrainRecipe
from tests import commands
from tests.training import tiny
from tests.training.clips import CONFIG, make_clip, write_clip
from tests.training.labelled import (
    caption_lines,
    class_files,
    labelled,
    png,
    write_benchmark,
    write_files,
    write_zip,
)
from training.shapes import CLASSES

pytestmark = [
    pytest.mark.extra,
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create"
    ),  # torch's advice on the number of workers
]

torch.set_num_threads(1)  # the models are too small to share, and other tests run beside these

ROOT = Path(__file__).parents[2]
CPU = EvaluateOptions("cpu", batch=16)
IMAGES = labelled(60, 8)
FILES = dict(class_files(IMAGES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set as a folder of classes."""
    return write_files(tmp_path_factory.mktemp("set") / "shapes", FILES)


def of_open_clip(clip: Any, folder: Path, templates: tuple[str, ...]) -> tuple[float, float]:
    """Measure as open_clip's trainer does: its classifier, its loop, torchvision's folder of images."""
    torchvision = import_torchvision()
    import open_clip
    from open_clip_train import zero_shot

    images = torchvision.datasets.ImageFolder(os.fspath(folder / "test"), clip.transform)
    names = [name.replace("_", " ") for name in images.classes]
    vectors = open_clip.build_zero_shot_classifier(
        clip.model, clip.tokenizer, names, [template.replace("{c}", "{}") for template in templates]
    )
    args = argparse.Namespace(device="cpu", precision="fp32", batch_size=7)
    with pytest.MonkeyPatch.context() as patch:
        # Its own ends with float(array of one), which numpy 2.4 refuses; this is the same sum.
        patch.setattr(zero_shot, "accuracy", lambda logits, target, topk: [
            (logits.topk(max(topk), 1).indices[:, :k] == target[:, None]).sum().item() for k in topk
        ])  # fmt: skip
        found: tuple[float, float] = zero_shot.run(
            clip.model, vectors, torch.utils.data.DataLoader(images, 7), args
        )
    return found


@pytest.mark.parametrize("templates", prompts.TEMPLATES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_numbers_of_open_clip(seed: int, templates: str, folder: Path) -> None:
    """Accuracy, at one and at five, is what open_clip's trainer gives for the same weights and images."""
    clip = make_clip(seed)
    figures = measure(clip, open_set(folder), prompts.TEMPLATES[templates], batch=16)["metrics"]
    assert (figures["accuracy"], figures["accuracy_top5"]) == of_open_clip(
        clip, folder, prompts.TEMPLATES[templates]
    )
    assert 0 < figures["accuracy_top5"] < 1, "figures that tell something"


def test_each_layout_has_the_same_figures(folder: Path, tmp_path: Path) -> None:
    """Folder, zip and tars; one image at a time, many, and in other processes."""
    clip, names = make_clip(), "".join(f"{name}\n" for name in CLASSES[:8])
    paths = [
        folder,
        write_zip(tmp_path / "s.zip", FILES),
        write_benchmark(tmp_path / "s", IMAGES, classnames_txt=names),
    ]
    found = [
        measure(clip, open_set(path), ("a {c}",), batch=batch, workers=workers)["metrics"]
        for path, batch, workers in zip(paths, (16, 1, 60), (0, 0, 2), strict=True)
    ]
    assert found[0] == found[1] == found[2]


def test_retrieval_over_several_texts(tmp_path: Path) -> None:
    """Recalls of images with one to three texts each, against the whole table of cosines."""
    texts = [
        [f"{CLASSES[label]} {n} {i}" for i in range(1 + n % 3)] for n, (_, label) in enumerate(IMAGES)
    ]
    names = [f"{number:05d}.png" for number, _ in IMAGES]
    files = {name: png(number) for name, (number, _) in zip(names, IMAGES, strict=True)}
    path = write_files(
        tmp_path, {**files, "metadata.jsonl": caption_lines(dict(zip(names, texts, strict=True)))}
    )
    clip = make_clip(3)
    made = measure(clip, open_set(path), (), batch=16)
    assert made["texts"] == sum(map(len, texts))
    flat, image_of = (
        [text for own in texts for text in own],
        np.repeat(np.arange(60), [len(own) for own in texts]),
    )
    from PIL import Image

    with torch.inference_mode():
        images = clip.model.encode_image(
            torch.stack([clip.transform(Image.open(path / name)) for name in names]), True
        )
        near = (images @ clip.model.encode_text(clip.tokenizer(flat), True).T).numpy()
    for k in (1, 5, 10):
        hits = [(image_of[np.argsort(-row, kind="stable")[:k]] == i).any() for i, row in enumerate(near)]
        assert made["metrics"][f"image_to_text@{k}"] == pytest.approx(np.mean(hits))
        hits = [image_of[j] in np.argsort(-row, kind="stable")[:k] for j, row in enumerate(near.T)]
        assert made["metrics"][f"text_to_image@{k}"] == pytest.approx(np.mean(hits))


def test_a_result_says_what_it_is_of(folder: Path, tmp_path: Path) -> None:
    """A line has figures, chance, classes, prompts, model, data, precision and versions."""
    (made,) = evaluate(
        make_clip(), tasks_of([str(folder)], templates="name"), tmp_path / "r.jsonl", options=CPU
    )
    assert read_results(tmp_path / "r.jsonl") == [made]
    assert (made["task"], made["kind"], made["chance"], made["templates"]) == (
        "shapes",
        "classification",
        1 / 8,
        ["{c}"],
    )
    assert set(made["metrics"]) == {"accuracy", "accuracy_top5", "mean_per_class", "macro_f1"}
    assert list(made["per_class"]) == sorted(CLASSES[:8])
    assert made["data"] == {
        "path": str(folder),
        "split": "test",
        "digest": open_set(folder).digest,
        "images": 60,
    }
    assert made["model"] == {"name": "small", "digest": model_digest(make_clip())}
    assert {"metaclip", "open_clip_torch", "torch"} == made["versions"].keys()


def test_what_is_done_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    """The same model and set: the old line. Other weights, activation, set, prompts or precision: a line of their own."""
    out, seen = tmp_path / "r.jsonl", list[bool]()

    def run(clip: Any = None, task: Task | None = None, **more: Any) -> None:
        evaluate(
            clip or make_clip(), {"shapes": task or Task(str(folder), templates="name")}, out, options=CPU,
            report=lambda _, before: seen.append(before), **more,
        )  # fmt: skip

    run()
    run()
    run(make_clip(1))
    run(make_clip(quick_gelu=False))
    run(task=Task(str(folder)))
    run(task=Task(str(write_zip(tmp_path / "s.zip", dict(list(FILES.items())[:50]))), templates="name"))
    run(precision="bf16")
    run(make_clip(1))
    assert seen == [False, True, False, False, False, False, False, True]
    assert len({line["identity"] for line in read_results(out)}) == len(read_results(out)) == 6


def test_a_task_that_cannot_be_done(folder: Path, tmp_path: Path) -> None:
    """The others are done; what is wrong is told at the end, by task; where nothing can be done, that is a failure."""
    broken = write_zip(tmp_path / "b.zip", {**FILES, sorted(FILES)[20]: png(0)[:200]})
    tasks = {"broken": Task(str(broken)), "good": Task(str(folder)), "absent": Task(str(tmp_path / "no"))}
    with pytest.raises(LostInputs) as lost:
        evaluate(make_clip(), tasks, tmp_path / "r.jsonl", options=CPU)
    lines = str(lost.value).split("\n")
    assert lines[0] == "2 of 3 tasks cannot be done:"
    assert lines[1].startswith(f"broken: the image {broken}, {sorted(FILES)[20]} cannot be decoded (")
    assert " at 0x" not in lines[1]
    assert lines[2].startswith("absent: there is no evaluation set")
    assert [line["task"] for line in read_results(tmp_path / "r.jsonl")] == ["good"]
    with pytest.raises(MetaclipError, match=r"^broken: the image .* cannot be decoded") as failed:
        evaluate(
            make_clip(),
            {"broken": Task(str(broken))},
            tmp_path / "r.jsonl",
            options=EvaluateOptions("cpu", 16, 1),
        )
    assert not isinstance(failed.value, LostInputs)
    assert "\n" not in str(failed.value)


MODES = [
    ("CMYK", "JPEG"),
    ("I;16", "PNG"),
    ("P", "PNG"),
    ("1", "PNG"),
    ("LA", "PNG"),
    ("RGBA", "WEBP"),
    ("I;16", "TIFF"),
]


def test_images_of_any_mode(tmp_path: Path) -> None:
    """Pixels of any kind become RGB as training makes them: by Pillow's conversion."""
    import io

    from PIL import Image

    from metaclip.training.evaluation.features import encode_images

    files: dict[str, bytes] = {}
    for number, (mode, form) in enumerate(MODES):
        file, drawn = io.BytesIO(), Image.open(io.BytesIO(png(number)))
        image = drawn.convert("I").convert(mode) if mode == "I;16" else drawn.convert(mode)
        image.save(file, form)
        files[f"{number % 2}/{number}.{form.lower()}"] = file.getvalue()
    opened, clip = open_set(write_files(tmp_path / "set", files)), make_clip()
    found = torch.cat(
        list(
            encode_images(
                clip, opened.images, device=torch.device("cpu"), precision="fp32", batch=4, workers=0
            )
        )
    )
    pixels = [
        clip.transform(Image.open(io.BytesIO(image.read())).convert("RGB")) for image in opened.images
    ]
    with torch.inference_mode():
        assert torch.allclose(
            found, clip.model.encode_image(torch.stack(pixels), normalize=True), atol=1e-6
        )
    assert len(found) == len(MODES)


class Fatal(ImageFile):
    """An image that kills the process which reads it, as a lack of memory does."""

    def read(self) -> bytes:
        """Die."""
        os.kill(os.getpid(), signal.SIGKILL)
        return b""


def test_a_process_that_dies(folder: Path) -> None:
    """Where a process that decodes is killed, one line says so."""
    opened = open_set(folder)
    fatal = dataclasses.replace(opened, images=tuple(Fatal(*image) for image in opened.images))
    with pytest.raises(MetaclipError, match=r"^a decoding process died .*fewer `workers=") as error:
        measure(make_clip(), fatal, ("{c}",), workers=1)
    assert "\n" not in str(error.value)


def test_a_file_of_tasks(folder: Path, tmp_path: Path) -> None:
    """A table a task; paths are below the file's folder."""
    write_files(tmp_path, {"names.txt": "\n".join("abcdefgh"), "own.txt": "see {c}"})
    (tmp_path / "t.toml").write_text(
        f'[one]\ndata = "{folder}"\ntemplates = "name"\n'
        '[two]\ndata = "sub/x.zip"\nsplit = "val"\nclasses = "names.txt"\ntemplates = "own.txt"\n'
        'columns = ["region", "year"]\ngroup = "region"\n'
    )
    assert read_tasks(tmp_path / "t.toml") == {
        "one": Task(str(folder), templates="name"),
        "two": Task(
            f"{tmp_path}/sub/x.zip",
            "val",
            f"{tmp_path}/names.txt",
            f"{tmp_path}/own.txt",
            ("region", "year"),
            "region",
        ),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no tasks; each is a table"),
        ("[a]\n", "[a]: it has no data"),
        ('[a]\ndata = "x"\nsplitt = "test"\n', "[a]: unknown key 'splitt' (did you mean 'split'?)"),
        ('[a]\ndata = "x"\ngroup = "y"\n', "[a]: group is 'y', must be one of columns"),
        ("[a]\ndata = 3\n", "[a], data is 3, must be str"),
        ('a = "x"\n', "[a] is 'x', must be a table"),
        ("[a\n", "cannot be read"),
    ],
)
def test_a_bad_file_of_tasks(text: str, says: str, tmp_path: Path) -> None:
    """One line with the file, the task and the key."""
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(MetaclipError) as error:
        read_tasks(tmp_path / "t.toml")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_two_sets_of_one_name() -> None:
    """A result is told by its task's name."""
    assert list(tasks_of(["a/cifar.zip", "b/mnist/"])) == ["cifar", "mnist"]
    with pytest.raises(MetaclipError, match="are both called cifar; give them names in a file"):
        tasks_of(["a/cifar.zip", "b/cifar"])


# -- the command line


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """A model that open_clip opens, a set, a file of results; the second time nothing is left to do."""
    name, out = write_clip(tmp_path / "m"), tmp_path / "r.jsonl"
    first = commands.done(
        "evaluate", name, "--data", folder, "--out", out, "--device", "cpu", "--templates", "name"
    )
    (line,) = read_results(out)
    assert line["metrics"] == measure(make_clip(), open_set(folder), ("{c}",))["metrics"]
    assert "shapes: 60 images, 8 classes, 1 templates; chance 12.50%\n" in first.out
    assert f"  accuracy          {100 * line['metrics']['accuracy']:>8.2f}%\n" in first.out
    again = commands.done(
        "evaluate", name, "--data", folder, "--out", out, "--device", "cpu", "--templates", "name"
    )
    assert "(done before)" in again.out
    assert read_results(out) == [line]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small_vit.json").write_text(json.dumps(CONFIG))
    recipe = TrainRecipe(
        model=os.fspath(folder / "small_vit.json"), samples=64, batch=32, warmup=1, precision="fp32",
        data=DataRecipe(tars=tiny.write_pairs(folder / "pairs", 64)),
    )  # fmt: skip
    return train(recipe, folder / "run", options=TrainOptions(device="cpu")).path


def test_results_of_a_run_stand_in_its_folder(trained: Path, folder: Path) -> None:
    """Without --out they do; the weights of a checkpoint are those of the run that ended with it."""
    arguments = ("evaluate", trained, "--data", folder, "--device", "cpu")
    first = commands.done(*arguments)
    assert len(read_results(trained / "results.jsonl")) == 1
    assert f"\nresults   {trained / 'results.jsonl'}\n" in first.out
    assert "(done before)" in commands.done(*arguments).out
    commands.done(*arguments, "--checkpoint", next((trained / "checkpoints").glob("*.pt")))
    assert len(read_results(trained / "results.jsonl")) == 1, "the last checkpoint is the same model"


@pytest.mark.slow
def test_the_toy_recipe_rises_over_chance(tmp_path: Path) -> None:
    """Draw shapes, train on toy.toml, evaluate, and be far above one in 48."""
    made = subprocess.run(
        [sys.executable, "-m", "training.shapes", "shapes"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout == "6,000 pairs in shapes/pairs, 2,400 labelled images in shapes/held_out\n"
    shapes, run = tmp_path / "shapes", tmp_path / "run"
    commands.done(
        "train",
        ROOT / "training" / "toy.toml",
        "--tars",
        shapes / "pairs",
        "--out",
        run,
        "--device",
        "cpu",
    )
    commands.done("evaluate", run, "--data", shapes / "held_out", "--device", "cpu")
    (line,) = read_results(run / "results.jsonl")
    assert line["metrics"]["accuracy"] > max(0.3, 10 * line["chance"])


def test_classes_of_one_name(tmp_path: Path) -> None:
    """open_clip's names of ImageNet's classes have two twice: the set is evaluated, and the names are pointed out."""
    names = {
        "a/0.png": png(0),
        "b/0.png": png(1),
        "c/0.png": png(2),
        "classnames.txt": "missile\ncat\nmissile\n",
    }
    folder = write_files(tmp_path / "set", names)
    arguments = (
        write_clip(tmp_path / "m"),
        "--data",
        folder,
        "--out",
        tmp_path / "r.jsonl",
        "--device",
        "cpu",
    )
    said = commands.done("evaluate", *arguments).out
    assert "several classes have the same name, and a prompt cannot tell them apart: 'missile'" in said
    (line,) = read_results(tmp_path / "r.jsonl")
    assert line["repeated_names"] == ["missile"]
    assert set(line["per_class"]) == {"missile (class 0)", "cat", "missile (class 2)"}


def test_tasks_by_command(folder: Path, tmp_path: Path) -> None:
    """A task that cannot be done leaves exit code 3 and the others' results."""
    (tmp_path / "t.toml").write_text(f'[good]\ndata = "{folder}"\n[bad]\ndata = "no"\n')
    done = commands.call(
        "evaluate",
        write_clip(tmp_path / "m"),
        "--tasks",
        tmp_path / "t.toml",
        "--out",
        tmp_path / "r.jsonl",
    )
    assert done.code == 3
    assert done.err.startswith("metaclip: 1 of 2 tasks cannot be done:\nbad: there is no evaluation set")
    assert [line["task"] for line in read_results(tmp_path / "r.jsonl")] == ["good"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ViT-B-33"], "open_clip knows no model 'ViT-B-33'"),
        (["runs/no"], "there is no run runs/no; give the folder that metaclip train wrote"),
        (
            ["ViT-B-32-quickgelu"],
            "ViT-B-32-quickgelu has no weights yet; name a file or a tag of them with --pretrained: ",
        ),
        (["ViT-B-32-quickgelu", "--pretrained", "no.pt"], "ViT-B-32-quickgelu with the weights no.pt: "),
        (
            ["ViT-B-32", "--checkpoint", "x.pt"],
            "there is no run ViT-B-32; for a model of open_clip name its weights",
        ),
        (["local-dir:nowhere"], "local-dir:nowhere with the weights of its folder: "),
        (["MODEL", "--data", "no"], "no: there is no evaluation set no; check the path"),
        (["MODEL"], "nothing to evaluate on; name sets with --data or --tasks"),
        (["MODEL", "--data", "x", "--tasks", "t.toml"], "--data and --tasks are both given"),
        (["MODEL", "--tasks", "no.toml"], "there is no recipe no.toml; check the path"),
        (
            ["MODEL", "--data", "SET", "--templates", "phot"],
            "set: templates is 'phot', which is no file and none of ours",
        ),
        (["MODEL", "--data", "SET", "--device", "cuda:99"], "the device cuda:99 cannot be used ("),
        (["MODEL", "--data", "SET", "--out", "SET"], "cannot be read"),
        (["MODEL", "--data", "SET", "--out", "file.csv"], "file.csv, line 1: it is no result"),
    ],
)
def test_bad_arguments(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be is one line."""
    monkeypatch.chdir(tmp_path)
    write_files(Path("set"), FILES)
    Path("file.csv").write_text("a,b\n")
    model = write_clip(Path("m"))
    assert says in commands.refused(
        "evaluate", *[{"MODEL": model, "SET": "set"}.get(a, a) for a in arguments]
    )


def test_weights_of_another_model(tmp_path: Path) -> None:
    """They are refused in one line that names what differs."""
    write_clip(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {**CONFIG, "embed_dim": 48}, "preprocess_cfg": {}})
    )
    with pytest.raises(MetaclipError, match="size mismatch") as error:
        open_model(f"local-dir:{tmp_path}")
    assert "\n" not in str(error.value)


def test_weights_that_would_run(tmp_path: Path) -> None:
    """A checkpoint that is more than tensors is refused, and does not run."""

    class Harm:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (os.fspath(tmp_path / "ran"),)

    write_clip(tmp_path / "m")
    torch.save({"state_dict": Harm()}, tmp_path / "m" / "open_clip_pytorch_model.bin")
    with pytest.raises(MetaclipError, match="local-dir:.*it holds other objects than tensors") as error:
        open_model(f"local-dir:{tmp_path / 'm'}")
    assert "weights_only" not in str(error.value)
    torch.save({"state_dict": Harm()}, tmp_path / "m" / "some.pt")
    with pytest.raises(MetaclipError, match="some.pt cannot be read as a checkpoint") as error:
        load_tensors(tmp_path / "m" / "some.pt")
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_bytes_that_are_no_checkpoint(tmp_path: Path) -> None:
    """Whatever torch raises for the instructions of a damaged pickle is an error of one line."""
    path = tmp_path / "c.pt"
    for instruction in range(256):
        path.write_bytes(bytes([0x80, 2, instruction, ord(".")]))
        with pytest.raises(MetaclipError, match=r"c\.pt cannot be read as a checkpoint"):
            load_tensors(path)


HARMFUL: dict[str, tuple[dict[str, Any], str]] = {
    "tokenizer": ({"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}, "tokenizer_kwargs has a key 'trust_remote_code'"),
    "text": ({"text_cfg": {"trust_remote_code": True}}, "text_cfg has a key 'trust_remote_code'"),
    "vision": ({"vision_cfg": {"timm_kwargs": {}}}, "vision_cfg has a key 'timm_kwargs'"),
    "top": ({"auto_map": {}}, "the description has a key 'auto_map'"),
    "no table": ({"text_cfg": [1]}, r"text_cfg is \[1\], must be a table"),
}  # fmt: skip


@pytest.mark.parametrize("case", HARMFUL)
def test_descriptions_that_would_run(case: str, tmp_path: Path) -> None:
    """A model's description cannot make a library run code: unknown keys are refused, wherever it is read."""
    change, says = HARMFUL[case]
    over = {
        key: {**CONFIG.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in change.items()
    }
    config = {**CONFIG, **over}
    with pytest.raises(MetaclipError, match=says):
        known(os.fspath(write_files(tmp_path, {f"{case}.json": json.dumps(config)}) / f"{case}.json"))
    write_clip(tmp_path / "m")
    (tmp_path / "m" / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    with pytest.raises(MetaclipError, match=says):
        open_model(f"local-dir:{tmp_path / 'm'}")
    described = {"model_cfg": config, "preprocess_cfg": {}, "model": "m"}
    (tmp_path / "m" / "open_clip_config.json").write_text(json.dumps(described))
    (tmp_path / "m" / "model.pth").write_bytes(b"")
    with pytest.raises(MetaclipError, match=says):
        open_clip_of(tmp_path / "m")


def test_all_models_of_open_clip_have_known_keys() -> None:
    """The check of descriptions refuses none that open_clip ships, except for those with a decoder."""
    open_clip = import_open_clip()
    refused = set()
    for name in open_clip.list_models():
        try:
            check_description(open_clip.get_model_config(name), name)
        except MetaclipError:
            refused.add(name)
    assert all(name.startswith("coca") for name in refused)


def test_killed_in_the_middle(folder: Path, tmp_path: Path) -> None:
    """After SIGKILL between tasks and inside one, the same command does only what is left, to the same figures."""
    out, tasks, model = tmp_path / "r.jsonl", tmp_path / "t.toml", write_clip(tmp_path / "m")
    large = write_zip(tmp_path / "large.zip", {f"test/{n % 4}/{n}.png": png(n % 50) for n in range(400)})
    tasks.write_text("".join(f'[t{i}]\ndata = "{large if i == 2 else folder}"\n' for i in range(4)))
    command = ["evaluate", model, "--tasks", tasks, "--device", "cpu", "--batch", "16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "metaclip", *map(os.fspath, command), "--out", out],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        until = time.monotonic() + 500
        while len(read_results(out)) < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    before = read_results(out)
    assert [line["task"] for line in before] == ["t0", "t1"], "it was killed while it did the third"
    done = commands.done(*command, "--out", out)
    assert done.out.count("(done before)") == 2
    after = read_results(out)
    assert after[:2] == before
    assert [line["task"] for line in after] == ["t0", "t1", "t2", "t3"]
    assert after[0]["metrics"] == after[3]["metrics"]
