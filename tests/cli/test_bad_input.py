"""Bad input: one clear line with file, place and next step, the documented exit code, nothing half-written, no traceback.

`tests.commands.refused` asserts for each: exit code 2, one line on standard error, nothing on standard output.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import MetaclipError, Run
from tests import commands, processes

ENTRIES = ["dog", "cat", "photo", "of"]
CURATE = ("curate", "pool.parquet", "--metadata", "list.txt", "--t", 5, "--out", "run")


def table(first: int = 0, rows: int = 40) -> pa.Table:
    """Make pairs, most of which match."""
    numbers = range(first, first + rows)
    texts = [["a photo of a dog", "cat", "nothing", "photo of photo"][i % 4] + f" {i}" for i in numbers]
    return pa.table({"url": [f"u{i}" for i in numbers], "text": texts})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a pool, a pool of three files, and a list."""
    pq.write_table(table(), tmp_path / "pool.parquet")
    (tmp_path / "pool").mkdir()
    for i in range(3):
        pq.write_table(table(100 * i), tmp_path / "pool" / f"{i}.parquet", row_group_size=10)
    (tmp_path / "list.txt").write_text("".join(f"{entry}\n" for entry in ENTRIES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nothing_of(run: Path) -> None:
    """Assert that a folder holds no result, and nothing that is not whole."""
    for name in ("card.json", "card.md", "curated", "curated.npy", "entries.parquet"):
        assert not (run / name).exists()
    whole(run)


def whole(run: Path) -> None:
    """Assert that all files in a folder can be read to the end, and that none has a temporary name."""
    for path in run.rglob("*"):
        assert path.suffix != ".tmp", path
        if path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))


def same(one: Path, other: Path) -> None:
    """Assert that two runs have the same result."""
    assert Run(one).account["result_digest"] == Run(other).account["result_digest"]
    assert Run(one).curated.equals(Run(other).curated)
    assert (one / "curated.npy").read_bytes() == (other / "curated.npy").read_bytes()


def lost_inputs(run: str) -> list[str]:
    """Return the names of the inputs that a run's card says are lost."""
    return [item["name"] for item in Run(run).account["lost_inputs"]]


# The pool -------------------------------------------------------------------------------------------------------------

