"""A pool: files of image-text pairs, in the forms the neighbours write, read as Arrow batches.

Parquet, csv, tsv and jsonl, each maybe compressed; a file, a folder or a glob, local or anything fsspec opens. Columns
are found by name without regard to case; all others are carried along. A row is known by its file and its number among
the file's well-formed rows.

The unit of work is a shard: a run of row groups of one parquet file, or one file of another form.
"""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    """Path below the folder that holds all of the pool: what cards show, and what it is known by."""
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
    if not wanted:
        raise MetaclipError("no pool is given; name a file, a folder or a glob")
    roots: list[list[str]] = []
    files: dict[str, PoolFile] = {}
    for given in wanted:
        root, found = _find(os.fspath(given))
        roots.append(root.split("/"))
        for file in found:
            files.setdefault(file.path, file)
    forms = {file.form for file in files.values()}
    if len(forms) > 1:
        raise MetaclipError(
            f"the pool {_shown(wanted)} mixes {' and '.join(sorted(forms))} files; give one kind by a glob"
        )
    # A glob, its folder and its files one by one are one pool; and no two files have one name.
    above = len("/".join(os.path.commonprefix(roots)))  # noqa: RUF071 - of lists of folders, not of strings
    return [dataclasses.replace(file, name=file.path[above:].lstrip("/")) for file in files.values()]


def _shown(wanted: Iterable[Any]) -> str:
    return ", ".join(str(path) for path in wanted)


def _find(given: str) -> tuple[str, list[PoolFile]]:
    """Find the files of one path: (the folder that they are below, files)."""
    try:
        fs, path = fsspec.core.url_to_fs(given)
        remote = "://" in given and not given.startswith("file://")
        full = fs.unstrip_protocol if remote else os.path.abspath
        if glob.has_magic(path) and not fs.exists(path):
            root = path[: path.index(next(c for c in path if c in "*?["))].rpartition("/")[0]
            found = {p: i for p, i in fs.glob(path, detail=True).items() if i["type"] == "file"}
        elif fs.isdir(path):
            _refuse_run(fs, path, given)
            # fsspec leaves out folders that it may not read, unless told otherwise.
            root, found = path, fs.find(path, detail=True, **({} if remote else {"on_error": "raise"}))
        elif fs.exists(path):
            root, found = path.rpartition("/")[0], {path: fs.info(path)}
        else:
            raise MetaclipError(f"there is no pool at {given}; check the path")
        files = []
        for name in sorted(found):
            parts = PurePosixPath(name[len(root) :]).parts
            if (kind := _form(name)) is None or (name != path and any(part.startswith((".", "_")) for part in parts)):
                continue
            if not jsonl.is_utf8(name):
                raise MetaclipError(f"the name of {name!a} is not valid UTF-8, so no card can show it; rename the file")
            stamp = _stamp(found[name]) if remote else str(os.stat(name).st_mtime_ns)
            files.append(PoolFile(name, full(name), *kind, int(found[name]["size"]), stamp))
    except (OSError, ImportError, ValueError) as error:
        raise MetaclipError(f"the pool {given} cannot be listed ({one_line(error)}); check the path") from None
    if not files:
        kinds = ", ".join(_FORMATS)
        raise MetaclipError(
            f"there is no pool in {given}: no file that ends in {kinds} (maybe with {', '.join(_CODECS)})"
        )
    return full(root or "/"), files


def _refuse_run(fs: Any, path: str, given: str) -> None:
    matched, curated = (fs.isdir(f"{path}/{stage}") for stage in ("matched", "curated"))
    if fs.exists(f"{path}/manifest.json") and (matched or curated):
        hint = f"its curated pairs are the pool {given.rstrip('/')}/curated" if curated else "balance it first"
        raise MetaclipError(f"{given} is a run folder, not a pool; {hint}")


def _form(name: str) -> tuple[str, str | None] | None:
    stem, suffix = os.path.splitext(name.lower())
    codec = _CODECS.get(suffix)
    if codec:
        suffix = os.path.splitext(stem)[1]
    form = _FORMATS.get(suffix)
    return None if form is None or (codec and form == "parquet") else (form, codec)


def _stamp(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or "")


