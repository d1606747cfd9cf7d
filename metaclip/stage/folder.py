"""A run folder: its manifest, its recipe and the state of its stages; and its owner, the one process that writes to it.

    manifest.json               inputs, versions, and the record of each finished stage
    recipe.toml                 settings
    .state/<stage>/             the state of a stage (`metaclip.stage.stage`)
    .state/lock                 held by the process that writes, or shared by parts and readers
    .state/lock-<i>-of-<n>      held by part i of a job array, in addition

Law: one process writes to a folder, or the parts of one job array do, each once. A process that reads a folder can keep
writers out (`metaclip.storage.local`).

In a store, a lock is a claim that its owner renews (`metaclip.storage.lease`). A reader cannot keep writers out there:
it notices at its end that the folder has changed, and raises. If a whole run and a part begin at the same moment, each
sees the claim of the other, and both may be refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata as installed
from pathlib import Path
from typing import Any, Final

import msgspec

from metaclip import __version__
from metaclip.errors import AlreadyExists, MetaclipError
from metaclip.recipe import dump
from metaclip.storage.files import AnyPath, as_path, disk_errors, is_remote, read_json, write_json
from metaclip.storage.local import LOCK

MANIFEST: Final = "manifest.json"
STATE: Final = ".state"
"""The folder of locks and markers, in a folder that can be owned."""
_COMBINES: Final = "a part that combines all, "
"""How an owner that combines the parts is named."""
_PAUSE: Final = 0.5
"""Seconds between two attempts to own a folder."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `number` of `of` parts (counted from 1) of a job array."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Parse "3/100". Raise MetaclipError for anything else than i/n with 1 <= i <= n."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise MetaclipError(f"`part={text!r}` is not of the form i/n with 1 <= i <= n, such as 3/100")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        """Return "3/100"."""
        return f"{self.number}/{self.of}"

    @property
    def whole(self) -> bool:
        """Whether it is the only part."""
        return self.of == 1

    def takes(self, index: int) -> bool:
        """Return whether the item with this index belongs to the part."""
        return index % self.of == self.number - 1


ALL: Final = Part()
"""The only part of work that is not divided."""


def versions() -> dict[str, str]:
    """Return the versions of everything that a result may depend on, for the manifest."""
    return {
        "metaclip": __version__,
        "python": platform.python_version(),
        "unicode": unicodedata.unidata_version,  # options of the text rule follow it
        **{name: installed.version(name) for name in ("numpy", "pyarrow")},
    }


class _Manifest(msgspec.Struct):
    """The part of a manifest that all stages share."""

    stages: dict[str, Any] = {}


class InUse(MetaclipError):
    """Another process owns the folder."""


class BeingCombined(InUse):
    """The process that owns the folder combines what the parts of a job array have done; it ends soon."""


class Folder:
    """A run folder, on this machine or in a store."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Set the path; nothing is created yet."""
        self.path = as_path(path)
        self.state = self.path / STATE
        self._check: Callable[[], None] | None = None

    def __truediv__(self, name: str) -> AnyPath:
        """Return the path of a file in the folder."""
        return self.path / name

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs: the absolute path, because a worker may have another working directory."""
        path = as_path(self.path.address)
        return {"path": path, "state": path / STATE, "_check": None}

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest; empty until a stage is finished."""
        return read_json(self.path / MANIFEST, _Manifest) or {}

    def update_manifest(self, **changes: Any) -> None:
        """Replace top-level keys of the manifest."""
        write_json(self.path / MANIFEST, {**self.manifest, **changes})

    def refuse_other_stages(self, *own: str) -> None:
        """Raise MetaclipError if the folder holds another stage than these, whose manifest and recipe would be replaced."""
        begun = self.state.iterdir() if self.state.is_dir() else ()
        found = self.manifest.get("stages", {}).keys() | {one.name for one in begun if one.is_dir()}
        if others := sorted(found - set(own)):
            raise MetaclipError(
                f"{self.path} holds the result of another verb ({others[0]}); choose another `out=...`"
            )

    def write_recipe(self, tables: Mapping[str, Any]) -> None:
        """Write settings as recipe.toml: dataclasses by the name of their table."""
        (self.path / "recipe.toml").put(dump(tables).encode())

    @contextlib.contextmanager
    def owned(self, part: Part = ALL, wait: bool = False) -> Iterator[None]:
        """Own the folder for the length of a block: alone, or together with the other parts of a job array.

        The block of an owner alone that raises before it has produced anything leaves no state and no new folder behind.

        With `wait`, as the part that combines what all have done, wait until the folder is free; parts that come meanwhile wait
        for it. Raise InUse if another living process owns the folder, MetaclipError if it holds files that are not a run's.
        """
        whole = ("", _COMBINES if wait else "")
        names = whole if part.whole else (f"{part.number}-of-{part.of}", f"part {part}, ")
        with disk_errors(self.path), contextlib.ExitStack() as held:
            _check_content(self.path)
            new = new_folders(self.path)
            while True:
                try:
                    self._check = self._enter(held, self.state.owned(*names))
                    break
                except InUse as error:
                    if not (wait or (isinstance(error, BeingCombined) and not part.whole)):
                        raise
                    time.sleep(_PAUSE)
            if part.whole:
                self.path.remove_temporaries()
                # Again at the end: a worker of a process that was killed may live on for a moment.
                held.callback(self.path.remove_temporaries)
                self.state.remove_files(self.state.glob(f"{LOCK}-*"))
            try:
                yield
            except BaseException:
                if part.whole:
                    # The error that ended the block is the one to report.
                    with contextlib.suppress(OSError):
                        remove_unused(self.path)
                        remove_empty(new)
                raise
            finally:
                self._check = None

    @contextlib.contextmanager
    def read_locked(self) -> Iterator[None]:
        """Keep the folder from being written to for the length of a block; any number of processes can at the same time.

        Raise MetaclipError at the end of the block if the manifest has changed, from which a reader cannot keep a store.
        """
        with contextlib.ExitStack() as held:
            self._enter(held, self.state.read_locked())
            before = read_json(self.path / MANIFEST)
            yield
            if read_json(self.path / MANIFEST) != before:
                raise MetaclipError(
                    f"{self.path} was written to while it was read; run the same command again"
                )

    def _enter(self, held: contextlib.ExitStack, lock: contextlib.AbstractContextManager[Any]) -> Any:
        try:
            return held.enter_context(lock)
        except AlreadyExists as error:
            kind = BeingCombined if str(error).startswith(_COMBINES) else InUse
            raise kind(
                f"{self.path} is in use by {error}; wait for it, stop it, or choose another `out=...`"
            ) from None

    def check(self) -> None:
        """Raise MetaclipError if another process has taken the folder from this one."""
        if self._check is not None:
            self._check()


# --- what an owner leaves behind


def remove_unused(path: AnyPath) -> None:
    """Remove the state of a folder that its caller owns, if no stage has produced anything there."""
    names = path.sizes()
    state = [path / name for name in names if name.startswith(f"{STATE}/")]
    if len(state) == len(names) and not holds_results(state):
        for child in list(path.iterdir()):  # empty folders, too
            child.remove()


def holds_results(markers: Iterable[AnyPath]) -> bool:
    """Return whether one of the files of a stage's state is the marker of an item that has files."""
    return any((read_json(path) or {}).get("files") for path in markers if path.name.endswith(".json"))


def new_folders(path: Path) -> list[Path]:
    """Return the folders that must be made before a path is one, innermost first; none in a store."""
    return [] if is_remote(path) else [one for one in (path, *path.parents) if not one.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, innermost first, up to the first that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _check_content(path: AnyPath) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise MetaclipError(f"{path} is a file; `out=...` must be a folder, new or of an earlier run")
    names = [child.name for child in path.iterdir()]
    if names and STATE not in names:
        raise MetaclipError(
            f"{path} holds files that are not a metaclip run's ({min(names)}); choose a new or empty folder"
        )
