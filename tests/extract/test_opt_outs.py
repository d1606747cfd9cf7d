"""What pages say about their use: opt-outs by meta elements and headers, licences by links; the same from WAT and WARC."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from metaclip.errors import MetaclipError
from metaclip.extract.extract import extract
from metaclip.extract.filters import REASONS
from metaclip.extract.opt_outs import (
    HEADER,
    LINK,
    LINK_IN_HEAD,
    META,
    OPT_OUTS,
    Signal,
    license_of,
    names_of,
    opt_out_of,
)
from metaclip.extract.settings import ExtractSettings
from metaclip.extract.urls import BaseUrl
from tests.crawls import image, packed, record, response, wat

pytest.importorskip("isal", reason="needs metaclip[crawl]")
AGENTS = names_of("CCBot, img2dataset")


@pytest.mark.parametrize(
    ("kind", "name", "value", "reason"),
    [
        (META, "robots", "noai", "noai"), (META, "Robots", "index,NOAI ,follow", "noai"), (META, "robots", "noimageai noindex", "noimageai"),
        (META, "robots", "noml, noimageindex", "noimageindex"), (META, "ccbot", "noml", "noml"), (META, "otherbot", "noai", None),
        (META, "robots", "noindex, nofollow, max-image-preview:large", None), (META, "robots", "noaim", None), (META, "robots", "", None),
        (META, "description", "noai", None), (META, "tdm-reservation", " 1 ", "tdm_reserved"), (META, "tdm-reservation", "0", None),
        (META, "x-robots-tag", "noai", None), (HEADER, "X-Robots-Tag", "noai", "noai"), (HEADER, "x-robots-tag", "noindex, noimageai", "noimageai"),
        (HEADER, "X-Robots-Tag", "otherbot: noai, noml", None), (HEADER, "X-Robots-Tag", "otherbot: noindex, CCBot: noai", "noai"),
        (HEADER, "X-Robots-Tag", "img2dataset:noml", "noml"), (HEADER, "X-Robots-Tag", "unavailable_after: 25 Jun 2030, noai", "noai"),
        (HEADER, "X-Robots-Tag", "max-snippet: 1, noml", "noml"), (HEADER, "TDM-Reservation", "1", "tdm_reserved"), (HEADER, "robots", "noai", None),
        (LINK, "robots", "noai", None),
    ],
)  # fmt: skip
def test_opt_outs(kind: int, name: str, value: str, reason: str | None) -> None:
    """Each form has its reason; directives for other agents, and other directives, have none."""
    assert opt_out_of([Signal(kind, name, value)], AGENTS) == reason


def test_the_first_opt_out_counts() -> None:
    """Of several, the first in the order of reasons is counted, and all are reasons of the funnel."""
    said = [
        Signal(HEADER, "tdm-reservation", "1"),
        Signal(META, "robots", "noml"),
        Signal(META, "robots", "noimageai"),
    ]
    assert opt_out_of(said, AGENTS) == "noimageai"
    assert [reason for reason in REASONS if reason in OPT_OUTS] == list(OPT_OUTS)


@pytest.mark.parametrize(
    ("signals", "license_url"),
    [
        ([], None), ([Signal(LINK, "license", "/terms#x")], "https://e.org/terms#x"), ([Signal(LINK, "nofollow", "/terms")], None),
        ([Signal(LINK, "", "https://creativecommons.org/licenses/by/4.0/"), Signal(LINK, "license", "terms")], "https://e.org/a/terms"),
        ([Signal(LINK, "license", "a"), Signal(LINK_IN_HEAD, "license", "b"), Signal(LINK_IN_HEAD, "license", "c")], "https://e.org/a/b"),
        ([Signal(LINK, "", "//creativecommons.org/publicdomain/zero/1.0/")], "https://creativecommons.org/publicdomain/zero/1.0/"),
        ([Signal(LINK, "", "https://creativecommons.org/about")], None), ([Signal(LINK, "license", "javascript:x()")], None),
        ([Signal(LINK, "license", "x" * 2000), Signal(LINK, "license", "http://["), Signal(LINK, "License", "y")], "https://e.org/a/y"),
    ],
)  # fmt: skip
def test_licences(signals: list[Signal], license_url: str | None) -> None:
    """A link with rel=license comes before one to Creative Commons, one in the head before others; odd addresses are none."""
    assert license_of(signals, BaseUrl("https://e.org/a/")) == license_url


def pages() -> list[bytes]:
    """Return a WAT and a WARC record of each of six pages, five of which opt out."""
    metas = [("robots", "noai"), ("CCBot", "noimageai"), ("tdm-reservation", "1")]
    headers = ["X-Robots-Tag: noindex", "X-Robots-Tag: noml", "x-robots-tag: noimageindex"]
    found = []
    for i, (name, content) in enumerate([*metas, ("robots", "noindex")]):
        html = f'<meta name="{name}" content="{content}"><link rel="license" href="/terms"><img src=a.jpg alt="text {i}">'
        found.append(response(f"https://e.org/{i}", html))
        links = [image("a.jpg", f"text {i}"), {"path": "A@/href", "url": "/terms", "rel": "license"}]
        found.append(wat(f"https://e.org/{i}", links, metas=[{"name": name, "content": content}]))
    html = "<img src=a.jpg alt=text>"
    found.append(response("https://e.org/h", html, *headers[:2]))
    found.append(
        wat("https://e.org/h", [image("a.jpg", "text")], headers={"X-Robots-Tag": ["noindex", "noml"]})
    )
    found.append(response("https://e.org/i", html, headers[2]))
    found.append(
        wat("https://e.org/i", [image("a.jpg", "text")], headers={"x-robots-tag": "noimageindex"})
    )
    return found


def test_a_crawl_with_opt_outs(tmp_path: Path) -> None:
    """Pages that opt out are left out, each with its reason, from WAT and WARC alike; --ignore-noai keeps them."""
    (tmp_path / "x.warc.gz").write_bytes(packed([record("warcinfo", b"x"), *pages()]))
    settings = ExtractSettings(identify=False, dedupe="none")
    made = extract(tmp_path / "x.warc.gz", out=tmp_path / "pool", settings=settings)
    assert {reason: made.funnel[reason] for reason in OPT_OUTS} == dict.fromkeys(OPT_OUTS, 2)
    rows = pq.read_table(tmp_path / "pool" / "000000.parquet").to_pylist()
    assert [(row["text"], row["license"]) for row in rows] == [("text 3", "https://e.org/terms")] * 2
    every = ExtractSettings(identify=False, dedupe="none", ignore_noai=True)
    made = extract(tmp_path / "x.warc.gz", out=tmp_path / "all", settings=every)
    assert made.funnel["pairs"] == 12
    assert made.record["complete"]


def test_a_pool_of_an_earlier_revision_is_refused(tmp_path: Path) -> None:
    """A pool that was begun before opt-outs were honoured is not continued; the message names what changed."""
    (tmp_path / "x.warc.gz").write_bytes(packed([record("warcinfo", b"x"), *pages()]))
    settings = ExtractSettings(identify=False)
    extract(tmp_path / "x.warc.gz", out=tmp_path / "pool", settings=settings)
    path = tmp_path / "pool" / ".state" / "extract" / "fingerprint.json"
    before = json.loads(path.read_text())
    del before["ignore_noai"], before["agents"]
    path.write_text(json.dumps(before | {"semantics": 1}))
    with pytest.raises(MetaclipError, match="ignore_noai: null -> false; semantics: 1 -> 2"):
        extract(tmp_path / "x.warc.gz", out=tmp_path / "pool", settings=settings)