def open_file(file: PoolFile) -> Any:
    """Open a file of a pool for reading bytes as they are stored."""
    fs, path = fsspec.core.url_to_fs(file.path)
    return fs.open(path, "rb")


def find_columns(
    schema: pa.Schema, where: str, text: str | None = None, url: str | None = None, uid: str | None = None
) -> Columns:
    """Find the columns that mean something; those given by name must be there, in any case of letters.

    Raise BrokenInput for a text column that is missing or one of several, naming what was found and looked for, and for
    a column of a type that its role cannot have.
    """
    names = schema.names
    for name in names:
        if names.count(name) > 1:
            raise BrokenInput(f"{where} has {names.count(name)} columns with the name {name!r}; rename all but one")

    def find(role: str, given: str | None, candidates: Sequence[str]) -> str | None:
        if given in names:
            found = [given]
        elif given is not None:
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
        if not found:
            return None
        kind = schema.field(found[0]).type
        if not (_is_text(kind) or (role == "uid" and _is_number(kind))):
            wanted = "string, integer or 16 bytes" if role == "uid" else "string"
            raise BrokenInput(
                f"{where}: the {role} column {found[0]!r} is {kind}, must be {wanted}; choose one with --{role}-column"
            )
        return found[0]

    found_text = find("text", text, TEXT_NAMES)
    assert found_text is not None
    # img2dataset's own columns, by which its files are known.
    ours = {"status", "error_message", "key"} <= set(names) and _is_text(schema.field("status").type)
    return Columns(found_text, find("url", url, URL_NAMES), find("uid", uid, UID_NAMES), "status" if ours else None)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_kind(kind) for is_kind in kinds)


def _is_number(kind: pa.DataType) -> bool:
    """Tell whether a column can hold uids that are no text: integers, or 16 bytes."""
    if isinstance(kind, pa.ExtensionType):  # parquet's UUID
        kind = kind.storage_type
    return bool(pa.types.is_integer(kind) or (pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16))


def schema_of(file: PoolFile) -> pa.Schema:
    """Read the names and types of a file's columns (jsonl: of its first 16 MB). Raise BrokenInput if it cannot be read."""
    with reading(file):
        if file.form == "parquet":
            with _parquet(file) as parquet:
                return parquet.schema_arrow
        if file.form == "jsonl":
            found = jsonl.schema(jsonl.blocks(_stream, file), rows=1)
            if not found.names:
                raise BrokenInput(f"{file.path} is empty: a jsonl pool holds a JSON object a line")
            return found
        with _stream(file) as stream:
            return pa.schema([(name, pa.string()) for name in _Csv(file, stream).names])


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


def count_rows(file: PoolFile, columns: Columns, limit: int) -> int:
    """Count the well-formed rows of a file, up to `limit`."""
    if file.form == "parquet":
        with reading(file), _parquet(file) as parquet:
            return min(limit, int(parquet.metadata.num_rows))
    return sum(len(batch) for batch in read(Shard(file, 0, rows=limit), [columns.text], Losses()))


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
            if left is not None:
                batch = batch.slice(0, left)
                left -= len(batch)
            yield batch
            if left == 0:
                return


