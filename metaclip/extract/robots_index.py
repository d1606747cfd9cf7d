"""The robots.txt files of a crawl: read once from WARC files into an index on disk, and asked for one url at a time.

    <out>/.state/robots/                      a run folder of its own, so that the parts of a job array wait for the first one
    .../.state/robots/<file>.<run>.keys.npy   uint64[n, 4], sorted: hash of the host (high, low), first byte and size of its rules
    .../.state/robots/<file>.<run>.rules      the rules, in the same order; both until the index is complete
    .../index/<range>.keys.npy, .rules        the same for a range of all hosts

Law: the last record of a host, in the order of files and records, holds for all its urls. Status 2xx: the rules of the file;
3xx to the robots.txt of another host: its rules, over at most five such steps; 4xx, and other redirects: all is allowed;
5xx: all is disallowed (RFC 9309, section 2.3.1). A host without a record is allowed. Common Crawl mostly asks a host once, so
that its rules hold for http and https and all ports; files of other ports than 80 and 443 are not read.

Memory: 32 MiB of rules while files are read, `memory` while ranges are sorted, and in each process that asks 4 MiB of rules,
those of the last hosts (50 MB if all are short); the keys are mapped. Cost: hosts that allow everything take no space.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import numpy as np

from metaclip.engine import PortableStep, Progress, ProgressCallback
from metaclip.errors import BrokenInput, MetaclipError, damaged
from metaclip.extract.crawl_files import CrawlFile, CrawlFileReader, find_crawl_files
from metaclip.extract.gzip_members import CUT_OFF
from metaclip.extract.http_response import parse_response
from metaclip.extract.robots import (
    ALL_DISALLOWED,
    MAX_FILE,
    Rules,
    host_of_file,
    path_of,
    robots_host,
    rules_of,
)
from metaclip.extract.settings import ExtractSettings
from metaclip.extract.warc_records import LOSSES, WarcRecord, read_records
from metaclip.pool.sorted_uids import load_array, load_between, write_rows
from metaclip.stage.folder import Folder
from metaclip.stage.runner import Marker, RunOptions, Task, run
from metaclip.stage.stage import Record, Size, Stage, StageSpec, digest_of, marker_kind
from metaclip.storage.files import AnyPath, atomic_write, local_copies

_RUN_BYTES: Final = 1 << 25
_HELD_BYTES: Final = 1 << 22
_HOST_BYTES: Final = 400
"""Memory of a host beside its rules, while a range is sorted or rules are held."""
_MOST_REDIRECTS: Final = 5
_REDIRECT: Final = ">"
"""Begins the entry of a host whose robots.txt is that of another one."""
_KEY_SPAN: Final = 1 << 64
_FileMarker: Final = marker_kind(
    size=Size, stamp=str | None, sha256=str, runs=Size, hosts=Size, bytes=Size, places=dict[str, str],
)  # fmt: skip
_RangeMarker: Final = marker_kind(of=str, ranges=Size, hosts=Size)
ROBOTS: Final = StageSpec(
    "robots",
    ("index",),
    ("*.keys.npy", "*.rules"),
    record=marker_kind(Record, identity=str, ranges=Size, hosts=Size),
)

Entry = tuple[int, int, bytes]
"""The hash of a host, in two halves, and its rules."""


@dataclasses.dataclass(frozen=True)
class RobotsIndex(PortableStep):
    """The rules of all hosts. It can be sent to a worker, which opens the files itself."""

    folder: Folder
    ranges: int
    identity: str
    """The digest of the files and agents that it was made from."""

    def allows(self, url: str) -> bool:
        """Return whether the robots.txt of its host allows a url to all agents of the index."""
        lists = self._rules_of_host(robots_host(url))
        return not lists or all(map(functools.partial(Rules.allow, path=path_of(url)), lists))

    def _rules_of_host(self, host: str) -> list[Rules]:
        """Return the lists of rules of a host; none if it allows everything."""
        if (found := self._held.lists.get(host)) is not None:
            return found
        text = self._look_up(host)
        for _ in range(_MOST_REDIRECTS):
            if not text.startswith(_REDIRECT):
                break
            text = self._look_up(text.removeprefix(_REDIRECT))
        if text.startswith(_REDIRECT):
            text = ""
        lists = [Rules(part.split("\n")) for part in text.split("\n\n") if part]
        self._held.add(host, lists, len(host) + len(text))
        return lists

    @functools.cached_property
    def _held(self) -> _HeldRules:
        return _HeldRules()

    def _look_up(self, host: str) -> str:
        """Return the entry of a host; "" if it has none."""
        high, low = host_key(host)
        begins = [_begin(number, self.ranges) for number in range(self.ranges)]
        keys, path = self._files[bisect.bisect_right(begins, high) - 1]
        row = bisect.bisect_left(keys, (high, low), key=lambda row: (int(row[0]), int(row[1])))
        if row == len(keys) or tuple(map(int, keys[row, :2])) != (high, low):
            return ""
        return _read(path, int(keys[row, 2]), int(keys[row, 3])).decode("ascii", "replace")

    @functools.cached_property
    def _files(self) -> list[tuple[Any, Path]]:
        """The keys of each range, mapped, and the path of its rules."""
        held = contextlib.ExitStack()
        weakref.finalize(self, held.close)
        names = [index_paths(self.folder, i) for i in range(self.ranges)]
        keys, rules = (held.enter_context(local_copies([pair[i] for pair in names])) for i in (0, 1))
        return [(load_array(path, 4, "r"), beside) for path, beside in zip(keys, rules, strict=True)]


class _HeldRules:
    """The rules of hosts that were asked for, until they take too much memory."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Rules]] = {}
        self._bytes = 0

    def add(self, host: str, lists: list[Rules], size: int) -> None:
        """Hold the rules of a host, of so many bytes; forget the others if they are too many."""
        if self._bytes > _HELD_BYTES:
            self.lists, self._bytes = {}, 0
        self.lists[host] = lists
        self._bytes += size + _HOST_BYTES


