"""The gradients of a step, whole or in parts.

Law: in parts they are those of the whole batch (but for rounding), because the contrast is: every pair against all
pairs of all parts and all ranks. The features of all parts are computed first, without a graph; one loss over them
gives the gradient of each feature; then each part is computed again, with a graph, and takes its features' gradients
back through the model ("Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983).
open_clip's trainer computes the loss of the whole batch again for each part instead.

Cost: one more forward pass, so 4/3 of the time of a batch that fits; the memory of one part.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

Prepared = tuple[Any, Any]
"""Images float32[n, 3, height, width] and tokens int64[n, context]."""
Towers = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step computes with."""

    model: Any
    """open_clip's CLIP, maybe compiled, maybe one of many ranks'."""
    loss: Callable[[Any, Any, Any], Any]
    """open_clip's ClipLoss: of image features, text features and scale."""
    bf16: bool
    device: Any

    def backward(self, parts: Sequence[Callable[[], Prepared]]) -> Any:
        """Add the gradients of a batch to the parameters; give the loss of this rank, float32[], without a graph.

        A part is a function that gives it, so that only one is there as float32.
        """
        if len(parts) > 1:
            return self._in_parts(parts)
        with self._cast():
            image, text, scale = self._features(*parts[0]())
            value = self.loss(image, text, scale)
        value.backward()
        return value.detach()

    def _in_parts(self, parts: Sequence[Callable[[], Prepared]]) -> Any:
        states, features = [], []
        with torch.no_grad(), self._cast():
            for part in parts:
                states.append(self._generator())
                features.append(self._features(*part()))
        image: Any = torch.cat([one[0] for one in features]).requires_grad_()
        text: Any = torch.cat([one[1] for one in features]).requires_grad_()
        scale: Any = features[-1][2].detach().requires_grad_()
        with self._cast():
            value = self.loss(image, text, scale)
        value.backward()
        sizes = [len(one[0]) for one in features]
        del features
        gradients = list(zip(image.grad.split(sizes), text.grad.split(sizes), strict=True))
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            self._set_generator(states[number])  # what is dropped at random is what was dropped before
            with contextlib.nullcontext() if last else self._alone():
                with self._cast():
                    found = self._features(*part())
                torch.autograd.backward(found, (*gradients[number], scale.grad if last else torch.zeros_like(scale)))
        return value.detach()

    def _features(self, images: Any, tokens: Any) -> Any:
        return self.model(images, tokens)[:3]

    def _cast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _alone(self) -> Any:
        """Leave the gradients of a part on this rank; those of the last one take all others' along."""
        return self.model.no_sync() if hasattr(self.model, "no_sync") else contextlib.nullcontext()

    def _generator(self) -> Any:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()

    def _set_generator(self, state: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state, self.device)
        else:
            torch.set_rng_state(state)
