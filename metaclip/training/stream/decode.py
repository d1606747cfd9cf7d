"""The images and texts of samples, decoded as training and `metaclip inspect` do it: same formats, limits and reasons.

JPEG, PNG and WebP are read, whatever a name says. An image of more than 64 MB, or whose header claims more pixels than
the limit, is oversized and never decoded. Of an animated image the first frame is taken; modes such as CMYK, palettes and
16 bits become RGB as Pillow converts them; an image that ends early is broken.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from metaclip.errors import one_line
from metaclip.reshard.index import TXT

MAX_BYTES: Final = 1 << 26
MAX_PIXELS: Final = 1 << 26
OVERSIZED: Final = "oversized_image"
BROKEN: Final = "broken_image"
FORMATS: Final = ("JPEG", "PNG", "WEBP")
_DETAIL: Final = 120  # characters of a reason in words


class Decoded(NamedTuple):
    """A decoded image, or why it could not be decoded; what its header says, as far as it was read."""

    image: Any = None
    """What `convert` returned; None if the image cannot be used."""
    reason: str = ""
    """OVERSIZED or BROKEN; "" if nothing is wrong."""
    detail: str = ""
    """The reason in words."""
    form: str = ""
    width: int = 0
    height: int = 0


def to_rgb(image: Any) -> Any:
    """Return a PIL image in RGB, without its transparency."""
    image.info.pop("transparency", None)  # Pillow warns of that of some palettes
    return image.convert("RGB")


def decode_image(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    convert: Callable[[Any], Any] = to_rgb,
    formats: tuple[str, ...] = FORMATS,
) -> Decoded:
    """Decode an image by `convert`, a function of the opened PIL image that reads its pixels."""
    from PIL import Image

    if len(data) > MAX_BYTES:
        return too_many_bytes(len(data))
    form, width, height = "", 0, 0
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            form, (width, height) = image.format or "", image.size
            if width * height > max_pixels:
                detail = f"{width} x {height} pixels, at most {max_pixels} are decoded"
                return Decoded(None, OVERSIZED, detail, form, width, height)
            return Decoded(convert(image), form=form, width=width, height=height)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Decoded(None, OVERSIZED, one_line(error, _DETAIL), form, width, height)
    except Exception as error:  # decoders raise exceptions of any kind
        return Decoded(None, BROKEN, _in_words(error), form, width, height)


def too_many_bytes(size: int) -> Decoded:
    """Return the outcome of an image of so many bytes, which is not read."""
    return Decoded(None, OVERSIZED, f"{size} bytes, at most {MAX_BYTES} are read")


def _in_words(error: Exception) -> str:
    """Return the message of a decoder, without the address of the object that it read from."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG or WebP"
    return one_line(error, _DETAIL)


def parse_texts(data: bytes, source: str) -> tuple[list[str], str]:
    """Return the texts of a sample, at least one, or the reason why there is none.

    `data` is its `.txt` if `source` is TXT, else its fields, of which `source` is the one with the text or with several.
    """
    try:
        if source == TXT:
            return [data.decode()], ""
        value = json.loads(data)[source]
    except UnicodeDecodeError:
        return [], "invalid_utf8"
    except (KeyError, TypeError, ValueError):
        return [], "missing_text"
    texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else [value]
    if not texts or texts == [None]:
        return [], "missing_text"
    return [text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for text in texts], ""
