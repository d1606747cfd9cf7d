"""Train CLIP on a stream: the standard run ("Demystifying CLIP Data", arXiv 2309.16671, section 4).

    torchrun --nproc-per-node 8 -m metaclip train training/b32_400m.toml --tars tars/ --out run/

Law: on a processor the same recipe yields the same bytes, whether the run was killed and resumed or not; on any number of
ranks, in any number of parts, the same model but for rounding. A folder continues only with the recipe, the tars and the
balance that it began with; others are refused.

    train_recipe  what determines a run, and what does not     models      open_clip's models and their weights
    loop          the steps, and the gradients of a batch      optimiser   AdamW, learning rate, scale
    batches       from the stream to the device                checkpoint  what is saved and restored
    metrics       what is reported; losses that are not finite ranks       the processes and their devices
    flops         the cost of a sample, the peak of a GPU

Cost (tests/bench/bench_train.py): training/README.md has the table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from metaclip import __version__
from metaclip.curate.balancer import Balancer
from metaclip.errors import MetaclipError
from metaclip.pool.subset import Subset
from metaclip.reshard.index import Names
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage, StageSpec, digest_of
from metaclip.training import metrics, models
from metaclip.training.ranks import joined
from metaclip.training.stream import Stream
from metaclip.training.train_recipe import TABLE, DataRecipe, TrainOptions, TrainRecipe, with_paths

TRAIN: Final = StageSpec("train", (
    models.CHECKPOINTS, models.CONFIG, "model", models.WEIGHTS, metrics.METRICS, metrics.TENSORBOARD, metrics.NOT_FINITE,
    "recipe.toml",
))  # fmt: skip
SEMANTICS: Final = 1
"""Raised when the same recipe would yield another model."""


@dataclasses.dataclass(frozen=True)
class TrainRun:
    """The result of training: a folder (training/README.md names its files)."""

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
    report: Callable[[Mapping[str, Any]], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainRun:
    """Train a model by a recipe into a folder, or continue from the last checkpoint there.

    In a process that torchrun started it is one rank of many. `report` is called with each line of metrics, `say` with
    everything else that is worth a line. Raise MetaclipError for what the caller can correct, and Interrupted after Ctrl-C
    or SIGTERM, when a checkpoint is written.
    """
    options, folder = options or TrainOptions(), Folder(out)
    open_clip = models.import_open_clip()
    import torch

    from metaclip.training import checkpoint, loop

    with joined(options.device) as ranks, contextlib.ExitStack() as held:
        size, rest = divmod(recipe.batch, ranks.ranks * options.accumulate)
        if rest:
            raise MetaclipError(
                f"a batch of {recipe.batch} cannot be shared out to {ranks.ranks} ranks in {options.accumulate} parts each; "
                "change batch, the number of processes, or `accumulate=...`"
            )
        name = models.known(recipe.model)
        models.tokenizer_of(name)  # before anything is written and a large model is made
        if ranks.first:
            held.enter_context(folder.owned())
        held.enter_context(loop.fast_matmuls(ranks.device))
        stream = _open_stream(recipe.data, options.allow_lost)
        stage = Stage(folder, TRAIN)
        if ranks.first:
            names = {
                "data.stream": "the list of tars", "data.balance.subset": "the subset", "data.balance.list": "the query list",
                "data.balance.probability": "the balance",
            }  # fmt: skip
            stage.begin(_fingerprint(recipe, name, stream), options.overwrite, names=names)
            folder.write_recipe({TABLE: with_paths(recipe, os.path.abspath)})
        ranks.gather(None)
        if ranks.gather(bool(ranks.first and stage.finished()))[0]:
            return TrainRun(folder.path)
        ignore = loop.ignore
        with _leaving_nothing(stage) if ranks.first else contextlib.nullcontext():
            run = loop.Loop(
                recipe, options, ranks, folder.path, name, stream, size, report or ignore, say or ignore
            )
            run.run(held.enter_context(_stopping()))
        if ranks.first:
            checkpoint.write_tensors(
                folder / models.WEIGHTS, run.model.state_dict(), "the last checkpoint has the weights too"
            )
            record = {
                "model": name,
                "steps": recipe.steps,
                "samples": recipe.steps * recipe.batch,
                "reasons": dict(run.loader.reasons),  # of the first rank's samples
                "versions": {
                    "metaclip": __version__,
                    "torch": str(torch.__version__),
                    "open_clip": open_clip.__version__,
                },
            }
            stage.finish(record, proof=(models.WEIGHTS, models.CONFIG))
        return TrainRun(folder.path)


@contextlib.contextmanager
def _leaving_nothing(stage: Stage) -> Iterator[None]:
    """Remove what the block leaves, if it raises without a checkpoint or a report of losses that are not finite."""
    try:
        yield
    except BaseException:
        produced = [
            *(stage.folder / models.CHECKPOINTS).glob("*.pt"),
            *stage.folder.path.glob(metrics.NOT_FINITE),
        ]
        if not produced:
            stage.clear()
        raise


def _open_stream(data: DataRecipe, allow_lost: bool) -> Stream:
    """Open the stream of a recipe. Raise MetaclipError if it names no samples, or a subset without any."""
    if data.tars is None:
        raise MetaclipError(
            "the recipe names no tars to train on; give `tars=...`, or tars in its table [train.data]"
        )
    keep: Subset | Balancer | None = None
    if data.subset is not None:
        keep = Subset(data.subset)
        if not len(keep):
            raise MetaclipError(f"the subset {data.subset} is empty; give a run's curated.npy")
    elif data.balance is not None:
        keep = Balancer(data.balance, data.t, least=data.least)
    return Stream(
        data.tars, seed=data.seed, keep=keep, names=Names(text=data.text), allow_lost=allow_lost
    )


def _fingerprint(recipe: TrainRecipe, name: str, stream: Stream) -> dict[str, Any]:
    """Return everything that determines the result; the data by its content, not by its path."""
    table = dataclasses.asdict(recipe)
    del table["model"], table["data"]
    keep, drawn = stream.keep, dict[str, Any]()
    if isinstance(keep, Subset):
        drawn = {"subset": keep.digest()}
    elif isinstance(keep, Balancer):
        drawn = {
            "list": keep.matcher.metadata.digest,
            "rule": keep.matcher.rule.identity,
            "probability": digest_of(keep.probability.tolist()),
            "t": keep.t,
            "seed": keep.seed,
            **({"least": keep.least} if keep.least else {}),
            **({"languages": keep.routing} if keep.routing else {}),
        }
    model = {"name": name, **models.import_open_clip().get_model_config(name)}
    data = {"stream": stream.identity, "samples": len(stream), "text": recipe.data.text, "balance": drawn}
    return {"semantics": SEMANTICS, "model": model, "train": table, "data": data}


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets, to stop after the step; a second signal stops at once."""
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
