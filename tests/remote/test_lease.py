"""A folder on S3 has one owner, or the parts of one job array; an owner that is silent for too long loses it."""

from __future__ import annotations

import contextlib
import json
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

from metaclip.curate.settings import MATCH
from metaclip.errors import AlreadyExists, MetaclipError
from metaclip.stage.folder import ALL, Folder, Part
from metaclip.stage.stage import Stage
from metaclip.storage.lease import held, live_owner, read_claim
from metaclip.storage.remote import RemotePath
from metaclip.storage.threads import map_parallel
from tests.processes import until
from tests.remote.conftest import Through
from tests.remote.servers import Answer, Asked

pytestmark = pytest.mark.extra

_spawning = multiprocessing.get_context("forkserver")
LIVES = 6 * 0.3
"""Seconds for which a claim holds without a beat, at the beat that tests/remote/servers.py sets."""


def _own(path: RemotePath, part: Part, signs: Path, environ: dict[str, str]) -> None:
    """Own a folder until a file says to leave, then mark a shard; unlike a pipe, a file works if a process is killed."""
    os.environ.update(environ)
    folder = Folder(path)
    try:
        with folder.owned(part):
            stage = Stage(folder, MATCH)
            stage.begin({})
            signs.with_suffix(".owned").touch()
            while not signs.with_suffix(".leave").exists():
                time.sleep(0.005)
            stage.mark(f"of-{os.getpid()}", {})
    except MetaclipError as error:
        signs.with_suffix(".error").write_text(str(error))


@contextlib.contextmanager
def owner(path: RemotePath, part: Part = ALL) -> Iterator[tuple[Any, Path]]:
    """Start a process that owns the folder or a part of it for the length of the block; yield it and the path of its signs."""
    with tempfile.TemporaryDirectory() as folder:
        signs = Path(folder, "sign")
        process = _spawning.Process(target=_own, args=(path, part, signs, dict(os.environ)))
        process.start()
        until(lambda: signs.with_suffix(".owned").exists() or not process.is_alive(), "an owner")
        assert signs.with_suffix(".owned").exists(), signs.with_suffix(".error").read_text()
        try:
            yield process, signs
        finally:
            signs.with_suffix(".leave").touch()
            process.join()


@contextlib.contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(MetaclipError, match=re.escape(message)):
        yield


def claim(who: str, every: float) -> bytes:
    """Return a claim of another process."""
    return json.dumps({"owner": "another", "who": who, "every": every, "beat": 0}).encode()


def enter(block: contextlib.AbstractContextManager[None]) -> None:
    with block:
        pass


def test_another_process_is_refused_and_the_owner_named(store: RemotePath) -> None:
    """While a process owns the folder, a second one is refused with its name within two beats; at the end no lock is left."""
    folder = Folder(store)
    with owner(store) as (process, _):
        time.sleep(1.2 * LIVES)  # it goes on living
        began = time.monotonic()
        name = f"process {process.pid} on {platform.node()}"
        with refused(f"{store} is in use by {name}; wait for it, stop it, or choose another `out=...`"):
            enter(folder.owned())
        assert time.monotonic() - began < LIVES
    assert not (store / ".state" / "lock").exists()
    enter(folder.owned())


def test_a_second_owner_in_one_process_is_refused(store: RemotePath) -> None:
    """Two threads of a notebook are kept apart like two processes."""
    with Folder(store).owned(), refused(f"in use by process {os.getpid()}"):
        enter(Folder(store).owned())


@pytest.mark.parametrize("part", [ALL, Part(2, 3)])
def test_a_dead_owner_blocks_for_as_long_as_its_claim_lives(store: RemotePath, part: Part) -> None:
    """After SIGKILL of the owner, the folder is free when it has been silent for six beats, and no sooner."""
    with owner(store, part) as (process, _):
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        began = time.monotonic()
        enter(Folder(store).owned())
        # S3 tells the time in whole seconds, so of a claim's life up to one second may be missing.
        assert LIVES - 1.5 < time.monotonic() - began < LIVES + 5
    assert list(store.sizes()) == [".state/match/fingerprint.json"]


def test_an_owner_that_slept_finds_its_folder_taken(store: RemotePath) -> None:
    """An owner that was stopped for longer than its claim lives marks nothing, and its error names the new owner."""
    with owner(store) as (process, signs):
        os.kill(process.pid, signal.SIGSTOP)
        with Folder(store).owned():
            os.kill(process.pid, signal.SIGCONT)
            signs.with_suffix(".leave").touch()
            process.join()
            said = signs.with_suffix(".error").read_text()
            assert f"is not owned by this process any more but by process {os.getpid()} on" in said
        assert not [name for name in store.sizes() if f"of-{process.pid}" in name]


def test_an_owner_that_slept_alone_goes_on(store: RemotePath) -> None:
    """An owner that was stopped while nobody took the folder renews its claim and marks."""
    with owner(store) as (process, signs):
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.5 * LIVES)
        os.kill(process.pid, signal.SIGCONT)
        signs.with_suffix(".leave").touch()
        process.join()
        assert not signs.with_suffix(".error").exists()
        assert [name for name in store.sizes() if f"of-{process.pid}" in name]


