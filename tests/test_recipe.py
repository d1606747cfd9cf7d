"""Recipes: nothing in one is ignored, and the one that a run records makes the same run again."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip import MatchSettings, MetaclipError, Run, TextRule, recipe
from metaclip.curate.settings import BalanceSettings
from metaclip.extract.settings import ExtractSettings
from tests import commands

ROOT = Path(__file__).parents[1]
POOL = ROOT / "curation" / "toy_pool.jsonl"
LIST = ROOT / "metadata" / "toy.txt"
KNOWN = {"extract": ExtractSettings, "match": MatchSettings, "balance": BalanceSettings}


@dataclasses.dataclass(frozen=True)
class Inner:
    """A table in a table."""

    word: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    """One key of each kind."""

    yes: bool = False
    number: int = 1
    real: float | None = None
    name: str | None = None
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"number is {self.number}, must be at least 1")


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ({}, Outer()),
        ({"real": 2}, Outer(real=2.0)),
        ({"real": 2.5, "number": 3, "yes": True, "name": "x"}, Outer(True, 3, 2.5, "x")),
        ({"inner": {"word": "b"}}, Outer(inner=Inner("b"))),
        ({"inner": {}}, Outer()),
    ],
)
def test_a_table_becomes_its_dataclass(table: dict[str, Any], wanted: Outer) -> None:
    """Keys are fields, tables in tables are dataclasses, and a whole number serves where a real one is meant."""
    made = recipe.settings(Outer, table, "p")
    assert made == wanted
    assert made.real is None or type(made.real) is float


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"yes": 1}, "p, yes is 1, must be bool"),
        ({"yes": "true"}, "p, yes is 'true', must be bool"),
        ({"number": True}, "p, number is True, must be int"),
        ({"number": 2.0}, "p, number is 2.0, must be int"),
        ({"number": "2"}, "p, number is '2', must be int"),
        ({"real": True}, "p, real is True, must be float"),
        ({"real": "1e3"}, "p, real is '1e3', must be float"),
        ({"real": 10**400}, "p, real is 1000000000"),
        ({"name": 5}, "p, name is 5, must be str"),
        ({"name": ["a"]}, "p, name is ['a'], must be str"),
        ({"inner": "a"}, "p, inner is 'a', must be a table"),
        ({"inner": {"word": "c"}}, "p, inner, word is 'c', must be one of 'a', 'b'"),
        ({"inner": {"word": ["a"]}}, "p, inner, word is ['a'], must be one of 'a', 'b'"),
        (
            {"numbre": 5},
            "p: unknown key 'numbre' (did you mean 'number'?); keys: yes, number, real, name, inner",
        ),
        ({"zzz": 5}, "p: unknown key 'zzz'; keys: yes, number"),
        ({"inner": {"wort": "a"}}, "p, inner: unknown key 'wort' (did you mean 'word'?)"),
        ({"number": 0}, "p: number is 0, must be at least 1"),
        ([], "p is [], must be a table"),
    ],
)
def test_what_does_not_fit_is_named(table: Any, says: str) -> None:
    """A key that nobody reads, or a value of another type, is named with what was wanted and the nearest key."""
    with pytest.raises(MetaclipError) as error:
        recipe.settings(Outer, table, "p")
    assert str(error.value).startswith(says)


@dataclasses.dataclass(frozen=True)
class Book:
    """A table of which two keys have no default."""

    name: str
    digest: str


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Keys without a default, here and in a table."""

    name: str
    inner: Book


