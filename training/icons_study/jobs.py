"""The runs of the study, and how one is carried out: curated, trained and evaluated by the product's own functions.

    raw             all pairs of the pool
    matched         the pairs that match an entry
    offline t       the balanced subset, the same in each epoch
    online t        the Balancer: drawn anew in each epoch
    repeat r        the Balancer at t = LEVEL / r with P(keep) at least 1 / r: of r passes, a pair is in one or more, and at
                    most in r; those of an entry with count c are seen r c times in all, but not more than LEVEL, nor less
                    than c times

Law: all arms of a regime and a seed begin with the same weights and see the same number of samples. A seed decides the
weights, the order of samples and the draw. A job is done when a line with its identity is in the file of results; a process
that begins a job holds its lock, so any number of processes share the work and none does what another does or has done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from metaclip import MatchSettings, balance, match
from metaclip import recipe as recipes
from metaclip.curate.run import Run
from metaclip.errors import MetaclipError
from metaclip.metadata import shipped_list
from metaclip.pool.subset import Subset
from metaclip.stage.stage import digest_of
from metaclip.storage.files import file_digest, read_json, remove
from metaclip.training.evaluate import EvaluateOptions, Task, evaluate
from metaclip.training.evaluation.results import IDENTITY, append_result, read_results
from metaclip.training.models import open_clip_of
from metaclip.training.train import train
from metaclip.training.train_recipe import DataRecipe, TrainOptions, TrainRecipe, read_recipe
from training.icons.families import GROUPS
from training.icons.pool import noisy_uids

SEMANTICS: Final = 1
"""Raised when the same job would have other results."""
EVERYTHING: Final = 1e18
"""A t that no count reaches."""
DEFAULT: Final = 0.0
"""Stands for the t of the default tail share."""
LEVEL: Final = 1_000.0
"""The count that repetition brings the pairs of rare entries up to."""
RECIPES: Final = Path(__file__).parents[1]

Way = Literal["raw", "matched", "offline", "online", "repeat"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to draw the pairs that are trained on."""

    way: Way
    value: float | None = None
    """t, or r of a repetition."""

    @property
    def name(self) -> str:
        """Its name in tables and results."""
        if self.value is None:
            return self.way
        return f"{self.way} {'default' if self.value == DEFAULT else f'{self.value:g}'}"

    @property
    def t(self) -> float:
        """The t of the run that pairs are drawn from; DEFAULT for that of the default tail share."""
        if self.value is None:
            return EVERYTHING
        return LEVEL / self.value if self.way == "repeat" else self.value


