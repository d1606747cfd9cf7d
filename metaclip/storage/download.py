"""Downloads by http that can be resumed: bytes that have arrived are kept and never requested again.

A file grows as ``.NAME.part`` and is renamed when it is complete: it has the length that the server gave, and the digest
if one is published. A broken connection is resumed at the byte where it ended (Range, If-Range: a file that has changed
meanwhile is downloaded from the start). A busy server is asked again after a wait that doubles, or that the server names.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, Final

from metaclip import __version__
from metaclip.errors import MetaclipError, StoreError
from metaclip.storage.files import disk_errors, read_json, write_json
from metaclip.storage.retries import RetryPolicy, with_retries

_BLOCK: Final = 1 << 20
_ALGORITHMS: Final = {32: "md5", 40: "sha1", 64: "sha256"}
"""Names of digests by their number of hex digits."""


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file on the server of its publisher."""

    url: str
    name: str
    size: int | None = None
    digest: str | None = None
    """md5, sha1 or sha256, as hex digits; None if the publisher gives none."""


def user_agent(contact: str = "") -> str:
    """Return the user agent that Wikimedia's policy asks for: the program, and how to reach the person who runs it."""
    return f"metaclip/{__version__} ({contact or 'builds a list of queries; no contact given'})"


def fetch(
    file: PublishedFile, path: Path, *, contact: str = "", retry: RetryPolicy | None = None
) -> None:
    """Download a file to `path`, or the rest of it; a file that exists is complete and stays as it is.

    Raise MetaclipError if the server refuses or cannot be reached, or if the bytes are not those that were published.
    """
    if path.exists():
        if file.size is not None and path.stat().st_size != file.size:
            raise MetaclipError(
                f"{path} has {path.stat().st_size:,} bytes, {file.url} has {file.size:,}; remove it to fetch it again"
            )
        return
    if not file.url.startswith(("http://", "https://")):
        raise MetaclipError(f"{file.url} is no address of the form https://...; correct it in the recipe")
    path.parent.mkdir(parents=True, exist_ok=True)
    part, about = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
    with part.open("ab") as output:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MetaclipError(f"{path} is being fetched by another process; wait for it") from None
        _download(file, output, about, path, contact, retry or RetryPolicy())
        _verify(file, part, about)
        part.rename(path)
    about.unlink(missing_ok=True)


def _verify(file: PublishedFile, part: Path, about: Path) -> None:
    size, problem = part.stat().st_size, None
    if file.size is not None and size != file.size:
        problem = f"has {size:,} bytes, {file.size:,} are published"
    elif file.digest is not None:
        algorithm = _ALGORITHMS[len(file.digest)]
        with part.open("rb") as whole:
            found = hashlib.file_digest(whole, algorithm).hexdigest()
        if found != file.digest.lower():
            problem = f"has the {algorithm} {found}, published is {file.digest.lower()}"
    if problem is not None:
        part.unlink()
        about.unlink(missing_ok=True)
        raise MetaclipError(
            f"{file.url}: the downloaded file {problem}; it was removed, run the same command again"
        )


def _download(
    file: PublishedFile, output: IO[bytes], about: Path, path: Path, contact: str, retry: RetryPolicy
) -> None:
    """Request the rest of a file until all of it has arrived."""
    from tqdm import tqdm

    with (
        tqdm(
            desc=file.name,
            total=file.size,
            initial=output.tell(),
            unit="B",
            unit_scale=True,
            disable=None,
        ) as bar,
        disk_errors(path),
    ):
        try:
            with_retries(
                file.url,
                retry,
                lambda: _request(file, output, about, contact, retry.timeout, bar),
                output.tell,
            )
        except urllib.error.HTTPError as error:
            raise MetaclipError(
                f"{file.url}: the server answers {error.code} {error.reason}; check the address and the date "
                "(publishers keep dumps for a few months only)"
            ) from None
        except StoreError as error:
            raise MetaclipError(
                f"{error} (the bytes that arrived are kept: run the same command again, or put the file at {path})"
            ) from None


def _request(
    file: PublishedFile, output: IO[bytes], about: Path, contact: str, timeout: float, bar: Any
) -> None:
    """Request the missing bytes once, and write those that arrive. Raise if fewer arrive than the server promised."""
    have = output.tell()
    headers, known = (
        {"User-Agent": user_agent(contact), "Accept-Encoding": "identity"},
        read_json(about) or {},
    )
    if have and known.get("url") == file.url and known.get("version"):
        headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
    elif have:  # the server may have another file now
        _restart(output, bar)
        have = 0
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(file.url, headers=headers), timeout=timeout
        )
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        with error:  # either all bytes are here, or they are of another file
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
        _restart(output, bar)
        raise ConnectionError("the file changed during the download") from None
    with response:
        first, total = _range(response)
        if first not in (0, have):
            raise ConnectionError(f"byte {have:,} was requested, the server began at {first:,}")
        if first < have:
            _restart(output, bar)
        # A strong ETag or the time of the last change identifies a version of the file in If-Range.
        tag = response.headers.get("ETag", "")
        version = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        write_json(about, {"url": file.url, "version": version})
        bar.total = file.size if total is None else total
        while block := response.read(_BLOCK):
            output.write(block)
            output.flush()
            bar.update(len(block))
        if total is not None and output.tell() < total:
            raise ConnectionError(f"the connection ended at byte {output.tell():,} of {total:,}")


def _restart(output: IO[bytes], bar: Any) -> None:
    output.truncate(0)
    output.seek(0)
    bar.reset()


def _range(response: Any) -> tuple[int, int | None]:
    """Return the first byte that a response contains, and the length of the whole file; None if it is not given."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found:
            raise ConnectionError("the server sent a part of the file without its position")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None
