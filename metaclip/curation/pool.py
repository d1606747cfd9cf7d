"""A pool: files of image-text pairs, in the forms the neighbours write, read as Arrow batches.

Parquet, csv, tsv and jsonl, each maybe compressed; a file, a folder or a glob, local or anything fsspec opens. Columns
are found by name without regard to case; all others are carried along. A row is known by its file and its number among
the file's well-formed rows.

The unit of work is a shard: a run of row groups of one parquet file, or one file of another form.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from metaclip.curation import jsonl
from metaclip.errors import MetaclipError, one_line

TEXT_NAMES: Final = ("text", "caption", "alt")
URL_NAMES: Final = ("url",)
UID_NAMES: Final = ("uid",)

BATCH_ROWS: Final = 1 << 16
SHARD_ROWS: Final = 1 << 20
SHARD_BYTES: Final = 1 << 28
_BLOCK: Final = 1 << 24
_BUFFER: Final = 1 << 22  # read by so much, not by whole column chunks: memory does not grow with the row groups

_FORMATS: Final = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
_CODECS: Final = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class PoolFile:
    """One file of a pool."""

    name: str
    """Path below the pool's root: what cards and messages show."""
    path: str
    """Absolute path, or url."""
    form: str
    codec: str | None
    size: int
    stamp: str
    """What changes when the file does: modification time in nanoseconds, or what the store gives."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """The names of the columns that mean something; None where there is none."""

    text: str
    url: str | None
    uid: str | None
    status: str | None = None
    """img2dataset's column of what became of a download."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A unit of work: `rows` rows of a file from row `first`; row groups `groups` where it is parquet."""

    file: PoolFile
    file_index: int
    number: int = 0
    """Which of the file's shards it is."""
    first: int = 0
    groups: tuple[int, int] | None = None
    rows: int | None = None
    """None: all there are."""

    @property
    def name(self) -> str:
        """The name of the shard's files in a run folder; names sort in the pool's order."""
        return f"{self.file_index:06d}-{self.number:04d}"

    @property
    def turn(self) -> int:
        """What decides to which part of a job array the shard belongs; it does not depend on other files."""
        return self.file_index + self.number

    @property
    def identity(self) -> dict[str, Any]:
        """What a marker holds of the shard: rows, file, size and stamp."""
        groups = None if self.groups is None else list(self.groups)
        return {
            "file": self.file.name, "size": self.file.size, "stamp": self.file.stamp,
            "first": self.first, "groups": groups, "rows": self.rows,
        }  # fmt: skip

    def __str__(self) -> str:
        """Name the file and the rows, for messages."""
        return self.file.path if not self.number else f"{self.file.path} (from row {self.first})"


class BrokenInput(MetaclipError):
    """An input that cannot be read: the others are still worth reading."""


def find_files(paths: Paths) -> list[PoolFile]:
    """Find the files of a pool: a file, a folder (all below it) or a glob, or several of these, in sorted order."""
    wanted = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files: dict[str, PoolFile] = {}
    for given in map(os.fspath, wanted):
        for file in _find(given):
            files.setdefault(file.path, file)
    forms = {file.form for file in files.values()}
    if len(forms) > 1:
        raise MetaclipError(f"the pool {_shown(wanted)} mixes {' and '.join(sorted(forms))} files; give one kind by a glob")
    return list(files.values())


def _shown(wanted: Iterable[Any]) -> str:
    return ", ".join(str(path) for path in wanted)


def _find(given: str) -> list[PoolFile]:
    try:
        fs, path = fsspec.core.url_to_fs(given)
        remote = "://" in given and not given.startswith("file://")
        if glob.has_magic(path) and not fs.exists(path):
            root = path[: path.index(next(c for c in path if c in "*?["))].rpartition("/")[0]
            found = {p: i for p, i in fs.glob(path, detail=True).items() if i["type"] == "file"}
        elif fs.isdir(path):
            if fs.exists(f"{path}/manifest.json") and fs.isdir(f"{path}/curated"):
                raise MetaclipError(f"{given} is a run folder; its curated pairs are the pool {given.rstrip('/')}/curated")
            root, found = path, fs.find(path, detail=True)
        elif fs.exists(path):
            root, found = path.rpartition("/")[0], {path: fs.info(path)}
        else:
            raise MetaclipError(f"there is no pool at {given}; check the path")
    except (OSError, ImportError, ValueError) as error:
        raise MetaclipError(f"the pool {given} cannot be listed ({one_line(error)})") from None
    files = []
    for name in sorted(found):
        relative = name[len(root) :].lstrip("/")
        if len(found) > 1 and any(part.startswith((".", "_")) for part in PurePosixPath(relative).parts):
            continue
        if (kind := _form(name)) is None:
            continue
        info = found[name]
        full = fs.unstrip_protocol(name) if remote else os.path.abspath(name)
        files.append(PoolFile(relative, full, *kind, int(info["size"]), _stamp(info, full if not remote else None)))
    if not files:
        kinds = ", ".join(_FORMATS)
        raise MetaclipError(f"there is no pool in {given}: no file that ends in {kinds} (maybe with {', '.join(_CODECS)})")
    return files


