"""Results as lines of JSON, one per task, in a file that any number of evaluations add to.

Law: a line carries the identity of everything that determined it (model, data, prompts, precision), and a task counts as
done only if a line has its identity. A line is appended by one write, so it is there or not; what a full disk cut off is
removed again, and what a power cut left of a line does not count, so its task is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import parse_json

IDENTITY: Final = "identity"
_BEGIN: Final = b'{"task"'


class _Result(msgspec.Struct):
    """What is read of a result."""

    identity: str
    task: str
    metrics: dict[str, float]
    kind: str = ""
    data: dict[str, Any] = {}
    chance: float = 0
    classes: int = 0
    texts: int = 0
    templates: list[str] = []


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a file of results; none if there is no file.

    Raise MetaclipError for a file that holds other lines than results.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MetaclipError(
            f"{path} cannot be read ({one_line(error)}); name another file with `out=...`"
        ) from None
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if (result := parse_json(line, _Result)) is not None:
            found.append(result)
        elif not line.startswith(_BEGIN) and not _BEGIN.startswith(line):
            raise MetaclipError(
                f"{path}, line {number}: it is no result ({line[:40]!r}); name another file with `out=...`"
            )
    return found


def append_result(path: Path, result: Mapping[str, Any]) -> None:
    """Append a result, whole or not at all; `task` is its first key. Raise MetaclipError if it cannot be written."""
    line = json.dumps(result, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            if end and file.read(1) != b"\n":  # after a power cut
                line = b"\n" + line
            try:
                if file.write(line) != len(line):
                    raise OSError("no more can be written")
            except BaseException:
                file.truncate(end)
                raise
    except OSError as error:
        raise MetaclipError(
            f"{path} cannot be written ({one_line(error)}); make room, then the same command goes on from here"
        ) from None
