"""Recipes: all settings that change a result, as TOML and as frozen dataclasses.

A recipe has one table for each verb; the keys of a table are the fields of a dataclass in the module that uses them. A flag
overrides a key and is recorded too: every run folder contains the resolved recipe and its digest.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import tomli_w

from metaclip.errors import BadSetting, MetaclipError, did_you_mean, one_line

Settings = TypeVar("Settings")
_MAX_BYTES: Final = 1 << 24


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the tables of a recipe. Raise MetaclipError if the file is missing or is not TOML."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it has over {_MAX_BYTES >> 20} MiB")
        return tomllib.loads(data.decode())
    except FileNotFoundError:
        raise MetaclipError(f"there is no recipe {name}; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MetaclipError(
            f"the recipe {name} cannot be read ({one_line(error)}); a recipe is a TOML file"
        ) from None


def path_in(recipe: str | os.PathLike[str], path: str) -> str:
    """Return a path that a recipe names: relative to the folder of the recipe, with ~ as the home folder; or an address."""
    return path if "://" in path else os.fspath(Path(recipe).parent / os.path.expanduser(path))


def tables(recipe: Mapping[str, Any], where: str, known: Mapping[str, type]) -> dict[str, Any]:
    """Return the tables of a recipe as dataclasses, by the classes in `known`; absent tables are left out.

    Raise MetaclipError for an unknown table or key, with the most similar known one.
    """
    made: dict[str, Any] = {}
    for name, table in recipe.items():
        if name not in known:
            raise MetaclipError(
                f"{where}: no verb reads {name!r}{did_you_mean(name, known)}; tables: {', '.join(known)}"
            )
        made[name] = settings(known[name], table, f"{where}, [{name}]")
    return made


def settings(kind: type[Settings], table: Any, where: str) -> Settings:
    """Return a table as a dataclass. Raise MetaclipError for a key of another name or type, and for one that is missing."""
    if not isinstance(table, Mapping):
        raise MetaclipError(f"{where} is {table!r:.80}, must be a table")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise MetaclipError(
                f"{where}: unknown key {key!r}{did_you_mean(key, hints)}; keys: {', '.join(hints)}"
            )
        values[key] = _value(hints[key], value, f"{where}, {key}")
    required = [
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise MetaclipError(f"{where}: missing: {', '.join(missing)}")
    try:
        return kind(**values)
    except ValueError as error:
        raise MetaclipError(f"{where}: {error}") from None


def check_minimums(settings: Any, **minimums: int) -> None:
    """Raise BadSetting for a field of settings that is below its minimum; None is above all of them."""
    for name, least in minimums.items():
        value = getattr(settings, name)
        if value is not None and value < least:
            raise BadSetting(f"{name} is {value}, must be at least {least}")


def dump(made: Mapping[str, Any]) -> str:
    """Return dataclasses as the TOML of a recipe; keys with the value None are left out."""
    return tomli_w.dumps({name: _without_none(dataclasses.asdict(value)) for name, value in made.items()})


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value


def _value(hint: Any, value: Any, where: str) -> Any:
    kinds: tuple[Any, ...] = typing.get_args(hint) or (hint,)
    table = kinds[0] if kinds[1:] in ((), (type(None),)) else None  # or None, where there need be none
    if dataclasses.is_dataclass(table) and isinstance(table, type):
        return settings(table, value, where)
    several = typing.get_origin(hint) is tuple
    if several and dataclasses.is_dataclass(kinds[0]) and isinstance(kinds[0], type):
        if not isinstance(value, list):
            raise MetaclipError(f"{where} is {value!r:.80}, must be tables: [[...]]")
        return tuple(settings(kinds[0], one, f"{where} {n}") for n, one in enumerate(value, 1))
    import msgspec

    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError:
        pass
    if typing.get_origin(hint) is typing.Literal:
        wanted = f"one of {', '.join(map(repr, kinds))}"
    else:
        wanted = "a list of " * several + " or ".join(
            kind.__name__ for kind in kinds if kind not in (type(None), Ellipsis)
        )
    raise MetaclipError(f"{where} is {value!r:.80}, must be {wanted}")