POOLS: dict[str, tuple[Callable[[Path], Any], str, list[str]]] = {
    "no pool there": (lambda _: None, "p.parquet", ["there is no pool at p.parquet", "check the path"]),
    "no file of the glob": (lambda _: None, "x/*.parquet", ["there is no pool in x/*.parquet", ".jsonl"]),
    "empty folder": (lambda p: p.mkdir(), "p", ["there is no pool in p", ".parquet", ".csv", ".jsonl"]),
    "mixed forms": (
        lambda p: (p.mkdir(), (p / "a.csv").write_text("text\na\n"), (p / "b.jsonl").write_text("{}")), "p",
        ["p mixes csv and jsonl files", "give one kind by a glob"],
    ),
    "truncated parquet": (
        lambda p: p.write_bytes(Path("pool.parquet").read_bytes()[:-100]), "p.parquet",
        ["p.parquet cannot be read as parquet", "fetch or make the file again"],
    ),
    "empty parquet": (lambda p: p.write_bytes(b""), "p.parquet", ["p.parquet cannot be read as parquet", "fetch or make"]),
    "empty csv": (lambda p: p.write_bytes(b""), "p.csv", ["p.csv cannot be read as csv (it is empty", "column names"]),
    "empty jsonl": (lambda p: p.write_bytes(b""), "p.jsonl", ["p.jsonl cannot be read as jsonl (it is empty", "fetch or make"]),
    "another form than its name": (
        lambda p: p.write_text("text\na dog\n"), "p.parquet", ["p.parquet cannot be read as parquet", "fetch or make"],
    ),
    "broken gzip": (
        lambda p: p.write_bytes(b"\x1f\x8b\x08\x00 no more"), "p.csv.gz", ["p.csv.gz cannot be read as csv", "fetch or make"],
    ),
    "zero rows": (
        lambda p: pq.write_table(table(rows=0), p), "p.parquet", ["the pool has no rows", "p.parquet"],
    ),
    "names alone": (lambda p: p.write_text("url,text\n"), "p.csv", ["the pool has no rows", "p.csv"]),
    "no text column": (
        lambda p: pq.write_table(table().rename_columns(["link", "title"]), p), "p.parquet",
        ["p.parquet has no text column", "'text' or 'caption' or 'alt'", "'link', 'title'", "--text-column"],
    ),
    "several text columns": (
        lambda p: pq.write_table(table().rename_columns(["caption", "TEXT"]), p), "p.parquet",
        ["p.parquet: 'caption', 'TEXT' can all be the text column", "--text-column"],
    ),
    "numbers for texts": (
        lambda p: pq.write_table(pa.table({"text": [1, 2]}), p), "p.parquet",
        ["p.parquet: the text column 'text' is int64, must be string", "--text-column"],
    ),
    "nulls for texts": (
        lambda p: pq.write_table(pa.table({"text": pa.nulls(5)}), p), "p.parquet",
        ["none of the 5 rows matches any of the 4 entries", "--metadata", "--text-column"],
    ),
    "nothing matches": (
        lambda p: p.write_text("text\nnothing\nat all\n"), "p.csv",
        ["none of the 2 rows matches any of the 4 entries", "--metadata", "--text-column"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("verb", ["curate", "match"])
def test_a_bad_pool(name: str, verb: str, home: Path) -> None:
    """A pool that gives nothing ends with exit code 2 and one line, and again when the command is run again."""
    make, path, says = POOLS[name]
    make(home / path)
    for _ in range(2):
        line = commands.refused(verb, path, "--metadata", "list.txt", "--out", "run")
        for words in says:
            assert words in line
        nothing_of(home / "run")


def test_a_run_folder_as_pool(home: Path) -> None:
    """A run folder given as a pool is told apart, and its pool named."""
    commands.done(*CURATE)
    line = commands.refused("curate", "run", "--metadata", "list.txt", "--out", "again")
    assert "run is a run folder, not a pool" in line
    assert "the pool run/curated" in line


# One input of several -------------------------------------------------------------------------------------------------


def cut_page(path: Path) -> None:
    """Damage the first page of a parquet file, whose footer stays good."""
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a page is damaged": cut_page,
    "empty": lambda path: path.write_bytes(b""),
    "no text column": lambda path: pq.write_table(table(100).rename_columns(["url", "title"]), path),
    "texts are numbers": lambda path: pq.write_table(pa.table({"text": [1, 2, 3]}), path),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_one_bad_input_of_several(name: str, home: Path) -> None:
    """The others' work is kept, the lost one listed, `balance` waits for leave, and once mended all is as if it was whole."""
    given = ("--metadata", "list.txt", "--t", 5)
    commands.done("curate", "pool", *given, "--out", "undisturbed")
    path = home / "pool" / "1.parquet"
    good = path.read_bytes()
    DAMAGES[name](path)

    result = commands.call("curate", "pool", *given, "--out", "run")
    assert result.code == 3
    lines = result.err.splitlines()
    assert lines[0] == "metaclip: 1 of 3 inputs were lost:"
    assert str(path) in lines[1]
    assert "the same command again" in lines[2]
    assert "--allow-lost" in lines[2]
    assert len(lines) == 3
    nothing_of(home / "run")

    refused = commands.call("balance", "run", "--t", 5)
    assert (refused.code, refused.out) == (2, "")
    again = "match the pool again with metaclip match --out run"
    assert refused.err == result.err.replace("run the same command again", again)

    done = commands.done("balance", "run", "--t", 5, "--allow-lost", "--out", "without")
    assert "80" in done.out.splitlines()[0]
    assert lost_inputs("without") == ["1.parquet"]
    page = (home / "without" / "card.md").read_text()
    assert re.search(r"Not all inputs could be read.*1.*parquet", page)
    assert Run("without").account["funnel"]["rows"] == 80

    path.write_bytes(good)
    commands.done("curate", "pool", *given, "--out", "run")
    same(home / "run", home / "undisturbed")
    assert lost_inputs("run") == []
    whole(home / "run")


def test_curate_without_a_lost_input(home: Path) -> None:
    """With leave, `curate` goes on without a lost input, says so with exit code 3 and in the card, and takes it in later."""
    path = home / "pool" / "2.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:50])
    command = ("curate", "pool", "--metadata", "list.txt", "--t", 5, "--out", "run", "--allow-lost")
    result = commands.call(*command)
    assert result.code == 3
    assert result.err.splitlines()[0] == "metaclip: 1 of 3 inputs were lost:"
    assert "kept" in result.out
    assert lost_inputs("run") == ["2.parquet"]
    path.write_bytes(good)
    commands.done(*command)
    commands.done("curate", "pool", "--metadata", "list.txt", "--t", 5, "--out", "undisturbed")
    same(home / "run", home / "undisturbed")


def test_match_lists_lost_inputs(home: Path) -> None:
    """`match` ends with exit code 3 too, having matched the rest."""
    (home / "pool" / "0.parquet").write_bytes(b"PAR1")
    result = commands.call("match", "pool", "--metadata", "list.txt", "--out", "run")
    assert result.code == 3
    assert "1 of 3 inputs were lost" in result.err
    assert "rows" in result.out
    assert Run("run").match["funnel"]["rows"] == 80


def test_all_inputs_lost(home: Path) -> None:
    """Where no file can be read nothing is produced: exit code 2."""
    for path in (home / "pool").iterdir():
        path.write_bytes(b"PAR1")
    line = commands.refused("match", "pool", "--metadata", "list.txt", "--out", "run")
    assert "0.parquet cannot be read as parquet" in line


# The list -------------------------------------------------------------------------------------------------------------

LISTS: dict[str, tuple[str, bytes, list[str]]] = {
    "a duplicate": (
        "l.txt",
        b"dog\ncat\nhorse\ncat\n",
        ["l.txt: rows 2 and 4 are the same entry 'cat'", "--fold-duplicates"],
    ),
    "a duplicate in json": (
        "l.json",
        b'["dog", "cat", "dog"]',
        ["l.json: rows 0 and 2 are the same entry 'dog'"],
    ),
    "zero entries": ("l.txt", b"", ["l.txt has no entries"]),
    "zero entries in json": ("l.json", b"[]", ["l.json has no entries"]),
    "an empty entry": ("l.txt", b"dog\n\ncat\n", ["l.txt, row 2: the entry is empty"]),
    "not UTF-8": ("l.txt", b"dog\ncaf\xe9\n", ["l.txt, line 2: not valid UTF-8"]),
    "not a list": ("l.json", b'{"dog": 1}', ["l.json holds a JSON dict"]),
    "broken gzip": ("l.txt.gz", b"\x1f\x8b\x08 no more", ["l.txt.gz is broken gzip"]),
    "not parquet": ("l.parquet", b"PAR1", ["l.parquet is not a readable parquet file"]),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_bad_list(name: str, home: Path) -> None:
    """What is wrong in a list is named with file and row, before anything is written."""
    path, data, says = LISTS[name]
    (home / path).write_bytes(data)
    for command in (("curate", "pool.parquet", "--out", "run"), ("explain", "a dog")):
        line = commands.refused(*command, "--metadata", path)
        for words in says:
            assert words in line
    assert not (home / "run").exists()


def test_a_list_that_is_not_there(home: Path) -> None:
    """A missing list is named."""
    assert "nowhere.txt" in commands.refused(
        "curate", "pool.parquet", "--metadata", "nowhere.txt", "--out", "run"
    )


def test_duplicates_are_folded_on_request(home: Path) -> None:
    """With leave, the first of each entry is kept, and the command ends well."""
    (home / "l.txt").write_text("dog\ncat\ndog\n")
    commands.done(
        "curate", "pool.parquet", "--metadata", "l.txt", "--t", 5, "--out", "run", "--fold-duplicates"
    )
    assert Run("run").metadata.entries.to_pylist() == ["dog", "cat"]


# Flags ----------------------------------------------------------------------------------------------------------------

FLAGS: dict[str, tuple[tuple[Any, ...], list[str]]] = {
    "t is 0": (("--t", 0), ["t is 0", "above 0"]),
    "t is below 0": (("--t", -5), ["t is -5", "above 0"]),
    "t is nan": (("--t", "nan"), ["t is nan", "finite", "above 0"]),
    "t is infinite": (("--t", "inf"), ["t is inf", "finite"]),
    "t is a word": (("--t", "many"), ["'--t'", "'many'", "metaclip curate --help"]),
    "two of three": (
        ("--t", 5, "--tail-share", 0.5),
        ["t = 5", "tail_share = 0.5", "must be one of them"],
    ),
    "three of three": (
        ("--t", 5, "--tail-share", 0.5, "--target-pairs", 5),
        ["t = 5", "tail_share = 0.5", "target_pairs = 5"],
    ),
    "tail share is 1": (("--tail-share", 1), ["tail_share is 1", "below 1"]),
    "tail share is below 0": (("--tail-share", -0.1), ["tail_share is -0.1", "at least 0"]),
    "tail share is nan": (("--tail-share", "nan"), ["tail_share is nan"]),
    "no pairs": (("--target-pairs", 0), ["target_pairs is 0", "at least 1"]),
    "half a pair": (
        ("--target-pairs", 0.5),
        ["'--target-pairs'", "'0.5' is not a whole number such as 1000, 20k or 400M"],
    ),
    "seed is below 0": (("--seed", -1), ["seed is -1", "at least 0 and below 2**64"]),
    "seed is too large": (
        ("--seed", 1 << 64),
        ["seed is 18446744073709551616", "at least 0 and below 2**64"],
    ),
    "limit is 0": (("--limit", 0), ["limit is 0", "at least 1"]),
    "limit is a word": (("--limit", "few"), ["'--limit'", "'few' is not a whole number"]),
    "no workers": (("--workers", 0), ["'--workers'", "0 is not in the range"]),
    "unknown option": (("--tt", 5), ["'--tt'", "metaclip curate --help"]),
    "unknown engine": (("--engine", "abacus"), ["'--engine'", "'abacus'", "'local'"]),
    "unknown scripts": (("--unspaced-scripts", "all"), ["'--unspaced-scripts'", "'published'"]),
    "no such column": (
        ("--text-column", "title"),
        ["pool.parquet has no text column", "'title'", "'url', 'text'"],
    ),
    "no such url column": (
        ("--url-column", "link"),
        ["pool.parquet has no url column", "'link'", "'url', 'text'"],
    ),
    "no such recipe": (("--recipe", "r.toml"), ["there is no recipe r.toml"]),
    "not UTF-8": (("--text-column", "caf\udce9"), [r"'caf\udce9' is not valid UTF-8"]),
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_bad_flag(name: str, home: Path) -> None:
    """A flag that makes no sense is named with its value and what may stand there; nothing is written."""
    flags, says = FLAGS[name]
    line = commands.refused("curate", "pool.parquet", "--metadata", "list.txt", "--out", "run", *flags)
    for words in says:
        assert words in line
    assert not (home / "run").exists()


@pytest.mark.parametrize("part", ["3", "0/3", "4/3", "-1/3", "a/b", "1/0", "1/2/3", "/", "1/"])
def test_a_bad_part(part: str, home: Path) -> None:
    """A part of another form is named with the form."""
    line = commands.refused("match", "pool", "--metadata", "list.txt", "--out", "run", f"--part={part}")
    assert f"'{part}' is not of the form i/n" in line
    assert "3/100" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("curate",), "metaclip curate: Missing argument 'POOL...'"),
        (("curate", "pool.parquet"), "metaclip curate: Missing option '--out'"),
        (("balance",), "metaclip balance: Missing argument 'RUN...'"),
        (("explain",), "metaclip explain: Missing argument 'TEXT'"),
        (("explain", "a", "b"), "metaclip explain: Got unexpected extra argument (b)"),
        (("curat", "pool"), "metaclip: No such verb 'curat' (did you mean 'curate'?)"),
    ],
)
def test_a_bad_command(arguments: tuple[str, ...], says: str) -> None:
    """A command that is not whole is one line with the way to its help."""
    line = commands.refused(*arguments)
    assert line.startswith(says)
    assert "--help" in line


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (("--t", 7), "t: 5 -> 7"),
        (("--t", 5, "--seed", 1), "seed: 0 -> 1"),
        (("--t", 5, "--limit", 10), "limit: null -> 10"),
        (("--t", 5, "--fold-case"), "rule.fold_case: false -> true"),
        (("--t", 5, "--text-column", "url"), 'columns.text: null -> "url"'),
        (("--t", 5, "--with-text"), "with_text: false -> true"),
        (("--t", 5, "--metadata", "other.txt"), "metadata: other.txt has changed"),
    ],
)
def test_a_folder_of_another_run(flags: tuple[Any, ...], difference: str, home: Path) -> None:
    """A folder that holds another run is refused, naming the difference, and stays; with --overwrite it is replaced."""
    (home / "other.txt").write_text("u1\nu2\ncat\n")
    commands.done(*CURATE)
    before = Run("run").account["result_digest"]
    command = ("curate", "pool.parquet", "--metadata", "list.txt", "--out", "run", *flags)
    line = commands.refused(*command)
    assert f"run holds another run: {difference}" in line
    assert "--overwrite" in line
    assert Run("run").account["result_digest"] == before
    if "--text-column" in flags:
        return  # nothing would match
    commands.done(*command, "--overwrite")
    commands.done(*command[: -len(flags) - 1], "fresh", *flags)
    same(home / "run", home / "fresh")


