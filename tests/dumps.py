"""Dumps of a wiki in the form that Wikimedia publishes, made for tests."""

from __future__ import annotations

import bz2
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-{schema}/" version="{schema}" xml:lang="{language}">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>{wiki}</dbname>
    <base>https://{language}.wikipedia.org/wiki/Main_Page</base>
    <generator>MediaWiki 1.43</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">Talk</namespace>
      <namespace key="6" case="first-letter">{media}</namespace>
      <namespace key="14" case="first-letter">{category}</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"


@dataclasses.dataclass(frozen=True)
class Made:
    """A page to be put into a dump."""

    title: str
    text: str | None = ""
    """None: a revision whose text is deleted."""
    namespace: int = 0
    redirect: str | None = None
    model: str = "wikitext"
    revisions: int = 1

    def xml(self, number: int) -> str:
        """Write the page as dumps do."""
        redirect = (
            f'    <redirect title="{escape(self.redirect)}" />\n' if self.redirect is not None else ""
        )
        text = '<text deleted="deleted" />' if self.text is None else f"<text>{escape(self.text)}</text>"
        revision = (
            f"    <revision>\n      <id>{number}</id>\n      <timestamp>2024-01-01T00:00:00Z</timestamp>\n"
            f"      <contributor>\n        <username>A</username>\n        <id>1</id>\n      </contributor>\n"
            f"      <origin>{number}</origin>\n"
            f"      <model>{self.model}</model>\n      <format>text/x-wiki</format>\n      {text}\n"
            f"      <sha1>x</sha1>\n    </revision>\n"
        )
        return (
            f"  <page>\n    <title>{escape(self.title)}</title>\n    <ns>{self.namespace}</ns>\n    <id>{number}</id>\n"
            f"{redirect}{revision * self.revisions}  </page>\n"
        )


def head(
    wiki: str = "enwiki",
    language: str = "en",
    schema: str = "0.11",
    media: str = "File",
    category: str = "Category",
) -> str:
    """Write the beginning of a dump."""
    return HEAD.format(wiki=wiki, language=language, schema=schema, media=media, category=category)


def write(
    path: Path,
    pages: Sequence[Made],
    *,
    streams_of: int | None = None,
    level: int = 9,
    beginning: str | None = None,
) -> Path:
    """Write a dump: one stream, or its head, each `streams_of` pages and its end as streams of their own."""
    begin = head() if beginning is None else beginning
    made = [page.xml(number) for number, page in enumerate(pages, 1)]
    if streams_of is None:
        pieces = ["".join([begin, *made, TAIL])]
    else:
        cut = ["".join(made[i : i + streams_of]) for i in range(0, len(made), streams_of)]
        pieces = [begin, *cut, TAIL]
    path.write_bytes(b"".join(bz2.compress(piece.encode(), level) for piece in pieces))
    return path
