"""The schema, the page that documents it, and what is written and read are one; what is spoiled is one clear line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from metaclip import Run, RunOptions, curate, match
from metaclip.card.publish import CARD_FIELDS
from metaclip.curate.schema import (
    EXTRACTED_FIELDS,
    FIELDS,
    IMAGE_FIELDS,
    LANGUAGE_FIELDS,
    REMOVED_FIELDS,
    RUN_FIELDS,
    VARIED_FIELDS,
    VERSION,
    check_written,
    faults,
)
from metaclip.errors import MetaclipError
from tests import commands
from tests.runs import forget_checksums

ROOT = Path(__file__).parents[2]
ONE = RunOptions(workers=1)


def documented(heading: str) -> dict[str, str]:
    """Read the fields and types of the first table under a heading of data_cards/README.md."""
    page = (ROOT / "data_cards" / "README.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = section[section.index("| field |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {name: row[1] for row in rows for name in re.findall("`([^`]+)`", row[0])}


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("card.json", RUN_FIELDS),
        ("A version with pairs taken out", REMOVED_FIELDS),
        ("A set with weights", VARIED_FIELDS),
        ("A set of a list with languages", LANGUAGE_FIELDS),
        ("A pool that was extracted from a crawl", EXTRACTED_FIELDS),
        ("A set made with a subset", IMAGE_FIELDS),
        ("The published card", CARD_FIELDS),
    ],
)
def test_the_page_is_the_schema(heading: str, fields: dict[str, str]) -> None:
    """Field by field, with the types."""
    assert documented(heading) == fields


VALUE = {
    "schema": {"name": "x", "version": 1},
    "free": {"a": 1, "b": 2},
    "rows": [{"n": 1}, {"n": None}],
    "any": [1, {"x": None}],
    "maybe": None,
    "flag": True,
}
SMALL = {
    "schema.name": "string", "schema.version": "integer", "free.<name>": "integer", "rows[].n": "integer or null",
    "any": "any", "maybe": "object or null", "maybe.of": "number", "flag": "boolean",
}  # fmt: skip
SPOILED: list[tuple[str, Callable[[Any], None], str | None]] = [
    ("as it is", lambda v: None, None),
    ("a number for a string", lambda v: v["schema"].update(name=3), "schema.name is 3, must be string"),
    ("true is no integer", lambda v: v["free"].update(a=True), "free.a is True, must be integer"),
    ("in a list", lambda v: v["rows"][1].update(n="x"), "rows[1].n is 'x', must be integer or null"),
    ("missing", lambda v: v["rows"][0].pop("n"), "rows[0].n is missing"),
    ("a whole branch missing", lambda v: v.pop("free"), "free is missing"),
    ("a list for an object", lambda v: v.update(free=[]), "free is [], must be an object"),
    ("an object for a list", lambda v: v.update(rows={}), "rows is {}, must be a list"),
    ("an object where null was", lambda v: v.update(maybe={"of": 1}), None),
    ("a wrong one there", lambda v: v.update(maybe={"of": "x"}), "maybe.of is 'x', must be number"),
    ("neither", lambda v: v.update(maybe=7), "maybe is 7, must be object or null"),
    ("anything", lambda v: v.update(any="x"), None),
]


@pytest.mark.parametrize(("spoil", "fault"), [pytest.param(*case[1:], id=case[0]) for case in SPOILED])
def test_faults(spoil: Callable[[Any], None], fault: str | None) -> None:
    """The first thing that is wrong is named with its place, its value and what it must be."""
    value = json.loads(json.dumps(VALUE))
    spoil(value)
    assert next(faults(value, SMALL, strict=True), None) == fault
    assert next(faults(value, SMALL, strict=False), None) == fault


def test_a_field_too_many() -> None:
    """A reader lets it pass: a later version of us may have added it. A writer may not write it."""
    value = {**VALUE, "new": 1}
    assert list(faults(value, SMALL, strict=False)) == []
    assert list(faults(value, SMALL, strict=True)) == ["new is in no schema"]
    with pytest.raises(MetaclipError, match="new is in no schema"):
        check_written(value, SMALL)


# --- run folders that no card can be made of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    home = tmp_path_factory.mktemp("schema")
    curate(
        ROOT / "curation" / "toy_pool.jsonl",
        ROOT / "metadata" / "toy.txt",
        out=home / "run",
        t=20,
        options=ONE,
    )
    return home


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_entries(run: Path, name: str, change: Callable[[Any], Any]) -> None:
    table = pq.read_table(run / "entries.parquet")
    place = table.column_names.index(name)
    values = change(table[name].to_numpy().copy())
    pq.write_table(table.set_column(place, name, [values]), run / "entries.parquet")


def one_more(values: Any) -> Any:
    values[0] += 1
    return values


BAD: list[tuple[str, Callable[[Path], Any], str]] = [
    ("unfinished", lambda r: edit(r / "manifest.json", lambda m: m.pop("stages")), "is not finished; run the command that began it again"),
    ("no manifest", lambda r: (r / "manifest.json").unlink(), "is not finished; run the command that began it again"),
    ("not balanced", lambda r: edit(r / "manifest.json", lambda m: m["stages"].pop("balance")), "is matched but not balanced; run: metaclip balance"),
    ("no account", lambda r: (r / "card.json").unlink(), "card.json is gone or damaged"),
    ("half an account", lambda r: (r / "card.json").write_text("{"), "card.json is gone or damaged"),
    ("a digest edited", lambda r: edit(r / "card.json", lambda c: c.update(result_digest="0" * 64)), "was changed since it was written: card.json, result_digest: '0000"),
    ("a figure edited", lambda r: edit(r / "card.json", lambda c: c["pairs"].update(kept=1)), "was changed since it was written: card.json, pairs.kept: 1 where the run gives"),
    ("a field gone", lambda r: edit(r / "card.json", lambda c: c["pairs"].pop("kept")), "card.json: pairs.kept is missing"),
    ("a wrong type", lambda r: edit(r / "card.json", lambda c: c.update(inputs={})), "card.json: inputs is {}, must be a list"),
    ("counts edited", lambda r: edit(r / "manifest.json", lambda m: m["stages"]["match"].update(counts_digest="0" * 64)), "counts.parquet is damaged (it has other entries or counts than were written)"),
    ("entries edited", lambda r: (forget_checksums(r), edit_entries(r, "kept", one_more)), "was changed since it was written: card.json, sums.kept"),
    ("entries damaged", lambda r: edit_entries(r, "kept", one_more), "entries.parquet is damaged (it has other bytes than were written)"),
    ("the subset edited", lambda r: np.save(r / "curated.npy", np.load(r / "curated.npy")[1:]), "was changed since it was written: card.json, digests.curated"),
    ("a newer manifest", lambda r: edit(r / "manifest.json", lambda m: m.update(schema=2)), "manifest.json has schema version 2, this metaclip reads 1; install a newer one"),
    ("a newer account", lambda r: edit(r / "card.json", lambda c: c["schema"].update(version=3)), "card.json has schema version 3, this metaclip reads 1 and 2; install a newer one"),
    ("the schema of thresholds by entry", lambda r: edit(r / "card.json", lambda c: c["schema"].update(version=2)), "card.json: balance.t_by is missing, but its schema version is 2"),
    ("thresholds by entry", lambda r: edit(r / "card.json", lambda c: c["balance"].update(t_by="weight")), "card.json: balance.t_by stands in it, but its schema version is 1"),
    ("another schema", lambda r: edit(r / "card.json", lambda c: c["schema"].update(name="x")), "is of the schema 'x', must be 'metaclip-account'"),
    ("no schema", lambda r: edit(r / "card.json", lambda c: c.update(schema=7)), "is of the schema None"),
]  # fmt: skip


@pytest.mark.parametrize("verb", ["make", "remove"])
@pytest.mark.parametrize(("spoil", "message"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_a_spoiled_run(
    made: Path, tmp_path: Path, spoil: Callable[[Path], Any], message: str, verb: str
) -> None:
    """One line, exit code 2, and nothing is written."""
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    spoil(run)
    (tmp_path / "uids.txt").write_text(Run(made / "run").curated["uid"][0].as_py())
    more = ("--uids", tmp_path / "uids.txt") if verb == "remove" else ()
    assert message in commands.refused("card", verb, run, "--out", tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_only_matched(tmp_path: Path) -> None:
    """It names the next command."""
    match(
        ROOT / "curation" / "toy_pool.jsonl",
        ROOT / "metadata" / "toy.txt",
        out=tmp_path / "run",
        options=ONE,
    )
    line = commands.refused("card", tmp_path / "run", "--out", tmp_path / "card")
    assert "is matched but not balanced; run: metaclip balance" in line


def test_accounts_are_checked_when_written(made: Path) -> None:
    """An account is of its schema, to the letter; versions stand in one place."""
    account = Run(made / "run").account
    check_written(account, FIELDS)
    assert account["schema"]["version"] == VERSION
