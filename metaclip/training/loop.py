"""The training loop: forward, backward, optimiser step; a line of metrics and a checkpoint when they are due.

It waits for the GPU only to write a line or a checkpoint, and otherwise for the step before the running one, so that there
is always a step to run.

A batch may be computed in parts. Law: its gradients are those of the whole batch (but for rounding), because the contrast
is: every pair against all pairs of all parts and all ranks. The features of all parts are computed first, without a graph;
one loss over them yields the gradient of each feature; then each part is computed again, with a graph, and the gradients of
its features are propagated through the model ("Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
arXiv 2101.06983). open_clip's trainer computes the loss of the whole batch again for each part instead.
Cost of parts: one more forward pass, so 4/3 of the time of a batch that fits; the memory of one part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from metaclip.errors import Interrupted
from metaclip.training import batches, checkpoint, flops, models, optimiser
from metaclip.training.metrics import Metrics
from metaclip.training.ranks import Ranks, loading_processes
from metaclip.training.stream import Loader, Stream
from metaclip.training.train_recipe import TrainOptions, TrainRecipe

Report = Callable[[Mapping[str, Any]], None]
Say = Callable[[str], None]


class Loop:
    """A run in progress: its model, its optimiser and its data."""

    def __init__(
        self, recipe: TrainRecipe, options: TrainOptions, ranks: Ranks, folder: Path, name: str, stream: Stream, size: int,
        report: Report, say: Say,
    ) -> None:  # fmt: skip
        """Make everything, or restore it from the last checkpoint; `size` is the number of samples of a part."""
        self.recipe, self.options, self.ranks, self.folder, self.name = (
            recipe,
            options,
            ranks,
            folder,
            name,
        )
        self.report: Report = report
        torch.manual_seed(recipe.seed)
        self.model = models.create(name)
        if options.checkpointing:
            self.model.set_grad_checkpointing()
        if ranks.first:
            models.write_config(folder, name, self.model)
        crop, mean, deviation = models.training_crop(self.model, recipe.crop)
        self.model.to(ranks.device, memory_format=torch.channels_last).train()
        # Before the generators are restored: a model that drops patches draws here.
        self.flops = _seconds_at_peak(self.model, ranks)
        self.optimiser = optimiser.make_optimiser(recipe, self.model)
        self.step, state = checkpoint.resume(
            folder, name, self.model, self.optimiser, ranks, say if ranks.first else ignore
        )
        if self.step and ranks.first:
            say(f"going on after step {self.step:,}")
        on_gpu = ranks.device.type == "cuda"
        tokenizer = models.tokenizer_of(name)
        self.loader = Loader(
            dataclasses.replace(stream, transform=functools.partial(batches.crop_to_bytes, crop)), size, rank=ranks.rank,
            ranks=ranks.ranks, state=state, workers=loading_processes(options.workers, ranks.device),
            collate=functools.partial(batches.collate, tokenizer), pin_memory=on_gpu,
        )  # fmt: skip
        self.batches = batches.Batches(self.loader, ranks.device, options.accumulate)
        shift, scale = (
            torch.tensor(values, device=ranks.device).view(3, 1, 1) for values in (mean, deviation)
        )
        self.to_floats = functools.partial(batches.to_floats, mean=shift, deviation=scale)

    def run(self, asked: threading.Event) -> None:
        """Do all steps that are left. Raise Interrupted, after writing a checkpoint, if it is asked to stop."""
        device, on_gpu = self.ranks.device, self.ranks.device.type == "cuda"
        model = torch.compile(self.model) if self.options.compile else self.model
        if self.ranks.ranks > 1:
            devices = [device] if on_gpu else None
            model = DistributedDataParallel(
                model, devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        loss_of = models.import_open_clip().ClipLoss(
            local_loss=True,
            gather_with_grad=True,
            cache_labels=True,
            rank=self.ranks.rank,
            world_size=self.ranks.ranks,
        )
        metrics = Metrics(
            self.ranks, self.folder, self.recipe.batch, self.flops, self.step, self.options.tensorboard
        )
        make_event: Any = torch.cuda.Event  # it has no annotations
        running: list[Any] = []
        with contextlib.closing(iter(self.batches)) as following, contextlib.closing(metrics):
            while self.step < self.recipe.steps:
                if len(running) == 2:
                    running.pop(0).synchronize()
                parts = next(following)
                rate = optimiser.learning_rate(self.recipe, self.step)
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                self.optimiser.zero_grad()
                inputs = [functools.partial(self._inputs, part) for part in parts]
                loss = add_gradients(model, loss_of, inputs, device, self.recipe.precision == "bf16")
                self.optimiser.step()
                optimiser.bound_scale(self.model)
                if on_gpu:
                    running.append(make_event())
                    running[-1].record()
                uids = [uid for part in parts for uid in part.uids]
                metrics.add(loss, uids)
                self.step += 1
                ending = self.step == self.recipe.steps
                save = ending or self.step % self.options.save_every == 0
                # One process may stop at any step, many only when they communicate anyway.
                stop = asked.is_set() and self.ranks.ranks == 1
                if save or stop or self.step % self.options.log_every == 0:
                    scale = self.model.logit_scale.detach().exp()
                    line = metrics.write(self.step, scale, rate, self.batches.waited)
                    if self.ranks.first:
                        self.report({**line, "steps": self.recipe.steps})
                    stop = any(self.ranks.gather(asked.is_set()))
                if save or stop:
                    self._save(metrics, uids)
                if stop and not ending:
                    raise Interrupted(
                        f"stopped after step {self.step:,}, with a checkpoint; the same command goes on"
                    )

    def _save(self, metrics: Metrics, uids: list[str]) -> None:
        """Write a checkpoint. Raise MetaclipError if the weights are not finite after the batch of `uids`."""
        norms = torch.stack(torch._foreach_norm([p.detach() for p in self.model.parameters()]))
        if not bool(norms.isfinite().all()):
            metrics.stop(self.step - 1, ["finite, but the weights are not after it,"], uids)
        place, keep = self.loader.state(), self.options.keep
        checkpoint.save(
            self.folder, self.step, self.name, self.model, self.optimiser, place, self.ranks, keep
        )

    def _inputs(self, part: batches.Part) -> tuple[Any, Any]:
        return self.to_floats(part.images), part.tokens


def add_gradients(
    model: Any,
    loss_of: Callable[..., Any],
    parts: Sequence[Callable[[], tuple[Any, Any]]],
    device: Any,
    bf16: bool,
) -> Any:
    """Add the gradients of a batch to the parameters; return the loss of this rank, float32[], without a graph.

    `model` is open_clip's CLIP, compiled or not, of one rank or of many; `loss_of` is its ClipLoss, a function of image
    features, text features and scale. A part is a function that returns its images, float32[n, 3, height, width], and
    tokens, int64[n, context], so that only one part at a time exists as float32.
    """
    cast = functools.partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)
    if len(parts) == 1:
        with cast():
            value = loss_of(*model(*parts[0]())[:3])
        value.backward()
        return value.detach()
    states, features = [], []
    with torch.no_grad(), cast():
        for part in parts:
            states.append(checkpoint.generators(device))
            features.append(model(*part())[:3])
    image: Any = torch.cat([one[0] for one in features]).requires_grad_()
    text: Any = torch.cat([one[1] for one in features]).requires_grad_()
    scale: Any = features[-1][2].detach().requires_grad_()
    with cast():
        value = loss_of(image, text, scale)
    value.backward()
    sizes = [len(one[0]) for one in features]
    del features
    gradients = list(zip(image.grad.split(sizes), text.grad.split(sizes), strict=True))
    # The gradients of a part stay on this rank; with those of the last one, all are averaged over ranks.
    alone = getattr(model, "no_sync", contextlib.nullcontext)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        checkpoint.set_generators(
            states[number], device
        )  # what is dropped at random is what was dropped before
        with contextlib.nullcontext() if last else alone():
            with cast():
                found = model(*part())[:3]
            torch.autograd.backward(
                found, (*gradients[number], scale.grad if last else torch.zeros_like(scale))
            )
    return value.detach()


def _seconds_at_peak(model: Any, ranks: Ranks) -> float | None:
    """Return what a sample takes of the peak of the GPUs of all ranks, in seconds; None if the peak is not known."""
    if ranks.device.type != "cuda":
        return None
    peak = flops.peak(torch.cuda.get_device_name(ranks.device))
    return None if peak is None else flops.sample_flops(model, ranks.device) / (peak * ranks.ranks)


@contextlib.contextmanager
def fast_matmuls(device: Any) -> Iterator[None]:
    """Let a GPU use its matrix units for float32 too, and search for the fastest convolutions, for the length of a block."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.benchmark = before[1]


def ignore(_: Any) -> None:
    """Do nothing with a line."""
