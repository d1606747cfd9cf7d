"""A recipe becomes a list: the same on every machine, checked against what the recipe says, or refused in one line."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import Metadata
from metaclip.errors import MetaclipError
from metaclip.matching.text_rule import PAPER
from metaclip.metadata import build, build_recipe, list_digest
from metaclip.metadata.candidates import SCHEMA
from tests.processes import environment

RECIPES = sorted((Path(__file__).parents[2] / "metadata").glob("*.toml"))

HEAD = """\
[build]
total = 14

[[build.sources]]
source = "number"
kind = "numbers"
last = 9
gives = 10

[[build.sources]]
source = "mine"
kind = "list"
path = "lists/mine.parquet"
budget = 3

[[build.sources]]
source = "yours"
kind = "list"
path = "lists/yours.txt"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Write a recipe of local sources."""
    (tmp_path / "lists").mkdir()
    mine = {"entry": ["dog", "7", "hot dog", "café", "cat"], "score": [5.0, None, 2.5, 2.0, 1.0]}
    pq.write_table(pa.table(mine), tmp_path / "lists" / "mine.parquet")
    (tmp_path / "lists" / "yours.txt").write_text("cat\ndog\nDog\nSt. Louis\n")
    (tmp_path / "r.toml").write_text(HEAD)
    return tmp_path


def made(recipe: Path) -> pa.Table:
    """Build a list."""
    return build.run_sources(build.read(recipe), PAPER)[0]


def test_a_list(home: Path) -> None:
    """Sources, scores and ranks stand beside the entries; paths are relative to the recipe's folder."""
    table = made(home / "r.toml")
    assert table.schema == SCHEMA
    assert table.slice(10).to_pylist() == [
        {"entry": "dog", "source": "mine", "score": 5.0, "rank": 1},
        {"entry": "hot dog", "source": "mine", "score": 2.5, "rank": 3},
        {"entry": "café", "source": "mine", "score": 2.0, "rank": 4},
        {"entry": "cat", "source": "yours", "score": None, "rank": 1},
    ]


def test_written_and_read(home: Path) -> None:
    """What is written is read back as it was, and its digest is a list's identity."""
    table = made(home / "r.toml")
    build.write(table, home / "out.parquet")
    back = Metadata.read(home / "out.parquet")
    assert back.entries.equals(table["entry"].combine_chunks())
    assert back.source.equals(table["source"].combine_chunks())
    assert back.score.equals(table["score"].combine_chunks())
    assert back.digest == list_digest(table["entry"])
    assert pq.read_table(home / "out.parquet")["rank"].to_pylist() == table["rank"].to_pylist()
    assert sorted(path.name for path in home.iterdir()) == ["lists", "out.parquet", "r.toml"]


def test_any_hash_seed(home: Path) -> None:
    """The bytes are the same in processes of two hash seeds."""
    digests = set()
    for seed in ("1", "2"):
        out = home / f"{seed}.parquet"
        command = [
            sys.executable,
            "-m",
            "metaclip",
            "build",
            str(home / "r.toml"),
            "--out",
            str(out),
        ]
        subprocess.run(command, env=environment(PYTHONHASHSEED=seed), check=True, capture_output=True)
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_what_the_recipe_says_is_checked(home: Path) -> None:
    """Another number of entries, or another list, than the recipe says is an error that names both."""
    recipe = home / "r.toml"
    recipe.write_text(HEAD.replace("gives = 10", "gives = 11"))
    with pytest.raises(
        MetaclipError, match=r"sources\]\] 1: 'number' gives 10 entries, the recipe says 11"
    ):
        made(recipe)
    digest = list_digest(made(write(home, HEAD))["entry"])
    assert len(made(write(home, HEAD.replace("[build]", f'[build]\ndigest = "{digest}"')))) == 14
    with pytest.raises(MetaclipError, match=rf"digest is {digest}, the recipe says {'0' * 64}"):
        made(write(home, HEAD.replace("[build]", f'[build]\ndigest = "{"0" * 64}"')))


