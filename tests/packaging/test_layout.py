"""The tree keeps its promises: imports go down only, no attic, a docstring in every module."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "metaclip"
MODULES = sorted(PACKAGE.rglob("*.py"))

ORDER = (
    ("__version__", "arguments", "errors", "notebook", "recipe"),
    ("storage",),
    ("engine",),
    ("stage",),
    ("native",),
    ("pool",),
    ("metadata", "matching"),  # building and checking a list need the text rule, matching needs lists
    ("extract",),
    ("curate",),
    ("reshard",),
    ("training",),
    ("inspect",),
    ("card",),
    ("cli", "__init__", "__main__"),
)
"""The parts of the package, lowest first; a module imports from its own part and from those before it."""
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def room(module: str) -> str:
    """Return the part of a dotted name that has a layer: "native" of "metaclip.native.build"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = ["metaclip", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of every import of metaclip in a source, in functions and under `if` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                kept = package[: len(package) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            # "from metaclip import x" takes a module where there is one of that name, else a name of the top.
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "metaclip" else [base]
            names = [name if room(name) in LEVEL else base for name in names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "metaclip")


def imported_modules(source: str, module: str, modules: set[str]) -> Iterator[str]:
    """Return the modules of the package that a source imports; a package is left out where one of its modules is meant."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "metaclip":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name != "metaclip.__version__":  # set before the top imports anything
                    yield name if name in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)


@functools.cache
def every_import() -> list[tuple[Path, int, str, str]]:
    """Return file, line, importing part and imported part of every import inside the package."""
    return [
        (path.relative_to(PACKAGE), line, room(module_name(path)), room(name))
        for path in MODULES
        for line, name in imports(
            path.read_text(encoding="utf-8"), module_name(path), is_package=path.name == "__init__.py"
        )
    ]


@pytest.mark.parametrize(
    ("line", "imported"),
    [
        ("import metaclip", "metaclip"),
        ("import metaclip.card.page", "metaclip.card.page"),
        ("from metaclip import errors", "metaclip.errors"),
        ("from metaclip import Run", "metaclip"),
        ("from metaclip import __version__", "metaclip.__version__"),
        ("from metaclip import curate", "metaclip.curate"),
        ("from metaclip.training import stream", "metaclip.training"),
        ("from . import build", "metaclip.native"),
        ("from .build import update", "metaclip.native.build"),
        ("from ..card import page", "metaclip.card"),
        ("from .. import card", "metaclip.card"),
        ("def f():\n    from metaclip import cli", "metaclip.cli"),
    ],
)
def test_the_reader_of_imports_sees(line: str, imported: str) -> None:
    """Every way to write an import is seen, so that the next test can fail."""
    assert [name for _, name in imports(line, "metaclip.native.match")] == [imported]


def test_the_reader_of_imports_knows_packages() -> None:
    """In an `__init__.py` one dot is the package itself; modules of others are not ours."""
    assert [name for _, name in imports("from . import x", "metaclip.card", is_package=True)] == [
        "metaclip.card"
    ]
    assert not list(imports("import numpy, metaclipper\nfrom os import path", "metaclip.card"))


def test_every_module_has_a_layer() -> None:
    """A new room at the top of the package is given its layer here, on purpose."""
    assert {room(module_name(path)) for path in MODULES} <= set(LEVEL)


def test_imports_go_down_only() -> None:
    """No module imports one of a higher layer."""
    up = [
        f"metaclip/{path}:{line}: {importer} imports {imported}, which is above it"
        for path, line, importer, imported in every_import()
        if LEVEL[imported] > LEVEL[importer]
    ]
    assert not up, "\n".join(up)


def test_no_modules_import_each_other() -> None:
    """The imports of the package form no cycle, so that every file can be read after those that it builds on."""
    graph: dict[str, set[str]] = {module_name(path): set() for path in MODULES}
    for path in MODULES:
        module = module_name(path)
        for name in imported_modules(path.read_text(encoding="utf-8"), module, set(graph)):
            graph[module].add(name)
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


def test_engines_know_nothing_of_matching() -> None:
    """An engine carries items to functions: it imports errors, storage and itself."""
    known = {*ORDER[0], "storage", "engine"}
    wrong = [
        f"metaclip/{path}:{line}: an engine imports {imported}"
        for path, line, importer, imported in every_import()
        if importer == "engine" and imported not in known
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_attic() -> None:
    """A file is a noun or the verb it does; none is a place for the rest."""
    attic = {"utils", "util", "helpers", "common", "misc"}
    assert not [str(path) for path in PACKAGE.rglob("*") if path.stem in attic]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_module_says_what_it_does(path: Path) -> None:
    """The first thing in a module is its docstring."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), (
        f"metaclip/{path.relative_to(PACKAGE)}"
    )
