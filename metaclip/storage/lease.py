"""A lease on a folder in a store, which has no locks: an object that the owner rewrites while it lives.

    lock          {"owner": random id, "who": for messages, "every": seconds between heartbeats, "beat": their number}

Law: the object is created only if there is none, and each heartbeat replaces only the one before. Another process may
replace a claim without a heartbeat for six intervals, and owns the folder then. A store with conditional puts
(If-None-Match, If-Match: Amazon's since 2024, MinIO, Ceph) does this atomically, so one process at a time has the claim.
In a store without them, two processes that begin within one interval may both go on until the next heartbeat of one finds
the claim of the other. An owner that was stopped for longer than its claim lives (a suspended machine, a lost network)
sends a heartbeat before it writes the next marker, and ends if another process has the claim. The files that it wrote until
then have the same bytes, because a result depends on the fingerprint alone; they could differ only after `--overwrite` with
other settings.

The age of a claim is measured by the clock of the store if it gives the time, otherwise by watching the claim. So a process
that was killed an hour ago delays no other, and one that was just killed delays others for 30 s. METACLIP_BEAT sets the
seconds between heartbeats (5).
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

from metaclip.errors import AlreadyExists, MetaclipError, StoreError
from metaclip.storage.remote import RemotePath

_DEFAULT_INTERVAL: Final = "5"
_MISSED_BEATS: Final = 6
"""Heartbeats that a living claim may miss."""


def heartbeat_interval() -> float:
    """Return METACLIP_BEAT in seconds, 5 by default. Raise MetaclipError if it is not a positive number."""
    text = os.environ.get("METACLIP_BEAT", "")
    try:
        seconds = float(text or _DEFAULT_INTERVAL)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise MetaclipError(f"METACLIP_BEAT is {text!r}, must be a number of seconds above 0, such as 5")
    return seconds


@dataclasses.dataclass(frozen=True)
class Claim:
    """The content of a lock."""

    owner: str
    who: str
    every: float
    beat: int = 0

    @classmethod
    def read(cls, path: RemotePath) -> Claim | None:
        """Read a lock; return None if there is none, or if it is not a claim."""
        try:
            found = json.loads(path.read_bytes())
            return cls(str(found["owner"]), str(found["who"]), float(found["every"]), int(found["beat"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    @property
    def lifetime(self) -> float:
        """The seconds for which the claim is valid without a heartbeat."""
        return _MISSED_BEATS * self.every

    def dump(self) -> bytes:
        """Return the claim as JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()


def live_claim(path: RemotePath) -> Claim | None:
    """Return the claim of a living process on a lock, None if there is none.

    Watches the lock until the next heartbeat of a living owner, or for six intervals if the owner was just killed.
    """
    seen = Claim.read(path)
    if seen is None:
        return None
    try:
        age = path.age() or 0.0
    except FileNotFoundError:
        return None
    until = time.monotonic() + seen.lifetime - age
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, seen.every / 4))
        now = Claim.read(path)
        if now != seen:
            return now
    return None


class Lease:
    """A claim of this process, and the thread that sends its heartbeats."""

    def __init__(self, path: RemotePath, claim: Claim, tag: str | None) -> None:
        """Start from a claim that was just written; `Lease.held` writes one."""
        self._path, self._claim, self._tag = path, claim, tag
        self._last_beat = time.monotonic()
        self._lost: MetaclipError | None = None
        self._beating = threading.Lock()
        self._released = threading.Event()

    @classmethod
    @contextlib.contextmanager
    def held(cls, path: RemotePath, who: str = "") -> Iterator[Lease]:
        """Hold a lock for the length of a block. Raise AlreadyExists, naming the owner, if another process has it."""
        who = f"{who}process {os.getpid()} on {platform.node()}"
        claim = Claim(secrets.token_hex(8), who, heartbeat_interval())
        lease = cls(path, claim, _take(path, claim))
        thread = threading.Thread(target=lease._keep, name="claim", daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            lease._released.set()
            thread.join()
            # A claim that cannot be removed now expires by itself.
            with contextlib.suppress(StoreError):
                found = Claim.read(path)
                if found is not None and found.owner == claim.owner:
                    path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise MetaclipError if the claim was lost."""
        if self._lost is None and time.monotonic() - self._last_beat > self._claim.lifetime / 2:
            self._beat()
        if self._lost is not None:
            raise self._lost

    def _keep(self) -> None:
        while self._lost is None and not self._released.wait(self._claim.every):
            # The store may be back for the next heartbeat; nothing is marked as finished until then.
            with contextlib.suppress(StoreError):
                self._beat()

    def _beat(self) -> None:
        with self._beating:
            claim = dataclasses.replace(self._claim, beat=self._claim.beat + 1)
            try:
                found = Claim.read(self._path)
                if found is None or found.owner != claim.owner:
                    raise AlreadyExists("")
                self._tag = self._path.put(claim.dump(), if_tag=self._tag)
            except AlreadyExists:
                # If a heartbeat arrived but its response did not, the client's retry finds the heartbeat itself.
                found = Claim.read(self._path)
                if found != claim:
                    who = "nobody, its lock was removed" if found is None else found.who
                    self._lost = MetaclipError(
                        f"{self._path.parent.parent} is not owned by this process any more but by {who}: it was still "
                        f"for over {claim.lifetime:g} s; run the same command again when the other has ended"
                    )
                    return
                self._tag = self._path.tag()
            self._claim, self._last_beat = claim, time.monotonic()


def _take(path: RemotePath, claim: Claim) -> str | None:
    """Write a claim and return its tag. Raise AlreadyExists, with the name of the owner, if another owner lives."""
    while True:
        tag = path.tag()
        if tag is not None and (living := live_claim(path)) is not None:
            raise AlreadyExists(living.who)
        # Replace what was seen, which is no claim or a dead one, unless another process was faster.
        with contextlib.suppress(AlreadyExists, FileNotFoundError):
            path.put(claim.dump(), if_new=tag is None, if_tag=tag)
        tag = path.tag()
        if Claim.read(path) == claim:
            return tag
