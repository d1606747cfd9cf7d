"""Evaluate a model: zero-shot classification and retrieval on any sets, to a file of results, one line per task.

Law: a task is done when a line with its identity (model, data, prompts, precision) is in the results. So an evaluation that
was killed does only the rest, and after a change of any of them the task is done again and its old line is kept. A task that
cannot be done is reported in one line, and the others are done.

The figures are those of open_clip's trainer and of CLIP_benchmark (`metaclip.training.evaluation.scores`). A suite, as
DataComp's 38 tasks, adds a line with the averages of its results (`metaclip.training.evaluation.suites`).
Cost, CIFAR-10's 10,000 test images from their zip on a busy machine, the toy recipe's model: 2.5 ms of processor time per
image, two thirds of it for decoding and open_clip's transform, which `workers` share.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from metaclip import __version__, recipe
from metaclip.errors import BadSetting, LostInputs, MetaclipError
from metaclip.stage.stage import digest_of
from metaclip.training.evaluation import hugging_face, prompts, suites
from metaclip.training.evaluation.evaluation_set import EvaluationSet
from metaclip.training.evaluation.results import IDENTITY, append_result, read_results
from metaclip.training.evaluation.sets import open_set
from metaclip.training.evaluation.tar_sets import attribute_lines
from metaclip.training.models import Clip, Precision, import_open_clip, model_digest
from metaclip.training.ranks import loading_processes, open_device

SEMANTICS: Final = 1
"""Raised when the same model and data would have other figures."""
DEFAULT_TEMPLATES: Final = "photo"

Report = Callable[[Mapping[str, Any], bool], None]
"""Called with each result and whether it was in the file before."""
Check = Callable[[str, EvaluationSet], None]
"""Called with the name and the set of each task before it is done; raises MetaclipError to leave the task out."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A set to evaluate on; a table of a file of tasks."""

    data: str
    """A folder or a zip (`metaclip.training.evaluation.sets`), or a folder of Hugging Face's cache."""
    split: str = "test"
    classes: str | None = None
    """A file of class names, one a line, in the order of the set's classes; None: the set's own."""
    templates: str | None = None
    """"name", "photo", or a file of templates; None: the set's own, else "photo"."""
    columns: tuple[str, ...] = ()
    """Names of the numbers in the `.npy` of each image, in a set that has them."""
    group: str | None = None
    """One of the columns: images of one number are a group, and the worst accuracy of a group is measured."""
    partial: bool = False
    """Leave out the classes whose line in `classes` is empty, and their images, as Babel-ImageNet does."""

    def __post_init__(self) -> None:
        """Raise BadSetting for a group that is no column, and for `partial` without a file of class names."""
        if self.partial and self.classes is None:
            raise BadSetting("partial is given without classes; name a file of class names")
        if self.group is not None and self.group not in self.columns:
            raise BadSetting(
                f"group is {self.group!r}, must be one of columns: {', '.join(self.columns)}"
            )


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """How an evaluation is carried out; nothing here changes a result except for rounding."""

    device: str | None = None
    """None: a GPU if there is one."""
    batch: int = 256
    workers: int | None = None
    """Number of decoding processes; None: up to 8 beside a GPU if there are processors, else 0."""


def read_tasks(path: str | os.PathLike[str]) -> dict[str, Task]:
    """Read a file of tasks: TOML with one table per task, by its name; paths in it are relative to its folder.

    Raise MetaclipError for a file that cannot be read, for one without tasks, and for a key that nobody reads.
    """
    tables = recipe.read(path)
    if not tables:
        raise MetaclipError(
            f'{os.fspath(path)} has no tasks; each is a table: [cifar10] and below it data = "..."'
        )
    made = {}
    for name, table in tables.items():
        where = f"{os.fspath(path)}, [{name}]"
        if isinstance(table, dict) and "data" not in table:
            raise MetaclipError(f"{where}: it has no data; name a folder or a zip")
        task = recipe.settings(Task, table, where)
        paths = {"data": task.data, "classes": task.classes, "templates": task.templates}
        if task.templates in prompts.TEMPLATES:
            del paths["templates"]
        whole: dict[str, Any] = {
            key: recipe.path_in(path, value) for key, value in paths.items() if value is not None
        }
        made[name] = dataclasses.replace(task, **whole)
    return made


