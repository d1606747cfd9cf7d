"""Filters: tables of pairs with the reasons why they are left out, in the order in which they are tested."""

from __future__ import annotations

import pytest

from metaclip.extract.filters import MAX_URL, REASONS, Filters, UrlList, blocked_words
from metaclip.extract.settings import ExtractSettings
from metaclip.extract.urls import BaseUrl

FILTERS = Filters(
    ExtractSettings(min_text=3, max_text=20),
    blocked=UrlList.parse(["spam.example", "*.ads.example/ # comment", ""]),
    opted_out=UrlList.parse(["Artist.example", "https://e.org/mine.jpg", "# comment"]),
    words=blocked_words(["bad", "very rude", "ばか", "bad"]),
)
PAGE = "https://page.example/dir/"


def reason_of(
    link: str, text: str, page: str = PAGE, is_pixel: bool = False, filters: Filters = FILTERS
) -> str | None:
    """Return the first reason, tested in the order of `extract_file`."""
    url = BaseUrl(page).resolve(link)
    if reason := filters.url_reason(link, url, is_pixel) or filters.text_reason(text, text):
        return reason
    assert url is not None
    return filters.pair_reason(url, text, filters.page_reason(page))


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("/a.jpg", None), ("", "no_url"), (" \n", "no_url"), ("data:image/png;base64,AAAA", "data_url"), ("DATA:x", "data_url"),
        ("data://[", "data_url"), ("http://[", "bad_url"), ("//[x", "bad_url"), ("https:///a.jpg", "bad_url"), ("/\ud800", "bad_url"),
        ("/" + "a" * MAX_URL, "bad_url"), ("ftp://e.org/a.jpg", "not_web"), ("javascript:x()", "not_web"), ("about:blank", "not_web"),
        ("/a.svg", "svg"), ("/a.SVGZ?x=1", "svg"), ("/a.svg#b", "svg"), ("/a.svg.png", None), ("/a?b=.svg", None), ("/asvg", None),
        ("/1x1.gif", "tracking_pixel"), ("/img/spacer.gif?x", "tracking_pixel"), ("/a-blank.png", "tracking_pixel"),
        ("/blankets.png", None), ("/pixel-art.png", None), ("https://stats.g.doubleclick.net/x.jpg", "tracking_pixel"),
        ("https://www.facebook.com/tr?id=1", "tracking_pixel"), ("https://www.facebook.com/trip.jpg", None),
        ("https://spam.example/a.jpg", "blocked_domain"), ("https://x.spam.example:8/a.jpg", "blocked_domain"),
        ("https://nospam.example/a.jpg", None), ("https://a.ads.example/a.jpg", "blocked_domain"),
        ("https://www.artist.example/a.jpg", "opted_out"), ("https://e.org/mine.jpg", "opted_out"), ("https://e.org/yours.jpg", None),
    ],
)  # fmt: skip
def test_urls(link: str, reason: str | None) -> None:
    """Each url has its reason, or none."""
    assert reason_of(link, "a good text") == reason
    assert reason is None or reason in REASONS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dog", None), ("do", "text_too_short"), ("a" * 20, None), ("a" * 21, "text_too_long"), ("犬です", None), ("x\ud83dyz", "invalid_text"),
        ("a BAD dog", "blocked_word"), ("(bad)", "blocked_word"), ("badge", None), ("Very  rude!", "blocked_word"), ("rude very", None),
        ("このばかもの", "blocked_word"),
    ],
)  # fmt: skip
def test_texts(text: str, reason: str | None) -> None:
    """Lengths are in characters; blocked words are whole words, phrases too, in any case, and inside words of unspaced scripts."""
    assert reason_of("/a.jpg", text) == reason


def test_pages_are_tested_too() -> None:
    """An image elsewhere on a page of a listed domain is left out like those on it; a listed url stands for itself alone."""
    assert reason_of("https://e.org/a.jpg", "a dog", "https://blog.spam.example/") == "blocked_domain"
    assert reason_of("https://e.org/a.jpg", "a dog", "https://artist.example/") == "opted_out"


def test_declared_pixels() -> None:
    """An image that is declared one pixel small counts visits."""
    assert reason_of("/a.jpg", "a dog", is_pixel=True) == "tracking_pixel"


def test_defaults() -> None:
    """Without lists, only what is no image or no text is left out."""
    assert reason_of("https://spam.example/a.jpg", "bad", filters=Filters()) is None


def test_reasons_are_tested_in_order() -> None:
    """A pair with several reasons is counted for the first."""
    assert reason_of("data:x", "bad") == "data_url"
    assert reason_of("https://spam.example/a.svg", "b") == "svg"
    assert reason_of("https://spam.example/a.jpg", "b") == "text_too_short"
    assert reason_of("https://spam.example/a.jpg", "bad") == "blocked_domain"


def test_languages() -> None:
    """A language that is not wanted, an unknown one, or a score that is too low is a reason."""
    filters = Filters(ExtractSettings(lang="en,de", min_lang_score=0.5))
    assert filters.language_reason("en", 0.5) is None
    assert filters.language_reason("ja", 0.9) == "language"
    assert filters.language_reason("de", 0.4) == "language"
    assert filters.language_reason(None, 0.0) == "language"
    assert Filters().language_reason(None, 0.0) is None
