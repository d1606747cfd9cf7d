"""HTML pages: images as browsers see them, and the same images from WATs."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.extract.extract_file import page_of
from metaclip.extract.html_pages import (
    Image,
    Page,
    clean_text,
    image_texts,
    largest_of_srcset,
    read_html_page,
)  # fmt: skip
from metaclip.extract.settings import DEFAULTS, ExtractSettings
from metaclip.extract.warc_records import read_records

pytest.importorskip("resiliparse", reason="needs metaclip[crawl]")

URL = "https://example.org/dir/page.html"
ALL = ExtractSettings(titles=True, captions=True, lazy=True, srcset=True)


def of_html(
    html: str | bytes, options: ExtractSettings = DEFAULTS, charset: str | None = None
) -> list[Image]:
    return read_html_page(URL, html.encode() if isinstance(html, str) else html, charset, options).images


# HTML -----------------------------------------------------------------------------------------------------------------


def test_images_of_html() -> None:
    """Images are found as browsers find them: entities resolved, in broken markup, ignoring case, not in comments."""
    html = """<!DOCTYPE html><base href=/b/><p><IMG SRC=1.jpg ALT='Tom &amp; J&eacute;r&ocirc;me'><img src="2.jpg"
      alt=" two&nbsp;"><!-- <img src=no.jpg alt=no> --><script>"<img src=no.jpg>"</script><table><img src=3.jpg alt=three><tr>
      <noscript><img src=4.jpg alt=four></noscript><img alt=none><img src=5.gif width=1 height=1 alt=dot><img"""
    page = read_html_page(URL, html.encode())
    assert page.base.url == "https://example.org/b/"
    assert page.images == [
        ("1.jpg", "Tom & Jérôme", (), False), ("2.jpg", " two\xa0", (), False), ("3.jpg", "three", (), False),
        ("4.jpg", "four", (), False), ("", "none", (), False), ("5.gif", "dot", (), True),
    ]  # fmt: skip


def test_titles_and_captions() -> None:
    """Titles and captions are read on request only; a caption is that of the nearest figure."""
    html = """<figure><figcaption>outer</figcaption><figure><a><img src=1.jpg alt=a title=t></a><figcaption>in <b>bold</b>
    </figcaption></figure></figure><img src=2.jpg alt=b>"""
    assert [more for _, _, more, _ in of_html(html)] == [(), ()]
    assert [more for _, _, more, _ in of_html(html, ExtractSettings(titles=True))] == [("t",), ()]
    (_, _, more, _), (_, _, none, _) = of_html(html, ExtractSettings(captions=True))
    assert [clean_text(text) for text in more] == ["in bold"]
    assert none == ()


def test_lazy_images() -> None:
    """On request the link is the one that a script would load: the first known attribute that is not empty."""
    html = (
        "<img src=dot.gif data-original=o.jpg data-src=' s.jpg ' alt=a><img src=2.jpg data-src='' alt=b>"
    )
    assert [link for link, *_ in of_html(html)] == ["dot.gif", "2.jpg"]
    assert [link for link, *_ in of_html(html, ExtractSettings(lazy=True))] == ["s.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("srcset", "link"),
    [
        ("a.jpg 100w, b.jpg 300w, c.jpg 200w", "b.jpg"), ("a.jpg, b.jpg 2x", "b.jpg"), ("a.jpg 1x,b.jpg 1.5x", "b.jpg"), ("", ""),
        ("a,b.jpg 2w,c,d.jpg 1w", "a,b.jpg"), (" , ", ""), ("a.jpg 1w, b.jpg 1w", "a.jpg"), ("a.jpg 1..2w, b.jpg 1w", "b.jpg"),
    ],
)  # fmt: skip
def test_srcset(srcset: str, link: str) -> None:
    """The largest image of a srcset is taken; commas in addresses do not separate; else the src stays."""
    assert largest_of_srcset(srcset) == link
    html = f'<img src=s.jpg srcset="{srcset}" alt=x>'
    assert of_html(html)[0][0] == "s.jpg"
    assert of_html(html, ExtractSettings(srcset=True))[0][0] == (link or "s.jpg")


@pytest.mark.parametrize(
    ("head", "declared", "encoding"),
    [
        ("", "iso-8859-1", "cp1252"), ("", "koi8-r", "koi8-r"), ('<meta charset="windows-1251">', None, "cp1251"), ("", None, "utf-8"),
        ('<meta http-equiv=Content-Type content="text/html; charset=Shift_JIS">', None, "shift_jis"),
        ('<meta charset="shift_jis">', "utf-8", "utf-8"), ('<meta charset="utf-16">', None, "utf-8"), ("", "no-such-set", "utf-8"),
        ('<meta charset="latin1">', "no-such-set", "cp1252"),
    ],
)  # fmt: skip
def test_character_sets(head: str, declared: str | None, encoding: str) -> None:
    """The character set is that of the HTTP header, else of the page, else a guess; latin-1 means cp1252."""
    alt = {"koi8-r": "кошка", "cp1251": "собака", "shift_jis": "カメラ"}.get(encoding, "café")
    assert (
        of_html(
            f"<html><head>{head}</head><img src=1.jpg alt='{alt}'>".encode(encoding), charset=declared
        )[0][1]
        == alt
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_at_the_beginning(encoding: str) -> None:
    """A byte order mark overrides the HTTP header."""
    assert (
        of_html("<img src=1.jpg alt='café カメラ'>".encode(encoding), charset="koi8-r")[0][1]
        == "café カメラ"
    )


def test_utf8_with_some_bad_bytes() -> None:
    """A page that is UTF-8 but for a few bytes is read as UTF-8, and says so; one of another set is not."""
    alts = ["Schöne Grüße", "café", "狗在雪地里", "naïve", "Ærø", "über"] * 3
    html = "".join(f"<img src={i}.jpg alt='{alt}'>" for i, alt in enumerate(alts)).encode()
    page = read_html_page(URL, html + b"<img src=x.jpg alt='a\xffb'>")
    assert [alt for _, alt, *_ in page.images] == [*alts, "a\ufffdb"]
    assert page.mended
    latin = "".join(
        f"<img src={i}.jpg alt='{alt}'>" for i, alt in enumerate(["Schöne Grüße", "café"] * 9)
    )
    page = read_html_page(URL, latin.encode("cp1252"))
    assert (page.images[1][1], page.mended) == ("café", False)
    assert not read_html_page(URL, html).mended


def test_placeholders_never_win() -> None:
    """An image within the page stands for one that a script loads: it is never taken where there is another."""
    blank = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
    for html, link in (
        (f'<img src=1.jpg srcset="{blank} 900w" alt=a>', "1.jpg"),
        (f'<img src=1.jpg srcset="{blank} 900w, 2.jpg 300w" alt=a>', "2.jpg"),
        (f'<img src=1.jpg data-src="{blank}" alt=a>', "1.jpg"),
        (f'<img src=1.jpg data-src="{blank}" data-original=2.jpg alt=a>', "2.jpg"),
        (f'<img src="{blank}" data-lazy-srcset="2.jpg 1x, 3.jpg 2x" alt=a>', "3.jpg"),
        (f'<img src=1.jpg data-srcset="{blank} 1w" srcset="2.jpg 300w" alt=a>', "2.jpg"),
        ('<img src=1.jpg data-srcset=" DATA:x,y 1w" alt=a>', "1.jpg"),
    ):
        assert of_html(html, ALL)[0][0] == link, html


@pytest.mark.parametrize("base", ["data:text/html,x", " javascript:void(0)", "JavaScript:x", "", "  "])
def test_a_base_that_is_none(base: str) -> None:
    """A <base> that is data or a script does not hold."""
    page = read_html_page(URL, f'<base href="{base}"><img src=1.jpg alt=a>'.encode())
    assert page.base.resolve("1.jpg") == "https://example.org/dir/1.jpg"
    page = read_html_page(URL, b'<base href=" /x/\n"><img src=1.jpg alt=a>')
    assert page.base.resolve("1.jpg") == "https://example.org/x/1.jpg"


def test_a_gallery_is_read_in_linear_time() -> None:
    """A page of 20,000 images, or of 20,000 levels, takes a fraction of a second."""
    begin = time.process_time()
    many = b"".join(b"<div><img src=%d.jpg alt=a></div>" % i for i in range(20_000))
    assert [link for link, *_ in of_html(many, ALL)] == [f"{i}.jpg" for i in range(20_000)]
    assert len(of_html(b"<div>" * 20_000 + b"<img src=1.jpg alt=a>")) == 1
    assert time.process_time() - begin < 10


def test_captions_are_found_in_linear_time() -> None:
    """Figures inside figures, each with an image and one caption for all, cost no more per image than others do."""
    page = b"<figure><img src=a.jpg alt=x><p>" * 1500 + b"<figcaption>the caption</figcaption>"
    begin = time.process_time()
    images = of_html(page, ALL)
    assert [others for _, _, others, _ in images] == [("the caption",)] * 1500
    assert time.process_time() - begin < 2


SOUP = st.lists(
    st.sampled_from([
        "<img src=a alt=1>", "<IMG SRC=b>", "<image src=c>", "<figure>", "</figure>", "<figcaption>", "text", "</figcaption>", "<p>", "</p>",
        "<table>", "<tr>", "<td>", "</table>", "<svg>", "</svg>", "<math>", "<template>", "</template>", "<select>", "<option>", "<noscript>",
        "</noscript>", "<script>", "</script>", "<!--", "-->", "<style>", "</style>", "<textarea>", "</textarea>", "<base href=/x/>", "<frameset>",
        "<foreignObject>", "<body>", "<a>", "<b>", "</b>", "<![CDATA[", "]]>", "\0", "<title>", "</title>", "<object>", "<plaintext>",
    ]),
    max_size=30,
)  # fmt: skip


@given(SOUP)
def test_images_and_captions_are_those_of_a_walk(soup: list[str]) -> None:
    """Whatever tags are nested in whatever way, the images are those of the document, in order, with the nearest captions."""
    from resiliparse.parse.html import HTMLTree

    def caption(element: Any) -> str:
        while (element := element.parent) is not None:
            if element.tag == "figure":
                found = element.query_selector("figcaption")
                return (found.text or "") if found is not None else ""
        return ""

    html = "".join(soup)
    walked = [
        node for node in HTMLTree.parse_from_bytes(html.encode(), "utf-8").document if node.tag == "img"
    ]
    expected = [(node.getattr("src") or "", node.getattr("alt") or "", caption(node)) for node in walked]
    found = of_html(html, ExtractSettings(captions=True))
    assert [(link, alt, "".join(others)) for link, alt, others, _ in found] == expected


@given(st.binary(max_size=200), st.sampled_from([None, "utf-8", "utf-16", "x"]))
def test_any_bytes_are_a_page(body: bytes, charset: str | None) -> None:
    """No bytes make the parser fail."""
    assert isinstance(read_html_page(URL, b"<img alt=a src=" + body, charset, ALL), Page)


# Texts ----------------------------------------------------------------------------------------------------------------


@given(st.text(alphabet=" \t\n\f\r\v\xa0\u3000ab", max_size=12))
def test_text_is_cleaned_as_html_means_it(raw: str) -> None:
    """Runs of the five blanks of HTML become one space, none at the ends; everything else is text."""
    words = [
        word
        for word in raw.replace("\t", " ")
        .replace("\n", " ")
        .replace("\f", " ")
        .replace("\r", " ")
        .split(" ")
        if word
    ]
    assert clean_text(raw) == " ".join(words)


def test_texts_of_an_image() -> None:
    """Texts that are empty, or equal to an earlier one when cleaned, are skipped; the others stay as written."""
    assert list(image_texts(" a  b ", ())) == [" a  b "]
    assert list(image_texts(" \n", ())) == []
    assert list(image_texts("", ("t", " t", "c"))) == ["t", "c"]
    assert list(image_texts("a b", (" a\tb",))) == ["a b"]


# Real crawls ----------------------------------------------------------------------------------------------------------


def pairs(path: Path) -> Counter[tuple[str, str, str | None]]:
    found: Counter[tuple[str, str, str | None]] = Counter()
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(1 << 16), b"")
        for record in read_records(blocks, lambda reason, position: pytest.fail(position), str(path)):
            page = page_of(record, DEFAULTS)
            if not isinstance(page, str):
                found.update((page.url, alt, page.base.resolve(link)) for link, alt, _, _ in page.images)
    return found


def test_the_iana_crawl_as_wat_and_as_warc(data_folder: Path) -> None:
    """A crawl read as WAT and as WARC (chunked headers on other bodies, revisits, redirects) has the same images."""
    wat, warc = (
        pairs(data_folder / "wat" / "iana.warc.wat.gz"),
        pairs(data_folder / "warc" / "iana.warc.gz"),
    )
    assert wat == warc
    assert wat.total() == 32


def test_a_page_of_common_crawl(data_folder: Path) -> None:
    """A page of the crawl of 2024 is read from WARC 1.0 as Common Crawl's crawler writes it."""
    assert pairs(data_folder / "warc" / "whirlwind.warc.gz").total() > 0


def test_genuine_wat(data_folder: Path) -> None:
    """Common Crawl's own WAT of 2019, whose keys have another order, is read in the same way."""
    assert isinstance(pairs(data_folder / "wat" / "cc-main-2019-22-sample.warc.wat"), Counter)
