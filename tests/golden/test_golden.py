"""What an earlier version left is what this version makes, verifies and goes on from, by the command line alone.

The files beside this one are kept as `tests.golden.make` made them, and are not made anew where a test fails: a later
version must take up folders that exist. `tests.golden.compare` says what "the same" leaves out.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests import commands
from tests.golden import make
from tests.golden.compare import digest, digests, text, without_plots

GOLDEN: Final = json.loads((make.HERE / "digests.json").read_text(encoding="utf-8"))
NEEDS: Final = {"half_extract": "isal", "half_pool": "isal", "extract": "isal"}
"""Modules that commands need besides the core."""
RUN_AGAIN: Final = ("run", "rebalanced", "removed", "many", "extract", "reshard")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a copy of the golden files, in which commands run."""
    folder = make.place(tmp_path.resolve() / "golden")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", make.EPOCH)
    return folder


def check_said(name: str, place: Path) -> None:
    """Run a command; its exit code and what it writes are those of `make`."""
    done = commands.call(*make.NAMED[name].arguments)
    found = {"code": done.code, "out": text(done.out, place), "err": text(done.err, place)}
    assert found == GOLDEN["commands"][name]


def check_tree(found: Mapping[str, str], tree: str) -> None:
    """Compare a tree, as `digests` gives it, with the golden one of a name."""
    wanted = GOLDEN["trees"][tree]
    if not same_versions(make.PLOTTERS):
        found, wanted = without_plots(found), without_plots(wanted)
    assert sorted(found) == sorted(wanted), "other files"
    assert [name for name in wanted if found[name] != wanted[name]] == [], "other content"


def same_versions(names: tuple[str, ...]) -> bool:
    """Return whether packages are installed in the versions that made the golden files."""
    versions = make.versions()
    return all(versions[name] == GOLDEN["versions"][name] for name in names)


def files(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the inode, time and bytes of all files but locks, which show whether a file was written again."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.is_file() and not (path.parent.name == ".state" and path.name != "fingerprint.json")
    }


def finished(folder: Path) -> set[str]:
    """Return the files that finished shards left, by their markers."""
    markers = [json.loads(path.read_bytes()) for path in folder.glob(".state/*/*.json")]
    return {name for marker in markers for name in marker.get("files", {})}


def check_checksums(folder: Path) -> None:
    """Compare the checksums in markers and records, of all files that there are, with the files."""
    written = [json.loads(path.read_bytes()) for path in folder.glob(".state/*/*.json")]
    if (folder / "manifest.json").exists():
        written += json.loads((folder / "manifest.json").read_bytes())["stages"].values()
    found = {name: crc for marker in written for name, crc in marker.get("crc32", {}).items()}
    wanted = {
        name: f"{zlib.crc32((folder / name).read_bytes()):08x}"
        for name in found
        if (folder / name).exists()
    }
    assert wanted or not (folder / "curated").exists(), "only a run's files are read again"
    assert {name: found[name] for name in wanted} == wanted


def check_continued(tree: str, arguments: tuple[Any, ...], ends: str, place: Path) -> None:
    """Run the command that was killed in `tree`: it ends as undisturbed in `ends`, and makes nothing finished again."""
    done_before, before = finished(place / tree), files(place / tree)
    assert done_before
    done = commands.call(*arguments, "--out", tree)
    assert done.code == 0, done.err
    found = digests(place / tree, place)
    check_tree(found, ends)
    after = files(place / tree)
    assert {name for name in done_before & after.keys() if after[name] != before[name]} == set(), (
        "made again"
    )


# Kept ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", sorted(GOLDEN["trees"].keys() - {".", *make.COMPARED_ALONE}))
def test_the_files_are_those_that_were_made(place: Path, tree: str) -> None:
    """Nothing in the tree was changed since, by hand, by an editor or by git."""
    wanted = GOLDEN["trees"][tree]
    if tree == "card_rebalanced":  # the rest of it is compared only
        wanted = {name: wanted[name] for name in ("card.json", "entries.parquet")}
    assert digests(place / tree, place) == wanted


def test_the_result_is_that_of_the_readme(place: Path) -> None:
    """The toy pool's digest, as the README shows it."""
    assert json.loads((place / "run" / "card.json").read_bytes())["result_digest"].startswith(
        "3594d35f4ace18b2"
    )


# Made ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["run", "whole", "solved", "rebalanced", "removed", "applied", "many", "extract", "reshard"],
)
def test_made_anew(place: Path, name: str) -> None:
    """A command gives the same tree in a new folder as it gave then, and says the same."""
    pytest.importorskip(NEEDS.get(name, "metaclip"), reason="needs metaclip[crawl]")
    tree = make.NAMED[name].tree
    assert tree is not None
    if (place / tree).exists():
        (place / tree).rename(place / "before")
    check_said(name, place)
    check_tree(digests(place / tree, place), tree)
    if (place / tree / ".state").exists():
        check_checksums(place / tree)


