"""Babel-ImageNet: the labels of its authors become tasks on ImageNet, each on the classes that a language names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")

from click.testing import CliRunner

from metaclip.errors import MetaclipError
from metaclip.training.evaluate import _open_task, evaluate, read_tasks
from metaclip.training.evaluation.sets import open_set
from tests.training.clips import make_clip
from tests.training.labelled import write_benchmark
from training.babel_imagenet import LABELS, PROMPTS, command, labels_folder, write_tasks

pytestmark = pytest.mark.extra


def imagenet(folder: Path, labels: list[int]) -> Path:
    """Write a set of 1,000 classes with an image of each of some labels."""
    names = "".join(f"class {i}\n" for i in range(1_000))
    return write_benchmark(folder, list(enumerate(labels)), classnames_txt=names)


def write_labels(folder: Path, names: object, prompts: object) -> Path:
    """Write the two files of labels."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LABELS).write_text(json.dumps(names))
    (folder / PROMPTS).write_text(json.dumps(prompts))
    return folder


def test_a_task_has_the_classes_that_a_language_names(tmp_path: Path) -> None:
    """Images of other classes are left out, and labels count the classes that are left; the last class may be without a name."""
    labels = write_labels(
        tmp_path / "labels",
        {"DE": [[3, 998], [" Hai", "Klopapier"]], "FY": [[0], ["x"]]},
        {"DE": ["ein Foto von {}.", "{}"], "FY": ["{}"]},
    )
    data = imagenet(tmp_path / "imagenet", [998, 0, 3, 999, 998])
    assert write_tasks(str(data), tmp_path / "out", labels, ["DE"]) == {"de": 2}
    tasks = read_tasks(tmp_path / "out" / "tasks.toml")
    assert list(tasks) == ["babel_imagenet_de"]
    opened, templates = _open_task(tasks["babel_imagenet_de"])
    assert (opened.classes, opened.labels) == (("Hai", "Klopapier"), (1, 0, 1))
    assert templates == ("ein Foto von {}.", "{}")
    whole = open_set(data)
    assert opened.images == tuple(whole.images[row] for row in (0, 2, 4))
    assert opened.digest != whole.digest


def test_a_model_is_evaluated_on_the_labels_of_the_benchmark(tmp_path: Path) -> None:
    """The real labels and prompts: 93 languages by default; a result has the classes of its language."""
    if importlib.util.find_spec("clip_benchmark") is None:
        pytest.skip("needs clip-benchmark: pip install '.[dev]'")
    indices, names = json.loads((labels_folder() / LABELS).read_text())["OM"]
    data = imagenet(tmp_path / "imagenet", [*indices[:3], *(i for i in range(9) if i not in indices)])
    ran = CliRunner().invoke(command, [str(data), str(tmp_path / "out")], standalone_mode=False)
    assert ran.exception is None
    assert "93 languages, 18 to 1,000 classes; the class names are under BabelNet's" in ran.output
    task = read_tasks(tmp_path / "out" / "tasks.toml")["babel_imagenet_om"]
    (result,) = evaluate(make_clip(), {"babel_imagenet_om": task}, tmp_path / "results.jsonl")
    assert (result["classes"], result["data"]["images"]) == (18, 3)
    assert set(result["per_class"]) <= set(names)


@pytest.mark.parametrize(
    ("names", "prompts", "says"),
    [
        ({"DE": [[0], ["Hai"]]}, {"DE": ["{}"]}, "there are no labels in ja; languages: de"),
        ({"JA": [[0, 1], ["x"]]}, {"JA": ["{}"]}, "the labels in ja are damaged"),
        ({"JA": [[1000], ["x"]]}, {"JA": ["{}"]}, "the labels in ja are damaged (class 1000)"),
        ({"JA": [[-1], ["x"]]}, {"JA": ["{}"]}, "the labels in ja are damaged (class -1)"),
        ({"JA": [[0], [1]]}, {"JA": ["{}"]}, "the labels in ja are damaged"),
        ([], {"JA": ["{}"]}, "is no table of languages"),
    ],
)
def test_labels_that_are_damaged(names: object, prompts: object, says: str, tmp_path: Path) -> None:
    """One line, and no file of tasks."""
    labels = write_labels(tmp_path / "labels", names, prompts)
    with pytest.raises(MetaclipError) as error:
        write_tasks("imagenet", tmp_path / "out", labels, ["ja"])
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "tasks.toml").exists()


def test_partial_tasks_that_make_no_sense(tmp_path: Path) -> None:
    """A set without names, and names without an image, are refused by name."""
    data = imagenet(tmp_path / "imagenet", [5])
    tasks = tmp_path / "tasks.toml"
    tasks.write_text(f'[a]\ndata = "{data}"\npartial = true\n')
    with pytest.raises(MetaclipError, match=r"\[a\]: partial is given without classes"):
        read_tasks(tasks)
    (tmp_path / "names.txt").write_text("shark\n" + "\n" * 999)
    tasks.write_text(f'[a]\ndata = "{data}"\nclasses = "names.txt"\npartial = true\n')
    with pytest.raises(MetaclipError, match="no image has a class with a name"):
        evaluate(make_clip(), read_tasks(tasks), tmp_path / "results.jsonl")
    (tmp_path / "names.txt").write_text("shark\n\n")
    with pytest.raises(MetaclipError, match="2 class names for 1000 classes"):
        evaluate(make_clip(), read_tasks(tasks), tmp_path / "results.jsonl")