def tasks_of(paths: Sequence[str], split: str = "test", templates: str | None = None) -> dict[str, Task]:
    """Return one task for each path, by the name of its file. Raise MetaclipError for two of one name."""
    made: dict[str, Task] = {}
    for path in paths:
        name = Path(os.path.abspath(path)).name.removesuffix(".zip")
        if name in made:
            raise MetaclipError(
                f"{made[name].data} and {path} are both called {name}; give them names in a file, with `tasks=...`"
            )
        made[name] = Task(path, split, templates=templates)
    return made


def evaluate(
    clip: Clip,
    tasks: Mapping[str, Task],
    out: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    options: EvaluateOptions | None = None,
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """Do the tasks that have no result yet; return the results of all tasks, in order, as they are in the file `out`.

    Raise LostInputs, after the others are done, if some tasks cannot be done, and MetaclipError if none can.
    """
    results, reasons = _evaluate(clip, tasks, Path(out), precision, options or EvaluateOptions(), report)
    _raise_lost(reasons, len(tasks), bool(results))
    return list(results.values())


def evaluate_suite(
    clip: Clip,
    suite: Sequence[suites.SuiteTask],
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    options: EvaluateOptions | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Do those tasks of a suite whose sets are in a folder; return the line of its averages, as it is in the file `out`.

    A set that is not in the folder is missing. Raise LostInputs, after the averages are written, if a set that is there is
    damaged or incomplete, and MetaclipError if no task can be done.
    """
    found = {task.key: suites.find_folder(task, Path(folder)) for task in suite}
    known = {task.key: task for task in suite}
    tasks = {
        key: Task(os.fspath(path), columns=known[key].columns, group=known[key].group or None)
        for key, path in found.items()
        if path is not None
    }
    if not tasks:
        raise MetaclipError(
            f"{os.fspath(folder)} has no set of the suite (wds_cifar10_test and so on); fill it with DataComp's "
            "download_evalsets.py"
        )

    def check(key: str, opened: EvaluationSet) -> None:
        suites.check_set(known[key], opened)

    results, reasons = _evaluate(
        clip, tasks, Path(out), precision, options or EvaluateOptions(), report, check
    )
    if results:
        absent = {key: "not in the folder" for key, path in found.items() if path is None}
        summary = suites.summarise(suite, results, {**absent, **reasons})
        identity = digest_of([summary, {key: result[IDENTITY] for key, result in results.items()}])
        line = {"task": "average", "kind": "suite", **summary, "model": next(iter(results.values()))["model"],
                "precision": precision, IDENTITY: identity}  # fmt: skip
        before = identity in {one[IDENTITY] for one in read_results(Path(out))}
        if not before:
            append_result(Path(out), line)
        if report is not None:
            report(line, before)
    _raise_lost(reasons, len(tasks), bool(results))
    return line


def _raise_lost(reasons: Mapping[str, str], tasks: int, some: bool) -> None:
    """Raise LostInputs (MetaclipError if no task is done) if there are tasks that cannot be done, by name."""
    lines = [f"{name}: {why}" for name, why in reasons.items()]
    if lines and tasks > 1:
        lines.insert(0, f"{len(lines)} of {tasks} tasks cannot be done:")
    if lines:
        raise (LostInputs if some else MetaclipError)("\n".join(lines))


def _evaluate(
    clip: Clip,
    tasks: Mapping[str, Task],
    path: Path,
    precision: Precision,
    options: EvaluateOptions,
    report: Report | None,
    check: Check | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Do the tasks that have no result yet; return the results, and the reasons of the tasks that cannot be done, by name."""
    import_open_clip()
    import torch

    before = {one[IDENTITY]: one for one in read_results(path)}
    device = open_device(options.device)
    clip.model.to(device)
    model = model_digest(clip)
    peers = {peer: importlib.metadata.version(peer) for peer in ("open_clip_torch", "torch")}
    results: dict[str, dict[str, Any]] = {}
    reasons: dict[str, str] = {}
    for name, task in tasks.items():
        try:
            opened, templates = _open_task(task)
            if check is not None:
                check(name, opened)
            columns = {"columns": list(task.columns), "group": task.group} if task.columns else {}
            identity = digest_of({
                "semantics": SEMANTICS, "task": name, "kind": opened.kind, "model": model, "data": opened.digest,
                "classes": list(opened.classes), "templates": list(templates), "precision": precision, **columns,
            })  # fmt: skip
            begin = time.monotonic()
            result = before.get(identity) or measure(
                clip, opened, templates, task.group, device=device, precision=precision, batch=options.batch,
                workers=loading_processes(options.workers, device),
            )  # fmt: skip
        except torch.OutOfMemoryError:
            reasons[name] = (
                f"{device} has no memory for {options.batch} images at a time; give a smaller `batch=...`"
            )
            continue
        except MetaclipError as error:
            reasons[name] = str(error)
            continue
        if identity not in before:
            result = {
                "task": name,
                "kind": opened.kind,
                **result,
                "model": {"name": clip.name, "digest": model},
                "data": {
                    "path": task.data, "split": task.split, "digest": opened.digest, "images": len(opened.images),
                },
                "precision": precision,
                "device": options.device or device.type,
                "seconds": round(time.monotonic() - begin, 3),
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "versions": {"metaclip": __version__, **peers},
                IDENTITY: identity,
            }  # fmt: skip
            append_result(path, result)
        results[name] = result
        if report is not None:
            report(result, identity in before)
    return results, reasons


def measure(
    clip: Clip, opened: EvaluationSet, templates: Sequence[str], group: str | None = None, *,
    device: Any = "cpu", precision: Precision = "fp32", batch: int = 256, workers: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Return the figures of a model, which is on its device, on a set, and what they are based on."""
    import torch

    from metaclip.training.evaluation import features, scores

    device = torch.device(device)
    images = features.encode_images(
        clip, opened.images, device=device, precision=precision, batch=batch, workers=workers
    )
    if opened.kind == "classification":
        vectors = scores.classifier(clip, opened.classes, templates, device=device, precision=precision)
        found, labels = scores.nearest_classes(images, vectors), np.array(opened.labels, np.int64)
        figures, per_class = scores.accuracies(found, labels, opened.classes)
        if group is not None:
            figures |= scores.worst_groups(found, labels, np.array(opened.numbers[group], np.int64))
        counted = collections.Counter(opened.classes)
        return {
            "metrics": figures, "chance": 1 / len(opened.classes), "classes": len(opened.classes),
            "templates": list(templates), "per_class": per_class,
            "repeated_names": [name for name, times in counted.items() if times > 1],
        }  # fmt: skip
    every = torch.cat(list(images))
    if opened.kind == "attributes":
        figures = {}
        for name in opened.attributes:
            classes, own = attribute_lines(opened.classes, name), attribute_lines(templates, name)
            if not own:
                raise MetaclipError(f"no template begins with {name}: as its classes do; add one")
            vectors = scores.classifier(clip, classes, own, device=device, precision=precision)
            right = scores.nearest_classes([every], vectors)[:, 0] == np.array(opened.numbers[name])
            figures[f"accuracy_{name}"] = float(right.mean())
        return {"metrics": figures, "classes": len(opened.classes), "templates": list(templates)}
    texts = [text for own in opened.texts for text in own]
    texts += [prompts.cue_prompt(one.cue) for one in opened.associations]
    vectors = features.encode_texts(clip, texts, device=device, precision=precision, batch=batch)
    if opened.kind == "association":
        figures = scores.jaccard_means(every, vectors, opened.associations)
    else:
        image_of = torch.tensor([i for i, own in enumerate(opened.texts) for _ in own], device=device)
        figures = scores.recalls(every, vectors, image_of)
    return {"metrics": figures, "texts": len(texts)}


def _open_task(task: Task) -> tuple[EvaluationSet, tuple[str, ...]]:
    """Open the set of a task, and return it with the templates of its prompts."""
    names = () if task.classes is None else prompts.read_lines(task.classes, "class names", task.partial)
    cached = hugging_face.find_files(task.data, task.split)
    opened = (
        hugging_face.open_cached(task.data, cached)
        if cached
        else open_set(task.data, task.split, names, task.columns)
    )
    if opened.kind in ("retrieval", "association"):
        return opened, ()
    if task.partial:
        opened = opened.named_only()
    if task.templates is None and opened.templates:
        return opened, opened.templates
    return opened, prompts.templates_of(task.templates or DEFAULT_TEMPLATES)