def _form(name: str) -> tuple[str, str | None] | None:
    stem, suffix = os.path.splitext(name.lower())
    codec = _CODECS.get(suffix)
    if codec:
        suffix = os.path.splitext(stem)[1]
    form = _FORMATS.get(suffix)
    return None if form is None or (codec and form == "parquet") else (form, codec)


def _stamp(info: dict[str, Any], local: str | None) -> str:
    if local is not None:
        return str(os.stat(local).st_mtime_ns)
    return str(info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or "")


def open_file(file: PoolFile) -> Any:
    """Open a file of a pool for reading bytes as they are stored."""
    fs, path = fsspec.core.url_to_fs(file.path)
    return fs.open(path, "rb")


def find_columns(
    names: Sequence[str], where: str, text: str | None = None, url: str | None = None, uid: str | None = None
) -> Columns:
    """Find the columns that mean something among `names`; those given by name must be there, in any case of letters.

    Raise MetaclipError for a text column that is missing or one of several, naming what was found and looked for.
    """

    def find(role: str, given: str | None, candidates: Sequence[str]) -> str | None:
        if given is not None:
            if given in names:
                return given
            found = [name for name in names if name.lower() == given.lower()]
        else:
            found = [name for name in names if name.lower() in candidates]
        if len(found) > 1:
            shown = ", ".join(map(repr, found))
            raise BrokenInput(f"{where}: {shown} can all be the {role} column; choose one with --{role}-column")
        if not found and (given is not None or role == "text"):
            wanted = repr(given) if given is not None else " or ".join(map(repr, candidates))
            raise BrokenInput(
                f"{where} has no {role} column: looked for {wanted}, found {', '.join(map(repr, names)) or 'none'}; "
                f"name it with --{role}-column"
            )
        return found[0] if found else None

    found_text = find("text", text, TEXT_NAMES)
    assert found_text is not None
    lower = {name.lower() for name in names}
    status = "status" if {"status", "error_message", "key"} <= lower and "status" in names else None
    return Columns(found_text, find("url", url, URL_NAMES), find("uid", uid, UID_NAMES), status)


def column_names(file: PoolFile) -> list[str]:
    """Read the names of a file's columns. Raise BrokenInput if it cannot be read."""
    with reading(file):
        if file.form == "parquet":
            with _parquet(file) as parquet:
                return list(parquet.schema_arrow.names)
        if file.form == "jsonl":
            return list(jsonl.schema(jsonl.blocks(_stream, file), first_only=True).names)
        with _stream(file) as stream:
            return list(_open_csv(file, stream).schema.names)


def cut(file: PoolFile, file_index: int = 0, limit: int | None = None) -> list[Shard]:
    """Cut a file into shards of at most the first `limit` rows of it. Raise BrokenInput if it cannot be read."""
    if file.form != "parquet":
        return [Shard(file, file_index, rows=limit)]
    with reading(file), _parquet(file) as parquet:
        metadata = parquet.metadata
    shards: list[Shard] = []
    first = begin = rows = size = 0

    def close(end: int) -> None:
        shards.append(Shard(file, file_index, len(shards), first, (begin, end), rows))

    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        if rows and (rows + row_group.num_rows > SHARD_ROWS or size + row_group.total_byte_size > SHARD_BYTES):
            close(group)
            first, begin, rows, size = first + rows, group, 0, 0
        rows, size = rows + row_group.num_rows, size + row_group.total_byte_size
        if limit is not None and first + rows >= limit:
            rows = limit - first
            close(group + 1)
            return shards
    if rows or not shards:
        close(metadata.num_row_groups)
    return shards


def count_rows(file: PoolFile, limit: int) -> int:
    """Count the well-formed rows of a file, up to `limit`."""
    if file.form == "parquet":
        with reading(file), _parquet(file) as parquet:
            return min(limit, int(parquet.metadata.num_rows))
    return sum(len(batch) for batch in read(Shard(file, 0, rows=limit), None, Losses()))