def test_a_folder_of_another_pool(home: Path) -> None:
    """Another pool, and a pool that has changed, are refused for the folder of a run."""
    commands.done(*CURATE)
    line = commands.refused("curate", "pool", *CURATE[2:])
    assert 'run holds another run: pool: "pool.parquet" is gone' in line
    pq.write_table(table(500), "pool.parquet")
    line = commands.refused(*CURATE)
    assert "pool.parquet has changed since run was begun" in line
    assert "--overwrite" in line
    line = commands.refused("balance", "run", "--t", 6, "--overwrite")
    assert "pool.parquet has changed since it was matched" in line


def test_a_folder_of_other_files(home: Path) -> None:
    """A folder that holds other files is left as it is."""
    (home / "run").mkdir()
    (home / "run" / "thesis.tex").write_text("years of work")
    for flags in ((), ("--overwrite",)):
        line = commands.refused(*CURATE, *flags)
        assert "run holds files that are not a metaclip run's" in line
        assert "thesis.tex" in line
    assert [path.name for path in (home / "run").iterdir()] == ["thesis.tex"]


def test_a_file_for_a_folder(home: Path) -> None:
    """A file in the place of the output folder, or of a folder above it, is named and stays."""
    (home / "run").write_text("a file")
    assert "run is a file; --out must be a folder" in commands.refused(*CURATE)
    assert "run/deeper" in commands.refused(*CURATE[:-1], "run/deeper")
    assert (home / "run").read_text() == "a file"


