"""A stage of a run folder: items with markers, under one fingerprint, and its funnel. Markers make it safe to kill a run.

    .state/<stage>/fingerprint.json   everything that determines the result of the stage
    .state/<stage>/<item>.json        the marker of a finished item: digest of the fingerprint, sizes and CRCs of its files
    .state/<stage>/<item>.lost.json   why an item could not be read, until it can
    .state/<stage>/<item>.*           partial results of the item, until the stage is complete

Law: the files of an item are renamed into place first, its marker is written last, and the record of the stage is written
to the manifest when everything is in place. A marker proves its item, and a record its stage, as long as their files have
the sizes that they had then. So whatever a killed process, a power cut or a removed file leaves, the same command finishes
it. Who reads a file that another stage or step wrote compares its bytes, too (`check_bytes`). A stage with another
fingerprint is refused, and the message names the difference.

Nothing that is read back is trusted: a marker, record or fingerprint that has not the fields and types that it was written
with (`StageSpec.record`, the argument `kind` of `Stage.marker`) counts as missing, and its item or stage is made again.

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
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

import msgspec

from metaclip.errors import MetaclipError, damaged, one_line
from metaclip.stage.folder import Folder, holds_results
from metaclip.storage.files import (
    AnyPath,
    as_path,
    crc32,
    fault_in,
    is_remote,
    is_temporary,
    parse_json,
    read_all,
    read_json,
    write_json,
)

_FINGERPRINT: Final = "fingerprint.json"
_LOST: Final = ".lost"
"""What follows the name of a lost item in the name of its file."""


Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
"""A number of bytes or rows."""


class Written(msgspec.Struct, kw_only=True):
    """What each marker and record holds, and its types; further keys are those of the stage (`marker_kind`)."""

    fingerprint: str
    files: dict[str, Size]
    """Sizes in bytes, by path relative to the folder."""
    crc32: dict[str, str] = {}
    """Of those that another stage or step reads; not of files in a store, and earlier revisions did not write it."""


class Record(Written, kw_only=True):
    """What the record of each stage holds."""

    complete: bool


class Lost(msgspec.Struct):
    """What the mark of a lost item holds, and what records say of it."""

    error: str
    index: Size = 0
    first: Size = 0
    rows: Size | None = None


def marker_kind(base: type[Written] = Written, **fields: Any) -> Any:
    """Return a kind of markers (or of records, by its `base`) with these fields, too: a type, or a type and a default."""
    named = [(name, *kind) if isinstance(kind, tuple) else (name, kind) for name, kind in fields.items()]
    return msgspec.defstruct("Marker", named, bases=(base,), kw_only=True)


def funnel_kind(steps: Iterable[str], may_lack: Iterable[str] = ()) -> Any:
    """Return the type of a funnel with numbers of rows for these steps, and maybe for others."""
    fields: list[Any] = [*((step, Size) for step in steps), *((step, Size, 0) for step in may_lack)]
    return msgspec.defstruct("Funnel", fields)


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
    record: Any = Record
    """The kind of its record in the manifest (`marker_kind`)."""


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
        """Return the attributes without the snapshot, which is large, and the kind of record: workers need neither."""
        return {**self.__dict__, "_known": None, "spec": dataclasses.replace(self.spec, record=Record)}

    @property
    def path(self) -> AnyPath:
        """The folder of the stage's markers."""
        return self.folder.state / self.name

    @property
    def record(self) -> dict[str, Any] | None:
        """The record of the stage in the manifest; None until it is finished, and if it is damaged."""
        found = self.folder.manifest.get("stages", {}).get(self.name)
        return found if found is not None and fault_in(found, self.spec.record) is None else None

    def begin(
        self,
        fingerprint: Mapping[str, Any],
        overwrite: bool = False,
        *,
        names: Mapping[str, str] | None = None,
        instead: str = "choose another `out=...`",
    ) -> bool:
        """Begin or resume the stage; return whether it replaced a stage with another fingerprint.

        With `overwrite`, or if that stage has produced nothing, its state and outputs are removed. Otherwise raise
        MetaclipError, which names what differs (by `names`, of keys of the fingerprint) and what to do `instead`.
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
            if not overwrite and self.has_results():
                found = [] if before is None else _differences(before, wanted, names or {})
                what = "; ".join(found[:_MOST_NAMED]) or f"{path} is damaged"
                if more := found[_MOST_NAMED:]:
                    what += f"; and {len(more)} more"
                raise MetaclipError(
                    f"{self.folder.path} holds another run: {what}; {instead}, or replace it with `RunOptions(overwrite=True)`"
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

    def has_results(self) -> bool:
        """Return whether the folder holds a finished item or an output of the stage, under any fingerprint."""
        if holds_results(self.path.glob("*.json")):
            return True
        return any(
            not path.is_dir() or any(path.iterdir())
            for path in self._paths(self.spec.outputs)
            if path.exists()
        )

    def finished(self) -> dict[str, Any] | None:
        """Return the record of the stage; None if it is not finished under this fingerprint, or an output has changed."""
        record = self.record
        return record if record is not None and self._is_valid(record) else None

    def marker(self, item: str, kind: Any = Written) -> dict[str, Any] | None:
        """Return the marker of a finished item, of a `kind` (`marker_kind`).

        Return None if it has none of this kind and fingerprint, or if a file has changed.
        """
        found = self._snapshot.markers.get(item)
        if found is None or fault_in(found, kind) is not None:
            return None
        # The partial results of a complete stage are gone; its record, which is valid, proves its items.
        return found if self._complete or self._is_valid(found) else None

    def mark(self, item: str, marker: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
        """Mark an item as finished once its `files` are in place; return the marker as it is written."""
        paths = list(files)
        written = {
            **marker,
            "fingerprint": self.digest,
            "files": self._sizes(paths),
            # Files in the folder itself are for others to take away: tars are large, and nobody here reads them.
            "crc32": self._checksums(path for path in paths if path.parent != self.folder.path),
        }
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
        reasons = {path.stem.removesuffix(_LOST): parse_json(data, Lost) for path, data in found.items()}
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
        checked: Sequence[str] = (),
        **manifest: Any,
    ) -> dict[str, Any]:
        """Write the record of the stage, with other changes of the manifest, once its outputs are in place.

        If the stage is `complete`, the partial results of its items are no longer needed, and `remove_partials` may follow.
        The record is valid as long as the outputs, or those named as `proof`, keep their sizes. `checked` are the outputs
        that others read and that are no item's.
        """
        checksums = self._checksums([self.folder / name for name in checked])
        written = {
            **record,
            **({"crc32": checksums} if checksums else {}),
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

    def partial(self, item: str, ending: str) -> AnyPath:
        """Return the path of a partial result of a finished item. Raise MetaclipError if its bytes have changed."""
        path = self.path / f"{item}.{ending}"
        check_item_bytes(path, self._file(item))
        return path

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
            path.remove()

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
        found = ((path, as_path(path).size()) for path in paths)
        return {str(path.relative_to(self.folder.path)): size for path, size in found if size is not None}

    def _checksums(self, paths: Iterable[Path]) -> dict[str, str]:
        """Return the CRC-32 of those files that exist; of none in a store, which checks its objects itself."""
        if is_remote(self.folder.path):
            return {}
        return {
            path.relative_to(self.folder.path).as_posix(): crc32(path) for path in paths if path.is_file()
        }

    def _is_valid(self, marker: Mapping[str, Any]) -> bool:
        """Return whether a marker or record has this fingerprint, and its files still have the sizes that it names."""
        if marker.get("fingerprint") != self.digest:
            return False
        files: Mapping[str, int] = marker["files"]
        sizes = self._snapshot.sizes
        return all(sizes.get(name) == size for name, size in files.items())


def check_bytes(path: Path, name: str, marker: Mapping[str, Any] | None) -> None:
    """Raise MetaclipError if a file has other bytes than a marker or record says that were written under `name`.

    Nothing is known of a file in a store, and of one that an earlier revision wrote.
    """
    known = (marker or {}).get("crc32", {}).get(name)
    if known is None or is_remote(path):
        return
    try:
        same = crc32(path) == known
    except OSError as error:
        raise damaged(path, one_line(error)) from None
    if not same:
        raise damaged(path, "it has other bytes than were written")


def check_item_bytes(path: Path, marker: Path) -> None:
    """Raise MetaclipError if a file of an item has other bytes than the item's marker, a file, says."""
    if not is_remote(path):
        folder = marker.parent.parent.parent
        check_bytes(path, path.relative_to(folder).as_posix(), read_json(marker, Written))


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
    """Raise MetaclipError unless `whole` is the sum of the rows lost for `reasons` and of the `rest`.

    Its parts come from markers, so that a damaged one is found here.
    """
    parts = {key: funnel.get(key, 0) for key in (*reasons, rest)}
    if funnel.get(whole, 0) != sum(parts.values()):
        raise MetaclipError(
            f"the funnel does not add up: {whole} = {funnel.get(whole, 0)}, parts {parts}; a marker or manifest.json is "
            "damaged: run the command that made it again with `RunOptions(overwrite=True)`"
        )


