"""A page and its images, read from HTML as browsers parse it; the texts of an image.

`wat_pages` reads the same pages from a WAT. A WAT has no captions, ``srcset``, lazy-loading attributes and sizes, and has an
image only if its ``<img>`` has a ``src``. What it has is equal: both forms of a crawl give the same pairs (tests: the iana
crawl, read from both).

Cost: 0.3 ms for a page of 30 kB, most of it in resiliparse's parser.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from metaclip.errors import import_extra
from metaclip.extract.opt_outs import HEADER, LINK, LINK_IN_HEAD, META, Signal
from metaclip.extract.settings import DEFAULTS, ExtractSettings
from metaclip.extract.urls import BaseUrl

LAZY_SRCSETS: Final = (
    "data-srcset",
    "data-lazy-srcset",
    "data-original-set",
    "data-src-set",
    "data-lazyload-srcset",
)
"""Attributes in which scripts keep a ``srcset`` that is loaded later."""
LAZY_ATTRIBUTES: Final = (
    "data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-url", "data-image",
    "data-hi-res-src", "data-full-src", "data-large-file",
)  # fmt: skip
"""Attributes in which scripts keep the address of an image that is loaded later; the first that is not empty counts."""
_BLANKS: Final = re.compile("[\t\n\f\r ]+")
_NEEDS_CLEANING: Final = re.compile("[\t\n\f\r]|  |^ | \\Z")
_SRCSET_ITEM: Final = re.compile(r"[\s,]*([^\s,]\S*[^\s,]|[^\s,])(?:\s+([\d.]+)([wx]))?\s*(?:,|\Z)")
_LICENSES: Final = '[rel~="license" i], [href*="creativecommons.org/" i]'
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_META_CHARSET: Final = re.compile(rb"<meta[^>]{0,512}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.I)


Image = tuple[str, str, tuple[str, ...], bool]
"""An image as the page has it: (link, alt, other texts, is pixel).

