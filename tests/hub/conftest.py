"""A Hub of the tests: a server in a process of its own, which the environment names, and an account there."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.processes import environment

USER = "alice"
TOKEN = "hf_ofthetests"


@dataclasses.dataclass(frozen=True)
class Hub:
    """The running server: what tests do with it besides what metaclip does."""

    address: str

    def ask(self, path: str, value: Any = None) -> Any:
        """Get a path below ``/-/``, or post a value to it."""
        data = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(
            f"{self.address}/-/{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = response.read()
        return json.loads(answer) if answer else None

    def put(
        self, name: str, files: Mapping[str, bytes | None], revision: str = "main", private: bool = False
    ) -> str:
        """Commit files to a repository, which is created if there is none; return the name of the commit."""
        given = {
            path: None if data is None else base64.b64encode(data).decode()
            for path, data in files.items()
        }
        commit = self.ask(f"put/{name}/{revision}?private={int(private)}", given)["commit"]
        return str(commit)

    def repo(self, name: str) -> dict[str, Any] | None:
        """Return whether a repository is private, its commits, and the files of its main branch."""
        found = self.ask(f"repo/{name}")
        if found is not None:
            found["files"] = {path: base64.b64decode(data) for path, data in found["files"].items()}
        return None if found is None else dict(found)

    def asked(self) -> list[str]:
        """Return the requests since the last time."""
        return list(self.ask("asked"))

    @contextlib.contextmanager
    def failing(self, path: str, every: int, status: int = 503) -> Iterator[None]:
        """Let every so many requests for paths that contain `path` fail, for the length of a block."""
        self.ask("fail", {"every": every, "path": path, "status": status})
        try:
            yield
        finally:
            self.ask("fail", {"every": 0, "path": ""})


@pytest.fixture(scope="session")
def hub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server."""
    pytest.importorskip("huggingface_hub", reason="needs pip install '.[hub]'")
    pytest.importorskip("flask", reason="needs flask")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("hub") / "log"
    command = [sys.executable, "-m", "tests.hub.server", str(port)]
    root = str(Path(__file__).parents[2])
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment(), cwd=root)
    try:
        end = time.monotonic() + 60
        while True:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "Traceback" not in log.read_text(encoding="utf-8"), log.read_text(encoding="utf-8")


@pytest.fixture
def hub(hub_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server, for processes that a test starts; they know the token of one user.

    huggingface_hub reads its environment when it is imported, so no test calls it in this process.
    """
    values = {
        "HF_ENDPOINT": hub_server,
        "HF_HOME": str(tmp_path / "hf_home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # The store behind LFS that the Hub has besides has a protocol and a client of its own.
        "HF_HUB_DISABLE_XET": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return Hub(hub_server)


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return f"{USER}/{re.sub('[^a-z0-9]+', '-', request.node.name)[:80].strip('-')}"