# --- what differs in two fingerprints

_MOST_NAMED: Final = 3
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], names: Mapping[str, str], prefix: str = ""
) -> list[str]:
    """Return the differences in words: both values of a setting, and of a digest that what it is of has changed."""
    found = []
    for key in sorted(set(before) | set(now)):
        one, other, path = before.get(key), now.get(key), prefix + key
        name = names.get(path, path)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differences(one, other, names, f"{path}.")
        elif isinstance(one, list) and isinstance(other, list):
            found.append(f"{name}{_list_difference(*([*map(_shown, items)] for items in (one, other)))}")
        elif _DIGEST.fullmatch(str(one)) or _DIGEST.fullmatch(str(other)):
            found.append(f"{name} has changed")
        else:
            found.append(f"{name}: {_shown(one)} -> {_shown(other)}")
    return found


def _list_difference(before: Sequence[str], now: Sequence[str]) -> str:
    for what, some, others in (("gone", before, set(now)), ("new", now, set(before))):
        if odd := [item for item in some if item not in others]:
            return f": {odd[0]} is {what}" + (f", and {len(odd) - 1} more" if odd[1:] else "")
    return f" has its {len(before)} items in another order or number"


def _shown(value: Any) -> str:
    """Return a value as JSON of at most 80 characters, whole numbers without a point."""
    is_whole = isinstance(value, float) and value.is_integer()
    text = f"{value:.15g}" if is_whole else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
