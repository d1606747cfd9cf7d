"""What determines a training run, and what does not: the tables of a recipe, and the work.

    [train]                      [train.data]
    model = "ViT-B-32-quickgelu" tars = "curated_tars/"
    samples = 12_800_000_000     balance = "run/"        # online; offline: subset = "run/curated.npy"
    batch = 32_768

The defaults are the standard run of the paper ("Demystifying CLIP Data", arXiv 2309.16671, section 4): what a recipe
leaves out is as there.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from metaclip import recipe as recipes
from metaclip.errors import MetaclipError

TABLE: Final = "train"


@dataclasses.dataclass(frozen=True)
class DataRecipe:
    """The pairs to train on: tars, or the rendered shapes of `metaclip.training.shapes`."""

    tars: str | None = None
    """Tars of image-text samples: a file, a folder or a glob, local or anything fsspec opens."""
    shapes: int | None = None
    """Instead of tars: so many rendered images, made in the run's folder."""
    subset: str | None = None
    """Offline balance: uids that are taken, a run's curated.npy."""
    balance: str | None = None
    """Online balance: a balanced run's folder or a card; drawn anew each epoch."""
    t: float | None = None
    """Another t for the online balance than its source's."""
    text: str | None = None
    """The text's member or field, where it is not .txt, text, caption or alt."""
    seed: int = 0
    """Of the order of samples and of their crops."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.tars is not None and self.shapes is not None:
            raise ValueError("tars and shapes are both given; name one")
        if self.shapes is not None and self.shapes < 1:
            raise ValueError(f"shapes is {self.shapes}, must be at least 1")
        if self.subset is not None and self.balance is not None:
            raise ValueError("subset (offline) and balance (online) are both given; name one")
        if self.t is not None and self.balance is None:
            raise ValueError("t is given without balance; an offline subset has its own")
        if self.t is not None and not self.t > 0:
            raise ValueError(f"t is {self.t:g}, must be above 0")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, must be at least 0")


@dataclasses.dataclass(frozen=True)
class TrainRecipe:
    """All that determines the trained model, but for the numerics of a device."""

    model: str = "ViT-B-32-quickgelu"
    """A name that open_clip knows, or a JSON file of a model in its form (its name is the file's)."""
    samples: int = 12_800_000_000
    """Samples seen, repeated ones counted each time."""
    batch: int = 32_768
    """The global batch: that of all ranks, and of all that is accumulated."""
    lr: float = 5e-4
    warmup: int = 2_000
    """Steps in which the learning rate rises linearly; then it falls to 0 by half a cosine."""
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.2
    """Of matrices; gains, biases and the logit scale have none."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 by autocast; weights and the optimiser's state are float32 in both."""
    crop: float = 0.9
    """The smallest part of an image's area that a random crop takes."""
    seed: int = 0
    """Of the model's first weights."""
    data: DataRecipe = DataRecipe()

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, least in (("samples", 1), ("batch", 2), ("warmup", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")
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
        """The steps of the optimiser; what is left of `samples` after the last whole batch is not seen."""
        return self.samples // self.batch


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a run is carried out; nothing here changes its result but for rounding."""

    device: str | None = None
    """None: a GPU where there is one."""
    workers: int | None = None
    """Processes a rank that load; None: 8 beside a GPU, as far as there are processors, else none."""
    accumulate: int = 1
    """Parts in which a rank goes through its batch; the contrast is over the whole batch all the same."""
    checkpointing: bool = False
    """Compute activations again in the backward pass, to save memory."""
    compile: bool = False
    """Compile the model (torch.compile)."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    save_every: int = 1_000
    """Steps between two checkpoints; the last step has one too."""
    keep: int = 2
    """Checkpoints that stay."""
    tensorboard: bool = False
    overwrite: bool = False
    """Replace another run in the output folder."""
    allow_lost: bool = False
    """Go on without tars that cannot be read."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, least in (("accumulate", 1), ("log_every", 1), ("save_every", 1), ("keep", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, must be at least {least}")


def read_recipe(path: str | os.PathLike[str], known: Mapping[str, type] | None = None, **over: Any) -> TrainRecipe:
    """Read the table [train] of a recipe; paths in it are relative to its folder. `over` replaces keys of [train.data].

    `known` are the dataclasses of other verbs' tables that may stand beside it. Raise MetaclipError for a recipe that
    cannot be read, and for a table, a key or a value that nobody reads.
    """
    name = os.fspath(path)
    tables = recipes.read(name)
    made = recipes.tables(tables, name, {TABLE: TrainRecipe, **(known or {})})
    if TABLE not in made:
        raise MetaclipError(f"{name} has no table [{TABLE}]; tables: {', '.join(tables) or 'none'}")
    recipe: TrainRecipe = made[TABLE]
    folder = Path(name).parent
    model = os.fspath(folder / recipe.model) if recipe.model.endswith(".json") else recipe.model
    data = {key: _beside(folder, getattr(recipe.data, key)) for key in ("tars", "subset", "balance")}
    try:
        if over.get("tars") is not None:
            data["shapes"] = None
        given = {key: value for key, value in over.items() if value is not None}
        return dataclasses.replace(recipe, model=model, data=dataclasses.replace(recipe.data, **{**data, **given}))
    except ValueError as error:
        raise MetaclipError(f"{name} with the flags: {error}") from None


def _beside(folder: Path, path: str | None) -> str | None:
    return path if path is None or "://" in path else os.fspath(folder / path)
