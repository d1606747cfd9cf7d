"""A stage of a run folder: shards with markers, under one fingerprint; what makes a run safe to kill.

    .state/<stage>/fingerprint.json   everything that determines the stage's result
    .state/<stage>/<shard>.json       the marker of a finished shard: digest of the fingerprint, sizes of its files
    .state/<stage>/<shard>.lost.json  why a shard could not be read, until it is
    .state/<stage>/<shard>.*          what the shard adds up to, until the stage is complete

Law: a shard's files are renamed into place first, its marker is written last, and the stage's record enters the
manifest when all is in place. A marker proves its shard and a record its stage as long as their files have the sizes
they had then. So a process killed at any point, a power cut, or a file removed later leaves nothing that the same
command does not finish; a fingerprint that differs refuses to go on, and names what changed.

In a store, a folder is looked at once when a stage begins: one listing, and all markers read many at a time. What this
process changes is noted beside; what other parts of a job array change is seen by the next look.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from metaclip.errors import MetaclipError
from metaclip.stage.folder import Folder
from metaclip.storage.files import file_size, is_temporary, parse_json, read_json, remove, temporary_path, write_json
from metaclip.storage.remote import AnyPath, RemotePath, read_all, remove_all

_FINGERPRINT: Final = "fingerprint.json"
_LOST: Final = ".lost.json"


def digest_of(value: Any) -> str:
    """Digest a JSON value: sha256 of its canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass
class _Look:
    """What a folder in a store held when it was looked at, and what this process changed since."""

    sizes: dict[str, int]
    markers: dict[str, dict[str, Any]]

    @classmethod
    def at(cls, folder: RemotePath, stage: RemotePath) -> _Look:
        """Look: one listing, and all markers of a stage."""
        sizes = folder.sizes()
        state = f"{stage.relative_to(folder)}/"
        names = [name for name in sizes if name.startswith(state) and name.endswith(".json")]
        read = read_all([folder / name for name in names])
        parsed = {path.name.removesuffix(".json"): parse_json(data) for path, data in read.items()}
        return cls(sizes, {name: marker for name, marker in parsed.items() if marker is not None})


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """What a stage is called, and the files it leaves."""

    name: str
    outputs: tuple[str, ...]
    """Files and folders of the run folder, by name or pattern (``*.tar``)."""
    partials: tuple[str, ...] = ()
    """Patterns of the partial results that each item leaves beside its marker until the stage is complete."""
    semantics: int = 1
    """Part of the fingerprint; raised when the same input would give another result."""


