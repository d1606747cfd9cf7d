"""The files of the repository that are not code: issue forms, the citation, the workflow, the release checklist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="needs PyYAML")
ROOT = Path(__file__).parents[2]
FORMS = [
    path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"
]

SCRIPTS = [ROOT / ".ci" / "run", *sorted(ROOT.glob("*/*.sh"))]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path: Path) -> None:
    """A form has what GitHub requires: a name, a description, and fields with a label and an id of their own."""
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert any(field.get("validations", {}).get("required") for field in fields)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts(path: Path) -> None:
    """No script has a fault that shellcheck finds; each exception has its reason beside it."""
    if (shellcheck := shutil.which("shellcheck")) is None:
        pytest.skip("needs shellcheck: apt-get install shellcheck")
    done = subprocess.run([shellcheck, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    exceptions = re.findall(r"# shellcheck disable=.*", path.read_text(encoding="utf-8"))
    assert all(re.fullmatch(r"# shellcheck disable=SC\d+ # \w.*", line) for line in exceptions), (
        exceptions
    )


def test_the_citation() -> None:
    """CITATION.cff names the software and the paper, as the format requires, and no version that would be forgotten."""
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["license"] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not {"version", "date-released"} & citation.keys()
    (paper,) = citation["references"]
    assert paper["title"] == "Demystifying CLIP Data"
    assert all({"family-names", "given-names"} <= author.keys() for author in paper["authors"])


def test_the_release_checklist_names_what_exists() -> None:
    """Its make targets, files and workflow exist."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (checklist,) = re.findall(r"^## Release checklist\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    targets = set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {"bench", "wheels"} == set(re.findall(r"`make ([a-z]+)`", checklist)) <= targets
    assert all((ROOT / path).exists() for path in re.findall(r"(?:tests|metaclip)/[\w/]+\.py", checklist))
    assert read(ROOT / ".github" / "workflows" / "tests.yml")["name"] == "tests"
