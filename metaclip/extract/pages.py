"""The images of a page, in its order: of HTML as browsers parse it, or of a WAT's JSON (`wat`); their texts.

What a WAT cannot say: captions, ``srcset``, lazy-loading attributes, sizes; it names an image only where ``<img>`` has
a ``src``. What it says is what HTML says, the same pairs from both (tests: the iana crawl, as both).

HTML: 0.5 ms a page of 30 kB (resiliparse).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from metaclip.extract.addresses import Base
from metaclip.extract.packages import needed

LAZY: Final = (
    "data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-url", "data-image",
    "data-hi-res-src", "data-full-src", "data-large-file",
)  # fmt: skip
"""Attributes in which scripts keep the address of an image that is loaded later, in the order in which they are asked."""
_BLANKS: Final = re.compile("[\t\n\f\r ]+")
_DIRTY: Final = re.compile("[\t\n\f\r]|  |^ | \\Z")
_CANDIDATE: Final = re.compile(r"[\s,]*([^\s,]\S*[^\s,]|[^\s,])(?:\s+([\d.]+)([wx]))?\s*(?:,|\Z)")
_META: Final = re.compile(rb"<meta[^>]{0,512}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.I)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked of an image besides its ``src`` and ``alt``."""

    titles: bool = False
    captions: bool = False
    lazy: bool = False
    srcset: bool = False


PLAIN: Final = Wanted()

Image = tuple[str, str, tuple[str, ...], bool]
"""An image of a page, as it is written there: (link, alt, more, dot).

The link is not resolved, and "" where there is none; more are title and caption, where they are wanted; dot says that it is
declared to be at most 1 pixel wide or high. A plain tuple: a class takes longer to make than all else that is done with an
image without a text, and half of them have none.
"""


class Page(NamedTuple):
    """A page and its images."""

    url: str
    base: Base
    images: list[Image]


def text_of(raw: str) -> str:
    """Clean a text as HTML means it: runs of its blanks are one space, none at the ends. Others (U+00A0) are text."""
    return _BLANKS.sub(" ", raw).strip(" ") if _DIRTY.search(raw) else raw


def from_html(url: str, body: bytes, charset: str | None = None, wanted: Wanted = PLAIN) -> Page:
    """Parse a page of HTML; `charset` is what its HTTP header says. Raise ValueError where the parser gives up."""
    tree = needed("resiliparse.parse.html").HTMLTree.parse_from_bytes(body, charset_of(body, charset))
    document = tree.document
    base = document.query_selector("base[href]") if document is not None else None
    found = document.query_selector_all("img") if document is not None else ()
    images = [_image(element, wanted) for element in found]
    return Page(url, Base.of(url, base.getattr("href") if base is not None else None), images)


def charset_of(body: bytes, declared: str | None) -> str:
    """Tell the character set of a page as browsers do: mark at the beginning, HTTP, ``<meta>``; else by its bytes."""
    encoding = needed("resiliparse.parse.encoding")
    for mark, name in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16le"), (b"\xfe\xff", "utf-16be")):
        if body.startswith(mark):
            return name
    if declared and (known := encoding.map_encoding_to_html5(declared, fallback_utf8=False)):
        return str(known)
    meta = _META.search(body[:4096])
    if meta and (known := encoding.map_encoding_to_html5(meta[1].decode("latin-1"), fallback_utf8=False)):
        return "utf-8" if known.startswith("utf-16") else str(known)  # it was read as ASCII, so it is not that
    try:
        body.decode()
    except UnicodeDecodeError:
        return str(encoding.detect_encoding(body) or "utf-8")
    return "utf-8"


def _image(element: Any, wanted: Wanted) -> Image:
    def attribute(name: str) -> str:
        return element.getattr(name) or ""

    link = attribute("src")
    if wanted.lazy:
        link = next((value for name in LAZY if (value := attribute(name).strip())), link)
    if wanted.srcset:
        listed = (wanted.lazy and attribute("data-srcset")) or attribute("srcset")
        link = largest(listed) or link
    more = []
    if wanted.titles:
        more.append(attribute("title"))
    if wanted.captions:
        more.append(_caption(element))
    dot = any(_is_dot(attribute(name)) for name in ("width", "height"))
    return link, attribute("alt"), tuple(text for text in more if text), dot


def largest(srcset: str) -> str:
    """Give the address of the largest image of a ``srcset``, the first of equals; "" where there is none."""
    best, size = "", -1.0
    for link, number, unit in _CANDIDATE.findall(srcset):
        try:
            # Widths and densities never stand in one list; without either, the density is 1.
            found = float(number) if unit else 1.0
        except ValueError:
            continue
        if found > size:
            best, size = link, found
    return best


def _caption(element: Any) -> str:
    """Give the text of the ``<figcaption>`` of the nearest ``<figure>`` that an image stands in."""
    for above in _above(element):
        if above.tag == "figure":
            caption = above.query_selector("figcaption")
            return (caption.text or "") if caption is not None else ""
    return ""


def _above(element: Any) -> Iterator[Any]:
    while (element := element.parent) is not None:
        yield element


def _is_dot(size: str) -> bool:
    return size.strip().removesuffix("px") in ("0", "1")


def texts(alt: str, more: tuple[str, ...]) -> Sequence[str]:
    """Give the different texts of an image as they are written, those that are not empty when cleaned, its alt first."""
    if not more:
        return (alt,) if alt and text_of(alt) else ()
    found: dict[str, str] = {}
    for raw in (alt, *more):
        if cleaned := text_of(raw):
            found.setdefault(cleaned, raw)
    return tuple(found.values())
