"""The public names: what a notebook needs, and nothing that a later version could not keep."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
import shlex
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import metaclip
from tests import commands

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "BalanceSettings", "Balancer", "Counts", "LostInputs", "MatchSettings", "Matcher", "MetaclipError", "Metadata", "Run",
    "RunOptions", "TextRule", "__version__", "balance", "curate", "match",
]  # fmt: skip


def test_public_names_are_frozen() -> None:
    """The package's top has these names; one that goes breaks somebody's notebook."""
    assert sorted(metaclip.__all__) == PUBLIC
    assert sorted(dir(metaclip)) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there(name: str) -> None:
    """Each public name can be had, and the same each time."""
    assert getattr(metaclip, name) is getattr(metaclip, name)


def test_a_name_that_is_not_public() -> None:
    """Another name is no attribute, as of any module."""
    with pytest.raises(AttributeError, match="module 'metaclip' has no attribute 'filter'"):
        _ = metaclip.filter  # type: ignore[attr-defined]


def test_star_import() -> None:
    """`from metaclip import *` gives the public names."""
    found: dict[str, Any] = {}
    exec("from metaclip import *", found)
    assert sorted(name for name in found if name != "__builtins__") == PUBLIC


def test_a_notebook(tmp_path: Path) -> None:
    """Five lines curate a pool and look at what came out."""
    pool, out = ROOT / "curation" / "toy_pool.jsonl", tmp_path / "run"

    from metaclip import curate

    run = curate(pool, ROOT / "metadata" / "toy.txt", t=20, out=out)
    top = run.entries.sort_by([("count", "descending")]).slice(0, 3)
    pairs = run.curated
    kept = run.account["pairs"]["kept"]

    assert (len(pairs), kept) == (312, 312)
    assert pairs.column_names == ["url", "text", "uid", "matches", "keep_probability"]
    assert top["count"].to_pylist() == sorted(run.entries["count"].to_pylist(), reverse=True)[:3]
    assert repr(run) == f"Run({str(out)!r}: 312 kept of 338 matched pairs, t = 20)"


def test_in_steps(tmp_path: Path) -> None:
    """The steps are functions too: match once, balance twice; a larger t keeps a superset."""
    from metaclip import balance, match

    pool = ROOT / "curation" / "toy_pool.jsonl"
    match(pool, ["dog", "cat", "photo", "a"], out=tmp_path / "run")
    few = balance(tmp_path / "run", t=5)
    more = balance(tmp_path / "run", t=50, out=tmp_path / "more")
    assert set(few.curated["uid"].to_pylist()) < set(more.curated["uid"].to_pylist())


def test_a_matcher_in_a_loop() -> None:
    """A matcher takes and gives Arrow, counts add up, and counts of different lists do not."""
    from metaclip import Counts, Matcher, MetaclipError, TextRule

    matcher = Matcher(["dog", "cat"], TextRule(fold_case=True), cache=False)
    texts = pa.array(["A dog.", None, "dogs", "Cat, dog"])
    matches = matcher.match(texts)
    assert matches.to_pylist() == [[0], None, [], [0, 1]]
    counts = Counts(matcher.count(matches), matcher.metadata.digest, matcher.rule.identity)
    assert (counts + counts).values.tolist() == [4, 2]
    other = Counts(np.zeros(2, np.uint64), "another list", matcher.rule.identity)
    with pytest.raises(MetaclipError, match="counts of different lists cannot be added"):
        _ = counts + other


def test_errors_reach_python_as_one_class(tmp_path: Path) -> None:
    """What a caller can mend is a MetaclipError, with the exit code that the command line gives."""
    from metaclip import LostInputs, MetaclipError, curate

    with pytest.raises(MetaclipError, match="there is no pool") as error:
        curate(tmp_path / "nowhere", ["dog"], out=tmp_path / "run")
    assert error.value.exit_code == 2
    with pytest.raises(MetaclipError, match="t is 0, must be a finite number above 0"):
        curate(ROOT / "curation" / "toy_pool.jsonl", ["dog"], out=tmp_path / "run", t=0)
    assert issubclass(LostInputs, MetaclipError)
    assert LostInputs.exit_code == 3


# Docstrings -----------------------------------------------------------------------------------------------------------

MODULES = sorted(
    ".".join(["metaclip", *path.relative_to(ROOT / "metaclip").with_suffix("").parts]).removesuffix(
        ".__init__"
    )
    for path in (ROOT / "metaclip").rglob("*.py")
    if path.name != "__main__.py"
)


def named(module: ModuleType) -> list[tuple[str, Any]]:
    """Return the public functions and classes that a module defines, and the public methods of these classes."""
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if "<locals>" in getattr(
            value, "__qualname__", ""
        ):  # made by another function; the words are below the assignment
            continue
        if inspect.isclass(value):
            members = vars(value).items()
            found += [
                (f"{name}.{n}", _function(m))
                for n, m in members
                if not n.startswith("_") and _function(m)
            ]
        if inspect.isclass(value) or inspect.isfunction(value):
            found.append((name, value))
    return found


def _function(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    return member if inspect.isfunction(member) else getattr(member, "func", None)


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    """Each public function, class, method and property says in its first line what it does."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("metaclip"):
            raise
        pytest.skip(f"needs the extra with {error.name}")
    silent = [who for who, value in named(module) if not (inspect.getdoc(value) or "").strip()]
    # A dataclass without a docstring has its signature for one.
    silent += [who for who, value in named(module) if (value.__doc__ or "").startswith(f"{who}(")]
    assert not silent, f"{name}: {', '.join(silent)}"


# The README -----------------------------------------------------------------------------------------------------------

BLOCKS = [
    textwrap.dedent(block).strip("\n")
    for block in re.findall(
        r"(?:^(?: {4}.*)?\n)+", (ROOT / "README.md").read_text(encoding="utf-8"), re.M
    )
    if block.strip()
]
"""The indented blocks of the README."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with the shipped files, and no runs."""
    for folder in ("curation", "metadata"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("home")
def test_the_readmes_python_runs() -> None:
    """The Python in the README runs as it stands there."""
    (block,) = [block for block in BLOCKS if block.startswith("from metaclip import")]
    found: dict[str, Any] = {}
    exec(block, found)
    assert found["run"].account["pairs"]["kept"] == 312


@pytest.mark.usefixtures("home")
def test_the_readmes_output_is_true() -> None:
    """The commands that the README shows on the toy pool print what it shows, as far as it shows it."""
    lines = [line for block in BLOCKS for line in [*block.splitlines(), ""]]
    begins = [i for i, line in enumerate(lines) if line.startswith("$ metaclip ")]
    assert len(begins) >= 2
    for begin, end in itertools.pairwise([*begins, len(lines)]):
        printed = commands.done(*shlex.split(lines[begin])[2:]).out.rstrip().splitlines()
        shown = lines[begin + 1 : end]
        if "..." not in shown:
            assert shown[: len(printed)] == printed
            continue
        # Of a table some rows may be left out, and so it may be narrower.
        rows = [line.split() for line in shown[: shown.index("...")] if line]
        assert rows == [line.split() for line in printed if line.split() in rows]
