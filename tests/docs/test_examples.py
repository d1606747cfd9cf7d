"""The examples in the documents run and print what they show, and every command that they name can be parsed.

In a document, these fenced blocks are run, in their order, in a folder with the files of the repository:

- ``console``: each line that begins with "$ " is a command, and what follows it, if anything, is what it prints;
- ``python``: all blocks of a document share their names; a ``text`` block right below one is what it prints.

In what is shown, "..." stands for anything, and spaces and line ends are alike. Other commands, such as those that need a cluster,
are only parsed, in indented blocks too: their verbs, options and values exist.
"""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from metaclip import cli
from tests.processes import TIMEOUT, environment

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))]
"""Those whose examples run."""
NAMING_COMMANDS = [*DOCUMENTS, "CONTRIBUTING.md", *sorted(f"{folder}/README.md" for folder in ("curation", "data_cards", "metadata", "training"))]  # fmt: skip
"""Those whose commands are parsed."""


_BLOCK = re.compile(
    r"^```(.*)\n((?:.*\n)*?)```$"  # fenced
    r"|(?:\A|(?<=\n\n))(?: {4}.*\n|\n)* {4}.*\n",  # indented
    re.M,
)


@dataclasses.dataclass
class Block:
    """A block of code in a document."""

    kind: str
    text: str
    place: str
    """The file and the line, for messages."""
    shown: str = ""
    """What Python prints, as the block right below shows it."""


def blocks(document: str, text: str) -> list[Block]:
    """Return the fenced and indented blocks of a document."""
    result: list[Block] = []
    end = 0
    for found in _BLOCK.finditer(text):
        kind, code = ("", textwrap.dedent(found[0])) if found[2] is None else found.groups()
        if (
            kind == "text"
            and result
            and result[-1].kind == "python"
            and not text[end : found.start()].strip()
        ):
            result[-1].shown = code
        else:
            result.append(Block(kind, code, f"{document}:{text.count(chr(10), 0, found.start()) + 1}"))
        end = found.end()
    return result


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Yield the commands of a ``console`` block, each with what it is shown to print."""
    for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def check(printed: str, shown: str, what: str) -> None:
    """Compare what an example printed with what the document shows."""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if shown.strip() and not doctest.OutputChecker().check_output(shown, printed, options):
        pytest.fail(f"{what} prints\n{printed}\nand the document shows\n{shown}", pytrace=False)


def run_command(command: str) -> str:
    """Run a command in a shell that finds this revision of metaclip; return what it prints."""
    folder = str(Path(sys.executable).parent)
    path = os.pathsep.join([folder, os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; {command}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
        env=environment(PATH=path, PYTHONUNBUFFERED="1"),
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def run_python(block: Block, names: dict[str, Any]) -> str:
    """Run a block of Python in a namespace; return what it prints. Skip the test if a package is missing."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, block.place, "exec"), names)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("metaclip"):
            raise
        pytest.skip(f"{block.place} needs {error.name}")
    return printed.getvalue()


@pytest.mark.filterwarnings("ignore")  # of the packages that examples use
@pytest.mark.parametrize(
    "document",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith("docs/") else [])
        for name in DOCUMENTS
    ],
)
def test_the_examples_of_a_document(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands and its Python run from top to bottom, and print what it shows."""
    for folder in ("curation", "data_cards", "metadata", "training"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(document, (ROOT / document).read_text(encoding="utf-8")):
        if block.kind == "python":
            check(run_python(block, names), block.shown, block.place)
        elif block.kind == "console":
            for command, shown in commands(block):
                check(run_command(command), shown, f"{block.place}: {command}")


@pytest.mark.parametrize(
    "document", ["README.md", "docs/curate.md", "docs/online.md", "docs/publish.md", "docs/laws.md"]
)
def test_a_document_has_examples(document: str) -> None:
    """What teaches by examples has some that run."""
    found = blocks(document, (ROOT / document).read_text(encoding="utf-8"))
    assert {"console", "python"} & {block.kind for block in found}


def parse(words: list[str]) -> None:
    """Parse the words after ``metaclip``; raise click.UsageError for a verb, an option or a value that it does not take."""
    command: click.Command | None = cli.group
    context = click.Context(cli.group, **cli.group.context_settings)  # commands remember its help options
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        assert command is not None
        context = command.make_context(name, list(words), parent=context)
        words = [*context._protected_args, *context.args] if isinstance(command, click.Group) else []


def named_commands(document: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of metaclip that the blocks of a document name: the place, and the words after ``metaclip``."""
    for block in blocks(document, (ROOT / document).read_text(encoding="utf-8")):
        for line in block.text.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|\||>|;", re.sub(r"\$\w+", "1", line.removeprefix("$ "))):
                if command.strip().startswith("metaclip "):
                    yield f"{block.place}: {command.strip()}", shlex.split(command, comments=True)[1:]


@pytest.mark.parametrize("document", NAMING_COMMANDS)
def test_the_commands_of_a_document_exist(document: str) -> None:
    """Each command of metaclip in a document has a verb, options and values that the command line takes."""
    for place, words in named_commands(document):
        try:
            parse(words)
        except click.UsageError as error:
            pytest.fail(f"{place}\n{error.format_message()}", pytrace=False)


# The mechanism itself ---------------------------------------------------------------------------------------------------

EXAMPLE = """\
    metaclip --help     # indented

Text.

```console
$ echo one
one
$ printf 'a\\nb\\n'
a
...
```

```python no-run
raise SystemExit
```

```python
print(1 + 1)
```

```text
2
```

```python
print("not shown")
```

Text between.

```text
no output
```
"""


def test_the_reader_of_documents() -> None:
    """Blocks are found with their kinds and lines, and output belongs to the Python right above it."""
    found = blocks("x.md", EXAMPLE)
    assert [(block.kind, block.place) for block in found] == [
        ("", "x.md:1"), ("console", "x.md:5"), ("python no-run", "x.md:13"), ("python", "x.md:17"), ("python", "x.md:25"), ("text", "x.md:31"),
    ]  # fmt: skip
    assert [block.shown for block in found] == ["", "", "", "2\n", "", ""]
    assert found[0].text == "metaclip --help     # indented\n"
    assert list(commands(found[1])) == [("echo one", "one\n"), ("printf 'a\\nb\\n'", "a\n...\n")]


def test_an_example_can_fail() -> None:
    """Other output than what is shown is a failure, and so are a failing command and an option that does not exist."""
    check("kept 5\nt 2\n", "kept   5\n...\n", "x")
    with pytest.raises(pytest.fail.Exception, match="kept 5"):
        check("kept 5\n", "kept 6\n", "x")
    with pytest.raises(AssertionError, match="false"):
        run_command("false | cat")
    for words in (
        ["curated", "pool/"],
        ["curate", "pool/", "--out", "x", "--cap", "5"],
        ["card", "diff", "one"],
        ["curate", "pool/"],
    ):
        with pytest.raises(click.UsageError):
            parse(words)
