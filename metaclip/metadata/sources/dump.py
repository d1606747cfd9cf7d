"""Reads the pages of a Wikipedia dump, ``pages-articles*.xml.bz2``: one file or many, single stream or multistream.

A range of bytes of a file has the pages whose ``<page>`` begins in a bzip2 stream that begins in the range. So ranges can be
read without an index and without each other, and each page is in exactly one. mwxml parses the XML, the pages of a piece at
a time: if it parsed the file as one document, it would keep an empty element of each page, 2.5 GB for all of English
Wikipedia.

A dump of another wiki or of an unknown schema is refused before any work, and so is a file that is cut off.
"""

from __future__ import annotations

import dataclasses
import glob
import io
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import ParseError

from metaclip.errors import MetaclipError, import_extra, one_line
from metaclip.metadata.sources import bzip2
from metaclip.metadata.sources.bzip2 import Piece
from metaclip.metadata.sources.wikitext import NamespaceNames
from metaclip.storage.download import PublishedFile, fetch
from metaclip.storage.files import read_json
from metaclip.storage.retries import RetryPolicy

SCHEMAS: Final = ("0.10", "0.11")
"""The versions of the export schema that can be read: dumps since 2014."""
NAME: Final = "*pages-articles*.xml*.bz2"
"""The pattern of the names of a dump's files in a folder."""
_INDEX: Final = re.compile(r"-index\d*\.txt")
_RANGE: Final = re.compile(r"-p\d+p\d+\.bz2$")
_SAFE_NAME: Final = re.compile(r"[\w][\w.-]*", re.ASCII)
_PAGE_OPEN: Final = b"<page>"
_PAGE_CLOSE: Final = b"</page>"
_DUMP_CLOSE: Final = b"</mediawiki>"
_DUMP_OPEN: Final = b"<mediawiki><siteinfo></siteinfo>"
_LARGEST_HEAD: Final = 4 << 20
_LARGEST_PAGE: Final = 64 << 20
_TAIL_BYTES: Final = 1 << 20
"""Number of bytes at the end of a file in which the last stream of a multistream begins."""
_FILE_NAMESPACE: Final = 6
_CATEGORY_NAMESPACE: Final = 14


def published_files(status: Any, where: str) -> list[PublishedFile]:
    """Return the files of a dump's articles from its ``dumpstatus.json``: multistream if there are any, else single stream.

    Raise MetaclipError if the dump is not finished, or if the status has another form.
    """
    jobs = status.get("jobs") if isinstance(status, dict) else None
    for job in ("articlesmultistreamdump", "articlesdump"):
        found = (jobs or {}).get(job)
        if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
            continue
        if found.get("status") != "done":
            raise MetaclipError(
                f"{where}: {job} is {found.get('status')!r}, not done; take an earlier dump"
            )
        files = [
            PublishedFile(
                urllib.parse.urljoin(where, name),
                name,
                item.get("size"),
                item.get("sha1") or item.get("md5"),
            )
            for name, item in sorted(found["files"].items())
            if name.endswith(".bz2")
            and "pages-articles" in name
            and "-index" not in name
            and _SAFE_NAME.fullmatch(name)
        ]
        if files:
            return files
    raise MetaclipError(
        f"{where} lists no files of pages-articles; name the folder of one dump, with its date"
    )


def download(url: str, folder: Path, *, contact: str = "", retry: RetryPolicy | None = None) -> None:
    """Download the articles of a dump (``https://dumps.wikimedia.org/enwiki/20240101/``) to a folder.

    Files that exist are not requested; a complete folder needs no network.
    """
    url = url.rstrip("/") + "/"
    status = folder / "dumpstatus.json"
    fetch(PublishedFile(url + status.name, status.name), status, contact=contact, retry=retry)
    for file in published_files(read_json(status), url):
        fetch(file, folder / file.name, contact=contact, retry=retry)


@dataclasses.dataclass(frozen=True)
class DumpFile:
    """One file of a dump, and the content of its head."""

    path: Path
    size: int
    schema: str
    wiki: str
    """The wiki's name in the database: "enwiki"."""
    language: str
    names: NamespaceNames
    """The names of the namespaces of images and of categories."""


@dataclasses.dataclass(frozen=True)
class Page:
    """The newest revision of a page."""

    title: str
    namespace: int
    redirect: str | None
    """The title of the page that it redirects to."""
    model: str
    text: str
    """Wikitext; empty if the text of the revision is deleted."""


def find(where: str, wiki: str) -> list[DumpFile]:
    """Return the files of a dump (a file, a folder, or a pattern), sorted by name, after checking them.

    Raise MetaclipError if there is none, or if one is not bzip2, is cut off, or is of another schema or wiki.
    """
    pattern = os.path.join(glob.escape(where), NAME) if os.path.isdir(where) else where
    paths = (
        [Path(where)] if os.path.isfile(where) else [Path(name) for name in sorted(glob.glob(pattern))]
    )
    paths = [path for path in paths if not _INDEX.search(path.name)]
    if not paths:
        raise MetaclipError(
            f"there is no dump {pattern}; download pages-articles from dumps.wikimedia.org"
        )
    forms = {("multistream" in path.name, _RANGE.search(path.name) is not None): path for path in paths}
    if len(forms) > 1:
        some, other, *_ = sorted(forms.values())
        raise MetaclipError(
            f"{some} and {other.name} hold the same pages in two forms; name one of them: the whole dump or its parts, "
            "multistream or not"
        )
    return [_check_file(path, wiki) for path in paths]


