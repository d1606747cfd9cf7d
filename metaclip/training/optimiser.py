"""The standard optimiser: AdamW with two groups of parameters, warm-up and cosine decay, a bounded logit scale.

Source: "Demystifying CLIP Data", arXiv 2309.16671, section 4, after "Learning Transferable Visual Models From Natural
Language Supervision", arXiv 2103.00020, section 2.5.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from metaclip.training.train_recipe import TrainRecipe


def learning_rate(recipe: TrainRecipe, step: int) -> float:
    """Return the learning rate of a step, counted from 0: linear up to `lr`, then 0.5 (1 + cos) down to 0."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done, all_ = step - recipe.warmup, recipe.steps - recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * done / all_)) * recipe.lr


def make_optimiser(recipe: TrainRecipe, model: Any) -> Any:
    """Return AdamW over the parameters of a model, fused: one kernel for all of them.

    Only matrices decay: gains, biases, the class token and the logit scale have one axis or none.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
    ]
    return torch.optim.AdamW(
        groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True
    )


def bound_scale(model: Any) -> None:
    """Clamp the logit scale, which is a logarithm, to [0, ln 100] in place."""
    model.logit_scale.data.clamp_(0, math.log(100))
