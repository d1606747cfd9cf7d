"""Evaluate a model: zero-shot classification and retrieval on any sets, to a file of results, one line a task.

Law: a task is done when a line of its identity (model, data, prompts, precision) stands in the results; so an evaluation
that was killed does only the rest, and after a change of any of them the task is done again beside the old line. A task
that cannot be done is told in one line and the others go on.

The figures are those of open_clip's trainer and of CLIP_benchmark (`metaclip.training.evaluation.zero_shot`,
`retrieval`).
Cost, CIFAR-10's 10,000 test images from their zip on a busy machine, the toy recipe's model: 2.5 ms of processor an image,
two thirds of it decoding and open_clip's transform, which `workers` share.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from metaclip import recipe
from metaclip._version import __version__
from metaclip.errors import LostInputs, MetaclipError, one_line
from metaclip.stage.stage import digest_of
from metaclip.training.evaluation import prompts, retrieval, zero_shot
from metaclip.training.evaluation.features import Precision, encode_images, encode_texts
from metaclip.training.evaluation.opening import model_digest
from metaclip.training.evaluation.results import IDENTITY, append_result, read_results
from metaclip.training.evaluation.sets import EvaluationSet, open_set
from metaclip.training.models import Clip, import_open_clip

SEMANTICS: Final = 1
"""Of the figures: raised when the same model and data would give others."""
DEFAULT_TEMPLATES: Final = "photo"
HELD_OUT: Final = 2_400
"""Images that a run on rendered shapes is evaluated on: 50 a class."""

Report = Callable[[Mapping[str, Any], bool], None]
"""Called with each result and whether it stood in the file before."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A set to evaluate on; a table of a file of tasks."""

    data: str
    """A folder or a zip (`metaclip.training.evaluation.sets`)."""
    split: str = "test"
    classes: str | None = None
    """A file of class names, one a line, in the order of the set's classes; None: the set's own."""
    templates: str | None = None
    """"name", "photo", or a file of templates; None: the set's own, else "photo"."""


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """How an evaluation is carried out; nothing here changes a result but for rounding."""

    device: str | None = None
    """None: a GPU where there is one."""
    batch: int = 256
    workers: int | None = None
    """Processes that decode; None: 8 beside a GPU, as far as there are processors, else none."""

    def settled_device(self) -> str:
        """Give the device. Raise MetaclipError for one that is not there."""
        import torch

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.zeros(1, device=device)
        except Exception as error:  # what it is depends on the kind of device
            raise MetaclipError(
                f"the device {device} cannot be used ({one_line(error)}); give another --device"
            ) from None
        return device

    def settled_workers(self, device: str) -> int:
        """Give the number of workers."""
        default = min(8, os.cpu_count() or 1) if device.startswith("cuda") else 0
        return default if self.workers is None else self.workers


def read_tasks(path: str | os.PathLike[str]) -> dict[str, Task]:
    """Read a file of tasks: TOML with a table a task, by its name; paths in it are relative to its folder.

    Raise MetaclipError for a file that cannot be read, for one without tasks, and for a key that nobody reads.
    """
    tables = recipe.read(path)
    if not tables:
        raise MetaclipError(f'{os.fspath(path)} has no tasks; each is a table: [cifar10] and below it data = "..."')
    folder = Path(path).parent
    made = {}
    for name, table in tables.items():
        where = f"{os.fspath(path)}, [{name}]"
        if isinstance(table, dict) and "data" not in table:
            raise MetaclipError(f"{where}: it has no data; name a folder or a zip")
        task = recipe.settings(Task, table, where)
        made[name] = dataclasses.replace(
            task,
            data=os.fspath(folder / task.data),
            classes=None if task.classes is None else os.fspath(folder / task.classes),
            templates=task.templates
            if task.templates in (None, *prompts.TEMPLATES)
            else os.fspath(folder / str(task.templates)),
        )
    return made


def tasks_of(paths: Sequence[str], split: str = "test", templates: str | None = None) -> dict[str, Task]:
    """Make each path a task of its file's name. Raise MetaclipError for two of one name."""
    made: dict[str, Task] = {}
    for path in paths:
        name = Path(os.path.abspath(path)).name.removesuffix(".zip")
        if name in made:
            raise MetaclipError(
                f"{made[name].data} and {path} are both called {name}; give them names in a file, with --tasks"
            )
        made[name] = Task(path, split, templates=templates)
    return made


def held_out_tasks(run: str | os.PathLike[str]) -> dict[str, Task]:
    """Give the task that comes with a run's own data: images of the same classes rendered from another seed.

    They are made in the run's folder. Raise MetaclipError for a run on other data, which says nothing about a test.
    """
    from metaclip.training import shapes
    from metaclip.training.train_recipe import read_recipe

    path = Path(run) / "recipe.toml"
    made = read_recipe(path) if path.exists() else None
    if made is None or made.data.shapes is None:
        raise MetaclipError(
            f"{run} was not trained on rendered shapes and has no set of its own; name sets with --data or --tasks"
        )
    return {"shapes": Task(os.fspath(shapes.write_classes(Path(run) / "held_out", HELD_OUT)))}


