"""Retrieval: of all texts the one of an image, of all images the one of a text.

Law: image to text recall at k is the part of images with any of their own texts among the k nearest texts; text to
image recall at k the part of texts with their image among the k nearest images: the figures of CLIP papers, and of
CLIP_benchmark (`text_retrieval_recall@k`, `image_retrieval_recall@k`).

What lies equally near is taken in random order, and the figure is the mean over these orders (a hypergeometric term), so
that a model that gives one vector to everything has the recall of chance, and no order of the set's files moves a
figure. Where nothing ties this is the plain count.

Cost: the scores are made in blocks, images x texts x 4 bytes of them at a time at most BLOCK.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

AT: Final = (1, 5, 10)
BLOCK: Final = 1 << 26
"""Scores at a time."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def recalls(images: Any, texts: Any, image_of: Any, at: tuple[int, ...] = AT) -> dict[str, float]:
    """Give the recalls of float32[images, width] and float32[texts, width], with int64[texts] the image of each text.

    Tensors of torch on one device; every image has a text.
    """
    import torch

    figures = {}
    n = len(images)
    for name, queries, answers, own in (
        ("image_to_text", images, texts, (torch.arange(n, device=images.device), image_of)),
        ("text_to_image", texts, images, (image_of, torch.arange(n, device=images.device))),
    ):
        ahead, right, wrong = _ranks(queries, answers, *own)
        for k in at:
            figures[f"{name}@{k}"] = float(hit_chance(ahead, right, wrong, k).mean())
    return figures


def hit_chance(ahead: Ints, right: Ints, wrong: Ints, k: int) -> Floats:
    """Give the chance of a right answer among the first k, int64[queries] each.

    `ahead` wrong answers are nearer than the best right one; as near as that are `right` right ones and `wrong` wrong
    ones, in random order: 1 - C(wrong, j) / C(wrong + right, j) with j = k - ahead places left.
    """
    missed = np.ones(len(ahead))
    for place in range(k):
        left = place < k - ahead
        missed[left] *= np.maximum(wrong[left] - place, 0) / np.maximum(wrong[left] + right[left] - place, 1)
    return 1.0 - missed


def _ranks(queries: Any, answers: Any, query_group: Any, answer_group: Any) -> tuple[Ints, Ints, Ints]:
    """Give of each query what `hit_chance` takes; an answer is right where its group is the query's."""
    import torch

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
