"""Requests to a web server that are tried again while that may help: after a broken connection, or if the server is busy."""

from __future__ import annotations

import dataclasses
import http.client
import time
import urllib.error
from collections.abc import Callable
from typing import Final, TypeVar

from metaclip.errors import StoreError, is_disk_full, one_line

Result = TypeVar("Result")

_BUSY: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Status codes after which another try may help."""


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How often a request is tried and how long to wait in between; it does not change what arrives."""

    tries: int = 6
    """Number of tries in a row that bring no byte."""
    first_wait: float = 1.0
    """Seconds to wait after the first failure; each further wait is twice as long."""
    longest_wait: float = 300.0
    timeout: float = 60.0
    """Seconds without a byte after which a connection counts as broken."""

    def pause(self, failures: int, requested: float | None = None) -> float:
        """Return the seconds to wait after `failures` failures in a row; a server may have requested a wait of its own."""
        return min(
            self.first_wait * 2 ** (failures - 1) if requested is None else requested, self.longest_wait
        )


def with_retries(
    url: str, retry: RetryPolicy, request: Callable[[], Result], arrived: Callable[[], int] = lambda: 0
) -> Result:
    """Return ``request()``, tried again while it fails in a way that may pass.

    `arrived` returns the number of bytes that earlier tries have brought; one that brings more begins a new row of tries.
    Raise HTTPError for an answer that no retry changes, StoreError after the last try.
    """
    failures = 0
    while True:
        begin, requested = arrived(), None
        try:
            return request()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in _BUSY:
                raise
            problem: Exception = error
            retry_after = error.headers.get("Retry-After", "")
            requested = float(retry_after) if retry_after.isdecimal() else None
        except (OSError, http.client.HTTPException) as error:  # the errors of urllib are OSErrors
            if isinstance(error, OSError) and is_disk_full(error):
                raise
            problem = error
        failures = 1 if arrived() > begin else failures + 1
        if failures >= retry.tries:
            if isinstance(problem, urllib.error.HTTPError):
                why, hint = (
                    f"{problem.code} {problem.reason}",
                    "the server is busy or broken: try again later",
                )
            else:
                why, hint = (
                    one_line(getattr(problem, "reason", None) or problem, 120),
                    "is this machine offline?",
                )
            raise StoreError(
                f"{url} cannot be fetched: {retry.tries} tries in a row failed ({why}); {hint}"
            ) from None
        time.sleep(retry.pause(failures, requested))
