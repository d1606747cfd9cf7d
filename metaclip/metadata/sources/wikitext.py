r"""Extracts the text of an article from wikitext, and the words of the text.

The text is what a reader sees of the running text, lists, tables and captions: templates, references, comments, formulas,
source code, categories and addresses of links are left out. Links and styled text contribute their words; a cell, an item
and a line break end a line.

A word is a run of letters and digits in lower case, possibly joined by single hyphens or apostrophes (of either form); a
pair is two words on one line with only blanks between them. So both are tokens that the paper's text rule finds in a text:
"o'clock" is one word there too, and "hot, dog" has no pair.

mwparserfromhell parses the markup. The tree of objects that it builds from its tokens costs six times the tokens, and its
`strip_code` keeps the options of images ("thumb|left|200px") and the names of categories. So the text is taken from the
tokens in one pass, and tests compare it with the tree.

Cost on one core: 5 MB/s of wikitext, most of it for the tokens; `strip_code` makes 0.7 MB/s.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, NamedTuple

from metaclip.errors import import_extra, one_line

_DROPPED_TAGS: Final = frozenset(
    (
        "categorytree", "ce", "chem", "code", "gallery", "graph", "hiero", "imagemap", "inputbox", "mapframe", "maplink",
        "math", "pre", "ref", "references", "score", "script", "section", "source", "style", "syntaxhighlight",
        "templatedata", "templatestyles", "timeline",
    )
)  # fmt: skip
"""Tags whose content is not running text."""
_LINE_BREAKING_TAGS: Final = frozenset(
    (
        "blockquote", "br", "caption", "center", "dd", "div", "dl", "dt", "hr", "li", "ol", "p", "poem", "table",
        "tbody", "td", "th", "thead", "tr", "ul",
    )
)  # fmt: skip
"""Tags that end a line."""
_IMAGE_OPTION: Final = re.compile(
    r"(thumb(nail)?|frame(d|less)?|border|left|right|center|centre|none|baseline|sub|super|top|text-top|middle|bottom"
    r"|text-bottom|upright|\d*(x\d+)?\s*px|\w+\s*=.*)",
    re.IGNORECASE | re.DOTALL,
)
"""The parts of a link to an image that are not its caption."""
_SWITCH: Final = re.compile(r"__[A-Z]+__|''+")
"""Switches such as __NOTOC__, and marks of bold and italic text."""

_WORD: Final = r"[^\W_]+(?:['\u2019-][^\W_]+)*"
_PHRASE: Final = re.compile(rf"{_WORD}(?:[^\S\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+{_WORD})*")


class NamespaceNames(NamedTuple):
    """The lower-case names of the namespaces whose links are not part of the sentence around them."""

    media: Collection[str] = ("file", "image")
    category: Collection[str] = ("category",)


def phrases(text: str) -> Iterator[list[str]]:
    """Yield the words of a text in lower case, in runs with only blanks between them."""
    for found in _PHRASE.finditer(text.lower()):
        yield found[0].split()


def extractor(names: NamespaceNames) -> Callable[[str], str]:
    """Return a function from wikitext to text, which raises ValueError for wikitext that the parser cannot parse.

    Raise MetaclipError if the parser is not installed.
    """
    parser, python, tokens = (
        import_extra(f"mwparserfromhell.parser{part}", "build", "reading a dump")
        for part in ("", ".tokenizer", ".tokens")
    )
    # A wheel without the compiled part has a tokenizer in Python.
    tokenizer, types = parser.CTokenizer or python.Tokenizer, _TokenTypes.of(tokens)

    def extract(wikitext: str) -> str:
        try:
            tokens = tokenizer().tokenize(wikitext, 0, True)
        except (parser.ParserError, RecursionError) as error:
            raise ValueError(one_line(error)) from None
        return _SWITCH.sub("", _text_of(iter(tokens), types, names))

    return extract


class _TokenTypes(NamedTuple):
    """The parser's module of the classes of tokens, and those that open, close, or open and are dropped with their content."""

    module: Any
    opening: frozenset[Any]
    closing: frozenset[Any]
    dropped: frozenset[Any]

    @classmethod
    def of(cls, t: Any) -> _TokenTypes:
        dropped = {t.TemplateOpen, t.ArgumentOpen, t.CommentStart}
        opening = {t.WikilinkOpen, t.ExternalLinkOpen, t.HTMLEntityStart, t.HeadingStart, t.TagOpenOpen}
        closing = {
            t.TemplateClose, t.ArgumentClose, t.CommentEnd, t.WikilinkClose, t.ExternalLinkClose, t.HTMLEntityEnd,
            t.HeadingEnd, t.TagCloseSelfclose, t.TagCloseClose,
        }  # fmt: skip
        return cls(t, frozenset(opening | dropped), frozenset(closing), frozenset(dropped))


