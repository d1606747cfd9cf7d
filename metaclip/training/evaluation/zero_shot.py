"""Zero-shot classification: an image is of the class whose prompts it lies nearest to.

Law: the classifier is open_clip's own (`open_clip.build_zero_shot_classifier`: for each class the mean of its prompts'
unit vectors, made unit again), the class is the largest of 100 * image . class, and the figures are

    accuracy             images whose class is right, of all (top 5 likewise, with five classes or more)
    mean_per_class       the mean over classes of the part of their images that is right

as open_clip's trainer and CLIP_benchmark count them; a class without images does not enter the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.training.evaluation.features import Precision, autocast
from metaclip.training.evaluation.prompts import fillers
from metaclip.training.models import Clip

SCALE: Final = 100.0
_TOP: Final = 5

Ints = npt.NDArray[np.int64]


def classifier(
    clip: Clip, classes: Sequence[str], templates: Sequence[str], *, device: str, precision: Precision
) -> Any:
    """Make the class vectors: float32[width, classes]."""
    import open_clip
    import torch

    with torch.inference_mode(), autocast(device, precision):
        made = open_clip.build_zero_shot_classifier(
            clip.model, tokenizer=clip.tokenizer, classnames=list(classes), templates=fillers(templates), device=device
        )
    return made.float()


def ranked(features: Iterable[tuple[int, Any]], vectors: Any) -> Ints:
    """Give of each image the classes it lies nearest to, best first: int64[images, up to 5].

    `features` come as `metaclip.training.evaluation.features.encode_images` gives them.
    """
    import torch

    top = min(_TOP, vectors.shape[1])
    rows = []
    with torch.inference_mode():
        for _, batch in features:
            logits = SCALE * batch @ vectors
            rows.append(logits.topk(top, dim=1).indices.cpu().numpy())
    return np.concatenate(rows)


def scores(found: Ints, labels: Ints, classes: Sequence[str]) -> tuple[dict[str, float], dict[str, float | None]]:
    """Give the figures of int64[images, top] classes found against int64[images] labels, and accuracy by class.

    The accuracy of a class without images is None.
    """
    right = found[:, 0] == labels
    images = np.bincount(labels, minlength=len(classes))
    hits = np.bincount(labels[right], minlength=len(classes))
    there = images > 0
    per_class = hits[there] / images[there]
    figures = {"accuracy": int(right.sum()) / len(labels)}
    if len(classes) >= _TOP:
        figures["accuracy_top5"] = int((found == labels[:, None]).any(axis=1).sum()) / len(labels)
    figures["mean_per_class"] = float(per_class.mean())
    every: dict[str, float | None] = dict.fromkeys(classes)
    every.update((classes[i], float(hits[i] / images[i])) for i in np.flatnonzero(there).tolist())
    return figures, every
