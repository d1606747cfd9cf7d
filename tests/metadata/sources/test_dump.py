"""Pages of a dump: every page in just one part, however the file was made and cut; what is no such dump is refused."""

from __future__ import annotations

import bz2
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources import bzip2, dump
from metaclip.metadata.sources.wikitext import NamespaceNames
from tests import dumps
from tests.dumps import Made

pytest.importorskip("mwxml", reason="needs metaclip[build]")

WORDS = [f"word{i * i % 9973}" for i in range(4000)]
PAGES = [
    Made(
        f"Page {i} & <co>",
        " ".join(WORDS[i : i + i * 13 % 700]) + " é <page> </page> & [[link]]" * (i % 3),
        namespace=(0, 0, 0, 1, 14)[i % 5],
        redirect="Page 1 & <co>" if i % 7 == 3 else None,
    )
    for i in range(250)
] + [Made("Long", " ".join(WORDS * 12)), Made("Last", "the last")]


def pages_of(path: Path, start: int, stop: int) -> list[tuple[str, str]]:
    return [(page.title, page.text) for page in dump.pages(path, start, stop)]


@pytest.mark.parametrize("streams_of", [None, 1, 7, 100], ids=["single stream", "of 1", "of 7", "of 100"])
def test_parts_have_every_page_once_and_in_order(tmp_path: Path, streams_of: int | None) -> None:
    """Parts of any size together have the pages of the file, in order, though pages and tags lie across blocks."""
    path = dumps.write(tmp_path / "enwiki-pages-articles.xml.bz2", PAGES, streams_of=streams_of, level=1)
    expected = [(page.title, page.text) for page in PAGES]
    size = path.stat().st_size
    assert pages_of(path, 0, size) == expected
    for step in (20_000, 2999):
        parts = [pages_of(path, start, start + step) for start in range(0, size, step)]
        assert [page for part in parts for page in part] == expected
    kinds = [(page.namespace, page.redirect) for page in dump.pages(path, 0, size)]
    assert kinds == [(page.namespace, page.redirect) for page in PAGES]


def test_tags_across_blocks() -> None:
    """Wherever the text is cut into blocks and the blocks into parts, each page is in the part its tag begins in."""
    text = b"<mediawiki><siteinfo/>  <page><a/></page>\n <page>b</page><page></page></mediawiki>\n"
    whole = re.findall(b"<page>.*?</page>", text)
    for width in (1, 2, 3, 5, 8, 13, 40, 200):
        pieces = [bzip2.Piece(i, text[i : i + width]) for i in range(0, len(text), width)]
        for step in (1, 4, 9, 30, 300):
            found = []
            for start in range(0, len(text), step):
                given = (piece for piece in pieces if piece.start >= start)
                parts = b"".join(dump._whole_pages(Path("x"), given, start + step))
                found += re.findall(b"<page>.*?</page>", parts)
                tags = [
                    at
                    for at in (m.start() for m in re.finditer(b"<page>", text))
                    if start <= at // width * width < start + step
                ]
                assert len(re.findall(b"<page>", parts)) == len(tags)
            assert found == whole


def test_what_a_page_says(tmp_path: Path) -> None:
    """Model, deleted text and an empty page are told as they are."""
    made = [Made("A", None), Made("B", ""), Made("C", "{}", model="json"), Made("D_e", "x")]
    path = dumps.write(tmp_path / "d.xml.bz2", made)
    assert list(dump.pages(path, 0, path.stat().st_size)) == [
        dump.Page("A", 0, None, "wikitext", ""),
        dump.Page("B", 0, None, "wikitext", ""),
        dump.Page("C", 0, None, "json", "{}"),
        dump.Page("D e", 0, None, "wikitext", "x"),
    ]


def test_the_head_names_the_wiki(tmp_path: Path) -> None:
    """Schema, wiki, language and its own names of namespaces are read from the head, in one stream or in many."""
    beginning = dumps.head("dewiki", "de", "0.10", "Datei", "Kategorie")
    for streams_of in (None, 10):
        path = dumps.write(tmp_path / "d.xml.bz2", PAGES[:30], beginning=beginning, streams_of=streams_of)
        [found] = dump.find(str(path), "dewiki")
        assert (found.schema, found.wiki, found.language, found.size) == (
            "0.10",
            "dewiki",
            "de",
            path.stat().st_size,
        )
        assert found.names == NamespaceNames(("datei", "file", "image"), ("category", "kategorie"))


