"""Packages of their own for tests of sources: archives in a cache of their own, known by digest."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from metaclip.metadata.sources.packages import Package

Shelve = Callable[[str, Mapping[str, bytes | str]], Package]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Use a cache of its own."""
    monkeypatch.setenv("METACLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shelve(cache: Path) -> Shelve:
    """Return a function that puts a package with these files into the cache: its archive, as npm packs it."""

    def put(name: str, files: Mapping[str, bytes | str]) -> Package:
        path = cache / "sources" / f"{name}-1.0.tgz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for member, content in files.items():
                    data = content.encode() if isinstance(content, str) else content
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return Package("npm", name, "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())

    return put
