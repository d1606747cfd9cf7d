"""Arguments of public functions: wrong types are refused by name, and columns are taken from any Arrow library.

`check_type` raises TypeError with the name of the argument, because `t="20"` would otherwise fail somewhere inside.
`as_column` takes what has Arrow's PyCapsule interface (pyarrow, polars, pandas, duckdb).
"""

from __future__ import annotations

import numbers
import os
import types
import typing
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from metaclip.errors import BadSetting, one_line

if TYPE_CHECKING:
    import pyarrow as pa

_ABSTRACT: Final[dict[Any, Any]] = {float: numbers.Real, int: numbers.Integral}
"""What stands for a type, so that numpy's numbers are numbers."""
_WORDS: Final[dict[Any, str]] = {
    float: "a number", int: "a whole number", str: "a string", bool: "True or False", os.PathLike: "a path",
    Iterable: "strings, a path or a Metadata",
}  # fmt: skip


ArrowTable: TypeAlias = Any
"""A table of any library that speaks Arrow: it has ``__arrow_c_stream__`` or ``__arrow_c_array__``."""
Column: TypeAlias = Any
"""A column of any such library."""
PATH: Final = str | os.PathLike


def check_type(name: str, value: object, hint: Any) -> None:
    """Raise TypeError, with the argument's name, unless `value` has the type `hint` (a class, or a union of classes).

    >>> check_type("t", "20", float | None)
    Traceback (most recent call last):
    TypeError: t must be a number, not str '20'; write it without quotes, e.g. 20_000
    """
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    kinds = [typing.get_origin(kind) or kind for kind in (typing.get_args(hint) if union else [hint])]
    for kind in kinds:
        if isinstance(value, _ABSTRACT.get(kind, kind)) and (kind is bool or not isinstance(value, bool)):
            return
    if os.PathLike in kinds:
        kinds.remove(str)  # a path says it
    words = [_WORDS.get(kind, f"a {kind.__name__}") for kind in kinds if kind is not types.NoneType]
    shown = f" {value!r:.80}" if isinstance(value, str | int | float) else ""
    quoted = isinstance(value, str) and str not in kinds and {float, int} & set(kinds)
    number = "; write it without quotes, e.g. 20_000" if quoted else ""
    lazy = "; call its collect() first" if hasattr(value, "collect") else ""  # polars
    raise TypeError(
        f"{name} must be {' or '.join(words)}, not {type(value).__name__}{shown}{number}{lazy}"
    )


def check_types(**arguments: tuple[object, Any]) -> None:
    """Raise TypeError for the first argument, a value with the type it must have, that has another one."""
    for name, (value, hint) in arguments.items():
        check_type(name, value, hint)


def check_fields(settings: Any) -> None:
    """Raise TypeError for a field of a dataclass whose value has another type than its annotation.

    Raise BadSetting for a value that a Literal does not list.
    """
    for name, hint in typing.get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if typing.get_origin(hint) is not typing.Literal:
            check_type(name, value, hint)
        elif value not in typing.get_args(hint):
            raise BadSetting(
                f"{name} is {value!r:.80}, must be one of {', '.join(map(repr, typing.get_args(hint)))}"
            )


def is_table(value: object) -> bool:
    """Return whether a value can be read as an Arrow table or column."""
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__")


def as_column(name: str, values: Any, kind: pa.DataType | None = None) -> pa.Array | pa.ChunkedArray:
    """Return a column as an Arrow array: a sequence becomes one of type `kind`; a pa.ChunkedArray stays one.

    Raise TypeError for a string, and for a table.
    """
    import pyarrow as pa

    if isinstance(values, str):
        raise TypeError(f"{name} is one string, {values!r:.80}; give a list of strings, or a column")
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        try:
            if hasattr(values, "__arrow_c_stream__"):
                values = pa.chunked_array(values).combine_chunks()
            else:
                values = pa.array(values, None if hasattr(values, "__arrow_c_array__") else kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TypeError(f"{name} must be strings, or a column: {one_line(error)}") from None
    if pa.types.is_struct(values.type):
        raise TypeError(f"{name} must be one column, not a table; give {name} as table['column']")
    if isinstance(values, pa.ChunkedArray):
        return pa.chunked_array(
            [without_views(chunk) for chunk in values.chunks] or [without_views(pa.nulls(0, values.type))]
        )
    return without_views(values)


def without_views(column: pa.Array) -> pa.Array:
    """Return a column of strings, or a dictionary of them, in the form that all of Arrow's functions take."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        values = without_views(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, values, ordered=column.type.ordered)
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column
