"""Lines of JSON objects as Arrow tables: fast where a block is regular, line by line where it is not.

A well-formed row is a line that is a JSON object, whatever its values are: so a row's number does not depend on which
columns are read. A value that does not fit its column's type stands there as its JSON text. Bytes that are not UTF-8
are carried as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.json

from metaclip.errors import one_line

_BLOCK: Final = 1 << 24

_KINDS: Final = {type(None): pa.null(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}

Lose = Callable[[str, str], None]
"""Called with a reason and a place for each line that is no row."""


def blocks(open_stream: Callable[[Any], Any], file: Any) -> Iterator[tuple[int, bytes]]:
    """Give (number of lines before, whole lines) of a file, about 16 MB at a time."""
    with open_stream(file) as stream:
        rest, line = b"", 0
        while block := bytes(stream.read(_BLOCK)):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield line, whole + newline
                line += whole.count(b"\n") + 1
        if rest.strip():
            yield line, rest + b"\n"


def schema(parts: Iterable[tuple[int, bytes]], first_only: bool = False) -> pa.Schema:
    """Infer the columns of all blocks, or of the first; a column of several kinds of values is string."""
    types: dict[str, pa.DataType] = {}
    for _, block in parts:
        found: Iterable[tuple[str, pa.DataType]]
        try:
            found = [(field.name, field.type) for field in _fast(block, None).schema]
        except pa.ArrowInvalid:
            found = [
                (key, _KINDS.get(type(value), pa.string()))
                for row in _objects(block, 0, lambda reason, place: None)
                for key, value in row.items()
            ]
        for name, kind in found:
            types[name] = _common(types[name], kind) if name in types else kind
        if first_only:
            break
    return pa.schema(list(types.items()))


def table(block: bytes, line: int, wanted: pa.Schema, lose: Lose) -> pa.Table:
    """Read the `wanted` columns of a block of lines, the first of which has number `line` (from 0)."""
    try:
        return _fast(block, wanted).select(wanted.names).cast(wanted).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError):
        rows = list(_objects(block, line, lose))
    return pa.table([_column([row.get(field.name) for row in rows], field.type) for field in wanted], schema=wanted)


def _fast(block: bytes, wanted: pa.Schema | None) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(block),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=max(1, len(block))),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=wanted,
            unexpected_field_behavior="infer" if wanted is None else "ignore",
            newlines_in_values=False,
        ),
    )


def _objects(block: bytes, line: int, lose: Lose) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(block.split(b"\n"), line + 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text.decode("utf-8", "surrogateescape"), strict=False)
        except (ValueError, RecursionError) as error:
            lose("malformed_row", f"line {number}: {one_line(error, 100)}")
            continue
        if isinstance(value, dict):
            yield value
        else:
            lose("malformed_row", f"line {number}: a JSON {type(value).__name__}, not an object")


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    try:
        both = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(both, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_string(kind):
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return pa.array([None if isinstance(v, str | dict | list) else v for v in values], kind, from_pandas=True)
    return pa.array([None if value is None else _bytes(value) for value in values], pa.binary()).view(pa.string())


def _bytes(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # an escaped lone surrogate: counted as invalid UTF-8 further on
        return text.encode("utf-8", "surrogatepass")
