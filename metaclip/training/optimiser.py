"""The standard optimiser: AdamW on two groups, a warm-up with half a cosine, a bounded logit scale.

Source: "Demystifying CLIP Data", arXiv 2309.16671, section 4, after "Learning Transferable Visual Models From Natural
Language Supervision", arXiv 2103.00020, section 2.5.
"""

from __future__ import annotations

import math
from typing import Any, Final

from metaclip.training.train_recipe import TrainRecipe

LARGEST_SCALE: Final = math.log(100)


def learning_rate(recipe: TrainRecipe, step: int) -> float:
    """Give the learning rate of a step, counted from 0: linear up to `lr`, then 0.5 (1 + cos) down to 0."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done, all_ = step - recipe.warmup, recipe.steps - recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * done / all_)) * recipe.lr


def decays(parameter: Any) -> bool:
    """Tell whether a parameter decays: matrices do; gains, biases, class token and logit scale have one axis or none."""
    return int(parameter.ndim) >= 2


def make_optimiser(recipe: TrainRecipe, model: Any) -> Any:
    """Make AdamW over a model's parameters, fused: one kernel for all."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if not decays(p)], "weight_decay": 0.0},
        {"params": [p for p in trained if decays(p)], "weight_decay": recipe.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True)


def set_rate(optimiser: Any, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def bound_scale(model: Any) -> None:
    """Bring the logit scale, a logarithm, back to [0, ln 100], in place."""
    model.logit_scale.data.clamp_(0, LARGEST_SCALE)
