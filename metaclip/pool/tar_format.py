"""The part of the tar format that image-text shards need: finding the members of a file, and making headers.

ustar, GNU (long names, large numbers) and pax (path, size) are read, as `tarfile` reads them. A member that is not read
is skipped by a seek. A file that ends without the block of zeros that closes a tar is truncated. That is an error, even
between two members, where other readers take it for the end. What follows the block of zeros is read on, as by `tar
--ignore-zeros`: it is another tar, or damage.

Names are bytes, and never become paths.
Cost: 6 us per member in the page cache on a busy machine, where `tarfile` takes 50 us.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from zlib import adler32

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
"""The blocks of zeros that close a tar."""
NAME_BYTES: Final = 100
"""The longest name that a header made by `header` can hold."""

_ZEROS: Final = bytes(BLOCK)
_FILES: Final = b"0\x007"
_LINKS: Final = b"12"
_WITHOUT_DATA: Final = b"123456"  # links, devices, folders: they have no data, whatever size they claim
_LONGEST: Final = 1 << 20  # of a long name or of pax records
_DISCARD: Final = 1 << 20


class Member(NamedTuple):
    """A file or a link in a tar: its headers begin at `begin`, its `size` bytes at `data`."""

    name: bytes
    begin: int
    data: int
    size: int
    is_link: bool = False
    """Whether it is a hard or symbolic link, which has no bytes of its own."""

    @property
    def end(self) -> int:
        """The offset at which the next member begins."""
        return self.data + padded(self.size)


def padded(size: int) -> int:
    """Return the number of bytes that the data of a member takes: `size`, rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


class ForwardReader:
    """Reads a stream forwards; skips bytes by seeking, or by reading if the stream cannot seek (compressed)."""

    def __init__(self, stream: Any) -> None:
        """Wrap a stream whose position is its first byte."""
        self._read, self._seek = stream.read, stream.seek if stream.seekable() else None
        self._readinto: Any = (
            stream.readinto if isinstance(stream, io.RawIOBase | io.BufferedIOBase) else None
        )
        self._at = 0  # the stream's position

    def read(self, at: int, size: int) -> bytes:
        """Read `size` bytes from offset `at`, which is not before the last byte read. Raise ValueError if there are fewer."""
        if at != self._at:
            self._skip_to(at)
        data: bytes = self._read(size)
        while len(data) < size:
            if not (more := self._read(size - len(data))):
                raise ValueError(f"it ends after {at + len(data)} bytes, in the middle of a member")
            data += more
        self._at = at + size
        return data

    def fill(self, at: int, view: memoryview) -> None:
        """Read the bytes from offset `at` into `view`, without a copy if the stream allows it."""
        if self._readinto is None:
            view[:] = self.read(at, len(view))
            return
        if at != self._at:
            self._skip_to(at)
        self._at = at
        while len(view):
            if not (read := self._readinto(view)):
                raise ValueError(f"it ends after {self._at} bytes, in the middle of a member")
            view, self._at = view[read:], self._at + read

    def _skip_to(self, at: int) -> None:
        if self._seek is not None:
            self._seek(at)
            return
        size = at - self._at
        while size:
            if not (read := len(self._read(min(size, _DISCARD)))):
                raise ValueError("it ends in the middle of a member")
            size -= read


