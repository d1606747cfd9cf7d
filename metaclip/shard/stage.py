"""A stage of a run folder: shards with markers, under one fingerprint; what makes a run safe to kill.

    .state/<stage>/fingerprint.json   everything that determines the stage's result
    .state/<stage>/<shard>.json       the marker of a finished shard: digest of the fingerprint, sizes of its files
    .state/<stage>/<shard>.lost.json  why a shard could not be read, until it is
    .state/<stage>/<shard>.*          what the shard adds up to, until the stage is complete

Law: a shard's files are renamed into place first, its marker is written last, and the stage's record enters the
manifest when all is in place. A marker proves its shard and a record its stage as long as their files have the sizes
they had then. So a process killed at any point, a power cut, or a file removed later leaves nothing that the same
command does not finish; a fingerprint that differs refuses to go on, and names what changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from metaclip.errors import MetaclipError
from metaclip.shard.files import read_json, remove, temporary_name, write_json

if TYPE_CHECKING:
    from metaclip.shard.folder import Folder

_FINGERPRINT: Final = "fingerprint.json"
_LOST: Final = ".lost.json"


def digest_of(value: Any) -> str:
    """Digest a JSON value: sha256 of its canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Stage:
    """One stage of a run folder."""

    def __init__(self, folder: Folder, name: str) -> None:
        """Name the stage; `begin` makes it ready for work."""
        self.folder, self.name = folder, name
        self.digest = ""
        """Of the fingerprint; known when the stage was begun."""
        self._complete = False

    @property
    def path(self) -> Path:
        """Where the stage's markers stand."""
        return self.folder.state / self.name

    @property
    def record(self) -> dict[str, Any] | None:
        """What the manifest says of the stage; None until it is finished."""
        found = self.folder.manifest.get("stages", {}).get(self.name)
        return found if isinstance(found, dict) else None

    def begin(self, fingerprint: Mapping[str, Any], outputs: Sequence[str], overwrite: bool = False) -> bool:
        """Begin the stage, or take it up where it stopped; tell whether it was begun anew over another one.

        Raise MetaclipError where it was begun under another fingerprint, naming what differs; with `overwrite` remove
        its `outputs` (names in the folder) and begin anew.
        """
        wanted = json.loads(json.dumps(fingerprint))
        path = self.path / _FINGERPRINT
        before = read_json(path)
        another = path.exists() and before != wanted
        if another:
            if not overwrite:
                what = f"{path} is damaged" if before is None else _difference(before, wanted)
                raise MetaclipError(
                    f"{self.folder.path} holds another run: {what}; "
                    "choose another --out, or replace it with --overwrite"
                )
            self.clear(outputs)
        if another or not path.exists():
            write_json(path, wanted)
        self.digest = digest_of(wanted)
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
        found = read_json(self.path / f"{shard}.json")
        # What the shards of a complete stage add up to is gone; its record, which stands, speaks for them.
        return found if found is not None and (self._complete or self._stands(found)) else None

    def mark(self, shard: str, marker: Mapping[str, Any], files: Iterable[Path] = ()) -> None:
        """Mark a shard as finished; its `files` are in place."""
        write_json(self.path / f"{shard}.json", {**marker, "fingerprint": self.digest, "files": self._sizes(files)})
        self.regain(shard)

    def unmark(self, shard: str) -> None:
        """Take back that a shard is finished."""
        (self.path / f"{shard}.json").unlink(missing_ok=True)

    def lose(self, shard: str, **why: Any) -> None:
        """Mark a shard as lost: it could not be read, and is tried again by the next process."""
        write_json(self.path / f"{shard}{_LOST}", {**why, "fingerprint": self.digest})

    def lost(self) -> dict[str, dict[str, Any]]:
        """Give why shards are lost, by shard."""
        found = {path.name.removesuffix(_LOST): read_json(path) for path in sorted(self.path.glob(f"*{_LOST}"))}
        return {shard: why for shard, why in found.items() if why and why.pop("fingerprint", None) == self.digest}

    def regain(self, shard: str) -> None:
        """Take back that a shard is lost."""
        (self.path / f"{shard}{_LOST}").unlink(missing_ok=True)

    def settled(self) -> set[str]:
        """Give the shards that were finished or lost, by any process, as the names in the folder tell."""
        return {path.name.removesuffix(_LOST).removesuffix(".json") for path in self.path.glob("*.json")}

    def finish(
        self, record: Mapping[str, Any], outputs: Sequence[str], complete: bool = True, **manifest: Any
    ) -> dict[str, Any]:
        """Write the stage's record, and what else changes, into the manifest, at once; its `outputs` are in place.

        Where it is `complete`, no one needs again what its shards add up to, and `tidy` may follow.
        """
        paths = (path for name in outputs for path in (self.folder / name, *(self.folder / name).glob("*")))
        made = {**record, "fingerprint": self.digest, "files": self._sizes(paths), "complete": complete}
        self.folder.update_manifest(stages={**self.folder.manifest.get("stages", {}), self.name: made}, **manifest)
        return made

    def remove_strays(self, output: str, shards: Container[str]) -> None:
        """Remove from a folder of outputs the files of other shards: of an input that was cut otherwise, or is lost."""
        for path in (self.folder / output).glob("*.parquet"):
            if path.stem not in shards:
                path.unlink()

    def partials(self, shard: str, patterns: Sequence[str]) -> list[Path]:
        """Give the paths of what a shard adds up to, there or not: `patterns` are of the form ``*.counts.npy``."""
        return [self.path / f"{shard}{pattern.removeprefix('*')}" for pattern in patterns]

    def tidy(self, partials: Sequence[str]) -> None:
        """Remove what the shards of a complete stage add up to: patterns of files beside the markers."""
        for pattern in partials:
            for path in self.path.glob(pattern):
                path.unlink()

    def clear(self, outputs: Sequence[str]) -> None:
        """Remove the stage: its record, then its state, then its outputs."""
        self._forget_record()
        if self.path.exists():
            # By one rename, so that no kill leaves half a state.
            os.rename(self.path, gone := temporary_name(self.path))
            remove(gone)
        for name in outputs:
            remove(self.folder / name)

    def _forget_record(self) -> None:
        stages = self.folder.manifest.get("stages", {})
        if stages.pop(self.name, None) is not None:
            self.folder.update_manifest(stages=stages)

    def _sizes(self, paths: Iterable[Path]) -> dict[str, int]:
        return {str(path.relative_to(self.folder.path)): path.stat().st_size for path in paths if path.is_file()}

    def _stands(self, made: Mapping[str, Any]) -> bool:
        """Tell whether a marker's or record's files are there, in the sizes they had."""
        if made.get("fingerprint") != self.digest:
            return False
        try:
            return all((self.folder / name).stat().st_size == size for name, size in made["files"].items())
        except FileNotFoundError:
            return False


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