def test_parts_run_beside_each_other_and_keep_all_out(store: RemotePath) -> None:
    """Parts own the folder together, each part once; the whole is refused beside a part, and a part beside the whole."""
    folder = Folder(store)
    with owner(store, Part(1, 3)) as (process, _):
        enter(folder.owned(Part(2, 3)))
        for wanted in (Part(1, 3), ALL):
            with refused(f"in use by part 1/3, process {process.pid} "):
                enter(folder.owned(wanted))
    with owner(store) as (process, _), refused(f"in use by process {process.pid} "):
        enter(folder.owned(Part(1, 2)))


def test_who_waits_gets_the_folder(store: RemotePath) -> None:
    """The part that combines the results waits until the others have released the folder."""
    with owner(store, Part(1, 2)) as (_, signs):
        began = time.monotonic()
        _spawning.Process(target=_touch_later, args=(signs.with_suffix(".leave"), 2.0)).start()
        enter(Folder(store).owned(wait=True))
        assert time.monotonic() - began > 1.5


def test_a_part_waits_while_another_one_combines(store: RemotePath) -> None:
    """A part that is started while the results are combined waits, and is not refused."""
    with ThreadPoolExecutor(1) as threads:
        with Folder(store).owned(wait=True):
            late = threads.submit(lambda: enter(Folder(store).owned(Part(1, 2))))
            time.sleep(1.0)
            assert not late.done()
        late.result(60)


def _touch_later(path: Path, seconds: float) -> None:
    time.sleep(seconds)
    path.touch()


def test_who_reads_sees_that_it_was_written_to(store: RemotePath) -> None:
    """A reader is refused while a process writes; if one wrote meanwhile, the reader raises at the end."""
    folder = Folder(store)
    with owner(store) as (process, _), refused(f"in use by process {process.pid} "):
        enter(folder.read_locked())
    enter(folder.read_locked())

    def read() -> None:
        with folder.read_locked():
            Folder(store).update_manifest(a=1)

    with refused(f"{store} was written to while it was read; run the same command again"):
        read()


def test_a_lock_that_is_no_claim_holds_nothing(store: RemotePath) -> None:
    """The lock of a run folder that was copied from a disk, or an empty one, does not block."""
    for junk in (b"", b"process 1 on host", b"[]", b'{"owner": 1}'):
        (store / ".state" / "lock").put(junk)
        enter(Folder(store).owned())


def test_a_claim_removed_by_hand_ends_its_owner(store: RemotePath) -> None:
    """If somebody removes the lock, its owner notices and ends."""
    with held(store / "lock") as check:
        (store / "lock").unlink()
        with refused("not owned by this process any more but by nobody, its lock was removed"):
            check()


def test_of_many_that_begin_at_once_one_has_it(store: RemotePath) -> None:
    """If eight threads take over one dead lock at once, one gets it and seven are refused."""
    (store / "lock").put(claim("process 0 on nowhere", 0.01))
    time.sleep(1.1)
    with contextlib.ExitStack() as taken:

        def take(_: int) -> bool:
            try:
                taken.enter_context(held(store / "lock"))
            except AlreadyExists:
                return False
            return True

        assert sum(map_parallel(take, range(8), 8)) == 1


@pytest.mark.parametrize("how", ["refuses", "ignores"])
def test_a_store_without_conditional_puts(store: RemotePath, through: Through, how: str) -> None:
    """Where the store refuses conditions, or does not see them, one owner at a time is what a beat's time gives."""

    def answer(request: Asked) -> Answer:
        asks = {"if-none-match", "if-match"} & {name.lower() for name in request.headers}
        return (501, "NotImplemented") if asks and request.method == "PUT" and how == "refuses" else None

    with through(answer, without=("if-none-match", "if-match")) as standing:
        with Folder(store).owned(), refused(f"in use by process {os.getpid()}"):
            enter(Folder(store).owned())
        # One that put its claim over a living one's: the first finds the other's at its next beat.
        with held(store / "lock") as check:
            (store / "lock").put(claim("process 1 on elsewhere", 60.0))
            with refused("but by process 1 on elsewhere"):
                check()
        assert bool(standing.refused) == (how == "refuses")


def test_an_answer_that_got_lost(store: RemotePath, through: Through) -> None:
    """A claim and each beat arrive, their answers do not, and the client's second try is refused: they are its own."""
    tried: set[str] = set()

    def answer(request: Asked) -> Answer:
        condition = request.headers.get("If-None-Match") or request.headers.get("If-Match")
        if request.method != "PUT" or condition is None or condition in tried:
            return None
        tried.add(condition)
        return 500, "InternalError"

    with through(answer, too_late=True) as standing:
        with held(store / "lock") as check:
            until(lambda: read_claim(store / "lock")["beat"] >= 3, "three beats")
            check()
        assert len(standing.refused) >= 3


def test_a_beat_that_is_none_is_refused(store: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """METACLIP_BEAT is a number of seconds."""
    monkeypatch.setenv("METACLIP_BEAT", "x")
    with refused("METACLIP_BEAT must be a number of seconds, such as 5"):
        enter(Folder(store).owned())


def test_no_claim_is_alive_where_there_is_none(store: RemotePath) -> None:
    """None, and one still since long ago."""
    assert live_owner(store / "lock") is None
    (store / "lock").put(claim("process 0", 0.01))
    time.sleep(1.1)
    began = time.monotonic()
    assert live_owner(store / "lock") is None
    assert time.monotonic() - began < 1
