"""A claim on a folder in a store, which has no locks: an object that its owner rewrites while it lives.

    lock          {"owner": random id, "who": for messages, "every": seconds between beats, "beat": how many}

Law: the object is put only where none is; a beat is put only over the beat before; one that is still for six of its
beats is put over, and is then its new owner's. A store with conditional puts (If-None-Match, If-Match: Amazon's since
2024, MinIO, Ceph) does this atomically, so one process at a time has the claim. On a store without them two processes
that begin within one beat may both go on, until the next beat of one finds the other's.
An owner that was stopped for longer than its claim lives (a suspended machine, a network that is gone) asks for a beat
before it writes the next marker, and ends if the claim is another's. What it had put by then are files of the same
bytes, because a result depends on the fingerprint alone; only over `--overwrite` with other settings could they differ.

How still a claim is, is told by the store's own clock where it says the time, and else by watching it. So a process
that was killed an hour ago holds nothing up, and one that was killed just now for 30 s; METACLIP_BEAT sets the seconds
between beats (5).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Final

from metaclip.errors import MetaclipError
from metaclip.storage.remote import AlreadyExists, RemotePath, StoreError

_EVERY: Final = 5.0
_STILL: Final = 6
"""Beats that a claim may miss."""


def seconds_between_beats() -> float:
    """Give METACLIP_BEAT, or 5. Raise MetaclipError where it is no number of seconds."""
    text = os.environ.get("METACLIP_BEAT", "")
    try:
        every = float(text or _EVERY)
    except ValueError:
        every = 0.0
    if not 0 < every < float("inf"):
        raise MetaclipError(f"METACLIP_BEAT is {text!r}, must be a number of seconds above 0, such as 5")
    return every


@dataclasses.dataclass(frozen=True)
class Claim:
    """What stands in a lock."""

    owner: str
    who: str
    every: float
    beat: int = 0

    @classmethod
    def mine(cls, who: str) -> Claim:
        """Begin a claim of this process."""
        return cls(secrets.token_hex(8), f"{who}process {os.getpid()} on {platform.node()}", seconds_between_beats())

    @classmethod
    def read(cls, path: RemotePath) -> Claim | None:
        """Read a lock; None where there is none, or one that is no claim."""
        try:
            found = json.loads(path.read_bytes())
            return cls(str(found["owner"]), str(found["who"]), float(found["every"]), int(found["beat"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    @property
    def lives(self) -> float:
        """The seconds for which it holds without a beat."""
        return _STILL * self.every

    def dump(self) -> bytes:
        """Write it as JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()


def live_claim(path: RemotePath) -> Claim | None:
    """Give the claim that holds a lock, None for none: watch it until it beats, or has been still for too long.

    That takes one beat of a living owner, and six of one that was just killed.
    """
    seen = Claim.read(path)
    if seen is None:
        return None
    try:
        still = path.age() or 0.0
    except FileNotFoundError:
        return None
    until = time.monotonic() + seen.lives - still
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, seen.every / 4))
        now = Claim.read(path)
        if now != seen:
            return now
    return None


class Lease:
    """A claim that this process has, with the thread that keeps it."""

    def __init__(self, path: RemotePath, claim: Claim, tag: str | None) -> None:
        """Take a claim that was just put; `Lease.held` takes one."""
        self._path, self._claim, self._tag = path, claim, tag
        self._beaten = time.monotonic()
        self._lost: MetaclipError | None = None
        self._turn = threading.Lock()
        self._left = threading.Event()

    @classmethod
    @contextlib.contextmanager
    def held(cls, path: RemotePath, who: str = "") -> Iterator[Lease]:
        """Hold a lock for the length of a block. Raise AlreadyExists, naming the owner, where another one has it."""
        claim = Claim.mine(who)
        lease = cls(path, claim, _take(path, claim))
        thread = threading.Thread(target=lease._keep, name="claim", daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            lease._left.set()
            thread.join()
            # What cannot be taken back now ends by itself.
            with contextlib.suppress(StoreError):
                found = Claim.read(path)
                if found is not None and found.owner == claim.owner:
                    path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise MetaclipError if the claim is not held any more."""
        if self._lost is None and time.monotonic() - self._beaten > self._claim.lives / 2:
            self._beat()
        if self._lost is not None:
            raise self._lost

    def _keep(self) -> None:
        while self._lost is None and not self._left.wait(self._claim.every):
            # The store may be back for the next one; nothing is marked as finished meanwhile.
            with contextlib.suppress(StoreError):
                self._beat()

    def _beat(self) -> None:
        with self._turn:
            claim = dataclasses.replace(self._claim, beat=self._claim.beat + 1)
            try:
                found = Claim.read(self._path)
                if found is None or found.owner != claim.owner:
                    raise AlreadyExists("")
                self._tag = self._path.put_over(claim.dump(), self._tag)
            except AlreadyExists:
                # A beat that arrived, though its answer did not, is followed by one that finds itself.
                found = Claim.read(self._path)
                if found != claim:
                    who = "nobody, its lock was removed" if found is None else found.who
                    self._lost = MetaclipError(
                        f"{self._path.parent.parent} is not owned by this process any more but by {who}: it was still "
                        f"for over {claim.lives:g} s; run the same command again when the other has ended"
                    )
                    return
                self._tag = _tag(self._path)
            self._claim, self._beaten = claim, time.monotonic()


def _take(path: RemotePath, claim: Claim) -> str | None:
    """Put a claim; give its tag. Raise AlreadyExists, with the name of the owner, where another one lives."""
    while True:
        tag = _tag(path)
        if tag is not None and (holds := live_claim(path)) is not None:
            raise AlreadyExists(holds.who)
        # Over what was seen, which is no claim or was still for too long, unless somebody else was faster.
        with contextlib.suppress(AlreadyExists, FileNotFoundError):
            if tag is None:
                path.put_new(claim.dump())
            else:
                path.put_over(claim.dump(), tag)
        tag = _tag(path)
        if Claim.read(path) == claim:
            return tag


def _tag(path: RemotePath) -> str | None:
    """Give what changes when an object does; None where there is none."""
    found = path._info()
    return None if found is None else str(found.get("ETag") or found.get("etag") or found.get("mtime") or "")
