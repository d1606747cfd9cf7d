"""A lease in a store, which has no locks: an object that its owner rewrites every 5 s (METACLIP_BEAT) while it lives.

    lock          {"owner": random id, "who": for messages, "every": seconds between heartbeats, "beat": their number}

Law: a claim without a heartbeat for six intervals is dead, and any process may replace it. A store with conditional puts
(Amazon's, MinIO, Ceph) lets one process at a time replace it; elsewhere an owner finds out before it writes its next marker.
The lease prevents accidents. The fingerprint protects the result: what a lost owner wrote until then has the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from metaclip.errors import AlreadyExists, MetaclipError, StoreError


def read_claim(path: Any) -> dict[str, Any]:
    """Read the claim on a lock; return {} if there is none."""
    try:
        found = json.loads(path.read_bytes())
        return {
            **found,
            "who": str(found["who"]),
            "every": float(found["every"]),
            "owner": found["owner"],
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def live_owner(path: Any) -> str | None:
    """Return the name of the living process that has a lock; watch a lock until its next heartbeat, or until it is dead."""
    if seen := read_claim(path):
        with contextlib.suppress(FileNotFoundError):
            until = time.monotonic() + 6 * seen["every"] - (path.age() or 0.0)
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(left, seen["every"] / 4))
                if (now := read_claim(path)) != seen:
                    return now.get("who")
    return None


@contextlib.contextmanager
def held(path: Any, who: str = "") -> Iterator[Callable[[], None]]:
    """Hold a lock for the length of a block; yield a function that raises MetaclipError if another process has it by now.

    Raise AlreadyExists, with the name of the owner, if another living process has the lock.
    """
    try:
        every = max(0.1, float(os.environ.get("METACLIP_BEAT") or 5))
    except ValueError:
        raise MetaclipError("METACLIP_BEAT must be a number of seconds, such as 5") from None
    who, owner, released = (
        f"{who}process {os.getpid()} on {platform.node()}",
        secrets.token_hex(8),
        threading.Event(),
    )

    def put(tag: str | None, beat: int = 0) -> None:
        claim = json.dumps({"owner": owner, "who": who, "every": every, "beat": beat})
        # If an answer is lost, the client's second try is refused because of what the first one wrote.
        with contextlib.suppress(AlreadyExists, FileNotFoundError):
            path.put(claim.encode(), if_new=tag is None, if_tag=tag)

    def keep() -> None:
        beat = 0
        while not released.wait(every):
            with contextlib.suppress(StoreError):  # the store may be back for the next heartbeat
                tag = path.tag()
                if read_claim(path).get("owner") != owner:
                    return
                put(tag, beat := beat + 1)

    def check() -> None:
        if (found := read_claim(path)).get("owner") != owner:
            raise MetaclipError(
                f"{path.parent.parent} is not owned by this process any more but by "
                f"{found.get('who', 'nobody, its lock was removed')}; run the same command again when the other has ended"
            )

    while read_claim(path).get("owner") != owner:
        tag = path.tag()
        if (living := live_owner(path)) is not None:
            raise AlreadyExists(living)
        put(tag)
    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        released.set()
        thread.join()
        with contextlib.suppress(StoreError):  # a claim that cannot be removed now expires by itself
            if read_claim(path).get("owner") == owner:
                path.unlink(missing_ok=True)