def _check_file(path: Path, wiki: str) -> DumpFile:
    try:
        bzip2.check_format(path)
        file = _read_head(path)
        last = b""
        for piece in bzip2.pieces(path, max(0, file.size - _TAIL_BYTES)):
            last = (last + piece.text)[-100:]
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)})") from None
    if file.schema not in SCHEMAS:
        raise MetaclipError(
            f"{path} has the export schema {file.schema or 'without a version'}, known are {', '.join(SCHEMAS)}; "
            "use a dump with a known schema"
        )
    if file.wiki != wiki:
        raise MetaclipError(
            f"{path} is a dump of {file.wiki or 'a wiki without a name'} (language {file.language or 'unknown'}), "
            f"the recipe wants {wiki}; check its keys dump and wiki"
        )
    if last and not _is_end_of_dump(last):
        raise _cut_off(path)
    return file


def _read_head(path: Path) -> DumpFile:
    """Read a file's head, up to the end of <siteinfo>."""
    mwxml = import_extra("mwxml", "build", "reading a dump")
    text = b""
    for piece in bzip2.pieces(path):
        text += piece.text
        if b"</siteinfo>" in text or len(text) > _LARGEST_HEAD:
            break
    head, found, _ = text.partition(b"</siteinfo>")
    if not found or not head.lstrip().startswith((b"<mediawiki", b"<?xml")):
        raise MetaclipError(
            f"{path} is no dump of a wiki: it does not begin with <mediawiki> and <siteinfo>"
        )
    try:
        root = mwxml.element_iterator.ElementIterator.from_file(io.BytesIO(head + found + _DUMP_CLOSE))
        site = mwxml.Dump.from_element(root).site_info
    except (ParseError, mwxml.errors.MalformedXML, AssertionError, ValueError, TypeError) as error:
        raise MetaclipError(f"{path}: its head is not a dump's ({one_line(error)})") from None
    own_names = {space.id: [space.name.lower()] for space in site.namespaces or () if space.name}
    usual = NamespaceNames()  # that every wiki knows
    return DumpFile(
        path,
        path.stat().st_size,
        str(root.attr("version", "")),
        site.dbname or "",
        str(root.attr("{http://www.w3.org/XML/1998/namespace}lang", "")),
        NamespaceNames(
            tuple(sorted({*usual.media, *own_names.get(_FILE_NAMESPACE, [])})),
            tuple(sorted({*usual.category, *own_names.get(_CATEGORY_NAMESPACE, [])})),
        ),
    )


def pages(path: Path, start: int, stop: int) -> Iterator[Page]:
    """Yield the pages of a range of bytes of a file, `start` to before `stop`.

    Raise MetaclipError if the file is cut off or damaged, or is not a dump of newest revisions.
    """
    mwxml = import_extra("mwxml", "build", "reading a dump")
    for xml in _whole_pages(path, bzip2.pieces(path, start, stop), stop):
        try:
            for page in mwxml.Dump.from_file(io.BytesIO(_DUMP_OPEN + xml + _DUMP_CLOSE)):
                revisions = [(revision.model or "wikitext", revision.text or "") for revision in page]
                if len(revisions) > 1:
                    raise MetaclipError(
                        f"{path}: the page {page.title} has several revisions; use pages-articles, not pages-meta-history"
                    )
                model, text = revisions[0] if revisions else ("wikitext", "")
                yield Page(page.title, page.namespace, page.redirect, model, text)
        except (ParseError, mwxml.errors.MalformedXML, ValueError, TypeError, AttributeError) as error:
            raise MetaclipError(
                f"{path}, a page in bytes {start:,} to {stop:,}: not a dump's XML ({one_line(error)}); fetch it again"
            ) from None


def _whole_pages(path: Path, pieces: Iterable[Piece], stop: int) -> Iterator[bytes]:
    """Yield the XML of whole pages, piece by piece: of the pages whose tag begins in a stream before byte `stop`."""
    held = b""  # the text after the last whole page
    own = 0  # how much of it comes from streams of the range
    any_own = False  # whether any of that was more than blanks
    for piece in pieces:
        held += piece.text
        if len(held) > _LARGEST_PAGE:
            raise MetaclipError(
                f"{path}: a page, or what is between two, has over {_LARGEST_PAGE >> 20} MiB of text; fetch the file again"
            )
        if piece.start < stop:
            any_own, own = any_own or not piece.text.isspace(), len(held)
            end = held.rfind(_PAGE_CLOSE)
            begin = held.find(_PAGE_OPEN, 0, max(end, 0))
            if begin >= 0:
                yield held[begin : end + len(_PAGE_CLOSE)]
            if end >= 0:
                held = held[end + len(_PAGE_CLOSE) :]
                own = len(held)
            continue
        # Past the range: at most one page is not complete yet.
        begin = held.find(_PAGE_OPEN)
        if begin >= own or (begin < 0 and len(held) >= own + len(_PAGE_OPEN)):
            return
        end = held.find(_PAGE_CLOSE, begin)
        if 0 <= begin < end:
            yield held[begin : end + len(_PAGE_CLOSE)]
            return
    if any_own and (_PAGE_OPEN in held or not _is_end_of_dump(held)):
        raise _cut_off(path)


def _is_end_of_dump(text: bytes) -> bool:
    """Return whether a text, of which the beginning may be missing, ends as a dump does."""
    end = text.rstrip()
    return end.endswith(_DUMP_CLOSE) or (end != b"" and _DUMP_CLOSE.endswith(end))


def _cut_off(path: Path) -> MetaclipError:
    return MetaclipError(
        f"{path} is cut off: its text does not end with {_DUMP_CLOSE.decode()}; fetch it again"
    )
