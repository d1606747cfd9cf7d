"""Files that are whole or not there: written under a temporary name in the same folder, renamed when finished.

A temporary name begins with a dot and ends with ``.tmp``; whoever owns the folder removes what an earlier, killed
process left.

Nothing is forced to the disk (fsync). A killed process loses nothing that it has written, so only a power cut can leave
a renamed file short, and to wait for the disk at every shard would cost all runs more than making a few shards again
costs the one. Who relies on a file after a restart compares its size with what was written (`metaclip.shard.folder`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import fsspec

from metaclip.errors import MetaclipError, one_line

_BLOCK: Final = 1 << 22


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; rename it to `path` when the block ends well, remove it otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_name(path: Path) -> Path:
    """Give a temporary name beside `path` that no other process has, on this machine or on another."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left under temporary names below `folder`."""
    for path in list(folder.rglob(".*.tmp")):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; none is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all: sorted keys, two spaces, UTF-8."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object of ours; None if there is none, or if what stands there is not one (it was never finished)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); check its permissions") from None
    return found if isinstance(found, dict) else None


def cache_folder() -> Path:
    """Give the folder of what can be made or fetched again: $METACLIP_CACHE, else metaclip/ in the user's cache folder."""
    if folder := os.environ.get("METACLIP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaclip"


def read_bytes(name: str, what: str) -> bytes:
    """Read a whole file, local or anything fsspec opens; MetaclipError says `what` was wanted."""
    try:
        with fsspec.open(name, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise MetaclipError(f"{what}: there is no file {name}; check the path") from None
    except (OSError, ValueError, ImportError) as error:
        raise MetaclipError(f"{what}: {name} cannot be read ({one_line(error)})") from None


def file_digest(file: Any) -> str:
    """Compute the sha256 of an open binary file, as 64 hex digits: what ``sha256sum`` prints."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