def test_a_folder_that_takes_no_files(home: Path) -> None:
    """A folder in which nothing can be made is named, with the next step."""
    place = "/proc/run"  # takes no files from anyone, root neither
    if not Path(place).parent.exists():
        pytest.skip("there is no /proc here")
    line = commands.refused(*CURATE[:-1], place)
    assert "/proc/run" in line
    assert "--out" in line
    if os.geteuid() != 0:
        (home / "locked").mkdir(mode=0o500)
        line = commands.refused(*CURATE[:-1], "locked/run")
        assert "locked/run" in line
        assert "--out" in line


def test_an_output_folder_in_the_pool(home: Path) -> None:
    """An output folder that would become part of the pool is refused."""
    line = commands.refused("curate", "pool", "--metadata", "list.txt", "--out", "pool/run")
    assert "pool/run lies in the pool pool" in line
    assert sorted(path.name for path in (home / "pool").iterdir()) == [
        "0.parquet",
        "1.parquet",
        "2.parquet",
    ]


@pytest.mark.parametrize("verb", ["balance", "explain"])
def test_an_unknown_run_folder(verb: str, home: Path) -> None:
    """A run folder that is not there, or is none, is named."""
    (home / "other").mkdir()
    for name in ("nowhere", "other", "list.txt"):
        line = commands.refused(
            *(("balance", name) if verb == "balance" else ("explain", "a dog", "--run", name))
        )
        assert f"{name} is no run folder" in line


