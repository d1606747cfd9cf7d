"""WAT records: the images of a page, whatever the record contains."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.extract.settings import DEFAULTS, ExtractSettings
from metaclip.extract.wat_pages import read_any_wat_page, read_wat_page
from tests.crawls import image, wat_block

URL = "https://example.org/dir/page.html"
TITLES = ExtractSettings(titles=True)


def test_images_of_a_wat() -> None:
    """Images come in order, missing fields are empty; other links are no images."""
    links = [
        {"path": "A@/href", "url": "/a", "text": "x"}, image("/1.jpg", "one", "t"), image("/2.jpg"), image("", ""),
        {"path": "IMG@/longdesc", "url": "/d"}, {"url": "/no-path"}, image(None, "alt only"),
    ]  # fmt: skip
    page = read_wat_page(wat_block(URL, links, "/base/"))
    assert page is not None
    assert (page.url, page.base.url) == (URL, "https://example.org/base/")
    assert page.images == [
        ("/1.jpg", "one", (), False),
        ("/2.jpg", "", (), False),
        ("", "", (), False),
        ("", "alt only", (), False),
    ]
    titled = read_wat_page(wat_block(URL, links), TITLES)
    assert titled is not None
    assert titled.images[0] == ("/1.jpg", "one", ("t",), False)


TEXT = st.one_of(
    st.text(max_size=8),
    st.sampled_from(['"IMG@/src"', "},{", "\\", '\\"path":"IMG@/src"', "\ud800", "{{alt}}"]),
)
LINK = st.dictionaries(
    st.sampled_from(["path", "url", "alt", "title", "rel"]),
    st.one_of(TEXT, st.just("IMG@/src"), st.none(), st.integers(), st.lists(st.integers(), max_size=2)),
)


@given(
    st.lists(st.one_of(LINK, st.builds(image, TEXT, TEXT, TEXT), st.integers()), max_size=5),
    st.one_of(st.none(), TEXT),
    st.booleans(),
)
def test_the_quick_way_reads_what_the_tolerant_way_reads(
    links: list[Any], base: str | None, ascii_only: bool
) -> None:
    """The fast decoder gives what decoding everything gives; what it refuses is read as far as possible."""
    record = json.loads(wat_block(URL, [], base).decode("utf-8", "surrogatepass"))
    record["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]["Links"] = links
    block = json.dumps(record, ensure_ascii=True).encode()
    for options in (DEFAULTS, TITLES):
        quick, tolerant = read_wat_page(block, options), read_any_wat_page(block, options.titles)
        assert quick is not None
        assert tolerant is not None
        assert (quick.url, quick.base.url, quick.images) == (
            tolerant.url,
            tolerant.base.url,
            tolerant.images,
        )


@pytest.mark.parametrize(
    "record", [{}, {"Envelope": 1}, {"Envelope": {"Payload-Metadata": {}}}, [], 7, None]
)
def test_a_wat_of_no_page(record: Any) -> None:
    """A record of a request, or of anything that is no page, has no page."""
    assert read_wat_page(json.dumps(record).encode()) is None


@pytest.mark.parametrize(
    "block", [b"", b"{", b'{"a":1}x', b"\xff", b'{"Envelope":"\xff"}', b"[" * 100_000]
)
def test_a_wat_that_is_no_json(block: bytes) -> None:
    """Bytes that are not JSON or not UTF-8, or nested deeply, are a ValueError; the next record is still read."""
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, the record is counted
        read_wat_page(block)
    assert read_wat_page(wat_block(URL, [image("/1.jpg", "one")])) is not None


def test_half_a_surrogate_costs_its_pair_alone() -> None:
    """A record with a lone surrogate in an alt, which is no valid Unicode, still has its other images."""
    block = wat_block(
        URL, [image("/1.jpg", "one"), image("/2.jpg", "HALF"), image("/3.jpg", "three")]
    ).replace(b"HALF", b"\\ud83d")
    page = read_wat_page(block)
    assert page is not None
    assert [alt for _, alt, _, _ in page.images] == ["one", "\ud83d", "three"]


def test_damage_beside_the_images_costs_nothing() -> None:
    """Bytes that are not UTF-8 in a header, a meta element or a rel cost neither the page nor its opt-out."""
    links = [image("/1.jpg", "one"), {"path": "A@/href", "url": "/a", "rel": "HALF"}]
    block = wat_block(
        URL,
        links,
        metas=[{"name": "robots", "content": "noai"}, {"name": "HALF"}],
        headers={"Server": "HALF"},
    )
    page = read_wat_page(block.replace(b"HALF", b"a\xff"))
    assert page is not None
    assert [link for link, *_ in page.images] == ["/1.jpg"]
    assert ("robots", "noai") in [(signal.name, signal.value) for signal in page.signals]
