"""Lines of JSON objects as Arrow tables: Arrow parses a regular block, Python any other block line by line.

A well-formed row is a line of at most 16 MB that is a JSON object of at most 100 levels, whatever its values are: so the
number of a row does not depend on which columns are read. A value that does not fit its column's type is kept as its JSON text,
and so are integers beyond 64 bits with a sign, which no float is equal to. Bytes that are not UTF-8 are kept unchanged.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.json

from metaclip.errors import one_line
from metaclip.pool.columns import BOM, IS_UTF16, MAX_COLUMNS, MAX_ROW, DropRow, is_utf8
from metaclip.pool.files import PoolFile, open_decompressed

_BLOCK: Final = 1 << 24
_PIECE: Final = 1 << 18
"""Bytes from which columns are inferred at a time."""
_LEVELS: Final = 100
"""Deeper lines are malformed: Arrow and Python parse levels recursively, and a stack overflow would end the process."""
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?')
_LONG_INTEGER: Final = re.compile(rb"[:,\[\s]-?\d{19,}\s*[,}\]]")


def read_blocks(
    file: PoolFile, drop: DropRow = lambda reason, place: None
) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of whole lines, about 16 MB each, as (number of the first line from 0, bytes).

    Call `drop` for lines that are too long, which are left out.
    """
    with open_decompressed(file) as stream:
        rest, line, too_long = bytes(stream.read(len(BOM))).removeprefix(BOM), 0, False
        while block := bytes(stream.read(_BLOCK)):
            end = block.find(b"\n")
            if too_long or len(rest) + (len(block) if end < 0 else end) > MAX_ROW:
                if not too_long:
                    drop("malformed_row", f"line {line + 1}: over {MAX_ROW} bytes")
                    line += 1
                rest, too_long, block = b"", end < 0, block[end + 1 :] if end >= 0 else b""
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield line, whole + newline
                line += whole.count(b"\n") + 1
        if rest.strip():
            yield line, rest + b"\n"


def read_schema(file: PoolFile) -> pa.Schema:
    """Infer the columns of a file's first rows. Raise ValueError, which says what it is, if it is no file of objects."""
    blocks = read_blocks(file)
    first = next(blocks, (0, b""))
    head = first[1][: 1 << 16]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"{\0" in head[:64] or b"\0{" in head[:64]:
        raise ValueError(IS_UTF16)
    if re.match(rb"\s*\[\s*(\{|\]|\Z)", head):
        raise ValueError("it is a JSON array, not lines of objects; jq -c '.[]' makes lines of it")
    schema = infer_schema((block for _, block in itertools.chain([first], blocks)), rows=1)
    if not schema.names:
        if head.lstrip().startswith(b"{"):
            raise ValueError(
                "no line is a JSON object; an object must be in one line, and nothing may follow it"
            )
        raise ValueError("it is empty, without a line that is a JSON object")
    return schema


def infer_schema(blocks: Iterable[bytes], rows: int | None = None) -> pa.Schema:
    """Infer the columns of the blocks that hold the first `rows` rows; a column with several kinds of values is string."""
    types: dict[str, pa.DataType] = {}
    left = rows
    for block in itertools.chain.from_iterable(map(_pieces, blocks)):
        found: Iterable[tuple[str, pa.DataType]]
        try:
            if len(block) > _PIECE:
                raise pa.ArrowInvalid("one line, which may have any number of fields")
            table = _parse_regular(block, None)
            if any(map(_has_floats, table.schema.types)) and _LONG_INTEGER.search(block):
                raise pa.ArrowInvalid("an integer may have become a float")
            found, n = [(field.name, _storable(field.type)) for field in table.schema], len(table)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
            objects = list(_objects(block, 0, lambda reason, place: None))
            names = dict.fromkeys(name for row in objects for name in row)
            _check_number(names)
            found, n = (
                [(name, _type_of([row.get(name) for row in objects])) for name in names],
                len(objects),
            )
        for name, kind in found:
            types[name] = _common_type(types[name], kind) if name in types else kind
        _check_number(types)
        if left is not None and (left := left - n) <= 0:
            break
    return pa.schema([(name, kind) for name, kind in types.items() if is_utf8(name)])


def _pieces(block: bytes) -> Iterator[bytes]:
    """Divide a block into pieces of whole lines: where names differ from row to row, a table has columns times rows."""
    begin = 0
    while begin < len(block):
        end = block.rfind(b"\n", begin, begin + _PIECE) + 1 or block.find(b"\n", begin) + 1 or len(block)
        yield block[begin:end]
        begin = end


