"""The built wheel, in a fresh virtual environment with the source tree out of reach: what a user installs is whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# One worker builds and installs for all of these tests.
pytestmark = pytest.mark.xdist_group("wheel")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command with nothing of this environment's Python settings; return its standard output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "METACLIP"))}
    environment["METACLIP_CACHE"] = str(cwd / "cache")
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, without the network: the build backend is in the test extra."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new virtual environment; return the folder of its programs.

    The dependencies are this environment's: a .pth file adds its site-packages, and a .pth file in a folder added so is
    not read, hence an editable install of ours is not active there.
    """
    home = tmp_path_factory.mktemp("user")
    environment = home / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=home)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    (site,) = environment.glob("lib/python*/site-packages")
    ours = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in ours), encoding="utf-8")
    return python.parent


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    """At the top stand metaclip/ and its dist-info alone: no training/, curation/ or metadata/."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"metaclip", f"metaclip-{wheel.name.split('-')[1]}.dist-info"}


def test_the_wheel_holds_the_whole_package(wheel: Path) -> None:
    """Every source file is in it, py.typed and the licence too."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "metaclip").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert "metaclip/py.typed" in names
    scripts = ("law.js", "elements.js", "data.js", "chart.js", "entries.js", "asking.js", "figures.js", "page.js")
    page = ("index.html", *scripts, "style.css")
    assert {f"metaclip/card/explorer/page/{name}" for name in page} <= set(names)
    assert {name.rpartition("/")[2] for name in names} >= {"LICENSE", "NOTICE"}


def test_the_installed_package_is_the_wheels(binaries: Path, tmp_path: Path) -> None:
    """The tests below try the wheel, not the source tree."""
    file = run(binaries / "python", "-c", "import metaclip; print(metaclip.__file__)", cwd=tmp_path)
    assert binaries.parent in Path(file.strip()).parents


def test_version(binaries: Path, wheel: Path, tmp_path: Path) -> None:
    """The command says the version that the wheel's name has."""
    assert wheel.name.split("-")[1] in run(binaries / "metaclip", "--version", cwd=tmp_path).split()[-1]


def test_help(binaries: Path, tmp_path: Path) -> None:
    """The help names the main verb."""
    assert "curate" in run(binaries / "metaclip", "--help", cwd=tmp_path)


def test_the_shipped_list_is_in_it(wheel: Path) -> None:
    """The query list stands in the wheel, byte for byte, so that it can curate without another file."""
    with zipfile.ZipFile(wheel) as archive:
        shipped = archive.read("metaclip/metadata/english.parquet")
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    assert shipped == (ROOT / "metadata" / "english.parquet").read_bytes()
    assert "LICENSE.wordnet" in names


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder far from the tree with a pool, a list and a cache."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(ROOT / "curation" / "toy_pool.jsonl", folder)
    shutil.copy(ROOT / "metadata" / "toy.txt", folder)
    return folder


def test_curate_by_the_shipped_list(binaries: Path, home: Path) -> None:
    """Without --metadata the list in the wheel is used."""
    run(binaries / "metaclip", "curate", "toy_pool.jsonl", "--t", "20", "--out", "run", cwd=home)
    assert json.loads((home / "run" / "card.json").read_text(encoding="utf-8"))["list"]["entries"] == 500_000


def test_curate(binaries: Path, home: Path) -> None:
    """The toy pool is curated and accounted for, far from the tree."""
    command = ["curate", "toy_pool.jsonl", "--metadata", "toy.txt", "--t", "20", "--out", "toy"]
    run(binaries / "metaclip", *command, cwd=home)
    assert json.loads((home / "toy" / "card.json").read_text(encoding="utf-8"))
