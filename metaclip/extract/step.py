"""A file of a crawl to its pairs: the step that engines carry.

    .state/extract/<file>.parquet           its pairs, filtered, those that stand twice still in
    .state/extract/<file>.<run>.keys.npy    sorted keys of a million pairs: high and low half, row
    .state/extract/<file>.<run>.same.npy    rows of these whose key stands earlier in the run

Law: what is written is a function of the file's bytes and the settings. Each image seen gives at least one candidate, a
further text of it one more (`more_texts`); a candidate is lost for one reason or becomes a row, so that
images_seen + more_texts = reasons + rows.
Memory: one record, 150,000 rows, a million keys; it does not grow with the file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from metaclip.engine.contract import PortableStep
from metaclip.errors import BrokenInput, MetaclipError
from metaclip.extract import addresses, http, pages, records, wat
from metaclip.extract.dedupe import Keys
from metaclip.extract.filters import REASONS, Filters
from metaclip.extract.language import Languages
from metaclip.extract.pages import Page
from metaclip.extract.records import Record
from metaclip.extract.settings import ExtractSettings, Lists
from metaclip.extract.sources import RETRY, Reader, Source, check_unchanged
from metaclip.extract.write import PoolWriter, Row
from metaclip.stage import funnel as funnels
from metaclip.storage.download import RetryPolicy

RECORD_REASONS: Final[dict[str, str]] = {
    "other_record": "record that is no response and no WAT record of one",
    "not_html": "response that is not HTML",
    "bad_json": "WAT record that is not JSON",
    "bad_page": "response or page that cannot be taken apart",
}
"""Why a record that was read gives no page."""


@dataclasses.dataclass(frozen=True)
class Extractor(PortableStep):
    """What a file is extracted by; it travels to workers, and what it takes to begin is made where it arrives."""

    settings: ExtractSettings
    lists: Lists
    state: Path
    """The folder that the pairs go to."""
    retry: RetryPolicy = RETRY

    def __call__(self, item: tuple[str, Source]) -> dict[str, Any]:
        """Extract a file under a name; give its marker, without the names of what was written."""
        name, source = item
        return extract_file(source, name, self)

    @functools.cached_property
    def filters(self) -> Filters:
        """The filters."""
        return self.lists.filters(self.settings)

    @functools.cached_property
    def languages(self) -> Languages | None:
        """What tells languages, where they are to be told."""
        return Languages() if self.settings.identify else None


def extract_file(source: Source, name: str, by: Extractor) -> dict[str, Any]:
    """Extract a file and write its pairs and keys; give its marker. Raise BrokenInput if nothing of it can be read.

    Damage inside it costs the records that it touches; they stand in the marker's `records`.
    """
    reader = Reader(source, by.retry)
    counts = _Counts()
    with PoolWriter.to(by.state / f"{name}.parquet", source.name) as writer:
        keys = Keys(by.state, name)
        for row in _rows(_pages(reader.blocks(), by.settings, counts), by, counts):
            writer.write(row)
            if by.settings.dedupe != "none":
                keys.add(bytes.fromhex(row[0]) if by.settings.dedupe == "uid" else _md5(row[1]).digest())
        if not counts.records.get("records", 0) - sum(counts.records.get(reason, 0) for reason in records.LOSSES):
            lost = "; ".join(f"{records.LOSSES[reason]}: {place}" for reason, place in counts.places.items())
            raise BrokenInput(f"{source.path} is no WAT or WARC file ({lost or 'it is empty'}); fetch it again")
        check_unchanged(source)
    keys.close()
    counts.funnel["rows"] = writer.rows
    funnels.check(counts.funnel, "candidates", REASONS, "rows")
    return {
        "name": source.name, "path": source.path, "size": reader.size, "stamp": source.stamp, "sha256": reader.sha256,
        "funnel": counts.funnel, "records": counts.records, "places": counts.places, "runs": keys.runs,
        "tried_again": reader.tried,
    }  # fmt: skip


class _Counts:
    """What became of a file's records and images."""

    def __init__(self) -> None:
        self.funnel: dict[str, int] = {"images_seen": 0, "alt_nonempty": 0, "more_texts": 0, "candidates": 0}
        self.records: dict[str, int] = {"records": 0, "pages": 0}
        self.places: dict[str, str] = {}

    def lose_record(self, reason: str, place: str) -> None:
        """Count a record that was lost."""
        self.records["records"] += reason in records.LOSSES
        self.records[reason] = self.records.get(reason, 0) + 1
        if reason not in ("other_record", "not_html"):
            self.places.setdefault(reason, place)


