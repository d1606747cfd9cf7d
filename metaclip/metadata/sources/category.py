"""The titles of a Wikipedia category's articles as candidates; the category is walked with the package wikipedia-api.

The walk proceeds by depth: the category's own articles have depth 0, those of its subcategories 1, and so on. Each category
is visited once, even if several others contain it (categories form cycles). Candidates are ordered by depth, then by title
in code points, so that one state of the wiki gives one list. Members that are neither articles nor categories are counted
and left out.

Requests are sent one at a time, with a wait between them; a category of n members takes n / 500 of them.
"""

from __future__ import annotations

import collections
import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from metaclip.engine import Progress
from metaclip.errors import MetaclipError, import_extra
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources.casing import without_parentheses
from metaclip.recipe import check_minimums
from metaclip.storage.download import user_agent

_ARTICLE: Final = 0
_CATEGORY: Final = 14
_RETRIES: Final = 5


@dataclass(frozen=True)
class CategorySettings:
    """The category to walk, how deep, and how politely."""

    category: str = ""
    """Its name, with or without "Category:"."""
    depth: int = 2
    """Number of levels of subcategories; 0 for the category's own articles."""
    language: str = "en"
    """The language of the Wikipedia."""
    exclude: str = "(Lists?|Index|Outline|Glossary|Timeline) of .*"
    """A regular expression; titles that it matches as a whole are left out. Empty for none."""
    exclude_categories: str = ""
    """A regular expression; subcategories whose whole name after "Category:" it matches are not walked. Empty for none."""
    drop_tails: bool = False
    """Remove what distinguishes articles of one name: "Crane (bird)" becomes "Crane"."""
    max_categories: int = 1000
    """The maximum number of categories; a walk of more is an error."""
    limit: int | None = None
    """The maximum number of candidates; None for all."""
    wait: float = 1.0
    """Seconds between requests."""
    contact: str = ""
    """A mail address or page by which Wikipedia's operators can reach the user, for the user agent."""
    api: str | None = None
    """The address of another wiki's api.php; None for Wikipedia's."""

    def __post_init__(self) -> None:
        if not self.category.removeprefix("Category:").strip():
            raise ValueError('category is empty, must be a name such as "Birds"')
        check_minimums(self, depth=0, max_categories=1, limit=1, wait=0)
        for name in ("exclude", "exclude_categories"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(f"{name} is no regular expression ({error})") from None


def candidates(settings: CategorySettings, *, retry_wait: float = 1.0) -> Candidates:
    """Walk the category and return the titles of its articles, nearest first, without scores.

    A request that fails is tried again five times, after `retry_wait` seconds and then twice as long each time. Raise
    MetaclipError if the wiki cannot be reached or answers with an error, if there are more categories than the settings
    allow, and if no article is found.
    """
    with (
        Progress(settings.category, None, unit="requests") as progress,
        contextlib.closing(_Wiki(settings, retry_wait, progress)) as wiki,
    ):
        articles, categories, others = _walk(wiki, settings)
    titles = [title for title in articles if not _is_excluded(title, settings.exclude)]
    depths: dict[str, int] = {}
    for title in titles:
        depths.setdefault(without_parentheses(title) if settings.drop_tails else title, articles[title])
    entries, excluded = list(depths)[: settings.limit], len(articles) - len(titles)
    if not entries:
        raise MetaclipError(
            f"the category {settings.category!r} of {wiki.address} has no articles down to depth {settings.depth} "
            f"({categories} categories, {excluded} titles excluded); check its name"
        )
    by_depth = collections.Counter(depths[entry] for entry in entries)
    facts = {
        "licence": "CC BY-SA 4.0",
        "api": wiki.address,
        "category": settings.category,
        "categories": categories,
        "requests": wiki.requests,
        "articles": len(articles),
        "left_out": {"excluded titles": excluded, "members that are no articles": others},
        "entries_by_depth": [by_depth[depth] for depth in range(settings.depth + 1)],
    }
    return Candidates.of(entries, facts)


def _is_excluded(name: str, pattern: str) -> bool:
    return bool(pattern) and re.fullmatch(pattern, name) is not None


def _walk(wiki: _Wiki, settings: CategorySettings) -> tuple[dict[str, int], int, int]:
    """Walk a category level by level.

    Return the depth of each article by title, in order; the number of categories walked; and the number of members that are
    neither articles nor categories.
    """
    depths, categories, others = dict[str, int](), 0, 0
    level = ["Category:" + settings.category.removeprefix("Category:").strip()]
    seen = set(level)
    for depth in range(settings.depth + 1):
        articles, subcategories = set[str](), set[str]()
        for name in level:
            categories += 1
            if categories > settings.max_categories:
                raise MetaclipError(
                    f"the category {settings.category!r} has more than {settings.max_categories} categories down to depth "
                    f"{depth}; lower depth, name exclude_categories, or raise max_categories"
                )
            for title, namespace in wiki.members(name):
                if namespace == _ARTICLE:
                    articles.add(title)
                elif namespace != _CATEGORY:
                    others += 1
                elif not _is_excluded(title.partition(":")[2], settings.exclude_categories):
                    subcategories.add(title)
        depths |= dict.fromkeys(sorted(articles - depths.keys()), depth)
        level = sorted(subcategories - seen)
        seen |= subcategories
    return depths, categories, others


class _Wiki:
    """A client of a MediaWiki, by wikipedia-api: one request at a time, with a wait before each but the first."""

    def __init__(self, settings: CategorySettings, retry_wait: float, progress: Progress) -> None:
        self._package = import_extra("wikipediaapi", "build", "walking a category")
        httpx = import_extra("httpx", "build", "walking a category")
        self.address = settings.api or f"https://{settings.language}.wikipedia.org/w/api.php"
        self.requests = 0
        wiki, address = self, httpx.URL(self.address)

        class PoliteTransport(httpx.HTTPTransport):  # type: ignore[misc, name-defined]
            """A transport that waits between requests, and sends them to the wiki of the settings."""

            def handle_request(self, request: Any) -> Any:
                if wiki.requests:
                    time.sleep(settings.wait)
                wiki.requests += 1
                progress.advance(1, 0)
                if settings.api is not None:
                    request.url = address.copy_with(query=request.url.query)
                    request.headers["Host"] = request.url.netloc.decode()
                return super().handle_request(request)

        self._transport = PoliteTransport()
        self._wiki = self._package.Wikipedia(
            user_agent(settings.contact),
            language=settings.language,
            max_retries=_RETRIES,
            retry_wait=retry_wait,
            transport=self._transport,
            timeout=30.0,
        )

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def members(self, category: str) -> Iterator[tuple[str, int]]:
        """Yield title and namespace of each member of a category."""
        try:
            found = self._wiki.categorymembers(
                self._wiki.page(category, ns=self._package.Namespace.CATEGORY)
            )
        except self._package.WikiHttpError as error:
            raise MetaclipError(
                f"{self.address} answers {error.status_code} when asked for {category!r}; "
                "try later, with a longer wait and a contact"
            ) from None
        except (self._package.WikiInvalidJsonError, KeyError, TypeError, json.JSONDecodeError):
            raise MetaclipError(
                f"{self.address} returned no members when asked for {category!r}; check the address and the name"
            ) from None
        except self._package.WikipediaException as error:
            raise MetaclipError(
                f"{self.address} cannot be reached ({type(error).__name__} after {1 + _RETRIES} tries); "
                "is this machine offline?"
            ) from None
        for member in found.values():
            yield member.title, int(member.ns)
