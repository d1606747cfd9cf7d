"""What a run is made from: its stream and its balance; and what both must be again for it to go on."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

from metaclip.curate.balancer import Balancer
from metaclip.errors import MetaclipError
from metaclip.recipe import dump
from metaclip.reshard.index import Names
from metaclip.reshard.subset import Subset
from metaclip.stage.folder import Folder
from metaclip.stage.stage import digest_of
from metaclip.storage.files import atomic_write
from metaclip.training import models, shapes
from metaclip.training.ranks import Ranks
from metaclip.training.stream import Stream
from metaclip.training.train_recipe import TABLE, TrainRecipe

SEMANTICS: Final = 1
"""Raised when the same recipe would give another model."""
RECIPE: Final = "recipe.toml"


def open_stream(recipe: TrainRecipe, folder: Folder, ranks: Ranks, allow_lost: bool) -> Stream:
    """Make the stream that a recipe names. Raise MetaclipError where there are no samples or no way to draw them."""
    data, tars = recipe.data, recipe.data.tars
    if data.shapes is not None:
        tars = os.fspath(folder / f"shapes-{data.shapes}")
        if ranks.first:
            shapes.write_pairs(Path(tars), data.shapes)
        ranks.gather(None)
    if tars is None:
        raise MetaclipError("the recipe names no tars to train on; give --tars, or tars in its table [train.data]")
    keep: Subset | Balancer | None = None
    if data.subset is not None:
        keep = Subset(data.subset)
        if not len(keep):
            raise MetaclipError(f"the subset {data.subset} is empty; give a run's curated.npy")
    elif data.balance is not None:
        keep = Balancer(data.balance, data.t)
    return Stream(tars, seed=data.seed, keep=keep, names=Names(text=data.text), allow_lost=allow_lost)


def fingerprint(recipe: TrainRecipe, name: str, stream: Stream) -> dict[str, Any]:
    """Give all that determines the result; of data what it is, not where it stands."""
    table = dataclasses.asdict(recipe)
    del table["model"], table["data"]
    keep, drawn = stream.keep, dict[str, Any]()
    if isinstance(keep, Subset):
        drawn = {"subset": keep.digest()}
    elif isinstance(keep, Balancer):
        matcher = keep.matcher
        drawn = {
            "list": matcher.metadata.digest,
            "rule": matcher.rule.identity,
            "probability": digest_of(keep.probability.tolist()),
            "t": keep.t,
            "seed": keep.seed,
        }
    model = {"name": name, **models.import_open_clip().get_model_config(name)}
    data = {"stream": stream.identity, "samples": len(stream), "text": recipe.data.text, "balance": drawn}
    return {"semantics": SEMANTICS, "model": model, "train": table, "data": data}


def write_recipe(folder: Folder, recipe: TrainRecipe) -> None:
    """Write the recipe as it was used; paths from the root, since the folder is not where the recipe stood."""

    def whole(path: str | None) -> str | None:
        return path if path is None or "://" in path else os.path.abspath(path)

    data: dict[str, Any] = {key: whole(getattr(recipe.data, key)) for key in ("tars", "subset", "balance")}
    model = os.path.abspath(recipe.model) if recipe.model.endswith(".json") else recipe.model
    used = dataclasses.replace(recipe, model=model, data=dataclasses.replace(recipe.data, **data))
    with atomic_write(folder / RECIPE) as temporary:
        temporary.write_text(dump({TABLE: used}), encoding="utf-8")
