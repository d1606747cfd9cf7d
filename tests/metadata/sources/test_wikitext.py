"""The text of an article and its words: a table of cases, and the parser's own tree as the oracle of the one pass."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metaclip.metadata.sources import dump, wikitext
from metaclip.metadata.sources.wikitext import NamespaceNames, extractor, phrases

mwparserfromhell = pytest.importorskip("mwparserfromhell", reason="needs metaclip[build]")


def from_tree(text: str, names: NamespaceNames) -> str:
    """Return the same text from the parser's tree: slow and simple."""
    from mwparserfromhell import nodes

    def shown(code: Any) -> str:
        return "".join(map(of_node, code.nodes)) if code is not None else ""

    def of_node(node: Any) -> str:
        if isinstance(node, nodes.Text):
            return str(node.value)
        if isinstance(node, nodes.HTMLEntity):
            return html.unescape(str(node))
        if isinstance(node, nodes.Heading):
            return f"\n{shown(node.title)}\n"
        if isinstance(node, nodes.ExternalLink):
            return shown(node.title)
        if isinstance(node, nodes.Wikilink):
            title, text = shown(node.title), None if node.text is None else shown(node.text)
            return wikitext._visible_link(
                None if text is None else title, title if text is None else text, names
            )
        if isinstance(node, nodes.Tag):
            name = str(node.tag.nodes[0]).strip().lower() if node.tag.nodes else ""
            end = "\n" if name in wikitext._LINE_BREAKING_TAGS else ""
            if node.self_closing:
                return end
            return end if name in wikitext._DROPPED_TAGS else end + shown(node.contents) + end
        return ""  # templates, arguments, comments

    return re.sub("__[A-Z]+__|''+", "", shown(mwparserfromhell.parse(text, skip_style_tags=True)))


CASES = [
    ("plain words", "plain words"),
    ("'''Bold''' and ''italic''", "Bold and italic"),
    ("a [[link]], a [[page|shown]] one, [[:Category:Birds]]", "a link, a shown one, Category:Birds"),
    ("[[link]]s and [[Page (x)|page]]'s", "links and page's"),
    ("x [[Category:Birds]] y [[Category:Birds|*]] z", "x  y  z"),
    ("x [[category:birds]] [[ CATEGORY : b]]", "x  "),
    ("[[File:a.jpg|thumb|left|200px|alt=An ape|A [[great ape|ape]] at rest]]", "\nA ape at rest\n"),
    ("[[Image:a.jpg|thumb|A caption|100x200 px|upright=1.2]]", "\nA caption\n"),
    ("[[File:a.jpg]][[File:a.jpg|thumb]]", "\n\n"),
    ("x {{template|a=[[b]]|{{c}}}} y", "x  y"),
    ("x<ref>a note</ref> y<ref name=a /> z", "x y z"),
    ("x <ref name=\"{{a|<br>}}\">''note'' [[b]] {{c}}</ref> y", "x  y"),
    ("a <!-- hidden --> b", "a  b"),
    ("E = <math>mc^2</math>.", "E = ."),
    ("H<sub>2</sub>O", "H2O"),
    ("a<br>b<br />c", "a\nb\nc"),
    ("<nowiki>[[as is]]</nowiki>", "[[as is]]"),
    ("<syntaxhighlight lang=py>print()</syntaxhighlight>x", "x"),
    ("[http://example.org the site] http://example.org [http://example.org]", "the site  "),
    ("caf&eacute; &amp; &#8364; &#x20AC; &nbsp;", "café & € € \xa0"),
    ("== Head ==\ntext", "\n Head \n\ntext"),
    ("* one\n* two", "\n one\n\n two"),
    ("__NOTOC__x", "x"),
    ("{{{1|argument}}}x", "x"),
    ("[[unclosed {{also <b>", "[[unclosed {{also <b>"),
    ("", ""),
]


@pytest.mark.parametrize(("markup", "text"), CASES)
def test_cases(markup: str, text: str) -> None:
    """What a reader sees stays, the rest goes."""
    assert extractor(NamespaceNames())(markup) == text
    assert from_tree(markup, NamespaceNames()) == text