def test_a_run_that_is_not_balanced(home: Path) -> None:
    """To explain the draw of a run that was only matched, it must be balanced first, or t given."""
    commands.done("match", "pool.parquet", "--metadata", "list.txt", "--out", "run")
    assert "metaclip balance run" in commands.refused("explain", "a dog", "--run", "run")
    assert "t = 5" in commands.done("explain", "a dog", "--run", "run", "--t", 5).out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--run", "run", "--metadata", "list.txt"), "--metadata"),
        (("--run", "run", "--fold-case"), "fold_case"),
        (("--run", "run", "--t", 0), "t is 0, must be above 0"),
        (("--run", "run", "--t", "nan"), "t is nan, must be above 0"),
        (("--run", "run", "--seed", -1), "'--seed'"),
        (("--run", "run", "--epoch", -1), "'--epoch'"),
        (("--run", "run", "--url", "\udcff"), r"'\udcff' is not valid UTF-8"),
    ],
)
def test_what_explain_cannot_explain(flags: tuple[Any, ...], says: str) -> None:
    """`explain` with both a run and a list, or with numbers out of range says what to give."""
    commands.done(*CURATE)
    assert says in commands.refused("explain", "a dog", *flags)


def test_a_text_that_is_not_utf8() -> None:
    """A text of other bytes than UTF-8 is named."""
    assert r"'caf\udce9' is not valid UTF-8" in commands.refused(
        "explain", "caf\udce9", "--metadata", "list.txt"
    )


