"""A stage of a run folder: items with markers, under one fingerprint, and its funnel. Markers make it safe to kill a run.

    .state/<stage>/fingerprint.json   everything that determines the result of the stage
    .state/<stage>/<item>.json        the marker of a finished item: digest of the fingerprint, sizes of its files
    .state/<stage>/<item>.lost.json   why an item could not be read, until it can
    .state/<stage>/<item>.*           partial results of the item, until the stage is complete

Law: the files of an item are renamed into place first, its marker is written last, and the record of the stage is written
to the manifest when everything is in place. A marker proves its item, and a record its stage, as long as their files have
the sizes that they had then. So whatever a killed process, a power cut or a removed file leaves, the same command finishes
it. A stage with another fingerprint is refused, and the message names the difference.

A stage begins with a snapshot of the folder: one listing, and all markers read in parallel. Changes by this process are
added to the snapshot; changes by other parts of a job array are seen by the next one.

The funnel of a stage counts the rows read, and for each reason the rows lost. It must add up.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import itertools
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from metaclip.errors import MetaclipError
from metaclip.stage.folder import Folder
from metaclip.storage.files import (
    AnyPath,
    file_size,
    is_temporary,
    parse_json,
    read_all,
    read_json,
    remove,
    write_json,
)

_FINGERPRINT: Final = "fingerprint.json"
_LOST: Final = ".lost"
"""What follows the name of a lost item in the name of its file."""


def digest_of(value: Any) -> str:
    """Return the sha256 of the canonical form of a JSON value, as hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass
class _Snapshot:
    """The files and markers of a folder when its stage began, with the changes by this process since."""

    sizes: dict[str, int]
    """In bytes, by path relative to the folder."""
    markers: dict[str, dict[str, Any]]
    """By the name of the file without ``.json``: markers of finished and of lost items."""

    @classmethod
    def take(cls, folder: AnyPath, stage: AnyPath) -> _Snapshot:
        """List the folder and read all markers of the stage."""
        sizes = folder.sizes()
        state = f"{stage.relative_to(folder)}/"
        names = [name for name in sizes if name.startswith(state) and name.endswith(".json")]
        markers = {
            path.stem: parse_json(data)
            for path, data in read_all([folder / name for name in names]).items()
        }
        return cls(sizes, {name: marker for name, marker in markers.items() if marker is not None})


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """The name of a stage, and the files that it writes."""

    name: str
    outputs: tuple[str, ...]
    """Names or patterns (``*.tar``) of files and folders in the run folder."""
    partials: tuple[str, ...] = ()
    """Patterns of the partial results that exist beside the marker of each item until the stage is complete."""
    semantics: int = 1
    """A version, part of the fingerprint; increased when the same input would give another result."""


