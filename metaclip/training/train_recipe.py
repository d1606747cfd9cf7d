"""What determines a training run, and what does not: the tables of a recipe, and the options of a run.

    [train]                      [train.data]
    model = "ViT-B-32-quickgelu" tars = "curated_tars/"
    samples = 12_800_000_000     balance = "run/"        # online; offline: subset = "run/curated.npy"
    batch = 32_768

The defaults are the standard run of the paper ("Demystifying CLIP Data", arXiv 2309.16671, section 4).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any, Final, Literal

from metaclip import recipe as recipes
from metaclip.errors import MetaclipError

TABLE: Final = "train"


@dataclasses.dataclass(frozen=True)
class DataRecipe:
    """The pairs to train on."""

    tars: str | None = None
    """Tars of image-text samples: a file, a folder or a glob, local or anything fsspec opens."""
    subset: str | None = None
    """Offline balance: the uids of the pairs to use, a run's curated.npy."""
    balance: str | None = None
    """Online balance: a balanced run's folder or a card; pairs are drawn anew in each epoch."""
    t: float | None = None
    """Another t for the online balance than that of its run."""
    least: float = 0.0
    """The smallest probability of a matched pair in the online balance. With 1 / r rare pairs are repeated, at most r times
    as often as frequent ones, and no pair is dropped for good."""
    text: str | None = None
    """The member or field that holds the text, if it is not .txt, text, caption or alt."""
    seed: int = 0
    """Seed of the order of samples and of their crops."""

    def __post_init__(self) -> None:
        """Raise ValueError for settings that make no sense."""
        recipes.check_minimums(self, seed=0)
        if self.subset is not None and self.balance is not None:
            raise ValueError("subset (offline) and balance (online) are both given; name one")
        if self.t is not None and self.balance is None:
            raise ValueError("t is given without balance; an offline subset has its own")
        if self.t is not None and not self.t > 0:
            raise ValueError(f"t is {self.t:g}, must be above 0")
        if self.least and self.balance is None:
            raise ValueError(
                "least is given without balance; it bounds the probabilities of an online balance"
            )
        if not 0 <= self.least <= 1:
            raise ValueError(f"least is {self.least:g}, must be a probability, from 0 to 1")


@dataclasses.dataclass(frozen=True)
class TrainRecipe:
    """Everything that determines the trained model, except for the rounding of a device."""

    model: str = "ViT-B-32-quickgelu"
    """A name that open_clip knows, or a JSON file of a model in its form (its name is the file's)."""
    samples: int = 12_800_000_000
    """Samples seen; repeated ones are counted each time."""
    batch: int = 32_768
    """The global batch: of all ranks and all parts."""
    lr: float = 5e-4
    warmup: int = 2_000
    """Steps in which the learning rate rises linearly; then it falls to 0 by half a cosine."""
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.2
    """Weight decay of matrices; gains, biases and the logit scale have none."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 by autocast; weights and the optimiser's state are float32 in both."""
    crop: float = 0.9
    """The smallest share of an image's area that a random crop takes."""
    seed: int = 0
    """Seed of the model's first weights."""
    data: DataRecipe = DataRecipe()

    def __post_init__(self) -> None:
        """Raise ValueError for settings that make no sense."""
        recipes.check_minimums(self, samples=1, batch=2, warmup=0, seed=0)
        for name in ("lr", "eps"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 0 and below 1")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"weight_decay is {self.weight_decay}, must be at least 0")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is {self.crop}, must be above 0 and at most 1")
        if self.samples < self.batch:
            raise ValueError(f"samples is {self.samples:,}, below one batch of {self.batch:,}")

    @property
    def steps(self) -> int:
        """Number of steps of the optimiser; what is left of `samples` after the last whole batch is not seen."""
        return self.samples // self.batch


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a run is carried out; nothing here changes its result except for rounding."""

    device: str | None = None
    """None: a GPU if there is one."""
    workers: int | None = None
    """Number of loading processes per rank; None: up to 8 beside a GPU if there are processors, else 0."""
    accumulate: int = 1
    """Number of parts in which a rank computes its batch; the contrast is over the whole batch all the same."""
    checkpointing: bool = False
    """Compute activations again in the backward pass, to save memory."""
    compile: bool = False
    """Compile the model (torch.compile)."""
    log_every: int = 50
    """Number of steps from one line of metrics to the next."""
    save_every: int = 1_000
    """Number of steps from one checkpoint to the next; the last step has one too."""
    keep: int = 2
    """Number of checkpoints that are kept."""
    tensorboard: bool = False
    overwrite: bool = False
    """Replace another run in the output folder."""
    allow_lost: bool = False
    """Continue without tars that cannot be read."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that make no sense."""
        recipes.check_minimums(self, accumulate=1, log_every=1, save_every=1, keep=1, workers=0)


def read_recipe(path: str | os.PathLike[str], **over: Any) -> TrainRecipe:
    """Read the table [train] of a recipe; paths in it are relative to its folder. `over` replaces keys of [train.data].

    Raise MetaclipError for a recipe that cannot be read, and for a table, a key or a value that nobody reads.
    """
    name = os.fspath(path)
    tables = recipes.read(name)
    made = recipes.tables(tables, name, {TABLE: TrainRecipe})
    if TABLE not in made:
        raise MetaclipError(f"{name} has no table [{TABLE}]; tables: {', '.join(tables) or 'none'}")
    recipe = with_paths(made[TABLE], functools.partial(recipes.path_in, name))
    given = {key: value for key, value in over.items() if value is not None}
    try:
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **given))
    except ValueError as error:
        raise MetaclipError(f"{name} with the flags: {error}") from None


def with_paths(recipe: TrainRecipe, change: Callable[[str], str]) -> TrainRecipe:
    """Return a recipe with all local paths in it changed: of the model's file, the tars, the subset and the balance."""

    def changed(path: str | None) -> str | None:
        return path if path is None or "://" in path else change(path)

    data: dict[str, Any] = {
        key: changed(getattr(recipe.data, key)) for key in ("tars", "subset", "balance")
    }
    model = change(recipe.model) if recipe.model.endswith(".json") else recipe.model
    return dataclasses.replace(recipe, model=model, data=dataclasses.replace(recipe.data, **data))