def _check_number(names: Collection[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise ValueError(
            f"its objects have over {MAX_COLUMNS:,} fields of different names; put what varies into values"
        )


def parse_block(
    block: bytes, schema: pa.Schema, drop: DropRow, first_line: int = 0, rows: int | None = None
) -> pa.Table:
    """Read the columns of `schema` from a block of lines, the first of which has the number `first_line` (from 0).

    Call `drop` for lines that are not rows; ignore those after the first `rows` rows.
    """
    try:
        return _parse_regular(block, schema).select(schema.names).cast(schema).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError):
        objects = list(itertools.islice(_objects(block, first_line, drop), rows))
    return pa.table(
        [_column([row.get(field.name) for row in objects], field.type) for field in schema], schema=schema
    )


def _parse_regular(block: bytes, schema: pa.Schema | None) -> pa.Table:
    """Parse a block with Arrow. Raise ArrowInvalid if a line is not one object, or a value does not fit its type."""
    lines = block.count(b"\n")
    # Arrow accepts objects anywhere. If all lines begin and end with braces, no object continues in the next line.
    between = block.count(b"}\n{") + block.count(b"}\r\n{")
    if not (
        block.startswith(b"{") and block.endswith((b"}\n", b"}\r\n")) and between == lines - 1
    ) or _is_deep(block):
        raise pa.ArrowInvalid("not one object per line")
    table = pyarrow.json.read_json(
        pa.BufferReader(block),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=max(1, len(block))),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=schema,
            unexpected_field_behavior="infer" if schema is None else "ignore",
            newlines_in_values=False,
        ),
    )
    if len(table) != lines:
        raise pa.ArrowInvalid(f"{len(table)} objects in {lines} lines")
    return table


def may_be_deep(contents: Sequence[bytes]) -> bool:
    """Return whether some of these objects may be nested too deep; cheap, and never wrong if it returns False."""
    opened = sum(map(b"".join(contents).count, (b"{", b"[")))
    return opened - len(contents) >= _LEVELS and any(
        content.count(b"{") + content.count(b"[") > _LEVELS for content in contents
    )


def _is_deep(block: bytes) -> bool:
    """Return whether some line is nested too deep."""
    opened = block.count(b"{") + block.count(b"[")
    return opened - block.count(b"\n") >= _LEVELS and any(map(_is_deep_line, block.split(b"\n")))


def _is_deep_line(line: bytes) -> bool:
    if line.count(b"{") + line.count(b"[") <= _LEVELS:
        return False
    chars = np.frombuffer(_STRING.sub(b"", line), np.uint8) | 0x20  # so that "[" is "{", and "]" is "}"
    levels = np.cumsum((chars == ord("{")).astype(np.int64) - (chars == ord("}")))
    return bool(levels.max(initial=0) > _LEVELS)


def _objects(block: bytes, first_line: int, drop: DropRow) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(block.split(b"\n"), first_line + 1):
        if not text.strip():
            continue
        if _is_deep_line(text):
            drop("malformed_row", f"line {number}: nested deeper than {_LEVELS} levels")
            continue
        try:
            value = _DECODER.decode(text.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            drop("malformed_row", f"line {number}: {one_line(error, 100)}")
            continue
        if isinstance(value, dict):
            yield value
        else:
            drop("malformed_row", f"line {number}: a JSON {type(value).__name__}, not an object")


def _parse_integer(digits: str) -> int | str:
    # Python refuses to parse integers of thousands of digits.
    return int(digits) if len(digits) < 300 else digits


_DECODER: Final = json.JSONDecoder(strict=False, parse_int=_parse_integer)


def _type_of(values: list[Any]) -> pa.DataType:
    """Return the type that Arrow infers for values; string if there is none."""
    try:
        return _storable(pa.array(values).type)
    except (ValueError, TypeError, OverflowError):
        numbers = all(value is None or type(value) is float or _is_int64(value) for value in values)
        return pa.float64() if numbers else pa.string()


def _is_int64(value: Any) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _has_floats(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or any(
        _has_floats(kind.field(i).type) for i in range(kind.num_fields)
    )


def _storable(kind: pa.DataType) -> pa.DataType:
    """Return the type to store an inferred type as: times were strings, and parquet has no empty objects."""
    if pa.types.is_temporal(kind) or _is_empty(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_storable(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _storable(field.type)) for field in kind])
    return kind


def _is_empty(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _is_empty(kind.value_type)
    return pa.types.is_struct(kind) and (
        kind.num_fields == 0 or any(_is_empty(field.type) for field in kind)
    )


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    try:
        both = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(both, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.array(
            [None if value is None else _to_bytes(value) for value in values], pa.binary()
        ).view(pa.string())
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, OverflowError):  # an integer among floats that no float equals
        return pa.array(json.loads(json.dumps(values), parse_int=float), kind)


def _to_bytes(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # an escaped lone surrogate: the caller counts it as invalid UTF-8
        return text.encode("utf-8", "surrogatepass")
