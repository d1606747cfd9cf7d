"""Titles of articles by views, from Wikimedia's hourly files, ``pageviews-YYYYMMDD-HH0000.gz``.

A line is ``domain title count bytes``; a cell is a line of the wanted domain. The paper's rule ("Demystifying CLIP Data",
appendix A.2, and REFERENCE.md): cells of at least 50 views, of 26 sampled days of 24 hours, are added up by title, and a
sum of at least 70 makes a candidate. `min_hour` = 0 gives plain sums.

    title    percent-encoding is resolved, "_" becomes " "; a title is left out if it has a ":" (other namespaces), is empty
             or "-" (which the files write for no title), or has a character that no title can have
    then     views of redirects count for their articles (if a dump's redirects are given), the main page is left out
             (unless `main_page` is empty), endings such as "(planet)" are removed (with `drop_tails`), all before sums are
             compared with `min_sum`

The sampled days are those with the smallest sha256 of "SEED DATE", so they are the same everywhere.

Cost on one core: 0.9 M lines/s. Memory: 1 GB for sums, which continue on disk beyond that; following redirects takes
1.2 GB more for 8 M of them.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import glob
import gzip
import hashlib
import itertools
import os
import re
import tempfile
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from metaclip.engine import Engine, Progress, ProgressCallback
from metaclip.engine.local import Local
from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import dump_count
from metaclip.metadata.sources.casing import PARENTHESES
from metaclip.metadata.sources.string_counts import (
    SCHEMA,
    best_first,
    counts_writer,
    scored_by_count,
    sums,
)
from metaclip.recipe import check_minimums
from metaclip.stage.stage import add_funnels, check_funnel, digest_of
from metaclip.storage import download
from metaclip.storage.download import PublishedFile
from metaclip.storage.files import disk_errors, file_digest
from metaclip.storage.local import scratch
from metaclip.storage.retries import RetryPolicy

REASONS: Final = (
    "missing_fields",
    "other_domain",
    "below_min_hour",
    "invalid_utf8",
    "not_a_title",
    "other_namespace",
)
"""Why a line is not counted, in the order of the checks; the other lines are `counted`."""
_NAME: Final = "pageviews-????????-??0000.gz"
_NO_TITLE: Final = re.compile(r"-?|.*[\x00-\x1f\x7f<>\[\]{}|#].*", re.DOTALL)
"""What MediaWiki does not allow as a title."""
_HOPS: Final = 4
"""Number of redirects that are followed in a row: MediaWiki follows one, and repairs longer chains."""
_BUFFER: Final = 1 << 20
_MAX_LINE: Final = 1 << 20
_CELLS: Final = 1 << 16
"""Number of cells that are written at a time."""
_ROWS: Final = 1 << 22
"""Number of titles in a look-up of redirects."""


@dataclass(frozen=True)
class PageviewSettings:
    """The hourly files that are read, and which of their titles are candidates."""

    files: str = "pageviews"
    """Folder of the hourly files, or a pattern."""
    first: str | None = None
    """The first day that may be sampled, such as 2023-01-01; None to read all files that are there."""
    last: str | None = None
    """The last day that may be sampled."""
    days: int = 26
    """Number of days to sample, of 24 hours each."""
    seed: int = 0
    """Seed of the sample."""
    url: str | None = None
    """Where to fetch sampled files that are missing: "https://dumps.wikimedia.org/other/pageviews/"."""
    domain: str = "en"
    """The domain in the files' form: "en" is English Wikipedia's desktop site, "en.m" its mobile one."""
    min_hour: int = 50
    """The minimum views of a cell; 0 for plain sums."""
    min_sum: int = 70
    """The minimum sum of views."""
    redirects: str | None = None
    """Folder of a dump's counts, whose redirects are followed."""
    main_page: str = "Main Page"
    """A title that is left out, as it is no article; empty for none."""
    drop_tails: bool = False
    """Remove what distinguishes articles of one name: "Mercury (planet)" counts as "Mercury"."""
    limit: int | None = None
    """The maximum number of candidates; None for all that pass."""
    share: float | None = None
    """The maximum number of candidates as a share of those that pass."""
    contact: str = ""
    """A mail address or page by which the publisher can reach the downloader, for the user agent."""

    def __post_init__(self) -> None:
        if (self.first is None) != (self.last is None):
            raise ValueError(
                "first and last go together: give both, or neither to read all files that are there"
            )
        for name, day in (("first", self.first), ("last", self.last)):
            try:
                datetime.date.fromisoformat(day or "2023-01-31")
            except ValueError:
                raise ValueError(f"{name} is {day!r}, must be a day such as 2023-01-31") from None
        check_minimums(self, days=1, min_hour=0, min_sum=0, limit=1)
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}, must be over 0 and at most 1")


