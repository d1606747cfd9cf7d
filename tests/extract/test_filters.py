"""Filters: a table of pairs and the reasons for which they are left out, in the order in which they are asked."""

from __future__ import annotations

import pytest

from metaclip.extract.addresses import Base
from metaclip.extract.filters import MAX_URL, REASONS, Filters, Listing, Words

FILTERS = Filters(
    min_text=3,
    max_text=20,
    blocked=Listing.of(["spam.example", "*.ads.example/ # comment", ""]),
    opted_out=Listing.of(["Artist.example", "https://e.org/mine.jpg", "# comment"]),
    words=Words(["bad", "very rude", "ばか", "bad"]),
)
PAGE = "https://page.example/dir/"


def why(link: str, text: str, page: str = PAGE, dot: bool = False, filters: Filters = FILTERS) -> str | None:
    """Ask what the step asks, in its order."""
    url = Base(page).resolve(link)
    if reason := filters.why_address(link, url, dot) or filters.why_text(text, text):
        return reason
    assert url is not None
    return filters.why_listed(url, text, filters.why_page(page))


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
def test_addresses(link: str, reason: str | None) -> None:
    """Each link has its reason, or none."""
    assert why(link, "a good text") == reason
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
    assert why("/a.jpg", text) == reason


def test_pages_count_too() -> None:
    """An image elsewhere on a page of a listed domain is left out like those on it; an address listed is just itself."""
    assert why("https://e.org/a.jpg", "a dog", "https://blog.spam.example/") == "blocked_domain"
    assert why("https://e.org/a.jpg", "a dog", "https://artist.example/") == "opted_out"


def test_declared_dots() -> None:
    """An image that is declared one pixel small counts visits."""
    assert why("/a.jpg", "a dog", dot=True) == "tracking_pixel"


def test_nothing_is_asked_by_default() -> None:
    """Without lists only what is no image and no text is left out."""
    assert why("https://spam.example/a.jpg", "bad", filters=Filters()) is None


def test_reasons_are_asked_in_their_order() -> None:
    """What has several reasons is counted for the first."""
    assert why("data:x", "bad") == "data_url"
    assert why("https://spam.example/a.svg", "b") == "svg"
    assert why("https://spam.example/a.jpg", "b") == "text_too_short"
    assert why("https://spam.example/a.jpg", "bad") == "blocked_domain"