class Stage:
    """One stage of a run folder. It can be sent to a worker on another machine, which marks items there."""

    def __init__(self, folder: Folder, spec: StageSpec) -> None:
        """Set folder and name; `begin` prepares the stage for work."""
        self.folder, self.spec, self.name = folder, spec, spec.name
        self.digest = ""
        """The digest of the fingerprint; set by `begin`."""
        self._complete = False
        self._known: _Snapshot | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the snapshot: it is large, and workers do not need it."""
        return {**self.__dict__, "_known": None}

    @property
    def path(self) -> AnyPath:
        """The folder of the stage's markers."""
        return self.folder.state / self.name

    @property
    def record(self) -> dict[str, Any] | None:
        """The record of the stage in the manifest; None until it is finished."""
        found = self.folder.manifest.get("stages", {}).get(self.name)
        return found if isinstance(found, dict) else None

    def begin(self, fingerprint: Mapping[str, Any], overwrite: bool = False) -> bool:
        """Begin or resume the stage; return whether it replaced a stage with another fingerprint.

        With `overwrite`, the outputs of a stage with another fingerprint are removed; otherwise raise MetaclipError, which
        names the difference.
        """
        self.folder.check()
        wanted = json.loads(json.dumps(fingerprint))
        path = self.path / _FINGERPRINT
        exists = (
            path.exists()
        )  # checked before the file is read: another part of a job array may write it meanwhile
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
        self._known = None
        record = self.finished()
        if record is None:
            self._remove_record()
        self._complete = record is not None and record["complete"]
        return another

    def finished(self) -> dict[str, Any] | None:
        """Return the record of the stage; None if it is not finished under this fingerprint, or an output has changed."""
        record = self.record
        return record if record is not None and self._is_valid(record) else None

    def marker(self, item: str) -> dict[str, Any] | None:
        """Return the marker of a finished item; None if it has none of this fingerprint, or a file has changed."""
        found = self._snapshot.markers.get(item)
        # The partial results of a complete stage are gone; its record, which is valid, proves its items.
        return found if found is not None and (self._complete or self._is_valid(found)) else None

    def mark(self, item: str, marker: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
        """Mark an item as finished once its `files` are in place; return the marker as it is written."""
        written = {**marker, "fingerprint": self.digest, "files": self._sizes(files)}
        self.folder.check()
        write_json(self._file(item), written)
        self.unmark_lost(item)
        self.add_marker(item, written)
        return written

    def add_marker(self, item: str, marker: Mapping[str, Any]) -> None:
        """Record in this process a marker that `mark` wrote in a worker."""
        if self._known is not None:
            self._known.sizes.update(marker["files"])
            self._known.markers[item] = json.loads(json.dumps(marker))
            self._known.markers.pop(item + _LOST, None)

    def unmark(self, item: str) -> None:
        """Remove the marker of an item."""
        self._file(item).unlink(missing_ok=True)
        if self._known is not None:
            self._known.markers.pop(item, None)

    def mark_lost(self, item: str, **why: Any) -> None:
        """Mark an item as lost: its input could not be read, and the next run tries it again."""
        written = {**why, "fingerprint": self.digest}
        self.folder.check()
        write_json(self._file(item + _LOST), written)
        if self._known is not None:
            self._known.markers[item + _LOST] = written

    def unmark_lost(self, item: str) -> None:
        """Remove the mark of a lost item."""
        if self._known is None or self._known.markers.pop(item + _LOST, None) is not None:
            self._file(item + _LOST).unlink(missing_ok=True)

    def lost(self) -> dict[str, dict[str, Any]]:
        """Return why items are lost, by item."""
        found = read_all(sorted(self.path.glob(f"*{_LOST}.json")))
        reasons = {path.stem.removesuffix(_LOST): parse_json(data) for path, data in found.items()}
        return {
            item: why
            for item, why in reasons.items()
            if why and why.pop("fingerprint", None) == self.digest
        }

    def finished_or_lost(self) -> set[str]:
        """Return the items that any process has marked as finished or lost, by the names of their files alone."""
        return {path.stem.removesuffix(_LOST) for path in self.path.glob("*.json")}

    def finish(
        self,
        record: Mapping[str, Any],
        complete: bool = True,
        proof: Sequence[str] | None = None,
        **manifest: Any,
    ) -> dict[str, Any]:
        """Write the record of the stage, with other changes of the manifest, once its outputs are in place.

        If the stage is `complete`, the partial results of its items are no longer needed, and `remove_partials` may follow.
        The record is valid as long as the outputs, or those named as `proof`, keep their sizes.
        """
        written = {
            **record,
            "fingerprint": self.digest,
            "files": self._output_sizes(proof or self.spec.outputs),
            "complete": complete,
        }
        self.folder.check()
        self.folder.update_manifest(
            stages={**self.folder.manifest.get("stages", {}), self.name: written}, **manifest
        )
        return written

    def remove_strays(self, output: str, items: Container[str]) -> None:
        """Remove the files of all other items from a folder of outputs: of an input that was cut otherwise, or is lost."""
        self._remove(path for path in (self.folder / output).glob("*.parquet") if path.stem not in items)

    def partials(self, item: str) -> list[Path]:
        """Return the paths of the partial results of an item, whether they exist or not."""
        return [self.path / f"{item}{pattern.removeprefix('*')}" for pattern in self.spec.partials]

    def remove_partials(self) -> None:
        """Remove the partial results of a complete stage."""
        paths = self.path.glob("*")
        self._remove(
            path
            for path in paths
            if any(fnmatch.fnmatchcase(path.name, each) for each in self.spec.partials)
        )

    def clear(self) -> None:
        """Remove the stage: its record, then its markers, then its outputs."""
        self.folder.check()
        self._remove_record()
        self._known = None
        # A kill may leave some markers in a store; they are valid only for the fingerprint that they name.
        for path in (self.path, *self._paths(self.spec.outputs)):
            remove(path)

    def _remove_record(self) -> None:
        stages = self.folder.manifest.get("stages", {})
        if stages.pop(self.name, None) is not None:
            self.folder.update_manifest(stages=stages)

    @property
    def _snapshot(self) -> _Snapshot:
        if self._known is None:
            self._known = _Snapshot.take(self.folder.path, self.path)
        return self._known

    def _file(self, name: str) -> AnyPath:
        return self.path / f"{name}.json"

    def _remove(self, paths: Iterable[AnyPath]) -> None:
        gone = list(paths)
        self.folder.path.remove_files(gone)
        if self._known is not None:
            for path in gone:
                self._known.sizes.pop(str(path.relative_to(self.folder.path)), None)

    def _paths(self, outputs: Sequence[str]) -> list[AnyPath]:
        """Return the paths that match names and patterns of outputs."""
        folder = self.folder.path
        found = (folder.glob(output) if "*" in output else [folder / output] for output in outputs)
        return list(itertools.chain.from_iterable(found))

    def _output_sizes(self, outputs: Sequence[str]) -> dict[str, int]:
        """Return the sizes of the outputs, and of the files in those that are folders; temporary files are left out."""
        sizes = self.folder.path.sizes()
        if self._known is not None:
            self._known.sizes = sizes
        # The name of a file in the folder itself, or the name of the folder that contains it.
        outer = {name: name.rpartition("/")[0] or name for name in sizes}
        return {
            name: sizes[name]
            for name in sizes
            if not is_temporary(PurePosixPath(name))
            and any(fnmatch.fnmatchcase(outer[name], each) for each in outputs)
        }

    def _sizes(self, paths: Iterable[Path]) -> dict[str, int]:
        found = ((path, file_size(path)) for path in paths)
        return {str(path.relative_to(self.folder.path)): size for path, size in found if size is not None}

    def _is_valid(self, marker: Mapping[str, Any]) -> bool:
        """Return whether a marker or record has this fingerprint, and its files still have the sizes that it names."""
        if marker.get("fingerprint") != self.digest:
            return False
        files: Mapping[str, int] = marker["files"]
        sizes = self._snapshot.sizes
        return all(sizes.get(name) == size for name, size in files.items())


@dataclasses.dataclass(frozen=True)
class FinishedStage:
    """The folder that a finished stage has filled, and the record of the stage in its manifest."""

    path: AnyPath
    record: Mapping[str, Any]

    def __repr__(self) -> str:
        """Show the path and the funnel, without reasons for which nothing was lost."""
        funnel = ", ".join(f"{name} {rows:,}" for name, rows in self.funnel.items() if rows)
        return f"FinishedStage({str(self.path)!r}: {funnel})"

    @property
    def funnel(self) -> dict[str, int]:
        """What became of the rows, by reason."""
        return dict(self.record["funnel"])


# --- the funnel: {"rows": n, <reason>: rows lost for it, ..., <last>: rows that remain}


def add_funnels(funnels: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of funnels, key by key."""
    total: dict[str, int] = {}
    for funnel in funnels:
        for key, rows in funnel.items():
            total[key] = total.get(key, 0) + rows
    return total


def check_funnel(funnel: Mapping[str, int], whole: str, reasons: Iterable[str], rest: str) -> None:
    """Raise AssertionError unless `whole` is the sum of the rows lost for `reasons` and of the `rest`."""
    parts = {key: funnel.get(key, 0) for key in (*reasons, rest)}
    if funnel.get(whole, 0) != sum(parts.values()):
        raise AssertionError(
            f"the funnel does not add up: {whole} = {funnel.get(whole, 0)}, parts {parts}"
        )


# --- what differs in two fingerprints


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Return the first difference in words, with both values."""
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
                    return f"{name}: {_short(odd[0])} is {what}" + (
                        f", and {len(odd) - 1} more" if odd[1:] else ""
                    )
            return f"{name} has its {len(one)} items in another order or number"
        return f"{name} was {_short(one)}, is {_short(other)}"
    raise AssertionError("nothing differs")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
