"""Golden files compared: what is left of a file when times, versions and this machine are taken out of it.

`digests` names each file of a tree with the sha256 of its normal form:

    .json       without the keys in DROPPED; sizes of parquet files in `files` are null; a card's own `files` are names,
                because `metaclip card verify` holds their digests
    .parquet    columns with their types and codecs, metadata, row groups and rows; not the bytes of the container
    .md         without the line, or the words, that say by which versions it was made
    .js         of explorer/data: what is packed in it; the page itself (.js, .html, .css) is left out
    .svg        its labels and texts, not its curves: text is as wide as this machine's fonts are; `without_plots` leaves
                plots out where another renderer is installed
    others      its bytes

Absolute paths of the folder in which the commands ran stand as PLACE.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

PLACE: Final = "@GOLDEN@"
"""What stands in the committed files where the folder's absolute path stood."""
DROPPED: Final = ("versions", "parser", "crc32")
"""Keys of JSON objects that name versions, and the checksums of files, which earlier revisions did not write (the tests
compare them with the files). Times do not differ: SOURCE_DATE_EPOCH and the stamps of inputs are set."""
LOCKS: Final = ("lock", "workers")
"""Names of the files in .state/ that tell who writes; a lock of a part begins with "lock-"."""
TEXTS: Final = (".json", ".toml", ".md", ".tmp", ".txt")
_MADE: Final = re.compile(r"^- made .*\n|, made with metaclip [^ \n]+\.$", re.MULTILINE)
_LABEL: Final = re.compile(r'aria-label="[^"]*"|(?<=>)[^<>]+(?=</text>)')
_DATA: Final = re.compile(r'metaclip\(\d+, "([A-Za-z0-9+/=]*)"\);\n')


def digests(folder: Path, place: Path) -> dict[str, str]:
    """Return the sha256 of the normal form of each file below a folder, by name; `place` is where the commands ran."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        name.as_posix(): digest(folder / name, place)
        for name in names
        if not _is_lock(name) and not is_page(name)
    }


def digest(path: Path, place: Path) -> str:
    """Return the sha256 of a file's normal form."""
    return hashlib.sha256(normal(path, place)).hexdigest()


def without_plots(found: Mapping[str, str]) -> dict[str, str]:
    """Leave out plots, whose labels are those of one version of the renderer."""
    return {name: digest for name, digest in found.items() if not name.endswith(".svg")}


def is_page(name: Path) -> bool:
    """Return whether a file is one of the explorer page itself, not of its data."""
    return name.suffix in (".html", ".css") or (name.suffix == ".js" and name.parent.name != "data")


def normal(path: Path, place: Path) -> bytes:
    """Return the normal form of a file."""
    if path.suffix == ".parquet":
        return _canonical(_parquet(path))
    if path.suffix == ".js":
        return _packed(path)
    if path.suffix == ".svg":
        return _canonical(_LABEL.findall(path.read_text(encoding="utf-8")))
    data = path.read_bytes().replace(str(place).encode(), PLACE.encode())
    if path.suffix == ".json":
        return _canonical(plain(json.loads(data)))
    return _MADE.sub("", data.decode()).encode() if path.suffix == ".md" else data


def plain(value: Any) -> Any:
    """Return a JSON value without what differs between versions of libraries."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: plain(item) for key, item in value.items() if key not in DROPPED}
    files = made.get("files")
    if isinstance(files, dict):
        made["files"] = {
            name: None if name.endswith(".parquet") else size for name, size in files.items()
        }
    elif isinstance(files, list):
        made["files"] = [item["name"] for item in files]
    if "contentUrl" in made:
        made.pop("sha256", None)  # of a parquet file, in croissant.json
    return made


def text(said: str, place: Path) -> list[str]:
    """Return the lines of what a command said."""
    return said.replace(str(place), PLACE).splitlines()


def _is_lock(name: Path) -> bool:
    return name.parent.name == ".state" and (name.name in LOCKS or name.name.startswith("lock-"))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode()


def _packed(path: Path) -> bytes:
    """Unpack a data file of the explorer page: one call with gzip in base64."""
    call = _DATA.fullmatch(path.read_text(encoding="ascii"))
    assert call is not None, path
    data = gzip.decompress(base64.b64decode(call[1]))
    try:
        return _canonical(plain(json.loads(data)))
    except ValueError:
        return data


def _parquet(path: Path) -> dict[str, Any]:
    """Return what a parquet file holds, whichever version wrote the container."""
    with pq.ParquetFile(path) as file:
        schema, table, made = file.schema_arrow, file.read(), file.metadata
        groups = [made.row_group(i) for i in range(made.num_row_groups)]
        codecs = sorted(
            {
                (g.column(i).path_in_schema, g.column(i).compression)
                for g in groups
                for i in range(g.num_columns)
            }
        )
    return {
        "columns": [[field.name, str(field.type), field.nullable] for field in schema],
        "metadata": {key.decode(): _metadata(value) for key, value in (schema.metadata or {}).items()},
        "codecs": codecs,
        "row_groups": [group.num_rows for group in groups],
        "rows": _values(table),
    }


def _metadata(value: bytes) -> Any:
    try:
        return plain(json.loads(value))
    except ValueError:
        return value.decode()


def _values(table: pa.Table) -> list[Any]:
    """Return the rows as JSON has them; numbers are exact, since a float's repr reads back as it is."""
    return json.loads(json.dumps(table.to_pylist(), default=lambda value: value.hex()))  # type: ignore[no-any-return]
