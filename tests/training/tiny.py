"""A model so small that a step takes milliseconds, pairs for it, and runs of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metaclip.training.train_recipe import DataRecipe, TrainRecipe
from training import shapes

MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_model(folder: Path, name: str = "tiny", **changes: Any) -> str:
    """Write a model's file; each of `changes` updates one of its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
        for key, value in MODEL.items()
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    return str(path)


def write_pairs(folder: Path, n: int = 128) -> str:
    """Write pairs to train on; return their folder."""
    shapes.write_pairs(folder, n)
    return str(folder)


def recipe(folder: Path, tars: str, steps: int = 6, batch: int = 16, **more: Any) -> TrainRecipe:
    """Make a recipe for the tiny model."""
    data = DataRecipe(tars=tars, **more.pop("data", {}))
    table = {"lr": 1e-3, "warmup": 2, "precision": "fp32", **more}
    return TrainRecipe(model=write_model(folder), samples=steps * batch, batch=batch, data=data, **table)


def toml(made: TrainRecipe, path: Path) -> Path:
    """Write a recipe's file."""
    from metaclip.recipe import dump

    path.write_text(dump({"train": made}), encoding="utf-8")
    return path
