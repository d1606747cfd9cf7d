"""The images of a page as a WAT has them: of a record's JSON, its page and those of its links that are images.

Of a record only the fields that are asked for become values (msgspec: 84 ms for the 1,032 pages of 31 MB in the tests'
real WAT, where decoding all takes 300); other strings are passed over. A record in which a field is of another type (a
number for a text, half a surrogate) is decoded whole, and read as far as it can be: the same, and the oracle of the tests.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Final

import msgspec

from metaclip.extract.addresses import Base
from metaclip.extract.pages import PLAIN, Image, Page, Wanted

_IMG: Final = "IMG@/src"
_HTML: Final = ("Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata")
_URI: Final = ("Envelope", "WARC-Header-Metadata", "WARC-Target-URI")

Buffer = bytes | memoryview


def read(block: Buffer, wanted: Wanted = PLAIN) -> Page | None:
    """Read a WAT record; None where it is of no HTML page. Raise ValueError where it is not JSON."""
    try:
        record = _decoder(wanted.titles).decode(block)
    except (ValueError, RecursionError):
        return read_any(block, wanted.titles)
    html, url = _at(record, _HTML), _at(record, _URI)
    if html is None or not url:
        return None
    images: list[Image]
    if wanted.titles:
        images = [(x.url, x.alt, (x.title,) if x.title else (), False) for x in html.Links if x.path == _IMG]
    else:
        images = [(link.url, link.alt, (), False) for link in html.Links if link.path == _IMG]
    return Page(url, Base.of(url, _at(html, ("Head", "Base"))), images)


@functools.cache
def _decoder(titles: bool) -> Any:
    """Make what decodes a record to the fields that are asked for, named as in the WAT but for hyphens."""

    def struct(name: str, *fields: tuple[str, Any]) -> Any:
        given = [(key.replace("-", "_"), kind | None, msgspec.field(default=None, name=key)) for key, kind in fields]
        return msgspec.defstruct(name, given)

    texts = ("path", "url", "alt", *(("title",) if titles else ()))
    link: Any = msgspec.defstruct("Link", [(key, str, "") for key in texts], gc=False)
    head = struct("Head", ("Base", str))
    html = msgspec.defstruct(
        "Html", [("Head", head | None, None), ("Links", list[link], msgspec.field(default_factory=list))]
    )
    payload = struct("Payload", ("HTTP-Response-Metadata", struct("Response", ("HTML-Metadata", html))))
    header = struct("Header", ("WARC-Target-URI", str))
    envelope = struct("Envelope", ("Payload-Metadata", payload), ("WARC-Header-Metadata", header))
    return msgspec.json.Decoder(struct("Record", ("Envelope", envelope)))


def _at(value: Any, keys: tuple[str, ...]) -> Any:
    """Follow keys through a record's fields; None where one is not there."""
    for key in keys:
        value = getattr(value, key.replace("-", "_"), None)
    return value


def read_any(block: Buffer, titles: bool = False) -> Page | None:
    """Read what can be read of a WAT record, whatever stands in it. Raise ValueError where it is not JSON."""
    try:
        found = json.loads(bytes(block))
    except RecursionError:
        raise ValueError("nested too deep") from None

    def at(*keys: str) -> Any:
        value = found
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def text(value: Any) -> str:
        return value if isinstance(value, str) else ""

    url = text(at(*_URI))
    if not url or not isinstance(at(*_HTML), dict):
        return None
    listed = at(*_HTML, "Links")
    links = [link for link in listed if isinstance(link, dict)] if isinstance(listed, list) else []
    images: list[Image] = [
        (text(link.get("url")), text(link.get("alt")), tuple(filter(None, [text(link.get("title"))] * titles)), False)
        for link in links
        if link.get("path") == _IMG
    ]
    return Page(url, Base.of(url, text(at(*_HTML, "Head", "Base"))), images)
