"""The examples in the docstrings of the public names run, and print what they show."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

import metaclip
from metaclip import arguments

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    test.name: test
    for name, value in [
        *((name, getattr(metaclip, name)) for name in metaclip.__all__),
        ("check_type", arguments.check_type),
    ]
    if inspect.isclass(value) or inspect.isfunction(value)
    for test in doctest.DocTestFinder().find(value, name, module=inspect.getmodule(value))
    if test.examples
}
"""The examples by the name that they belong to."""


def test_every_verb_has_an_example() -> None:
    """Each public function, and each class that a notebook makes objects of, shows how it is used."""
    verbs = {name for name in metaclip.__all__ if inspect.isfunction(getattr(metaclip, name))}
    objects = {"Balancer", "Matcher", "MatchSettings", "Metadata", "Run", "RunOptions", "TextRule"}
    assert {*verbs, *objects} <= EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example runs in a folder with the shipped files of the repository, and prints what it shows."""
    for module in {
        "card": ["altair"],
        "inspect": ["PIL"],
        "extract": ["isal", "deflate", "resiliparse"],
    }.get(name, []):
        pytest.importorskip(module, reason="needs an extra of metaclip")
    for folder in ("curation", "metadata", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    shown: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(EXAMPLES[name], out=shown.append)
    assert not shown, "".join(shown)
