"""Reads a bzip2 file stream by stream, from any byte on, so that many processes can read one multistream file in parallel.

A bzip2 file consists of one or more streams, each of which begins at a byte with "BZh", a digit and the mark of a block. A
range of bytes has the streams whose first byte is in the range; a file of one stream is read by the range that begins it.

Law: the pieces of ranges that cover a file are the file's text, once and in order, for any ranges. Bytes inside a stream that
look like the head of one do not decompress; only then is the file read from its beginning, which tells them from damage. The
reader of a stream checks the head of the next one, so no damaged stream is passed over.
"""

from __future__ import annotations

import bz2
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from metaclip.errors import MetaclipError

_HEAD: Final = re.compile(rb"BZh[1-9]1AY&SY")
"""The head of a stream and the mark of its first block; a stream without a block has no text, and need not be found."""
_HEAD_BYTES: Final = 10
_END_MARK: Final = 0x177245385090
_MARK_BITS: Final = 48
_CRC_BITS: Final = 32
_END_BYTES: Final = 11
"""The end of a stream: its mark, a CRC, and at most 7 bits that fill the byte."""
_PIECE: Final = 1 << 20
_READ: Final = 1 << 16  # bytes of a file; the rest of them is copied at the end of each stream


class Piece(NamedTuple):
    """A piece of text, and the byte of the file at which its stream begins."""

    start: int
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
        file.seek(max(0, size - _END_BYTES))
        end = int.from_bytes(file.read()) >> _CRC_BITS
    if not any(end >> fill & ((1 << _MARK_BITS) - 1) == _END_MARK for fill in range(8)):
        raise _cut_off(path, size)


def is_multistream(path: Path, stop: int) -> bool:
    """Return whether a second stream begins before byte `stop` of a file."""
    return next(_heads(path, 1, stop), None) is not None


def pieces(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Piece]:
    """Yield the text from the first stream that begins at byte `start` or later, up to the end of the file.

    Yield nothing if none begins before byte `stop`. Raise MetaclipError at a stream that is cut off or damaged.
    """
    heads = _heads(path, start, path.stat().st_size if stop is None else stop) if start else iter((0,))
    for head in heads:
        if start == 0 or _begins_stream(path, head):
            yield from _read(path, head)
            return


def _heads(path: Path, start: int, stop: int) -> Iterator[int]:
    """Yield the bytes of a range at which something begins that looks like a stream."""
    with path.open("rb") as file:
        for at in range(start, stop, _PIECE):
            file.seek(at)
            data = file.read(min(_PIECE, stop - at) + _HEAD_BYTES - 1)
            yield from (at + found.start() for found in _HEAD.finditer(data))


def _begins_stream(path: Path, head: int) -> bool:
    """Return whether a stream begins at what looks like one. Raise MetaclipError if one does, and is damaged."""
    try:
        next(_read(path, head))  # the first block has passed its check
    except MetaclipError:
        # Damage, or a head by chance inside a stream. If a stream begins here, reading from the beginning fails here too.
        for piece in _read(path, 0):
            if piece.start > head:
                break
        return False
    return True


def _read(path: Path, at: int) -> Iterator[Piece]:
    """Yield the text of the streams from byte `at` on, where one begins."""
    with path.open("rb") as file:
        file.seek(at)
        data = file.read(_READ)
        while data:
            stream = bz2.BZ2Decompressor()
            while not stream.eof:
                try:
                    text = stream.decompress(data, _PIECE)
                except OSError:
                    raise MetaclipError(
                        f"{path} is damaged: the stream at byte {at:,} fails its check; fetch it again"
                    ) from None
                if text:
                    yield Piece(at, text)
                data = file.read(_READ) if stream.needs_input else b""
                if stream.needs_input and not data and not stream.eof:
                    raise _cut_off(path, os.fstat(file.fileno()).st_size)
            data = stream.unused_data or file.read(_READ)
            at = file.tell() - len(data)


def _cut_off(path: Path, at: int) -> MetaclipError:
    return MetaclipError(
        f"{path} is cut off: it ends at byte {at:,} inside a stream; fetch the rest of it"
    )
