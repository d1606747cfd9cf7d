"""Images and texts as feature vectors of a model, in batches.

An image that cannot be decoded ends its task, because a score over the others would be the score of another set.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from PIL import Image
from torch.utils.data import DataLoader

from metaclip.errors import MetaclipError, one_line
from metaclip.training.evaluation.evaluation_set import ImageFile
from metaclip.training.models import Clip, Precision

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")
"""Pillow's names of the formats of `metaclip.training.evaluation.evaluation_set.SUFFIXES`."""


def _decode(transform: Callable[[Any], Any], images: Sequence[ImageFile]) -> Any:
    """Return a batch of images as a tensor, or a line that says which image cannot be decoded."""
    decoded = []
    for image in images:
        try:
            with Image.open(io.BytesIO(image.read()), formats=_FORMATS) as opened:
                decoded.append(transform(opened.convert("RGB")))
        except Exception as error:  # decoders raise exceptions of any kind
            # Without the address of the buffer, which PIL shows.
            why = re.sub(r"<_io\.\w+ object at 0x[0-9a-f]+>", "its bytes", one_line(error))
            return f"the image {image} cannot be decoded ({why}); put a whole one there, or take it out"
    return torch.stack(decoded)


def encode_images(
    clip: Clip,
    images: Sequence[ImageFile],
    *,
    device: torch.device,
    precision: Precision,
    batch: int,
    workers: int,
) -> Iterator[Any]:
    """Yield the features of images in batches: float32[n, width], of length 1.

    Raise MetaclipError for an image that cannot be read.
    """
    data: Any = images
    loader: Any = DataLoader(
        data, batch_size=batch, num_workers=workers, collate_fn=functools.partial(_decode, clip.transform),
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    try:
        for made in loader:
            if isinstance(made, str):
                raise MetaclipError(made)
            with torch.inference_mode(), autocast(device, precision):
                features = clip.model.encode_image(made.to(device, non_blocking=True), normalize=True)
            yield features.float()
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MetaclipError(
            f"a decoding process died ({one_line(error, 120)}); the same command does the rest, with fewer `workers=...` if "
            "memory ran out"
        ) from None


def encode_texts(
    clip: Clip, texts: Sequence[str], *, device: torch.device, precision: Precision, batch: int
) -> Any:
    """Return the features of texts: float32[n, width], of length 1."""
    made = []
    with torch.inference_mode(), autocast(device, precision):
        for begin in range(0, len(texts), batch):
            tokens = clip.tokenizer(texts[begin : begin + batch]).to(device)
            made.append(clip.model.encode_text(tokens, normalize=True).float())
    return torch.cat(made)


def autocast(device: torch.device, precision: Precision) -> Any:
    """Return torch's context of a precision; "fp32" changes nothing."""
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtype=kinds[precision], enabled=precision != "fp32")
