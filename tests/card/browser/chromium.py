"""Chromium under playwright, without features that connect to the network."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Start Chromium; skip with the reason where it or playwright is not installed."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the path")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """A page whose requests, console messages, errors and dialogs are recorded."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        """Open an address and wait until the page is ready; `context` are playwright's settings."""
        self.context = browser.new_context(**context)
        self.view = self.context.new_page()
        self.requests: list[str] = []
        self.said: list[str] = []
        self.view.on("request", lambda request: self.requests.append(request.url))
        self.view.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.view.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.view.on(
            "dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        self.view.goto(url)
        self.view.wait_for_selector("html[data-ready]", timeout=20_000)

    def rows(self, table: str) -> list[list[str]]:
        """Return the cells of a table's rows, without rows of details."""
        return self.view.evaluate(
            """(id) => [...document.querySelectorAll(`${id} tbody tr`)].filter((row) => row.cells.length > 1)
               .map((row) => [...row.cells].map((cell) => cell.textContent))""",
            table,
        )

    def text(self, selector: str) -> str:
        """Return the visible text of an element."""
        return str(self.view.inner_text(selector))

    def close(self) -> None:
        """Close the page with its context."""
        self.context.close()


def axe_core(folder: Path) -> str:
    """Return the source of axe-core, fetched from the npm registry into a folder; skip the test if that fails."""
    if (npm := shutil.which("npm")) is None:
        pytest.skip("needs npm, to fetch axe-core: it is not on the path")
    command = [
        npm,
        "install",
        "--prefix",
        str(folder),
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "axe-core@4",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        pytest.skip(f"needs axe-core from the npm registry: {done.stderr.strip().splitlines()[:1]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
