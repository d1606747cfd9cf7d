"""A category of Wikipedia, walked through the package wikipedia-api: the titles of its articles as candidates.

The walk goes by depth: the category's own articles have depth 0, those of its subcategories 1, and so on; each category
is visited once, however often it is met (categories form cycles). Order: depth, then title by code points, so that one
state of the wiki gives one list. Members that are neither articles nor categories are counted and left out.

It asks one thing at a time and waits between requests; a category of n members takes n / 500 of them.
"""

from __future__ import annotations

import importlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from metaclip.errors import MetaclipError
from metaclip.metadata.candidates import Candidates
from metaclip.storage.download import user_agent

LICENCE: Final = "CC BY-SA 4.0"
_ARTICLE: Final = 0
_CATEGORY: Final = 14
_RETRIES: Final = 5
_TAIL: Final = re.compile(r" \([^()]*\)$")


@dataclass(frozen=True)
class CategorySettings:
    """Which category is walked, how far, and how politely."""

    category: str = ""
    """Its name, with or without "Category:"."""
    depth: int = 2
    """How many levels of subcategories; 0: the category's own articles."""
    language: str = "en"
    """Whose Wikipedia."""
    exclude: str = "(Lists?|Index|Outline|Glossary|Timeline) of .*"
    """Titles that are left out: a regular expression for the whole title; empty: none."""
    exclude_categories: str = ""
    """Subcategories that are not walked: a regular expression for the whole name after "Category:"; empty: none."""
    drop_tails: bool = False
    """Cut off what tells articles of one name apart: "Crane (bird)" becomes "Crane"."""
    max_categories: int = 1000
    """Refuse a walk of more categories."""
    limit: int | None = None
    """Give the first so many entries; None: all."""
    wait: float = 1.0
    """Seconds between requests."""
    contact: str = ""
    """How Wikipedia's operators reach who runs this: an address of mail or page, for the user agent."""
    api: str | None = None
    """Another wiki's api.php; None: Wikipedia's."""

    def __post_init__(self) -> None:
        """Refuse what no walk could do."""
        if not self.category.removeprefix("Category:").strip():
            raise ValueError('category is empty, must be a name such as "Birds"')
        for name, least in (("depth", 0), ("max_categories", 1), ("limit", 1), ("wait", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} is {value}, must be at least {least}")
        for name in ("exclude", "exclude_categories"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(f"{name} is no regular expression ({error})") from None


def candidates(settings: CategorySettings, *, retry_wait: float = 1.0) -> Candidates:
    """Walk the category and give the titles of its articles, nearest first, without scores.

    A request that fails is tried again five times, after `retry_wait` seconds and then twice as long each time. Raise
    MetaclipError where the wiki cannot be reached or answers with an error, where more categories are met than the
    settings allow, and if no article is found.
    """
    with _Wiki(settings, retry_wait) as wiki:
        found = _walk(wiki, settings)
    excluded = re.compile(settings.exclude) if settings.exclude else None
    depths: dict[str, int] = {}
    left_out = 0
    for title, depth in found.articles.items():
        if excluded is not None and excluded.fullmatch(title):
            left_out += 1
        else:
            depths.setdefault(_TAIL.sub("", title) if settings.drop_tails else title, depth)
    entries = list(depths)[: settings.limit]
    if not entries:
        raise MetaclipError(
            f"the category {settings.category!r} of {wiki.address} has no articles down to depth {settings.depth} "
            f"({found.categories} categories, {left_out} titles excluded); check its name"
        )
    per_depth = [0] * (settings.depth + 1)
    for entry in entries:
        per_depth[depths[entry]] += 1
    facts = {
        "licence": LICENCE,
        "api": wiki.address,
        "category": settings.category,
        "categories": found.categories,
        "requests": wiki.requests,
        "articles": len(found.articles),
        "left_out": {"excluded titles": left_out, "members that are no articles": found.others},
        "entries_by_depth": per_depth,
    }
    return Candidates(pa.array(entries, pa.string()), pa.nulls(len(entries), pa.float64()), facts)


@dataclass(frozen=True)
class _Found:
    """What a walk came to: articles in order with their depth, categories walked, members of other namespaces."""

    articles: Mapping[str, int]
    categories: int
    others: int


def _walk(wiki: _Wiki, settings: CategorySettings) -> _Found:
    """Walk level by level."""
    excluded = re.compile(settings.exclude_categories) if settings.exclude_categories else None
    articles: dict[str, int] = {}
    root = "Category:" + settings.category.removeprefix("Category:").strip()
    seen, level, others, walked = {root}, [root], 0, 0
    for depth in range(settings.depth + 1):
        here: set[str] = set()
        below: set[str] = set()
        for name in level:
            walked += 1
            if walked > settings.max_categories:
                raise MetaclipError(
                    f"the category {settings.category!r} has more than {settings.max_categories} categories down to depth "
                    f"{depth}; lower depth, name exclude_categories, or raise max_categories"
                )
            for title, namespace in wiki.members(name):
                if namespace == _ARTICLE:
                    here.add(title)
                elif namespace != _CATEGORY:
                    others += 1
                elif excluded is None or not excluded.fullmatch(title.partition(":")[2]):
                    below.add(title)
        articles |= dict.fromkeys(sorted(here - articles.keys()), depth)
        level = sorted(below - seen)
        seen |= below
    return _Found(articles, walked, others)


class _Wiki:
    """A MediaWiki, asked through wikipedia-api: one request at a time, with a wait before each but the first."""

    def __init__(self, settings: CategorySettings, retry_wait: float) -> None:
        self._settings, self._retry_wait = settings, retry_wait
        self.address = settings.api or f"https://{settings.language}.wikipedia.org/w/api.php"
        self.requests = 0
        try:
            self._package = importlib.import_module("wikipediaapi")
            self._httpx = importlib.import_module("httpx")
        except ImportError:
            raise MetaclipError("to walk a category takes wikipedia-api; pip install 'metaclip[build]'") from None

    def __enter__(self) -> _Wiki:
        from tqdm import tqdm

        # disable=None: silent where standard error is no terminal.
        self._bar = tqdm(desc=self._settings.category, unit=" requests", disable=None)
        self._transport = self._polite(self._httpx.HTTPTransport())
        self._wiki = self._package.Wikipedia(
            user_agent(self._settings.contact),
            language=self._settings.language,
            max_retries=_RETRIES,
            retry_wait=self._retry_wait,
            transport=self._transport,
            timeout=30.0,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()
        self._bar.close()

    def _polite(self, inner: Any) -> Any:
        """Give a transport that waits, and sends what is meant for Wikipedia to the wiki of the settings."""
        wiki, httpx, settings = self, self._httpx, self._settings
        other = httpx.URL(settings.api) if settings.api else None

        class Polite(httpx.BaseTransport):  # type: ignore[misc, name-defined]
            def handle_request(self, request: Any) -> Any:
                if wiki.requests:
                    time.sleep(settings.wait)
                wiki.requests += 1
                wiki._bar.update(1)
                if other is not None:
                    request.url = other.copy_with(query=request.url.query)
                    request.headers["Host"] = request.url.netloc.decode()
                return inner.handle_request(request)

            def close(self) -> None:
                inner.close()

        return Polite()

    def members(self, category: str) -> Iterator[tuple[str, int]]:
        """Give title and namespace of each member of a category."""
        page = self._wiki.page(category, ns=self._package.Namespace.CATEGORY)
        failure = self._package.WikipediaException
        try:
            found = self._wiki.categorymembers(page)
        except self._package.WikiHttpError as error:
            raise MetaclipError(
                f"{self.address} answers {error.status_code} when asked for {category!r}; "
                "try later, with a longer wait and a contact"
            ) from None
        except (self._package.WikiInvalidJsonError, KeyError, TypeError, json.JSONDecodeError):
            raise MetaclipError(
                f"{self.address} gave no members when asked for {category!r}; check the address and the name"
            ) from None
        except failure as error:
            raise MetaclipError(
                f"{self.address} cannot be reached ({type(error).__name__} after {1 + _RETRIES} tries); "
                "is this machine offline?"
            ) from None
        for member in found.values():
            yield member.title, int(member.ns)