def test_missing_keys_are_named() -> None:
    """Keys without a default that a table lacks are named, in tables of tables too."""
    with pytest.raises(MetaclipError, match="^p: missing: name, inner$"):
        recipe.settings(Shelf, {}, "p")
    with pytest.raises(MetaclipError, match="^p, inner: missing: digest$"):
        recipe.settings(Shelf, {"name": "a", "inner": {"name": "b"}}, "p")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[blance]\nt = 5\n",
            "no verb reads 'blance' (did you mean 'balance'?); tables: extract, inspect, match, balance",
        ),
        ("t = 5\n", "no verb reads 't'; tables: extract, inspect, match, balance"),
        ("balance = 5\n", "[balance] is 5, must be a table"),
        ("[balance]\nT = 5\n", "[balance]: unknown key 'T' (did you mean 't'?)"),
        (
            "[balance]\ntail_shar = 0.5\n",
            "[balance]: unknown key 'tail_shar' (did you mean 'tail_share'?)",
        ),
        ("[balance]\nt = '5'\n", "[balance], t is '5', must be float"),
        ("[balance]\nt = nan\n", "[balance]: t is nan, must be a finite number above 0"),
        (
            "[balance]\nt = 5\ntail_share = 0.5\n",
            "[balance]: t = 5.0 and tail_share = 0.5 are given, must be one of them",
        ),
        ("[balance]\nseed = -1\n", "[balance]: seed is -1, must be at least 0 and below 2**64"),
        ("[match]\nlimit = 0\n", "[match]: limit is 0, must be at least 1"),
        ("[match]\nmetadata = 5\n", "[match], metadata is 5, must be str"),
        (
            "[match.rule]\nfold_cas = true\n",
            "[match], rule: unknown key 'fold_cas' (did you mean 'fold_case'?)",
        ),
        (
            "[match.rule]\nunspaced_scripts = 'all'\n",
            "[match], rule, unspaced_scripts is 'all', must be one of 'none',",
        ),
        ("[[match]]\nlimit = 5\n", "[match] is [{'limit': 5}], must be a table"),
    ],
)
def test_a_recipe_that_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    """What is wrong in a recipe stops the command before it does anything, in one line with file, table and key."""
    path = tmp_path / "my.toml"
    path.write_text(text)
    line = commands.refused(
        "curate", POOL, "--metadata", LIST, "--recipe", path, "--out", tmp_path / "run"
    )
    assert f"my.toml, {says}" in line or f"my.toml: {says}" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"t = \n",
        b"[balance\n",
        b"[balance]\nt = 1\nt = 2\n",
        b"\xff\xfe",
        b"x = " + b"9" * 5000,
        b"x = " + b"[" * 5000,
    ],
)
def test_a_recipe_that_is_not_toml(data: bytes, tmp_path: Path) -> None:
    """A file that is not TOML is named with the place."""
    path = tmp_path / "my.toml"
    path.write_bytes(data)
    with pytest.raises(
        MetaclipError, match=r"the recipe .*my\.toml cannot be read \(.+\); a recipe is a TOML file"
    ):
        recipe.read(path)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    """A missing recipe and a folder in its place are named."""
    with pytest.raises(MetaclipError, match=r"there is no recipe .*my\.toml"):
        recipe.read(tmp_path / "my.toml")
    with pytest.raises(MetaclipError, match="the recipe .* cannot be read"):
        recipe.read(tmp_path)


rules = st.builds(
    TextRule,
    **{
        field.name: st.booleans()
        for field in dataclasses.fields(TextRule)
        if field.name != "unspaced_scripts"
    },
    unspaced_scripts=st.sampled_from(["none", "published", "fixed"]),
)
names = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
matches = st.builds(
    MatchSettings, metadata=names, fold_duplicates=st.booleans(), text_column=names, url_column=names, uid_column=names,
    limit=st.none() | st.integers(1, 1 << 62), with_text=st.booleans(), rule=rules,
)  # fmt: skip
balances = st.one_of(
    st.builds(
        BalanceSettings, t=st.none() | st.floats(1e-300, 1e300), seed=st.integers(0, (1 << 64) - 1)
    ),
    st.builds(BalanceSettings, tail_share=st.floats(0, 1, exclude_max=True)),
    st.builds(BalanceSettings, target_pairs=st.integers(1, 1 << 62)),
)


@given(matches, balances)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, match: MatchSettings, balance: Any
) -> None:
    """Any settings, written as a recipe, are the same settings when it is read."""
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_text(recipe.dump({"match": match, "balance": balance}), encoding="utf-8")
    assert recipe.tables(recipe.read(path), "r", KNOWN) == {"match": match, "balance": balance}


# Recipes and the command line -----------------------------------------------------------------------------------------


