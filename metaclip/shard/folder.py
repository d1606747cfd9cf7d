"""A run folder: one owner, stages of shards, a marker for each finished shard, a manifest.

    .state/lock                      held by the process that writes (released by the kernel when it dies)
    .state/<stage>/fingerprint.json  everything that determines the stage's result
    .state/<stage>/<shard>.json      the marker of a finished shard: its fingerprint's digest, its funnel
    .state/<stage>/<shard>.*         what the shard adds up to, until the stage is finished
    manifest.json                    inputs, versions, and for each finished stage its fingerprint and funnel

A shard's outputs are renamed into place first and its marker is written last, so a marker proves its shard; a process
killed at any point leaves nothing that the same command does not finish. A fingerprint that differs refuses to resume
and names what changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from metaclip.errors import MetaclipError
from metaclip.shard.files import read_json, remove_temporaries, write_json

MANIFEST: Final = "manifest.json"
_STATE: Final = ".state"


def digest_of(value: Any) -> str:
    """Digest a JSON value: sha256 of its canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `number` of `of` (1-based) of a job array."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "3/100"."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
            raise MetaclipError(f"--part {text!r} is not of the form i/n with 1 <= i <= n, such as 3/100")
        return cls(int(number), int(of))

    def takes(self, index: int) -> bool:
        """Tell whether the shard with this index belongs to the part."""
        return index % self.of == self.number - 1


class Folder:
    """A run folder on this machine."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the folder; nothing is made yet."""
        self.path = Path(path)
        self.state = self.path / _STATE

    def __truediv__(self, name: str) -> Path:
        """Give the path of something in the folder."""
        return self.path / name

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest; an empty one where there is none."""
        found = read_json(self.path / MANIFEST)
        return found if isinstance(found, dict) else {}

    def update_manifest(self, **changes: Any) -> None:
        """Replace top-level keys of the manifest."""
        write_json(self.path / MANIFEST, {**self.manifest, **changes})

    @contextlib.contextmanager
    def owned(self, part: Part | None = None) -> Iterator[None]:
        """Own the folder for the length of a block: alone, or beside the other parts of a job array.

        Raise MetaclipError if another living process owns it, or if it holds files that are not a run's.
        """
        self._refuse_foreign()
        self.state.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            shared = part is not None and part.of > 1
            self._lock(held, "lock", fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if part is not None and shared:
                self._lock(held, f"lock-part-{part.number}-of-{part.of}", fcntl.LOCK_EX)
            else:
                remove_temporaries(self.path)
            yield

    def _lock(self, held: contextlib.ExitStack, name: str, kind: int) -> None:
        file = held.enter_context((self.state / name).open("a+", encoding="utf-8"))
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise MetaclipError(f"{self.path} is in use by {owner}; wait for it, stop it, or choose another --out") from None
        if kind == fcntl.LOCK_EX:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise MetaclipError(f"{self.path} is a file; --out must be a folder, new or of an earlier run")
        if self.path.is_dir() and not self.state.exists() and any(self.path.iterdir()):
            raise MetaclipError(f"{self.path} holds files that are not a metaclip run's; choose a new or empty folder")

    def stage(self, name: str) -> Stage:
        """Give a stage of the folder."""
        return Stage(self, name)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run folder."""

    folder: Folder
    name: str

    @property
    def path(self) -> Path:
        """Where the stage's markers stand."""
        return self.folder.state / self.name

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        """What determines the stage's result, as it was begun; None if it was not."""
        found = read_json(self.path / "fingerprint.json")
        return found if isinstance(found, dict) else None

    @property
    def record(self) -> dict[str, Any] | None:
        """What the manifest says of the stage; None until it is finished."""
        found = self.folder.manifest.get("stages", {}).get(self.name)
        return found if isinstance(found, dict) else None

    def begin(self, fingerprint: Mapping[str, Any], outputs: Sequence[str], overwrite: bool = False) -> None:
        """Begin the stage, or take it up where it stopped.

        Raise MetaclipError where it was begun under another fingerprint, naming what differs; with `overwrite` remove
        its `outputs` (names in the folder) and begin anew.
        """
        wanted = json.loads(json.dumps(fingerprint, sort_keys=True))
        before = self.fingerprint
        if before is not None and before != wanted:
            if not overwrite:
                raise MetaclipError(
                    f"{self.folder.path} holds another run: {_difference(before, wanted)}; "
                    "choose another --out, or replace it with --overwrite"
                )
            self.clear(outputs)
        self.path.mkdir(parents=True, exist_ok=True)
        if self.fingerprint is None:
            write_json(self.path / "fingerprint.json", wanted)

    def clear(self, outputs: Sequence[str]) -> None:
        """Remove the stage's outputs, its state and its record in the manifest."""
        manifest = self.folder.manifest
        if manifest.get("stages", {}).pop(self.name, None) is not None:
            write_json(self.folder / MANIFEST, manifest)
        shutil.rmtree(self.path, ignore_errors=True)
        for name in outputs:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def marker(self, shard: str) -> dict[str, Any] | None:
        """Give a finished shard's marker, None for one that is not finished."""
        found = read_json(self.path / f"{shard}.json")
        return found if isinstance(found, dict) else None

    def mark(self, shard: str, marker: Mapping[str, Any]) -> None:
        """Mark a shard as finished; its outputs are in place."""
        write_json(self.path / f"{shard}.json", dict(marker))

    def finish(self, record: Mapping[str, Any], partials: Sequence[str] = ()) -> None:
        """Write the stage into the manifest; remove the shards' `partials` (glob patterns)."""
        stages = {**self.folder.manifest.get("stages", {}), self.name: dict(record)}
        self.folder.update_manifest(stages=stages)
        for pattern in partials:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Name the first thing that differs, with both values."""
    for key in sorted(set(before) | set(now)):
        one, other = before.get(key), now.get(key)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            return _difference(one, other, f"{prefix}{key}.")
        if isinstance(one, list) and isinstance(other, list):
            for a, b in zip(one, other, strict=False):
                if a != b:
                    return f"{prefix}{key} was {_short(a)}, is {_short(b)}"
            return f"{prefix}{key} had {len(one)} items, has {len(other)}"
        return f"{prefix}{key} was {_short(one)}, is {_short(other)}"
    return "nothing differs"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
