"""Filters: the reasons why an image gives no pair.

Law: the reasons are tested in the order of `REASONS`, and only the first that holds is counted, so that the images seen
(and the further texts of images, where a setting takes them) are the sum of all reasons and the pairs. Each reason
depends on the pair and its page alone; only `duplicate`, found after all files (`deduplicate`), depends on other pairs.

To add a filter:

1. Add its reason, with its meaning, to `REASONS`, where it belongs in the order.
2. Test it in the method of `Filters` that has what the test needs, and return the reason: `page_reason` (the page),
   `url_reason` (the image's url), `text_reason` (the text), `pair_reason` (both), `language_reason` (the language).
3. `image_columns` judges many images at once, and must give the same reasons. What `page_reason` and `url_reason` say is read
   there, except for links of ASCII, which native/src/links.c judges; texts, lists and languages are columns there.
4. If it has a setting, add a field to `ExtractSettings` and an option to ``metaclip/cli/extract.py``; if it never holds without
   the setting, add it to `OPTIONAL`.
5. Add cases to the tables of ``tests/extract/test_filters.py``; ``tests/extract/test_image_columns.py`` compares both ways.

`extract_file` calls the methods, counts the reasons and checks that the funnel adds up; the command prints every reason.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from metaclip.extract.opt_outs import Signal, names_of, opt_out_of
from metaclip.extract.settings import DEFAULTS, ExtractSettings
from metaclip.extract.urls import clean_url, domains_of, host_of, is_web_url
from metaclip.native import load
from metaclip.pool.columns import is_utf8

if TYPE_CHECKING:
    from metaclip.extract.robots_index import RobotsIndex
    from metaclip.matching import Backend

UNMATCHED: Final = "unmatched"
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
    "noai": "page that says noai",
    "noimageai": "page that says noimageai",
    "noimageindex": "page that says noimageindex",
    "noml": "page that says noml",
    "tdm_reserved": "page that says tdm-reservation: 1",
    "robots_page": "page that the robots.txt of its host disallows",
    "robots_image": "image that the robots.txt of its host disallows",
    "blocked_word": "text with a blocked word",
    "language": "text in another language than those wanted, or told with too low a score",
    UNMATCHED: "text that matches no entry of the list that the pool was extracted with",
    "duplicate": "the same pair stands earlier",
}
"""Why an image, or a further text of one, gives no pair, in the order in which the reasons are tested."""
OPTIONAL: Final = {"robots_page": "robots", "robots_image": "robots", UNMATCHED: "matched"}
"""Reasons of a setting, by its name; without it a funnel does not name them."""

MAX_URL: Final = 8192
SVG_ENDINGS: Final = ("svg", "svgz")
_SVG: Final = re.compile(rf"[^?#]*\.(?:{'|'.join(SVG_ENDINGS)})(?:[?#]|\Z)", re.I)
BLANK_NAMES: Final = (
    "1x1", "1px", "pixel", "spacer", "blank", "transparent", "trans", "clear", "cleardot", "shim",
)  # fmt: skip
"""Names of images that show nothing, perhaps behind a prefix that ends in ``_``, ``.`` or ``-``."""
BLANK_ENDINGS: Final = ("gif", "png", "webp")
_BLANK_IMAGE: Final = re.compile(
    rf"[^?#]*/(?:[\w.-]*[_.-])?(?:{'|'.join(BLANK_NAMES)})\.(?:{'|'.join(BLANK_ENDINGS)})(?:[?#]|\Z)",
    re.I,
)
COUNTER_DOMAINS: Final = frozenset(
    {
        "adnxs.com", "bat.bing.com", "c.statcounter.com", "counter.yadro.ru", "ct.pinterest.com", "doubleclick.net",
        "gemius.pl", "google-analytics.com", "histats.com", "mc.yandex.ru", "pixel.wp.com",
        "px.ads.linkedin.com", "quantserve.com", "scorecardresearch.com", "stats.wp.com", "top-fwz1.mail.ru",
    }
)  # fmt: skip
"""Domains whose images, and those of the hosts below them, count visits."""
COUNTER_URLS: Final = ("facebook.com/tr",)
"""Hosts, also below ``www.``, and paths of images that count visits."""
_COUNTER_URL: Final = re.compile(
    rf"https?://(?:www\.)?(?:{'|'.join(map(re.escape, COUNTER_URLS))})[/?]", re.I
)


@dataclasses.dataclass(frozen=True)
class UrlList:
    """A list of domains and urls. A domain stands for all hosts below it too."""

    domains: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, lines: Iterable[str]) -> UrlList:
        """Parse the lines of a file: http and https urls, and domains; ``#`` begins a comment after a domain."""
        domains, urls = set(), set()
        for line in map(str.strip, lines):
            if is_web_url(line):
                urls.add(clean_url(line))
            elif domain := line.partition("#")[0].strip():
                domains.add(domain.lower().removeprefix("*.").strip(".").rstrip("/"))
        return cls(frozenset(domains), frozenset(urls))

    def has_host(self, host: str) -> bool:
        """Return whether a host, or a domain above it, is listed."""
        return bool(self.domains) and not self.domains.isdisjoint(domains_of(host))