def read_members(
    read: Callable[[int, int], bytes], at: int = 0, end: int | None = None
) -> Iterator[Member]:
    """Yield the files and links of a tar in order, from the header at `at` to the end of the tar, or to `end`.

    ``read(at, size)`` returns bytes, as `ForwardReader.read` does. Before it asks for the next member, the caller may read
    bytes of the last one. Raise ValueError if the bytes are not a tar, or are truncated.
    """
    begin, long_name, long_size = at, None, None
    closed = False
    while at != end:
        try:
            head = read(at, BLOCK)
        except ValueError:
            if closed:
                return
            raise ValueError(
                f"it ends before byte {at}, without the zeros that close a tar: it was cut off"
            ) from None
        closed = head == _ZEROS
        if closed:
            at += BLOCK
            begin, long_name, long_size = at, None, None
            continue
        size, kind = _checked_size(head, at), head[156]
        data = at + BLOCK
        if kind in _FILES:
            size = size if long_size is None else long_size
            name = _name(head) if long_name is None else long_name
            at = data + padded(size)
            if not name.endswith(b"/"):
                yield Member(name, begin, data, size)
            begin, long_name, long_size = at, None, None
        elif kind == 0x4C:  # L: GNU's long name of the next member
            long_name = _extension(read, data, size).partition(b"\0")[0]
            at = data + padded(size)
        elif kind == 0x78:  # x: pax records of the next member
            long_name, long_size = _pax(_extension(read, data, size), long_name)
            at = data + padded(size)
        elif kind == 0x53:  # S
            raise ValueError(f"{_name(head)!r} is a sparse file; make the tar without --sparse")
        else:
            at = data if kind in _WITHOUT_DATA else data + padded(size)
            if kind in _LINKS:
                yield Member(
                    _name(head) if long_name is None else long_name, begin, data, 0, is_link=True
                )
            if kind not in b"gK":
                begin, long_name, long_size = at, None, None


def header(name: bytes, size: int) -> bytes:
    """Return the ustar header of a file: mode 0644, no owner, no time, so that equal contents have equal headers.

    `name` has at most NAME_BYTES bytes.
    """
    digits = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    body = _EMPTY_SUM + sum(name) + sum(digits)
    return b"%b%b0000644\0000000000\0000000000\0%b00000000000\0%06o\0 0%b" % (
        name, bytes(NAME_BYTES - len(name)), digits, body, _TAIL,
    )  # fmt: skip


_TAIL: Final = b"".join((bytes(100), b"ustar\x0000", bytes(64), b"0000000\0" * 2, bytes(167)))
_EMPTY_SUM: Final = sum(b"0000644\0000000000\0000000000\00000000000000\0" + b" " * 8 + b"0" + _TAIL)


def _checked_size(head: bytes, at: int) -> int:
    """Return the size that a header states. Raise ValueError if its checksum shows that it is not a header."""
    try:
        stated = int(head[148:156].partition(b"\0")[0], 8)
        # The low half of Adler-32 is one more than the sum of the bytes; the checksum counts its own field as eight spaces.
        found = adler32(head[156:], adler32(head[:148])) & 0xFFFF
        if found != (stated - 8 * 32 + 1) % 65521:
            raise ValueError
        if head[124] & 0x80:
            return int.from_bytes(head[124:136], "big") & ((1 << 88) - 1)
        return int(head[124:136].partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise ValueError(f"there is no tar header at byte {at}") from None


def _name(head: bytes) -> bytes:
    name = head[:100].partition(b"\0")[0]
    if head[345] and head[257:263] == b"ustar\0":
        return head[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _extension(read: Callable[[int, int], bytes], data: int, size: int) -> bytes:
    if size > _LONGEST:
        raise ValueError(
            f"a name or pax record at byte {data} has {size} bytes, at most {_LONGEST} are read"
        )
    return read(data, size)


def _pax(records: bytes, name: bytes | None) -> tuple[bytes | None, int | None]:
    """Parse the path and the size from pax records; `name` is the path if they hold none."""
    size = None
    while records:
        length, _, _ = records.partition(b" ")
        if not length.isdigit() or not len(length) < int(length) <= len(records):
            raise ValueError(f"a pax record begins with {records[:20]!r}, which is not a length")
        key, _, value = records[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            name = value
        elif key == b"size" and value.isdigit():
            size = int(value)
        elif key.startswith(b"GNU.sparse."):
            raise ValueError("it holds a sparse file; make the tar without --sparse")
        records = records[int(length) :]
    return name, size