def test_a_table_gives_its_cells_line_by_line() -> None:
    """Cells are words of their own lines, attributes are none."""
    markup = (
        '{| class="wikitable"\n|+ Heights\n! Name !! Metres\n|-\n| style="color:red" | K2 || 8611\n|}'
    )
    assert list(phrases(extractor(NamespaceNames())(markup))) == [
        ["heights"],
        ["name"],
        ["metres"],
        ["k2"],
        ["8611"],
    ]


def test_names_of_another_language() -> None:
    """A wiki's own names of namespaces count beside the usual ones."""
    names = NamespaceNames(("bild", "file"), ("category", "kategorie"))
    assert (
        extractor(names)("[[Kategorie:Vögel]][[Bild:a.jpg|mini|hochkant]] [[Datei:a]]")
        == "\nhochkant\n Datei:a"
    )


MARKUP = st.lists(
    st.sampled_from(
        ["[[", "]]", "|", "{{", "}}", "{{{", "}}}", "<ref>", "</ref>", "<br>", "<b>", "</b>", "<!--", "-->", "File:", "Category:",
         "\n", "\n* ", "\n{|", "\n|-", "\n|", "\n! ", "\n|}", "''", "'''", "=", "\n== ", " ==\n", "&amp;", "&#65;", "&#xe9;", "&nope;", "[http://a.b ",
         "]", "http://a.b", "dog", " ", "thumb", "<nowiki>", "</nowiki>", "<div style=\"{{x}}\">", "</div>", ":", "__TOC__", "é"]
    ),
    max_size=30,
).map("".join)  # fmt: skip


@given(MARKUP)
@example("[[a|[[b]]]]")
@example("<b>[[x</b>]]")
def test_the_pass_over_tokens_is_the_tree(markup: str) -> None:
    """Any soup of markup: the tokens give what the tree gives."""
    assert extractor(NamespaceNames())(markup) == from_tree(markup, NamespaceNames())


def test_the_pass_over_tokens_is_the_tree_on_real_articles(data_folder: Path) -> None:
    """Real articles: the tokens give what the tree gives."""
    path = data_folder / "enwiki-sample.xml.bz2"
    extract = extractor(NamespaceNames())
    articles = [page for page in dump.pages(path, 0, path.stat().st_size) if page.redirect is None][:25]
    assert len(articles) == 25
    for page in articles:
        assert extract(page.text) == from_tree(page.text, NamespaceNames()), page.title


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Dog, the cat.", [["the", "dog"], ["the", "cat"]]),
        ("o'clock dog’s rock-and-roll", [["o'clock", "dog’s", "rock-and-roll"]]),
        ("'quoted' \"words\" (in) brackets", [["quoted"], ["words"], ["in"], ["brackets"]]),
        ("a  b\tc\xa0d", [["a", "b", "c", "d"]]),
        ("a\nb\r\nc\u2028d\x0be", [["a"], ["b"], ["c"], ["d"], ["e"]]),
        ("3.5 2,000 1990s x_y", [["3"], ["5", "2"], ["000", "1990s", "x"], ["y"]]),
        ("well- known --- 'tis", [["well"], ["known"], ["tis"]]),
        ("ÉCOLE Straße ΣΑΣ", [["école", "straße", "σας"]]),
        ("rock & roll", [["rock"], ["roll"]]),
        ("", []),
        ("!?", []),
    ],
)
def test_words_and_what_stands_side_by_side(text: str, found: list[list[str]]) -> None:
    """Words in lower case, in runs with nothing but blanks of one line between them."""
    assert list(phrases(text)) == found


@given(st.text(st.sampled_from("aB1é'’-_ \t\n\x0b\x1c\x85\xa0\u2028.,"), max_size=40))
def test_words_by_another_way(text: str) -> None:
    """A loop over characters finds the same words and pairs."""
    joined = re.sub(
        r"(?<=[^\W_])(['’-])(?=[^\W_])",
        lambda found: {"'": "\ue000", "’": "\ue001", "-": "\ue002"}[found[0]],
        text.lower(),
    )
    lines = "".join(
        c if c.isalnum() or c in "\ue000\ue001\ue002" else " " if c in " \t\xa0\x1f" else "\n"
        for c in joined
    ).split("\n")
    back = str.maketrans({"\ue000": "'", "\ue001": "’", "\ue002": "-"})
    expected = [[word.translate(back) for word in line.split()] for line in lines if line.split()]
    assert list(phrases(text)) == expected
