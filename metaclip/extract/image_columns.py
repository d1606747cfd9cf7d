"""From pages to pairs, in columns: a batch of images in the compiled library.

The library reads WAT records (native/src/wat.c), holds the images (images.c), resolves and judges their links (links.c). What is
rare is left to Python's own functions: records and links that are not simple, urls that are not ASCII. Lists, words and
languages work on the columns of what is left.

Law: the pairs and the funnel of `plain_pairs`, for all inputs.

Cost: 3 us per image with a text, of which 1.5 us are reading the WAT (31 MB in 19 ms). Memory: 16 MiB of strings, one record, and
72 bytes per image.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.extract.filters import (
    BLANK_ENDINGS,
    BLANK_NAMES,
    COUNTER_DOMAINS,
    COUNTER_URLS,
    MAX_URL,
    REASONS,
    SVG_ENDINGS,
    Filters,
    UrlList,
)
from metaclip.extract.html_pages import Page
from metaclip.extract.languages import identify_languages
from metaclip.extract.opt_outs import HEADERS, LINK, LINK_IN_HEAD, Signal, license_of, meta_names
from metaclip.extract.plain_pairs import replace_surrogates
from metaclip.extract.pool_writer import PAIRS
from metaclip.extract.urls import BaseUrl, clean_url, host_of
from metaclip.extract.warc_records import WarcRecord
from metaclip.native import ListStruct, RulesStruct, address
from metaclip.pool.uid import to_hex, uids_of

BATCH_BYTES: Final = 1 << 24
"""Bytes of strings after which a batch is full."""
_BATCH_IMAGES: Final = 1 << 15
_UNDECIDED: Final = 255
_PAGE, _OTHER, _UNUSUAL = 1, 0, -1  # what the scanner of WAT records returns
_NAMES: Final = tuple(REASONS)
"""The names of reasons; a column has the index of one, from 1, and 0 for a pair that is kept."""
_CODES: Final = {name: i + 1 for i, name in enumerate(_NAMES)}

Numbers = npt.NDArray[np.int64]


class _Strings(IntEnum):
    """Columns of strings, as images.c numbers them."""

    PAGE_URL, PAGE_BASE, LINK, URL, CLEAN, HOST, RAW, TEXT, SIGNAL_NAME, SIGNAL_VALUE = range(10)


class _Numbers(IntEnum):
    """Columns of numbers, likewise."""

    (
        PAGE_FOR_PYTHON,
        IMAGE_PAGE,
        IMAGE_REASON,
        IMAGE_PIXEL,
        TEXT_IMAGE,
        TEXT_REASON,
        SIGNAL_PAGE,
        SIGNAL_KIND,
    ) = range(8)


class ImageBatch:
    """Pages and their images, until there are enough of them."""

    def __init__(self, library: Any, filters: Filters, funnel: Counter[str]) -> None:
        """Make an empty batch; `funnel` counts what becomes of the images."""
        self._library, self._filters, self._funnel = library, filters, funnel
        settings = filters.settings
        lists = (
            SVG_ENDINGS, BLANK_NAMES, BLANK_ENDINGS, sorted(COUNTER_DOMAINS), COUNTER_URLS, meta_names(filters.agents), HEADERS,
        )  # fmt: skip
        self._rules = RulesStruct(
            settings.min_text, settings.max_text, MAX_URL, *map(ListStruct.of, lists)
        )
        self._images = library.mc_images_new(self._rules)
        if not self._images:
            raise MemoryError
        weakref.finalize(self, library.mc_images_free, self._images)
        self._sizes = library.mc_images_sizes(self._images).contents
        self._titles = int(settings.titles)
        self._pages: dict[int, Page] = {}
        """The pages that Python read, by their index."""
        self._bases: dict[int, BaseUrl] = {}
        """The bases that Python split."""

    @property
    def full(self) -> bool:
        """Whether it is time to take the pairs."""
        return bool(self._sizes.bytes > BATCH_BYTES or self._sizes.candidates > _BATCH_IMAGES)

    def scan(self, record: WarcRecord) -> bool | None:
        """Add the page of a WAT record; return whether it has one, None if Python must read it."""
        found = self._library.mc_images_scan(
            self._images, record.data, record.begin, record.end, self._titles
        )
        if found < _UNUSUAL:
            raise MemoryError
        return None if found == _UNUSUAL else found == _PAGE

    def add(self, page: Page) -> None:
        """Add a page that Python read."""
        strings, numbers = [replace_surrogates(page.url).encode()], []
        url_size = len(strings[0])
        for link, alt, others, is_pixel in page.images:
            encoded = [text.encode("utf-8", "surrogatepass") for text in (link, alt, *others)]
            strings += encoded
            numbers += [is_pixel, len(encoded) - 1, *map(len, encoded)]
        held = np.array(numbers, np.int64)
        self._pages[self._sizes.pages] = page
        _check(
            self._library.mc_images_add(
                self._images, b"".join(strings), url_size, address(held, np.int64), len(page.images)
            )
        )

    def pairs(self) -> Iterator[pa.RecordBatch]:
        """Yield the pairs of the images that pass the filters, with the columns `PAIRS`; count the others, and begin anew."""
        library, images, sizes, funnel = self._library, self._images, self._sizes, self._funnel
        for name, count in zip(
            ("images_seen", "alt_nonempty", "more_texts", "candidates"), sizes.counts, strict=True
        ):
            funnel[name] += count
        if without_text := sizes.counts[0] - sizes.images:
            funnel["no_text"] += without_text
        self._set_bases()
        text_images = self._numbers(_Numbers.TEXT_IMAGE, 0, sizes.candidates)
        page_reasons, licenses = self._page_reasons()
        mark, first, first_text = sizes.bytes, 0, 0
        while first < sizes.images:
            end = library.mc_images_judge(images, first, BATCH_BYTES)
            if end < 0:
                raise MemoryError
            end = self._decide(first, end, mark)
            end_text = int(np.searchsorted(text_images, end))
            yield from self._judged(first_text, end_text, text_images, page_reasons, licenses)
            first, first_text = end, end_text
            library.mc_images_truncate(images, mark)
        library.mc_images_clear(images)
        self._pages.clear()
        self._bases.clear()

    def _judged(
        self, first: int, end: int, text_images: Numbers, page_reasons: Numbers, licenses: pa.Array
    ) -> Iterator[pa.RecordBatch]:
        """Yield the pairs of the texts [first, end), of images that are judged; count the others."""
        reasons = self._numbers(_Numbers.TEXT_REASON, first, end)
        rows = first + self._keep(reasons)
        images = text_images[rows]
        urls, texts = self._strings(_Strings.CLEAN, images), self._strings(_Strings.TEXT, rows)
        pages = self._numbers(_Numbers.IMAGE_PAGE, 0, self._sizes.images)[images]
        found = self._list_reasons(images, urls, page_reasons[pages])
        if self._filters.words is not None:
            matched = self._filters.words.match_array(texts)
            has_word = pc.greater(pc.list_value_length(matched), 0).to_numpy(zero_copy_only=False)
            found = np.where((found == 0) & has_word, _CODES["blocked_word"], found)
        languages = scores = None
        if found.any():
            kept = self._keep(found)
            rows, images, pages = rows[kept], images[kept], pages[kept]
            urls, texts = urls.take(pa.array(kept)), texts.take(pa.array(kept))
        if self._filters.settings.identify:
            languages, scores = identify_languages(texts)
            found = self._language_reasons(languages, scores)
            if found.any():
                kept = self._keep(found)
                rows, images, pages = rows[kept], images[kept], pages[kept]
                urls, texts, languages, scores = (
                    column.take(pa.array(kept)) for column in (urls, texts, languages, scores)
                )
        if not len(rows):
            return
        # The uid is that of the text and the link before either is cleaned.
        uids = uids_of(self._strings(_Strings.RAW, rows), self._strings(_Strings.URL, images), None)
        columns = [
            to_hex(uids), urls, texts, self._strings(_Strings.PAGE_URL, pages),
            pa.nulls(len(rows), pa.string()) if languages is None else languages,
            pa.nulls(len(rows), pa.float32()) if scores is None else scores, licenses.take(pa.array(pages)),
        ]  # fmt: skip
        yield pa.RecordBatch.from_arrays(
            [column.cast(field.type) for column, field in zip(columns, PAIRS, strict=True)], schema=PAIRS
        )

    def _keep(self, reasons: Numbers) -> Numbers:
        """Count reasons; return the rows without one."""
        for code, count in enumerate(np.bincount(reasons).tolist()):
            if code and count:
                self._funnel[_NAMES[code - 1]] += count
        return np.flatnonzero(reasons == 0)

    def _set_bases(self) -> None:
        """Pass the library the bases of pages that it cannot split, or that Python read."""
        self._library.mc_images_split_bases(self._images)
        left = np.flatnonzero(self._numbers(_Numbers.PAGE_FOR_PYTHON, 0, self._sizes.pages))
        urls, bases = (
            self._strings(column, left).to_pylist() for column in (_Strings.PAGE_URL, _Strings.PAGE_BASE)
        )
        for i, url, given in zip(left.tolist(), urls, bases, strict=True):
            base = self._pages[i].base if i in self._pages else BaseUrl.of_page(url, given)
            self._bases[i] = base
            if base.root:
                root, folder = (
                    text.encode("utf-8", "surrogatepass") for text in (base.root, base.folder)
                )
                sizes = len(root), len(folder), len(base.scheme)
                _check(
                    self._library.mc_images_set_base(
                        self._images, i, root, sizes[0], folder, sizes[1], sizes[2]
                    )
                )

    def _split_bases(self, pages: Iterable[int]) -> None:
        """Split the bases of further pages in Python."""
        left = np.array(sorted(set(pages) - self._bases.keys()), np.int64)
        urls = self._strings(_Strings.PAGE_URL, left).to_pylist()
        self._bases |= zip(left.tolist(), map(BaseUrl, urls), strict=True)

    def _decide(self, first: int, end: int, mark: int) -> int:
        """Judge the images in [first, end) that the library did not; return the end, or an earlier one if they get large."""
        reasons = self._numbers(_Numbers.IMAGE_REASON, first, end)
        rows = first + np.flatnonzero(reasons == _UNDECIDED)
        if not len(rows):
            return end
        pages = self._numbers(_Numbers.IMAGE_PAGE, first, end)
        pages = pages[rows - first].tolist()
        pixels = self._numbers(_Numbers.IMAGE_PIXEL, first, end)[rows - first].tolist()
        links = self._strings(_Strings.LINK, rows).cast(pa.large_binary()).to_pylist()
        self._split_bases(pages)
        for row, page, is_pixel, encoded in zip(rows.tolist(), pages, pixels, links, strict=True):
            link = encoded.decode("utf-8", "surrogatepass")
            url = self._bases[page].resolve(link)
            reason = self._filters.url_reason(link, url, bool(is_pixel))
            clean = clean_url(url) if url is not None and reason is None else ""
            kept = (url, clean, host_of(clean)) if url and clean else ("", "", "")
            strings = [item for text in map(str.encode, kept) for item in (text, len(text))]
            code = _CODES[reason] if reason else 0
            _check(self._library.mc_images_decide(self._images, row, code, *strings))
            if self._sizes.bytes > mark + 4 * BATCH_BYTES:
                return row + 1
        return end

    def _page_reasons(self) -> tuple[Numbers, pa.Array]:
        """Return the reason of each page, 0 for none, and its licence."""
        filters, sizes = self._filters, self._sizes
        scanned: dict[int, list[Signal]] = {}
        rows = np.arange(sizes.signals)
        names, values = (
            self._strings(column, rows).to_pylist()
            for column in (_Strings.SIGNAL_NAME, _Strings.SIGNAL_VALUE)
        )
        pages, kinds = (
            self._numbers(column, 0, sizes.signals).tolist()
            for column in (_Numbers.SIGNAL_PAGE, _Numbers.SIGNAL_KIND)
        )
        for page, signal in zip(pages, map(Signal, kinds, names, values), strict=True):
            scanned.setdefault(page, []).append(signal)
        read = {i: page.signals for i, page in self._pages.items()}
        signals: dict[int, Sequence[Signal]] = {**scanned, **read}
        reasons = np.zeros(sizes.pages, np.int64)
        licenses: list[str | None] = [None] * sizes.pages
        urls: list[str] = []
        if filters.blocked.domains or filters.opted_out.domains or filters.robots is not None:
            urls = self._strings(_Strings.PAGE_URL, np.arange(sizes.pages)).to_pylist()
            for i, page in self._pages.items():
                urls[i] = page.url
        has_license = [
            i for i, said in signals.items() if any(one.kind in (LINK_IN_HEAD, LINK) for one in said)
        ]
        self._split_bases(has_license)
        for i in has_license:
            licenses[i] = license_of(signals[i], self._bases[i])
        for i in range(sizes.pages) if urls else signals:
            said = signals.get(i, ())
            if reason := filters.page_reason(urls[i] if urls else "", said):
                reasons[i] = _CODES[reason]
        return reasons, pa.array(licenses, pa.string())

    def _list_reasons(self, images: Numbers, urls: pa.Array, page_reasons: Numbers) -> Numbers:
        """Return the reasons of pairs that are on a list, or whose pages opted out."""
        filters, found = self._filters, page_reasons.copy()
        if filters.robots is not None:
            rows = np.flatnonzero(found == 0)
            kept = urls.take(pa.array(rows)).to_pylist()
            found[rows[[not filters.robots.allows(url) for url in kept]]] = _CODES["robots_image"]
        if not any(
            (
                filters.blocked.domains,
                filters.blocked.urls,
                filters.opted_out.domains,
                filters.opted_out.urls,
            )
        ):
            return found
        hosts = self._strings(_Strings.HOST, images).dictionary_encode()
        unique = [host.lower() for host in hosts.dictionary.to_pylist()]
        indices = hosts.indices.to_numpy()
        # The reason that is tested first is set last.
        for reason, listed in (("opted_out", filters.opted_out), ("blocked_domain", filters.blocked)):
            here = _on_list(listed, unique, indices, urls) | (page_reasons == _CODES[reason])
            found[here] = _CODES[reason]
        return found

    def _language_reasons(self, languages: pa.Array, scores: pa.Array) -> Numbers:
        """Return the reasons of pairs in a language that is not wanted."""
        settings, found = self._filters.settings, np.zeros(len(languages), np.int64)
        unwanted = scores.to_numpy() < np.float64(settings.min_lang_score)
        if settings.languages:
            wanted = pc.is_in(languages, value_set=pa.array(sorted(settings.languages), pa.string()))
            unwanted |= ~wanted.to_numpy(zero_copy_only=False)
        found[unwanted] = _CODES["language"]
        return found

    def _numbers(self, column: _Numbers, first: int, end: int) -> Numbers:
        numbers = np.empty(max(0, end - first), np.int64)
        self._library.mc_images_numbers(
            self._images, column, first, end, address(numbers, np.int64, written=True)
        )
        return numbers

    def _strings(self, column: _Strings, rows: Numbers) -> pa.Array:
        """Return rows of a column of strings as a large_string array."""
        rows = np.ascontiguousarray(rows, np.int64)
        given = self._images, column, address(rows, np.int64), len(rows)
        offsets = np.empty(len(rows) + 1, np.int64)
        self._library.mc_images_offsets(*given, address(offsets, np.int64, written=True))
        data = np.empty(int(offsets[-1]), np.uint8)
        self._library.mc_images_bytes(*given, address(data, np.uint8, written=True))
        return pa.Array.from_buffers(
            pa.large_string(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        )


def _on_list(
    listed: UrlList, hosts: list[str], indices: npt.NDArray[Any], urls: pa.Array
) -> npt.NDArray[np.bool_]:
    """Return whether pairs are listed, by the host of each or by its url."""
    found: npt.NDArray[np.bool_] = np.array([listed.has_host(host) for host in hosts], np.bool_)[indices]
    if listed.urls:
        values = pa.array(sorted(listed.urls), pa.large_string())
        found |= pc.is_in(urls, value_set=values).to_numpy(zero_copy_only=False)
    return found


def extract_pairs(pages: Iterable[Page | None], batch: ImageBatch) -> Iterator[pa.RecordBatch]:
    """Yield the pairs of pages; None stands for one that is in the batch already."""
    for page in pages:
        if page is not None:
            batch.add(page)
        if batch.full:
            yield from batch.pairs()
    yield from batch.pairs()


def _check(failed: int) -> None:
    if failed:
        raise MemoryError
