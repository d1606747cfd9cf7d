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
    # Damage in these fields is no reason to lose the page: they are read as far as possible.
    metas, in_head = (_decoded(head.Metas), _decoded(head.Link)) if head else (None, None)
    data = bytes(block).lower()
    may_have_licenses = b"license" in data or b"creativecommons" in data or b"\\u" in data
    links = [
        {"rel": _decoded(x.rel), "url": x.url}
        for x in (html.Links if may_have_licenses else ())
        if x.path != _IMG and _may_be_license(bytes(x.rel), x.url)
    ]
    signals = _signals(metas, _decoded(_field(record, _RESPONSE).Headers), in_head, links)
    return Page(url, BaseUrl.of_page(url, _field(html, ("Head", "Base"))), images, signals=signals)


def _may_be_license(rel: bytes, url: str) -> bool:
    """Return whether a link may lead to a licence, without decoding its `rel`."""
    return b"license" in rel.lower() or b"\\" in rel or "creativecommons" in url.lower()


def _decoded(raw: msgspec.Raw) -> Any:
    """Decode a field whose bytes may be no UTF-8; None if there is none."""
    data = bytes(raw)
    try:
        return json.loads(data.decode("utf-8", "replace"), strict=False) if data else None
    except (ValueError, RecursionError):
        return None


def _signals(metas: Any, headers: Any, in_head: Any, links: Any) -> list[Signal]:
    """Return what a page says about its use, of fields of a WAT that may hold anything."""
    found = [
        Signal(META, name, _text(meta.get("content")))
        for meta in _objects(metas)
        if (name := _text(meta.get("name")))
    ]
    for name, value in headers.items() if isinstance(headers, dict) else ():
        if name.isascii() and name.lower() in HEADERS:
            values = value if isinstance(value, list) else [value]
            found += [Signal(HEADER, name, text) for text in values if isinstance(text, str)]
    for kind, some in ((LINK_IN_HEAD, in_head), (LINK, links)):
        for link in _objects(some):
            rel, url = _text(link.get("rel")), _text(link.get("url"))
            if rel or "creativecommons" in url.lower():
                found.append(Signal(kind, rel, url))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


@functools.cache
def _decoder(titles: bool) -> Any:
    """Return a decoder of the fields that are needed, named as in the WAT, with underscores for hyphens."""

    def struct(name: str, *fields: tuple[str, Any]) -> Any:
        optional = [
            (key.replace("-", "_"), kind | None, msgspec.field(default=None, name=key))
            for key, kind in fields
        ]
        return msgspec.defstruct(name, optional)

    raw: Any = msgspec.field(default_factory=msgspec.Raw)
    texts = [(key, str, "") for key in ("path", "url", "alt", *(("title",) if titles else ()))]
    link: Any = msgspec.defstruct("Link", [*texts, ("rel", msgspec.Raw, raw)], gc=False)
    many: Any = msgspec.field(default_factory=list)
    in_head = [("Base", str | None, None), ("Metas", msgspec.Raw, raw), ("Link", msgspec.Raw, raw)]
    head: Any = msgspec.defstruct("Head", in_head)
    html = msgspec.defstruct("Html", [("Head", head | None, None), ("Links", list[link], many)])
    headers: Any = ("Headers", msgspec.Raw, raw)
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

    url, links = _text(field(*_URI)), field(*_HTML, "Links")
    if not url or not isinstance(field(*_HTML), dict):
        return None
    images: list[Image] = [
        (
            _text(link.get("url")),
            _text(link.get("alt")),
            tuple(filter(None, [_text(link.get("title"))] * titles)),
            False,
        )
        for link in (links if isinstance(links, list) else ())
        if isinstance(link, dict) and link.get("path") == _IMG
    ]
    others = [link for link in _objects(links) if link.get("path") != _IMG]
    signals = _signals(
        field(*_HTML, "Head", "Metas"),
        field(*_RESPONSE, "Headers"),
        field(*_HTML, "Head", "Link"),
        others,
    )
    return Page(url, BaseUrl.of_page(url, _text(field(*_HTML, "Head", "Base"))), images, signals=signals)
