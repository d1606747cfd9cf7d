"""The blocks of a bzip2 file, from any byte on: what lets many processes read one file at once.

A bzip2 file is one stream or many; a stream is a head, blocks of at most 900 kB, and an end. A block begins with the 48
bits of pi at any bit, not byte, and carries the CRC-32 of its text, so that a block put between a head and an end is a
stream of its own, which the library checks. Hence a range of bytes is enough to begin at: its blocks are those whose
first bit lies in it.

Law: the blocks of ranges that cover a file are the file's text, once and in order, however it was cut; single stream,
multistream and parallel bzip2 alike. 48 bits may stand inside a block by chance (one block in 2^27 of those of 200 kB):
a block that does not decompress is tried again up to the next mark.

Cost on one core: looking for marks takes 75 MB/s of file, decompression 3 MB/s of file.
"""

from __future__ import annotations

import bz2
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from metaclip.errors import MetaclipError

_BLOCK: Final = 0x314159265359
_END: Final = 0x177245385090
_MARK: Final = 48
"""Bits of a mark."""
_CRC: Final = 32
"""Bits that follow it."""
_HEAD: Final = 32
"""Bits before a stream's first mark: "BZh9"."""
_LONGEST: Final = 2 << 20
"""No block of bzip2 has more bytes: 900,000 symbols of at most 17 bits, and tables."""
_PIECE: Final = 1 << 20


class _Mark(NamedTuple):
    bit: int
    is_end: bool


class Block(NamedTuple):
    """A block: the bit of the file at which it begins, and its text."""

    bit: int
    text: bytes


def check_form(path: Path) -> None:
    """Raise MetaclipError unless a file begins as a bzip2 file and ends where a stream ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        if head[:3] != b"BZh" or not head[3:].isdigit():
            raise MetaclipError(f"{path} is no bzip2 file (it begins with {head!r}); give a dump as it is published")
        file.seek(max(0, size - 16))
        tail = file.read()
    # After the mark of the end come 32 bits of CRC and at most 7 to fill the byte.
    ends = [mark.bit for mark in _marks(tail) if mark.is_end and 0 <= 8 * len(tail) - (mark.bit + _MARK + _CRC) < 8]
    if not ends:
        raise truncated(path, size)


def truncated(path: Path, at: int) -> MetaclipError:
    """Give the error of a file that ends early."""
    return MetaclipError(f"{path} is cut off: it ends at byte {at:,} inside a stream; fetch the rest of it")


def blocks(path: Path, start: int = 0) -> Iterator[Block]:
    """Give the blocks that begin at byte `start` or later, to the end of the file, as far as the caller asks.

    Raise MetaclipError at a block that is cut off or damaged.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(start)
        data, base = b"", start  # the bytes that are held, and where in the file they stand
        marks: list[_Mark] = []
        searched = 0
        expected = _HEAD if start == 0 else None  # the bit at which the next mark must stand, where that is known
        while True:
            piece = file.read(_PIECE)
            data += piece
            # A mark that begins in the last 7 bytes may not be whole yet: it is found with the next piece.
            marks += [_Mark(mark.bit + 8 * searched, mark.is_end) for mark in _marks(data[searched:])]
            searched = max(0, len(data) - 7) if piece else len(data)
            marks = sorted(set(marks))
            done = 0
            while done < len(marks):
                first = marks[done]
                at = 8 * base + first.bit
                if expected is not None and at < expected:
                    done += 1  # an end at the end of what was held, found once more
                    continue
                if expected is not None and at > expected:
                    raise _damaged(path, expected // 8)
                expected = None
                if first.is_end:
                    expected = at + _MARK + _CRC
                    expected += -expected % 8 + _HEAD
                    if expected - _HEAD > 8 * size:
                        raise truncated(path, size)
                    done += 1
                    continue
                text, taken = _block(data, marks[done:])
                if taken == 0:
                    if piece and 8 * len(data) - first.bit <= 8 * _LONGEST:
                        break  # its end may come with the next piece
                    if done + 1 == len(marks):
                        raise truncated(path, size)
                    raise _damaged(path, at // 8)
                yield Block(at, text)
                done += taken
            keep = marks[done].bit // 8 if done < len(marks) else searched
            data, base, searched = data[keep:], base + keep, searched - keep
            marks = [_Mark(mark.bit - 8 * keep, mark.is_end) for mark in marks[done:]]
            if not piece:
                if expected is not None and expected - _HEAD < 8 * size:
                    raise _damaged(path, expected // 8)
                return


def _damaged(path: Path, at: int) -> MetaclipError:
    return MetaclipError(f"{path} is damaged: the block at byte {at:,} fails its check; fetch it again")


def _block(data: bytes, marks: list[_Mark]) -> tuple[bytes, int]:
    """Decompress the block at the first mark; give its text and how many marks lie in it, 0 if none ends it."""
    first = marks[0].bit
    for taken, mark in enumerate(marks[1:], 1):
        if mark.bit - first > 8 * _LONGEST:
            break
        try:
            return bz2.decompress(_stream(data, first, mark.bit)), taken
        except (OSError, ValueError, EOFError):
            continue
    return b"", 0


def _stream(data: bytes, first: int, end: int) -> bytes:
    """Make the block in these bits a stream of its own."""
    bits = end - first
    block = int.from_bytes(data[first // 8 : (end + 7) // 8]) >> (-end % 8) & ((1 << bits) - 1)
    crc = block >> (bits - _MARK - _CRC) & 0xFFFFFFFF  # of the block; that of a stream of one block is the same
    filling = -bits % 8
    whole = (block << _MARK | _END) << _CRC | crc
    return b"BZh9" + (whole << filling).to_bytes((bits + _MARK + _CRC + filling) // 8)


def _needles() -> tuple[tuple[bytes, int, int], ...]:
    """Give for each mark and each bit of a byte it may begin at: the five whole bytes in it, the bit, the mark."""
    return tuple(
        ((mark << (16 - shift)).to_bytes(8)[1:6], shift, mark) for mark in (_BLOCK, _END) for shift in range(8)
    )


_NEEDLES: Final = _needles()


def _marks(data: bytes) -> list[_Mark]:
    """Find all marks in some bytes, in no order: a search for whole bytes, then a look at the bits around them."""
    found = []
    for needle, shift, mark in _NEEDLES:
        at = data.find(needle)
        while at >= 0:
            if at and at + 5 + (shift > 0) <= len(data):
                window = int.from_bytes(data[at - 1 : at + 7].ljust(8, b"\0"))
                if window >> (16 - shift) & ((1 << _MARK) - 1) == mark:
                    found.append(_Mark(8 * (at - 1) + shift, mark == _END))
            at = data.find(needle, at + 1)
    return found
