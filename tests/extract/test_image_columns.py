"""The columns of the library give the pairs and the funnel that plain Python gives, for whatever pages contain."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as options
from hypothesis import strategies as st

from metaclip.extract import image_columns, plain_pairs
from metaclip.extract.extract_file import page_of
from metaclip.extract.filters import MAX_URL, REASONS, Filters, UrlList, blocked_words
from metaclip.extract.html_pages import Page
from metaclip.extract.image_columns import ImageBatch
from metaclip.extract.settings import ExtractSettings
from metaclip.extract.urls import BaseUrl
from metaclip.extract.warc_records import WarcRecord, read_records
from metaclip.native import load
from tests.crawls import image, wat_block
from tests.extract.test_urls import BASES, LINKS

pytestmark = pytest.mark.skipif(load() is None, reason="needs the compiled library")

Result = tuple[list[dict[str, Any]], dict[str, int]]
FILTERS = Filters(
    ExtractSettings(identify=False, titles=True, min_text=2, max_text=12),
    blocked=UrlList.parse(["example", "https://host.example/a"]),
    opted_out=UrlList.parse(["host.example", "https://example.org/b.jpg", "e.org"]),
    words=blocked_words(["x", "犬"]),
)
BARE = Filters(ExtractSettings(identify=False, titles=True))


def plain(pages: list[Page], filters: Filters) -> Result:
    funnel: Counter[str] = Counter()
    batches = list(plain_pairs.extract_pairs(pages, filters, funnel))
    return [row for batch in batches for row in batch.to_pylist()], dict(+funnel)


def columns(items: list[Page | WarcRecord], filters: Filters) -> Result:
    """Add pages and WAT records; read with Python what the library leaves."""
    funnel: Counter[str] = Counter()
    batch = ImageBatch(load(), filters, funnel)

    def added(item: Page | WarcRecord) -> list[Page | None]:
        if isinstance(item, Page):
            return [item]
        scanned = batch.scan(item)
        page = page_of(item, filters.settings) if scanned is None else None
        return [page] if isinstance(page, Page) else [None] if scanned else []

    batches = list(image_columns.extract_pairs((page for item in items for page in added(item)), batch))
    return [row for part in batches for row in part.to_pylist()], dict(+funnel)


def wat_record(block: bytes) -> WarcRecord:
    headers = {b"warc-type": b"metadata", b"content-type": b"application/json"}
    return WarcRecord(0, headers, b"junk" + block + b"junk", 4, 4 + len(block))


def pages_of(records: list[WarcRecord]) -> list[Page]:
    found = (page_of(record, FILTERS.settings) for record in records)
    return [page for page in found if isinstance(page, Page)]


TEXTS = st.one_of(
    st.text(max_size=5),
    st.lists(st.sampled_from(["a", " ", "\n", "\t", "\f", "\v", "\xa0", "犬", "\ud800", "x", "é"]), max_size=8).map("".join),
)  # fmt: skip
ODD_LINKS = st.sampled_from(
    [
        "http://[", "https://host.\texample/a", "https://host.example\x00", "https:///a.jpg", "https://u@e.org@f.example:8/a.svg", "https://e.org./x/1x1.GIF?a", "https://e.org/\u017fpacer.gif",
        "https://e.org/a.\u017fvg", "https://e.org/p\u0131xel.png", "https://x.doubleclick.net/a", "https://www.facebook.com/tr?x", "//facebook.com/tr/",
        "data:,x", "data:/x", "DATA:x", "\x1cdata:y", "/" + "a" * MAX_URL, "https://e.org/" + "é" * MAX_URL, "/a\n b.jpg \x00", "https://e.org\\@f/a",
        "https://a\x00b/c", "https://[::1]/a_blank.webp", "/x/y.z-trans.png", "/blank.gif/", "../../..", "./a", "../a/../b", "..", ".", "../?x", "/.a",
    ]
)  # fmt: skip
IMAGES = st.tuples(
    st.one_of(LINKS, ODD_LINKS, TEXTS), TEXTS, st.lists(TEXTS, max_size=2).map(tuple), st.booleans()
)


@given(st.lists(st.tuples(BASES, BASES, st.lists(IMAGES, max_size=6)), max_size=4), st.booleans())
@options(max_examples=400)
@example([("https://e.org/\ud800", "https://e.org/a/b", [("é.jpg", "ab", ("ab ",), False)])], True)
def test_pages_that_python_reads(pages: list[Any], with_lists: bool) -> None:
    """Any links, bases and texts give the same pairs, in the same order, and the same funnel."""
    made = [Page(url, BaseUrl(base), images) for url, base, images in pages]
    filters = FILTERS if with_lists else BARE
    assert columns(list(made), filters) == plain(made, filters)


RELS = ["license", "License nofollow", "nofollow\xa0license", "licenses", ""]
LICENSES = [
    "https://creativecommons.org/licenses/by/4.0/", "//www.CreativeCommons.org/publicdomain/zero/1.0/", "/terms", " http://creativecommons.org/licenses/by/4.0/",
    "creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/about", "http://[", "https:///creativecommons.org/licenses/",
]  # fmt: skip
NAMES = [
    "robots",
    "ROBOTS",
    "CCBot",
    "img2dataset",
    "otherbot",
    "tdm-reservation",
    "description",
    "\u017fobots",
]
SAID = [
    "noai", "index, NOIMAGEAI", "noimageindex,noml", "ccbot: noai", "otherbot: noai, noml", "max-snippet: -1, noml", "1", " 1 ", "0", "all",
    "noai noindex", "",
]  # fmt: skip
LINK = st.one_of(
    st.builds(image, st.one_of(LINKS, ODD_LINKS), TEXTS, TEXTS),
    st.builds(image, st.one_of(st.none(), LINKS), st.one_of(st.none(), TEXTS)),
    st.dictionaries(
        st.sampled_from(["path", "url", "alt", "title", "rel", "x"]),
        st.one_of(
            TEXTS, st.just("IMG@/src"), st.none(), st.floats(), st.lists(st.integers(), max_size=2)
        ),
    ),
    st.builds(lambda rel, url: {"path": "A@/href", "url": url, "rel": rel}, st.sampled_from(RELS), st.one_of(LINKS, st.sampled_from(LICENSES))),
    st.integers(),
)  # fmt: skip
META = st.one_of(
    st.builds(lambda name, content: {"name": name, "content": content}, st.sampled_from(NAMES), st.sampled_from(SAID)),
    st.dictionaries(st.sampled_from(["name", "content", "property"]), st.one_of(TEXTS, st.just("robots"), st.none()), max_size=3),
)  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(["X-Robots-Tag", "x-robots-tag", "TDM-Reservation", "Server"]),
    st.one_of(st.sampled_from(SAID), st.lists(st.sampled_from(SAID), max_size=3), st.integers()),
    max_size=2,
)


@given(
    st.lists(LINK, max_size=6), st.one_of(st.none(), BASES), BASES, st.booleans(), st.randoms(), st.lists(META, max_size=3), HEADERS,
    st.lists(LINK, max_size=2), st.booleans(),
)  # fmt: skip
@options(max_examples=400)
def test_records_that_the_library_reads(
    links: list[Any], base: str | None, url: str, ascii_only: bool, rng: random.Random, metas: list[Any], headers: dict[str, Any],
    head_links: list[Any], with_lists: bool,
) -> None:  # fmt: skip
    """WAT records give the pairs of Python's reader: escaped or not, odd or damaged."""
    record = json.loads(wat_block(url, [], base).decode("utf-8", "surrogatepass"))
    page = record["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]
    page["Headers"] |= headers
    page["HTML-Metadata"]["Head"] |= {"Metas": metas, "Link": head_links}
    page["HTML-Metadata"]["Links"] = links
    block = json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    damaged = bytearray(block)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(damaged))
        damaged[at : at + rng.randint(0, 2)] = rng.choice(
            [b"", b'"', b"\\", b"{", b"]", b",", b"\xff", b"\x01", b"\\ud800", b"0"]
        )
    records = [
        wat_record(block),
        wat_record(bytes(damaged)),
        wat_record(block[: rng.randrange(len(block))]),
    ]
    filters = FILTERS if with_lists else BARE
    assert columns(list(records), filters) == plain(pages_of(records), filters)


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (wat_block("https://e.org/", [image("/1.jpg", "one")]), True), (b'{"Envelope":{}}', False), (b" {} ", False), (b"[]", None),
        (b'{"Envelope":{"WARC-Header-Metadata":{},"Payload-Metadata":{}},"x":[1,{"y":[-0.5e+3,true,null,"\\u00e9\\n"]}]}', False),
        (b'{"Envelope":{},"Envelope":{}}', None), (b'{"Envel\\u006fpe":{}}', None), (b'{"x":"\\ud83d"}', None), (b'{"x":"\xff"}', None),
        (b'{"x":01}', None), (b'{"x":1.}', None), (b'{"x":[1,]}', None), (b'{"x":1,}', None), (b'{"x" 1}', None), (b'{"x":"\\q"}', None),
        (b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", None), (b'{"x":"\x1f"}', None), (b'{"x":"abc', None), (b"{}}", None), (b"", None),
        (b'{"x":' + b"1" * 100 + b"}", None), (b'{"x":tru}', None), (b'{"x":"\xed\xa0\x80"}', None), (b'{"x":"' + b"\xc3\xa9" * 40 + b'"}', False),
    ],
)  # fmt: skip
def test_what_the_library_reads(block: bytes, found: bool | None) -> None:
    """It reads plain JSON, and leaves to Python whatever is unusual (None)."""
    assert ImageBatch(load(), BARE, Counter()).scan(wat_record(block)) is found