# A full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(home: Path) -> Path:
    """Make a pool whose run has files of many sizes, up to a megabyte, and curate it with room for all of them."""
    generator = np.random.default_rng(0)
    words = [*ENTRIES, *(f"word{i}" for i in range(300))]
    picked = generator.integers(0, len(words), (15_000, 6))
    texts = [" ".join(words[i] for i in row) + f" dog {n}" for n, row in enumerate(picked)]
    urls = [f"https://example.org/{i}" for i in range(len(texts))]
    pq.write_table(pa.table({"url": urls, "text": texts}), "large.parquet")
    commands.done("curate", "large.parquet", "--metadata", "list.txt", "--t", 500, "--out", "roomy")
    return home


def test_a_file_grows_too_large(large: Path) -> None:
    """Wherever a file can grow no more, the command says so in one line, leaves nothing half-written, and goes on later."""
    command = ("curate", "large.parquet", "--metadata", "list.txt", "--t", 500, "--out", "run")
    sizes = sorted({path.stat().st_size for path in (large / "roomy").rglob("*") if path.is_file()})
    assert sizes[-1] > 200_000
    for size in (1000, *(size - 1 for size in sizes[-4::2])):
        with processes.start(*command, into=large, max_bytes=size) as running:
            assert running.wait() == 2, running.err
            lines = running.err.splitlines()
            assert len(lines) == 1, running.err
            assert "metaclip: run: no room left (" in lines[0]
            assert "run the same command again" in lines[0]
            assert running.out == ""
        assert not (large / "run" / "card.json").exists()
        whole(large / "run")
    commands.done(*command)
    same(large / "run", large / "roomy")