def sampled_days(settings: PageviewSettings) -> list[datetime.date]:
    """Return the sampled days in ascending order: those with the smallest sha256 of "SEED DATE"; none without a span."""
    if settings.first is None or settings.last is None:
        return []
    first, last = map(datetime.date.fromisoformat, (settings.first, settings.last))
    span = [first + datetime.timedelta(days=i) for i in range((last - first).days + 1)]
    if len(span) < settings.days:
        raise MetaclipError(
            f"{settings.days} days are wanted, {settings.first} to {settings.last} has {len(span)}; widen it"
        )
    return sorted(
        sorted(span, key=lambda day: hashlib.sha256(f"{settings.seed} {day}".encode()).digest())[
            : settings.days
        ]
    )


def hourly_files(settings: PageviewSettings) -> list[PublishedFile]:
    """Return the hourly files of the sampled days, as Wikimedia publishes them."""
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
    retry: RetryPolicy | None = None,
) -> Candidates:
    """Return the titles that pass, most viewed first, equal ones by title; scores are sums of views.

    Files are read in processes of this machine; sampled files that are missing are fetched if the settings name a url. Raise
    MetaclipError for files that are missing or broken, and if no title passes.
    """
    paths = _find_files(settings, retry)
    redirects = (
        None if settings.redirects is None else dump_count.read_redirects(Path(settings.redirects))
    )
    with disk_errors(Path(tempfile.gettempdir())), scratch() as folder:
        counted, funnel, digest = _count_files(paths, settings, folder, Local(workers))
        articles, dropped = folder / "articles.parquet", 0
        with counts_writer(articles) as writer:
            for table in sums(counted, rows=_ROWS):
                titles = _articles(table["key"].combine_chunks(), redirects, settings)
                kept = table.set_column(0, "key", titles).filter(pc.not_equal(titles, ""))
                dropped += len(table) - len(kept)
                writer.write_table(kept.cast(SCHEMA))
        passing = scored_by_count(sums([articles], settings.min_sum))
        best, passed = best_first(passing, settings.limit)
    if settings.share is not None:
        best = best.slice(0, int(settings.share * passed))
    if not len(best):
        raise MetaclipError(
            f"no title of the domain {settings.domain!r} in {len(paths)} files ({paths[0]}, ...) has {settings.min_sum} views: "
            f"{funnel['lines']:,} lines, {funnel['other_domain']:,} of other domains, "
            f"{funnel['below_min_hour']:,} below {settings.min_hour} views; check domain, min_hour and min_sum"
        )
    facts = {
        "licence": "CC0 1.0",
        "domain": settings.domain,
        "files": len(paths),
        "first_file": paths[0].name,
        "last_file": paths[-1].name,
        "digest": digest,
        "lines": funnel,
        "passed": passed,
        "left_out": {
            **{
                f"lines, {reason.replace('_', ' ')}": funnel[reason]
                for reason in REASONS
                if reason != "other_domain"
            },
            "main page or no title": dropped,
        },
    }
    return Candidates(best["key"].combine_chunks(), best["score"].combine_chunks(), facts)


def _find_files(settings: PageviewSettings, retry: RetryPolicy | None) -> list[Path]:
    """Return the files to read; fetch the sampled ones that are missing, if the settings name a url."""
    sampled, where = hourly_files(settings), settings.files
    if not sampled:
        pattern = os.path.join(glob.escape(where), _NAME) if os.path.isdir(where) else where
        paths = [Path(name) for name in sorted(glob.glob(pattern))]
        if not paths:
            raise MetaclipError(
                f"there are no pageview files {pattern}; name days with first and last, and a url"
            )
        return paths
    missing = [file for file in sampled if not Path(where, file.name).exists()]
    if missing and settings.url is None:
        raise MetaclipError(
            f"{where} lacks {len(missing)} of {len(sampled)} pageview files, the first is {missing[0].name}; "
            "put them there, or name a url to fetch them from"
        )
    for file in missing:
        download.fetch(file, Path(where, file.name), contact=settings.contact, retry=retry)
    return [Path(where, file.name) for file in sampled]