@dataclasses.dataclass(frozen=True)
class Regime:
    """Arms that see the same number of samples."""

    name: str
    samples: int
    seeds: int
    arms: tuple[Arm, ...]
    recipe: str = "icons_rn.toml"
    noisy: bool = False
    """Whether a part of the pairs has uninformative texts."""
    batch: int | None = None
    """None: the recipe's."""

    def train_recipe(self, data: DataRecipe, seed: int) -> TrainRecipe:
        """Return the recipe of a run on some data."""
        recipe = read_recipe(RECIPES / self.recipe)
        batch = self.batch or recipe.batch
        warmup = min(recipe.warmup, self.samples // batch // 5)
        return dataclasses.replace(
            recipe, samples=self.samples, batch=batch, warmup=warmup, seed=seed, data=data
        )


def _arms(
    offline: tuple[float, ...], online: tuple[float, ...], repeat: tuple[int, ...] = ()
) -> tuple[Arm, ...]:
    """Return raw, matched and the balanced arms, an offline one before the online one of the same t."""
    ways: tuple[tuple[Way, tuple[float, ...]], ...] = (("offline", offline), ("online", online))
    balanced = [
        Arm(way, t) for t in sorted({*offline, *online}, reverse=True) for way, ts in ways if t in ts
    ]
    return (Arm("raw"), Arm("matched"), *balanced, *(Arm("repeat", r) for r in repeat))


_T: Final = (3_000.0, 1_000.0, 300.0, 100.0, 30.0, DEFAULT)
_THREE: Final = (1_000.0, 300.0, 100.0)
STUDIES: Final[dict[str, tuple[Regime, ...]]] = {
    "tiny": (
        Regime("low", 96, 1, _arms((6.0,), (DEFAULT,), (4,)), batch=32),
        Regime("noisy", 64, 1, (Arm("raw"), Arm("online", 6.0)), noisy=True, batch=32),
    ),
    "small": (Regime("low", 100_000, 2, _arms((1_000.0, 100.0), (1_000.0, 100.0))),),
    "full": (
        # Within less than one pass the online arm draws the offline one's pairs in its order: t = 3000 and 1000 are left out.
        Regime("low", 250_000, 3, _arms(_T, _T[2:], (2, 4, 8))),
        Regime("noisy", 250_000, 3, _arms((1_000.0,), (1_000.0,)), noisy=True),
        Regime("high", 850_000, 3, _arms(_THREE, _THREE)),
        Regime("vit", 3_000_000, 2, _arms((1_000.0, 300.0), ()), recipe="icons_vit.toml"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """An arm of a regime with a seed."""

    regime: Regime
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"{self.regime.name} / {self.arm.name} / seed {self.seed}"


def jobs_of(study: tuple[Regime, ...]) -> list[Job]:
    """Return the jobs of a study, in the order in which they are done."""
    return [
        Job(regime, arm, seed) for regime in study for seed in range(regime.seeds) for arm in regime.arms
    ]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a study is carried out; nothing here changes its results except for rounding."""

    folder: Path
    pool: Path
    results: Path
    metadata: str | None = None
    device: str | None = None

    def identity(self, job: Job) -> str:
        """Return a digest of everything that determines the result of a job, except for rounding."""
        made = read_json(self.pool / "manifest.json") or {}
        if "icons" not in made.get("stages", {}):  # its record comes last
            raise MetaclipError(
                f"there is no pool in {self.pool}; make it: python -m training.icons {self.pool}"
            )
        regime, recipe = job.regime, recipes.read(RECIPES / job.regime.recipe)["train"]
        model = read_json(RECIPES / recipe["model"])
        return digest_of({
            "semantics": SEMANTICS, "pool": made["stages"]["icons"]["made_from"], "train": recipe, "model": model,
            "samples": regime.samples, "batch": regime.batch, "noisy": regime.noisy, "arm": job.arm.name, "seed": job.seed,
            "level": LEVEL, "list": _file_digest(Path(self.metadata or shipped_list())),
        })  # fmt: skip

    def finished(self) -> dict[str, dict[str, Any]]:
        """Return the lines of the file of results by their identity."""
        return {line[IDENTITY]: line for line in read_results(self.results)}


@functools.cache
def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file)


def do_jobs(jobs: list[Job], place: Place, say: Callable[[str], None]) -> None:
    """Do the jobs that no line of the results and no other process has; return when none is left to begin."""
    for job in jobs:
        identity, folder = (
            place.identity(job),
            place.folder / "jobs" / job.name.replace(" / ", "-").replace(" ", "-"),
        )
        with _locked(place.folder / "locks" / f"{folder.name}.lock") as mine:
            if mine and identity not in place.finished():
                line = _do(job, place, folder)
                append_result(place.results, {**line, IDENTITY: identity})
                say(
                    f"{job.name:<36}"
                    + "".join(f"  {name} {100 * line['metrics'][name]:5.2f}" for name in ("all", *GROUPS))
                    + f"   {line['samples_per_second']:,.0f} samples/s   {line['seconds']:,.0f} s"
                )
            if mine:
                remove(folder)


@contextlib.contextmanager
def _locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a lock for the length of a block; yield whether it is held. The kernel releases it when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _curate(job: Job, place: Place, out: Path) -> Run:
    """Match the pool, once for all jobs, and balance it for this one."""
    name = "noisy" if job.regime.noisy else "clean"
    settings = MatchSettings(text_column="noisy" if job.regime.noisy else None)
    # Held for both: matching wants the folder for itself, if only to see that it is finished, and balancing reads it.
    with _locked(place.folder / "locks" / f"{name}.lock", wait=True):
        tars = os.fspath(place.pool / "train")
        matched = match(tars, place.metadata, out=place.folder / name, settings=settings)
        return balance(matched, out=out, t=None if job.arm.t == DEFAULT else job.arm.t, seed=job.seed)


def _do(job: Job, place: Place, folder: Path) -> dict[str, Any]:
    """Curate, train and evaluate; return the line of the results."""
    arm, begin, cpu = job.arm, time.monotonic(), time.process_time()
    record = (read_json(place.pool / "manifest.json") or {})["stages"]["icons"]
    data = DataRecipe(
        tars=os.fspath(place.pool / "train"), seed=job.seed, text="noisy" if job.regime.noisy else None
    )
    run, kept, t, entries = None, None, None, None
    if arm.way != "raw":
        run = _curate(job, place, folder / "run")
        kept = Subset(run.path / "curated.npy")
        t = None if arm.way == "matched" else run.t
        entries = int((run.counts.values > 0).sum())
    if run is not None and arm.way in ("online", "repeat"):
        least = 1 / (arm.value or 1) if arm.way == "repeat" else 0.0
        data = dataclasses.replace(data, balance=os.fspath(run.path), least=least)
    elif run is not None:
        data = dataclasses.replace(data, subset=os.fspath(run.path / "curated.npy"))
    recipe = job.regime.train_recipe(data, job.seed)
    options = TrainOptions(
        device=place.device,
        workers=0 if place.device == "cpu" else None,
        log_every=50,
        save_every=500,
        keep=1,
    )
    trained = train(recipe, folder / "model", options=options)
    trained_at, metrics = time.monotonic(), trained.metrics
    reasons = (read_json(trained.path / "manifest.json") or {})["stages"]["train"]["reasons"]
    (found,) = evaluate(
        open_clip_of(trained.path), {"icons": Task(os.fspath(place.pool / "held_out"))}, folder / "scores.jsonl",
        options=EvaluateOptions(place.device, workers=0 if place.device == "cpu" else None),
    )  # fmt: skip
    pairs, noisy = record["pairs"], record["noisy_pairs"]
    if kept is not None:
        pairs, noisy = len(kept), int(noisy_uids(kept.uids).sum())
    if run is not None and arm.way == "repeat":
        pairs = run.match["funnel"]["matched"]  # sooner or later all of them
    return {
        "task": job.name, "regime": job.regime.name, "arm": arm.name, "way": arm.way, "t": t, "seed": job.seed,
        "samples": recipe.steps * recipe.batch, "pairs": pairs, "noisy_pairs": noisy if job.regime.noisy else None,
        "entries": entries, "pool_pairs": record["pairs"], "passes": round(sum(reasons.values()) / record["pairs"], 4),
        "metrics": {**_figures(found["per_class"], _groups(place.pool)), **found["metrics"]},
        "classes": found["classes"], "images": found["data"]["images"],
        "loss": metrics[-1]["loss"], "scale": metrics[-1]["scale"],
        "samples_per_second": float(np.median([line["samples_per_second"] for line in metrics])),
        "seconds": round(time.monotonic() - begin, 1), "evaluation_seconds": round(time.monotonic() - trained_at, 1),
        "processor_seconds": round(time.process_time() - cpu, 1), "device": found["device"],
        "versions": {**found["versions"], "python": platform.python_version(), "numpy": np.__version__},
        "pool": record["made_from"],
    }  # fmt: skip


def _groups(pool: Path) -> dict[str, str]:
    """Return the group of each class: head, middle or tail."""
    lines = (pool / "classes.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {line.split("\t")[0]: line.split("\t")[3] for line in lines}


def _figures(per_class: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    """Return the mean accuracy by class of all classes, and of each group of them."""
    figures = {"all": float(np.mean(list(per_class.values())))}
    for group in GROUPS:
        own = [per_class[name] for name, other in groups.items() if other == group]
        figures[group] = float(np.mean(own)) if own else 0.0
    return figures
