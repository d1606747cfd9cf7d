"""A run folder has one owner, or the parts of one job array; a process that ended owns nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import platform
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from metaclip.errors import MetaclipError
from metaclip.stage.folder import ALL, STATE, Folder, Part
from metaclip.storage.files import as_path

_forking = multiprocessing.get_context("fork")


def owned(path: Path, part: Part = ALL, wait: bool = False) -> contextlib.AbstractContextManager[None]:
    return Folder(path).owned(part, wait)


def read_locked(path: Path) -> contextlib.AbstractContextManager[None]:
    return Folder(path).read_locked()


def _own(path: Path, part: Part | None, signs: Path, wait: bool) -> None:
    """Own a folder (only read it if `part` is None) until a file says to leave, which works even if a process is killed."""
    with owned(path, part, wait) if part is not None else read_locked(path):
        signs.with_suffix(".owned").touch()
        while not signs.with_suffix(".leave").exists():
            time.sleep(0.002)


@contextlib.contextmanager
def owner(path: Path, part: Part | None = ALL, wait: bool = False) -> Iterator[Any]:
    """Another process that owns the folder or a part of it (None: only reads it) for the length of the block."""
    with tempfile.TemporaryDirectory() as folder:
        signs = Path(folder, "sign")
        process = _forking.Process(target=_own, args=(path, part, signs, wait))
        process.start()
        while not signs.with_suffix(".owned").exists():
            assert process.is_alive()
            time.sleep(0.002)
        try:
            yield process
        finally:
            signs.with_suffix(".leave").touch()
            process.join()


@contextlib.contextmanager
def refused(message: str) -> Iterator[None]:
    """Expect a block to be refused with a message that holds this text."""
    with pytest.raises(MetaclipError, match=re.escape(message)):
        yield


def enter(block: contextlib.AbstractContextManager[None]) -> None:
    """Enter a block and leave it."""
    with block:
        pass


def test_another_process_is_refused_and_the_owner_named(tmp_path: Path) -> None:
    """While a process owns the folder, a second one is refused with its id, its machine and the next step."""
    folder = tmp_path / "run"
    with owner(folder) as process:
        name = f"process {process.pid} on {platform.node()}"
        with refused(f"{folder} is in use by {name}; wait for it, stop it, or choose another `out=...`"):
            enter(owned(folder))
    enter(owned(folder))


def test_a_second_owner_in_one_process_is_refused(tmp_path: Path) -> None:
    """Two threads of a notebook are kept apart like two processes."""
    with owned(tmp_path), refused(f"in use by process {os.getpid()}"):
        enter(owned(tmp_path))


@pytest.mark.parametrize("part", [ALL, Part(2, 3), None])
def test_a_dead_owner_does_not_block(tmp_path: Path, part: Part | None) -> None:
    """After SIGKILL of the owner, the folder is free at once, and its unfinished files are removed."""
    folder = tmp_path
    enter(owned(folder))
    with owner(tmp_path, part) as process:
        left = as_path(tmp_path / "matched.parquet").temporary()
        left.touch()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        began = time.monotonic()
        enter(owned(folder))
        assert time.monotonic() - began < 5
        assert not left.exists()


def test_a_dead_owner_is_not_named(tmp_path: Path) -> None:
    """The name that a killed process left in the lock is not reported as that of the present owner."""
    with owner(tmp_path) as dead:
        os.kill(dead.pid, signal.SIGKILL)
        dead.join()
    with owner(tmp_path, Part(1, 2)) as alive, refused(f"in use by part 1/2, process {alive.pid} on"):
        enter(owned(tmp_path))


def test_parts_run_beside_each_other(tmp_path: Path) -> None:
    """Parts own the folder together, each its own, and none removes what another one is writing."""
    with owner(tmp_path, Part(1, 3)), owner(tmp_path, Part(2, 3)):
        half = as_path(tmp_path / "matched.parquet").temporary()
        half.touch()
        with owned(tmp_path, Part(3, 3)):
            assert half.exists()


def test_one_part_does_not_run_twice(tmp_path: Path) -> None:
    """The same part is refused while it runs, naming it."""
    with owner(tmp_path, Part(2, 3)) as process, refused(f"in use by part 2/3, process {process.pid} "):
        enter(owned(tmp_path, Part(2, 3)))


def test_a_whole_run_and_parts_keep_each_other_out(tmp_path: Path) -> None:
    """The whole is refused beside a part, and a part beside the whole; owning the whole removes the locks of parts."""
    folder = tmp_path
    with owner(tmp_path, Part(1, 2)) as process, refused(f"in use by part 1/2, process {process.pid} "):
        enter(owned(folder))
    with owner(tmp_path) as process, refused(f"in use by process {process.pid} "):
        enter(owned(folder, Part(1, 2)))
    enter(owned(folder))
    assert os.listdir(folder / STATE) == ["lock"]


def test_who_waits_gets_the_folder(tmp_path: Path) -> None:
    """The part that combines the results waits until the others have released the folder."""
    told = tmp_path / "told"
    with owner(tmp_path / "run", Part(1, 2)):
        waiting = _forking.Process(target=_wait_and_tell, args=(tmp_path / "run", told))
        waiting.start()
        time.sleep(0.2)
        assert not told.exists()
    waiting.join(60)
    assert told.exists()


def _wait_and_tell(path: Path, told: Path) -> None:
    with owned(path, wait=True):
        told.touch()


def test_a_part_waits_while_another_one_combines(tmp_path: Path) -> None:
    """A part that comes while the results are combined, as in a job array submitted again, waits; others are refused."""
    with ThreadPoolExecutor(1) as threads:
        with owner(tmp_path, wait=True) as process:
            late = threads.submit(lambda: enter(owned(tmp_path, Part(1, 2))))
            time.sleep(0.2)
            assert not late.done()
            with refused(f"is in use by a part that combines all, process {process.pid} "):
                enter(owned(tmp_path))
        late.result(60)


def test_readers_keep_writers_out(tmp_path: Path) -> None:
    """Any number of processes read a folder at once; none may write to it meanwhile, nor read while one writes."""
    folder = tmp_path
    enter(owned(folder))
    with (
        owner(tmp_path, None),
        read_locked(folder),
        refused("in use by another process that reads it"),
    ):
        enter(owned(folder))
    with owner(tmp_path) as process, refused(f"in use by process {process.pid} "):
        enter(read_locked(folder))


def test_a_published_copy_can_be_read(tmp_path: Path) -> None:
    """A folder without state can be read, and nothing is created in it."""
    enter(read_locked(tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """If the file system has no locks, nothing is written, and the message says why."""

    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with refused(
        f"cannot be locked ([Errno {code}] {os.strerror(code)}); choose an `out=...` on a file system that has locks"
    ):
        enter(owned(tmp_path))


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    """A folder with other files is refused, and the message names one of them; so is a file."""
    (tmp_path / "thesis.txt").touch()
    with refused(f"{tmp_path} holds files that are not a metaclip run's (thesis.txt)"):
        enter(owned(tmp_path))
    with refused("thesis.txt is a file; `out=...` must be a folder"):
        enter(owned(tmp_path / "thesis.txt"))
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_an_empty_folder_and_a_new_one_are_taken(tmp_path: Path) -> None:
    """An empty folder, one that does not exist, a nested one, and the folder of a run can be owned."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/b/c", "a/b/c"):
        enter(owned(tmp_path / name))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_each_shard_has_one_part(n: int) -> None:
    """Each index belongs to exactly one part."""
    parts = [Part.parse(f"{i}/{n}") for i in range(1, n + 1)]
    assert [str(part) for part in parts] == [f"{i}/{n}" for i in range(1, n + 1)]
    for index in range(50):
        assert sum(part.takes(index) for part in parts) == 1
    assert parts[0].whole is (n == 1)


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "3", "/3", "1/", "a/b", "-1/3", "1/0", "1/2/3", "²/3", " 1/3", ""]
)
def test_what_is_no_part_is_refused(text: str) -> None:
    """Anything but i/n with 1 <= i <= n is an error that shows the form."""
    with pytest.raises(MetaclipError, match="not of the form i/n with 1 <= i <= n, such as 3/100"):
        Part.parse(text)
