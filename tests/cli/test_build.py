"""`metaclip build` and `metaclip lint` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from metaclip import Metadata
from tests import commands

ROOT = Path(__file__).parents[2]
TOY = ROOT / "metadata" / "toy.toml"


def test_build(tmp_path: Path) -> None:
    """A list is written, its composition printed, the sources named while they run."""
    done = commands.done("build", TOY, "--out", tmp_path / "toy.parquet")
    metadata = Metadata.read(tmp_path / "toy.parquet")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[1:3] == [["number", "10", "10"], ["toy", "157", "157"]]
    assert lines[3] == ["total", "167", "digest", metadata.digest]
    assert done.err == "number: numbers\ntoy: list\n"
    assert pq.read_table(tmp_path / "toy.parquet").column_names == ["entry", "source", "score", "rank"]


def test_build_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing recipe and a name that is not of a parquet file are refused before anything runs."""
    assert "no.toml" in commands.refused("build", tmp_path / "no.toml", "--out", tmp_path / "x.parquet")
    assert "must end in .parquet" in commands.refused("build", TOY, "--out", tmp_path / "x.txt")
    assert not list(tmp_path.iterdir())


def test_a_source_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the archive, its digest and the folder to put it into are named, and nothing is written."""
    monkeypatch.setenv("METACLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    recipe = tmp_path / "r.toml"
    text = (ROOT / "metadata" / "english.toml").read_text()
    start = text.index('[[build.sources]]\nsource = "unigram"')
    end = text.index('[[build.sources]]\nsource = "bigram"')
    recipe.write_text("[build]\n" + text[start:end])
    done = commands.call("build", recipe, "--out", tmp_path / "x.parquet")
    assert done.code == 2
    for words in (
        "pywordfreq==0.4.2 cannot be fetched",
        "0294146aa5180b4f",
        str(tmp_path / "cache" / "sources"),
    ):
        assert words in done.err
    assert done.err.count("\n") == 2, "the source, and the error"
    assert not (tmp_path / "x.parquet").exists()


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Write a list in which much is wrong."""
    path = tmp_path / "list.txt"
    path.write_text("dog\nSt. Louis\nDog\n&lt;br&gt\na\n3.5\n")
    return path


def test_lint(bad: Path) -> None:
    """Entries that can never match are shown with what would help, and end the command with 2."""
    done = commands.call("lint", bad)
    assert done.code == 2
    assert done.err == ""
    assert "row 1       'St. Louis'  matches with --space-entries" in done.out
    assert "row 2       'Dog'  row 0, 'dog'" in done.out
    counts = {line.split()[0]: line.split()[1] for line in done.out.splitlines()[:5]}
    assert counts["entries"] == "6"
    assert counts["dead"] == "3"


def test_lint_under_another_rule(bad: Path) -> None:
    """Under a rule that spaces entries nothing is dead; what looks wrong is an error only where it is asked for."""
    assert "dead                   0" in commands.done("lint", bad, "--space-entries").out
    assert commands.call("lint", bad, "--space-entries", "--strict").code == 2
    bad.write_text("dog\nDog\na\n")
    commands.done("lint", bad, "--strict")


def test_lint_as_json(bad: Path) -> None:
    """For programs the same stands in JSON, with the list's digest and the rule."""
    done = commands.call("lint", bad, "--json", "--fold-case")
    assert done.code == 2
    found = json.loads(done.out)
    assert found["list"] == Metadata.read(bad).digest
    assert found["rule"]["fold_case"] is True
    assert found["counts"]["dead"] == 3
    dead = [finding for finding in found["findings"] if finding["kind"] == "dead"]
    assert dead[0] == {
        "row": 1,
        "entry": "St. Louis",
        "kind": "dead",
        "note": "matches with --space-entries",
    }


def test_lint_shows_ten_of_a_kind(bad: Path) -> None:
    """Of many findings of a kind the first ten are shown, with the number of the others."""
    bad.write_text("".join(f"{number}.5\n" for number in range(100, 112)))
    shown = commands.call("lint", bad).out
    assert "'109.5'" in shown
    assert "'110.5'" not in shown
    assert "... and 2 more (--json)" in shown


def test_lint_a_list_that_is_none(tmp_path: Path) -> None:
    """A list with doubles is refused as everywhere, unless they are folded."""
    (tmp_path / "l.txt").write_text("dog\ndog\n")
    assert "rows 1 and 2" in commands.refused("lint", tmp_path / "l.txt")
    commands.done("lint", tmp_path / "l.txt", "--fold-duplicates")
