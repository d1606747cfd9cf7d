"""A pool: files of image-text pairs, in the forms the neighbours write, read as Arrow batches.

Parquet, csv, tsv, jsonl and webdataset tars, each maybe compressed; a file, a folder or a glob, local or anything fsspec
opens. Columns are found by name without regard to case; all others are carried along. A row is known by its file and its
number among the file's well-formed rows.

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
import pyarrow.parquet as pq

from metaclip.curation import delimited, jsonl, tars
from metaclip.errors import MetaclipError, one_line

TEXT_NAMES: Final = ("text", "caption", "alt")
URL_NAMES: Final = ("url",)
UID_NAMES: Final = ("uid",)

BATCH_ROWS: Final = 1 << 16
SHARD_ROWS: Final = 1 << 19
SHARD_BYTES: Final = 1 << 28
_BUFFER: Final = 1 << 22  # read by so much, not by whole column chunks: memory does not grow with the row groups

_FORMATS: Final = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".tar": "tar",
}  # fmt: skip
_DELIMITERS: Final = {"csv": ",", "tsv": "\t"}
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


def find_files(paths: Paths, form: str | None = None) -> list[PoolFile]:
    """Find the files of a pool: a file, a folder (all below it) or a glob, or several of these, in sorted order.

    With a `form` ("tar"), find files of that form alone; else, of a tar with a parquet of its name beside it, the
    parquet alone is the pool's. Raise MetaclipError where there is none, or where the pool mixes forms.
    """
    wanted = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not wanted:
        raise MetaclipError("no pool is given; name a file, a folder or a glob")
    roots: list[list[str]] = []
    files: dict[str, PoolFile] = {}
    for given in wanted:
        root, found = _find(os.fspath(given))
        roots.append(root.split("/"))
        for file in found:
            if form is None or file.form == form:
                files.setdefault(file.path, file)
    if not files:
        raise MetaclipError(f"there is no {form} file in {_shown(wanted)}; check the path")
    tables = {_stem(path) for path, file in files.items() if file.form == "parquet"}
    # img2dataset writes a parquet beside each tar: it has the same rows, and those that failed.
    files = {path: file for path, file in files.items() if file.form != "tar" or _stem(path) not in tables}
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
            found = _matching(fs, path) if remote else _matching_here(path)
        elif fs.isdir(path):
            _refuse_run(fs, path, given)
            root, found = path, fs.find(path, detail=True) if remote else _below(path)
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
            size, stamp = _size_and_stamp(found[name]) if remote else _size_and_stamp_here(name)
            files.append(PoolFile(name, full(name), *kind, size, stamp))
    except (OSError, ImportError, ValueError) as error:
        raise MetaclipError(f"the pool {given} cannot be listed ({one_line(error)}); check the path") from None
    if not files:
        kinds = ", ".join(_FORMATS)
        raise MetaclipError(
            f"there is no pool in {given}: no file that ends in {kinds} (maybe with {', '.join(_CODECS)})"
        )
    return full(root or "/"), files


def _matching(fs: Any, pattern: str) -> dict[str, Any]:
    """Find the files that match a glob in a store, and those below folders that do: what a shell would name."""
    found: dict[str, Any] = {}
    for name, info in fs.glob(pattern, detail=True).items():
        found |= fs.find(name, detail=True) if info["type"] == "directory" else {name: info}
    return found


def _matching_here(pattern: str) -> dict[str, Any]:
    """Find the same on this machine, through links to folders too, where fsspec does not go."""
    found: dict[str, Any] = {}
    for name in glob.glob(pattern, recursive=True):
        found |= _below(name) if os.path.isdir(name) else {name: None}
    return found


def _below(folder: str) -> dict[str, Any]:
    """Find the files below a folder on this machine. Raise OSError for one that may not be read: fsspec leaves it out."""

    def refuse(error: OSError) -> None:
        raise error

    walk = os.walk(folder, onerror=refuse, followlinks=True)
    return {os.path.join(below, name): None for below, _, names in walk for name in names}


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


def _stem(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    return os.path.splitext(stem)[0] if suffix.lower() in _CODECS else stem


def _size_and_stamp(info: dict[str, Any]) -> tuple[int, str]:
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
    return int(info["size"]), str(stamp)


def _size_and_stamp_here(path: str) -> tuple[int, str]:
    status = os.stat(path)
    return status.st_size, str(status.st_mtime_ns)


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
    # img2dataset's own columns, by which its tables are known; what is in a tar was downloaded.
    own = {"status", "error_message", "key"} <= set(names) and tars.KEY not in names
    ours = own and _is_text(schema.field("status").type)
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
    """Read the names and types of a file's columns (jsonl: of its first 16 MB, tar: of its head).

    Raise BrokenInput if it cannot be read.
    """
    with reading(file):
        if file.form == "parquet":
            with _parquet(file) as parquet:
                return parquet.schema_arrow
        if file.form == "jsonl":
            found = jsonl.schema(jsonl.blocks(_stream, file), rows=1)
            if not found.names:
                raise ValueError("it is empty, without a line that is a JSON object")
            return found
        if file.form == "tar":
            return tars.schema(lambda: tar_stream(file), TEXT_NAMES, rows=1)
        with _stream(file) as stream:
            names = delimited.Reader(stream, _DELIMITERS[file.form], Losses().add).names
            return pa.schema([(name, pa.string()) for name in names])


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
    elif shard.file.form == "tar":
        yield from tars.batches(lambda: tar_stream(shard.file), columns, TEXT_NAMES, losses.add, shard.rows)
    else:
        with _stream(shard.file) as stream:
            reader = delimited.Reader(stream, _DELIMITERS[shard.file.form], losses.add, shard.rows)
            yield from reader.batches(columns, BATCH_ROWS)


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Give a batch with the strings that Arrow cannot take by row as those that it can."""
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if views.keys().isdisjoint(batch.schema.types):
        return batch
    return batch.cast(pa.schema([field.with_type(views.get(field.type, field.type)) for field in batch.schema]))


def _parquet(file: PoolFile) -> Any:
    local = "://" not in file.path
    return pq.ParquetFile(file.path if local else open_file(file), pre_buffer=not local, buffer_size=_BUFFER)


def tar_stream(file: PoolFile) -> Any:
    """Open a tar for reading forwards: with a small buffer where its images can be skipped."""
    return open(file.path, "rb") if "://" not in file.path and file.codec is None else _stream(file)


def _stream(file: PoolFile) -> Any:
    if "://" not in file.path:
        return pa.input_stream(file.path, compression=file.codec)
    raw = pa.PythonFile(open_file(file), mode="r")
    return pa.CompressedInputStream(raw, file.codec) if file.codec else raw
