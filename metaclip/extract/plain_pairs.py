"""From pages to pairs, one image after the other, in plain Python.

This is the law: `image_columns`, which runs in the compiled library, gives the same pairs and the same funnel (the tests
compare both). It does the work where there is no library.

Cost: 20 us per image with a text; `image_columns` takes 2 us.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa

from metaclip.extract.filters import Filters
from metaclip.extract.html_pages import Page, clean_text, image_texts
from metaclip.extract.languages import identify_language
from metaclip.extract.opt_outs import license_of
from metaclip.extract.pool_writer import PAIRS
from metaclip.extract.urls import clean_url
from metaclip.pool.uid import uid_of

_BATCH_ROWS: Final = 1 << 14

Row = tuple[str, str, str, str, str | None, float | None, str | None]
"""uid, url, text, page_url, lang, lang_score, license."""


def extract_pairs(
    pages: Iterable[Page], filters: Filters, funnel: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the pairs of pages that pass the filters, with the columns `PAIRS`; count the others."""
    rows = _rows(pages, filters, funnel)
    while block := list(itertools.islice(rows, _BATCH_ROWS)):
        columns: list[list[Any]] = [list(column) for column in zip(*block, strict=True)]
        columns[3] = [replace_surrogates(url) for url in columns[3]]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, PAIRS, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=PAIRS)


def replace_surrogates(url: str) -> str:
    """Replace what is no Unicode in the url of a page, which does not identify a pair: it costs only these characters."""
    return url if url.isascii() else url.encode("utf-8", "replace").decode()


def _rows(pages: Iterable[Page], filters: Filters, funnel: Counter[str]) -> Iterator[Row]:
    identify = filters.settings.identify
    lang, score = None, None
    for page in pages:
        page_reason = filters.page_reason(page.url, page.signals)
        license_url = license_of(page.signals, page.base)
        funnel["images_seen"] += len(page.images)
        for link, alt, others, is_pixel in page.images:
            raw_texts = image_texts(alt, others)
            n = len(raw_texts)
            funnel["candidates"] += n or 1
            if n == 0:
                funnel["no_text"] += 1
                continue
            funnel["more_texts"] += n - 1
            # The first text is the alt, unless that is empty.
            funnel["alt_nonempty"] += raw_texts[0] == alt
            resolved = page.base.resolve(link)
            if reason := filters.url_reason(link, resolved, is_pixel):
                funnel[reason] += n
                continue
            assert resolved is not None
            url = clean_url(resolved)
            for raw in raw_texts:
                text = clean_text(raw)
                reason = filters.text_reason(raw, text) or filters.pair_reason(url, text, page_reason)
                if identify and not reason:
                    lang, score = identify_language(text)
                    reason = filters.language_reason(lang, score)
                if reason:
                    funnel[reason] += 1
                else:
                    # The uid is that of the text and the link before either is cleaned.
                    yield uid_of(raw, resolved), url, text, page.url, lang, score, license_url
