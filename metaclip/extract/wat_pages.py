"""Reads a page and its images from the JSON of a WAT record.

Only the fields that are needed become Python values; all other strings are skipped (msgspec: 84 ms for the 1,032 pages, 31 MB,
of the real WAT of the tests, where decoding everything takes 300 ms). A record in which a field has another type (a number
for a text, a lone surrogate) is decoded as a whole by `read_any_wat_page`, and read as far as possible; that function is the
oracle of the tests.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from metaclip.extract.html_pages import Image, Page
from metaclip.extract.opt_outs import HEADER, HEADERS, LINK, LINK_IN_HEAD, META, Signal
from metaclip.extract.settings import DEFAULTS, ExtractSettings
from metaclip.extract.urls import BaseUrl

_MAX_ANY: Final = 1 << 24
_IMG: Final = "IMG@/src"
_RESPONSE: Final = ("Envelope", "Payload-Metadata", "HTTP-Response-Metadata")
_HTML: Final = (*_RESPONSE, "HTML-Metadata")
_URI: Final = ("Envelope", "WARC-Header-Metadata", "WARC-Target-URI")

Buffer = bytes | memoryview


def read_wat_page(block: Buffer, settings: ExtractSettings = DEFAULTS) -> Page | None:
    """Read a WAT record; return None if it describes no HTML page. Raise ValueError if it is not JSON."""
    titles = settings.titles
    try:
        record = _decoder(titles).decode(block)
    except (ValueError, RecursionError):
        return read_any_wat_page(block, titles)
    html, url = _field(record, _HTML), _field(record, _URI)
    if html is None or not url:
        return None
    images: list[Image] = [
        (x.url, x.alt, (x.title,) if titles and x.title else (), False)
        for x in html.Links
        if x.path == _IMG
    ]
    head = html.Head
    metas = [(meta.name, meta.content) for meta in head.Metas] if head else []
    links = [
        [(link.rel, link.url) for link in some if link.path != _IMG]
        for some in (head.Link if head else [], html.Links)
    ]
    signals = _signals(metas, _field(record, _RESPONSE).Headers, *links)
    return Page(url, BaseUrl.of_page(url, _field(html, ("Head", "Base"))), images, signals=signals)


def _signals(
    metas: Iterable[tuple[str, str]],
    headers: dict[str, Any],
    head_links: Iterable[tuple[str, str]],
    links: Iterable[tuple[str, str]],
) -> list[Signal]:
    """Return what a page says about its use; links are given as (rel, address)."""
    found = [Signal(META, name, content) for name, content in metas if name]
    for name, value in headers.items():
        if name.isascii() and name.lower() in HEADERS:
            values = value if isinstance(value, list) else [value]
            found += [Signal(HEADER, name, text) for text in values if isinstance(text, str)]
    for kind, some in ((LINK_IN_HEAD, head_links), (LINK, links)):
        found += [Signal(kind, rel, url) for rel, url in some if rel or "creativecommons" in url.lower()]
    return found


@functools.cache
def _decoder(titles: bool) -> Any:
    """Return a decoder of the fields that are needed, named as in the WAT, with underscores for hyphens."""

    def struct(name: str, *fields: tuple[str, Any]) -> Any:
        optional = [
            (key.replace("-", "_"), kind | None, msgspec.field(default=None, name=key))
            for key, kind in fields
        ]
        return msgspec.defstruct(name, optional)

    texts = ("path", "url", "alt", "rel", *(("title",) if titles else ()))
    link: Any = msgspec.defstruct("Link", [(key, str, "") for key in texts], gc=False)
    meta: Any = msgspec.defstruct("Meta", [("name", str, ""), ("content", str, "")], gc=False)
    many: Any = msgspec.field(default_factory=list)
    in_head = [("Base", str | None, None), ("Metas", list[meta], many), ("Link", list[link], many)]
    head: Any = msgspec.defstruct("Head", in_head)
    html = msgspec.defstruct("Html", [("Head", head | None, None), ("Links", list[link], many)])
    headers: Any = ("Headers", dict[str, Any], msgspec.field(default_factory=dict))
    response: Any = msgspec.defstruct(
        "Response",
        [("HTML_Metadata", html | None, msgspec.field(default=None, name="HTML-Metadata")), headers],
    )
    payload = struct("Payload", ("HTTP-Response-Metadata", response))
    header = struct("Header", ("WARC-Target-URI", str))
    envelope = struct("Envelope", ("Payload-Metadata", payload), ("WARC-Header-Metadata", header))
    return msgspec.json.Decoder(struct("Record", ("Envelope", envelope)))


def _field(value: Any, keys: tuple[str, ...]) -> Any:
    """Return the field of a decoded record that a path of keys leads to; None if there is none."""
    for key in keys:
        value = getattr(value, key.replace("-", "_"), None)
    return value


def read_any_wat_page(block: Buffer, titles: bool = False) -> Page | None:
    """Read whatever can be read of a WAT record. Raise ValueError if it is not JSON, or over 16 MiB, which take 400 MB."""
    if len(block) > _MAX_ANY:
        raise ValueError(f"over {_MAX_ANY} bytes")
    try:
        record = json.loads(bytes(block))
    except RecursionError:
        raise ValueError("nested too deep") from None

    def field(*keys: str) -> Any:
        value = record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def text(value: Any) -> str:
        return value if isinstance(value, str) else ""

    url, links = text(field(*_URI)), field(*_HTML, "Links")
    if not url or not isinstance(field(*_HTML), dict):
        return None
    images: list[Image] = [
        (
            text(link.get("url")),
            text(link.get("alt")),
            tuple(filter(None, [text(link.get("title"))] * titles)),
            False,
        )
        for link in (links if isinstance(links, list) else ())
        if isinstance(link, dict) and link.get("path") == _IMG
    ]

    def objects(value: Any) -> list[dict[str, Any]]:
        return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

    headers = field(*_RESPONSE, "Headers")
    in_head, on_page = (
        [
            (text(link.get("rel")), text(link.get("url")))
            for link in objects(some)
            if link.get("path") != _IMG
        ]
        for some in (field(*_HTML, "Head", "Link"), links)
    )
    metas = [
        (text(meta.get("name")), text(meta.get("content")))
        for meta in objects(field(*_HTML, "Head", "Metas"))
    ]
    signals = _signals(metas, headers if isinstance(headers, dict) else {}, in_head, on_page)
    return Page(url, BaseUrl.of_page(url, text(field(*_HTML, "Head", "Base"))), images, signals=signals)
