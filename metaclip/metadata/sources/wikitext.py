r"""The text of an article, and its words.

The text is what a reader sees of the running text, lists, tables and captions: templates, references, comments, formulas,
source code, categories and addresses of links are left out. Links and style give their words; a cell, an item and a line
break end a line.

A word is a run of letters and digits, maybe joined by single hyphens or apostrophes (of either form) inside, in lower
case; a pair is two words with nothing but blanks between them on one line. So both are tokens as the paper's text rule
finds them in a text: "o'clock" is one word there too, and "hot, dog" holds no pair.

mwparserfromhell reads the markup. The tree of objects that it builds from its tokens costs six times the tokens, and its
`strip_code` keeps the options of images ("thumb|left|200px") and the names of categories. So the text is taken from the
tokens, in one pass, and tests hold it to the tree.

Cost on one core: 5 MB/s of wikitext, most of it for the tokens; `strip_code` makes 0.7 MB/s.
"""

from __future__ import annotations

import html
import importlib
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, NamedTuple

from metaclip.errors import MetaclipError, one_line

_DROPPED: Final = frozenset(
    (
        "categorytree", "ce", "chem", "code", "gallery", "graph", "hiero", "imagemap", "inputbox", "mapframe", "maplink",
        "math", "pre", "ref", "references", "score", "script", "section", "source", "style", "syntaxhighlight",
        "templatedata", "templatestyles", "timeline",
    )
)  # fmt: skip
"""Tags whose content is no running text."""
_BREAKING: Final = frozenset(
    (
        "blockquote", "br", "caption", "center", "dd", "div", "dl", "dt", "hr", "li", "ol", "p", "poem", "table",
        "tbody", "td", "th", "thead", "tr", "ul",
    )
)  # fmt: skip
"""Tags that end a line."""
_OPTION: Final = re.compile(
    r"(thumb(nail)?|frame(d|less)?|border|left|right|center|centre|none|baseline|sub|super|top|text-top|middle|bottom"
    r"|text-bottom|upright|\d*(x\d+)?\s*px|\w+\s*=.*)",
    re.IGNORECASE | re.DOTALL,
)
"""What stands in a link to an image and is not its caption."""
_SWITCH: Final = re.compile(r"__[A-Z]+__|''+")
"""Switches such as __NOTOC__, and marks of style."""

_WORD: Final = r"[^\W_]+(?:['\u2019-][^\W_]+)*"
_PHRASE: Final = re.compile(rf"{_WORD}(?:[^\S\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+{_WORD})*")


class Names(NamedTuple):
    """The names, in lower case, of the namespaces whose links are no words of the sentence they stand in."""

    media: Collection[str] = ("file", "image")
    category: Collection[str] = ("category",)


def phrases(text: str) -> Iterator[list[str]]:
    """Give the words of a text in lower case, in runs with nothing but blanks between them."""
    for found in _PHRASE.finditer(text.lower()):
        yield found[0].split()


def extractor(names: Names) -> Callable[[str], str]:
    """Give the function from wikitext to text; it raises ValueError where the parser gives up.

    Raise MetaclipError if the parser is not installed.
    """
    parser = _module("mwparserfromhell.parser")
    # A wheel without the compiled part has the tokenizer in Python.
    tokenizer = parser.CTokenizer or _module("mwparserfromhell.parser.tokenizer").Tokenizer
    kinds = _Kinds.of(_module("mwparserfromhell.parser.tokens"))

    def extract(wikitext: str) -> str:
        try:
            tokens = tokenizer().tokenize(wikitext, 0, True)
        except (parser.ParserError, RecursionError) as error:
            raise ValueError(one_line(error)) from None
        return _SWITCH.sub("", _text_of(iter(tokens), kinds, names))

    return extract


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MetaclipError("to read a dump takes mwparserfromhell; pip install 'metaclip[build]'") from None


