"""Titles of articles by views, from Wikimedia's hourly files, ``pageviews-YYYYMMDD-HH0000.gz``.

A line is ``domain title count bytes``; a cell is a line of the wanted domain. The paper's rule ("Demystifying CLIP Data",
appendix A.2, and REFERENCE.md): cells of at least 50 views, of 26 sampled days of 24 hours, are added up by title, and a
sum of at least 70 makes a candidate. `min_hour` = 0 gives plain sums.

    title    percent-encoding resolved, "_" to " "; left out if it has a ":" (other namespaces), is empty or "-" (what the
             files write for no title), or has a character that no title can have
    then     redirects are led to their articles (if a dump's are given), the main page is left out (unless `main_page`
             is empty), tails such as "(planet)" are cut off (if asked for): before sums are compared with `min_sum`

The sampled days are those of the least sha256 of "SEED DATE", so that they are the same everywhere.

Cost on one core: 0.9 M lines a second. Memory: `dump_count.MEMORY` for sums, beyond that disk; following redirects takes
1.2 GB more for 8 M of them.
"""

from __future__ import annotations

import datetime
import functools
import glob
import gzip
import hashlib
import io
import os
import re
import tempfile
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from metaclip.engine.contract import ProgressCallback
from metaclip.engine.local import Local
from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import dump_count, spill
from metaclip.stage import funnel as funnels
from metaclip.stage.stage import digest_of
from metaclip.storage import download
from metaclip.storage.download import PublishedFile, RetryPolicy
from metaclip.storage.files import disk_errors, file_digest

LICENCE: Final = "CC0 1.0"
REASONS: Final = ("missing_fields", "other_domain", "below_min_hour", "invalid_utf8", "not_a_title", "other_namespace")
"""Why a line gives nothing, in the order in which it is asked; the rest are `counted`."""
_MERGED: Final = "merged.parquet"
_NAME: Final = "pageviews-????????-??0000.gz"
_NO_TITLE: Final = re.compile(r"-?|.*[\x00-\x1f\x7f<>\[\]{}|#].*", re.DOTALL)
"""What MediaWiki allows in no title."""
_TAIL: Final = r" \([^()]*\)$"
_HOPS: Final = 4
"""Redirects that are followed in a row: MediaWiki follows one, and mends longer chains."""
_BUFFER: Final = 1 << 20
_ROWS: Final = 1 << 22
"""Titles whose redirects are looked up at a time."""


