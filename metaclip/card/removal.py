"""Takedown: pairs that somebody asks to have taken out of a published set, and the list of those that were.

    removed.parquet    uid, url_sha256, kept: one row for each uid and url that was taken out, in their order

Law: a pair goes with its uid. A url or domain names the uids of its pairs, and all rows of these go. The next version
keeps the parent's counts as what probabilities are made of, so no other pair's P or draw changes; corrected counts stand
beside them. Urls stand here as sha256 of their UTF-8 bytes, so whoever has a copy can find a pair in it, and who has none
learns no address. `metaclip.card.applying` takes the list out of a copy; `metaclip.card.remove` makes the next version.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.card.lines import read_lines
from metaclip.card.origins import hosts
from metaclip.errors import MetaclipError, one_line
from metaclip.pool.sorted_uids import UidSet
from metaclip.pool.uid import Uids, column_uids, strings, to_hex
from metaclip.stage.stage import digest_of
from metaclip.storage.files import atomic_write, local_copy

NAME: Final = "removed.parquet"
SCHEMA: Final = pa.schema([("uid", pa.string()), ("url_sha256", pa.string()), ("kept", pa.bool_())])
"""`url_sha256` is null where the run knows no url of the pair; `kept`: it was in the curated set."""
_DOMAIN: Final = re.compile(r"[^\s/:@?#.]+(\.[^\s/:@?#.]+)*")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be taken out."""

    uids: Uids
    """uint64[n, 2], sorted, distinct."""
    urls: frozenset[str] = frozenset()
    """Letter by letter as the pool writes them."""
    domains: frozenset[str] = frozenset()
    """In lower case, without "www."; each stands for all hosts below it too."""

    @property
    def digest(self) -> str:
        """Identify what was asked for, without naming it."""
        parts = (to_hex(self.uids).to_pylist(), sorted(map(sha256, self.urls)), sorted(map(sha256, self.domains)))
        return digest_of(parts)

    @property
    def asked(self) -> dict[str, int]:
        """Count what was asked for."""
        return {"uids": len(self.uids), "urls": len(self.urls), "domains": len(self.domains)}


def sha256(text: str) -> str:
    """Digest a string's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_wanted(uids: str | None = None, urls: str | None = None, domains: str | None = None) -> Wanted:
    """Read what is to be taken out: files of UTF-8 text, one a line, blank lines left out.

    A uid is read as a pool's is: up to 32 hex digits, or anything else by its md5. Raise MetaclipError for a file that
    cannot be read or is empty, for a domain that is none, and where no file is given.
    """
    if uids is urls is domains is None:
        raise MetaclipError("nothing is asked to be taken out; give --uids, --urls or --domains")
    lines = {
        what: [] if path is None else read_lines(path, f"{what} to take out")
        for what, path in (("uids", uids), ("urls", urls), ("domains", domains))
    }
    hosts = {line.lower().rstrip(".").removeprefix("*.").removeprefix("www."): line for line in lines["domains"]}
    for host, line in hosts.items():
        if not _DOMAIN.fullmatch(host):
            raise MetaclipError(f"{domains}: {line!r:.80} is no domain, such as example.org; urls go into --urls")
    ids = pa.array(lines["uids"], pa.string())
    numbers = column_uids(ids)
    return Wanted(np.unique(numbers, axis=0), frozenset(lines["urls"]), frozenset(hosts))


def wanted_rows(urls: pa.Array, wanted: Wanted) -> tuple[npt.NDArray[np.bool_], set[str], set[str]]:
    """Find the urls that are asked for: (bool[n], which of `wanted.urls`, which of `wanted.domains` were found)."""
    urls = strings(urls)
    rows = np.zeros(len(urls), np.bool_)
    found_urls: set[str] = set()
    found_domains: set[str] = set()
    if wanted.urls:
        same = pc.is_in(urls, pa.array(sorted(wanted.urls), urls.type))
        found_urls.update(urls.filter(same).to_pylist())
        rows |= same.to_numpy(zero_copy_only=False)
    if wanted.domains:
        coded = hosts(urls).dictionary_encode()
        above = [next((d for d in _above(host) if d in wanted.domains), None) for host in coded.dictionary.to_pylist()]
        found_domains.update(domain for domain in above if domain is not None)
        hit = pa.array([domain is not None for domain in above], pa.bool_()).take(coded.indices)
        rows |= pc.fill_null(hit, False).to_numpy(zero_copy_only=False)
    return rows, found_urls, found_domains


def _above(host: str) -> Iterable[str]:
    """Give a host and the domains above it."""
    while host:
        yield host
        host = host.partition(".")[2]


def list_of(uids: Uids, urls: pa.Array | None, kept: bool | npt.NDArray[np.bool_]) -> pa.Table:
    """Make rows of removed.parquet."""
    n = len(uids)
    hashed = [None] * n if urls is None else [None if not url else sha256(url) for url in strings(urls).to_pylist()]
    flags = pa.array(np.full(n, kept) if isinstance(kept, bool) else kept)
    return pa.Table.from_arrays([to_hex(uids), pa.array(hashed, pa.string()), flags], schema=SCHEMA)


def merge(parts: Iterable[pa.Table]) -> pa.Table:
    """Put rows together, each once, in the order of their values."""
    whole = pa.concat_tables([SCHEMA.empty_table(), *parts])
    order = [(name, "ascending") for name in SCHEMA.names]
    return whole.group_by(SCHEMA.names).aggregate([]).select(SCHEMA.names).sort_by(order).cast(SCHEMA)


def digest(removed: pa.Table) -> str:
    """Identify a list: sha256 of its rows as lines ``uid url_sha256 kept``, with "-" for null and 0 or 1."""
    hashed = hashlib.sha256()
    for batch in removed.to_batches(1 << 16):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        hashed.update("".join(f"{uid} {url or '-'} {kept:d}\n" for uid, url, kept in rows).encode())
    return hashed.hexdigest()


def uid_set(removed: pa.Table) -> UidSet:
    """Give the uids of a list."""
    return UidSet(np.unique(column_uids(removed["uid"].combine_chunks()), axis=0))


def write_list(path: Path, removed: pa.Table) -> None:
    """Write removed.parquet."""
    with atomic_write(path) as temporary:
        pq.write_table(removed, temporary, compression="zstd")


def read_list(path: Path) -> pa.Table:
    """Read a removed.parquet. Raise MetaclipError for what is none."""
    try:
        with local_copy(path) as local:
            found = pq.read_table(local)
    except FileNotFoundError:
        raise MetaclipError(f"there is no list {path}; give the {NAME} of a card") from None
    except (OSError, pa.ArrowException) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)}); give the {NAME} of a card") from None
    if found.schema.remove_metadata() != SCHEMA:
        names = ", ".join(found.column_names)
        raise MetaclipError(f"{path} has the columns {names}, a {NAME} has {', '.join(SCHEMA.names)}; give a card's")
    return found
