"""Reads the records of a WARC or WAT file, compressed record by record or not at all, whatever is damaged between them.

Law: damage costs the records that it touches and no other. A record must end where its length says; after a record that
does not, reading continues at the next header, as it continues at the next member after a damaged one (`gzip_members`).
Every loss is counted, with its position.

fastwarc reads undamaged files just as fast, and is the oracle of the tests; at a damaged member it gives up the rest of the
file. Cost: 33 ms for 31 MB in 1,034 members (6 MB compressed), 24 of them in libdeflate. Memory: one block and one
record of at most 64 MiB. The records of a file that is a single gzip member (crawlers do not write those) are yielded before
its checksum is known.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Final

from metaclip.errors import BrokenInput
from metaclip.extract.gzip_members import (
    CUT_OFF,
    GZIP_MAGIC,
    MAX_MEMBER,
    LossCallback,
    StreamBuffer,
    read_members,
)

MAX_RECORD: Final = MAX_MEMBER
"""Bytes beyond which a record is lost: no page is that long, and memory must be bounded."""
_MAX_HEADER: Final = 1 << 16
_LOOK_AHEAD: Final = (
    1 << 20
)  # bytes that are searched for a known format if the beginning of the file is damaged
_START: Final = b"WARC/"
_NEXT_HEADER: Final = b"\nWARC/1."
_HEADERS: Final = re.compile(
    rb"\n(WARC-(?:Type|Target-URI|Identified-Payload-Type)|Content-(?:Type|Length)):([^\r\n]*)", re.I
)
_LENGTH: Final = re.compile(rb"\d{1,18}")

LOSSES: Final[dict[str, str]] = {
    "broken_gzip": "gzip member that is damaged",
    "bad_header": "what stands where a record should begin is no WARC header",
    "wrong_length": "record that does not end where its length says",
    "too_long": f"record of more than {MAX_RECORD >> 20} MiB",
    CUT_OFF: "record that the end of the file cuts off",
}
"""Why a record, or what stood in its place, could not be read."""


@dataclasses.dataclass(slots=True)
class WarcRecord:
    """A record: some of its headers, and its block."""

    offset: int
    """Position in the file of the record, or of the gzip member that holds it."""
    headers: dict[bytes, bytes]
    """The headers that `_HEADERS` names, names in lower case."""
    data: bytes
    """The bytes that the record was read from; its block is data[begin:end]."""
    begin: int
    end: int

    @property
    def block(self) -> memoryview:
        """The block, without a copy."""
        return memoryview(self.data)[self.begin : self.end]

    def header(self, name: bytes) -> str:
        """Return the value of a header; "" if the record does not have it."""
        return self.headers.get(name, b"").decode("utf-8", "replace")


def read_records(blocks: Iterable[bytes], report_loss: LossCallback, path: str) -> Iterator[WarcRecord]:
    """Yield the records of a file in order. Raise BrokenInput, which names `path`, if it is compressed by zstd."""
    buffer = StreamBuffer(blocks)
    buffer.fill(4)
    if buffer.data[:4] == b"\x28\xb5\x2f\xfd":
        raise BrokenInput(f"{path} is compressed by zstd, and only gzip is read; decompress it first")
    compressed = buffer.data[:3] == GZIP_MAGIC
    if not compressed and not buffer.data.startswith(
        _START[:4]
    ):  # the beginning is damaged: look behind it
        buffer.fill(_LOOK_AHEAD)
        member, record = buffer.data.find(GZIP_MAGIC), buffer.data.find(_START)
        compressed = member >= 0 and not 0 <= record < member
    splitter = _RecordSplitter(report_loss, positions_move=not compressed)
    if compressed:
        last = -1
        for offset, content, complete in read_members(buffer, _START, report_loss):
            if complete and offset != last and (only := _only_record(offset, content)):
                yield only
                continue
            if offset != last:
                splitter, last = _RecordSplitter(report_loss, positions_move=False), offset
            yield from splitter.split(offset, content, final=complete)
        return
    while buffer.data or buffer.read_block():
        offset, content = buffer.offset, bytes(buffer.data)
        buffer.drop(len(content))
        yield from splitter.split(offset, content)
    yield from splitter.split(buffer.offset, b"", final=True)


def _only_record(offset: int, content: bytes) -> WarcRecord | None:
    """Return the record that a member consists of, as nearly all do; None if it is anything else."""
    stop = content.find(b"\r\n\r\n", 0, _MAX_HEADER)
    if stop < 0 or not content.startswith(_START):
        return None
    headers = _read_headers(content, 0, stop)
    length = headers.get(b"content-length", b"")
    end = len(content) - 4
    if (
        not _LENGTH.fullmatch(length)
        or stop + 4 + int(length) != end
        or not content.endswith(b"\r\n\r\n")
    ):
        return None
    return WarcRecord(offset, headers, content, stop + 4, end) if end - stop - 4 <= MAX_RECORD else None


def _read_headers(data: bytes, begin: int, stop: int) -> dict[bytes, bytes]:
    """Return the headers that are needed; the first of several of one name counts."""
    found = _HEADERS.findall(data, begin, stop)
    found.reverse()
    return {name.lower(): value.strip(b" \t") for name, value in found}


class _RecordSplitter:
    """Splits bytes that arrive in pieces into records."""

    def __init__(self, report_loss: LossCallback, positions_move: bool) -> None:
        self._report_loss = report_loss
        self._positions_move = positions_move
        """False for the content of a member, whose records all have the position of the member."""
        self._data, self._at = b"", 0
        self._offset = 0
        self._searching = False
        """Whether a record was lost, and the next header is not found yet."""

    def split(self, offset: int, piece: bytes, final: bool = False) -> Iterator[WarcRecord]:
        """Yield the records that are complete with one more piece, which is at `offset` in the file."""
        rest = self._data[self._at :]
        self._data, self._at = rest + piece, 0
        self._offset = offset - len(rest) * self._positions_move
        while not self._searching or self._find_header():
            record = self._next(final)
            if record is not None:
                yield record
            elif not self._searching:
                return

    def _find_header(self) -> bool:
        """Go to the next header; return whether there is one in the data."""
        found = self._data.find(_NEXT_HEADER, self._at)
        self._searching = found < 0
        # A header may begin in the last bytes and continue in the next piece.
        self._at = max(self._at, len(self._data) - len(_NEXT_HEADER) + 1) if found < 0 else found + 1
        return found >= 0

    def _next(self, final: bool) -> WarcRecord | None:
        """Return the next record; None if it is lost (then `_searching` is set), needs more data or does not exist."""
        data = self._data
        while data.startswith(b"\r\n", self._at):
            self._at += 2
        begin = self._at
        is_record = data.startswith(_START, begin)
        if not is_record and (
            not data[begin:].strip(b"\r\n\0") if final else len(data) - begin < len(_START)
        ):
            return None
        stop = data.find(b"\r\n\r\n", begin, begin + _MAX_HEADER) if is_record else -1
        if is_record and stop < 0 and not final and len(data) - begin < _MAX_HEADER:
            return None
        headers = _read_headers(data, begin, max(begin, stop))
        # The end of a whole member is not that of the file.
        cut_off = CUT_OFF if self._positions_move else "wrong_length"
        length = headers.get(b"content-length", b"")
        first = stop + 4
        last = first + int(length) if _LENGTH.fullmatch(length) else -1
        search_from = stop
        if last < 0:
            unended = (is_record and stop < 0) or _START.startswith(data[begin:])
            loss = cut_off if unended and final else "bad_header"
            search_from = begin
        elif last - first > MAX_RECORD:
            loss = "too_long"
        elif last + 4 > len(data) and not final:
            return None
        elif last > len(data):
            loss = "wrong_length" if data.find(_NEXT_HEADER, stop) >= 0 else cut_off
        elif data[last : last + 4] != b"\r\n\r\n" and not (final and not data[last:].strip(b"\r\n")):
            loss = "wrong_length"
        elif last + 4 + len(_START) > len(data) and not final:
            return None
        # A record that lost bytes can end where the next one's header does. No page that quotes a header is lost by this.
        elif (
            len(data) > last + 4
            and not data.startswith(_START, last + 4)
            and data.find(b"\r\n\r" + _NEXT_HEADER, first, last) >= 0
        ):
            loss = "wrong_length"
        else:
            self._at = min(last + 4, len(data))
            return WarcRecord(self._offset + begin * self._positions_move, headers, data, first, last)
        self._report_loss(loss, f"byte {self._offset + begin * self._positions_move}")
        self._searching, self._at = True, search_from
        return None
