"""A run folder: its manifest, its recipe and the state of its stages.

manifest.json    inputs, versions, and the record of each finished stage
recipe.toml      settings
.state/          locks (`metaclip.storage.ownership`), and a folder for each stage (`metaclip.stage.stage`)
"""

from __future__ import annotations

import contextlib
import os
import platform
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata as installed
from typing import TYPE_CHECKING, Any, Final

from metaclip import __version__
from metaclip.recipe import dump
from metaclip.storage import ownership
from metaclip.storage.files import atomic_write, file_size, read_json, write_json
from metaclip.storage.ownership import ALL, STATE, Part
from metaclip.storage.remote import AnyPath, RemotePath, absolute_path, as_path

if TYPE_CHECKING:
    from metaclip.storage.lease import Lease

MANIFEST: Final = "manifest.json"


def versions() -> dict[str, str]:
    """Return the versions of everything that a result may depend on, for the manifest."""
    return {
        "metaclip": __version__,
        "python": platform.python_version(),
        "unicode": unicodedata.unidata_version,  # options of the text rule follow it
        **{name: installed.version(name) for name in ("numpy", "pyarrow")},
    }


class Folder:
    """A run folder, on this machine or in a store."""

    def __init__(self, path: str | os.PathLike[str] | RemotePath) -> None:
        """Set the path; nothing is created yet."""
        self.path = as_path(path)
        self.state = self.path / STATE
        self._lease: Lease | None = None

    def __truediv__(self, name: str) -> AnyPath:
        """Return the path of a file in the folder."""
        return self.path / name

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs: the absolute path, because a worker may have another working directory."""
        path = as_path(absolute_path(self.path))
        return {"path": path, "state": path / STATE, "_lease": None}

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest; empty until a stage is finished."""
        return read_json(self.path / MANIFEST) or {}

    def update_manifest(self, **changes: Any) -> None:
        """Replace top-level keys of the manifest."""
        write_json(self.path / MANIFEST, {**self.manifest, **changes})

    def write_recipe(self, tables: Mapping[str, Any]) -> None:
        """Write settings as recipe.toml: dataclasses by the name of their table."""
        with atomic_write(self.path / "recipe.toml") as temporary:
            temporary.write_text(dump(tables), encoding="utf-8")

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return the sizes in bytes of those files that exist; one listing of a folder in a store."""
        if isinstance(self.path, RemotePath):
            found = self.path.sizes()
            return {name: found[name] for name in names if name in found}
        sizes = ((name, file_size(self / name)) for name in names)
        return {name: size for name, size in sizes if size is not None}

    @contextlib.contextmanager
    def owned(self, part: Part = ALL, wait: bool = False) -> Iterator[None]:
        """Own the folder for the length of a block, as `metaclip.storage.ownership.owned` does."""
        with ownership.owned(self.path, part, wait) as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def read_locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep the folder from being written to for the length of a block; see `metaclip.storage.ownership.read_locked`."""
        return ownership.read_locked(self.path, MANIFEST)

    def check(self) -> None:
        """Raise MetaclipError if another process has taken the folder from this one."""
        if self._lease is not None:
            self._lease.check()