def evaluate(
    clip: Clip,
    tasks: Mapping[str, Task],
    out: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    options: EvaluateOptions | None = None,
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """Do the tasks that have no result yet; give the results of all, in order, as they stand in the file `out`.

    Raise LostInputs after the rest where some tasks cannot be done, MetaclipError where none can.
    """
    import_open_clip()
    path, options = Path(out), options or EvaluateOptions()
    before = {one[IDENTITY]: one for one in read_results(path)}
    device = options.settled_device()
    clip.model.to(device)
    model = model_digest(clip)
    results, wrong = [], []
    for name, task in tasks.items():
        try:
            asked = _ask(name, task, model, precision)
            found = before.get(asked.identity)
            made = found or _result(clip, asked, device, options)
        except MetaclipError as error:
            wrong.append(f"{name}: {error}")
            continue
        if found is None:
            append_result(path, made)
        results.append(made)
        if report is not None:
            report(made, found is not None)
    if wrong:
        raise (LostInputs if results else MetaclipError)(_told(wrong, len(tasks)))
    return results


def measure(
    clip: Clip, opened: EvaluationSet, templates: Sequence[str], *,
    device: str = "cpu", precision: Precision = "fp32", batch: int = 256, workers: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure a model, which is on its device, on a set: its figures, and what they are of."""
    import torch

    features = encode_images(clip, opened.images, device=device, precision=precision, batch=batch, workers=workers)
    if opened.kind == "classification":
        vectors = zero_shot.classifier(clip, opened.classes, templates, device=device, precision=precision)
        found = zero_shot.ranked(features, vectors)
        figures, per_class = zero_shot.scores(found, np.array(opened.labels, np.int64), opened.classes)
        return {
            "metrics": figures, "chance": 1 / len(opened.classes), "classes": len(opened.classes),
            "templates": list(templates), "per_class": per_class,
        }  # fmt: skip
    texts = [text for own in opened.texts for text in own]
    image_of = torch.tensor([i for i, own in enumerate(opened.texts) for _ in own], device=device)
    vectors = encode_texts(clip, texts, device=device, precision=precision, batch=batch)
    images = torch.cat([part for _, part in features])
    return {"metrics": retrieval.recalls(images, vectors, image_of), "texts": len(texts)}


class _Asked(NamedTuple):
    """A task with all that determines its result."""

    name: str
    task: Task
    opened: EvaluationSet
    templates: tuple[str, ...]
    model: str
    precision: Precision

    @property
    def identity(self) -> str:
        return digest_of({
            "semantics": SEMANTICS, "task": self.name, "kind": self.opened.kind, "model": self.model,
            "data": self.opened.digest, "classes": list(self.opened.classes), "templates": list(self.templates),
            "precision": self.precision,
        })  # fmt: skip


def _ask(name: str, task: Task, model: str, precision: Precision) -> _Asked:
    names = () if task.classes is None else prompts.lines_of(task.classes, "class names")
    opened = open_set(task.data, task.split, names)
    if opened.kind == "retrieval":
        templates: tuple[str, ...] = ()
    elif task.templates is None and opened.templates:
        templates = opened.templates
    else:
        templates = prompts.templates_of(task.templates or DEFAULT_TEMPLATES)
    return _Asked(name, task, opened, templates, model, precision)


def _result(clip: Clip, asked: _Asked, device: str, options: EvaluateOptions) -> dict[str, Any]:
    """Do a task."""
    import torch

    begin = time.monotonic()
    try:
        figures = measure(
            clip, asked.opened, asked.templates, device=device, precision=asked.precision, batch=options.batch,
            workers=options.settled_workers(device),
        )  # fmt: skip
    except torch.OutOfMemoryError:
        raise MetaclipError(
            f"{device} has no memory for {options.batch} images at a time; give a smaller --batch"
        ) from None
    peers = {peer: importlib.metadata.version(peer) for peer in ("open_clip_torch", "torch")}
    opened, path = asked.opened, asked.task.data
    return {
        "task": asked.name,
        "kind": opened.kind,
        **figures,
        "model": {"name": clip.name, "digest": asked.model},
        "data": {"path": path, "split": asked.task.split, "digest": opened.digest, "images": len(opened.images)},
        "precision": asked.precision,
        "device": device,
        "seconds": round(time.monotonic() - begin, 3),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"metaclip": __version__, **peers},
        IDENTITY: asked.identity,
    }


def _told(wrong: Sequence[str], tasks: int) -> str:
    return wrong[0] if tasks == 1 else "\n".join([f"{len(wrong)} of {tasks} tasks cannot be done:", *wrong])
