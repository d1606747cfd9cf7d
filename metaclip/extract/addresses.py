"""Where an image is: links resolved as cc2dataset resolves them, then cleaned as the URL standard says; hosts.

The uid is made of the resolved link before it is cleaned: both sides then have the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urljoin

_ABSOLUTE: Final = ("http://", "https://")
_BASE: Final = re.compile(r"((https?)://[A-Za-z0-9._-]+(?::[0-9]+)?)(|/[^\s?#]*)(?:[?#]|\Z)")
# Links that urljoin puts together without a change: no dots for folders, parameters, fragments, blanks, empty queries.
_TAIL: Final = r"(?:\?[^\s#]+)?\Z"
_ROOTED: Final = re.compile(r"/(?:[^\s/;?#][^\s;?#]*)?" + _TAIL)
_BELOW: Final = re.compile(r"[^\s/;?#:.][^\s;?#:/]*(?:/[^\s;?#:/]+)*" + _TAIL)
_ELSEWHERE: Final = re.compile(r"//[A-Za-z0-9.-]+(?:/[^\s;?#]*)?" + _TAIL)
_DIRTY: Final = re.compile(r"[\t\n\r]|^[\x00-\x20]+|[\x00-\x20]+\Z")
_HOST: Final = re.compile(r"https?://(?:[^/?#\\]*@)?(\[[^\]]*\]|[^/?#:\\\[\]]*)", re.I)


class Base:
    """What the links of a page are relative to.

    Law: `resolve` is `urllib.parse.urljoin`, but for http:// and https://, which stay as they are: what cc2dataset 1.5
    does. Plain links, nearly all of them, are put together from three parts of the base, which are split once a page
    (0.3 us a link, where urljoin takes 5).
    """

    __slots__ = ("_folder", "_root", "_scheme", "url")

    def __init__(self, url: str) -> None:
        """Take the absolute url of a page, or of what its ``<base>`` says; any other is left to urljoin."""
        self.url = url
        self._scheme = self._root = self._folder = ""
        if (parts := _BASE.match(url)) and "//" not in parts[3] and "/." not in parts[3]:
            self._root, self._scheme = parts[1], parts[2]
            self._folder = parts[1] + (parts[3][: parts[3].rfind("/") + 1] or "/")

    @classmethod
    def of(cls, page: str, base: str | None) -> Base:
        """Give what a page's links are relative to: its ``<base>``, which may be relative too, or the page."""
        if not base:
            return cls(page)
        try:
            return cls(urljoin(page, base))
        except ValueError:
            return cls(page)

    def resolve(self, link: str) -> str | None:
        """Resolve a link; None where it is not an address at all."""
        if link.startswith(_ABSOLUTE):
            return link
        if link.startswith("data:") and link[5:7] != "//":
            return link
        if self._folder and "/." not in link:
            if link[:1] == "/" != link[1:2] and _is_plain(link):
                return self._root + link
            if _ROOTED.match(link):
                return self._root + link
            if _BELOW.match(link):
                return self._folder + link
            if _ELSEWHERE.match(link):
                return f"{self._scheme}:{link}"
        try:
            return urljoin(self.url, link)
        except ValueError:  # such as a bracket that is not closed: urllib takes it for an IPv6 address
            return None


def _is_plain(link: str) -> bool:
    """Tell whether a link has nothing in it that urljoin looks for, nor a blank; five looks take less than a pattern."""
    return link.isprintable() and not (" " in link or ";" in link or "#" in link or "?" in link)


def is_web(url: str) -> bool:
    """Tell whether a resolved link is http or https."""
    return url.startswith(_ABSOLUTE)


def clean(url: str) -> str:
    """Take off what the URL standard has parsers take off: blanks at the ends, tabs and line feeds anywhere."""
    return _DIRTY.sub("", url) if _DIRTY.search(url) else url


def host(url: str) -> str:
    """Give the host of a url in lower case, without port, user and a dot at its end; "" where there is none."""
    found = _HOST.match(url)
    return found[1].lower().rstrip(".") if found else ""


def domains(name: str) -> Iterator[str]:
    """Give a host and each domain that it lies in: a.b.c, b.c, c."""
    while name:
        yield name
        name = name.partition(".")[2]