def _pages(blocks: Iterator[bytes], settings: ExtractSettings, counts: _Counts) -> Iterator[Page]:
    """Give the pages of a file's records."""
    found = records.read(blocks, counts.lose_record)
    while True:
        try:
            record = next(found, None)
        except MetaclipError as error:
            raise BrokenInput(str(error)) from None
        if record is None:
            return
        counts.records["records"] += 1
        page = page_of(record, settings.wanted)
        if isinstance(page, str):
            counts.lose_record(page, f"byte {record.offset}")
        else:
            counts.records["pages"] += 1
            yield page


def page_of(record: Record, wanted: pages.Wanted) -> Page | str:
    """Give the page of a record, or the reason why it has none."""
    kind = record.headers.get(b"warc-type", b"").lower()
    media_type = record.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"metadata" and media_type == b"application/json":
        try:
            return wat.read(record.view, wanted) or "other_record"
        except ValueError:
            return "bad_json"
    if kind == b"response" and media_type in (b"application/http", b""):
        try:
            response = http.parse(record.block)
            if response is None:
                return "bad_page"
            return _html(record, response.media_type, response.body, response.charset, wanted)
        except ValueError:
            return "bad_page"
    if kind == b"resource":
        try:
            return _html(record, media_type.decode("latin-1"), record.block, None, wanted)
        except ValueError:
            return "bad_page"
    return "other_record"


def _html(record: Record, media_type: str, body: bytes, charset: str | None, wanted: pages.Wanted) -> Page | str:
    known = media_type or record.header(b"warc-identified-payload-type")
    url = record.header(b"warc-target-uri").strip("<>")  # WARC 1.0 has them there
    if known not in ("text/html", "application/xhtml+xml") or not url:
        return "not_html"
    return pages.from_html(url, body, charset, wanted)


def _rows(found: Iterator[Page], by: Extractor, counts: _Counts) -> Iterator[Row]:
    """Give the rows of pages, and count what is lost."""
    settings, filters, languages = by.settings, by.filters, by.languages
    wanted, least = settings.languages, settings.min_lang_score
    funnel = counts.funnel

    def lose(reason: str, candidates: int = 1) -> None:
        funnel[reason] = funnel.get(reason, 0) + candidates

    for page in found:
        of_page = filters.why_page(page.url)
        funnel["images_seen"] += len(page.images)
        for link, alt, more, dot in page.images:
            raw_texts = pages.texts(alt, more)
            n = len(raw_texts)
            funnel["candidates"] += n or 1
            if n == 0:
                lose("no_text")
                continue
            funnel["more_texts"] += n - 1
            # Its first text is the alt, unless that is empty.
            funnel["alt_nonempty"] += raw_texts[0] == alt
            resolved = page.base.resolve(link)
            if reason := filters.why_address(link, resolved, dot):
                lose(reason, n)
                continue
            assert resolved is not None
            url = addresses.clean(resolved)
            for raw in raw_texts:
                text = pages.text_of(raw)
                if reason := filters.why_text(raw, text) or filters.why_listed(url, text, of_page):
                    lose(reason)
                    continue
                lang, score = languages.of(text) if languages is not None else (None, None)
                if (wanted and lang not in wanted) or (least and (score or 0.0) < least):
                    lose("language")
                    continue
                yield uid_of(raw, resolved), url, text, page.url, lang, score


def uid_of(raw: str, resolved: str) -> str:
    """Give the uid of a pair: md5 of its text and its resolved link, before either is cleaned."""
    return hashlib.md5((raw + resolved).encode(), usedforsecurity=False).hexdigest()


def _md5(text: str) -> Any:
    return hashlib.md5(text.encode(), usedforsecurity=False)
