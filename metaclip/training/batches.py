"""Batches on the device: loading processes crop and tokenise, and the copy of a batch runs during the step before it.

Images travel as bytes, as the decoder returns them, and become floats on the device: a quarter of what open_clip's trainer
sends through shared memory and over the bus. The copy has a CUDA stream of its own, so it takes no time from the steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from metaclip.errors import MetaclipError, one_line
from metaclip.training.stream import Loader, Sample


class Part(NamedTuple):
    """A part of the batch of a rank; the whole of it if gradients are not accumulated."""

    images: Any
    """uint8[n, height, width, 3]."""
    tokens: Any
    """int64[n, context]."""
    uids: list[str]


def crop_to_bytes(crop: Callable[[Any], Any], image: Any) -> Any:
    """Return a cropped PIL image as uint8[height, width, 3]: open_clip's transform up to its conversion to a tensor."""
    return np.array(crop(image))


def collate(tokenizer: Callable[[Any], Any], samples: Sequence[Sample]) -> Part:
    """Collate samples, with their texts as tokens."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return Part(
        images, tokenizer([sample.text for sample in samples]), [sample.uid for sample in samples]
    )


class Batches:
    """The parts of one batch after another, on the device; it measures how long it waits for the loader."""

    def __init__(self, loader: Loader, device: Any, parts: int) -> None:
        """Set the loader of the parts, and the number of parts of a batch."""
        self._loader, self._device, self._parts = loader, device, parts
        self.waited = 0.0
        """Seconds that were spent waiting for the loader."""

    def __iter__(self) -> Generator[list[Part], None, None]:
        """Yield the parts of each batch, without end. Raise MetaclipError if a loading process dies."""
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
                        f"a loading process died ({one_line(error, 120)}); the same command continues from the last "
                        "checkpoint, with fewer `workers=...` if memory ran out"
                    ) from error
                self.waited += time.perf_counter() - begin
                yield [self._copied(part, copies) for part in parts]

    def _copied(self, part: Part, copies: Any) -> Part:
        if copies is None:
            return part
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(copies):
            images, tokens = (
                one.to(self._device, non_blocking=True) for one in (part.images, part.tokens)
            )
        current.wait_stream(copies)
        for one in (images, tokens):
            one.record_stream(current)
        return Part(images, tokens, part.uids)


def to_floats(images: Any, mean: Any, deviation: Any) -> Any:
    """Return what open_clip's ToTensor and Normalize return: float32[n, 3, height, width], channels last.

    `images` are uint8[n, height, width, 3]; mean and deviation are float32[3, 1, 1] on the same device.
    """
    return images.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(deviation)
