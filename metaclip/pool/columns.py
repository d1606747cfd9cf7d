"""The columns of a pool that mean something, found by name without regard to case."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from metaclip.errors import BrokenInput
from metaclip.pool import tars

TEXT_NAMES: Final = ("text", "caption", "alt")
URL_NAMES: Final = ("url",)
UID_NAMES: Final = ("uid",)


@dataclasses.dataclass(frozen=True)
class Columns:
    """The names of the columns that mean something; None where there is none."""

    text: str
    url: str | None
    uid: str | None
    status: str | None = None
    """img2dataset's column of what became of a download."""


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