def test_finding_files(tmp_path: Path) -> None:
    """A file, a folder and a pattern give the dump's files by name, without indexes; none is an error."""
    names = [
        "enwiki-1-pages-articles-multistream1.xml-p1p9.bz2",
        "enwiki-1-pages-articles-multistream2.xml-p10p19.bz2",
    ]
    for name in names:
        dumps.write(tmp_path / name, PAGES[:3])
    (tmp_path / "enwiki-1-pages-articles-multistream-index1.txt-p1p9.bz2").write_bytes(
        bz2.compress(b"1:2:A")
    )
    (tmp_path / "enwiki-1-sha1sums.txt").write_text("x")
    assert [file.path.name for file in dump.find(str(tmp_path), "enwiki")] == names
    assert [file.path.name for file in dump.find(f"{tmp_path}/*multistream2*", "enwiki")] == names[1:]
    assert [file.path.name for file in dump.find(f"{tmp_path}/{names[0]}", "enwiki")] == names[:1]
    for name in ("enwiki-1-pages-articles-multistream.xml.bz2", "enwiki-1-pages-articles1.xml-p1p9.bz2"):
        dumps.write(tmp_path / name, PAGES[:3])
        with pytest.raises(MetaclipError, match="hold the same pages in two forms; name one of them"):
            dump.find(str(tmp_path), "enwiki")
        (tmp_path / name).unlink()
    with pytest.raises(MetaclipError, match="there is no dump .*nothing"):
        dump.find(str(tmp_path / "nothing"), "enwiki")


def test_another_wiki_or_schema_is_refused(tmp_path: Path) -> None:
    """A dump of another language, of a sister wiki, of an unknown schema or of none: one line with both values."""
    cases = {
        "dewiki (language de), the recipe wants enwiki": dumps.head("dewiki", "de"),
        "simplewiki (language en), the recipe wants enwiki": dumps.head("simplewiki"),
        "export schema 0.12, known are 0.10, 0.11": dumps.head(schema="0.12"),
        "export schema 0.3, known are": dumps.head(schema="0.3"),
        "without a version": dumps.head().replace('version="0.11"', ""),
        "a wiki without a name": dumps.head().replace("<dbname>enwiki</dbname>", ""),
        "is no dump of a wiki": "<html><body>",
        "its head is not a dump's": dumps.head().replace("<case>", "<case"),
    }
    for message, beginning in cases.items():
        path = dumps.write(tmp_path / "d.xml.bz2", PAGES[:2], beginning=beginning)
        with pytest.raises(MetaclipError) as caught:
            dump.find(str(path), "enwiki")
        assert message in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_dump_that_is_cut_off_is_refused_at_once(tmp_path: Path) -> None:
    """Cut inside a stream, between two streams, or to nothing: named before any work is done."""
    whole = dumps.write(tmp_path / "whole.xml.bz2", PAGES, streams_of=50).read_bytes()
    path = tmp_path / "d.xml.bz2"
    last = whole.rindex(b"BZh91AY&SY")
    for cut, message in (
        (len(whole) - 3, "cut off"),
        (len(whole) // 2, "cut off"),
        (last, "does not end with </mediawiki>"),
        (0, "no bzip2"),
    ):
        path.write_bytes(whole[:cut])
        with pytest.raises(MetaclipError, match=message) as caught:
            dump.find(str(path), "enwiki")
        assert "\n" not in str(caught.value)
    path.write_bytes(whole[:last])
    with pytest.raises(MetaclipError, match="does not end with </mediawiki>"):
        pages_of(path, 0, last)


def test_xml_that_is_no_dumps(tmp_path: Path) -> None:
    """Broken XML, unknown elements and dumps of all revisions are one clear line each."""
    cases = {
        "not a dump's XML": [Made("A", "x", model="</b>")],
        "Unexpected tag": [Made("A", "x", model="wikitext</model><what/><model>")],
        "use pages-articles, not pages-meta-history": [Made("A", "x", revisions=2)],
    }
    for message, pages in cases.items():
        path = dumps.write(tmp_path / "d.xml.bz2", pages)
        with pytest.raises(MetaclipError, match=message) as caught:
            pages_of(path, 0, path.stat().st_size)
        assert str(path) in str(caught.value)


def test_real_dump(data_folder: Path) -> None:
    """Of a real dump, every page is read as a plain XML parser reads it, in parts and whole."""
    path = data_folder / "enwiki-sample.xml.bz2"
    root = ElementTree.fromstring(bz2.decompress(path.read_bytes()))
    space = {"": root.tag.removeprefix("{").partition("}")[0]}
    expected = [
        (page.findtext("title", "", space), page.findtext("revision/text", "", space) or "")
        for page in root.iterfind("page", space)
    ]
    assert len(expected) == 206
    assert pages_of(path, 0, path.stat().st_size) == expected
    parts = [pages_of(path, start, start + 300_000) for start in range(0, path.stat().st_size, 300_000)]
    assert [page for part in parts for page in part] == expected
    [found] = dump.find(str(path), "enwiki")
    assert (found.schema, found.language) == ("0.10", "en")
