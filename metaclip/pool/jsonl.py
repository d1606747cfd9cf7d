"""Lines of JSON objects as Arrow tables: fast where a block is regular, line by line where it is not.

A well-formed row is a line that is a JSON object of at most 100 levels, whatever its values are: so a row's number does
not depend on which columns are read. A value that does not fit its column's type stands there as its JSON text. Bytes
that are not UTF-8 are carried as they are.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.json

from metaclip.errors import one_line
from metaclip.pool.delimited import BOM, Lose

_BLOCK: Final = 1 << 24
_LEVELS: Final = 100
"""Deeper lines are malformed: Arrow and Python go down a level by a call, and end the process where the stack does."""
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?')


def blocks(open_stream: Callable[[Any], Any], file: Any) -> Iterator[tuple[int, bytes]]:
    """Give (number of lines before, whole lines) of a file, about 16 MB at a time."""
    with open_stream(file) as stream:
        rest, line = bytes(stream.read(len(BOM))).removeprefix(BOM), 0
        while block := bytes(stream.read(_BLOCK)):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield line, whole + newline
                line += whole.count(b"\n") + 1
        if rest.strip():
            yield line, rest + b"\n"


def schema(parts: Iterable[tuple[int, bytes]], rows: int | None = None) -> pa.Schema:
    """Infer the columns of blocks, as many as hold `rows` rows; a column of several kinds of values is string."""
    types: dict[str, pa.DataType] = {}
    left = rows
    for _, block in parts:
        found: Iterable[tuple[str, pa.DataType]]
        try:
            table = _fast(block, None)
            found, n = [(field.name, _carried(field.type)) for field in table.schema], len(table)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
            objects = list(_objects(block, 0, lambda reason, place: None))
            names = dict.fromkeys(name for row in objects for name in row)
            found, n = [(name, _kind([row.get(name) for row in objects])) for name in names], len(objects)
        for name, kind in found:
            types[name] = _common(types[name], kind) if name in types else kind
        if left is not None and (left := left - n) <= 0:
            break
    return pa.schema([(name, kind) for name, kind in types.items() if is_utf8(name)])


def table(block: bytes, line: int, wanted: pa.Schema, lose: Lose, rows: int | None = None) -> pa.Table:
    """Read the `wanted` columns of a block of lines, the first of which has number `line` (from 0).

    Lines that are no rows, up to the row with number `rows`, go to `lose`.
    """
    try:
        return _fast(block, wanted).select(wanted.names).cast(wanted).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError):
        objects = list(itertools.islice(_objects(block, line, lose), rows))
    return pa.table([_column([row.get(field.name) for row in objects], field.type) for field in wanted], schema=wanted)


def _fast(block: bytes, wanted: pa.Schema | None) -> pa.Table:
    """Parse a block by Arrow. Raise ArrowInvalid where it is not one object a line, or a value is not of its type."""
    lines = block.count(b"\n")
    # Arrow takes objects wherever they begin. If all lines have braces at their ends, none goes on in the next line.
    between = block.count(b"}\n{") + block.count(b"}\r\n{")
    if not (block.startswith(b"{") and block.endswith((b"}\n", b"}\r\n")) and between == lines - 1) or _is_deep(block):
        raise pa.ArrowInvalid("not one object a line")
    table = pyarrow.json.read_json(
        pa.BufferReader(block),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=max(1, len(block))),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=wanted,
            unexpected_field_behavior="infer" if wanted is None else "ignore",
            newlines_in_values=False,
        ),
    )
    if len(table) != lines:
        raise pa.ArrowInvalid(f"{len(table)} objects in {lines} lines")
    return table


def may_be_deep(contents: Sequence[bytes]) -> bool:
    """Tell whether some of these objects may be nested too deep."""
    opened = sum(map(b"".join(contents).count, (b"{", b"[")))
    return opened - len(contents) >= _LEVELS and any(
        content.count(b"{") + content.count(b"[") > _LEVELS for content in contents
    )


def _is_deep(block: bytes) -> bool:
    """Tell whether some line is nested too deep."""
    opened = block.count(b"{") + block.count(b"[")
    return opened - block.count(b"\n") >= _LEVELS and any(map(_is_deep_line, block.split(b"\n")))


def _is_deep_line(line: bytes) -> bool:
    if line.count(b"{") + line.count(b"[") <= _LEVELS:
        return False
    chars = np.frombuffer(_STRING.sub(b"", line), np.uint8) | 0x20  # so that "[" is "{", and "]" is "}"
    levels = np.cumsum((chars == ord("{")).astype(np.int64) - (chars == ord("}")))
    return bool(levels.max(initial=0) > _LEVELS)


def _objects(block: bytes, line: int, lose: Lose) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(block.split(b"\n"), line + 1):
        if not text.strip():
            continue
        if _is_deep_line(text):
            lose("malformed_row", f"line {number}: nested deeper than {_LEVELS} levels")
            continue
        try:
            value = json.loads(text.decode("utf-8", "surrogateescape"), strict=False, parse_int=_integer)
        except ValueError as error:
            lose("malformed_row", f"line {number}: {one_line(error, 100)}")
            continue
        if isinstance(value, dict):
            yield value
        else:
            lose("malformed_row", f"line {number}: a JSON {type(value).__name__}, not an object")


def _integer(digits: str) -> int | float:
    # Python refuses integers of thousands of digits, and as a float those of more than 308.
    return int(digits) if len(digits) < 300 else float(digits)


def is_utf8(name: str) -> bool:
    """Tell whether a name came from bytes in UTF-8: Python keeps others as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(values: list[Any]) -> pa.DataType:
    """Give the type that holds values, as Arrow infers it from lines; string where there is none."""
    try:
        return _carried(pa.array(values).type)
    except (ValueError, TypeError, OverflowError):
        numbers = all(value is None or type(value) in (int, float) for value in values)
        return pa.float64() if numbers else pa.string()


def _carried(kind: pa.DataType) -> pa.DataType:
    """Give the type to carry an inferred one in: strings that look like times are strings, parquet has no empty object."""
    if pa.types.is_temporal(kind) or _is_empty(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_carried(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _carried(field.type)) for field in kind])
    return kind


def _is_empty(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _is_empty(kind.value_type)
    return pa.types.is_struct(kind) and (kind.num_fields == 0 or any(_is_empty(field.type) for field in kind))


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    try:
        both = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(both, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.array([None if value is None else _bytes(value) for value in values], pa.binary()).view(pa.string())
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, OverflowError):  # an integer among floats that is none of them by the letter
        return pa.array(json.loads(json.dumps(values), parse_int=float), kind)


def _bytes(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # an escaped lone surrogate: counted as invalid UTF-8 further on
        return text.encode("utf-8", "surrogatepass")