def _text_of(tokens: Iterator[Any], types: _TokenTypes, names: NamespaceNames) -> str:
    """Return the text of an article's tokens, which are well nested, in one pass without recursion."""
    t, dropped = types.module, types.dropped
    text, entity, heading = t.Text, t.HTMLEntityStart, (t.HeadingStart, t.HeadingEnd)
    link_open, link_bar, link_close = t.WikilinkOpen, t.WikilinkSeparator, t.WikilinkClose
    url_open, url_ends = t.ExternalLinkOpen, (t.ExternalLinkSeparator, t.ExternalLinkClose)
    tag_open, tag_body, tag_close = t.TagOpenOpen, t.TagCloseOpen, t.TagOpenClose
    out: list[str] = []
    links: list[
        tuple[int, str | None]
    ] = []  # of each open link: its beginning in `out`, and its title, once read
    line_ends: list[str] = []  # what each open tag ends with
    for token in tokens:
        kind = type(token)
        if kind is text:
            out.append(token["text"])
        elif kind in dropped:
            _skip(tokens, types)
        elif kind is link_open:
            links.append((len(out), None))
        elif kind is link_bar:
            begin, _ = links.pop()
            links.append((begin, "".join(out[begin:])))
            del out[begin:]
        elif kind is link_close:
            begin, title = links.pop()
            out[begin:] = [_visible_link(title, "".join(out[begin:]), names)]
        elif kind is tag_open:
            name, last = _tag_head(tokens, types)
            end = "\n" if name in _LINE_BREAKING_TAGS else ""
            out.append(end)
            if last is tag_body and name in _DROPPED_TAGS:
                _skip(tokens, types)
            elif last is tag_body:
                line_ends.append(end)
        elif kind is tag_close:
            _skip(tokens, types)
            out.append(line_ends.pop())
        elif kind is entity:
            out.append(_entity(tokens, types))
        elif kind is url_open:
            _skip_to(tokens, url_ends, types)
        elif kind in heading:
            out.append("\n")
    return "".join(out)


def _skip(tokens: Iterator[Any], types: _TokenTypes) -> None:
    """Skip the tokens up to the end of the element that was just opened."""
    depth = 1
    for token in tokens:
        kind = type(token)
        if kind in types.opening:
            depth += 1
        elif kind in types.closing:
            depth -= 1
            if not depth:
                return


def _skip_to(tokens: Iterator[Any], ends: Collection[Any], types: _TokenTypes) -> Any:
    """Skip the tokens up to the first one of these types that is not inside another element; return its type."""
    for token in tokens:
        kind = type(token)
        if kind in ends:
            return kind
        if kind in types.opening:
            _skip(tokens, types)
    raise AssertionError("tokens that are not well nested")


def _tag_head(tokens: Iterator[Any], types: _TokenTypes) -> tuple[str, Any]:
    """Read the head of a tag; return its lower-case name, and the type of the token that ends the head."""
    t, first = types.module, next(tokens)
    name = first["text"].strip().lower() if type(first) is t.Text else ""
    return name, _skip_to(tokens, (t.TagCloseOpen, t.TagCloseSelfclose), types)


def _entity(tokens: Iterator[Any], types: _TokenTypes) -> str:
    """Read an entity; return its character."""
    t, code = types.module, "&"
    for token in tokens:
        if type(token) is t.HTMLEntityEnd:
            break
        code += (
            token["text"]
            if type(token) is t.Text
            else token["char"]
            if type(token) is t.HTMLEntityHex
            else "#"
        )
    return html.unescape(code + ";")


def _visible_link(title: str | None, text: str, names: NamespaceNames) -> str:
    """Return the visible text of a link: [[title]] (then `title` is None) or [[title|text]]."""
    namespace = (text if title is None else title).partition(":")[0].strip().lower()
    if namespace in names.category:
        return ""
    if namespace not in names.media:
        return text if title is not None else text.removeprefix(":")
    parts = text.split("|") if title is not None else []
    captions = [part for part in parts if not _IMAGE_OPTION.fullmatch(part.strip())]
    return f"\n{captions[-1]}\n" if captions else "\n"
