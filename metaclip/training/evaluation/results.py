"""Results as lines of JSON, one a task: a file that any number of evaluations add to and take up.

Law: a line carries the identity of all that determined it (model, data, prompts, precision), and only a line of the very
identity counts as done. A line goes in by one write to the end of the file, so it is there or not; what a full disk cut
off is taken back, and what a power cut left of one is no line of ours, and its task is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from metaclip.errors import MetaclipError, one_line

IDENTITY: Final = "identity"
_BEGIN: Final = b'{"task"'


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a file of results; none where there is no file.

    Raise MetaclipError for a file that holds other lines than results.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); name another file with --out") from None
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        made = _result(line)
        if made is not None:
            found.append(made)
        elif not line.startswith(_BEGIN) and not _BEGIN.startswith(line):
            raise MetaclipError(f"{path}, line {number}: it is no result ({line[:40]!r}); name another file with --out")
    return found


def append_result(path: Path, result: Mapping[str, Any]) -> None:
    """Add a result at the end, whole or not at all; `task` is its first key. Raise MetaclipError if it cannot be written."""
    line = json.dumps(result, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            begin = file.seek(0, os.SEEK_END)
            if begin and _last_byte(path) != b"\n":  # after a power cut
                line = b"\n" + line
            written = 0
            try:
                written = file.write(line) or 0
            finally:
                if written < len(line):
                    file.truncate(begin)
            if written < len(line):
                raise OSError("no more can be written")
    except OSError as error:
        raise MetaclipError(
            f"{path} cannot be written ({one_line(error)}); make room, then the same command goes on from here"
        ) from None


def _result(line: bytes) -> dict[str, Any] | None:
    try:
        made = json.loads(line)
    except ValueError:
        return None
    return made if isinstance(made, dict) and isinstance(made.get(IDENTITY), str) else None


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
