"""Scores of features: zero-shot classification, and retrieval.

Classification. Law: the classifier is open_clip's own (`open_clip.build_zero_shot_classifier`: for each class the mean of
the unit vectors of its prompts, normalised again), and the class of an image is the largest of 100 * image . class.

    accuracy             the share of images whose class is right (top 5 likewise, with five classes or more)
    mean_per_class       the mean over classes of the share of their images that is right
    macro_f1             the mean over classes of 2 right / (images + images taken for it)
    worst_group          the accuracy of the group of images where it is lowest (top 5 likewise)

as open_clip's trainer, CLIP_benchmark and DataComp define them; a class or group without images does not count.

Retrieval. Law: image to text recall at k is the share of images with any of their own texts among the k nearest texts; text
to image recall at k is the share of texts with their image among the k nearest images: the figures of CLIP papers and of
CLIP_benchmark (`text_retrieval_recall@k`, `image_retrieval_recall@k`). Ties are taken in random order, and the figure is the
mean over these orders (a hypergeometric term), so a model that returns one vector for everything has the recall of chance,
and the order of the set's files changes nothing. Without ties this is the plain count. `mean@1` is DataComp's mean of both.

Association (WinoGAViL). Law: for a cue with k right candidates the k nearest images are taken, and the score is the Jaccard
index, right and taken / right or taken; the means over all cues, over those with 5 or 6 candidates, and with 10 to 12.

Cost: retrieval computes its scores in blocks of at most BLOCK, 4 bytes each.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from metaclip.training.evaluation.evaluation_set import Association
from metaclip.training.evaluation.features import autocast
from metaclip.training.evaluation.prompts import fillers
from metaclip.training.models import Clip, Precision, import_open_clip

SCALE: Final = 100.0
TOP: Final = 5
AT: Final = (1, 5, 10)
BLOCK: Final = 1 << 26
"""Number of scores that are computed at a time."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def classifier(
    clip: Clip,
    classes: Sequence[str],
    templates: Sequence[str],
    *,
    device: torch.device,
    precision: Precision,
) -> Any:
    """Return the class vectors: float32[width, classes]."""
    build = import_open_clip().build_zero_shot_classifier
    with torch.inference_mode(), autocast(device, precision):
        made = build(
            clip.model,
            tokenizer=clip.tokenizer,
            classnames=list(classes),
            templates=fillers(templates),
            device=device,
        )
    return made.float()


def nearest_classes(features: Iterable[Any], vectors: Any) -> Ints:
    """Return the nearest classes of each image, best first: int64[images, up to 5]."""
    top = min(TOP, vectors.shape[1])
    with torch.inference_mode():
        rows = [(SCALE * batch @ vectors).topk(top, dim=1).indices.cpu().numpy() for batch in features]
    return np.concatenate(rows)


def accuracies(
    found: Ints, labels: Ints, classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Return the figures of the classes found, int64[images, top], for int64[images] labels; and the accuracy by class.

    The accuracy of a class without images is None. Classes that share a name are told apart by their numbers.
    """
    right = found[:, 0] == labels
    images = np.bincount(labels, minlength=len(classes))
    hits = np.bincount(labels[right], minlength=len(classes))
    counted = collections.Counter(classes)
    names = [name if counted[name] == 1 else f"{name} (class {i})" for i, name in enumerate(classes)]
    per_class = {
        name: float(h / n) if n else None for name, h, n in zip(names, hits, images, strict=True)
    }
    figures = {"accuracy": int(right.sum()) / len(labels)}
    if len(classes) >= TOP:
        figures["accuracy_top5"] = int((found == labels[:, None]).any(axis=1).sum()) / len(labels)
    figures["mean_per_class"] = float((hits[images > 0] / images[images > 0]).mean())
    taken = np.bincount(found[:, 0], minlength=len(classes))
    figures["macro_f1"] = float((2 * hits / np.maximum(images + taken, 1))[images > 0].mean())
    return figures, per_class


def worst_groups(found: Ints, labels: Ints, groups: Ints) -> dict[str, float]:
    """Return the lowest accuracy of a group, at one and, if it is known, at five; `groups` is int64[images]."""
    _, group = np.unique(groups, return_inverse=True)
    figures = {}
    for name, top in (("worst_group", 1), ("worst_group_top5", TOP)):
        if found.shape[1] >= top:
            right = (found[:, :top] == labels[:, None]).any(axis=1)
            figures[name] = float((np.bincount(group, right) / np.bincount(group)).min())
    return figures


def recalls(images: Any, texts: Any, image_of: Any) -> dict[str, float]:
    """Return the recalls of float32[images, width] and float32[texts, width]; `image_of` is int64[texts], each text's image.

    These are tensors of torch on one device; every image has a text.
    """
    figures = {}
    each = torch.arange(len(images), device=images.device)
    for name, ranks in (
        ("image_to_text", _ranks(images, texts, each, image_of)),
        ("text_to_image", _ranks(texts, images, image_of, each)),
    ):
        for k in AT:
            figures[f"{name}@{k}"] = float(hit_chance(*ranks, k).mean())
    figures["mean@1"] = (figures["image_to_text@1"] + figures["text_to_image@1"]) / 2
    return figures


def jaccard_means(images: Any, cues: Any, associations: Sequence[Association]) -> dict[str, float]:
    """Return the mean Jaccard indices of float32[images, width] and float32[associations, width]."""
    scores = []
    for cue, (_, candidates, right) in zip(cues, associations, strict=True):
        nearest = (images[list(candidates)] @ cue).topk(sum(right)).indices.tolist()
        both = sum(right[i] for i in nearest)
        scores.append(both / (2 * sum(right) - both))
    sizes = np.array([len(one.candidates) for one in associations])
    chosen = {"jaccard": sizes > 0, "jaccard_5-6": sizes <= 6, "jaccard_10-12": sizes >= 10}
    return {name: float(np.array(scores)[rows].mean()) for name, rows in chosen.items() if rows.any()}


def hit_chance(ahead: Ints, right: Ints, wrong: Ints, k: int) -> Floats:
    """Return the chance of a right answer among the first k, for each query.

    `ahead` wrong answers are nearer than the best right one; as near as that one are `right` right and `wrong` wrong
    answers (int64[queries] each), in random order: 1 - C(wrong, j) / C(wrong + right, j) with j = k - ahead places left.
    """
    missed = np.ones(len(ahead))
    for place in range(k):
        left = place < k - ahead
        missed[left] *= np.maximum(wrong[left] - place, 0) / np.maximum(
            wrong[left] + right[left] - place, 1
        )
    return 1.0 - missed


def _ranks(queries: Any, answers: Any, query_group: Any, answer_group: Any) -> tuple[Ints, Ints, Ints]:
    """Return (ahead, right, wrong) as `hit_chance` takes them; an answer is right if its group is the query's."""
    rows = max(1, BLOCK // len(answers))
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(queries), rows):
            near = queries[begin : begin + rows] @ answers.T
            own = query_group[begin : begin + rows, None] == answer_group[None, :]
            best = near.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
            tied = near == best
            part = [((near > best) & ~own).sum(1), (tied & own).sum(1), (tied & ~own).sum(1)]
            parts.append(torch.stack(part).cpu().numpy())
    ahead, right, wrong = np.concatenate(parts, axis=1)
    return ahead, right, wrong
