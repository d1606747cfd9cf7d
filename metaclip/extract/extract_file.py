"""Extracts one file of a crawl: its pairs, and the keys by which duplicates are found.

    .state/extract/<file>.parquet           the pairs after all filters, duplicates included; with `matched`, those that match
    .state/extract/<file>.<run>.keys.npy    the sorted keys of a million pairs: high and low half, row
    .state/extract/<file>.<run>.same.npy    the rows of these whose key occurs earlier in the run

Law: the result is a function of the bytes of the file and the settings. Each image gives at least one candidate, and one more
for each further text (`more_texts`); a candidate is lost for one reason or becomes a row, so that
images_seen + more_texts = reasons + rows. Pairs that match no entry of the list `matched` are not written, but have keys.
Memory: one record, 150,000 rows, a million keys; it does not grow with the file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from metaclip.engine import PortableStep, ProgressCallback
from metaclip.errors import BrokenInput
from metaclip.extract import image_columns, plain_pairs
from metaclip.extract.crawl_files import CrawlFile, CrawlFileReader
from metaclip.extract.deduplicate import KeyRunWriter, positions_of, run_files
from metaclip.extract.filters import REASONS, UNMATCHED, Filters, UrlList, blocked_words
from metaclip.extract.html_pages import Page, read_html_page
from metaclip.extract.http_response import HttpResponse, parse_response
from metaclip.extract.pool_writer import write_pairs
from metaclip.extract.robots_index import RobotsIndex
from metaclip.extract.settings import ExtractSettings
from metaclip.extract.warc_records import LOSSES, WarcRecord, read_records
from metaclip.extract.wat_pages import read_wat_page
from metaclip.matching.matcher import Matcher
from metaclip.metadata import Metadata
from metaclip.native import load
from metaclip.pool.uid import column_uids, uids_of
from metaclip.stage.runner import Marker
from metaclip.stage.stage import Stage, check_funnel

RECORD_REASONS: Final[dict[str, str]] = {
    "other_record": "record that is no response and no WAT record of one",
    "not_html": "response that is not HTML",
    "bad_json": "WAT record that is not JSON",
    "bad_page": "response or page that cannot be taken apart",
}
"""Why a record that was read gives no page."""


@dataclasses.dataclass(frozen=True)
class ExtractStep(PortableStep):
    """Extracts files. The filters are compiled in each worker."""

    stage: Stage
    settings: ExtractSettings
    lists: Mapping[str, list[str]]
    """The lines of the files that the settings name (`read_lists`)."""
    entries: Metadata | None = None
    """The query list; pairs that match no entry are not written."""
    robots: RobotsIndex | None = None
    """The rules of robots.txt files; what they disallow is left out."""

    @functools.cached_property
    def matcher(self) -> Matcher | None:
        """The matcher of the list. Its automaton is not sent: each machine has it in a file of its cache."""
        return None if self.entries is None else Matcher(self.entries, self.settings.text_rule)

    @functools.cached_property
    def filters(self) -> Filters:
        """The filters."""
        return Filters(
            self.settings,
            blocked=UrlList.parse(self.lists["blocked_domains"]),
            opted_out=UrlList.parse(self.lists["opt_out"]),
            words=blocked_words(self.lists["blocked_words"]),
            robots=self.robots,
        )

    def __call__(
        self, item: tuple[str, CrawlFile], progress: ProgressCallback
    ) -> tuple[Marker, list[Path]]:
        """Write the pairs and keys of a file under a name. Raise BrokenInput if nothing of it can be read.

        Damage inside the file costs the records that it touches; the marker's `records` counts them.
        """
        (name, file), folder = item, self.stage.path
        reader, counts, keys = CrawlFileReader(file), _Counts(), KeyRunWriter(folder, name)
        dedupe = self.settings.dedupe

        def batches() -> Iterator[pa.RecordBatch]:
            written = 0
            for batch in self._pairs(reader, counts):
                positions, kept = None, batch
                if self.matcher is not None:
                    found = self.matcher.match(batch.column("text"))
                    matches = pc.greater(pc.list_value_length(found), 0)
                    kept = batch.filter(matches)
                    positions = positions_of(matches.to_numpy(zero_copy_only=False), written)
                    written += len(kept)
                    counts.funnel[UNMATCHED] += len(batch) - len(kept)
                if dedupe == "uid":
                    keys.add(column_uids(batch.column("uid")), positions)
                elif dedupe == "url":
                    keys.add(uids_of(batch.column("url"), None, None), positions)
                yield kept
            if counts.records["records"] == sum(counts.records[reason] for reason in LOSSES):
                lost = "; ".join(
                    f"{LOSSES[reason]}: {position}" for reason, position in counts.first_losses.items()
                )
                raise BrokenInput(
                    f"{file.path} is no WAT or WARC file ({lost or 'it is empty'}); fetch it again"
                )
            file.check_unchanged()

        counts.funnel["rows"] = write_pairs(folder / f"{name}.parquet", file.name, batches())
        keys.flush()
        check_funnel(counts.funnel, "candidates", REASONS, "rows")
        marker = {
            "name": file.name, "path": file.path, "size": reader.size, "stamp": file.stamp, "sha256": reader.sha256,
            "funnel": dict(counts.funnel), "records": dict(counts.records), "places": counts.first_losses, "runs": keys.runs,
            "tried_again": 0,  # storage tries again, and does not count; earlier revisions did
        }  # fmt: skip
        return marker, run_files(folder, name, len(keys.runs))

    def _pairs(self, reader: CrawlFileReader, counts: _Counts) -> Iterator[pa.RecordBatch]:
        """Yield the pairs of a file: in the compiled library, or in Python where there is none."""
        if (library := load()) is None:
            pages = filter(None, read_pages(reader, self.settings, counts))
            return plain_pairs.extract_pairs(pages, self.filters, counts.funnel)
        batch = image_columns.ImageBatch(library, self.filters, counts.funnel)
        return image_columns.extract_pairs(read_pages(reader, self.settings, counts, batch.scan), batch)


def read_pages(
    reader: CrawlFileReader,
    settings: ExtractSettings,
    counts: _Counts,
    scan: Callable[[WarcRecord], bool | None] = lambda record: None,
) -> Iterator[Page | None]:
    """Yield the pages of a file. `scan` may read a WAT record and return whether it has a page, which None stands for then."""
    for record in read_records(reader.blocks(), counts.lose_record, reader.file.path):
        counts.records["records"] += 1
        scanned = scan(record) if is_wat(record) else None
        page = page_of(record, settings) if scanned is None else None if scanned else "other_record"
        if isinstance(page, str):
            counts.lose_record(page, f"byte {record.offset}")
            continue
        counts.records["pages"] += 1
        if page is not None and page.mended:
            counts.records["mended_utf8"] += 1
        yield page


class _Counts:
    """What became of the records and images of a file."""

    def __init__(self) -> None:
        self.funnel = Counter(images_seen=0, alt_nonempty=0, more_texts=0, candidates=0)
        self.records = Counter(records=0, pages=0)
        self.first_losses: dict[str, str] = {}
        """The position of the first record that is lost for each reason."""

    def lose_record(self, reason: str, position: str) -> None:
        """Count a record that is lost."""
        self.records["records"] += reason in LOSSES
        self.records[reason] += 1
        if reason not in ("other_record", "not_html"):
            self.first_losses.setdefault(reason, position)


def is_wat(record: WarcRecord) -> bool:
    """Return whether a record is one of a WAT that describes another record in JSON."""
    return _kind(record) == b"metadata" and _media_type(record) == b"application/json"


def _kind(record: WarcRecord) -> bytes:
    return record.headers.get(b"warc-type", b"").lower()


def _media_type(record: WarcRecord) -> bytes:
    return record.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def page_of(record: WarcRecord, settings: ExtractSettings) -> Page | str:
    """Return the page of a record, or the reason why it has none."""
    kind, media_type = _kind(record), _media_type(record)
    try:
        if is_wat(record):
            return read_wat_page(record.block, settings) or "other_record"
        if kind == b"response" and media_type in (b"application/http", b""):
            response = parse_response(bytes(record.block))
            if response is None:
                return "bad_page"
            return _html_page(record, response.media_type, response.body, response, settings)
        if kind == b"resource":
            return _html_page(record, media_type.decode("latin-1"), bytes(record.block), None, settings)
    except ValueError:
        return "bad_json" if kind == b"metadata" else "bad_page"
    return "other_record"


def _html_page(
    record: WarcRecord,
    media_type: str,
    body: bytes,
    response: HttpResponse | None,
    settings: ExtractSettings,
) -> Page | str:
    media_type = media_type or record.header(b"warc-identified-payload-type")
    url = record.header(b"warc-target-uri").strip("<>")  # WARC 1.0 writes these around the url
    if media_type not in ("text/html", "application/xhtml+xml") or not url:
        return "not_html"
    charset, headers = (response.charset, response.signals) if response is not None else (None, ())
    return read_html_page(url, body, charset, settings, headers)
