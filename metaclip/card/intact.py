"""Whether a run folder is as it was written, before something is published or made of it.

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
FREE: Final = ("created", "versions")
"""Fields of an account that another making of it may not give again."""


def check_intact(run: Run) -> dict[str, Any]:
    """Give a balanced run's account. Raise MetaclipError for a run not finished, edited, or of a newer schema."""
    version, where = run.manifest.get("schema"), run.path / "card.json"
    if version != MANIFEST_VERSION:
        raise MetaclipError(
            f"{run.path / 'manifest.json'} has schema version {version!r:.60}, this metaclip reads {MANIFEST_VERSION}; "
            "install a newer one"
        )
    account = run.account
    again = f"balance the run again with: metaclip balance {run.path} --overwrite"
    schema.check_read(account, str(SCHEMA["name"]), FIELDS, str(where), again)
    fresh = {**make_account(run), **{name: account[name] for name in FREE}}
    # The digest differs with each of the others, which say more.
    if lines := sorted(compare(fresh, account), key=lambda line: line.startswith("result_digest")):
        raise MetaclipError(f"{run.path} was changed since it was written: card.json, {lines[0]}; {again}")
    return account


def compare(mine: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Name what differs in two JSON values, one line each: what was found, and what the run gives."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        for key in sorted(mine.keys() | theirs.keys()):
            name = f"{where}.{key}".lstrip(".")
            if key not in mine or key not in theirs:
                yield f"{name}: {'missing' if key in mine else 'not of the run'}"
            else:
                yield from compare(mine[key], theirs[key], name)
    elif mine != theirs:
        shown = (f"{value!r:.60}" for value in (theirs, mine))
        yield f"{where}: {' where the run gives '.join(shown)}"
