"""From a stream to the device: crops and tokens made by the loader's processes, carried over while the step before runs.

Images travel as bytes, as the decoder gives them, and become numbers on the device: a quarter of what open_clip's
trainer carries through shared memory and the bus. The copy has a stream of its own, so it takes no time from the steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from metaclip.errors import MetaclipError, one_line
from metaclip.training.stream import Loader, Sample


class Part(NamedTuple):
    """A part of a rank's batch; the whole of it where nothing is accumulated."""

    images: Any
    """uint8[n, height, width, 3]."""
    tokens: Any
    """int64[n, context]."""
    uids: list[str]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The transform of a stream: what open_clip does up to the tensor, as bytes."""

    crop: Callable[[Any], Any]

    def __call__(self, image: Any) -> Any:
        """Make a PIL image uint8[height, width, 3]."""
        return np.array(self.crop(image))


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Puts samples together, with their texts as tokens."""

    tokenizer: Callable[[Any], Any]

    def __call__(self, samples: Sequence[Sample]) -> Part:
        """Make samples a batch."""
        import torch

        images = torch.from_numpy(np.stack([sample.image for sample in samples]))
        return Part(images, self.tokenizer([sample.text for sample in samples]), [sample.uid for sample in samples])


class Feed:
    """Gives each step its parts, on the device, and knows how long it waited for them."""

    def __init__(self, loader: Loader, device: Any, parts: int) -> None:
        """Take a loader of parts."""
        self._loader, self._device, self._parts = loader, device, parts
        self.waited = 0.0
        """Seconds spent on waiting for the loader, so far."""

    def steps(self) -> Generator[list[Part], None, None]:
        """Give the parts of a step, and the next, without end. Raise MetaclipError where a loading process dies."""
        import torch

        make_stream: Any = torch.cuda.Stream  # it has no annotations
        copies = make_stream(self._device) if self._device.type == "cuda" else None
        with contextlib.closing(iter(self._loader)) as batches:  # type: ignore[type-var]
            while True:
                begin = time.perf_counter()
                try:
                    parts = [next(batches) for _ in range(self._parts)]
                except RuntimeError as error:
                    if "DataLoader worker" not in str(error):
                        raise
                    raise MetaclipError(
                        f"a process that loads died ({one_line(error, 120)}); the same command goes on from the last "
                        "checkpoint, with fewer --workers if memory ran out"
                    ) from error
                self.waited += time.perf_counter() - begin
                yield [self._moved(part, copies) for part in parts]

    def _moved(self, part: Part, copies: Any) -> Part:
        import torch

        if copies is None:
            return part
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(copies):
            images, tokens = (one.to(self._device, non_blocking=True) for one in (part.images, part.tokens))
        current.wait_stream(copies)
        for one in (images, tokens):
            one.record_stream(current)
        return Part(images, tokens, part.uids)


def numbers(images: Any, mean: Any, deviation: Any) -> Any:
    """Make bytes what open_clip's ToTensor and Normalize make of them: float32[n, 3, height, width], channels last.

    Mean and deviation are float32[3, 1, 1] on the images' device.
    """
    return images.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(deviation)
