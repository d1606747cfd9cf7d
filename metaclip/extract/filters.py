"""Filters: why an image gives no pair.

Law: reasons are asked in the order of `REASONS`, the first that holds is counted, and the images seen are the sum of
all reasons and the pairs. Each is a function of the pair and its page alone; `duplicate` is found later.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, Final

from metaclip.extract import addresses

REASONS: Final[dict[str, str]] = {
    "no_text": "no text, or nothing but blanks",
    "no_url": "no address",
    "data_url": "the image itself stands in the address (data:)",
    "bad_url": "address that cannot be resolved, is not valid Unicode, or is longer than 8,192 characters",
    "not_web": "address that is neither http nor https",
    "svg": "a drawing: the path ends in .svg or .svgz",
    "tracking_pixel": "declared 1 pixel small, named like a blank pixel, or of a counter's host",
    "invalid_text": "text that is not valid Unicode",
    "text_too_short": "fewer characters than min_text",
    "text_too_long": "more characters than max_text",
    "blocked_domain": "image or page on a blocked domain",
    "opted_out": "address, or the domain of image or page, on the opt-out list",
    "blocked_word": "text with a blocked word",
    "language": "text in another language than those wanted, or told with too low a score",
    "duplicate": "the same pair stands earlier",
}
"""Why an image, or a further text of one, gives no pair, in the order in which it is asked."""

MAX_URL: Final = 8192
_SVG: Final = re.compile(r"[^?#]*\.svgz?(?:[?#]|\Z)", re.I)
_BLANK: Final = re.compile(
    r"[^?#]*/(?:[\w.-]*[_.-])?(?:1x1|1px|pixel|spacer|blank|transparent|trans|clear|cleardot|shim)\.(?:gif|png|webp)(?:[?#]|\Z)",
    re.I,
)
COUNTERS: Final = frozenset(
    {
        "adnxs.com", "bat.bing.com", "c.statcounter.com", "counter.yadro.ru", "ct.pinterest.com", "doubleclick.net",
        "gemius.pl", "google-analytics.com", "histats.com", "mc.yandex.ru", "pixel.wp.com",
        "px.ads.linkedin.com", "quantserve.com", "scorecardresearch.com", "stats.wp.com", "top-fwz1.mail.ru",
    }
)  # fmt: skip
"""Domains whose images count visits; hosts in them too."""
_COUNTED_PATH: Final = re.compile(r"https?://(?:www\.)?facebook\.com/tr[/?]", re.I)


@dataclasses.dataclass(frozen=True)
class Listing:
    """A list of domains and addresses, as a file has it: one a line; ``#`` begins a comment."""

    domains: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()

    @classmethod
    def of(cls, lines: Iterable[str]) -> Listing:
        """Read lines: what has a scheme is an address, all else a domain, which stands for the hosts in it too."""
        domains, urls = set(), set()
        for line in lines:
            item = line.partition("#")[0].strip() if not addresses.is_web(line.strip()) else line.strip()
            if addresses.is_web(item):
                urls.add(addresses.clean(item))
            elif item:
                domains.add(item.lower().removeprefix("*.").strip(".").rstrip("/"))
        return cls(frozenset(domains), frozenset(urls))

    def has_host(self, host: str) -> bool:
        """Tell whether a host, or a domain it lies in, is listed."""
        return bool(self.domains) and not self.domains.isdisjoint(addresses.domains(host))

    def has_url(self, url: str) -> bool:
        """Tell whether an address is listed."""
        return url in self.urls


class Words:
    """Words and phrases looked for in texts, as whole words, without regard to case: matched like entries of a list."""

    def __init__(self, words: Iterable[str]) -> None:
        """Take the words; blanks at their ends do not count."""
        from metaclip.matching.pyahocorasick_backend import PyAhocorasickBackend
        from metaclip.matching.text_rule import TextRule
        from metaclip.metadata.entries import Metadata

        rule = TextRule(
            space_entries=True, fold_spaces=True, unicode_separators=True, nfc=True, fold_case=True, unspaced_scripts="fixed"
        )  # fmt: skip
        unique = list(dict.fromkeys(word.strip() for word in words if word.strip()))
        self._engine: Any = PyAhocorasickBackend(Metadata(unique), rule) if unique else None

    def stand_in(self, text: str) -> bool:
        """Tell whether a text has one of the words."""
        return self._engine is not None and bool(self._engine.match_text(text))


@dataclasses.dataclass(frozen=True)
class Filters:
    """What is asked of a pair before its language and before other pairs are looked at."""

    min_text: int = 1
    max_text: int = 1000
    blocked: Listing = dataclasses.field(default_factory=Listing)
    opted_out: Listing = dataclasses.field(default_factory=Listing)
    words: Words | None = None

    @property
    def asks_hosts(self) -> bool:
        """Whether a pair's host matters."""
        return bool(self.blocked.domains or self.opted_out.domains)

    def why_page(self, url: str) -> str | None:
        """Give the reason why no image of a page gives a pair; None where there is none."""
        if not self.asks_hosts:
            return None
        host = addresses.host(url)
        if self.blocked.has_host(host):
            return "blocked_domain"
        return "opted_out" if self.opted_out.has_host(host) else None

    def why_address(self, link: str, url: str | None, dot: bool) -> str | None:
        """Give the reason why an address, as written and as resolved, is none of an image; None where there is none."""
        if not link.strip(" \t\n\f\r"):
            return "no_url"
        if url is None or len(url) > MAX_URL:
            return "data_url" if link.lstrip()[:5].lower() == "data:" else "bad_url"
        if not addresses.is_web(url):
            return "data_url" if url[:5].lower() == "data:" else "not_web"
        if not url.isascii() and _is_broken(url):
            return "bad_url"
        host = addresses.host(url)
        if not host:
            return "bad_url"
        if _SVG.match(url):
            return "svg"
        if dot or _BLANK.match(url) or not COUNTERS.isdisjoint(addresses.domains(host)) or _COUNTED_PATH.match(url):
            return "tracking_pixel"
        return None

    def why_text(self, raw: str, text: str) -> str | None:
        """Give the reason why a text, raw and clean, is none; None where there is none."""
        if not raw.isascii() and _is_broken(raw):
            return "invalid_text"
        if len(text) < self.min_text:
            return "text_too_short"
        return "text_too_long" if len(text) > self.max_text else None

    def why_listed(self, url: str, text: str, page: str | None) -> str | None:
        """Give the reason why a pair is not wanted; `page` is what `why_page` gave of its page."""
        host = addresses.host(url) if self.asks_hosts else ""
        if page == "blocked_domain" or self.blocked.has_host(host) or self.blocked.has_url(url):
            return "blocked_domain"
        if page == "opted_out" or self.opted_out.has_host(host) or self.opted_out.has_url(url):
            return "opted_out"
        return "blocked_word" if self.words is not None and self.words.stand_in(text) else None


def _is_broken(text: str) -> bool:
    """Tell whether a text has half a surrogate in it, so that it is no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
