"""HTTP responses as archives keep them."""

from __future__ import annotations

import gzip
import importlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.extract import http_response
from metaclip.extract.http_response import HttpResponse, parse_response

pytest.importorskip("brotli", reason="needs metaclip[crawl]")
BODY = b"<img src=a.jpg alt='a dog'>" * 40


def chunked(body: bytes, size: int = 100) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x;x=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def block(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *headers]).encode() + b"\r\n\r\n" + body


def brotli(body: bytes) -> bytes:
    return bytes(importlib.import_module("brotli").compress(body))


@pytest.mark.parametrize(
    ("encode", "coding"),
    [
        (gzip.compress, "gzip"), (gzip.compress, "X-GZIP"), (zlib.compress, "deflate"),
        (lambda body: zlib.compress(body, wbits=-15), "deflate"), (brotli, "br"), (lambda body: body, "identity"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("in_chunks", [False, True])
def test_codings_are_undone_where_the_body_has_them(encode: object, coding: str, in_chunks: bool) -> None:
    """A body is decoded as its headers say; a body that the archive decoded already stays as it is."""
    assert callable(encode)
    body = encode(BODY)
    headers = [f"Content-Encoding: {coding}", *(["Transfer-Encoding: chunked"] if in_chunks else [])]
    for kept in (chunked(body) if in_chunks else body, body, BODY):
        found = parse_response(block(kept, "content-type: Text/HTML; Charset='UTF-8'", *headers))
        assert found is not None
        assert found.body == BODY
        assert (found.media_type, found.charset) == ("text/html", "UTF-8")


def test_line_feeds_alone() -> None:
    """Header lines may end in line feeds alone."""
    found = parse_response(b"HTTP/1.0 200\nContent-Type: text/html\n\nbody")
    assert found == HttpResponse("text/html", None, b"body", status=200)


def test_other_bytes_are_no_response() -> None:
    """A request, or anything that is not HTTP, is no response."""
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b", b"\r\n\r\n"):
        assert parse_response(data) is None


@pytest.mark.parametrize("encode", [gzip.compress, brotli])
def test_a_bomb_is_refused(encode: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that grows beyond the limit is not decompressed to its end."""
    assert callable(encode)
    monkeypatch.setattr(http_response, "MAX_BODY", 10_000)
    coding = "gzip" if encode is gzip.compress else "br"
    with pytest.raises(ValueError, match="body of more than"):
        parse_response(block(encode(bytes(1_000_000)), f"Content-Encoding: {coding}"))


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "br", "chunked", "gzip, br", ""]))
def test_any_bytes(body: bytes, coding: str) -> None:
    """Any body is parsed without an error."""
    header = "Transfer-Encoding: chunked" if coding == "chunked" else f"Content-Encoding: {coding}"
    assert parse_response(block(body, header)) is not None


def test_a_body_of_several_members() -> None:
    """A gzip body may consist of several members; what stands behind them is no part of it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    first, second = gzip.compress(b"<p>one"), gzip.compress(b" two</p>")
    for body, wanted in (
        (first + second, b"<p>one two</p>"),
        (first + second + b"junk", b"<p>one two</p>"),
        (first + second[:-12], b"<p>one two</p>"),
        (first, b"<p>one"),
    ):
        response = parse_response(head + body)
        assert response is not None
        assert response.body.startswith(b"<p>one")
        assert wanted.startswith(response.body)
    whole = parse_response(head + first + second)
    assert whole is not None
    assert whole.body == b"<p>one two</p>"
    with pytest.raises(ValueError, match="a body of more than 64 MiB"):
        parse_response(head + gzip.compress(bytes(1 << 26)) + gzip.compress(b"x"))
