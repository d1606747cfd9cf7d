"""An arm of the study: which pairs are trained on, and what came of it.

Everything goes through the product's own doors: the tars are curated (`metaclip curate`), balanced (`metaclip balance`),
streamed with the subset or the Balancer, trained (`metaclip train`) and evaluated (`metaclip evaluate`).

    raw            all pairs of the pool
    matched        pairs that match an entry: curated with a t that no count reaches
    offline t      the balanced subset, the same in each epoch
    online t       the Balancer: drawn anew in each epoch

Law: an arm is done when its result.json stands with the identity of all that determined it; a study that was killed does
only the rest. All arms of a seed have the same first weights and see as many samples.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from metaclip import RunOptions, balance, match
from metaclip.curate.run import Run
from metaclip.errors import MetaclipError
from metaclip.reshard.subset import Subset
from metaclip.stage.stage import digest_of
from metaclip.storage.files import read_json, remove, write_json
from metaclip.training.evaluate import EvaluateOptions, Task, evaluate
from metaclip.training.models import CHECKPOINTS, WEIGHTS, open_clip_of
from metaclip.training.train import train
from metaclip.training.train_recipe import DataRecipe, TrainOptions, TrainRecipe
from training.balance_study.pool import KINDS, Pool
from training.balance_study.sizes import Study
from training.balance_study.summary import FIGURES

EVERYTHING: Final = 1e18
"""A t that no count reaches."""
SEMANTICS: Final = 1

Way = Literal["raw", "matched", "offline", "online"]
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to draw the pairs that are trained on."""

    way: Way
    t: float | None = None

    @property
    def name(self) -> str:
        """Name it, as in the table and on disk."""
        return self.way if self.t is None else f"{self.way} {self.t:g}"


def arms_of(study: Study) -> list[Arm]:
    """Return the arms of a study, in the table's order."""
    balanced = [Arm(way, t) for way in ("offline", "online") for t in study.ts]
    return [Arm("raw"), Arm("matched"), *balanced]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a study is carried out, and with what; nothing here changes a result but for rounding and the query list."""

    folder: Path
    images: str
    model: Path
    metadata: str | None = None
    device: str | None = None
    workers: int | None = None
    keep_models: bool = False


def curated(place: Place, pool: Pool, seed: int, t: float) -> Run:
    """Balance the pool at a t, matching it first where that is not done."""
    folder = place.folder / f"seed-{seed}"
    matched = match(os.fspath(pool.tars), place.metadata, out=folder / "matched", options=RunOptions())
    name = "all" if t == EVERYTHING else f"t-{t:g}"
    return balance(matched, out=folder / name, t=t, seed=seed, options=RunOptions())


def recipe_of(
    arm: Arm, study: Study, place: Place, pool: Pool, seed: int, run: Run | None
) -> TrainRecipe:
    """Return the recipe by which an arm is trained."""
    data = DataRecipe(tars=os.fspath(pool.tars), seed=seed)
    if run is not None and arm.way == "online":
        data = dataclasses.replace(data, balance=os.fspath(run.path))
    elif run is not None:
        data = dataclasses.replace(data, subset=os.fspath(run.path / "curated.npy"))
    return TrainRecipe(
        model=os.fspath(place.model), samples=study.samples, batch=study.batch, lr=study.lr, warmup=study.warmup,
        precision=study.precision, seed=seed, data=data,
    )  # fmt: skip


def do_arm(arm: Arm, study: Study, place: Place, pool: Pool, seed: int, say: Say) -> dict[str, Any]:
    """Train and evaluate an arm, or return its earlier result."""
    folder = place.folder / f"seed-{seed}" / arm.name.replace(" ", "-")
    run = None if arm.way == "raw" else curated(place, pool, seed, EVERYTHING if arm.t is None else arm.t)
    determined = {
        name: value for name, value in dataclasses.asdict(study).items() if name not in ("seeds", "ts")
    }
    identity = digest_of({
        "semantics": SEMANTICS, "arm": arm.name, "seed": seed, "study": determined, "pool": sorted(pool.of),
        "run": None if run is None else run.match["identity"],
    })  # fmt: skip
    found = read_json(folder / "result.json")
    if found is not None:
        if found["identity"] != identity:
            raise MetaclipError(f"{folder} is an arm of another study; choose another --out")
        return found
    begin = time.monotonic()
    model = folder / "model"
    options = TrainOptions(
        device=place.device, workers=place.workers, log_every=100, save_every=500, keep=1
    )
    trained = train(recipe_of(arm, study, place, pool, seed, run), model, options=options)
    tasks = {"zero_shot": Task(place.images)}
    (result,) = evaluate(
        open_clip_of(model),
        tasks,
        folder / "results.jsonl",
        options=EvaluateOptions(place.device, workers=place.workers),
    )
    made = {
        "arm": arm.name, "way": arm.way, "t": arm.t, "seed": seed, "identity": identity,
        **figures(result["per_class"], pool.ranked), "per_class": result["per_class"], "ranked": list(pool.ranked),
        "pairs": kept_pairs(pool, run), "samples": study.samples, "loss": trained.metrics[-1]["loss"],
        "seconds": round(time.monotonic() - begin, 1), "device": result["device"],
    }  # fmt: skip
    write_json(folder / "result.json", made)
    if not place.keep_models:
        for name in (CHECKPOINTS, WEIGHTS):
            remove(model / name)
    told = "".join(f"   {name} {100 * made[name]:6.2f}%" for name in FIGURES)
    say(f"seed {seed}   {arm.name:<14}{told}   {made['seconds']:.0f} s")
    return made


def figures(per_class: Mapping[str, float], ranked: tuple[str, ...]) -> dict[str, float]:
    """Return the mean accuracy of all classes, of the more frequent half of them, and of the rarer half."""
    half = len(ranked) // 2

    def mean(names: tuple[str, ...]) -> float:
        return sum(per_class[name] for name in names) / len(names)

    return {"all": mean(ranked), "head": mean(ranked[:half]), "tail": mean(ranked[-half:])}


def kept_pairs(pool: Pool, run: Run | None) -> dict[str, int]:
    """Count the pairs that an arm draws from in its first epoch, by kind; those of classes by half too."""
    kept = (
        pool.of.keys()
        if run is None
        else {f"{high:016x}{low:016x}" for high, low in Subset(run.path / "curated.npy").uids.tolist()}
    )
    half = len(pool.ranked) // 2
    tail = set(pool.ranked[-half:])
    counted = collections.Counter(pool.of[uid][1] for uid in kept)
    of_tail = sum(pool.of[uid][1] == "class" and pool.of[uid][0] in tail for uid in kept)
    return {**{kind: counted[kind] for kind in KINDS}, "tail": of_tail, "total": len(kept)}