def test_licences_written_with_escapes() -> None:
    """Escapes in the rel or the address of a link hide no licence from the library."""
    links = [
        {"path": "A@/href", "url": "https://creativecommons.org/licenses/by/4.0/"},
        image("/1.jpg", "one"),
    ]
    slashes = wat_block("https://e.org/", links).replace(b"https://creative", b"https:\\/\\/creative")
    named = wat_block(
        "https://e.org/", [{"path": "A@/href", "url": "/terms", "rel": "license"}, links[1]]
    )
    records = [wat_record(slashes), wat_record(named.replace(b'"license"', b'"l\\u0069cense"'))]
    found = columns(list(records), BARE)
    assert found == plain(pages_of(records), BARE)
    assert [row["license"] for row in found[0]] == [
        "https://creativecommons.org/licenses/by/4.0/",
        "https://e.org/terms",
    ]


@pytest.mark.parametrize(
    "link", ["https://host.\texample/1.jpg", "https://host.example\x00", "https://é@ho\nst.example/1.jpg"]
)
def test_the_host_of_a_list_is_that_of_the_cleaned_url(link: str) -> None:
    """Tabs, line feeds and trailing control characters, which browsers drop, take no host off a list."""
    records = [wat_record(wat_block("https://a.org/", [image(link, "text")]))]
    found = columns(list(records), FILTERS)
    assert found == plain(pages_of(records), FILTERS)
    assert found[1]["blocked_domain"] == 1


