"""Check that a run folder is as it was written, before something is published or made from it.

Its account is made again and compared; `metaclip card verify` goes deeper, down to the matches. Cost: reading
entries.parquet and curated.npy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from metaclip.curate import schema
from metaclip.curate.account import FIELDS, SCHEMA, make_account
from metaclip.curate.run import Run
from metaclip.errors import MetaclipError

MANIFEST_VERSION: Final = 1


def check_unedited(run: Run) -> None:
    """Raise MetaclipError for a run that is not finished, was edited, or is of a newer schema."""
    version = run.manifest.get("schema")
    if version != MANIFEST_VERSION:
        raise MetaclipError(
            f"{run.path / 'manifest.json'} has schema version {version!r:.60}, this metaclip reads {MANIFEST_VERSION}; "
            "install a newer one"
        )
    again = f"balance the run again with: metaclip balance {run.path} --overwrite"
    schema.check_read(run.account, str(SCHEMA["name"]), FIELDS, str(run.path / "card.json"), again)
    # The digest differs with each of the other fields, which say more.
    if lines := sorted(account_differences(run), key=lambda line: line.startswith("result_digest")):
        raise MetaclipError(f"{run.path} was changed since it was written: card.json, {lines[0]}; {again}")


def account_differences(run: Run) -> Iterator[str]:
    """Make a run's account again and yield what differs in card.json, one line each."""
    account = run.account
    free = {name: account[name] for name in ("created", "versions")}  # another time and machine may differ in these
    yield from json_differences({**make_account(run), **free}, account)


def json_differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield what differs in two JSON values, one line each: the path, the value found, and the one that the run gives."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(expected.keys() | found.keys()):
            name = f"{path}.{key}".lstrip(".")
            if key not in expected or key not in found:
                yield f"{name}: {'missing' if key in expected else 'not of the run'}"
            else:
                yield from json_differences(expected[key], found[key], name)
    elif expected != found:
        shown = (f"{value!r:.60}" for value in (found, expected))
        yield f"{path}: {' where the run gives '.join(shown)}"
