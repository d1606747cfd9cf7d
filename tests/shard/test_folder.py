"""A run folder has one owner, or the parts of one job array; the dead own nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaclip.errors import MetaclipError
from metaclip.shard.files import temporary_name
from metaclip.shard.folder import ALL, Folder, Part

_forking = multiprocessing.get_context("fork")


def _own(path: Path, part: Part | None, owned: Any, leave: Any) -> None:
    with Folder(path).owned(part or ALL):
        owned.set()
        leave.wait(120)


def _hold(path: Path, owned: Any, leave: Any) -> None:
    with Folder(path).held():
        owned.set()
        leave.wait(120)


@contextlib.contextmanager
def owner(path: Path, part: Part | None = None, reads: bool = False) -> Iterator[Any]:
    """Another process that owns the folder, or a part of it, or only reads it, for the length of the block."""
    owned, leave = _forking.Event(), _forking.Event()
    arguments = (path, owned, leave) if reads else (path, part, owned, leave)
    process = _forking.Process(target=_hold if reads else _own, args=arguments)
    process.start()
    assert owned.wait(60)
    try:
        yield process
    finally:
        leave.set()
        process.join()


def test_another_process_is_refused_and_the_owner_named(tmp_path: Path) -> None:
    """While a process owns the folder, a second one learns which, on what machine, and what to do."""
    with owner(tmp_path / "run") as process:
        with pytest.raises(MetaclipError) as refused, Folder(tmp_path / "run").owned():
            pass
        assert f"is in use by process {process.pid} on {platform.node()}" in str(refused.value)
        assert "wait for it, stop it, or choose another --out" in str(refused.value)
    with Folder(tmp_path / "run").owned():
        pass


def test_a_second_owner_in_one_process_is_refused(tmp_path: Path) -> None:
    """Two threads of a notebook are kept apart like two processes."""
    with Folder(tmp_path).owned(), pytest.raises(MetaclipError, match=f"in use by process {os.getpid()}"):
        with Folder(tmp_path).owned():
            pass


@pytest.mark.parametrize("part", [None, Part(2, 3)])
def test_a_dead_owner_does_not_block(tmp_path: Path, part: Part | None) -> None:
    """kill -9 the owner, and the folder can be had at once; what it left half-written goes."""
    with owner(tmp_path / "run", part) as process:
        left = temporary_name(tmp_path / "run" / "matched.parquet")
        left.touch()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        began = time.monotonic()
        with Folder(tmp_path / "run").owned():
            assert time.monotonic() - began < 5
            assert not left.exists()


def test_a_dead_owner_is_not_named(tmp_path: Path) -> None:
    """The name that a killed process left in the lock is not taken for that of the one that has it now."""
    with owner(tmp_path / "run") as dead:
        os.kill(dead.pid, signal.SIGKILL)
        dead.join()
    with owner(tmp_path / "run", Part(1, 2)) as alive:
        with pytest.raises(MetaclipError) as refused, Folder(tmp_path / "run").owned():
            pass
        assert f"part 1/2, process {alive.pid} on" in str(refused.value)
        assert str(dead.pid) not in str(refused.value)


def test_parts_run_beside_each_other(tmp_path: Path) -> None:
    """Parts own the folder together, each its own, and none removes what another one is writing."""
    with owner(tmp_path / "run", Part(1, 3)), owner(tmp_path / "run", Part(2, 3)):
        half = temporary_name(tmp_path / "run" / "matched.parquet")
        half.touch()
        with Folder(tmp_path / "run").owned(Part(3, 3)):
            assert half.exists()


def test_one_part_does_not_run_twice(tmp_path: Path) -> None:
    """The same part is refused while it runs, naming it."""
    with owner(tmp_path / "run", Part(2, 3)) as process:
        with pytest.raises(MetaclipError, match=f"in use by part 2/3, process {process.pid} "):
            with Folder(tmp_path / "run").owned(Part(2, 3)):
                pass


def test_a_whole_run_waits_for_the_parts(tmp_path: Path) -> None:
    """A run of all is refused beside a part and a part beside a run of all; after them no trace of the parts is left."""
    with owner(tmp_path / "run", Part(1, 2)), pytest.raises(MetaclipError, match="in use by part 1/2, process"):
        with Folder(tmp_path / "run").owned():
            pass
    with owner(tmp_path / "run") as process, pytest.raises(MetaclipError, match=f"in use by process {process.pid}"):
        with Folder(tmp_path / "run").owned(Part(1, 2)):
            pass
    with Folder(tmp_path / "run").owned():
        assert sorted(path.name for path in (tmp_path / "run" / ".state").iterdir()) == ["lock"]


def test_who_waits_gets_the_folder(tmp_path: Path) -> None:
    """The part that adds up waits until the others have let go."""
    with owner(tmp_path / "run", Part(1, 2)):
        waiting = _forking.Process(target=_wait_and_tell, args=(tmp_path / "run",))
        waiting.start()
        time.sleep(0.2)
        assert not (tmp_path / "told").exists()
    waiting.join(60)
    assert (tmp_path / "told").exists()


def _wait_and_tell(path: Path) -> None:
    with Folder(path).owned(wait=True):
        (path.parent / "told").touch()


def test_readers_keep_writers_out(tmp_path: Path) -> None:
    """Any number of processes read a folder at once; none may write to it meanwhile."""
    with Folder(tmp_path / "run").owned():
        pass
    with owner(tmp_path / "run", reads=True), Folder(tmp_path / "run").held():
        with (
            pytest.raises(MetaclipError, match="in use by another process that reads it"),
            Folder(tmp_path / "run").owned(),
        ):
            pass
    with owner(tmp_path / "run") as process, pytest.raises(MetaclipError, match=f"in use by process {process.pid}"):
        with Folder(tmp_path / "run").held():
            pass


def test_a_published_copy_can_be_read(tmp_path: Path) -> None:
    """A folder without its state, or one that may only be read, is held all the same."""
    (tmp_path / "run").mkdir()
    with Folder(tmp_path / "run").held():
        pass
    assert not (tmp_path / "run" / ".state").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Where nothing can be locked, nothing is written, and the message says why."""

    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(MetaclipError, match="cannot be locked .* file system that has locks"), Folder(tmp_path).owned():
        pass


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    """A folder with someone's files is left alone, naming one of them; so is a file."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").touch()
    with pytest.raises(MetaclipError, match=r"files that are not a metaclip run's \(thesis.txt\)"):
        with Folder(tmp_path / "theirs").owned():
            pass
    with pytest.raises(MetaclipError, match="thesis.txt is a file; --out must be a folder"):
        with Folder(tmp_path / "theirs" / "thesis.txt").owned():
            pass
    assert os.listdir(tmp_path / "theirs") == ["thesis.txt"]


def test_an_empty_folder_and_a_new_one_are_taken(tmp_path: Path) -> None:
    """An empty folder, one that is not there, deep down, and a run's own."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/b/c", "a/b/c"):
        with Folder(tmp_path / name).owned():
            pass


def test_the_manifest_changes_key_by_key(tmp_path: Path) -> None:
    """Keys are replaced at the top, others stay; damaged or none is empty."""
    folder = Folder(tmp_path)
    assert folder.manifest == {}
    folder.update_manifest(a=1, b={"c": 1})
    folder.update_manifest(b={"d": 2})
    assert folder.manifest == {"a": 1, "b": {"d": 2}}
    (folder / "manifest.json").write_bytes(b"")
    assert folder.manifest == {}


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_each_shard_has_one_part(n: int) -> None:
    """The parts share the shards out: each index belongs to exactly one."""
    parts = [Part.parse(f"{i}/{n}") for i in range(1, n + 1)]
    assert [str(part) for part in parts] == [f"{i}/{n}" for i in range(1, n + 1)]
    for index in range(50):
        assert sum(part.takes(index) for part in parts) == 1
    assert parts[0].whole is (n == 1)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "/3", "1/", "a/b", "-1/3", "1/0", "1/2/3", "²/3", " 1/3", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    """Anything but i/n with 1 <= i <= n is an error that shows the form."""
    with pytest.raises(MetaclipError, match="not of the form i/n with 1 <= i <= n, such as 3/100"):
        Part.parse(text)