class reading:
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
            for batch in parquet.iter_batches(
                BATCH_ROWS, row_groups=range(*shard.groups), columns=columns and list(columns), use_threads=False
            ):
                yield _without_views(batch)
    elif shard.file.form == "jsonl":
        if columns is None:
            schema = jsonl.schema(jsonl.blocks(_stream, shard.file), shard.rows)
        else:
            schema = pa.schema([(name, pa.string()) for name in columns])
        left = shard.rows
        for line, block in jsonl.blocks(_stream, shard.file):
            table = jsonl.table(block, line, schema, losses.add, left)
            left = None if left is None else max(0, left - len(table))
            yield from table.to_batches(BATCH_ROWS)
    else:
        with _stream(shard.file) as stream:
            yield from _Csv(shard.file, stream, shard.rows, losses).batches(columns)


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Give a batch with the strings that Arrow cannot take by row as those that it can."""
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if views.keys().isdisjoint(batch.schema.types):
        return batch
    return batch.cast(pa.schema([field.with_type(views.get(field.type, field.type)) for field in batch.schema]))


def _parquet(file: PoolFile) -> Any:
    local = "://" not in file.path
    return pq.ParquetFile(file.path if local else open_file(file), pre_buffer=not local, buffer_size=_BUFFER)


def _stream(file: PoolFile) -> Any:
    if "://" not in file.path:
        return pa.input_stream(file.path, compression=file.codec)
    raw = pa.PythonFile(open_file(file), mode="r")
    return pa.CompressedInputStream(raw, file.codec) if file.codec else raw


class _Csv:
    """A csv or tsv file with every column as strings: bytes are carried as they stand, nothing is guessed.

    Arrow's parser wants UTF-8 in the rows that it leaves out. So it gets each byte as a character of its own (Latin-1),
    and what it gives is put back into bytes.
    """

    def __init__(self, file: PoolFile, stream: Any, limit: int | None = None, losses: Losses | None = None) -> None:
        """Read the names of the columns; malformed rows among the first `limit` will go to `losses`."""
        head = _first_line(stream, file).removeprefix(jsonl.BOM)
        delimiter = "\t" if file.form == "tsv" else ","
        try:
            rows = csv.reader(io.StringIO(head.decode("latin-1"), newline=""), delimiter=delimiter)
            names = next(filter(None, rows))
        except csv.Error as error:
            raise BrokenInput(
                f"{file.path}: the line of column names cannot be read ({one_line(error)}); mend it"
            ) from None
        skipped = 0

        def bad_row(row: Any) -> str:
            nonlocal skipped
            # Row 1 is the column names; as many well-formed rows stand before this one:
            before = row.number - 2 - skipped
            skipped += 1
            if losses is not None and (limit is None or before < limit):
                place = f"row {row.number}: {row.expected_columns} columns expected, {row.actual_columns} found"
                losses.add("malformed_row", place)
            return "skip"

        self._reader = pyarrow.csv.open_csv(
            _Latin1(head, stream),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=2 * _BLOCK),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=bad_row, ignore_empty_lines=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), check_utf8=False, strings_can_be_null=False
            ),
        )
        if self._reader.schema.names != names:
            raise BrokenInput(f"{file.path}: the line of column names is not plain csv (found {names}); mend it")
        self.names = [name.encode("latin-1").decode() for name in names]

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Read batches of `columns` (None: all)."""
        names = self.names if columns is None else list(columns)
        for batch in self._reader:
            for part in pa.Table.from_batches([batch]).to_batches(BATCH_ROWS):
                yield pa.record_batch([_bytes_again(part.column(self.names.index(name))) for name in names], names)


class _Latin1:
    """A stream, after what was read of it already, with each byte as the character of that number, in UTF-8."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest, self.closed = head, rest, False

    def read(self, size: int) -> bytes:
        half = max(1, size // 2)  # a character takes up to two bytes
        read, self._head = self._head[:half], self._head[half:]
        return (read or bytes(self._rest.read(half))).decode("latin-1").encode()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True


def _bytes_again(column: pa.Array) -> pa.Array:
    """Put a column of characters that stand for bytes back into these; not all of it need be UTF-8."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(column) + 1, 4 * column.offset)
    text = data.slice(bounds[0], bounds[-1] - bounds[0]).to_pybytes().decode() if data is not None else ""
    if text.isascii():
        return column
    ends = np.concatenate([[0], np.cumsum(pc.utf8_length(column))]).astype(np.int32)
    return pa.StringArray.from_buffers(len(column), pa.py_buffer(ends), pa.py_buffer(text.encode("latin-1")))


def _first_line(stream: Any, file: PoolFile) -> bytes:
    head = b""
    while not (b"\n" in head.lstrip() or b"\r" in head.lstrip()):
        if len(head) > _BLOCK:
            raise BrokenInput(f"{file.path}: the first line has over {_BLOCK} bytes; is it a {file.form} file?")
        block = bytes(stream.read(1 << 16))
        if not block:
            break
        head += block
    if not head.removeprefix(jsonl.BOM).strip():
        raise BrokenInput(f"{file.path} is empty; a {file.form} pool begins with a line of column names")
    return head if b"\n" in head or b"\r" in head else head + b"\n"
