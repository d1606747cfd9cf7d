"""Parses an HTTP response as a WARC response record archives it.

Archives differ from the wire: many keep the header that says how the body was encoded, and store the body decoded. So a body
is decoded as its headers say if that works, and taken as it is otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import zlib
from typing import Final

from metaclip.errors import import_extra
from metaclip.extract.opt_outs import HEADERS

MAX_BODY: Final = 1 << 26
"""Bytes to which a compressed body may grow."""

_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_CHARSET: Final = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.I)
_STATUS: Final = re.compile(rb"HTTP/\S*[ \t]+(\d{3})(?!\d)")
_STEP: Final = 1 << 14  # bytes of a body that are decompressed at a time


@dataclasses.dataclass(frozen=True, slots=True)
class HttpResponse:
    """The Content-Type of a response, and its decoded body."""

    media_type: str
    """In lower case; "" if there is none."""
    charset: str | None
    body: bytes
    signals: tuple[tuple[str, str], ...] = ()
    """The headers that say how the page may be used: names in lower case, values, in order."""
    status: int = 0
    """The status code; 0 if there is none."""
    location: str = ""
    """Where a redirect leads."""


def parse_response(block: bytes) -> HttpResponse | None:
    """Parse a response; return None if the bytes are not one. Raise ValueError if the body is too large."""
    head, blank, body = block.partition(b"\r\n\r\n")
    if not blank:
        head, blank, body = block.partition(b"\n\n")
    status_line, _, header_lines = head.partition(b"\n")
    if not status_line.startswith(b"HTTP/") or not blank:
        return None
    headers: dict[str, str] = {}
    signals = []
    for line in header_lines.split(b"\n"):
        name, _, value = line.partition(b":")
        header = name.strip().lower().decode("latin-1"), value.strip().decode("latin-1")
        headers.setdefault(*header)
        if header[0] in HEADERS:
            signals.append(header)
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _join_chunks(body)
    for coding in reversed(headers.get("content-encoding", "").lower().split(",")):
        body = _decode(body, coding.strip())
        if len(body) > MAX_BODY:
            raise ValueError(f"a body of more than {MAX_BODY >> 20} MiB")
    content_type = headers.get("content-type", "")
    charset = _CHARSET.search(content_type)
    media_type = content_type.partition(";")[0].strip().lower()
    status = _STATUS.match(status_line)
    return HttpResponse(
        media_type,
        charset and charset[1],
        body,
        tuple(signals),
        int(status[1]) if status else 0,
        headers.get("location", ""),
    )


def _join_chunks(body: bytes) -> bytes:
    """Remove the sizes of chunks, if the body has them; the beginning of a chunk that is cut off is kept."""
    chunks: list[bytes] = []
    at = 0
    while found := _CHUNK_SIZE.match(body, at):
        size = int(found[1], 16)
        if size == 0:
            return b"".join(chunks)
        chunks.append(body[found.end() : found.end() + size])
        at = found.end() + size + 2
        if body[at - 2 : at] not in (b"\r\n", b"\r", b""):
            return body
    return b"".join(chunks) if chunks and at >= len(body) else body


def _decode(body: bytes, coding: str) -> bytes:
    """Undo a content coding, of a body up to MAX_BODY bytes; return the body as it is if it is not encoded so."""
    if coding in ("gzip", "x-gzip", "deflate"):
        for bits in (15, -15) if coding == "deflate" else (31,):
            with contextlib.suppress(zlib.error):
                return _inflate(body, bits)
    elif coding == "br":
        brotli = import_extra("brotli", "crawl", "extract")
        decompressor = brotli.Decompressor()
        decoded = bytearray()
        try:
            for i in range(0, len(body), _STEP):
                decoded += decompressor.process(body[i : i + _STEP])
                if len(decoded) > MAX_BODY:
                    break
        except brotli.error:
            return body
        return bytes(decoded)
    return body


def _inflate(body: bytes, bits: int) -> bytes:
    """Decompress a body, which may consist of several members; damage behind the first one ends it. Raise zlib.error."""
    decoded, at = bytearray(), 0
    inflater, begin = zlib.decompressobj(bits), 0  # of a member, which begins at a byte of `decoded`
    while at < len(body) and len(decoded) <= MAX_BODY:
        step = body[at : at + _STEP]
        try:
            decoded += inflater.decompress(step, MAX_BODY + 1 - len(decoded))
        except zlib.error:
            if not begin:
                raise
            return bytes(decoded[:begin])
        at += len(step) - len(inflater.unused_data)
        if inflater.eof:
            if bits != 31:
                break
            inflater, begin = zlib.decompressobj(bits), len(decoded)
    return bytes(decoded)
