"""Reads the blocks of a bzip2 file from any byte on, so that many processes can read one file in parallel.

A bzip2 file consists of one or more streams; a stream is a head, blocks of at most 900 kB, and an end. A block begins with a
mark, the 48 bits of pi, at any bit and not only at a byte, and carries the CRC-32 of its text. So a block put between a head
and an end is a stream of its own, which the library checks. The blocks of a range of bytes are those whose first bit is in
the range.

Law: the blocks of ranges that cover a file are the file's text, once and in order, for any ranges; this holds for single
stream, multistream and parallel bzip2. The 48 bits may also occur inside a block by chance (one block in 2^27 of those of
200 kB): a block that does not decompress is tried again up to the next mark.

Cost on one core: the search for marks runs at 75 MB/s of file, decompression at 3 MB/s of file.
"""

from __future__ import annotations

import bz2
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from metaclip.errors import MetaclipError

_BLOCK_MARK: Final = 0x314159265359
_END_MARK: Final = 0x177245385090
_MARK_BITS: Final = 48
_CRC_BITS: Final = 32
"""Bits after a mark."""
_HEAD_BITS: Final = 32
"""Bits before a stream's first mark: "BZh9"."""
_LONGEST: Final = 2 << 20
"""Upper bound of the bytes of a block: 900,000 symbols of at most 17 bits, and tables."""
_PIECE: Final = 1 << 20
_NEEDLES: Final = tuple(
    ((mark << (16 - shift)).to_bytes(8)[1:6], shift, mark)
    for mark in (_BLOCK_MARK, _END_MARK)
    for shift in range(8)
)
"""For each mark and each bit of a byte at which it may begin: the five whole bytes inside it, the bit, the mark."""


class _Mark(NamedTuple):
    bit: int
    is_end: bool


class Block(NamedTuple):
    """A block: the bit of the file at which it begins, and its decompressed text."""

    bit: int
    text: bytes


def check_format(path: Path) -> None:
    """Raise MetaclipError unless a file begins as a bzip2 file and ends where a stream ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        if head[:3] != b"BZh" or not head[3:].isdigit():
            raise MetaclipError(
                f"{path} is no bzip2 file (it begins with {head!r}); use a dump as it is published"
            )
        file.seek(max(0, size - 16))
        tail = file.read()
    # The mark of the end is followed by 32 bits of CRC and at most 7 bits that fill the byte.
    ends = [
        mark.bit
        for mark in _marks(tail)
        if mark.is_end and 0 <= 8 * len(tail) - (mark.bit + _MARK_BITS + _CRC_BITS) < 8
    ]
    if not ends:
        raise _cut_off(path, size)


def _cut_off(path: Path, at: int) -> MetaclipError:
    return MetaclipError(
        f"{path} is cut off: it ends at byte {at:,} inside a stream; fetch the rest of it"
    )


def blocks(path: Path, start: int = 0) -> Iterator[Block]:
    """Yield the blocks that begin at byte `start` or later, up to the end of the file.

    Raise MetaclipError at a block that is cut off or damaged.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(start)
        data, base = b"", start  # the bytes that are held, and their position in the file
        marks: list[_Mark] = []
        searched = 0
        expected = _HEAD_BITS if start == 0 else None  # the bit at which the next mark must be, if known
        while True:
            piece = file.read(_PIECE)
            data += piece
            # A mark that begins in the last 7 bytes may be incomplete: it is found with the next piece.
            marks += [_Mark(mark.bit + 8 * searched, mark.is_end) for mark in _marks(data[searched:])]
            searched = max(0, len(data) - 7) if piece else len(data)
            marks = sorted(set(marks))
            done = 0
            while done < len(marks):
                first = marks[done]
                at = 8 * base + first.bit
                if expected is not None and at < expected:
                    done += 1  # an end mark at the end of the previous data, found again
                    continue
                if expected is not None and at > expected:
                    raise _damaged(path, expected // 8)
                expected = None
                if first.is_end:
                    expected = at + _MARK_BITS + _CRC_BITS
                    expected += -expected % 8 + _HEAD_BITS
                    if expected - _HEAD_BITS > 8 * size:
                        raise _cut_off(path, size)
                    done += 1
                    continue
                text, taken = _decompress_block(data, marks[done:])
                if taken == 0:
                    if piece and 8 * len(data) - first.bit <= 8 * _LONGEST:
                        break  # its end may be in the next piece
                    if done + 1 == len(marks):
                        raise _cut_off(path, size)
                    raise _damaged(path, at // 8)
                yield Block(at, text)
                done += taken
            keep = marks[done].bit // 8 if done < len(marks) else searched
            data, base, searched = data[keep:], base + keep, searched - keep
            marks = [_Mark(mark.bit - 8 * keep, mark.is_end) for mark in marks[done:]]
            if not piece:
                if expected is not None and expected - _HEAD_BITS < 8 * size:
                    raise _damaged(path, expected // 8)
                return


def _damaged(path: Path, at: int) -> MetaclipError:
    return MetaclipError(f"{path} is damaged: the block at byte {at:,} fails its check; fetch it again")


def _decompress_block(data: bytes, marks: list[_Mark]) -> tuple[bytes, int]:
    """Decompress the block at the first mark; return its text and the number of marks in it, 0 if no mark ends it."""
    first = marks[0].bit
    for taken, mark in enumerate(marks[1:], 1):
        if mark.bit - first > 8 * _LONGEST:
            break
        try:
            return bz2.decompress(_as_stream(data, first, mark.bit)), taken
        except (OSError, ValueError, EOFError):
            continue
    return b"", 0


def _as_stream(data: bytes, first: int, end: int) -> bytes:
    """Return the block in the bits `first` to before `end` as a stream of its own."""
    bits = end - first
    block = int.from_bytes(data[first // 8 : (end + 7) // 8]) >> (-end % 8) & ((1 << bits) - 1)
    crc = (
        block >> (bits - _MARK_BITS - _CRC_BITS) & 0xFFFFFFFF
    )  # that of a stream of one block is the same
    filling = -bits % 8
    stream = (block << _MARK_BITS | _END_MARK) << _CRC_BITS | crc
    return b"BZh9" + (stream << filling).to_bytes((bits + _MARK_BITS + _CRC_BITS + filling) // 8)


def _marks(data: bytes) -> list[_Mark]:
    """Find all marks in some bytes, unordered: search for the whole bytes inside marks, then compare the bits around them."""
    found = []
    for needle, shift, mark in _NEEDLES:
        at = data.find(needle)
        while at >= 0:
            if at and at + 5 + (shift > 0) <= len(data):
                window = int.from_bytes(data[at - 1 : at + 7].ljust(8, b"\0"))
                if window >> (16 - shift) & ((1 << _MARK_BITS) - 1) == mark:
                    found.append(_Mark(8 * (at - 1) + shift, mark == _END_MARK))
            at = data.find(needle, at + 1)
    return found
