"""Files from a publisher, by http: what arrived is kept, and asked for no second time.

A file grows as ``.NAME.part`` and gets its name when it is whole: of the length the server gave, and of the digest where
one is published. A connection that ends is taken up where it ended (Range, If-Range: a file that has changed meanwhile
begins anew); a server that is busy is asked again after a wait that doubles, or as long as it says.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Any, Final

from metaclip._version import __version__
from metaclip.errors import MetaclipError, is_disk_full, one_line
from metaclip.storage.files import read_json, write_json

_BLOCK: Final = 1 << 20
_BUSY: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Answers after which asking again may help."""
_ALGORITHMS: Final = {32: "md5", 40: "sha1", 64: "sha256"}
"""By the number of hex digits."""
_NAME: Final = re.compile(r"[\w][\w.-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How long to try: nothing here changes what arrives."""

    tries: int = 6
    """In a row without a byte."""
    first_wait: float = 1.0
    """Seconds after the first; each further wait is twice as long."""
    longest_wait: float = 300.0
    timeout: float = 60.0
    """Seconds without a byte after which a connection counts as ended."""


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file as it is published."""

    url: str
    name: str
    size: int | None = None
    digest: str | None = None
    """md5, sha1 or sha256, as hex digits."""


def user_agent(contact: str = "") -> str:
    """Say who asks, as Wikimedia's policy for user agents wants it: the program, and how to reach who runs it."""
    return f"metaclip/{__version__} ({contact or 'builds a list of queries; no contact given'})"


def dump_files(status: Any, where: str) -> list[Remote]:
    """Give the files of a dump's articles from its ``dumpstatus.json``: multistream if there are any, else single stream.

    Raise MetaclipError for one that is not finished, or of another form.
    """
    jobs = status.get("jobs") if isinstance(status, dict) else None
    for job in ("articlesmultistreamdump", "articlesdump"):
        found = (jobs or {}).get(job)
        if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
            continue
        if found.get("status") != "done":
            raise MetaclipError(f"{where}: {job} is {found.get('status')!r}, not done; take an earlier dump")
        files = [
            Remote(urllib.parse.urljoin(where, name), name, item.get("size"), item.get("sha1") or item.get("md5"))
            for name, item in sorted(found["files"].items())
            if name.endswith(".bz2") and "pages-articles" in name and "-index" not in name and _NAME.fullmatch(name)
        ]
        if files:
            return files
    raise MetaclipError(f"{where} lists no files of pages-articles; name the folder of one dump, with its date")


def fetch_dump(url: str, folder: Path, *, contact: str = "", retry: RetryPolicy | None = None) -> None:
    """Fetch the articles of a dump (``https://dumps.wikimedia.org/enwiki/20240101/``) into a folder.

    What stands there already is not asked for; a folder that is complete needs no network.
    """
    url = url.rstrip("/") + "/"
    status = folder / "dumpstatus.json"
    fetch(Remote(url + status.name, status.name), status, contact=contact, retry=retry)
    for file in dump_files(read_json(status), url):
        fetch(file, folder / file.name, contact=contact, retry=retry)


def fetch(file: Remote, path: Path, *, contact: str = "", retry: RetryPolicy | None = None) -> None:
    """Fetch a file to `path`, or the rest of it; one that stands there is complete and left alone.

    Raise MetaclipError if the server refuses, cannot be reached, or what arrived is not what is published.
    """
    if path.exists():
        if file.size is not None and path.stat().st_size != file.size:
            raise MetaclipError(
                f"{path} has {path.stat().st_size:,} bytes, {file.url} has {file.size:,}; remove it to fetch it again"
            )
        return
    if not file.url.startswith(("http://", "https://")):
        raise MetaclipError(f"{file.url} is no address of the form https://...; mend it in the recipe")
    path.parent.mkdir(parents=True, exist_ok=True)
    part, about = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
    with part.open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MetaclipError(f"{path} is being fetched by another process; wait for it") from None
        _persist(file, held, about, path, contact, retry or RetryPolicy())
        _verify(file, part, about)
        part.rename(path)
    about.unlink(missing_ok=True)


def _verify(file: Remote, part: Path, about: Path) -> None:
    if file.size is not None and part.stat().st_size != file.size:
        problem = f"has {part.stat().st_size:,} bytes, {file.size:,} are published"
    elif file.digest is not None:
        algorithm = _ALGORITHMS[len(file.digest)]
        with part.open("rb") as whole:
            found = hashlib.file_digest(whole, algorithm).hexdigest()
        if found == file.digest.lower():
            return
        problem = f"has the {algorithm} {found}, published is {file.digest.lower()}"
    else:
        return
    part.unlink()
    about.unlink(missing_ok=True)
    raise MetaclipError(f"{file.url}: what arrived {problem}; it is removed, run the same command again")


def _persist(file: Remote, held: IO[bytes], about: Path, path: Path, contact: str, retry: RetryPolicy) -> None:
    """Ask for the rest until all is there."""
    from tqdm import tqdm

    failures = 0
    with tqdm(desc=file.name, total=file.size, initial=held.tell(), unit="B", unit_scale=True, disable=None) as bar:
        while True:
            begin = held.tell()
            try:
                _ask(file, held, about, contact, retry.timeout, bar)
                return
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in _BUSY:
                        raise _refused(file, error) from None
                    problem: Exception = error
                    pause = _asked_for(error)
            except (OSError, http.client.HTTPException) as error:  # urllib's own are OSErrors
                if isinstance(error, OSError) and is_disk_full(error):
                    raise MetaclipError(f"{path}: no room left; free some and run the same command again") from None
                problem, pause = error, None
            failures = 1 if held.tell() > begin else failures + 1
            if failures >= retry.tries:
                raise MetaclipError(_gave_up(file, path, problem, retry.tries)) from None
            wait = retry.first_wait * 2 ** (failures - 1) if pause is None else pause
            time.sleep(min(wait, retry.longest_wait))


def _ask(file: Remote, held: IO[bytes], about: Path, contact: str, timeout: float, bar: Any) -> None:
    """Ask once for what is missing, and write what comes. Raise if less comes than was promised."""
    have = held.tell()
    headers = {"User-Agent": user_agent(contact), "Accept-Encoding": "identity"}
    if have:
        known = read_json(about) or {}
        if known.get("url") == file.url and known.get("version"):
            headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
        else:  # nothing says that the server still has the same file
            have = _begin_anew(held, bar)
    try:
        response = urllib.request.urlopen(urllib.request.Request(file.url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        with error:  # what is here is all, or is of another file
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
        _begin_anew(held, bar)
        raise ConnectionError("the file has changed while it was fetched") from None
    with response:
        first, total = _range(response)
        if first not in (0, have):
            raise ConnectionError(f"asked for byte {have:,}, the server began at {first:,}")
        if first < have:
            have = _begin_anew(held, bar)
        write_json(about, {"url": file.url, "version": _version(response)})
        if total is not None:
            bar.total = total
        while block := response.read(_BLOCK):
            held.write(block)
            held.flush()
            bar.update(len(block))
        if total is not None and held.tell() < total:
            raise ConnectionError(f"the connection ended at byte {held.tell():,} of {total:,}")


def _begin_anew(held: IO[bytes], bar: Any) -> int:
    held.truncate(0)
    held.seek(0)
    bar.reset()
    return 0


def _range(response: Any) -> tuple[int, int | None]:
    """Give the first byte that an answer holds, and the length of the whole file, where it is told."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found:
            raise ConnectionError("the server sent a part of the file without saying which")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _version(response: Any) -> str | None:
    """Give what tells one version of a file from another in If-Range: a strong ETag, or the time of change."""
    tag: str = response.headers.get("ETag", "")
    modified: str | None = response.headers.get("Last-Modified")
    return tag if tag.startswith('"') else modified


def _asked_for(error: urllib.error.HTTPError) -> float | None:
    value = error.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


def _refused(file: Remote, error: urllib.error.HTTPError) -> MetaclipError:
    return MetaclipError(
        f"{file.url}: the server answers {error.code} {error.reason}; check the address and the date, "
        "publishers keep dumps for some months only"
    )


def _gave_up(file: Remote, path: Path, problem: Exception, tries: int) -> str:
    reason = getattr(problem, "reason", None) or problem
    why = one_line(reason if isinstance(reason, BaseException) else problem, 120)
    return (
        f"{file.url} cannot be fetched: {tries} tries in a row failed ({why}); is this machine offline? "
        f"What arrived is kept: run the same command again, or put the file at {path}"
    )
