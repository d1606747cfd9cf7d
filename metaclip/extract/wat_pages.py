"""Reads a page and its images from the JSON of a WAT record.

Only the fields that are needed become Python values; all other strings are skipped (msgspec: 84 ms for the 1,032 pages, 31 MB,
of the real WAT of the tests, where decoding everything takes 300 ms). A record in which a field has another type (a number
for a text, a lone surrogate) is decoded as a whole by `read_any_wat_page`, and read as far as possible; that function is the
oracle of the tests.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Final

import msgspec

from metaclip.extract.html_pages import Image, Page
from metaclip.extract.settings import DEFAULTS, ExtractSettings
from metaclip.extract.urls import BaseUrl

_MAX_ANY: Final = 1 << 24
_IMG: Final = "IMG@/src"
_HTML: Final = ("Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata")
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
    return Page(url, BaseUrl.of_page(url, _field(html, ("Head", "Base"))), images)


@functools.cache
def _decoder(titles: bool) -> Any:
    """Return a decoder of the fields that are needed, named as in the WAT, with underscores for hyphens."""

    def struct(name: str, *fields: tuple[str, Any]) -> Any:
        optional = [
            (key.replace("-", "_"), kind | None, msgspec.field(default=None, name=key))
            for key, kind in fields
        ]
        return msgspec.defstruct(name, optional)

    texts = ("path", "url", "alt", *(("title",) if titles else ()))
    link: Any = msgspec.defstruct("Link", [(key, str, "") for key in texts], gc=False)
    links: Any = ("Links", list[link], msgspec.field(default_factory=list))
    html = msgspec.defstruct("Html", [("Head", struct("Head", ("Base", str)) | None, None), links])
    payload = struct("Payload", ("HTTP-Response-Metadata", struct("Response", ("HTML-Metadata", html))))
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
    return Page(url, BaseUrl.of_page(url, text(field(*_HTML, "Head", "Base"))), images)