def test_the_numbers_of_reasons() -> None:
    """The library numbers the first reasons as `REASONS` orders them."""
    source = (Path(image_columns.__file__).parents[1] / "native" / "src" / "images.h").read_text()
    names = re.search(r"NO_REASON, ([A-Z_, \n]+),\n", source)
    assert names is not None
    found = [name.strip().lower() for name in names[1].split(",")]
    assert found == list(REASONS)[: len(found)]


def test_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch is divided changes nothing, also within a page and within what Python judges."""
    images = [(f"/{i}é.jpg" if i % 3 else f"{i}.jpg", f"text {i}", (), False) for i in range(50)]
    pages = [Page(f"https://e.org/{i}/", BaseUrl(f"https://e.org/{i}/"), images) for i in range(20)]
    expected = plain(pages, BARE)
    for size in (1, 100, 3000):
        monkeypatch.setattr(image_columns, "BATCH_BYTES", size)
        assert columns(list(pages), BARE) == expected


def test_long_bases_take_no_memory() -> None:
    """A long base, joined to each of many links, is not built: no url may be that long."""
    url = "https://e.org/" + "a" * 100_000 + "/"
    record = wat_record(wat_block(url, [image(f"{i}.jpg", "text") for i in range(5000)]))
    found = columns([record], BARE)
    assert found == plain(pages_of([record]), BARE)
    assert found[1]["bad_url"] == 5000


def test_real_records(data_folder: Path) -> None:
    """Real WAT records, and copies with what is odd put into them, give the same; the library reads nearly all real ones."""
    rng = random.Random(5)
    odd = [
        b"../",
        b"//",
        b"?",
        b"#",
        b"\\n",
        b"\\ud83d",
        b"\\u00e9",
        b"\xc3\xa9",
        b" ",
        b"data:",
        b"null",
        b'"',
        b"\xff",
        b"[",
        b".svg",
    ]
    for path in sorted((data_folder / "wat").iterdir()):
        records = [
            record
            for record in read_records([path.read_bytes()], lambda *_: None, "x")
            if record.headers.get(b"warc-type") == b"metadata"
        ]
        batch = ImageBatch(load(), BARE, Counter())
        left = sum(batch.scan(record) is None for record in records)
        assert left <= len(records) // 100
        copies = []
        for record in records[:400]:
            block = bytearray(record.block)
            for _ in range(3):
                at = block.find(b'"IMG@/src"', rng.randrange(len(block))) + rng.randrange(10, 60)
                block[at:at] = rng.choice(odd)
            copies.append(wat_record(bytes(block)))
        for some in (records, copies):
            assert columns(list(some), BARE) == plain(pages_of(some), BARE)
