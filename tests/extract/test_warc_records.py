"""Records: those that fastwarc reads, and of a damaged file all that the damage does not touch."""

from __future__ import annotations

import gzip
import io
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.errors import BrokenInput
from metaclip.extract import gzip_members, warc_records
from metaclip.extract.warc_records import LOSSES, WarcRecord, read_records
from tests.crawls import packed, photos, record, wat

pytest.importorskip("isal", reason="needs metaclip[crawl]")

REAL = ["wat/web-pages.warc.wat.gz", "wat/iana.warc.wat.gz", "warc/iana.warc.gz", "warc/whirlwind.warc.gz",
        "wat/cc-main-2019-22-sample.warc.wat"]  # fmt: skip


def read(data: bytes, block: int = 1 << 20) -> tuple[list[WarcRecord], list[tuple[str, str]]]:
    """Read records from bytes: (records, losses)."""
    lost: list[tuple[str, str]] = []
    blocks = (data[i : i + block] for i in range(0, len(data), block))
    found = list(
        read_records(blocks, lambda reason, position: lost.append((reason, position)), "x.warc.gz")
    )
    assert {reason for reason, _ in lost} <= set(LOSSES)
    return found, lost


def shown(found: list[WarcRecord]) -> list[tuple[int, bytes]]:
    return [(one.offset, one.block) for one in found]


@pytest.mark.parametrize("name", REAL)
def test_fastwarc_reads_the_same(name: str, data_folder: Path) -> None:
    """In undamaged files, positions and blocks equal those of fastwarc, whatever the size of the reads."""
    warc = pytest.importorskip("fastwarc.warc")
    data = (data_folder / name).read_bytes()
    expected = [
        (one.stream_pos, one.reader.read())
        for one in warc.ArchiveIterator(io.BytesIO(data), parse_http=False)
    ]
    for block in (len(data), 1 << 16, 977):
        found, lost = read(data, block)
        assert shown(found) == expected
        assert not lost


