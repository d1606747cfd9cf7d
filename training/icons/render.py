"""The icons of one set of `@iconify/json`, rendered, each with its caption.

A set is a JSON file of the package: names, and the SVG of each. Everything in it is data of other people. Law:

- The licence that the set names must be one of LICENCES, else none of its icons is used.
- An icon is used under its own name only. Aliases (the same image under a second name) and hidden icons (renamed or
  withdrawn by their authors) are left out.
- A name must be words of a-z and 0-9 with hyphens between them; the caption is the name with spaces for the hyphens.
- resvg reads local files that an SVG refers to, so an icon with a reference to anything but its own elements is left out.
  Entities need a DOCTYPE, which cannot stand inside of an element. Without fonts and without the network, resvg then
  opens nothing. It bounds the number of nodes itself, BODY bounds the bytes, and feTurbulence, which can take minutes, is
  refused as well.
- Icons that resvg refuses, and those that are one colour from edge to edge, are left out. All that is left out is counted.

The image is the icon in the middle of a white square, in resvg's own PNG: its bytes depend on resvg's version alone.
Cost: 0.4 ms an icon of one colour at 32 pixels, 10 ms for the largest emoji.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from metaclip.errors import MetaclipError, import_extra, one_line

LICENCES: Final = ("Apache-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "OFL-1.1")
BODY: Final = 1 << 20
"""The most bytes of an icon's SVG."""
REASONS: Final = ("hidden", "name", "body", "refused", "not_rendered", "blank")
_NAME: Final = re.compile("[a-z0-9]+(?:-[a-z0-9]+)*")
_REFUSED: Final = re.compile(r"href\s*=\s*(?![\"']#)|feTurbulence")
_FRAME: Final = ("left", "top", "width", "height")
_DEFAULTS: Final = {"left": 0, "top": 0, "width": 16, "height": 16}


class Icon(NamedTuple):
    """A rendered icon."""

    uid: str
    name: str
    png: bytes


@dataclasses.dataclass(frozen=True)
class IconSet:
    """One set of the package."""

    name: str
    licence: str
    author: str
    url: str
    icons: Mapping[str, Any]
    frame: Mapping[str, Any]
    """The place and size of icons that name none of their own."""

    @classmethod
    def parse(cls, name: str, data: bytes) -> IconSet:
        """Parse a file of the package. Raise MetaclipError if it is not a set of icons."""
        try:
            found = json.loads(data)
            info, icons = found["info"], found["icons"]
            licence, author = info["license"], info["author"]
            if found["prefix"] != name or not isinstance(icons, dict):
                raise ValueError("it is another set")
            texts = (
                licence.get("spdx") or licence.get("title", ""),
                author["name"],
                author.get("url", ""),
            )
            spdx, person, url = (" ".join(str(text).split()) for text in texts)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MetaclipError(
                f"the set {name} of the package cannot be read ({one_line(error)}); leave it out, with --sets"
            ) from None
        return cls(name, spdx, person, url, icons, {**_DEFAULTS, **found})

    @property
    def permitted(self) -> bool:
        """Whether its licence allows to use and to share its icons with no more than attribution."""
        return self.licence in LICENCES

    def render(self, pixels: int, dropped: dict[str, int]) -> Iterator[Icon]:
        """Yield the icons as squares of `pixels`; count those left out in `dropped`, by reason."""
        for name, icon in self.icons.items():
            png, reason = self._image(name, icon, pixels)
            if reason:
                dropped[reason] = dropped.get(reason, 0) + 1
            else:
                yield Icon(uid_of(self.name, name), name, png)

    def _image(self, name: str, icon: Any, pixels: int) -> tuple[bytes, str]:
        """Return the image of an icon, or the reason why it is left out."""
        if not isinstance(icon, dict) or not isinstance(body := icon.get("body"), str):
            return b"", "body"
        if icon.get("hidden"):
            return b"", "hidden"
        if not _NAME.fullmatch(name):
            return b"", "name"
        frame = [icon.get(key, self.frame[key]) for key in _FRAME]
        if len(body) > BODY or not all(map(_is_size, frame)) or min(frame[2:]) <= 0:
            return b"", "body"
        if _REFUSED.search(body):
            return b"", "refused"
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{pixels}" height="{pixels}" viewBox="{" ".join(map(repr, frame))}">{body}</svg>'
        )
        png = render_svg(svg)
        if png is None:
            return b"", "not_rendered"
        return png, "blank" if _is_plain(png) else ""


def uid_of(icon_set: str, name: str) -> str:
    """Return the uid of an icon, 32 hex digits: the md5 of ``set:name``."""
    return hashlib.md5(f"{icon_set}:{name}".encode()).hexdigest()


def caption_of(name: str) -> str:
    """Return the caption of an icon: its name with spaces for hyphens."""
    return name.replace("-", " ")


def render_svg(svg: str) -> bytes | None:
    """Return an SVG as PNG on white, or None if resvg refuses it."""
    resvg = import_extra("resvg", "icons", "rendering icons")
    try:
        tree = resvg.usvg.Tree.from_str(svg, _options())
        png: bytes = resvg.render(tree, (1, 0, 0, 0, 1, 0), bg_color=(255, 255, 255, 255))
    except BaseException as error:  # a panic of Rust is no Exception
        if type(error).__name__ != "PanicException" and not isinstance(error, Exception):
            raise
        return None
    return png


@functools.cache
def _options() -> Any:
    """Return resvg's options: no fonts, no folder of resources."""
    return import_extra("resvg", "icons", "rendering icons").usvg.Options.default()


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_plain(png: bytes) -> bool:
    """Return whether an image is one colour from edge to edge."""
    import io

    from PIL import Image

    if len(png) > 256:  # 102 bytes at 32 pixels, 170 at 64
        return False
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return image.convert("RGB").getcolors(1) is not None
