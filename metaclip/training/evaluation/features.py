"""Images and texts as vectors of a model, in batches.

An image that cannot be decoded ends its task, because a score over what is left is the score of another set.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from metaclip.errors import MetaclipError, one_line
from metaclip.training.evaluation.images import FORMATS, Images
from metaclip.training.models import Clip

Precision = Literal["fp32", "bf16", "fp16"]


class _Decoded:
    """What torch's DataLoader asks for by place: a tensor, or one line that says what is wrong."""

    def __init__(self, images: Images, transform: Any) -> None:
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> Any:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self._images.read(place)), formats=FORMATS) as image:
                return self._transform(image.convert("RGB"))
        except Exception as error:  # decoders raise whatever they come upon
            # Without the address that PIL shows of the buffer it was given.
            why = re.sub(r"<_io\.\w+ object at 0x[0-9a-f]+>", "its bytes", one_line(error))
            return (
                f"the image {self._images.name(place)} cannot be decoded ({why}); put a whole one there, or take it out"
            )


def _batch(items: list[Any]) -> Any:
    import torch

    wrong = [item for item in items if isinstance(item, str)]
    return wrong[0] if wrong else torch.stack(items)


def encode_images(
    clip: Clip, images: Images, *, device: str, precision: Precision, batch: int, workers: int
) -> Iterator[tuple[int, Any]]:
    """Give the features of images batch by batch: the place of the first one, float32[n, width], of length 1.

    Raise MetaclipError for an image that cannot be read.
    """
    import torch
    from torch.utils.data import DataLoader

    data: Any = _Decoded(images, clip.transform)
    loader: Any = DataLoader(
        data, batch_size=batch, num_workers=workers, collate_fn=_batch, pin_memory=device.startswith("cuda")
    )
    first = 0
    try:
        for made in loader:
            if isinstance(made, str):
                raise MetaclipError(made)
            with torch.inference_mode(), autocast(device, precision):
                features = clip.model.encode_image(made.to(device, non_blocking=True), normalize=True)
            yield first, features.float()
            first += len(made)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MetaclipError(
            f"a process that decodes died ({one_line(error, 120)}); the same command goes on, with fewer --workers if "
            "memory ran out"
        ) from None


def encode_texts(clip: Clip, texts: Sequence[str], *, device: str, precision: Precision, batch: int) -> Any:
    """Give the features of texts: float32[n, width], of length 1."""
    import torch

    made = []
    with torch.inference_mode(), autocast(device, precision):
        for begin in range(0, len(texts), batch):
            tokens = clip.tokenizer(texts[begin : begin + batch]).to(device)
            made.append(clip.model.encode_text(tokens, normalize=True).float())
    return torch.cat(made)


def autocast(device: str, precision: Precision) -> Any:
    """Give torch's context of a precision; "fp32" is none."""
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.partition(":")[0], dtype=kinds[precision], enabled=precision != "fp32")
