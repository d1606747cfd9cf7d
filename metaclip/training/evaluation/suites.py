"""Suites: sets with a name, a metric and a folder of their own each, and averages over them.

`datacomp.tsv` has the tasks of DataComp's evaluation (its tasklist.yml): 38, which its average is of, and FairFace and UTKFace,
to which it gives no score. "Let It Wag!" (arXiv 2404.04125: 290 rare concepts, 450 images each) stands beside them, as the
tail to ImageNet's head, and is in no average.

Law: a task counts only with the images and classes of the published set. Its score is DataComp's metric of it; the score above
chance is (score - chance) / (1 - chance). An average is over the tasks that have a score, and says how many have none; a
family (ImageNet's shifts, VTAB, retrieval) has an average only if it is complete.

`chance` is DataComp's `random_score`, except where that is none (Flickr, MSCOCO, Dollar Street, GeoDE: one right answer in so
many, or five) and for iWildCam, where DataComp's 0.143 is the accuracy of guessing by frequency and the metric is a macro F1,
for which this guess has 1 / 182.
FMoW's worst region is over all regions with images, as DataComp computes it; WILDS leaves out "other".
"""

from __future__ import annotations

import csv
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from metaclip.errors import MetaclipError
from metaclip.training.evaluation.evaluation_set import TEMPLATE_NAMES, EvaluationSet

CACHE: Final = "hf_cache"
FIGURES: Final = {
    "acc1": "accuracy", "mean_per_class_recall": "mean_per_class", "F1-macro_all": "macro_f1", "acc_wg": "worst_group",
    "acc_worst_region": "worst_group", "acc_top5_wg": "worst_group_top5", "mean_recall@1": "mean@1",
    "jaccard_score_10-12": "jaccard_10-12",
}  # fmt: skip
"""DataComp's names of metrics, and ours of the same figures."""
HEAD, TAIL = "imagenet1k", "let_it_wag"


@dataclasses.dataclass(frozen=True)
class SuiteTask:
    """A task of a suite; a line of its table."""

    key: str
    name: str
    images: int
    """Number of images, or of cues."""
    classes: int
    """0 for a set without a single list of classes."""
    metric: str
    """DataComp's name of the metric; "" for a task without a score."""
    chance: float
    averaged: bool
    family: str
    columns: tuple[str, ...]
    """Names of the numbers in its `.npy`, if they are needed."""
    group: str
    """The column by which images are grouped."""

    def score(self, metrics: Mapping[str, float]) -> float | None:
        """Return the score among the figures of a result, or None."""
        return metrics.get(FIGURES[self.metric]) if self.metric else None

    def above_chance(self, score: float) -> float:
        """Return (score - chance) / (1 - chance)."""
        return (score - self.chance) / (1 - self.chance)


def read_suite(name: str) -> tuple[SuiteTask, ...]:
    """Return the tasks of a suite of this folder, "datacomp", in order."""
    text = Path(__file__).with_name(f"{name}.tsv").read_text(encoding="utf-8")
    return tuple(
        SuiteTask(
            row["key"], row["name"], int(row["images"]), int(row["classes"]), row["metric"], float(row["chance"]),
            row["averaged"] == "yes", row["family"], tuple(filter(None, row["columns"].split(","))), row["group"],
        )
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
    )  # fmt: skip


def find_folder(task: SuiteTask, folder: Path) -> Path | None:
    """Return where `download_evalsets.py` puts the set of a task below a folder; None if it is not there."""
    kind, _, name = task.key.rpartition("/")
    short = name if kind == "fairness" else task.key.replace("/", "-")
    places = (folder / f"wds_{short}_test", folder / CACHE / f"nlphuji___{name}")
    return next((place for place in places if place.is_dir()), None)


def check_set(task: SuiteTask, opened: EvaluationSet) -> None:
    """Raise MetaclipError for a set that is not the published one: by its number of images or classes, or without templates."""
    images = len(opened.associations or opened.images)
    classes = len(opened.classes) if task.classes else 0
    if (images, classes) != (task.images, task.classes):
        what = "cues" if opened.associations else "images"
        raise MetaclipError(
            f"it has {images:,} {what} and {classes:,} classes, the published set {task.images:,} and {task.classes:,}; "
            "fetch it again, or evaluate it by itself with `data=...`"
        )
    if opened.classes and not opened.templates:
        raise MetaclipError(f"it has no {TEMPLATE_NAMES}; fetch it again")


def summarise(
    suite: Sequence[SuiteTask], results: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str]
) -> dict[str, Any]:
    """Return the scores of results, by key, and the averages over them; `missing` says why a task has no result."""
    known = {task.key: task for task in suite}
    given = {key: known[key].score(result["metrics"]) for key, result in results.items()}
    scores = {key: score for key, score in given.items() if score is not None}
    above = {key: known[key].above_chance(score) for key, score in scores.items()}
    done = [key for key in scores if known[key].averaged]
    metrics = {}
    if done:
        metrics["average"] = statistics.fmean(scores[key] for key in done)
        metrics["average_above_chance"] = statistics.fmean(above[key] for key in done)
    for family in dict.fromkeys(task.family for task in suite if task.family):
        own = [task.key for task in suite if task.family == family]
        if scores.keys() >= set(own):
            metrics[family] = statistics.fmean(scores[key] for key in own)
    if scores.keys() >= {HEAD, TAIL}:
        metrics["head_minus_tail"] = scores[HEAD] - scores[TAIL]
    rows = {
        key: {"name": known[key].name, "metric": known[key].metric, "score": score, "above_chance": above[key]}
        for key, score in scores.items()
    }  # fmt: skip
    return {
        "metrics": metrics, "averaged": len(done), "of": sum(task.averaged for task in suite),
        "missing": dict(missing), "scores": rows,
    }  # fmt: skip