@pytest.mark.parametrize(
    "stage",
    ["matched", "curated"],
)
def test_a_parquet_file_that_cannot_be_begun(
    stage: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even the first bytes of a file can be written, nothing of it stays."""
    begin = pq.ParquetWriter

    def full(path: Path, *given: Any, **more: Any) -> pq.ParquetWriter:
        if stage in Path(path).parts:
            Path(path).touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        return begin(path, *given, **more)

    monkeypatch.setattr(pq, "ParquetWriter", full)
    line = commands.refused(*CURATE)
    assert "metaclip: run: no room left (" in line
    whole(home / "run")


FULL = """
import os, subprocess
from pathlib import Path
from tests import commands
from tests.cli.test_bad_input import whole
disk = Path("disk")
disk.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=16k", "none", disk], check=True)
command = ("curate", "large.parquet", "--metadata", "list.txt", "--t", 500, "--out", "disk/run")
room, ends = 16, 0
os.environ["METACLIP_CACHE"] = "disk/cache"
while (result := commands.call(*command)).code:
    assert result.code == 2 and not result.out, (result.code, result.out)
    assert result.err.count("\\n") == 1 and result.err.startswith("metaclip: disk/run"), result.err
    assert "run the same command again" in result.err or "check the disk" in result.err, result.err
    whole(disk / "run")
    ends, room = ends + 1, room * 5 // 4
    assert room < 100_000, result.err
    subprocess.run(["mount", "-o", f"remount,size={room}k", disk], check=True)
whole(disk / "run")
print(ends, Path("disk/run/card.json").read_text())
"""


def test_a_full_disk(large: Path) -> None:
    """On a disk of any size that is too small, the same; and with room the same command finishes with the same result.

    The disk is a tmpfs in a mount namespace of its own, where that is permitted, and grows by a quarter at each end.
    """
    alone = ["unshare", "-m"]
    tried = subprocess.run(
        [*alone, "mount", "-t", "tmpfs", "none", "pool"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"may not mount a disk here: {tried.stderr.strip()}")
    command = [*alone, sys.executable, "-c", FULL]
    done = subprocess.run(
        command, env=processes.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ends, _, card = done.stdout.partition(" ")
    assert int(ends) > 5
    assert json.loads(card)["result_digest"] == Run("roomy").account["result_digest"]


def test_a_cache_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the automaton cannot be kept, it is built each time, and the command ends well without a word of it."""
    commands.done(*CURATE)
    monkeypatch.setenv("METACLIP_CACHE", str(home / "list.txt" / "cache"))
    assert commands.done(*CURATE[:-1], "uncached").err == ""
    same(home / "run", home / "uncached")


# --- output that nobody takes, and the home folder

TOY = Path(__file__).parents[2] / "metadata" / "toy.txt"


def metaclip(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metaclip", *map(str, arguments)], text=True, stderr=subprocess.PIPE, check=False, **options
    )  # fmt: skip


def test_standard_output_that_is_full(home: Path) -> None:
    """The run is complete; one line says that its summary could not be shown."""
    with open("/dev/full", "w") as full:
        done = metaclip("explain", "a dog", "--metadata", TOY, stdout=full)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "metaclip: standard output cannot be written ([Errno 28] No space left on device); the same command shows it again"
    ]


