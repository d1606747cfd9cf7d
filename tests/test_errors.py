"""Messages: Python's names of settings in errors of the API, flags in those of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import metaclip
from metaclip import MetaclipError, cli, curate, match
from metaclip.errors import for_caller, on_command_line, with_flags
from tests import commands

PACKAGE = Path(metaclip.__file__).parent
SETTING = re.compile(r"`(?:[A-Z]\w*\()*([a-z]\w*)=[^`]*`")
OF_OTHERS = re.compile(r"metaclip \w+|img2dataset|make the tar|pip|docstring")
"""What flags that are not those of the caller's verb stand behind: commands, of metaclip and of other programs."""


def messages() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of the strings outside of the command line that are not docstrings; values are shown as X."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "cli" in path.relative_to(PACKAGE).parts or path.name in ("packages.py", "lint.py"):
            continue  # of pip's own flags, and of a report that only the command line prints
        tree = ast.parse(path.read_text())
        seen = set[ast.AST]()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                seen.add(node.value)
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                seen.update(part for part in node.values if isinstance(part, ast.Constant))
                yield (
                    f"{path.name}:{node.lineno}",
                    "".join(part if isinstance(part, str) else "X" for part in parts),
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in seen:
                yield f"{path.name}:{node.lineno}", node.value


def parameters(command: click.Command) -> Iterator[str]:
    """Yield the names of a command's flags, and of those of its commands."""
    for parameter in command.params:
        yield from (one.removeprefix("--") for one in parameter.opts if one.startswith("--"))
    for below in getattr(command, "commands", {}).values():
        yield from parameters(below)


def test_no_message_of_the_package_names_a_flag() -> None:
    """Flags stand only in whole commands."""
    found = [
        (place, text)
        for place, text in messages()
        if (flag := re.search(r"(?<![\w`-])--[a-z]", text)) and not OF_OTHERS.search(text[: flag.start()])
    ]
    assert found == []


def test_every_setting_in_a_message_is_a_flag() -> None:
    """What `with_flags` makes of a message exists on the command line."""
    context = click.Context(cli.group)
    flags = set[str]()
    for verb in cli.VERBS:
        command = cli.group.get_command(context, verb)
        assert command is not None
        flags |= set(parameters(command))
    named = {
        found[1].replace("_", "-"): place
        for place, text in messages()
        for found in SETTING.finditer(text.replace("X_column", "text_column"))
        if found[1] != "X"
    }
    assert len(named) > 20
    assert {name: place for name, place in named.items() if name not in flags} == {}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("choose another `out=...`", "choose another --out"),
        ("replace it with `RunOptions(overwrite=True)`", "replace it with --overwrite"),
        ("`MatchSettings(rule=...)`", "--rule"),
        ("`tail_share=0.06` or `t=1e+06`", "--tail-share 0.06 or --t 1e+06"),
        ("run `ray status`, take `columns` out, see `x.py`", "run `ray status`, take `columns` out, see `x.py`"),
        ("a url https://x.example/?t=5 and a folder out=3/", "a url https://x.example/?t=5 and a folder out=3/"),
    ],
)  # fmt: skip
def test_settings_become_flags(message: str, shown: str) -> None:
    """Only settings in backticks change, and a value that is given stays."""
    assert with_flags(message) == shown
    assert for_caller(message) == message
    with on_command_line():
        assert for_caller(message) == shown
    assert for_caller(message) == message


def test_an_error_names_what_its_caller_can_give(tmp_path: Path) -> None:
    """The same fault, once by Python and once on the command line."""
    pool = tmp_path / "pool.csv"
    pool.write_text("words,url\na dog,u\n")
    with pytest.raises(MetaclipError, match=r"name it with `MatchSettings\(text_column=\.\.\.\)`$"):
        match(pool, ["dog"], out=tmp_path / "run")
    (tmp_path / "list.txt").write_text("dog\n")
    line = commands.refused("match", pool, "--metadata", tmp_path / "list.txt", "--out", tmp_path / "run")
    assert line.endswith("name it with --text-column")


def test_a_hint_names_what_its_caller_can_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notes on standard error follow the same law."""
    pool = tmp_path / "pool.csv"
    pool.write_text("text\ncat\n" + "dog\n" * 9)
    (tmp_path / "list.txt").write_text("dog\ncat\n")
    curate(pool, tmp_path / "list.txt", t=100, out=tmp_path / "run")
    assert "`target_pairs=8` keeps four fifths" in capsys.readouterr().err
    again = commands.done(
        "curate", pool, "--metadata", tmp_path / "list.txt", "--t", 100, "--out", tmp_path / "run_2"
    )
    assert "--target-pairs 8 keeps four fifths" in again.err