class _Kinds(NamedTuple):
    """The classes of the parser's tokens, looked up once."""

    text: Any
    opening: frozenset[Any]
    closing: frozenset[Any]
    dropped: frozenset[Any]
    heading: frozenset[Any]
    wikilink: tuple[Any, Any, Any]
    url: tuple[Any, Any, Any]
    entity: tuple[Any, Any, Any]
    tag: tuple[Any, Any, Any, Any]

    @classmethod
    def of(cls, t: Any) -> _Kinds:
        dropped = {t.TemplateOpen, t.ArgumentOpen, t.CommentStart}
        opening = {t.WikilinkOpen, t.ExternalLinkOpen, t.HTMLEntityStart, t.HeadingStart, t.TagOpenOpen}
        closing = {
            t.TemplateClose, t.ArgumentClose, t.CommentEnd, t.WikilinkClose, t.ExternalLinkClose, t.HTMLEntityEnd,
            t.HeadingEnd, t.TagCloseSelfclose, t.TagCloseClose,
        }  # fmt: skip
        return cls(
            t.Text, frozenset(opening | dropped), frozenset(closing), frozenset(dropped),
            frozenset((t.HeadingStart, t.HeadingEnd)),
            (t.WikilinkOpen, t.WikilinkSeparator, t.WikilinkClose),
            (t.ExternalLinkOpen, t.ExternalLinkSeparator, t.ExternalLinkClose),
            (t.HTMLEntityStart, t.HTMLEntityHex, t.HTMLEntityEnd),
            (t.TagOpenOpen, t.TagCloseOpen, t.TagCloseSelfclose, t.TagOpenClose),
        )  # fmt: skip


def _text_of(tokens: Iterator[Any], kinds: _Kinds, names: Names) -> str:
    """Give the text of an article's tokens, which are well nested: one pass, no recursion."""
    text, dropped, heading = kinds.text, kinds.dropped, kinds.heading
    link_open, link_bar, link_close = kinds.wikilink
    url_open, url_bar, url_close = kinds.url
    entity = kinds.entity[0]
    tag_open, tag_body, _, tag_close = kinds.tag
    out: list[str] = []
    links: list[tuple[int, str | None]] = []  # of each open link: where it begins in `out`, and its title, once read
    breaks: list[str] = []  # what each open tag ends with
    for token in tokens:
        kind = type(token)
        if kind is text:
            out.append(token["text"])
        elif kind in dropped:
            _skip(tokens, kinds)
        elif kind is link_open:
            links.append((len(out), None))
        elif kind is link_bar:
            begin, _ = links.pop()
            links.append((begin, "".join(out[begin:])))
            del out[begin:]
        elif kind is link_close:
            begin, title = links.pop()
            out[begin:] = [_shown(title, "".join(out[begin:]), names)]
        elif kind is tag_open:
            name, last = _tag(tokens, kinds)
            end = "\n" if name in _BREAKING else ""
            out.append(end)
            if last is tag_body and name in _DROPPED:
                _skip(tokens, kinds)
            elif last is tag_body:
                breaks.append(end)
        elif kind is tag_close:
            _skip(tokens, kinds)
            out.append(breaks.pop())
        elif kind is entity:
            out.append(_entity(tokens, kinds))
        elif kind is url_open:
            _until(tokens, (url_bar, url_close), kinds)
        elif kind in heading:
            out.append("\n")
    return "".join(out)


def _skip(tokens: Iterator[Any], kinds: _Kinds) -> None:
    """Leave out what follows, to the end of what was just opened."""
    depth = 1
    for token in tokens:
        kind = type(token)
        if kind in kinds.opening:
            depth += 1
        elif kind in kinds.closing:
            depth -= 1
            if not depth:
                return


def _until(tokens: Iterator[Any], ends: Collection[Any], kinds: _Kinds) -> Any:
    """Leave out what follows, to the first token of one of these kinds that is not inside of something; give its kind."""
    for token in tokens:
        kind = type(token)
        if kind in ends:
            return kind
        if kind in kinds.opening:
            _skip(tokens, kinds)
    raise AssertionError("tokens that are not well nested")


def _tag(tokens: Iterator[Any], kinds: _Kinds) -> tuple[str, Any]:
    """Read the head of a tag: its name in lower case, and the kind of token that ends the head."""
    first = next(tokens)
    name = first["text"].strip().lower() if type(first) is kinds.text else ""
    return name, _until(tokens, kinds.tag[1:3], kinds)


def _entity(tokens: Iterator[Any], kinds: _Kinds) -> str:
    """Read an entity: the character it stands for."""
    _, hexadecimal, end = kinds.entity
    code = "&"
    for token in tokens:
        if type(token) is end:
            break
        code += token["text"] if type(token) is kinds.text else token["char"] if type(token) is hexadecimal else "#"
    return html.unescape(code + ";")


def _shown(title: str | None, text: str, names: Names) -> str:
    """Give what is seen of a link: [[title]] (then `title` is None) or [[title|text]]."""
    namespace = (text if title is None else title).partition(":")[0].strip().lower()
    if namespace in names.category:
        return ""
    if namespace not in names.media:
        return text if title is not None else text.removeprefix(":")
    parts = text.split("|") if title is not None else []
    captions = [part for part in parts if not _OPTION.fullmatch(part.strip())]
    return f"\n{captions[-1]}\n" if captions else "\n"