def blocked_words(words: Sequence[str]) -> Backend | None:
    """Return a matcher that finds words and phrases as whole words, ignoring case, like entries of a list; None for no words."""
    from metaclip.matching import automaton
    from metaclip.matching.native_backend import NativeBackend
    from metaclip.matching.pyahocorasick_backend import PyAhocorasickBackend
    from metaclip.matching.text_rule import TextRule
    from metaclip.metadata import Metadata

    if not words:
        return None
    rule = TextRule(
        space_entries=True, fold_spaces=True, unicode_separators=True, nfc=True, fold_case=True, unspaced_scripts="fixed"
    )  # fmt: skip
    listed = Metadata(words, fold_duplicates=True)
    return (
        PyAhocorasickBackend(listed, rule)
        if load() is None
        else NativeBackend(automaton.build(listed, rule))
    )


@dataclasses.dataclass(frozen=True)
class Filters:
    """The tests of a pair. Each method returns a reason, or None if there is none."""

    settings: ExtractSettings = DEFAULTS
    blocked: UrlList = dataclasses.field(default_factory=UrlList)
    opted_out: UrlList = dataclasses.field(default_factory=UrlList)
    words: Backend | None = None
    robots: RobotsIndex | None = None

    @functools.cached_property
    def agents(self) -> frozenset[str]:
        """The names of agents whose opt-outs are honoured, in lower case."""
        return names_of(self.settings.agents)

    def page_reason(self, url: str, signals: Sequence[Signal] = ()) -> str | None:
        """Return why no image of a page gives a pair; `signals` are what the page says about its use."""
        host = host_of(url) if self.blocked.domains or self.opted_out.domains else ""
        if self.blocked.has_host(host):
            return "blocked_domain"
        if self.opted_out.has_host(host):
            return "opted_out"
        reason = None
        if signals and not self.settings.ignore_noai:
            reason = opt_out_of(signals, self.agents)
        if reason is None and self.robots is not None and not self.robots.allows(url):
            reason = "robots_page"
        return reason

    def url_reason(self, link: str, url: str | None, is_pixel: bool) -> str | None:
        """Return why an image is skipped for its link, as written, its resolved url (None if invalid) or its size."""
        if not link.strip(" \t\n\f\r"):
            return "no_url"
        if url is None or len(url) > MAX_URL:
            return "data_url" if link.lstrip()[:5].lower() == "data:" else "bad_url"
        if not is_web_url(url):
            return "data_url" if url[:5].lower() == "data:" else "not_web"
        host = host_of(url)
        if not host or not (url.isascii() or is_utf8(url)):
            return "bad_url"
        if _SVG.match(url):
            return "svg"
        if (
            is_pixel
            or _BLANK_IMAGE.match(url)
            or not COUNTER_DOMAINS.isdisjoint(domains_of(host))
            or _COUNTER_URL.match(url)
        ):
            return "tracking_pixel"
        return None

    def text_reason(self, raw: str, text: str) -> str | None:
        """Return why a text is skipped; `raw` is the text as written, `text` is cleaned."""
        if not (raw.isascii() or is_utf8(raw)):
            return "invalid_text"
        if len(text) < self.settings.min_text:
            return "text_too_short"
        return "text_too_long" if len(text) > self.settings.max_text else None

    def pair_reason(self, url: str, text: str, page_reason: str | None) -> str | None:
        """Return why a pair is on a list; `page_reason` is the reason of its page."""
        host = host_of(url) if self.blocked.domains or self.opted_out.domains else ""
        if page_reason == "blocked_domain" or self.blocked.has_host(host) or url in self.blocked.urls:
            return "blocked_domain"
        if page_reason == "opted_out" or self.opted_out.has_host(host) or url in self.opted_out.urls:
            return "opted_out"
        if page_reason:
            return page_reason
        if self.robots is not None and not self.robots.allows(url):
            return "robots_image"
        return "blocked_word" if self.words is not None and self.words.match_text(text) else None

    def language_reason(self, language: str | None, score: float) -> str | None:
        """Return why a pair is skipped for its language; None and 0.0 if the language is unknown."""
        languages = self.settings.languages
        wanted = not languages or language in languages
        return None if wanted and score >= self.settings.min_lang_score else "language"
