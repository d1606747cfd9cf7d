"""Train CLIP on a stream: the standardised run ("Demystifying CLIP Data", arXiv 2309.16671, section 4).

    torchrun --nproc-per-node 8 -m metaclip train training/b32_400m.toml --tars tars/ --out run/

Law: on a processor the same recipe gives the same bytes, whether the run was killed and taken up again or not; on any
number of ranks, in any number of parts, the same model but for rounding. What is not the same is refused: a folder goes on
only with the recipe, the tars and the balance that it was begun with.

    train_recipe  what determines a run, and what does not     sources     its stream and balance
    loop          the steps                                    feed        batches to the device
    step          the gradients of a batch, whole or in parts  optimiser   AdamW, learning rate, scale
    checkpoint    what is saved, and taken up again            metrics     what is told; a loss that is no number
    models        open_clip's models and their weights         ranks       the processes; flops what they could do

Cost (tests/bench/bench_train.py): training/README.md has the table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from metaclip._version import __version__
from metaclip.errors import MetaclipError
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage, StageSpec
from metaclip.training import checkpoint, metrics, models, sources
from metaclip.training.loop import Loop, Report, Say, fast, nothing
from metaclip.training.ranks import joined
from metaclip.training.train_recipe import TrainOptions, TrainRecipe

TRAIN: Final = StageSpec("train", (
    models.CHECKPOINTS, models.CONFIG, "model", models.WEIGHTS, metrics.METRICS, metrics.TENSORBOARD, metrics.NOT_FINITE,
    sources.RECIPE,
))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainRun:
    """What training left: a folder (training/README.md names its files)."""

    path: Path

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: step, samples, loss, scale, lr, samples_per_second, data_wait, mfu, seconds."""
        return metrics.read_lines(self.path / metrics.METRICS)


def train(
    recipe: TrainRecipe,
    out: str | os.PathLike[str],
    *,
    options: TrainOptions | None = None,
    report: Report | None = None,
    say: Say | None = None,
) -> TrainRun:
    """Train a model by a recipe into a folder, or go on from the last checkpoint there.

    In a process that torchrun started it is one rank of many. `report` is called with each line of metrics, `say` with
    what else is worth a line. Raise MetaclipError for what the caller can mend, Interrupted after Ctrl-C or SIGTERM,
    when a checkpoint is written.
    """
    options, folder = options or TrainOptions(), Folder(out)
    models.import_open_clip()
    with joined(options.device) as ranks, contextlib.ExitStack() as held:
        size, rest = divmod(recipe.batch, ranks.ranks * options.accumulate)
        if rest:
            raise MetaclipError(
                f"a batch of {recipe.batch} cannot be shared out to {ranks.ranks} ranks in {options.accumulate} parts each; "
                "change batch, the number of processes, or --accumulate"
            )
        name = models.known(recipe.model)
        if ranks.first:
            held.enter_context(folder.owned())
        held.enter_context(fast(ranks.device))
        stream = sources.open_stream(recipe, folder, ranks, options.allow_lost)
        stage = Stage(folder, TRAIN)
        if ranks.first:
            stage.begin(sources.fingerprint(recipe, name, stream), options.overwrite)
            sources.write_recipe(folder, recipe)
        ranks.gather(None)
        if ranks.gather(bool(ranks.first and stage.finished()))[0]:
            return TrainRun(folder.path)
        made = Loop(recipe, options, ranks, folder.path, name, stream, size, report or nothing, say or nothing)
        made.run(held.enter_context(_stopping()))
        if ranks.first:
            _finish(stage, folder, recipe, made)
        return TrainRun(folder.path)


def _finish(stage: Stage, folder: Folder, recipe: TrainRecipe, made: Loop) -> None:
    """Write the weights alone, and the record."""
    import torch

    open_clip = models.import_open_clip()
    checkpoint.write_tensors(folder / models.WEIGHTS, made.model.state_dict(), "the last checkpoint has them too")
    record = {"model": made.name, "steps": recipe.steps, "samples": recipe.steps * recipe.batch}
    versions = {"metaclip": __version__, "torch": str(torch.__version__), "open_clip": open_clip.__version__}
    reasons = dict(made.loader.reasons)  # of the first rank's samples
    stage.finish({**record, "reasons": reasons, "versions": versions}, proof=(models.WEIGHTS, models.CONFIG))


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Take Ctrl-C and SIGTERM as a wish to stop after the step; the second one stops at once."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
