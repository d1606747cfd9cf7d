"""The schema of card.json: the path and type of each field, checks against it, and the digest of the result.

data_cards/README.md documents the fields. A path joins names by points; ``[]`` stands for each item of a list, ``<...>`` for
each key of a map. Within a schema version, fields are added, but never changed or removed: so a reader accepts unknown fields,
and may find those of `LATER` missing; a writer accepts neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from metaclip.curate.settings import REMOVED
from metaclip.errors import MetaclipError
from metaclip.stage.stage import digest_of

VERSION: Final = 1
"""Version of the schema of card.json, in runs and in cards, where one t holds for all entries."""
VARIED_VERSION: Final = 2
"""Version where t differs from entry to entry: who knows version 1 alone would take `balance.t` for the t of all."""
NAME: Final = "metaclip-account"

_RESULT: Final = (
    "semantics", "list", "rule", "balance", "funnel", "entries", "sums", "pairs", "digests",
)  # fmt: skip
BY_LANGUAGE: Final = "by_language"
"""The field of a list with languages."""
_IF_GIVEN: Final = (REMOVED, BY_LANGUAGE)
"""Further fields that a result digest is of, where they are there."""

RUN_FIELDS: Final[dict[str, str]] = {
    "schema.name": "string",
    "schema.version": "integer",
    "result_digest": "string",
    "created": "string",
    "versions.<package>": "string",
    "semantics.match": "integer",
    "semantics.balance": "integer",
    "recipe.match.<setting>": "any",
    "recipe.match.rule.<setting>": "boolean or string",
    "recipe.balance.<setting>": "number or string or null",
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
    "funnel.not_in_subset": "integer",
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

REMOVED_FIELDS: Final[dict[str, str]] = {
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

COMBINED_FIELDS: Final[dict[str, str]] = {
    "runs[].name": "string",
    "runs[].identity": "string",
    "runs[].rows": "integer",
    "runs[].matched": "integer",
}
"""Further fields of an account of a run that combines others; the identity is that of the run's matches."""

VARIED_FIELDS: Final[dict[str, str]] = {
    "balance.t_by": "string",
    "digests.t": "string",
    "top_entries[].t": "number",
}
"""Further fields of an account, all of version 2, if t differs from entry to entry."""

LANGUAGE_FIELDS: Final[dict[str, str]] = {
    "funnel.no_list": "integer",
    "by_language[].language": "string",
    "by_language[].entries": "integer",
    "by_language[].texts": "integer",
    "by_language[].matched": "integer",
    "by_language[].t": "number",
    "by_language[].tail_share": "number",
    "by_language[].tail": "integer",
    "by_language[].head": "integer",
    "by_language[].expected": "number",
    "by_language[].kept": "integer",
    "recipe.balance.t_language.<language>": "number",
    "top_entries[].language": "string",
}
"""Further fields of an account, all of version 2, if the list has languages."""

EXTRACTED_FIELDS: Final[dict[str, str]] = {
    "extracted[].ignore_noai": "boolean or null",
    "extracted[].agents": "string or null",
    "extracted[].funnel.<step>": "integer",
}
"""Further fields of an account of a pool that `metaclip extract` made."""

IMAGE_FIELDS: Final[dict[str, str]] = {
    "images[].step": "string",
    "images[].samples": "integer",
    "images[].meaning": "string",
}
"""Further fields of an account of a run with a subset that `metaclip inspect` made."""

FIELDS: Final = (
    RUN_FIELDS
    | REMOVED_FIELDS
    | COMBINED_FIELDS
    | VARIED_FIELDS
    | LANGUAGE_FIELDS
    | EXTRACTED_FIELDS
    | IMAGE_FIELDS
)
LATER: Final = frozenset(
    {
        "removed",
        "funnel.removed",
        "funnel.not_in_subset",
        "funnel.no_list",
        "classes",
        "runs",
        "extracted",
        "images",
        "balance.t_by",
        "digests.t",
        "top_entries.[].t",
        "top_entries.[].language",
        "by_language",
        "recipe.balance.t_language",
    }
)
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
    """Raise MetaclipError if an object that is about to be written violates the schema: what it was made from does."""
    if (fault := next(faults(value, fields, strict=True), None)) is not None:
        raise MetaclipError(
            f"card.json: {fault}; manifest.json is damaged: run the command that made it again with `RunOptions(overwrite=True)`"
        )


def check_version(version: Any, where: str) -> None:
    """Raise MetaclipError for a version of the schema that is not known."""
    if version not in (VERSION, VARIED_VERSION):
        raise MetaclipError(
            f"{where} has schema version {version!r:.60}, this metaclip reads {VERSION} and {VARIED_VERSION}; install a newer one"
        )


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
    version = stated.get("version")
    check_version(version, where)
    if (fault := next(faults(value, fields, strict=False), None)) is not None:
        raise MetaclipError(f"{where}: {fault}; {again}")
    for section, field in (("balance", "t_by"), ("digests", "t")):
        if (field in value[section]) != (version == VARIED_VERSION):
            stands = "stands in it" if field in value[section] else "is missing"
            raise MetaclipError(
                f"{where}: {section}.{field} {stands}, but its schema version is {version}; {again}"
            )


def result_digest(account: Mapping[str, Any]) -> str:
    """Compute the digest of what an account, or the card made of it, says came out.

    It identifies the result: not when, where or by which engine it was made, nor in how many files the pool was.
    """
    result = {name: account[name] for name in (*_RESULT, *_IF_GIVEN) if name in account}
    return digest_of(
        {
            **result,
            "list": {name: account["list"][name] for name in ("digest", "entries")},
            # What does not occur is left out, so that a setting or a reason added later changes no digest.
            "rule": changed_settings(account["rule"]),
            "funnel": {step: rows for step, rows in account["funnel"].items() if rows},
            "balance": {name: value for name, value in account["balance"].items() if name != "asked"},
        }
    )


def changed_settings(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a text rule that differ from the paper's."""
    return {name: value for name, value in rule.items() if value not in (False, "none")}
