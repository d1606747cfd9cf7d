"""The documentation is built without a warning, is complete, links to what exists, and asks nothing of other hosts."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import pytest

import metaclip
from tests.cli.test_cli import VERBS
from tests.processes import TIMEOUT, environment

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "curation" / "tour.ipynb"

pytestmark = [pytest.mark.extra, pytest.mark.slow]


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build the documents of a folder as `make docs` does."""
    pytest.importorskip("sphinx", reason="needs metaclip[docs]")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        "docs",
        "-d",
        out / "doctrees",
        ".",
        out / "html",
    ]
    return subprocess.run(
        command, cwd=source, env=environment(), text=True, capture_output=True, timeout=TIMEOUT
    )


class Page(html.parser.HTMLParser):
    """The ids of a page, its links, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, given: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in given}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link":
            self.loads.append(values["href"])
        self.loads += [values[name] for name in ("src", "srcset", "data", "poster") if name in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> Mapping[Path, Page]:
    """The pages that Sphinx made."""
    card = site / "data_cards" / "toy"
    made = [path for path in site.rglob("*.html") if path.parent != card or path.name == "README.html"]
    return {path: Page(path) for path in made}


def test_links_lead_somewhere(pages: Mapping[Path, Page], site: Path) -> None:
    """Each link between pages, also one in HTML, names a file and a place in it that exist."""
    broken = []
    for path, page in pages.items():
        for link in {*page.links, *page.loads}:
            target = urllib.parse.urlsplit(link)
            if target.scheme or target.netloc:
                continue
            file = (
                path
                if not target.path
                else Path(os.path.normpath(path.parent / urllib.parse.unquote(target.path)))
            )
            there = pages.get(file)
            if not file.is_file() or (target.fragment and there and target.fragment not in there.ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken
    assert len(pages) > 15


def test_pages_ask_nothing_of_other_hosts(pages: Mapping[Path, Page], site: Path) -> None:
    """No page, style or script of ours loads anything from an address."""
    loads = {
        f"{path.relative_to(site)}: {url}"
        for path, page in pages.items()
        for url in page.loads
        if "//" in url
    }
    assert not loads
    styles = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    assert styles
    assert not [
        name for name, text in styles.items() if re.search(r"@import|url\(\s*[\"']?(https?:)?//", text)
    ]


def test_every_public_name_is_documented(pages: Mapping[Path, Page], site: Path) -> None:
    """The page on Python has each public name, and the methods of its classes."""
    ids = pages[site / "docs" / "python.html"].ids
    assert {f"metaclip.{name}" for name in metaclip.__all__} <= ids
    assert {"metaclip.Balancer.keep", "metaclip.Run.curated", "metaclip.TextRule.fold_case"} <= ids


def test_every_option_is_documented(pages: Mapping[Path, Page], site: Path) -> None:
    """The page on commands has each verb with its arguments and options."""
    ids = pages[site / "docs" / "commands.html"].ids
    for verb, words in VERBS.items():
        command = f"metaclip {verb}".replace(" ", "-")
        options = {
            word.lstrip("-") if word.startswith("--") else f"arg-{word}"
            for word in words - {"-h", "--help"}
        }
        assert {command, *(f"cmdoption-{command}-{option}" for option in options)} <= ids


@pytest.mark.parametrize("link", ["nowhere.md", "index.md#nowhere", "../nowhere.py"])
def test_a_broken_link_is_an_error(link: str, tmp_path: Path) -> None:
    """A document or an anchor that does not exist ends the build with its name."""
    docs = tmp_path / "source" / "docs"
    docs.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "conf.py", docs)
    (docs / "index.md").write_text(f"# Title\n\n[a link]({link})\n", encoding="utf-8")
    (tmp_path / "source" / "data_cards" / "toy").mkdir(parents=True)
    done = build(tmp_path / "source", tmp_path / "out")
    assert done.returncode == 1
    assert "index.md:3" in done.stderr
    assert "nowhere" in done.stderr


def test_the_tour(tmp_path: Path) -> None:
    """The notebook runs from top to bottom beside the shipped files, and shows a plot, an explanation and a checked card."""
    pytest.importorskip("nbclient", reason="needs metaclip[docs]")
    for folder in ("curation", "metadata", "data_cards"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("icons", "toy", "worldwide", "english.parquet"),
        )
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "execute",
        "--inplace",
        "--timeout=120",
        "curation/tour.ipynb",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), text=True, capture_output=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "curation" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output["data"] for cell in cells for output in cell.get("outputs", ()) if "data" in output]
    html_shown, shown = (
        "".join("".join(data.get(kind, "")) for data in outputs) for kind in ("text/html", "text/plain")
    )
    assert "<svg" in html_shown
    assert "200 kept of 338 matched pairs" in shown
    assert "dropped: u >= P(keep)" in shown
    assert "".join(outputs[-1]["text/plain"]) == "[]"


def test_the_tour_is_committed_without_outputs() -> None:
    """The file in the repository holds no output, so that a change of it can be read."""
    code = [
        cell
        for cell in json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
