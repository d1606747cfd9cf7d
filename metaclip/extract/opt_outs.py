"""What pages say about their use: opt-outs and licences.

A page says it in its ``<meta>`` elements, in the headers of its response and in its links. A `Signal` is one of these, as it is
written: WAT records contain all of them, and an HTML page of a WARC too.

Opt-outs that are honoured, each a reason of the funnel:

- ``noai``, ``noimageai``, ``noimageindex`` and ``noml``, in ``<meta name="robots">``, in the ``<meta>`` of an agent that the
  setting `agents` names, and in the header ``X-Robots-Tag`` (for all agents, or for one of these);
- ``tdm-reservation: 1`` (the W3C community's TDM Reservation Protocol), as header or ``<meta>``.

What an image's own response says is in no WAT and no page; img2dataset asks for it when it downloads the image.

The licence is the address of the first link with ``rel=license``, else of the first link to a licence of Creative Commons;
those in ``<head>`` come first.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from metaclip.extract.urls import BaseUrl, clean_url, host_of, is_web_url
from metaclip.pool.columns import is_utf8

META, HEADER, LINK_IN_HEAD, LINK = range(4)
"""Kinds of signals, as native/src/images.h numbers them."""
HEADERS: Final = ("x-robots-tag", "tdm-reservation")
_DIRECTIVES: Final = {
    "noai": "noai",
    "noimageai": "noimageai",
    "noimageindex": "noimageindex",
    "noml": "noml",
}
"""The reason of each directive."""
_RESERVED: Final = "tdm_reserved"
OPT_OUTS: Final = (*_DIRECTIVES.values(), _RESERVED)
"""The reasons, in the order in which they are tested."""
_AGENT: Final = re.compile(r"\s*([\w.-]+)\s*:\s*(.*)", re.S)
_WITH_VALUE: Final = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_CREATIVE_COMMONS: Final = re.compile(
    r"(?:https?:)?//(?:www\.)?creativecommons\.org/(?:licenses|publicdomain)/", re.I | re.A
)
_HTML_BLANKS: Final = re.compile("[ \t\n\f\r]+")
_BLANKS: Final = re.compile(r"[\s,]+")
_LONGEST_LICENSE: Final = 1000


class Signal(NamedTuple):
    """What a page says about its use: a ``<meta>`` (name, content), a header (name, value) or a link (rel, address)."""

    kind: int
    name: str
    value: str


def is_license(rel: str) -> bool:
    """Return whether the ``rel`` of a link has the word license."""
    return "license" in _HTML_BLANKS.split(rel.lower())


def names_of(agents: str) -> frozenset[str]:
    """Return the names in a list like "CCBot, img2dataset", in lower case."""
    return frozenset(filter(None, _BLANKS.split(agents.lower())))


def meta_names(agents: frozenset[str]) -> tuple[str, ...]:
    """Return the names of ``<meta>`` elements that are signals, in lower case."""
    return ("robots", "tdm-reservation", *sorted(agents))


def opt_out_of(signals: Iterable[Signal], agents: frozenset[str]) -> str | None:
    """Return the first of `OPT_OUTS` that the signals of a page say; None if there is none."""
    found: set[str] = set()
    for signal in signals:
        if signal.kind in (META, HEADER) and signal.name.isascii():
            found |= _opt_outs(signal.kind, signal.name.lower(), signal.value, agents)
    return next((reason for reason in OPT_OUTS if reason in found), None)


@functools.lru_cache(1 << 12)
def _opt_outs(kind: int, name: str, value: str, agents: frozenset[str]) -> frozenset[str]:
    """Return the reasons that one signal says."""
    if name == "tdm-reservation":
        return frozenset({_RESERVED}) if value.strip() == "1" else frozenset()
    if kind == META:
        applies = name == "robots" or name in agents
        words = _BLANKS.split(value.lower()) if applies else []
        return frozenset(_DIRECTIVES[word] for word in words if word in _DIRECTIVES)
    if name != "x-robots-tag":
        return frozenset()
    found, applies = set(), True
    for part in value.lower().split(","):  # "noai, otherbot: noindex, nofollow"
        directive = part.strip()
        if (named := _AGENT.match(directive)) and named[1] not in _WITH_VALUE:
            applies, directive = named[1] in (*agents, "*", "robots"), named[2].strip()
        if applies and directive in _DIRECTIVES:
            found.add(_DIRECTIVES[directive])
    return frozenset(found)


def license_of(signals: Sequence[Signal], base: BaseUrl) -> str | None:
    """Return the address of the licence that a page declares; None if it declares none."""
    by_rank: dict[int, str] = {}
    for signal in signals:
        if signal.kind not in (LINK_IN_HEAD, LINK):
            continue
        named = is_license(signal.name)
        if not (named or _CREATIVE_COMMONS.match(signal.value)):
            continue
        url = base.resolve(signal.value.strip("\t\n\f\r "))
        if url is None or not is_web_url(url) or len(url) > _LONGEST_LICENSE:
            continue
        if host_of(url) and is_utf8(url):
            by_rank.setdefault(2 * (not named) + (signal.kind == LINK), clean_url(url))
    return by_rank[min(by_rank)] if by_rank else None
