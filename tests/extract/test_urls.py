"""Urls: links resolve as urljoin resolves them; hosts and their domains."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from metaclip.extract.urls import BaseUrl, clean_url, domains_of, host_of

PIECES = [
    "http:", "https:", "HTTP:", "ftp:", "data:", "//", "/", "/", "/", "a", "b.jpg", "é", "..", ".", "?", "#", ";", ":", "x=1", "&",
    "[", "]", "@", "%20", " ", "\t", "\n", "host.example", "80", "\\", "\u3000", "~", ",",
]  # fmt: skip
LINKS = st.lists(st.sampled_from(PIECES), max_size=7).map("".join)
BASES = st.one_of(
    st.sampled_from([
        "https://example.org", "http://example.org/", "https://example.org/a/b/c.html?q=/x#f", "http://example.org:80/a//b/",
        "https://example.org/a/../b/./c", "https://u:p@example.org/d/", "http://[::1]/x/y", "file:///a/b", "page", "",
        "https://example.org/a;p/b;q", "HTTP://Example.ORG/A/",
    ]),
    LINKS.map(lambda path: "https://example.org/" + path),
)  # fmt: skip


def expected(link: str, base: str) -> str | None:
    """Resolve as cc2dataset does."""
    if link.startswith(("http://", "https://")):
        return link
    try:
        return urljoin(base, link)
    except ValueError:
        return None


@given(LINKS, BASES)
@settings(max_examples=1000)
@example("//host.example", "https://example.org/a")
@example("a?", "https://example.org/a")
@example("data://[", "https://example.org/a")
@example("data:\t//[", "https://example.org/a")
@example("\u3000a", "https://example.org/a")
def test_links_resolve_as_urljoin_resolves_them(link: str, base: str) -> None:
    """The fast paths give the result of urljoin for every link, also if it cannot be resolved."""
    try:
        joined = expected(link, base)
    except Exception as error:  # urllib's own on odd bases
        pytest.fail(f"urljoin raised {error!r}")
    assert BaseUrl(base).resolve(link) == joined


@given(BASES, st.one_of(BASES, LINKS))
@settings(max_examples=1000)
@example("https://example.org/", "https://e.org/a?")
@example("https://example.org/", "https://e.org/a;p")
@example("https://example.org/", "https://e.org/a/./b")
def test_a_base_is_relative_to_its_page(page: str, base: str) -> None:
    """A <base>, also an absolute one that is taken as it is, is what urljoin makes of it."""
    base = base.strip("\t\n\f\r ")
    assume(base[:5].lower() != "data:")
    try:
        expected = urljoin(page, base)
    except ValueError:
        expected = page
    assert BaseUrl.of_page(page, base).url == expected


@pytest.mark.parametrize(
    ("page", "base", "link", "url"),
    [
        ("https://e.org/a/b.html", None, "c.jpg", "https://e.org/a/c.jpg"),
        ("https://e.org/a/b.html", "", "c.jpg", "https://e.org/a/c.jpg"),
        ("https://e.org/a/b.html", "/x/", "c.jpg", "https://e.org/x/c.jpg"),
        ("https://e.org/a/b.html", "https://cdn.example/y/z", "c.jpg", "https://cdn.example/y/c.jpg"),
        ("https://e.org/a/b.html", "//cdn.example/", "../c.jpg", "https://cdn.example/c.jpg"),
        ("https://e.org/a/b.html", "http://[", "c.jpg", "https://e.org/a/c.jpg"),
    ],
)
def test_base(page: str, base: str | None, link: str, url: str) -> None:
    """Links are relative to <base>, which may be relative to the page; a <base> that is invalid is ignored."""
    assert BaseUrl.of_page(page, base).resolve(link) == url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://Example.ORG/a", "example.org"), ("http://u:p@a.example.:80?x", "a.example"), ("https://[::1]:8/", "[::1]"),
        ("https:///a", ""), ("ftp://a/", ""), ("https://a.example#@b.example/", "a.example"), ("https://a@b@c.example/", "c.example"),
        ("https://evil.example\\@good.example/", "evil.example"),
    ],
)  # fmt: skip
def test_host(url: str, name: str) -> None:
    """A host is in lower case, without user, port and final dot."""
    assert host_of(url) == name


def test_domains() -> None:
    """The domains of a host are itself and each domain above it."""
    assert list(domains_of("a.b.example")) == ["a.b.example", "b.example", "example"]
    assert list(domains_of("")) == []


def test_clean() -> None:
    """Blanks at the ends and line feeds anywhere are removed; blanks inside stay."""
    assert clean_url(" \thttps://e.org/a\n b.jpg \x00") == "https://e.org/a b.jpg"
    assert clean_url("https://e.org/a b.jpg") == "https://e.org/a b.jpg"
