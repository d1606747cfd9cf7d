"""The schema of card.json: each field's path and type; data_cards/README.md says what each means.

A path joins names by points; ``[]`` stands for each item of a list, ``<...>`` for each key of a map. Within a schema
version, fields are added, but never changed or removed: so a reader accepts unknown fields, and may find those of `LATER`
missing; a writer accepts neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from metaclip.errors import MetaclipError

VERSION: Final = 1
"""Version of the schema of card.json, in runs and in cards."""

_COUNTED: Final = {"pairs": "integer", "names": "integer", "floor": "integer"}
_COUNTED_TOP: Final = {"top[].name": "string", "top[].pairs": "integer"}

ACCOUNT: Final[dict[str, str]] = {
    "schema.name": "string",
    "schema.version": "integer",
    "result_digest": "string",
    "created": "string",
    "versions.<package>": "string",
    "semantics.match": "integer",
    "semantics.balance": "integer",
    "recipe.match.<setting>": "any",
    "recipe.match.rule.<setting>": "boolean or string",
    "recipe.balance.<setting>": "number or null",
    "recipe_digest": "string",
    "inputs[].name": "string",
    "inputs[].size": "integer",
    "inputs[].sha256": "string",
    "lost_inputs[].name": "string",
    "lost_inputs[].first": "integer",
    "lost_inputs[].rows": "integer or null",
    "list.digest": "string",
    "list.entries": "integer",
    "list.sources.<source>": "integer",
    "rule.<setting>": "boolean or string",
    "balance.t": "number",
    "balance.asked": "string",
    "balance.tail_share": "number",
    "balance.seed": "integer",
    "balance.epoch": "integer",
    "funnel.rows": "integer",
    "funnel.malformed_row": "integer",
    "funnel.not_downloaded": "integer",
    "funnel.null_text": "integer",
    "funnel.invalid_utf8": "integer",
    "funnel.empty_text": "integer",
    "funnel.no_match": "integer",
    "funnel.removed": "integer",
    "funnel.matched": "integer",
    "funnel.not_drawn": "integer",
    "funnel.kept": "integer",
    "entries.zero": "integer",
    "entries.tail": "integer",
    "entries.head": "integer",
    "sums.count": "integer",
    "sums.count_tail": "integer",
    "sums.count_head": "integer",
    "sums.expected": "number",
    "sums.kept": "integer",
    "pairs.matched": "integer",
    "pairs.expected": "number",
    "pairs.deviation": "number",
    "pairs.kept": "integer",
    "pairs.repeated_uids": "integer",
    "pairs.repeated_rows": "integer",
    "digests.counts": "string",
    "digests.curated": "string",
    "top_entries[].entry_id": "integer",
    "top_entries[].entry": "string",
    "top_entries[].source": "string or null",
    "top_entries[].count": "integer",
    "top_entries[].probability": "number",
    "top_entries[].expected": "number",
    "top_entries[].kept": "integer",
}
"""The account of a run: run/card.json."""

REMOVED: Final[dict[str, str]] = {
    "removed.pairs": "integer",
    "removed.count": "integer",
    "removed.counts_digest": "string",
    "removed.versions[].parent": "string",
    "removed.versions[].digest": "string",
    "removed.versions[].pairs": "integer",
    "removed.versions[].kept": "integer",
    "removed.versions[].urls": "string or null",
    **{f"removed.versions[].{which}.{what}": "integer" for which in ("asked", "found") for what in ("uids", "urls", "domains")},
}  # fmt: skip
"""Further fields of an account if pairs were taken out."""

CARD: Final[dict[str, str]] = {
    "name": "string",
    "license": "string or null",
    "contact": "string or null",
    "url": "string or null",
    "grid.t[]": "number",
    "grid.pairs[]": "number",
    "grid.tail_share[]": "number",
    "grid.share": "number",
    "hosts": "object or null",
    "languages": "object or null",
    **{
        f"{of}.{name}": kind
        for name, kind in (_COUNTED | _COUNTED_TOP).items()
        for of in ("hosts", "languages")
    },
    "classes[].name": "string",
    "classes[].digest": "string",
    "classes[].names": "integer",
    "classes[].known": "integer",
    "classes[].zero": "number",
    "classes[].zero_kept": "number",
    "classes[].divergence": "number or null",
    "classes[].divergence_kept": "number or null",
    "classes[].entries[].name": "string",
    "classes[].entries[].entry_id": "integer or null",
    "classes[].entries[].count": "integer or null",
    "classes[].entries[].kept": "integer",
    "files[].name": "string",
    "files[].size": "integer",
    "files[].sha256": "string",
}
"""Further fields of a published card."""

LATER: Final = frozenset({"removed", "funnel.removed", "classes"})
"""Fields that were added within version 1, or are optional."""

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),),
    "object": (dict,),
}  # fmt: skip


def faults(value: Mapping[str, Any], fields: Mapping[str, str], *, strict: bool) -> Iterator[str]:
    """Yield what in an object violates the schema: a wrong type, a missing field; if `strict`, also an unknown field."""
    children: dict[str, set[str]] = {}
    for field in fields:
        parts = field.replace("[]", ".[]").split(".")
        for i, part in enumerate(parts):
            children.setdefault(".".join(parts[:i]), set()).add(part)

    def check(value: Any, path: str, shown: str) -> Iterator[str]:
        """Check a value; `path` is its path in the schema ("top.[]"), `shown` the one in the object ("top[3]")."""
        kind, names = fields.get(path.replace(".[]", "[]")), children.get(path, set())
        if kind is not None and not (names and isinstance(value, dict)):
            if kind != "any" and not any(type(value) in _TYPES[one] for one in kind.split(" or ")):
                yield f"{shown} is {value!r:.60}, must be {kind}"
        elif "[]" in names and isinstance(value, list):
            for i, item in enumerate(value):
                yield from check(item, f"{path}.[]", f"{shown}[{i}]")
        elif "[]" in names or not isinstance(value, dict):
            yield f"{shown or 'it'} is {value!r:.60}, must be {'a list' if '[]' in names else 'an object'}"
        else:
            placeholder = next((name for name in names if name.startswith("<")), None)
            for name in sorted(names - value.keys() - {placeholder}):
                if f"{path}.{name}".lstrip(".") not in LATER:
                    yield f"{shown}.{name}".lstrip(".") + " is missing"
            for name, inner in value.items():
                where = f"{shown}.{name}".lstrip(".")
                if (known := name if name in names else placeholder) is not None:
                    yield from check(inner, f"{path}.{known}".lstrip("."), where)
                elif strict:
                    yield f"{where} is in no schema"

    yield from check(value, "", "")


def check_written(value: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Raise AssertionError if an object that is about to be written violates the schema: a defect of metaclip."""
    if (fault := next(faults(value, fields, strict=True), None)) is not None:
        raise AssertionError(f"card.json: {fault}")


def check_read(
    value: Mapping[str, Any], name: str, fields: Mapping[str, str], where: str, again: str
) -> None:
    """Raise MetaclipError if an object that was read has another schema or a newer version of it, or violates it.

    `name` is the name of the schema, `where` the file, `again` the next step if it is damaged.
    """
    schema = value.get("schema")
    stated = schema if isinstance(schema, dict) else {}
    if (found := stated.get("name")) != name:
        raise MetaclipError(f"{where} is of the schema {found!r:.60}, must be {name!r}; {again}")
    if (version := stated.get("version")) != VERSION:
        raise MetaclipError(
            f"{where} has schema version {version!r:.60}, this metaclip reads {VERSION}; install a newer one"
        )
    if (fault := next(faults(value, fields, strict=False), None)) is not None:
        raise MetaclipError(f"{where}: {fault}; {again}")
