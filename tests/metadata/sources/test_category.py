"""A category walked over http, against a server that speaks the API: depth, circles, order, limits, manners."""

from __future__ import annotations

import dataclasses
import itertools
import json
import socket
from typing import Any

import pytest

from metaclip import recipe
from metaclip.errors import MetaclipError
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources.category import CategorySettings, candidates
from tests.http_servers import Asked, Server, categories, serving

pytest.importorskip("wikipediaapi", reason="needs metaclip[build]")

WIKI: dict[str, list[tuple[str, int]]] = {
    "Category:Birds": [
        ("Bird", 0), ("Feather", 0), ("List of birds", 0), ("Talk:Bird", 1), ("Category:Waders", 14), ("Portal:Birds", 100),
        ("Template:Birds", 10), ("Category:Owls", 14), ("Crane (bird)", 0), ("File:Bird.jpg", 6),
    ],
    "Category:Owls": [("Owl", 0), ("Barn owl", 0), ("Bird", 0), ("Category:Birds", 14), ("Category:Barn owls", 14), ("Category:Stubs", 14)],
    "Category:Waders": [("Wader", 0), ("Crane", 0), ("Category:Owls", 14), ("Category:Barn owls", 14)],
    "Category:Barn owls": [("Tyto", 0), ("Category:Owls", 14), ("Category:Deep", 14)],
    "Category:Stubs": [("Stub", 0)],
    "Category:Deep": [("Deep one", 0)],
}  # fmt: skip


def settings_for(server: Server, **changes: Any) -> CategorySettings:
    return dataclasses.replace(
        CategorySettings(category="Birds", api=f"{server.address}/w/api.php", wait=0.0), **changes
    )


def walked(
    wiki: dict[str, list[tuple[str, int]]] = WIKI, **changes: Any
) -> tuple[Candidates, list[Asked]]:
    with serving(categories(wiki)) as server:
        return candidates(settings_for(server, **changes), retry_wait=0.001), server.asked


def test_depth() -> None:
    """Nearest first, then by title; each title once, where it was met first; only articles."""
    levels = [
        ["Bird", "Crane (bird)", "Feather"],
        ["Barn owl", "Crane", "Owl", "Wader"],
        ["Stub", "Tyto"],
        ["Deep one"],
    ]
    for depth in range(4):
        found, _ = walked(depth=depth)
        assert found.entries.to_pylist() == [title for level in levels[: depth + 1] for title in level]
        assert found.scores.null_count == len(found.entries)
        assert found.facts["entries_by_depth"] == [len(level) for level in levels[: depth + 1]]
    found, _ = walked(depth=50)
    assert found.facts["categories"] == 6
    assert found.facts["left_out"] == {"excluded titles": 1, "members that are no articles": 4}


