"""The body of an HTTP response, as it stands in a WARC response record.

Archives differ from the wire: many keep the header that says how the body was sent, and the body as it was decoded. So
a body is decoded as its headers say where that works, and taken as it is where it does not.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from typing import Final

from metaclip.extract.packages import needed

MAX_BODY: Final = 1 << 26
"""Bytes to which a compressed body may grow."""

_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_CHARSET: Final = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.I)


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """A response: what its Content-Type says, and its body."""

    media_type: str
    """In lower case; "" where it says nothing."""
    charset: str | None
    body: bytes


def parse(block: bytes) -> Response | None:
    """Take a response apart; None where the bytes are not one. Raise ValueError for a body that is too large."""
    head, blank, body = block.partition(b"\r\n\r\n")
    if not blank:
        head, blank, body = block.partition(b"\n\n")
    first, _, rest = head.partition(b"\n")
    if not first.startswith(b"HTTP/") or not blank:
        return None
    headers: dict[str, str] = {}
    for line in rest.split(b"\n"):
        name, _, value = line.partition(b":")
        headers.setdefault(name.strip().lower().decode("latin-1"), value.strip().decode("latin-1"))
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _without_chunks(body)
    for coding in reversed(headers.get("content-encoding", "").lower().split(",")):
        body = _decoded(body, coding.strip())
    content_type = headers.get("content-type", "")
    charset = _CHARSET.search(content_type)
    return Response(content_type.partition(";")[0].strip().lower(), charset and charset[1], body)


def _without_chunks(body: bytes) -> bytes:
    """Take off the lengths of chunks, where there are any; what is cut off in the middle stays."""
    parts: list[bytes] = []
    at = 0
    while found := _CHUNK.match(body, at):
        size = int(found[1], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[found.end() : found.end() + size])
        at = found.end() + size + 2
        if body[at - 2 : at] not in (b"\r\n", b"\r", b""):
            return body
    return b"".join(parts) if parts and at >= len(body) else body


def _decoded(body: bytes, coding: str) -> bytes:
    """Undo a content coding, where the body has it."""
    if coding in ("gzip", "x-gzip", "deflate"):
        for bits in (31,) if coding != "deflate" else (15, -15):
            inflater = zlib.decompressobj(bits)
            try:
                found = inflater.decompress(body, MAX_BODY + 1)
            except zlib.error:
                continue
            return _checked(found)
    if coding == "br":
        brotli = needed("brotli")

        decoder = brotli.Decompressor()
        parts: list[bytes] = []
        size = 0
        try:
            for i in range(0, len(body), 1 << 14):
                parts.append(decoder.process(body[i : i + (1 << 14)]))
                size += len(parts[-1])
                if size > MAX_BODY:
                    break
        except brotli.error:
            return body
        return _checked(b"".join(parts))
    return body


def _checked(body: bytes) -> bytes:
    if len(body) > MAX_BODY:
        raise ValueError(f"a body of more than {MAX_BODY >> 20} MiB")
    return body