@dataclass(frozen=True)
class PageviewSettings:
    """Which hourly files are read, and which titles are candidates."""

    files: str = "pageviews"
    """Folder of the hourly files, or a pattern."""
    first: str | None = None
    """Sample days from this one, as 2023-01-01; None: read all files that stand there."""
    last: str | None = None
    """Sample days up to this one, with it."""
    days: int = 26
    """How many days are sampled, of 24 hours each."""
    seed: int = 0
    """Of the sample."""
    url: str | None = None
    """Where sampled files that are not there are fetched: "https://dumps.wikimedia.org/other/pageviews/"."""
    domain: str = "en"
    """As the files write it: "en" is English Wikipedia's desktop site, "en.m" its mobile one."""
    min_hour: int = 50
    """The least views of a cell; 0: plain sums."""
    min_sum: int = 70
    """The least sum of views."""
    redirects: str | None = None
    """Folder of a dump's counts, whose redirects are followed."""
    main_page: str = "Main Page"
    """A title that is left out, as no article; empty: none."""
    drop_tails: bool = False
    """Cut off what tells articles of one name apart: "Mercury (planet)" counts as "Mercury"."""
    limit: int | None = None
    """Give the best so many; None: all that pass."""
    contact: str = ""
    """How the publisher reaches who downloads: an address of mail or page, for the user agent."""

    def __post_init__(self) -> None:
        """Refuse what no source could fulfil."""
        if (self.first is None) != (self.last is None):
            raise ValueError("first and last go together: give both, or neither to read all files that stand there")
        for name, day in (("first", self.first), ("last", self.last)):
            if day is not None:
                _date(name, day)
        for name, least in (("days", 1), ("min_hour", 0), ("min_sum", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}, must be at least 1")


def _date(name: str, text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, must be a day such as 2023-01-31") from None


def sampled_days(settings: PageviewSettings) -> list[datetime.date]:
    """Draw the days, ascending: those of the least sha256 of "SEED DATE"."""
    if settings.first is None or settings.last is None:
        return []
    first, last = _date("first", settings.first), _date("last", settings.last)
    span = [first + datetime.timedelta(days=i) for i in range((last - first).days + 1)]
    if len(span) < settings.days:
        raise MetaclipError(
            f"{settings.days} days are wanted, {settings.first} to {settings.last} has {len(span)}; widen it"
        )
    return sorted(
        sorted(span, key=lambda day: hashlib.sha256(f"{settings.seed} {day}".encode()).digest())[: settings.days]
    )


def hourly_files(settings: PageviewSettings) -> list[PublishedFile]:
    """Give the hourly files of the sampled days, as Wikimedia publishes them."""
    root = (settings.url or "").rstrip("/")
    return [
        PublishedFile(f"{root}/{day:%Y}/{day:%Y-%m}/{name}", name)
        for day in sampled_days(settings)
        for name in (f"pageviews-{day:%Y%m%d}-{hour:02}0000.gz" for hour in range(24))
    ]


def candidates(
    settings: PageviewSettings,
    *,
    workers: int | None = None,
    memory: int = dump_count.MEMORY,
    retry: RetryPolicy | None = None,
) -> Candidates:
    """Give the titles that pass, most viewed first, ties by the lesser title; scores are sums of views.

    Fetch sampled files that are not there, if the settings name a url. Raise MetaclipError for files that are missing or
    broken, and if no title passes.
    """
    paths = _files(settings, retry)
    with disk_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="metaclip-pageviews-") as name:
        folder = Path(name)
        funnel, digest = _read_all(paths, settings, folder, Local(workers), memory)
        summed = spill.Tally(folder / "summed.parquet", max(1, memory // spill.BYTES_A_KEY))
        dropped = 0
        for table in _resolved(spill.gathered(spill.read(folder / _MERGED), _ROWS), settings):
            kept = table.filter(pc.not_equal(table["key"], ""))
            dropped += len(table) - len(kept)
            summed.add_counts(zip(kept["key"].to_pylist(), kept["count"].to_pylist(), strict=True))
        summed.finish()
        best, passed = spill.best_first(_passing(folder / "summed.parquet", settings.min_sum), settings.limit)
    if not len(best):
        raise MetaclipError(
            f"no title of the domain {settings.domain!r} in {len(paths)} files ({paths[0]}, ...) has {settings.min_sum} views: "
            f"{funnel['lines']:,} lines, {funnel['other_domain']:,} of other domains, "
            f"{funnel['below_min_hour']:,} below {settings.min_hour} views; check domain, min_hour and min_sum"
        )
    facts = {
        "licence": LICENCE,
        "domain": settings.domain,
        "files": len(paths),
        "first_file": paths[0].name,
        "last_file": paths[-1].name,
        "digest": digest,
        "lines": funnel,
        "passed": passed,
        "left_out": {
            **{f"lines, {reason.replace('_', ' ')}": funnel[reason] for reason in REASONS if reason != "other_domain"},
            "main page or no title": dropped,
        },
    }
    return Candidates(spill.whole(best["key"]), spill.whole(best["score"]), facts)


def _files(settings: PageviewSettings, retry: RetryPolicy | None) -> list[Path]:
    """Find the files, fetch those that are missing and may be fetched."""
    wanted = hourly_files(settings)
    if not wanted:
        where = settings.files
        pattern = os.path.join(glob.escape(where), _NAME) if os.path.isdir(where) else where
        paths = [Path(name) for name in sorted(glob.glob(pattern))]
        if not paths:
            raise MetaclipError(f"there are no pageview files {pattern}; name days with first and last, and a url")
        return paths
    folder = Path(settings.files)
    missing = [file for file in wanted if not (folder / file.name).exists()]
    if missing and settings.url is None:
        raise MetaclipError(
            f"{folder} lacks {len(missing)} of {len(wanted)} pageview files, the first is {missing[0].name}; "
            "put them there, or name a url to fetch them from"
        )
    for file in missing:
        download.fetch(file, folder / file.name, contact=settings.contact, retry=retry)
    return [folder / file.name for file in wanted]


def _read_all(
    paths: Sequence[Path], settings: PageviewSettings, folder: Path, engine: Local, memory: int
) -> tuple[dict[str, int], str]:
    """Add all files up into one run in a folder; give the funnel of lines, and a digest of the files."""
    from tqdm import tqdm

    workers = min(engine.workers, len(paths))
    step = functools.partial(
        _step, settings=settings, folder=folder, bound=max(1, memory // workers // spill.BYTES_A_KEY)
    )
    funnels_of, digests = {}, {}
    with tqdm(total=len(paths), desc="pageviews", unit=" files", disable=None) as bar:
        for path, result in engine.map(step, paths, holds_gil=True):
            if isinstance(result, BaseException):
                raise result
            funnels_of[path], digests[path] = result
            bar.update(1)
    funnel = funnels.add(funnels_of[path] for path in paths)
    funnels.check(funnel, "lines", REASONS, "counted")
    spill.merge([_run(folder, path) for path in paths], folder / _MERGED)
    return funnel, digest_of([(path.name, digests[path]) for path in paths])


def _step(
    path: Path, progress: ProgressCallback, settings: PageviewSettings, folder: Path, bound: int
) -> tuple[dict[str, int], str]:
    return read_file(path, settings, folder, bound)


def _run(folder: Path, path: Path) -> Path:
    return folder / f"{path.name}.parquet"


def read_file(path: Path, settings: PageviewSettings, folder: Path, bound: int) -> tuple[dict[str, int], str]:
    """Count the cells of an hourly file into a run in `folder`; give the funnel of its lines, and the file's sha256."""
    tally = spill.Tally(_run(folder, path), bound)
    funnel = dict.fromkeys(("lines", *REASONS, "counted"), 0)
    try:
        # Of its own, a GzipFile gives each line by a call in Python.
        with gzip.open(path) as file, io.BufferedReader(file, _BUFFER) as lines:
            tally.add_counts(_cells(lines, settings, funnel))
        with path.open("rb") as packed:
            digest = file_digest(packed)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MetaclipError(f"{path} is broken gzip ({one_line(error)}); remove it and fetch it again") from None
    except OSError as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)})") from None
    if not funnel["lines"]:
        raise MetaclipError(f"{path} has no lines; remove it and fetch it again")
    tally.finish()
    return funnel, digest


def _cells(lines: Iterable[bytes], settings: PageviewSettings, funnel: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Give title and views of the lines that count, and count the others by reason."""
    ours = settings.domain.encode() + b" "
    others = 0
    for line in lines:
        if not line.startswith(ours):
            others += 1
            if line.count(b" ") != 3:
                funnel["missing_fields"] += 1
            continue
        funnel["lines"] += 1
        fields = line.split(b" ")
        if len(fields) != 4 or not fields[1] or not fields[2].isdigit():
            funnel["missing_fields"] += 1
        elif int(fields[2]) < settings.min_hour:
            funnel["below_min_hour"] += 1
        elif (title := title_of(fields[1])) is None:
            funnel["invalid_utf8"] += 1
        elif _NO_TITLE.fullmatch(title):
            funnel["not_a_title"] += 1
        elif ":" in title:
            funnel["other_namespace"] += 1
        else:
            funnel["counted"] += 1
            yield title, int(fields[2])
    funnel["lines"] += others
    funnel["other_domain"] = funnel["lines"] - sum(count for reason, count in funnel.items() if reason != "lines")


def title_of(written: bytes) -> str | None:
    """Give a title as articles show it from what an hourly file writes; None if it is no UTF-8."""
    try:
        text = (urllib.parse.unquote_to_bytes(written) if b"%" in written else written).decode()
    except UnicodeDecodeError:
        return None
    return text.replace("_", " ").strip(" ")


def _resolved(tables: Iterable[pa.Table], settings: PageviewSettings) -> Iterator[pa.Table]:
    """Lead titles to what they count for; to "" where that is nothing."""
    led = None
    if settings.redirects is not None:
        batches = dump_count.redirects(Path(settings.redirects))
        led = pa.Table.from_batches(batches, dump_count.REDIRECT).combine_chunks()
    for table in tables:
        titles = spill.whole(table["key"])
        if led is not None:
            titles = _followed(titles, spill.whole(led["title"]), spill.whole(led["target"]))
        if settings.main_page:
            titles = pc.if_else(pc.equal(titles, settings.main_page), "", titles)
        if settings.drop_tails:
            titles = pc.replace_substring_regex(titles, _TAIL, "")
        yield pa.table({"key": titles, "count": table["count"]})


def _followed(titles: pa.Array, sources: pa.Array, targets: pa.Array) -> pa.Array:
    """Follow the redirects of titles, `_HOPS` in a row at most."""
    for _ in range(_HOPS):
        rows = pc.index_in(titles, value_set=sources)
        if rows.null_count == len(rows):
            break
        titles = pc.coalesce(targets.take(rows), titles)
    return titles


def _passing(path: Path, min_sum: int) -> Iterator[pa.Table]:
    for table in spill.read(path):
        some = table.filter(pc.greater_equal(table["count"], min_sum))
        yield some.append_column("score", some["count"].cast(pa.float64()))
