"""The request to take pairs out of a published set: by uid, by url or by domain.

Law: a pair goes with its uid. A url or domain names the uids of its pairs, and all rows of these go.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.card.hosts import url_hosts
from metaclip.errors import MetaclipError
from metaclip.pool.uid import Uids, column_uids, to_hex, to_large_string
from metaclip.stage.stage import digest_of
from metaclip.storage.files import read_lines

_DOMAIN: Final = re.compile(r"[^\s/:@?#.]+(\.[^\s/:@?#.]+)*")


@dataclasses.dataclass(frozen=True)
class RemovalRequest:
    """The uids, urls and domains whose pairs are to be taken out."""

    uids: Uids
    """uint64[n, 2], sorted, distinct."""
    urls: frozenset[str] = frozenset()
    """Letter by letter as the pool writes them."""
    domains: frozenset[str] = frozenset()
    """In lower case, without "www."; each stands for all hosts below it too."""

    @property
    def digest(self) -> str:
        """A digest of the request, which names nothing in it."""
        hashed = (sorted(map(sha256, names)) for names in (self.urls, self.domains))
        return digest_of((to_hex(self.uids).to_pylist(), *hashed))

    @property
    def sizes(self) -> dict[str, int]:
        """The numbers of uids, urls and domains, as the account of a run states them."""
        return {"uids": len(self.uids), "urls": len(self.urls), "domains": len(self.domains)}

    def find(self, urls: pa.Array) -> tuple[npt.NDArray[np.bool_], set[str], set[str]]:
        """Find the urls that are requested: (bool[n], the requested urls found, the requested domains found)."""
        urls = to_large_string(urls)
        requested = pc.is_in(urls, pa.array(sorted(self.urls), urls.type))
        found_urls = set(urls.filter(requested).to_pylist())
        if not self.domains:
            return requested.to_numpy(zero_copy_only=False), found_urls, set()
        hosts = url_hosts(urls).dictionary_encode()
        domains = pa.array(map(self._domain_of, hosts.dictionary.to_pylist()), pa.string())
        requested = pc.or_(requested, domains.take(hosts.indices).is_valid())
        return requested.to_numpy(zero_copy_only=False), found_urls, set(domains.drop_null().to_pylist())

    def _domain_of(self, host: str) -> str | None:
        """Return the requested domain that a host is, or is below."""
        labels = host.split(".")
        domains = (".".join(labels[i:]) for i in range(len(labels)))
        return next((domain for domain in domains if domain in self.domains), None)


def sha256(text: str) -> str:
    """Compute the sha256 of a string's UTF-8 bytes, as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_request(
    uids: str | None = None, urls: str | None = None, domains: str | None = None
) -> RemovalRequest:
    """Read a request from files of UTF-8 text with one uid, url or domain a line; blank lines are left out.

    A uid is read as a pool's is: up to 32 hex digits, or anything else by its md5. Raise MetaclipError for a file that
    cannot be read or is empty, for what is not a domain, and if no file is given.
    """
    if uids is urls is domains is None:
        raise MetaclipError(
            "nothing is asked to be taken out; give `uids=...`, `urls=...` or `domains=...`"
        )
    lines = {
        what: [] if path is None else read_lines(path, f"{what} to take out")
        for what, path in (("uids", uids), ("urls", urls), ("domains", domains))
    }
    hosts = {
        line.lower().rstrip(".").removeprefix("*.").removeprefix("www."): line
        for line in lines["domains"]
    }
    for host, line in hosts.items():
        if not _DOMAIN.fullmatch(host):
            raise MetaclipError(
                f"{domains}: {line!r:.80} is no domain, such as example.org; urls go into `urls=...`"
            )
    numbers = column_uids(pa.array(lines["uids"], pa.string()))
    return RemovalRequest(np.unique(numbers, axis=0), frozenset(lines["urls"]), frozenset(hosts))