def _count_files(
    paths: Sequence[Path], settings: PageviewSettings, folder: Path, engine: Engine
) -> tuple[tuple[Path, ...], dict[str, int], str]:
    """Count the views of all files into files in a folder; return these, the funnel of lines, and a digest of the files."""
    step = functools.partial(count_file, settings=settings, folder=folder)
    counted: dict[Path, tuple[Path, dict[str, int], str]] = {}
    with (
        Progress("pageviews", len(paths), unit="files") as progress,
        contextlib.closing(engine.map(step, paths, holds_gil=True)) as results,
    ):
        for path, result in results:
            if isinstance(result, BaseException):
                raise result
            counted[path] = result
            progress.advance(1, 0)
    files, file_funnels, digests = zip(*(counted[path] for path in paths), strict=True)
    funnel = add_funnels(file_funnels)
    check_funnel(funnel, "lines", REASONS, "counted")
    return (
        files,
        funnel,
        digest_of([(path.name, digest) for path, digest in zip(paths, digests, strict=True)]),
    )


def count_file(
    path: Path, progress: ProgressCallback, *, settings: PageviewSettings, folder: Path
) -> tuple[Path, dict[str, int], str]:
    """Write the cells of an hourly file to a file of counts in `folder`.

    Return that file (`metaclip.metadata.sources.string_counts`), the funnel of lines, and the sha256 of the hourly file.
    """
    counts, funnel = folder / f"{path.name}.parquet", dict.fromkeys(("lines", *REASONS, "counted"), 0)
    try:
        with gzip.open(path) as file, counts_writer(counts) as writer:
            cells = _cells(_lines(file, path), settings, funnel)
            while batch := list(itertools.islice(cells, _CELLS)):
                titles, views = zip(*batch, strict=True)
                writer.write_table(pa.table([pa.array(titles), pa.array(views)], SCHEMA))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MetaclipError(
            f"{path} is broken gzip ({one_line(error)}); remove it and fetch it again"
        ) from None
    if not funnel["lines"]:
        raise MetaclipError(f"{path} has no lines; remove it and fetch it again")
    with path.open("rb") as packed:
        return counts, funnel, file_digest(packed)


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    """Yield the lines of a file block by block: a GzipFile by itself returns each line through a call in Python."""
    rest = b""
    while block := file.read(_BUFFER):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise MetaclipError(
                f"{path} has a line of over {_MAX_LINE >> 20} MiB; remove it and fetch it again"
            )
        yield from lines
    if rest:
        yield rest


def _cells(
    lines: Iterable[bytes], settings: PageviewSettings, funnel: dict[str, int]
) -> Iterator[tuple[str, int]]:
    """Yield title and views of the lines that count, and count the others by reason in `funnel`."""
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
    funnel["other_domain"] = funnel["lines"] - sum(
        count for reason, count in funnel.items() if reason != "lines"
    )


def title_of(written: bytes) -> str | None:
    """Return a title as articles show it from the form in an hourly file; None if it is not UTF-8."""
    try:
        text = (urllib.parse.unquote_to_bytes(written) if b"%" in written else written).decode()
    except UnicodeDecodeError:
        return None
    return text.replace("_", " ").strip(" ")


def _articles(titles: pa.Array, redirects: pa.Table | None, settings: PageviewSettings) -> pa.Array:
    """Return the titles for which the views of titles count; "" for those that count for none."""
    if redirects is not None:
        for _ in range(_HOPS):
            rows = pc.index_in(titles, value_set=redirects["title"])
            if rows.null_count == len(rows):
                break
            titles = pc.coalesce(redirects["target"].take(rows), titles)
    if settings.main_page:
        titles = pc.if_else(pc.equal(titles, settings.main_page), "", titles)
    return pc.replace_substring_regex(titles, PARENTHESES, "") if settings.drop_tails else titles