The link is not resolved, and "" if there is none; the other texts are title and caption, if they are read; the last says that
the image is declared to be at most 1 pixel wide or high. It is a plain tuple: creating an object would take longer than
everything else that is done with an image without a text, and half of them have none.
"""


class Page(NamedTuple):
    """A page and its images, in their order."""

    url: str
    base: BaseUrl
    images: list[Image]
    mended: bool = False
    """Whether the page is UTF-8 but for some bytes, which are shown as U+FFFD."""
    signals: Sequence[Signal] = ()
    """What the page says about its use."""


def clean_text(raw: str) -> str:
    """Collapse and strip the blanks of HTML, as browsers do; other blanks (U+00A0) are text."""
    return _BLANKS.sub(" ", raw).strip(" ") if _NEEDS_CLEANING.search(raw) else raw


def image_texts(alt: str, others: tuple[str, ...]) -> Sequence[str]:
    """Return the texts of an image, its alt first, as they are written; skip those that are empty or equal when cleaned."""
    if not others:
        return (alt,) if alt and clean_text(alt) else ()
    by_cleaned: dict[str, str] = {}
    for raw in (alt, *others):
        if cleaned := clean_text(raw):
            by_cleaned.setdefault(cleaned, raw)
    return tuple(by_cleaned.values())


def read_html_page(
    url: str,
    body: bytes,
    charset: str | None = None,
    settings: ExtractSettings = DEFAULTS,
    headers: Sequence[tuple[str, str]] = (),
) -> Page:
    """Parse a page; `charset` and `headers` are those of its response. Raise ValueError if the parser fails."""
    tree = import_extra("resiliparse.parse.html", "crawl", "extract").HTMLTree
    encoding, mended = detect_charset(body, charset), False
    if encoding == "utf-8" and not body.startswith(_UTF8_MARK):
        try:
            text = body.decode()
        except UnicodeDecodeError:  # for which the parser would take another character set
            text, mended = body.decode("utf-8", "replace"), True
        document = tree.parse(text).document
    else:
        document = tree.parse_from_bytes(body, encoding).document
    if document is None:
        return Page(url, BaseUrl(url), [], mended)
    signals = [Signal(HEADER, name, value) for name, value in headers]
    base = document.query_selector("base[href]")
    # A slice takes one walk. Each item of the parser's collections takes another, as they may change.
    elements = document.get_elements_by_tag_name("img")[:]
    captions = _Captions(document) if settings.captions and elements else None
    images = [_read_image(element, settings, captions) for element in elements]
    base_url = BaseUrl.of_page(url, base.getattr("href") if base is not None else None)
    return Page(url, base_url, images, mended, signals + _read_signals(document) if images else ())


def _read_signals(document: Any) -> list[Signal]:
    """Return the ``<meta>`` elements of a document that have a name, and its links that may lead to a licence."""
    found = [
        Signal(META, name, meta.getattr("content") or "")
        for meta in document.get_elements_by_tag_name("meta")[:]
        if (name := meta.getattr("name"))
    ]
    for link in document.query_selector_all(_LICENSES)[:]:
        if link.tag in ("a", "area", "link"):
            kind = LINK_IN_HEAD if link.tag == "link" else LINK
            found.append(Signal(kind, link.getattr("rel") or "", link.getattr("href") or ""))
    return found


def detect_charset(body: bytes, declared: str | None) -> str:
    """Return the character set of a page as browsers do: byte order mark, HTTP header, ``<meta>``, else a guess.

    The guess is UTF-8 if at most one in ten of the characters beyond ASCII is not valid.
    """
    encoding = import_extra("resiliparse.parse.encoding", "crawl", "extract")
    for mark, name in ((_UTF8_MARK, "utf-8"), (b"\xff\xfe", "utf-16le"), (b"\xfe\xff", "utf-16be")):
        if body.startswith(mark):
            return name
    if declared and (known := encoding.map_encoding_to_html5(declared, fallback_utf8=False)):
        return str(known)
    meta = _META_CHARSET.search(body[:4096])
    if meta and (known := encoding.map_encoding_to_html5(meta[1].decode("latin-1"), fallback_utf8=False)):
        # The tag was read as ASCII, so it is not UTF-16.
        return "utf-8" if known.startswith("utf-16") else str(known)
    try:
        body.decode()
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        invalid, beyond_ascii = text.count("\ufffd"), len(text) - len(text.encode("ascii", "ignore"))
        if 10 * invalid <= beyond_ascii:
            return "utf-8"
        return str(encoding.detect_encoding(body) or "utf-8")
    return "utf-8"


def _read_image(element: Any, settings: ExtractSettings, captions: _Captions | None) -> Image:
    def attribute(name: str) -> str:
        return element.getattr(name) or ""

    link = attribute("src")
    if settings.lazy:
        values = (attribute(name).strip() for name in LAZY_ATTRIBUTES)
        link = next((value for value in values if value and not _is_placeholder(value)), link)
    if settings.srcset:
        names = (*(LAZY_SRCSETS if settings.lazy else ()), "srcset")
        link = next(filter(None, (largest_of_srcset(attribute(name)) for name in names)), link)
    others = (settings.titles and attribute("title"), captions and captions.of(element))
    is_pixel = any(
        attribute(name).strip().removesuffix("px") in ("0", "1") for name in ("width", "height")
    )
    return link, attribute("alt"), tuple(text for text in others if text), is_pixel


def _is_placeholder(link: str) -> bool:
    return link[:5].lower() == "data:"


def largest_of_srcset(srcset: str) -> str:
    """Return the address of the largest image of a ``srcset``, the first of equals; "" if there is none.

    An image within the page (``data:``) stands for one that is loaded later, and is no image of the list.
    """
    best, largest = "", -1.0
    for link, number, unit in _SRCSET_ITEM.findall(srcset) if srcset else ():
        if _is_placeholder(link):
            continue
        try:
            # Widths and densities never stand in one list; an item without either has the density 1.
            size = float(number) if unit else 1.0
        except ValueError:
            continue
        if size > largest:
            best, largest = link, size
    return best


class _Captions:
    """The captions of the figures of a document, found in a time that is linear in its size."""

    def __init__(self, document: Any) -> None:
        """Find the first ``<figcaption>`` in each ``<figure>``, however deep; it may belong to a figure inside."""
        self._texts: dict[Any, str] = {}
        """The caption of each figure that has one."""
        self._figures: dict[Any, Any] = {}
        """The nearest figure around each element whose ancestors were visited; None if there is none."""
        self._has_figures = bool(document.get_elements_by_tag_name("figure")[:1])
        visited = set()
        for caption in document.get_elements_by_tag_name("figcaption")[:] if self._has_figures else ():
            element, text = caption.parent, None
            while (
                element is not None and element not in visited
            ):  # whose ancestors have a caption already
                visited.add(element)
                if element.tag == "figure":
                    text = (caption.text or "") if text is None else text
                    self._texts[element] = text
                element = element.parent

    def of(self, image: Any) -> str:
        """Return the text of the caption of the nearest figure around an image; "" if there is none."""
        if not self._has_figures:
            return ""
        path, element = [], image.parent
        while element is not None and element.tag != "figure" and element not in self._figures:
            path.append(element)
            element = element.parent
        figure = element if element is None or element.tag == "figure" else self._figures[element]
        self._figures.update(dict.fromkeys(path, figure))
        return self._texts.get(figure, "")