def test_built_anew(place: Path) -> None:
    """A list from a dump, and the dump's counts, are the same."""
    pytest.importorskip("mwparserfromhell", reason="needs metaclip[build]")
    pytest.importorskip("mwxml", reason="needs metaclip[build]")
    (place / "counts").rename(place / "before")
    (place / "built.parquet").unlink()
    check_said("build", place)
    found, wanted = digests(place / "counts", place), GOLDEN["trees"]["counts"]
    if not same_versions((make.PARSER,)):  # markers hold the digest of a fingerprint that names it
        found, wanted = (
            {name: each[name] for name in each if ".parquet" in name} for each in (found, wanted)
        )
    assert found == wanted
    assert digest(place / "built.parquet", place) == GOLDEN["trees"]["."]["built.parquet"]


@pytest.mark.parametrize("name", RUN_AGAIN)
def test_the_same_command_again_changes_nothing(place: Path, name: str) -> None:
    """A folder that an earlier version finished is finished: the command says what it said then, and writes no file."""
    pytest.importorskip(NEEDS.get(name, "metaclip"), reason="needs metaclip[crawl]")
    tree = make.NAMED[name].tree
    assert tree is not None
    before = files(place / tree)
    done = commands.done(*make.NAMED[name].arguments)
    assert text(done.out, place) == GOLDEN["commands"][name]["out"]
    assert files(place / tree) == before


@pytest.mark.parametrize(
    "name",
    ["refused", "refused_list", "refused_extract", "explain", "many_explain", "lint", "lint_json"],
)
def test_said(place: Path, name: str) -> None:
    """What a command tells of a run or a list, or refuses by its fingerprint, is the same word for word."""
    check_said(name, place)


def test_in_a_notebook(place: Path) -> None:
    """The public names give what the command line gives."""
    from metaclip import Matcher, Metadata, Run, curate

    metadata = Metadata.read("inputs/toy.txt")
    made = curate("inputs/toy_pool.jsonl", "inputs/toy.txt", t=20, out="notebook")
    check_tree(digests(place / "notebook", place), "run")
    run = Run("run")
    versions = {"versions": None}  # of the packages that wrote the golden run
    assert run.account | versions == made.account | versions
    assert run.entries.equals(made.entries)
    assert run.t == 20
    assert Matcher(metadata).match(["a photo of a dog", "nothing"]).to_pylist() == [
        [0, 1, 12, 13, 14, 15],
        [],
    ]
    assert Run("rebalanced").matched.path.resolve() == place / "run"


# Continued -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", make.HALVES, ids=lambda half: half.tree)
def test_continued(place: Path, half: make.Half) -> None:
    """What a killed process left is taken up: finished shards stay, and the end is as if nobody had killed it."""
    pytest.importorskip(NEEDS.get(half.tree, "metaclip"), reason="needs metaclip[crawl]")
    if "remove" in half.arguments:
        commands.done(*make.NAMED["whole"].arguments)
    check_continued(half.tree, half.arguments, half.ends, place)


def test_continued_by_another_part(place: Path) -> None:
    """Part 2/2 of a job array adds up what part 1/2 of an earlier version left."""
    before = files(place / "half_parts")
    shards = finished(place / "half_parts")
    commands.done(*make.PARTS, "--part", "2/2", "--out", "half_parts")
    commands.done("balance", "half_parts", "--t", 20, *make.ONE)
    check_tree(digests(place / "half_parts", place), "whole")
    after = files(place / "half_parts")
    assert {name for name in shards & after.keys() if after[name] != before[name]} == set(), "made again"


def test_continued_when_a_lost_file_is_mended(place: Path) -> None:
    """A run that lost a file reads that file alone, once it is whole."""
    assert list((place / "lost").glob(".state/match/*.lost.json"))
    check_continued("lost", (*make.CURATE, *make.ONE), "whole", place)


def test_a_count_continued(place: Path) -> None:
    """The count of a dump goes on, where the parser is of the version that its fingerprint names."""
    pytest.importorskip("mwxml", reason="needs metaclip[build]")
    if not same_versions((make.PARSER,)):
        pytest.skip(f"the count was begun with {make.PARSER} {GOLDEN['versions'][make.PARSER]}")
    before, shards = files(place / "half_counts"), finished(place / "half_counts")
    commands.done("build", "inputs/build_half.toml", "--out", "half.parquet", *make.ONE)
    check_tree(digests(place / "half_counts", place), "counts")
    assert digest(place / "half.parquet", place) == GOLDEN["trees"]["."]["built.parquet"]
    after = files(place / "half_counts")
    assert {name for name in shards & after.keys() if after[name] != before[name]} == set(), "made again"


# Published -------------------------------------------------------------------------------------------------------------


def test_a_card_verified(place: Path) -> None:
    """A card of an earlier version follows from its run, figure by figure."""
    check_said("verify", place)


def test_cards_compared(place: Path) -> None:
    """The difference of two cards is the same Markdown."""
    check_said("diff", place)


@pytest.mark.extra
@pytest.mark.parametrize("name", ["card", "card_rebalanced"])
def test_published_anew(place: Path, name: str) -> None:
    """A card made from the golden run is the golden card, but for the page's own scripts."""
    pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
    pytest.importorskip("vl_convert", reason="needs the extra cards: pip install -e '.[cards]'")
    (place / name).rename(place / "before")
    check_said(name, place)
    check_tree(digests(place / name, place), name)