class Losses:
    """Rows that a reader could not read, by reason, with the place of the first of each."""

    def __init__(self) -> None:
        """Begin with none."""
        self.rows: dict[str, int] = {}
        self.places: dict[str, str] = {}

    def add(self, reason: str, place: str, rows: int = 1) -> None:
        """Count rows lost for a reason."""
        if rows:
            self.rows[reason] = self.rows.get(reason, 0) + rows
            self.places.setdefault(reason, place)


def read(shard: Shard, columns: Sequence[str] | None, losses: Losses) -> Iterator[pa.RecordBatch]:
    """Read a shard's rows in order: batches of `columns` (None: all), in memory that does not grow with the shard.

    Rows that are not well formed (csv, jsonl) go to `losses`. Raise BrokenInput where the file cannot be read.
    """
    left = shard.rows
    with reading(shard.file):
        for batch in _batches(shard, columns, losses):
            if left is None:
                yield batch
            elif left > 0:
                yield batch.slice(0, left)
                left -= min(left, len(batch))
            else:
                return


class reading:  # noqa: N801 - reads as a word: with reading(file)
    """Turn what goes wrong while a file is read into a BrokenInput that names it."""

    def __init__(self, file: PoolFile) -> None:
        """Name the file."""
        self.file = file

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Name the file in what went wrong."""
        if isinstance(error, FileNotFoundError):
            raise BrokenInput(f"{self.file.path} is gone; put it back, or run again with --overwrite") from error
        if isinstance(error, OSError | pa.ArrowException | EOFError | UnicodeDecodeError | ValueError):
            what = f"{self.file.path} cannot be read as {self.file.form} ({one_line(error, 160)})"
            raise BrokenInput(f"{what}; fetch or make the file again") from error


def _batches(shard: Shard, columns: Sequence[str] | None, losses: Losses) -> Iterator[pa.RecordBatch]:
    if shard.file.form == "parquet":
        assert shard.groups is not None
        with _parquet(shard.file) as parquet:
            yield from parquet.iter_batches(
                BATCH_ROWS, row_groups=range(*shard.groups), columns=columns and list(columns), use_threads=False
            )
    elif shard.file.form == "jsonl":
        if columns is None:
            schema = jsonl.schema(jsonl.blocks(_stream, shard.file))
        else:
            schema = pa.schema([(name, pa.string()) for name in columns])
        for line, block in jsonl.blocks(_stream, shard.file):
            yield from jsonl.table(block, line, schema, losses.add).to_batches(BATCH_ROWS)
    else:
        with _stream(shard.file) as stream:
            reader = _open_csv(shard.file, stream, losses)
            while True:
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
                yield batch if columns is None else batch.select(list(columns))


def _parquet(file: PoolFile) -> Any:
    local = "://" not in file.path
    return pq.ParquetFile(file.path if local else open_file(file), pre_buffer=not local, buffer_size=_BUFFER)


def _stream(file: PoolFile) -> Any:
    if "://" not in file.path:
        return pa.input_stream(file.path, compression=file.codec)
    raw = pa.PythonFile(open_file(file), mode="r")
    return pa.CompressedInputStream(raw, file.codec) if file.codec else raw


def _open_csv(file: PoolFile, stream: Any, losses: Losses | None = None) -> Any:
    """Open a csv or tsv file with every column as strings: bytes are carried as they stand, nothing is guessed."""
    delimiter = "\t" if file.form == "tsv" else ","
    head = _first_line(stream, file)
    names = _csv_names(head, delimiter)

    def bad_row(row: Any) -> str:
        if losses is not None:
            expected = f"{row.expected_columns} columns expected, {row.actual_columns} found"
            losses.add("malformed_row", f"row {row.number}: {expected}" if row.number else expected)
        return "skip"

    return pyarrow.csv.open_csv(
        _Prefixed(head, stream),
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=bad_row, ignore_empty_lines=True
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), check_utf8=False, strings_can_be_null=False
        ),
    )


class _Prefixed:
    """A stream with the bytes that were read ahead put back before it."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest, self.closed = head, rest, False

    def read(self, size: int = -1) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return bytes(self._rest.read(size if size >= 0 else None))

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True


def _first_line(stream: Any, file: PoolFile) -> bytes:
    head = b""
    while b"\n" not in head:
        block = stream.read(1 << 16)
        if not block:
            break
        head += bytes(block)
        if len(head) > _BLOCK:
            raise BrokenInput(f"{file.path}: the first line has over {_BLOCK} bytes; is it a {file.form} file?")
    if not head.strip():
        raise BrokenInput(f"{file.path} is empty; a {file.form} pool begins with a line of column names")
    return head


def _csv_names(head: bytes, delimiter: str) -> list[str]:
    import csv

    line = head.split(b"\n", 1)[0].decode("utf-8-sig").rstrip("\r")
    return next(csv.reader([line], delimiter=delimiter))
