"""Archives of registries: fetched by their own clients from a registry of this machine, known by digest, never run."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources import packages
from metaclip.metadata.sources.packages import Package

RUN = "raise SystemExit('a package was run')\n"


def wheel(path: Path, name: str, files: dict[str, str]) -> Path:
    """Write a wheel; whatever would import or build it, would notice."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", RUN)
        for member, text in files.items():
            archive.writestr(member, text)
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        tag = path.stem.split("-", 2)[2]
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


def tarball(path: Path, files: dict[str, bytes]) -> Path:
    """Write a tarball as npm has them."""
    with tarfile.open(path, "w:gz") as archive:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def package(registry: str, path: Path, **other: str) -> Package:
    """Return the record of an archive."""
    found = {"name": path.name.split("-")[0], "version": "1.0", "file": path.name}
    return Package(
        registry, **{**found, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **other}
    )  # type: ignore[arg-type]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have pip look in a folder and nowhere else."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a folder as npm's registry."""
    folder = tmp_path / "npm"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
    yield folder
    server.shutdown()
    server.server_close()


def test_a_wheel(shop: Path, tmp_path: Path) -> None:
    """A wheel is fetched by pip once; its members are read, and nothing of it runs."""
    made = package(
        "pypi", wheel(shop / "words-1.0-py3-none-any.whl", "words", {"words/list.txt": "dog;3\n"})
    )
    cache = tmp_path / "cache"
    assert packages.read(made, "words/list.txt", cache) == b"dog;3\n"
    (shop / made.file).unlink()
    assert packages.read(made, "words/list.txt", cache) == b"dog;3\n"
    assert [path.name for path in cache.iterdir()] == [made.file]


def test_a_wheel_for_another_machine(shop: Path, tmp_path: Path) -> None:
    """A wheel that this machine could not install is fetched all the same: only its files are wanted."""
    name = "words-1.0-cp39-cp39-win_amd64.whl"
    made = package("pypi", wheel(shop / name, "words", {"words/list.txt": "dog"}))
    wheel(shop / "words-1.0-py3-none-any.whl", "words", {"words/list.txt": "another"})
    assert packages.read(made, "words/list.txt", tmp_path / "cache") == b"dog"


def test_a_tarball(registry: Path, tmp_path: Path) -> None:
    """A tarball is fetched from the registry that npm would ask."""
    (registry / "words" / "-").mkdir(parents=True)
    made = package(
        "npm", tarball(registry / "words" / "-" / "words-1.0.tgz", {"package/list.txt": b"dog"})
    )
    assert packages.read(made, "package/list.txt", tmp_path / "cache") == b"dog"


def test_npms_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The registry is npm's: its variable, else the user's settings, else the public one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry"):
        monkeypatch.delenv(name, raising=False)
    assert packages._npm_registry() == "https://registry.npmjs.org"
    (tmp_path / ".npmrc").write_text("fund=false\nregistry = https://npm.example.org/mirror/\n")
    assert packages._npm_registry() == "https://npm.example.org/mirror"
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1")
    assert packages._npm_registry() == "http://127.0.0.1:1"


@pytest.mark.parametrize("registry_name", ["pypi", "npm"])
def test_another_file_than_the_recipes(
    registry_name: str, shop: Path, registry: Path, tmp_path: Path
) -> None:
    """An archive with another digest is refused with both digests, and is not kept."""
    (registry / "words" / "-").mkdir(parents=True)
    path = (
        wheel(shop / "words-1.0-py3-none-any.whl", "words", {})
        if registry_name == "pypi"
        else tarball(registry / "words" / "-" / "words-1.0.tgz", {})
    )
    made, right = package(registry_name, path, sha256="0" * 64), package(registry_name, path)
    with pytest.raises(MetaclipError) as error:
        packages.fetch(made, tmp_path / "cache")
    assert "0" * 64 in str(error.value)
    assert right.sha256 in str(error.value)
    assert not list((tmp_path / "cache").iterdir())


def test_a_damaged_file_in_the_cache(shop: Path, tmp_path: Path) -> None:
    """A file in the cache that is not the recipe's is named with its path, and left for the user to look at."""
    made = package("pypi", wheel(shop / "words-1.0-py3-none-any.whl", "words", {}))
    packages.fetch(made, tmp_path / "cache").write_bytes(b"PK damaged")
    with pytest.raises(MetaclipError, match=rf"{tmp_path}/cache/{made.file}.*{made.sha256}"):
        packages.fetch(made, tmp_path / "cache")


@pytest.mark.parametrize(
    ("registry_name", "file"), [("pypi", "words-1.0-py3-none-any.whl"), ("npm", "words-1.0.tgz")]
)
def test_what_cannot_be_fetched(
    registry_name: str, file: str, shop: Path, registry: Path, tmp_path: Path
) -> None:
    """What cannot be fetched is named in one line, with what to put where; nothing half-written stays."""
    made = Package(registry_name, "words", "1.0", file, "a" * 64)  # type: ignore[arg-type]
    with pytest.raises(MetaclipError) as error:
        packages.fetch(made, tmp_path / "cache")
    message = str(error.value)
    for words in ("words", "cannot be fetched", f"put {file}", "a" * 64, str(tmp_path / "cache")):
        assert words in message
    assert "\n" not in message
    assert not list((tmp_path / "cache").iterdir())


def test_put_there_by_hand(tmp_path: Path) -> None:
    """An archive that was put into the cache is used without any registry."""
    (tmp_path / "cache").mkdir()
    made = package("npm", tarball(tmp_path / "cache" / "words-1.0.tgz", {"package/a": b"1"}))
    assert packages.read(made, "package/a", tmp_path / "cache") == b"1"


def test_members(tmp_path: Path) -> None:
    """Members are read from zip and tar; one that is not there, a folder and a broken archive are named."""
    data = tarball(tmp_path / "a.tgz", {"x": b"1", "y": b"2"}).read_bytes()
    assert packages.members_of(data, ["y", "x"], "a.tgz") == {"y": b"2", "x": b"1"}
    with pytest.raises(MetaclipError, match=r"a\.tgz.*'z'"):
        packages.members_of(data, ["z"], "a.tgz")
    zipped = wheel(tmp_path / "w-1.0-py3-none-any.whl", "w", {}).read_bytes()
    with pytest.raises(MetaclipError, match=r"w\.whl.*nothing"):
        packages.members_of(zipped, ["nothing"], "w.whl")
    for broken in (data[: len(data) // 2], zipped[:50], b"", gzip.compress(b"no tar")):
        with pytest.raises(MetaclipError, match="broken archive"):
            packages.members_of(broken, ["x"], "b")


@pytest.mark.parametrize(
    "wrong",
    [{"file": "words-1.0.tar.gz"}, {"file": "../words.whl"}, {"sha256": "abc"}, {"sha256": "G" * 64}],
)
def test_records_that_cannot_be(wrong: dict[str, str]) -> None:
    """A record without a digest, or with a file that is a path or a source distribution, is refused."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Package(
            **{
                "registry": "pypi",
                "name": "w",
                "version": "1",
                "file": "w.whl",
                "sha256": "0" * 64,
                **wrong,
            }
        )  # type: ignore[arg-type]