def test_the_home_folder(home: Path, tmp_path: Path) -> None:
    """~ is the home folder behind --out= and in quotes, where a shell leaves it, and in a recipe."""
    (tmp_path / "pool.jsonl").write_text('{"text": "a dog"}\n' * 3)
    env = {**os.environ, "HOME": str(tmp_path)}
    given = ["curate", tmp_path / "pool.jsonl", "--t", 2, "--out=~/run", f"--metadata={TOY}"]
    done = metaclip(*given, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "card.json").exists()
    shutil.copy(TOY, tmp_path / "words.txt")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "recipe.toml").write_text('[match]\nmetadata = "~/words.txt"\n[balance]\nt = 2\n')
    given = [
        "curate",
        "~/pool.jsonl",
        "--recipe",
        "~/sub/recipe.toml",
        "--out",
        "~/other",
    ]  # as from quotes
    done = metaclip(*given, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "other" / "card.json").exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'[{"text": "a dog"}, {"text": "a cat"}]', "it is a JSON array, not lines of objects; jq -c"),
        (b'[\n{"text": "a dog"},\n{"text": "a cat"}\n]\n', "it is a JSON array, not lines of objects; jq -c"),
        ('{"text": "a dog"}\n'.encode("utf-16"), "it is UTF-16; convert it to UTF-8"),
        ('{"text": "a dog"}\n'.encode("utf-16-le"), "it is UTF-16; convert it to UTF-8"),
        (b'{"text": "a dog"},\n{"text": "a cat"},\n', "no line is a JSON object; an object must be in one line"),
        (b"\n\n", "it is empty"),
    ],
)  # fmt: skip
def test_what_is_no_jsonl(data: bytes, says: str, tmp_path: Path) -> None:
    """What a file that looks like jsonl is instead is said in words."""
    (tmp_path / "a.jsonl").write_bytes(data)
    said = commands.refused("curate", tmp_path / "a.jsonl", "--metadata", TOY, "--out", tmp_path / "run")
    assert f"a.jsonl cannot be read as jsonl ({says}" in said


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_table_in_utf_16(encoding: str, name: str, tmp_path: Path) -> None:
    """What a spreadsheet exports as Unicode text is named, with the command that converts it."""
    (tmp_path / name).write_bytes("text,url\na dog,u\n".encode(encoding))
    said = commands.refused("curate", tmp_path / name, "--metadata", TOY, "--out", tmp_path / "run")
    assert (
        f"{name} cannot be read as {name[2:]} (it is UTF-16; convert it to UTF-8: iconv -f UTF-16 -t UTF-8"
        in said
    )


@pytest.mark.parametrize(
    ("row", "is_data"),
    [
        ("https://x.example/dog.jpg,a dog", True),
        ("a photo of a dog,dog", True),
        ("1,a dog,0.31", True),
        ("title,image path", False),
        ("image_url,What is shown", False),
    ],
)
def test_a_table_without_names(row: str, is_data: bool, tmp_path: Path) -> None:
    """A first row that holds values is told from one whose names are others."""
    (tmp_path / "a.csv").write_text(f"{row}\nhttps://x.example/cat.jpg,a cat\n")
    said = commands.refused("curate", tmp_path / "a.csv", "--metadata", TOY, "--out", tmp_path / "run")
    assert said.endswith("put a first row with names into the file, such as text,url") == is_data
    assert said.endswith("name it with --text-column") != is_data


def test_an_array_of_json(tmp_path: Path) -> None:
    """A .json file is no pool; the message says how it becomes one."""
    (tmp_path / "a.json").write_text('[{"text": "a dog"}]')
    said = commands.refused("curate", tmp_path / "a.json", "--metadata", TOY, "--out", tmp_path / "run")
    assert said.endswith("; make .jsonl of a JSON array by jq -c '.[]'")


def test_messages_cannot_steer_a_terminal() -> None:
    """What a message quotes from a file is shown with escapes, whatever raises it, and notes too."""
    pq.write_table(pa.table({"\x1b[2Jtitle\u202e": ["a dog"]}), "pool.parquet")
    said = commands.refused(*CURATE)
    assert "\\x1b[2Jtitle\\u202e" in said
    Path("list.txt").write_text("dog\n")
    folder = Path("\x1b[2J")
    folder.mkdir()
    (folder / "p.csv").write_text("text,url\na dog,1\nx\n")
    said = commands.done("match", folder, "--metadata", "list.txt", "--out", "run").err
    assert "\\x1b[2J/p.csv: 1 rows left out" in said
    assert str(MetaclipError("a\x07\nb\ud800 é 猫")) == "a\\x07\nb\\ud800 é 猫"
