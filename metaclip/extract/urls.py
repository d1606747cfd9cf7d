"""Urls of images and pages: links resolved as cc2dataset resolves them and cleaned as the URL standard says; hosts.

The uid of a pair is computed from the resolved link before it is cleaned, so that it equals cc2dataset's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urljoin

_WEB: Final = ("http://", "https://")
_BASE: Final = re.compile(r"((https?)://[A-Za-z0-9._-]+(?::[0-9]+)?)(|/[^\s?#]*)(?:[?#]|\Z)")
# Links that urljoin joins without a change: no dots for folders, parameters, fragments, blanks, empty queries.
_QUERY: Final = r"(?:\?[^\s#]+)?\Z"
_FROM_ROOT: Final = re.compile(r"/(?:[^\s/;?#][^\s;?#]*)?" + _QUERY)
_FROM_FOLDER: Final = re.compile(r"[^\s/;?#:.][^\s;?#:/]*(?:/[^\s;?#:/]+)*" + _QUERY)
_OTHER_HOST: Final = re.compile(r"//[A-Za-z0-9.-]+(?:/[^\s;?#]*)?" + _QUERY)
_ABSOLUTE: Final = re.compile(r"https?://[A-Za-z0-9._-]+(?:/[^\s;?#]*)?\Z")
_NEEDS_CLEANING: Final = re.compile(r"[\t\n\r]|^[\x00-\x20]+|[\x00-\x20]+\Z")
_HOST: Final = re.compile(r"https?://(?:[^/?#\\]*@)?(\[[^\]]*\]|[^/?#:\\\[\]]*)", re.I)


class BaseUrl:
    """The url that the links of a page are relative to.

    Law: `resolve` is `urllib.parse.urljoin`, except for http:// and https:// links, which stay as they are, as cc2dataset 1.5
    does it. Simple links, nearly all of them, are concatenated from parts of the base that are split once per page (0.3 us
    per link, where urljoin takes 5 us).
    """

    __slots__ = ("folder", "root", "scheme", "url")

    def __init__(self, url: str) -> None:
        """Split the absolute url of a page or of its ``<base>``; any other is left to urljoin."""
        self.url = url
        self.scheme = self.root = self.folder = ""
        if parts := _BASE.match(url):
            self.root, self.scheme = parts[1], parts[2]
            if "//" not in parts[3] and "/." not in parts[3]:
                self.folder = parts[1] + (parts[3][: parts[3].rfind("/") + 1] or "/")

    @classmethod
    def of_page(cls, page: str, base: str | None) -> BaseUrl:
        """Return the base of a page: its ``<base>``, which may be relative too, else the url of the page.

        As in browsers, blanks around a ``<base>`` are no part of it, and one that is data or a script is none.
        """
        base = (base or "").strip("\t\n\f\r ")
        if base[:11].lower() == "javascript:" or base[:5].lower() == "data:":
            base = ""
        if _ABSOLUTE.match(base) and "/." not in base:
            return cls(base)
        try:
            return cls(urljoin(page, base) if base else page)
        except ValueError:
            return cls(page)

    def resolve(self, link: str) -> str | None:
        """Return the absolute url of a link; None if it cannot be resolved."""
        if link.startswith(_WEB) or (link.startswith("data:") and link[5:6] not in "/\t\n\r"):
            return link
        if self.root and "/." not in link:
            if _FROM_ROOT.match(link):
                return self.root + link
            if self.folder and _FROM_FOLDER.match(link):
                return self.folder + link
            if _OTHER_HOST.match(link):
                return f"{self.scheme}:{link}"
        try:
            return urljoin(self.url, link)
        except ValueError:  # such as a bracket that is not closed: urllib takes it for an IPv6 address
            return None


def is_web_url(url: str) -> bool:
    """Return whether a resolved link is http or https."""
    return url.startswith(_WEB)


def clean_url(url: str) -> str:
    """Remove what the URL standard has parsers remove: blanks at both ends, tabs and line feeds anywhere."""
    return _NEEDS_CLEANING.sub("", url) if _NEEDS_CLEANING.search(url) else url


def host_of(url: str) -> str:
    """Return the host of a url in lower case, without port, user and final dot; "" if there is none."""
    found = _HOST.match(url)
    return found[1].lower().rstrip(".") if found else ""


def domains_of(host: str) -> Iterator[str]:
    """Yield a host and each domain above it: a.b.c, b.c, c."""
    while host:
        yield host
        host = host.partition(".")[2]