def test_every_page_of_an_answer_is_asked_for() -> None:
    """Answers come in pages; the walk follows the continuation, and asks for no category twice."""
    _, asked = walked(depth=50)
    begun = [request.query["cmtitle"] for request in asked if "cmcontinue" not in request.query]
    assert sorted(begun) == sorted(WIKI)
    assert len(asked) == sum(-(-len(members) // 3) for members in WIKI.values())


def test_order_does_not_come_from_the_answers() -> None:
    """A wiki that answers in another order gives the same list."""
    turned = {name: members[::-1] for name, members in WIKI.items()}
    assert walked(turned, depth=9)[0].entries.equals(walked(depth=9)[0].entries)


def test_what_is_left_out_on_request() -> None:
    """Titles and subcategories by a regular expression; tails by a switch, and what then is the same is one."""
    found, asked = walked(exclude_categories="Stubs|Barn.*", depth=9)
    assert found.entries.to_pylist() == [
        "Bird",
        "Crane (bird)",
        "Feather",
        "Barn owl",
        "Crane",
        "Owl",
        "Wader",
    ]
    assert "Category:Stubs" not in {request.query["cmtitle"] for request in asked}
    assert walked(exclude="", depth=0)[0].entries.to_pylist() == [
        "Bird",
        "Crane (bird)",
        "Feather",
        "List of birds",
    ]
    assert walked(drop_tails=True, depth=1)[0].entries.to_pylist() == [
        "Bird",
        "Crane",
        "Feather",
        "Barn owl",
        "Owl",
        "Wader",
    ]


def test_limits() -> None:
    """A limit keeps the nearest; a walk that grows over what is allowed is refused, not cut."""
    found, _ = walked(depth=3, limit=4)
    assert found.entries.to_pylist() == ["Bird", "Crane (bird)", "Feather", "Barn owl"]
    assert found.facts["entries_by_depth"] == [3, 1, 0, 0]
    with pytest.raises(MetaclipError, match="has more than 3 categories down to depth 2; lower depth"):
        walked(depth=9, max_categories=3)
    assert len(walked(depth=1, max_categories=3)[0].entries) == 7


def test_manners() -> None:
    """It says who it is, and waits between requests."""
    _, asked = walked(depth=0, wait=0.05, contact="https://example.org/me")
    assert len(asked) == 4
    assert all(b.at - a.at >= 0.05 for a, b in itertools.pairwise(asked))
    agent = {request.headers["User-Agent"] for request in asked}
    assert len(agent) == 1
    assert "metaclip/" in agent.copy().pop()
    assert "https://example.org/me" in agent.pop()


def test_a_busy_wiki_is_asked_again() -> None:
    """429 and 503 are waited out; a refusal is told at once, with the answer's number."""
    usual, codes = categories(WIKI), [429, 503, 502]

    def answer(handler: Any, request: Asked) -> None:
        if codes:
            handler.give(b"later", codes.pop(), Retry_After="0")
        else:
            usual(handler, request)

    with serving(answer) as server:
        found = candidates(settings_for(server, depth=0), retry_wait=0.001)
    assert len(found.entries) == 3
    with serving(lambda handler, request: handler.give(b"no", 403)) as server:
        with pytest.raises(MetaclipError, match="answers 403 when asked for 'Category:Birds'"):
            candidates(settings_for(server), retry_wait=0.001)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        json.dumps({"error": {"code": "maxlag", "info": "late"}}).encode(),
        b"[]",
        b'{"query": {}}',
    ],
)
def test_answers_that_are_no_members(body: bytes) -> None:
    """An answer of another form is one clear line."""
    with (
        serving(lambda handler, request: handler.give(body)) as server,
        pytest.raises(MetaclipError) as caught,
    ):
        candidates(settings_for(server), retry_wait=0.001)
    assert server.address in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_is_said_clearly() -> None:
    """No server there: one line that asks whether this machine is offline."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = CategorySettings(category="Birds", api=f"http://127.0.0.1:{port}/w/api.php", wait=0.0)
    with pytest.raises(MetaclipError, match=r"cannot be reached .* is this machine offline\?"):
        candidates(settings, retry_wait=0.001)


def test_a_category_without_articles_is_an_error() -> None:
    """A name that no category has gives nothing, and that is said."""
    with pytest.raises(
        MetaclipError, match=r"'Birbs' of http.* has no articles down to depth 2 \(1 categories"
    ):
        walked(category="Birbs")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "category is empty"),
        ({"category": "Category: "}, "category is empty"),
        ({"category": "A", "depth": -1}, "depth is -1, must be at least 0"),
        ({"category": "A", "limit": 0}, "limit is 0"),
        ({"category": "A", "exclude": "("}, "exclude is no regular expression"),
        ({"category": "A", "dept": 1}, "did you mean 'depth'"),
    ],
)
def test_settings_are_checked(table: dict[str, object], message: str) -> None:
    """A recipe's table with a mistake is one clear line."""
    with pytest.raises(MetaclipError, match=message):
        recipe.settings(CategorySettings, table, "x.toml, [category]")


@pytest.mark.network
def test_wikipedia_itself() -> None:
    """The real wiki: a small category gives its articles."""
    found = candidates(
        CategorySettings(category="Category:Dodo", depth=0, contact="metaclip's own tests")
    )
    assert "Dodo" in found.entries.to_pylist()
