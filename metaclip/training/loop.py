"""The loop: forward, backward, step; a line of metrics and a checkpoint when they are due.

It waits for the GPU only to write a line or a checkpoint, and otherwise for the step before the one that is running, so
that there is always one to run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from metaclip.errors import Interrupted
from metaclip.training import checkpoint, feed, flops, metrics, models, optimiser
from metaclip.training.ranks import Ranks
from metaclip.training.stream import Loader, Stream
from metaclip.training.train_recipe import TrainOptions, TrainRecipe

Report = Callable[[Mapping[str, Any]], None]
Say = Callable[[str], None]


class Loop:
    """A run that is under way: a model, its optimiser, its data, and what was told of it."""

    def __init__(
        self, recipe: TrainRecipe, options: TrainOptions, ranks: Ranks, folder: Path, name: str, stream: Stream, size: int,
        report: Report, say: Say,
    ) -> None:  # fmt: skip
        """Make all, or take it up from the last checkpoint; `size` is the number of samples of a part."""
        import torch

        self.recipe, self.options, self.ranks, self.folder, self.name = recipe, options, ranks, folder, name
        self.report: Report = report
        torch.manual_seed(recipe.seed)
        self.model = models.create(name)
        if options.checkpointing:
            self.model.set_grad_checkpointing()
        if ranks.first:
            models.write_config(folder, name, self.model)
        crop, mean, deviation = models.training_crop(self.model, recipe.crop)
        self.model.to(ranks.device, memory_format=torch.channels_last).train()
        # Before the generators are restored: a model that drops patches draws for it.
        peak = _peak(ranks)
        self.flops = None if peak is None else flops.sample_flops(self.model, ranks.device) / peak
        self.optimiser = optimiser.make_optimiser(recipe, self.model)
        found = checkpoint.last(folder, say if ranks.first else nothing)
        self.step = int(found["step"]) if found else 0
        state = checkpoint.restore(found, name, self.model, self.optimiser, ranks) if found else ()
        del found
        if self.step and ranks.first:
            say(f"going on after step {self.step:,}")
        on_gpu = ranks.device.type == "cuda"
        self.loader = Loader(
            dataclasses.replace(stream, transform=feed.Pixels(crop)), size, rank=ranks.rank, ranks=ranks.ranks, state=state,
            workers=_workers(options, on_gpu), collate=feed.Tokens(models.tokenizer(name)), pin_memory=on_gpu,
        )  # fmt: skip
        self.feed = feed.Feed(self.loader, ranks.device, options.accumulate)
        shape = [torch.tensor(values, device=ranks.device).view(3, 1, 1) for values in (mean, deviation)]
        self.numbers = functools.partial(feed.numbers, mean=shape[0], deviation=shape[1])

    def run(self, asked: threading.Event) -> None:
        """Go through all steps that are left. Raise Interrupted, with a checkpoint written, when it is asked to stop."""
        import torch

        step = self._step()
        window = metrics.Window(self.ranks, self.recipe.batch, self.flops)
        journal = metrics.Journal(self.folder, self.step, self.options.tensorboard) if self.ranks.first else None
        make_event: Any = torch.cuda.Event  # it has no annotations
        behind: list[Any] = []
        with contextlib.closing(self.feed.steps()) as batches, contextlib.closing(journal or contextlib.ExitStack()):
            while self.step < self.recipe.steps:
                if len(behind) == 2:
                    behind.pop(0).synchronize()
                parts = next(batches)
                rate = optimiser.learning_rate(self.recipe, self.step)
                optimiser.set_rate(self.optimiser, rate)
                self.optimiser.zero_grad()
                loss = step.backward([functools.partial(self._prepared, one) for one in parts])
                self.optimiser.step()
                optimiser.bound_scale(self.model)
                if self.ranks.device.type == "cuda":
                    behind.append(make_event())
                    behind[-1].record()
                window.add(loss, [uid for one in parts for uid in one.uids])
                self.step += 1
                ending = self.step == self.recipe.steps
                due = ending or self.step % self.options.save_every == 0
                told = due or self.step % self.options.log_every == 0
                # One process may stop at any step, many only where they talk anyway.
                stop = asked.is_set() and self.ranks.ranks == 1
                if told or stop:
                    scale = self.model.logit_scale.detach().exp()
                    line = window.close(self.step, scale, rate, self.feed.waited, self.folder)
                    if journal is not None and line is not None:
                        journal.write(line)
                        self.report({**line, "steps": self.recipe.steps})
                    stop = any(self.ranks.gather(asked.is_set()))
                if due or stop:
                    self._save(window)
                if stop and not ending:
                    raise Interrupted(f"stopped after step {self.step:,}, with a checkpoint; the same command goes on")

    def _step(self) -> Any:
        """Put together what computes a step; imported here, since it is made of torch."""
        import torch

        from metaclip.training.step import Step

        model = torch.compile(self.model) if self.options.compile else self.model
        loss = models.import_open_clip().ClipLoss(
            local_loss=True, gather_with_grad=True, cache_labels=True, rank=self.ranks.rank, world_size=self.ranks.ranks
        )
        return Step(self.ranks.parallel(model), loss, self.recipe.precision == "bf16", self.ranks.device)

    def _prepared(self, part: feed.Part) -> tuple[Any, Any]:
        return self.numbers(part.images), part.tokens

    def _save(self, window: metrics.Window) -> None:
        import torch

        norms = torch.stack(torch._foreach_norm([p.detach() for p in self.model.parameters()]))
        if not bool(norms.isfinite().all()):
            window.stop(self.step - 1, "finite, but the weights are not after it,", self.folder)
        place, keep = self.loader.state(), self.options.keep
        checkpoint.save(self.folder, self.step, self.name, self.model, self.optimiser, place, self.ranks, keep)


def _workers(options: TrainOptions, on_gpu: bool) -> int:
    if options.workers is not None:
        return options.workers
    return min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if on_gpu else 0


def _peak(ranks: Ranks) -> float | None:
    """Give what all ranks' GPUs together can do, in FLOP/s; None where it is not known."""
    import torch

    if ranks.device.type != "cuda":
        return None
    one = flops.peak(torch.cuda.get_device_name(ranks.device))
    return None if one is None else one * ranks.ranks


@contextlib.contextmanager
def fast(device: Any) -> Iterator[None]:
    """Let a GPU use its matrix units for float32 too, and look for the fastest convolution; as before afterwards."""
    import torch

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.benchmark = before[1]


def nothing(_: Any) -> None:
    """Tell no one."""