def write(home: Path, text: str) -> Path:
    """Write another recipe in place of the first."""
    (home / "r.toml").write_text(text)
    return home / "r.toml"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[build]\n", "[bild]\n", ["one table [build]"]),
        ("total = 14", "totl = 14", ["unknown key 'totl'", "did you mean 'total'"]),
        ("total = 14", 'total = "many"', ["total is 'many'"]),
        ("total = 14", "total = 16", ["give 15 entries (10 number + 3 mine + 2 yours)", "total is 16"]),
        ('kind = "numbers"', 'kind = "nmbers"', ["sources]] 1", "kind is 'nmbers'", "numbers, list"]),
        ('kind = "numbers"\n', "", ["sources]] 1", "missing: kind"]),
        ("last = 9", "lst = 9", ["unknown key 'lst'", "did you mean 'last'"]),
        ("last = 9", "first = 10\nlast = 9", ["0 <= first <= last"]),
        ("budget = 3", "budget = 9", ["'mine'", "has 4 new entries", "budget is 9"]),
        ("budget = 3", "budget = 0", ["budget is 0"]),
        ('path = "lists/mine.parquet"\n', "", ["sources]] 2 (list)", "missing: path"]),
        ("yours.txt", "nowhere.txt", ["there is no file", "lists/nowhere.txt"]),
    ],
)
def test_bad_recipes(old: str, new: str, says: list[str], home: Path) -> None:
    """A recipe with a mistake is refused in one line that names file or source, key and value."""
    assert old in HEAD
    with pytest.raises(MetaclipError) as error:
        made(write(home, HEAD.replace(old, new, 1)))
    for words in says:
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_recipes_that_are_none(home: Path) -> None:
    """A recipe that is missing, has no sources, or has more than a list in it, is refused."""
    for text, says in (
        ("[build]\ntotal = 1\n", "sources is None"),
        ("[build]\nsources = []\n", r"sources is \[\]"),
        ("[build]\nsources = [1]\n", "is 1, must be a table"),
        (HEAD + "[match]\n", "build, match"),
    ):
        with pytest.raises(MetaclipError, match=says):
            made(write(home, text))
    with pytest.raises(MetaclipError, match="there is no recipe"):
        build.read(home / "no.toml")


def test_bad_names_of_outputs(home: Path) -> None:
    """A list is written as parquet; a folder that cannot be written to is named, and nothing half-written stays."""
    with pytest.raises(MetaclipError, match=r"must end in \.parquet"):
        build.write(made(home / "r.toml"), home / "out.txt")
    (home / "file").write_text("")
    with pytest.raises(MetaclipError, match=r"file/out\.parquet cannot be written"):
        build.write(made(home / "r.toml"), home / "file" / "out.parquet")


def test_every_kind_is_there() -> None:
    """Each kind of source names a module, settings and a function that are there."""
    for kind in build_recipe.KINDS.values():
        module = build_recipe.kind_module(kind)
        assert isinstance(getattr(module, kind.settings), type)
        assert callable(getattr(module, kind.function))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes(path: Path) -> None:
    """Every recipe here is read; its head gives the command, the cost and what to expect; packages have their licence."""
    recipe = build.read(path)
    text = path.read_text()
    head = text[: text.index("[build]")]
    assert all(line.startswith("#") or not line for line in head.splitlines())
    assert f"metaclip build metadata/{path.name} --out" in head
    assert "Cost" in head
    assert "Expected" in head
    for source in recipe.sources:
        assert source.common.licence or source.common.kind == "numbers"


def test_the_toy_recipe() -> None:
    """The toy recipe gives the toy list behind ten digits."""
    folder = Path(__file__).parents[2] / "metadata"
    table = made(folder / "toy.toml")
    toy = Metadata.read(folder / "toy.txt").entries.to_pylist()
    assert table["entry"].to_pylist() == [str(digit) for digit in range(10)] + toy
