"""Streams of a bzip2 file: ranges that cover a file give its text once and in order, however it was made and cut."""

from __future__ import annotations

import bz2
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.metadata.sources import bzip2


def of_range(path: Path, start: int, stop: int) -> list[bzip2.Piece]:
    """The pieces of the streams that begin in a range of bytes."""
    found = []
    for piece in bzip2.pieces(path, start, stop):
        if piece.start >= stop:
            break
        found.append(piece)
    return found


def read(path: Path) -> tuple[bytes, str]:
    """The text of a file, or what is wrong with it."""
    try:
        return b"".join(piece.text for piece in bzip2.pieces(path)), ""
    except MetaclipError as error:
        return b"", str(error)


def noise(size: int, seed: int = 0) -> bytes:
    """Text that does not compress to nothing: blocks begin at every bit of a byte."""
    words = [random.Random(i).randbytes(5).hex().encode() for i in range(2000)]
    rng = random.Random(seed)
    return b" ".join(rng.choice(words) for _ in range(size // 11))


FORMS = {
    "one stream": bz2.compress(noise(700_000), 1),
    "many streams": b"".join(bz2.compress(noise(50_000, i), 9) for i in range(15)),
    "streams of many blocks": b"".join(bz2.compress(noise(250_000, i), 1) for i in range(3)),
    "an empty stream between": bz2.compress(noise(5000))
    + bz2.compress(b"")
    + bz2.compress(noise(5000, 1)),
    "nothing": bz2.compress(b""),
    "one byte": bz2.compress(b"x"),
    "long runs": bz2.compress(b"a" * 3_000_000 + noise(100_000), 1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1 << 30, 65_537, 20_011, 997])
def test_ranges_give_the_text_once_and_in_order(tmp_path: Path, form: str, size: int) -> None:
    """Single stream and multistream, cut into ranges of any size: together they are what the library reads."""
    path = tmp_path / "x.bz2"
    path.write_bytes(FORMS[form])
    ranges = range(0, len(FORMS[form]), size)
    if len(ranges) > 200:
        ranges = range(0, len(FORMS[form]), len(FORMS[form]) // 200)
        size = ranges.step
    found = [piece for start in ranges for piece in of_range(path, start, start + size)]
    assert b"".join(piece.text for piece in found) == bz2.decompress(FORMS[form])
    assert [piece.start for piece in found] == sorted(piece.start for piece in found)
    bzip2.check_format(path)


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=5), st.integers(1, 500), st.integers(1, 9))
def test_any_bytes_any_ranges(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], size: int, level: int
) -> None:
    """Any streams, any ranges."""
    data = b"".join(bz2.compress(text, level) for text in texts)
    path = tmp_path_factory.mktemp("any") / "x.bz2"
    path.write_bytes(data)
    found = [
        piece.text for start in range(0, len(data), size) for piece in of_range(path, start, start + size)
    ]
    assert b"".join(found) == b"".join(texts)


def test_marks_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark that is read in two pieces is found once, wherever the pieces end."""
    path = tmp_path / "x.bz2"
    path.write_bytes(b"".join(bz2.compress(noise(33 * (i + 1), i)) for i in range(12)))
    expected = bz2.decompress(path.read_bytes())
    for piece in (*range(1, 40), 64, 1000):
        monkeypatch.setattr(bzip2, "_PIECE", piece)
        assert b"".join(piece.text for piece in bzip2.pieces(path)) == expected


def test_a_head_inside_a_stream_is_none(tmp_path: Path) -> None:
    """Bytes that look like the head of a stream inside of one begin no range, and are no damage."""
    first, second = bz2.compress(noise(90_000), 1), bz2.compress(noise(5000, 1))
    path = tmp_path / "x.bz2"
    for at in range(10, 3000, 97):
        found = len(first) - at
        path.write_bytes(first + second)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                bzip2,
                "_HEAD",
                re.compile(re.escape((first + second)[found : found + 10]) + b"|BZh[1-9]1AY&SY"),
            )
            assert list(bzip2._heads(path, 1, len(first) + 1)) == [found, len(first)]
            texts = [piece.text for piece in of_range(path, found - 5, 1 << 30)]
            assert b"".join(texts) == noise(5000, 1)
            assert of_range(path, found - 5, found + 5) == []


def test_a_damaged_stream_is_passed_over_by_no_range(tmp_path: Path) -> None:
    """Whatever byte of a stream is changed, one of the ranges around it raises, or the text is whole."""
    streams = [bz2.compress(noise(300, i)) for i in range(4)]
    path, begin, whole = tmp_path / "x.bz2", len(streams[0] + streams[1]), b"".join(streams)
    for at in range(begin, begin + len(streams[2])):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        for cut in (begin - 1, begin, begin + 1):
            try:
                found = [*of_range(path, 0, cut), *of_range(path, cut, len(whole))]
            except MetaclipError:
                continue
            assert b"".join(piece.text for piece in found) == bz2.decompress(whole)


def test_cut_off_is_told_apart_from_damaged(tmp_path: Path) -> None:
    """A file cut at any place, or with a byte changed, is one clear line, and never another text."""
    whole = FORMS["streams of many blocks"]
    path = tmp_path / "x.bz2"
    rng = random.Random(3)
    for cut in [len(whole) - 1, len(whole) - 9, *rng.sample(range(20, len(whole) - 20), 20)]:
        path.write_bytes(whole[:cut])
        with pytest.raises(
            MetaclipError, match=r"x\.bz2 is cut off: it ends at byte [\d,]+ inside a stream; fetch"
        ):
            bzip2.check_format(path)
        if cut < len(whole) - 20:
            with pytest.raises(MetaclipError, match=r"cut off|damaged"):
                list(bzip2.pieces(path))
    for at in rng.sample(range(20, len(whole) - 20), 10):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        text, message = read(path)
        if message:
            assert "x.bz2 is damaged: the stream at byte" in message or "cut off" in message
        else:
            assert text == bz2.decompress(whole)  # the byte was none of a block's


def test_every_damaged_byte_of_a_small_file_is_seen(tmp_path: Path) -> None:
    """Marks, checks and text alike: one changed byte is an error, or leaves the text as it was."""
    texts = [noise(300, i) for i in range(3)]
    whole = b"".join(map(bz2.compress, texts))
    path = tmp_path / "x.bz2"
    same = 0
    for at in range(4, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        text, message = read(path)
        assert "\n" not in message
        if not message:
            assert text == b"".join(texts)
            same += 1
    assert same < 40  # the checks of whole streams, the size of blocks in their heads


def test_what_follows_the_last_stream_is_no_silence(tmp_path: Path) -> None:
    """A stream of which no mark is left is damage too."""
    path = tmp_path / "x.bz2"
    path.write_bytes(bz2.compress(noise(500)) + b"BZh9" + bytes(40))
    assert "is damaged" in read(path)[1]


def test_no_bzip2(tmp_path: Path) -> None:
    """Another file is refused by what it begins with."""
    for data in (b"", b"PK\x03\x04", b"<mediawiki>", b"BZhx"):
        (tmp_path / "x.bz2").write_bytes(data)
        with pytest.raises(MetaclipError, match="no bzip2 file"):
            bzip2.check_format(tmp_path / "x.bz2")
