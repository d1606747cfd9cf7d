"""The pages of a Wikipedia dump, ``pages-articles*.xml.bz2``: one file or many, single stream or multistream.

A part is a range of bytes of a file. Its pages are those whose ``<page>`` begins in a block that begins in it, so that
parts need no index and no neighbour, and each page is in just one. mwxml reads the XML, a block's pages at a time: read
as one document it would keep an empty element of each page, 2.5 GB for all of English Wikipedia.

A dump of another wiki or of a schema that is not known is refused before any work, as is a file that is cut off.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import ParseError

from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.sources import bzip2
from metaclip.metadata.sources.bzip2 import Block
from metaclip.metadata.sources.wikitext import Names

SCHEMAS: Final = ("0.10", "0.11")
"""Versions of the export schema that are known: dumps since 2014."""
NAME: Final = "*pages-articles*.xml*.bz2"
"""The names of a dump's files in a folder."""
_INDEX: Final = re.compile(r"-index\d*\.txt")
_RANGE: Final = re.compile(r"-p\d+p\d+\.bz2$")
_OPEN: Final = b"<page>"
_CLOSE: Final = b"</page>"
_END: Final = b"</mediawiki>"
_HEAD: Final = b"<mediawiki><siteinfo></siteinfo>"
_LARGEST_HEAD: Final = 4 << 20
_TAIL: Final = 1 << 20
"""Bytes at a file's end in which a block begins."""
_FILE: Final = 6
_CATEGORY: Final = 14


@dataclasses.dataclass(frozen=True)
class DumpFile:
    """One file of a dump, and what its head says."""

    path: Path
    size: int
    schema: str
    wiki: str
    """The wiki's name in the database: "enwiki"."""
    language: str
    names: Names
    """Namespaces of images and of categories."""


@dataclasses.dataclass(frozen=True)
class Page:
    """A page: in these dumps, its newest revision."""

    title: str
    namespace: int
    redirect: str | None
    """The title of the page it leads to."""
    model: str
    text: str
    """Wikitext; empty where the revision's text is deleted."""


def find(where: str, wiki: str) -> list[DumpFile]:
    """Find and check the files of a dump: a file, a folder, or a pattern; sorted by name.

    Raise MetaclipError if there is none, if one is not bzip2, is cut off, is of another schema or of another wiki.
    """
    pattern = os.path.join(glob.escape(where), NAME) if os.path.isdir(where) else where
    paths = [Path(where)] if os.path.isfile(where) else [Path(name) for name in sorted(glob.glob(pattern))]
    paths = [path for path in paths if not _INDEX.search(path.name)]
    if not paths:
        raise MetaclipError(f"there is no dump {pattern}; download pages-articles from dumps.wikimedia.org")
    forms = {("multistream" in path.name, _RANGE.search(path.name) is not None): path for path in paths}
    if len(forms) > 1:
        some, other, *_ = sorted(forms.values())
        raise MetaclipError(
            f"{some} and {other.name} hold the same pages in two forms; name one of them: the whole dump or its parts, "
            "multistream or not"
        )
    return [_checked(path, wiki) for path in paths]


def _checked(path: Path, wiki: str) -> DumpFile:
    try:
        bzip2.check_form(path)
        file = _head(path)
        last = b"".join(block.text for block in bzip2.blocks(path, max(0, file.size - _TAIL)))[-100:]
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)})") from None
    if file.schema not in SCHEMAS:
        raise MetaclipError(
            f"{path} is of the export schema {file.schema or 'without a version'}, known are {', '.join(SCHEMAS)}; "
            "take a dump of a known one"
        )
    if file.wiki != wiki:
        raise MetaclipError(
            f"{path} is a dump of {file.wiki or 'a wiki without a name'} (language {file.language or 'unknown'}), "
            f"the recipe wants {wiki}; check its keys dump and wiki"
        )
    if last and not _ends(last):
        raise _unfinished(path)
    return file