def recorded(run: Path) -> dict[str, Any]:
    """Read the recipe that a run recorded, as settings."""
    return recipe.tables(recipe.read(run / "recipe.toml"), "r", KNOWN)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that holds the toy pool, and in `lists/` its query list and a recipe that names it."""
    shutil.copy(POOL, tmp_path / "pool.jsonl")
    (tmp_path / "lists").mkdir()
    shutil.copy(LIST, tmp_path / "lists" / "toy.txt")
    text = '[match]\nmetadata = "toy.txt"\nlimit = 300\n[match.rule]\nfold_case = true\n[balance]\nt = 5\nseed = 3\n'
    (tmp_path / "lists" / "toy.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_path_in_a_recipe_is_of_its_folder(home: Path) -> None:
    """A recipe names a list beside it, wherever the command is run."""
    commands.done("curate", "pool.jsonl", "--recipe", "lists/toy.toml", "--out", "run")
    run = Run("run")
    assert run.match["rule"]["fold_case"]
    assert (run.t, run.seed, run.match["funnel"]["rows"]) == (5.0, 3, 300)


def test_flags_override_a_recipe(home: Path) -> None:
    """A flag stands over the recipe's key, and the run records what was used, not what was asked first."""
    flags = ["--t", 7, "--seed", 4, "--limit", "0.2k", "--nfc", "--metadata", "lists/toy.txt"]
    commands.done("curate", "pool.jsonl", "--recipe", "lists/toy.toml", *flags, "--out", "run")
    used = recorded(home / "run")
    assert used["balance"] == BalanceSettings(t=7.0, seed=4)
    assert (used["match"].limit, used["match"].rule) == (200, TextRule(fold_case=True, nfc=True))


@pytest.mark.parametrize("flag", ["--tail-share=0.5", "--target-pairs=100"])
def test_a_t_of_another_kind_replaces_the_recipes(flag: str, home: Path) -> None:
    """A share or a number of pairs on the command line replaces the recipe's t; the seed stays."""
    commands.done("curate", "pool.jsonl", "--recipe", "lists/toy.toml", flag, "--out", "run")
    used = recorded(home / "run")["balance"]
    assert used.t is None
    assert used.seed == 3
    assert (used.tail_share, used.target_pairs) in [(0.5, None), (None, 100)]


@pytest.mark.parametrize("by", ["flags", "recipe"])
def test_a_recorded_recipe_makes_the_run_again(
    by: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe in a run's folder, read from anywhere, gives the same result and records the same recipe."""
    given = {
        "flags": [
            "--metadata",
            "lists/toy.txt",
            "--tail-share",
            0.5,
            "--seed",
            9,
            "--fold-case",
            "--limit",
            350,
        ],
        "recipe": ["--recipe", "lists/toy.toml"],
    }[by]
    commands.done("curate", "pool.jsonl", *given, "--out", "run")
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    commands.done("curate", "../pool.jsonl", "--recipe", "../run/recipe.toml", "--out", "run")
    first, again = Run(home / "run"), Run(home / "elsewhere" / "run")
    assert again.account["result_digest"] == first.account["result_digest"]
    assert again.account["recipe_digest"] == first.account["recipe_digest"]
    assert recorded(again.path) == recorded(first.path)


def test_a_run_from_a_notebook_records_its_list(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of a run that Python made from a path makes the run again too."""
    from metaclip import curate

    digest = curate("pool.jsonl", "lists/toy.txt", out="run", t=5).account["result_digest"]
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    commands.done("curate", "../pool.jsonl", "--recipe", "../run/recipe.toml", "--out", "again")
    assert Run("again").account["result_digest"] == digest


def test_balance_takes_its_table(home: Path) -> None:
    """`balance` takes the table [balance] of a recipe, and flags over it."""
    commands.done("match", "pool.jsonl", "--metadata", "lists/toy.txt", "--out", "run")
    commands.done("balance", "run", "--recipe", "lists/toy.toml", "--seed", 8, "--out", "b")
    assert (Run("b").t, Run("b").seed) == (5.0, 8)
    assert recorded(home / "b")["balance"] == BalanceSettings(t=5.0, seed=8)


@pytest.mark.parametrize("path", sorted(ROOT.glob("curation/*.toml")), ids=lambda path: path.name)
def test_shipped_recipes(path: Path) -> None:
    """Every recipe that is shipped is one, begins with a command line, and names a list that is shipped, or none."""
    made = recipe.tables(recipe.read(path), path.name, KNOWN)
    text = path.read_text(encoding="utf-8")
    assert re.search(rf"^# +metaclip \w+ .*--recipe curation/{re.escape(path.name)}", text, re.M), text
    metadata = made.get("match", MatchSettings()).metadata
    assert metadata is None or (path.parent / metadata).exists()
