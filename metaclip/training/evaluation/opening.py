"""The model of an evaluation: a training run's, or one of open_clip's by name; and what it is known by.

Law: a model is known by its weights, its modules (so by its activation too), and what prepares its inputs; not by the
file that its weights came from.
Cost: 0.6 s of processor for the digest of ViT-B-32's 151 M weights.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import Any

from metaclip.errors import MetaclipError, one_line
from metaclip.training.models import Clip, import_open_clip, known, open_clip_of


def open_model(
    model: str, *, pretrained: str | None = None, checkpoint: str | None = None, device: str = "cpu"
) -> Clip:
    """Open a training run's folder, or open_clip's model of a name or a JSON file, in evaluation mode.

    `pretrained` is a tag that open_clip knows or a file of weights, for a name; `checkpoint` another file of weights of a
    run. Raise MetaclipError for a model that is not there, and for weights of another one.
    """
    open_clip = import_open_clip()
    if Path(model).is_dir():
        if pretrained is not None:
            raise MetaclipError(f"{model} is a run's folder and has its weights; name other ones with --checkpoint")
        return open_clip_of(model, device=device, checkpoint=checkpoint)
    if checkpoint is not None:
        raise MetaclipError(f"there is no run {model}; for a model of open_clip name its weights with --pretrained")
    if open_clip.factory.parse_model_name(model)[0] is not None:  # a folder or a page of the Hub, with weights
        return _open_named(model, None, device)
    if os.sep in model and not model.endswith(".json"):
        raise MetaclipError(
            f"there is no run {model}; give the --out of metaclip train, or open_clip's name of a model"
        )
    name = known(model)
    if pretrained is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "-"
        raise MetaclipError(f"{model} has no weights yet; give --pretrained a file or a tag: {tags}")
    return _open_named(name, pretrained, device)


def _open_named(name: str, pretrained: str | None, device: str) -> Clip:
    open_clip = import_open_clip()
    with warnings.catch_warnings():
        # With the other activation everything runs, and every score is wrong.
        warnings.filterwarnings("error", message="QuickGELU mismatch")
        try:
            model, _, transform = open_clip.create_model_and_transforms(name, pretrained=pretrained, device=device)
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # torch, pickle and the Hub raise whatever they come upon
            raise MetaclipError(f"{name} with the weights {pretrained or 'of its folder'}: {one_line(error)}") from None
    return Clip(name, model.eval(), transform, tokenizer)


def model_digest(clip: Clip) -> str:
    """Digest a model: sha256 of its weights, its modules, its transform and its tokenizer's context, as hex digits."""
    import torch

    digest = hashlib.sha256()
    context = getattr(clip.tokenizer, "context_length", None)
    described = f"{clip.model!r}\n{clip.transform!r}\n{type(clip.tokenizer).__name__} {context}"
    digest.update(re.sub(r" at 0x[0-9a-f]+", "", described).encode())
    weights: dict[str, Any] = clip.model.state_dict()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