RECORDS = [photos(10 * i, 1 + 7 * i % 40) for i in range(30)]
FORMS = {
    "members": packed(RECORDS),
    "plain": b"".join(RECORDS),
    "one member": gzip.compress(b"".join(RECORDS)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [1, 7, 100, 1 << 20])
def test_any_form_in_any_blocks(form: str, block: int) -> None:
    """Records in a member each, in one member or uncompressed are the same records."""
    found, lost = read(FORMS[form], block)
    assert [one.block for one in found] == [one.split(b"\r\n\r\n", 1)[1][:-4] for one in RECORDS]
    assert not lost
    assert found[3].header(b"warc-type") == "metadata"
    assert found[3].header(b"warc-target-uri") == "https://example.org/page30"
    assert found[3].header(b"warc-identified-payload-type") == ""


def offsets(data: bytes) -> list[int]:
    return [one.offset for one in read(data)[0]] + [len(data)]


def test_a_flipped_byte_costs_one_member() -> None:
    """A flipped byte of any member costs only that member's record, or none (time stamps), and the loss is counted."""
    data = FORMS["members"]
    whole, places = dict(shown(read(data)[0])), offsets(data)
    rng = random.Random(1)
    losses = 0
    for at in [0, 1, 2, 3, *places[1:6], len(data) - 1, *rng.sample(range(len(data)), 300)]:
        at = min(at, len(data) - 1)
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        found, lost = read(bytes(damaged), 4096)
        missing = whole.keys() - {one.offset for one in found}
        assert len(missing) <= 1
        assert all(begin <= at < places[places.index(begin) + 1] for begin in missing)
        assert all(whole[one.offset] == one.block for one in found)
        assert len(lost) == len(missing)
        losses += len(missing)
    assert losses > 200


@pytest.mark.parametrize("form", ["members", "plain"])
def test_a_cut_costs_what_is_behind_it(form: str) -> None:
    """A file that is cut off has every record before the cut; the record that is cut is counted."""
    data = FORMS[form]
    whole, places = shown(read(data)[0]), offsets(data)
    rng = random.Random(2)
    for cut in [0, 1, 3, *rng.sample(range(len(data)), 40), *places[:-1]]:
        found, lost = read(data[:cut], 999)
        complete = [item for item, end in zip(whole, places[1:], strict=True) if end <= cut]
        # The blanks after the last record are no part of it.
        assert shown(found)[: len(complete)] == complete
        assert len(found) - len(complete) <= 1
        inside = cut not in places and len(found) == len(complete)
        assert len(lost) == inside


@given(
    st.lists(st.sampled_from([b"\x1f", b"\x8b", b"\x08", b"\0", b"\0" * 61]), max_size=12),
    st.integers(0, 20),
)
def test_where_a_member_begins(pieces: list[bytes], begin: int) -> None:
    """The library finds what bytearray.find finds, at the borders of its blocks, too."""
    buffer = gzip_members.StreamBuffer([])
    buffer.data += b"".join(pieces)
    assert buffer.find_member(begin) == buffer.data.find(gzip_members.GZIP_MAGIC, begin)


def test_garbage_between_members() -> None:
    """Bytes between members cost no member; zeros are padding and are not counted."""
    first, second = packed(RECORDS[:2]), packed(RECORDS[2:4])
    for junk, n in (
        (b"junk" * 1000, 1),
        (b"\0" * 700, 0),
        (b"\x1f\x8b\x08 no member", 1),
        (gzip.compress(b"no record"), 1),
    ):
        found, lost = read(first + junk + second, 512)
        assert len(found) == 4
        assert len(lost) == n


def shared_tail(members: int, tail: bytes, good: bytes = b"") -> bytes:
    """Return gzip members whose data run on into the members behind them, and all end with one tail; `good` stands between."""
    nested = b""
    for _ in range(members):
        nested = b"WARC/1.0\r\n" + good + nested
        size = len(nested)
        stored = b"\0" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
        nested = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + stored + nested
    return nested + gzip.compress(tail)[10:]


@pytest.mark.parametrize("good", [b"", packed(RECORDS[:1])], ids=["all damaged", "good between"])
def test_members_that_share_a_tail(good: bytes) -> None:
    """The work for damaged members is bounded by the bytes of the file, however often they begin within each other."""
    data = shared_tail(60_000 // (len(good) + 25), bytes(1 << 24), good)
    begin = time.process_time()
    found, lost = read(data)
    assert time.process_time() - begin < 10
    assert 0 < len(lost) < 2_000
    assert (len(found) > 0) is (good != b"")


def test_damaged_members_before_a_good_one() -> None:
    """A member that begins within the bytes of damaged ones is found."""
    assert len(read(shared_tail(10, b"x" * 1000, packed(RECORDS[:2])))[0]) >= 2


def test_wrong_lengths() -> None:
    """A record that is longer or shorter than its length says is lost alone, in members and outside."""
    for wrong in (b"1", b"9", b"999999", b"99999999999", b"-5", b"x", b""):
        size = RECORDS[1].index(b"Content-Length: ") + len(b"Content-Length: ")
        bad = RECORDS[1][:size] + wrong + RECORDS[1][RECORDS[1].index(b"\r\n\r\n") :]
        for data in (packed([RECORDS[0], bad, RECORDS[2]]), RECORDS[0] + bad + RECORDS[2]):
            found, lost = read(data, 300)
            assert [one.header(b"warc-target-uri") for one in found] == [
                "https://example.org/page0",
                "https://example.org/page20",
            ]
            assert len(lost) == 1
            assert lost[0][0] in ("wrong_length", "too_long", "bad_header", "truncated")


def test_a_page_about_this_format_is_a_page() -> None:
    """A WARC header inside a block is text: a length that is right is trusted."""
    block = b"a\r\n\r\nWARC/1.0\r\nContent-Length: 3\r\n\r\nabc\r\n\r\n" * 3
    data = record("response", block) + RECORDS[0]
    for form in (data, packed([data[: -len(RECORDS[0])], RECORDS[0]])):
        found, lost = read(form, 11)
        assert [one.block == block for one in found] == [True, False]
        assert not lost


def test_a_record_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record larger than the limit is lost alone, and memory stays bounded, compressed (a bomb) or not."""
    monkeypatch.setattr(warc_records, "MAX_RECORD", 100_000)
    monkeypatch.setattr(gzip_members, "MAX_MEMBER", 100_000)
    large = record("response", bytes(5_000_000))
    for data in (large + RECORDS[0], packed([large, RECORDS[0]]), gzip.compress(large + RECORDS[0])):
        found, lost = read(data, 10_000)
        assert [one.header(b"warc-type") for one in found] == ["metadata"]
        assert [reason for reason, _ in lost] == ["too_long"]


def test_what_is_no_crawl() -> None:
    """Other bytes have no record and do not hang; zstd is named."""
    for data in (
        b"",
        b"\n",
        b"hello" * 10_000,
        random.Random(3).randbytes(50_000),
        gzip.compress(b"x" * 1000),
        b"\x1f\x8b\x08",
    ):
        assert read(data, 100)[0] == []
    with pytest.raises(BrokenInput, match=r"x\.warc\.gz is compressed by zstd"):
        read(b"\x28\xb5\x2f\xfd" + bytes(100))


@given(st.data())
def test_damage_anywhere(data: st.DataObject) -> None:
    """Bytes inserted, removed or changed anywhere cause no error, and untouched records are read."""
    text = bytearray(FORMS[data.draw(st.sampled_from(["members", "plain"]))])
    whole = {one.block for one in read(bytes(text))[0]}
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 200)))
    places = offsets(bytes(text))
    touched = sum(1 for first, last in itertools.pairwise(places) if first <= end and begin <= last)
    text[begin:end] = data.draw(st.binary(max_size=50))
    found, _ = read(bytes(text), data.draw(st.sampled_from([64, 5000])))
    assert len(whole - {one.block for one in found}) <= touched


@pytest.mark.parametrize("chunk", [64, 5000, 1 << 20])
def test_a_record_that_ends_where_the_next_header_does(chunk: int) -> None:
    """A record that lost as many bytes as the next header has costs no other one, though its length seems right."""
    text = FORMS["plain"]
    begin, after, _ = offsets(text)[3:6]
    header = text.index(b"\r\n\r\n", after) - after + 4
    damaged = text[: begin + 200] + text[begin + 200 + header :]
    whole = [one.block for one in read(text)[0]]
    found, lost = read(damaged, chunk)
    assert [one.block for one in found] == whole[:3] + whole[4:]
    assert [reason for reason, _ in lost] == ["wrong_length"]


def test_a_page_that_quotes_a_header() -> None:
    """A record that quotes the beginning of another one is read unchanged."""
    text = FORMS["plain"]
    quoted = b"WARC/1.0\r\nWARC-Type: response\r\n\r\nWARC/1.0 is\r\n\r\nWARC/1.0 was"
    record = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\n%b\r\n\r\n" % (
        len(quoted),
        quoted,
    )
    for whole in (record, text + record, record + text, text + record + text):
        found, lost = read(whole, 64)
        assert quoted in [one.block for one in found]
        assert not lost


def test_streaming() -> None:
    """Records are yielded as soon as they are read: an endless file takes no more memory."""

    def endless() -> Iterator[bytes]:
        while True:
            yield FORMS["members"]

    found = read_records(endless(), lambda reason, position: None, "x.warc.gz")
    assert [next(found).block for _ in range(200)][-1] == wat_block_of(RECORDS[199 % 30])


def wat_block_of(text: bytes) -> bytes:
    return text.split(b"\r\n\r\n", 1)[1][:-4]


def test_wat_helper() -> None:
    """The records that tests make are as long as they say."""
    assert wat_block_of(wat("https://example.org", [])).endswith(b"}")
