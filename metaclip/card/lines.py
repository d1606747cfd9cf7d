"""Files that a publisher gives: UTF-8 text, one thing a line, blank lines left out."""

from __future__ import annotations

from metaclip.errors import MetaclipError
from metaclip.storage.files import read_bytes


def read_lines(path: str, what: str) -> list[str]:
    """Read the lines of a file, without blanks around them; `what` they are ("urls") is for messages.

    Raise MetaclipError for a file that cannot be read, is not UTF-8, or is empty.
    """
    data = read_bytes(path, f"the {what}")
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise MetaclipError(f"{path} is not valid UTF-8 (byte {error.start}); give one of the {what} a line") from None
    if not (found := [line for line in lines if line]):
        raise MetaclipError(f"{path} names no {what}; give one a line")
    return found
