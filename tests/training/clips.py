"""A small CLIP of open_clip's for tests, with random weights, in memory and as a folder that open_clip opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metaclip.training.models import Clip, import_torchvision

CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def make_clip(seed: int = 0, **over: Any) -> Clip:
    """Make a model with the weights of a seed."""
    import_torchvision()
    import open_clip
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**{**CONFIG, **over})
    transform = open_clip.image_transform(CONFIG["vision_cfg"]["image_size"], is_train=False)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
    return Clip("small", model.eval(), transform, tokenizer)


def write_clip(folder: Path, seed: int = 0) -> str:
    """Write such a model to a folder; return the name by which open_clip opens it."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    torch.save(make_clip(seed).model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"