class Stage:
    """One stage of a run folder. It can be sent to a worker on another machine, which marks items there."""

    def __init__(self, folder: Folder, spec: StageSpec) -> None:
        """Name the stage; `begin` makes it ready for work."""
        self.folder, self.spec, self.name = folder, spec, spec.name
        self.digest = ""
        """Of the fingerprint; known when the stage was begun."""
        self._complete = False
        self._look: _Look | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what was seen of a store: it is large, and a worker asks for none of it."""
        return {**self.__dict__, "_look": None}

    @property
    def path(self) -> AnyPath:
        """Where the stage's markers stand."""
        return self.folder.state / self.name

    @property
    def record(self) -> dict[str, Any] | None:
        """What the manifest says of the stage; None until it is finished."""
        found = self.folder.manifest.get("stages", {}).get(self.name)
        return found if isinstance(found, dict) else None

    def begin(self, fingerprint: Mapping[str, Any], overwrite: bool = False) -> bool:
        """Begin the stage, or take it up where it stopped; tell whether it was begun anew over another one.

        Raise MetaclipError where it was begun under another fingerprint, naming what differs; with `overwrite` remove
        its outputs and begin anew.
        """
        self.folder.check()
        wanted = json.loads(json.dumps(fingerprint))
        path = self.path / _FINGERPRINT
        exists = path.exists()  # asked before the file is read: another part of a job array may write it meanwhile
        before = read_json(path) if exists else None
        another = exists and before != wanted
        if another:
            if not overwrite:
                what = f"{path} is damaged" if before is None else _difference(before, wanted)
                raise MetaclipError(
                    f"{self.folder.path} holds another run: {what}; "
                    "choose another --out, or replace it with --overwrite"
                )
            self.clear()
        if another or not exists:
            write_json(path, wanted)
        self.digest = digest_of(wanted)
        if isinstance(self.folder.path, RemotePath) and isinstance(self.path, RemotePath):
            self._look = _Look.at(self.folder.path, self.path)
        record = self.record
        if record is not None and not self._stands(record):
            self._forget_record()
            record = None
        self._complete = record is not None and record["complete"]
        return another

    def finished(self) -> dict[str, Any] | None:
        """Give the record of the stage if it is finished under this fingerprint and all its outputs stand."""
        record = self.record
        return record if record is not None and self._stands(record) else None

    def marker(self, shard: str) -> dict[str, Any] | None:
        """Give a finished shard's marker; None where it has none of this fingerprint, or a file is not as it was."""
        found = read_json(self.path / f"{shard}.json") if self._look is None else self._look.markers.get(shard)
        # What the shards of a complete stage add up to is gone; its record, which stands, speaks for them.
        return found if found is not None and (self._complete or self._stands(found)) else None

    def mark(self, shard: str, marker: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
        """Mark a shard as finished; its `files` are in place. Give the marker as it stands."""
        made = {**marker, "fingerprint": self.digest, "files": self._sizes(files)}
        self.folder.check()
        write_json(self.path / f"{shard}.json", made)
        self.regain(shard)
        self.note(shard, made)
        return made

    def note(self, shard: str, made: Mapping[str, Any]) -> None:
        """Note what `mark` gave in a worker, for this process to know of it."""
        if self._look is not None:
            self._look.sizes.update(made["files"])
            self._look.markers[shard] = json.loads(json.dumps(made))
            self._look.markers.pop(f"{shard}{_LOST}".removesuffix(".json"), None)

    def unmark(self, shard: str) -> None:
        """Take back that a shard is finished."""
        (self.path / f"{shard}.json").unlink(missing_ok=True)
        if self._look is not None:
            self._look.markers.pop(shard, None)

    def lose(self, shard: str, **why: Any) -> None:
        """Mark a shard as lost: it could not be read, and is tried again by the next process."""
        made = {**why, "fingerprint": self.digest}
        self.folder.check()
        write_json(self.path / f"{shard}{_LOST}", made)
        if self._look is not None:
            self._look.markers[f"{shard}{_LOST}".removesuffix(".json")] = made

    def lost(self) -> dict[str, dict[str, Any]]:
        """Give why shards are lost, by shard."""
        paths = sorted(self.path.glob(f"*{_LOST}"))
        read = read_all([path for path in paths if isinstance(path, RemotePath)])
        found = {path.name.removesuffix(_LOST): parse_json(data) for path, data in read.items()}
        found |= {path.name.removesuffix(_LOST): read_json(path) for path in paths if not isinstance(path, RemotePath)}
        return {shard: why for shard, why in found.items() if why and why.pop("fingerprint", None) == self.digest}

    def regain(self, shard: str) -> None:
        """Take back that a shard is lost."""
        name = f"{shard}{_LOST}"
        if self._look is None or self._look.markers.pop(name.removesuffix(".json"), None) is not None:
            (self.path / name).unlink(missing_ok=True)

    def settled(self) -> set[str]:
        """Give the shards that were finished or lost, by any process, as the names in the folder tell."""
        return {path.name.removesuffix(_LOST).removesuffix(".json") for path in self.path.glob("*.json")}

    def finish(
        self, record: Mapping[str, Any], complete: bool = True, proof: Sequence[str] | None = None, **manifest: Any
    ) -> dict[str, Any]:
        """Write the stage's record, and other changes of the manifest, in one step; its outputs are in place.

        If it is `complete`, the partial results of its items are not needed any more, and `tidy` may follow. The outputs,
        or those named as `proof`, must stay as they are for the record to hold.
        """
        made = {
            **record,
            "fingerprint": self.digest,
            "files": self._made(proof or self.spec.outputs),
            "complete": complete,
        }
        self.folder.check()
        self.folder.update_manifest(stages={**self.folder.manifest.get("stages", {}), self.name: made}, **manifest)
        return made

    def remove_strays(self, output: str, shards: Container[str]) -> None:
        """Remove from a folder of outputs the files of other shards: of an input that was cut otherwise, or is lost."""
        self._remove(path for path in (self.folder / output).glob("*.parquet") if path.stem not in shards)

    def partials(self, shard: str) -> list[AnyPath]:
        """Return the paths of a shard's partial results, whether they exist or not."""
        return [self.path / f"{shard}{pattern.removeprefix('*')}" for pattern in self.spec.partials]

    def tidy(self) -> None:
        """Remove the partial results of a complete stage."""
        names = list(self.path.iterdir()) if self.path.exists() else []
        self._remove(path for path in names if any(fnmatch.fnmatchcase(path.name, each) for each in self.spec.partials))

    def clear(self) -> None:
        """Remove the stage: its record, then its state, then its outputs."""
        self.folder.check()
        self._forget_record()
        self._look = None
        if isinstance(self.path, RemotePath):
            # A kill may leave half a state; what is left of markers holds for the fingerprint that they name, and no other.
            remove(self.path)
        elif self.path.exists():
            # By one rename, so that no kill leaves half a state.
            os.rename(self.path, gone := temporary_path(self.path))
            remove(gone)
        for path in self._paths(self.spec.outputs):
            remove(path)

    def _forget_record(self) -> None:
        stages = self.folder.manifest.get("stages", {})
        if stages.pop(self.name, None) is not None:
            self.folder.update_manifest(stages=stages)

    def _remove(self, paths: Iterable[AnyPath]) -> None:
        gone = list(paths)
        remove_all(path for path in gone if isinstance(path, RemotePath))
        for path in gone:
            if not isinstance(path, RemotePath):
                path.unlink()
            elif self._look is not None:
                self._look.sizes.pop(str(path.relative_to(self.folder.path)), None)

    def _paths(self, outputs: Sequence[str]) -> list[AnyPath]:
        """Return the paths that names and patterns of outputs stand for."""
        names = [name for name in outputs if "*" not in name]
        patterns = [name for name in outputs if "*" in name]
        return [
            *(self.folder / name for name in names),
            *(path for pattern in patterns for path in self.folder.path.glob(pattern)),
        ]

    def _made(self, outputs: Sequence[str]) -> dict[str, int]:
        """Return the sizes of the outputs, and of the files in those that are folders; temporary files are left out."""
        if not isinstance(self.folder.path, RemotePath):
            paths = (path for output in self._paths(outputs) for path in (output, *output.glob("*")))
            return self._sizes(path for path in paths if not is_temporary(path))
        sizes = self.folder.path.sizes()
        if self._look is not None:
            self._look.sizes = sizes

        def is_output(name: str) -> bool:
            if {name, name.rpartition("/")[0]} & set(outputs):
                return True
            return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in outputs)

        return {name: size for name, size in sizes.items() if is_output(name)}

    def _sizes(self, paths: Iterable[AnyPath]) -> dict[str, int]:
        found = ((path, file_size(path)) for path in paths)
        return {str(path.relative_to(self.folder.path)): size for path, size in found if size is not None}

    def _stands(self, made: Mapping[str, Any]) -> bool:
        """Tell whether a marker's or record's files are there, in the sizes they had."""
        if made.get("fingerprint") != self.digest:
            return False
        files: Mapping[str, int] = made["files"]
        sizes = self.folder.sizes(files) if self._look is None else self._look.sizes
        return all(sizes.get(name) == size for name, size in files.items())


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Name the first thing that differs, with both values."""
    for key in sorted(set(before) | set(now)):
        one, other, name = before.get(key), now.get(key), prefix + key
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            return _difference(one, other, f"{name}.")
        if isinstance(one, list) and isinstance(other, list):
            for what, some, rest in (("gone", one, other), ("new", other, one)):
                others = set(rest)
                if odd := [item for item in some if item not in others]:
                    return f"{name}: {_short(odd[0])} is {what}" + (f", and {len(odd) - 1} more" if odd[1:] else "")
            return f"{name} has its {len(one)} items in another order or number"
        return f"{name} was {_short(one)}, is {_short(other)}"
    raise AssertionError("nothing differs")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