def _head(path: Path) -> DumpFile:
    """Read a file's head, up to the end of <siteinfo>."""
    mwxml = _mwxml()
    text = b""
    for block in bzip2.blocks(path):
        text += block.text
        if b"</siteinfo>" in text or len(text) > _LARGEST_HEAD:
            break
    head, found, _ = text.partition(b"</siteinfo>")
    if not found or not head.lstrip().startswith((b"<mediawiki", b"<?xml")):
        raise MetaclipError(f"{path} is no dump of a wiki: it does not begin with <mediawiki> and <siteinfo>")
    try:
        root = mwxml.element_iterator.ElementIterator.from_file(io.BytesIO(head + found + _END))
        site = mwxml.Dump.from_element(root).site_info
    except (ParseError, mwxml.errors.MalformedXML, AssertionError, ValueError, TypeError) as error:
        raise MetaclipError(f"{path}: its head is not a dump's ({one_line(error)})") from None
    spaces = {space.id: space.name.lower() for space in site.namespaces or () if space.name}
    usual = Names()
    return DumpFile(
        path,
        path.stat().st_size,
        str(root.attr("version", "")),
        site.dbname or "",
        str(root.attr("{http://www.w3.org/XML/1998/namespace}lang", "")),
        Names(_with(usual.media, spaces.get(_FILE)), _with(usual.category, spaces.get(_CATEGORY))),
    )


def _with(usual: Iterable[str], name: str | None) -> tuple[str, ...]:
    """Add a wiki's own name to those that every wiki knows."""
    return tuple(sorted({*usual, name} - {None}))  # type: ignore[arg-type]


def pages(path: Path, start: int, stop: int) -> Iterator[Page]:
    """Give the pages of the part of a file from byte `start` to before byte `stop`.

    Raise MetaclipError where the file is cut off or damaged, or is no dump of newest revisions.
    """
    mwxml = _mwxml()
    for stretch in _stretches(path, bzip2.blocks(path, start), 8 * stop):
        try:
            for page in mwxml.Dump.from_file(io.BytesIO(_HEAD + stretch + _END)):
                yield _page(page)
        except (ParseError, mwxml.errors.MalformedXML, ValueError, TypeError, AttributeError) as error:
            raise MetaclipError(
                f"{path}, a page in bytes {start:,} to {stop:,}: not a dump's XML ({one_line(error)}); fetch it again"
            ) from None
        except _History as error:
            raise MetaclipError(
                f"{path}: the page {error} has several revisions; take pages-articles, not pages-meta-history"
            ) from None


class _History(Exception):
    """A page with several revisions."""


def _page(page: Any) -> Page:
    revisions = [(revision.model or "wikitext", revision.text or "") for revision in page]
    if len(revisions) > 1:
        raise _History(page.title)
    model, text = revisions[0] if revisions else ("wikitext", "")
    return Page(page.title, page.namespace, page.redirect, model, text)


def _stretches(path: Path, blocks: Iterable[Block], stop: int) -> Iterator[bytes]:
    """Give XML of whole pages, block by block: of those whose tag begins in a block before bit `stop`."""
    held = b""  # what follows the last whole page
    own = 0  # how much of it is from blocks of the part
    any_own = False  # whether any of that was more than blanks
    for block in blocks:
        held += block.text
        if block.bit < stop:
            any_own, own = any_own or not block.text.isspace(), len(held)
            end = held.rfind(_CLOSE)
            begin = held.find(_OPEN, 0, max(end, 0))
            if begin >= 0:
                yield held[begin : end + len(_CLOSE)]
            if end >= 0:
                held = held[end + len(_CLOSE) :]
                own = len(held)
            continue
        # Past the part: at most one page of it is not whole yet.
        begin = held.find(_OPEN)
        if begin >= own or (begin < 0 and len(held) >= own + len(_OPEN)):
            return
        end = held.find(_CLOSE, begin)
        if 0 <= begin < end:
            yield held[begin : end + len(_CLOSE)]
            return
    if any_own and (_OPEN in held or not _ends(held)):
        raise _unfinished(path)


def _ends(text: bytes) -> bool:
    """Tell whether some text, or text of which only the end is known, ends as a dump does."""
    end = text.rstrip()
    return end.endswith(_END) or (end != b"" and _END.endswith(end))


def _unfinished(path: Path) -> MetaclipError:
    return MetaclipError(f"{path} is cut off: its text does not end with {_END.decode()}; fetch it again")


def _mwxml() -> Any:
    try:
        mwxml = importlib.import_module("mwxml")
        importlib.import_module("mwxml.element_iterator")
        importlib.import_module("mwxml.errors")
    except ImportError:
        raise MetaclipError("to read a dump takes mwxml; pip install 'metaclip[build]'") from None
    return mwxml