def _begin(number: int, ranges: int) -> int:
    """Return the lowest first half of a hash in a range."""
    return _KEY_SPAN * number // ranges


def host_key(host: str) -> tuple[int, int]:
    """Return the two halves of the hash of a host."""
    digest = hashlib.blake2b(host.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def index_paths(folder: Folder, number: int) -> tuple[AnyPath, AnyPath]:
    """Return the paths of a range of the index: keys and rules."""
    return folder / f"index/{number:05d}.keys.npy", folder / f"index/{number:05d}.rules"


def _run_paths(stage: Stage, name: str, number: int) -> tuple[AnyPath, AnyPath]:
    return stage.path / f"{name}.{number:04d}.keys.npy", stage.path / f"{name}.{number:04d}.rules"


def build_index(
    pool: Folder, settings: ExtractSettings, agents: frozenset[str], memory: int, options: RunOptions
) -> RobotsIndex:
    """Read the robots.txt files that the settings name into an index below a pool's folder, unless it is there.

    Whoever comes while another process does this waits. Raise MetaclipError for files that cannot be read: what they disallow
    is not known; and for other files or agents than those of an index that is there.
    """
    stage = Stage(Folder(pool.state / "robots"), ROBOTS)
    plain = dataclasses.replace(settings, first=None, sample=None)
    try:
        files = find_crawl_files(settings.robots or "", plain)
    except MetaclipError as error:
        raise MetaclipError(f"`robots=...`: {error}") from None
    fingerprint = {
        "semantics": ROBOTS.semantics,
        "agents": sorted(agents),
        "inputs": [file.name for file in files],
    }
    with stage.folder.owned(wait=True):
        stage.begin(fingerprint, options.overwrite, names={"inputs": "the files of robots.txt"})
        record = stage.finished()
        if record is not None and (changed := _find_changed(stage, files)) is not None:
            if not options.overwrite:
                raise MetaclipError(
                    f"{changed.path} has changed since {pool.path} was begun; "
                    "choose another `out=...`, or replace the pool with `RunOptions(overwrite=True)`"
                )
            stage.clear()
            stage.begin(fingerprint)
            record = None
        if record is None:
            record = _build(stage, files, agents, memory, options)
        stage.remove_partials()
    return RobotsIndex(stage.folder, record["ranges"], record["identity"])


def _find_changed(stage: Stage, files: Sequence[CrawlFile]) -> CrawlFile | None:
    """Return a file that has other bytes than those that were read."""
    for i, file in enumerate(files):
        if (marker := stage.marker(_name(i), _FileMarker)) is not None and file.has_changed(marker):
            return file
    return None


def _name(index: int) -> str:
    """Return the name of a file's marker and runs."""
    return f"{index:06d}"


def _build(
    stage: Stage, files: list[CrawlFile], agents: frozenset[str], memory: int, options: RunOptions
) -> dict[str, Any]:
    """Read the files that are left, sort their hosts in ranges, and write the record of the stage; return it."""
    tasks = [Task(_name(i), (_name(i), file), file.path) for i, file in enumerate(files)]
    known = {task.name: stage.marker(task.name, _FileMarker) for task in tasks}
    left = [
        task
        for task in tasks
        if (marker := known[task.name]) is None or not task.item[1].is_untouched(marker)
    ]
    with Progress("robots.txt", None, options.progress) as progress:
        for task, made in run(stage, _ReadStep(stage, agents), left, options, progress, holds_gil=True):
            for reason, position in (made or {})["places"].items():
                progress.note(f"{task.source}: records lost: {LOSSES[reason]} (first: {position})")
    markers = {task.name: stage.marker(task.name, _FileMarker) or {} for task in tasks}
    held = sum(marker["bytes"] + _HOST_BYTES * marker["hosts"] for marker in markers.values())
    ranges = max(1, -(-held * options.active_engine.workers // memory))
    runs = {name: marker["runs"] for name, marker in markers.items()}
    identity = digest_of([sorted(agents), [marker["sha256"] for marker in markers.values()]])
    origin = {"of": identity, "ranges": ranges}
    step = functools.partial(_sort_range, stage=stage, runs=runs, ranges=ranges, origin=origin)
    parts = [Task(f"range-{i:05d}", i) for i in range(ranges)]
    with Progress("robots.txt: sort", None, options.progress) as progress:
        done = {task.name: stage.marker(task.name, _RangeMarker) for task in parts}
        again = [task for task in parts if not origin.items() <= (done[task.name] or {}).items()]
        for part, marker in run(stage, step, again, options, progress):
            done[part.name] = marker
    hosts = sum(marker["hosts"] for marker in done.values() if marker)
    return stage.finish({"identity": identity, "ranges": ranges, "hosts": hosts})


@dataclasses.dataclass(frozen=True)
class _ReadStep(PortableStep):
    """Reads the records of a file of robots.txt files."""

    stage: Stage
    agents: frozenset[str]

    def __call__(
        self, item: tuple[str, CrawlFile], progress: ProgressCallback
    ) -> tuple[Marker, list[Path]]:
        """Write the rules of the hosts of a file in sorted runs."""
        (name, file), reader = item, CrawlFileReader(item[1])
        paths, held, size = list[Path](), dict[str, str](), 0
        marker = {"runs": 0, "hosts": 0, "bytes": 0}
        lost: dict[str, str] = {}

        def lose(reason: str, position: str) -> None:
            lost.setdefault(reason, position)

        def write() -> None:
            nonlocal held, size
            pair = _run_paths(self.stage, name, marker["runs"])
            _write(((*host_key(host), text.encode()) for host, text in held.items()), *pair)
            paths.extend(pair)
            for key, number in (("runs", 1), ("hosts", len(held)), ("bytes", size)):
                marker[key] += number
            held, size = {}, 0

        records = 0
        for record in read_records(reader.blocks(), lose, file.path):
            records += 1
            if (found := read_robots(record, self.agents)) is not None:
                host, text = found
                size += len(text) - len(held.get(host, ""))
                held[host] = text
                progress(1, bool(text))
            if size + _HOST_BYTES * len(held) > _RUN_BYTES:
                write()
        if CUT_OFF in lost or not records:
            why = f"ends in the middle of a record, at {lost[CUT_OFF]}" if records else "is no WARC file"
            raise BrokenInput(f"{file.path} {why}; fetch it again")
        if held:
            write()
        file.check_unchanged()
        known = {"size": reader.size, "stamp": file.stamp, "sha256": reader.sha256}
        return {**marker, **known, "places": lost}, paths


def read_robots(record: WarcRecord, agents: frozenset[str]) -> tuple[str, str] | None:
    """Return the host of a robots.txt file and its entry in the index; None for a record that says nothing of a host."""
    url = record.header(b"warc-target-uri").strip("<>")
    if record.headers.get(b"warc-type", b"").lower() != b"response" or not (host := host_of_file(url)):
        return None
    try:
        response = parse_response(bytes(record.block))
    except ValueError:  # a body of more than 64 MiB
        return host, ALL_DISALLOWED
    if response is None:
        return None
    if 200 <= response.status < 300:
        return host, rules_of(response.body[: MAX_FILE + 1], agents)
    if 300 <= response.status < 400:
        if not response.location:
            return None
        try:
            other = host_of_file(urljoin(url, response.location))
        except ValueError:
            other = ""
        # From http to https: the other record of this host says what is allowed.
        return None if other == host else (host, f"{_REDIRECT}{other}" if other else "")
    if 400 <= response.status < 500:
        return host, ""
    return (host, ALL_DISALLOWED) if 500 <= response.status < 600 else None


def _write(entries: Iterable[Entry], keys_path: AnyPath, rules_path: AnyPath) -> None:
    """Write entries, sorted by their keys, to files of keys and of rules."""
    ordered = sorted(entries)
    sizes = np.array([len(entry[2]) for entry in ordered], np.uint64)
    keys = np.array([entry[:2] for entry in ordered], np.uint64).reshape(-1, 2)
    with atomic_write(rules_path) as temporary, temporary.open("wb") as file:
        file.writelines(entry[2] for entry in ordered)
    write_rows(keys_path, np.column_stack([keys, np.cumsum(sizes) - sizes, sizes]))


def _read(path: Path, begin: int, size: int) -> bytes:
    """Read a piece of a file of rules. Raise MetaclipError if it is shorter."""
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(size)
    if len(data) != size:
        raise damaged(path, "it is shorter than its keys say")
    return data


def _sort_range(
    number: int,
    progress: ProgressCallback,
    *,
    stage: Stage,
    runs: Mapping[str, int],
    ranges: int,
    origin: Marker,
) -> tuple[Marker, list[Path]]:
    """Write a range of the index: the last entry of each host, without those that allow everything."""
    begin, end = _begin(number, ranges), _begin(number + 1, ranges)
    last: dict[tuple[int, int], bytes] = {}
    for keys_path, rules_path in _existing_runs(stage, runs):
        with local_copies([keys_path, rules_path]) as (keys, rules):
            rows = load_between(keys, 4, begin, end).tolist()
            data = _read(rules, rows[0][2], rows[-1][2] + rows[-1][3] - rows[0][2]) if rows else b""
            for high, low, first, size in rows:
                at = first - rows[0][2]
                last[high, low] = data[at : at + size]
    paths = index_paths(stage.folder, number)
    _write(((*key, text) for key, text in last.items() if text), *paths)
    return {**origin, "hosts": sum(map(bool, last.values()))}, list(paths)


def _existing_runs(stage: Stage, runs: Mapping[str, int]) -> Iterator[tuple[AnyPath, AnyPath]]:
    for name in sorted(runs):
        for number in range(runs[name]):
            yield _run_paths(stage, name, number)
