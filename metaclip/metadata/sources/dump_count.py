"""The stage that counts a dump: words, pairs of words and redirects, a part at a time, in bounded memory.

    counts/unigrams.parquet    key, count: every word, ascending
    counts/bigrams.parquet     key, count: every pair, its two words joined by a blank, ascending
    counts/redirects.parquet   title, target: of every redirect among articles, in the dump's order
    counts/manifest.json       the dump's files with sizes and digests, what became of each page, the sum of all words

Law: the counts are those of the articles' text, whatever the parts, the workers and the memory; a killed count goes on
from the parts that are finished. The folder is a run folder with one stage (`metaclip.stage`).

Cost on one core: 1.7 MB/s of XML; metadata/README.md has the steps, and the arithmetic for all of English Wikipedia.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.engine.contract import Engine, PortableStep, ProgressCallback
from metaclip.engine.progress import Progress
from metaclip.errors import MetaclipError
from metaclip.metadata.sources import dump, spill, wikitext
from metaclip.metadata.sources.dump import DumpFile
from metaclip.stage import funnel as funnels
from metaclip.stage.folder import Folder
from metaclip.stage.options import RunOptions
from metaclip.stage.runner import Task, run
from metaclip.stage.stage import Stage, StageSpec
from metaclip.storage.files import atomic_write, file_digest

UNIGRAMS: Final = "unigrams.parquet"
BIGRAMS: Final = "bigrams.parquet"
REDIRECTS: Final = "redirects.parquet"
OUTPUTS: Final = (UNIGRAMS, BIGRAMS, REDIRECTS)
DUMP: Final = StageSpec("dump", OUTPUTS, tuple(f"*.{name}" for name in OUTPUTS), semantics=1)
"""Its semantics are raised with any change of what is counted."""
REASONS: Final = ("other_namespace", "redirect", "not_wikitext", "no_text", "unparsable")
"""Why a page is not counted, in the order in which it is asked; the rest are `article`."""
PART_BYTES: Final = 16 << 20
MEMORY: Final = 3 << 29
"""Bytes for the counts that are held, over all workers; each worker takes 130 MiB besides, this process 250 MiB."""
REDIRECT: Final = pa.schema([("title", pa.string()), ("target", pa.string())])


@dataclasses.dataclass(frozen=True)
class Part:
    """A range of bytes of a dump's file: the unit of work and of resume."""

    file: DumpFile
    name: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class DumpCounts:
    """A finished count."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def tokens(self) -> int:
        """The sum of all counts of words: N of the paper."""
        return int(self.record["tokens"])


def opened(folder: str | os.PathLike[str]) -> DumpCounts:
    """Open a finished count. Raise MetaclipError where there is none."""
    found = Folder(folder)
    record = found.manifest.get("stages", {}).get(DUMP.name)
    if not record or not all((found / name).is_file() for name in OUTPUTS):
        raise MetaclipError(f"{folder} holds no finished count of a dump; name the dump too, with the key dump")
    return DumpCounts(found.path, record)


def count(
    where: str,
    wiki: str,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    memory: int = MEMORY,
    part_bytes: int = PART_BYTES,
    engine: Engine | None = None,
) -> DumpCounts:
    """Count a dump (a file, a folder or a pattern) into a folder, or go on where an earlier call stopped.

    `memory` in bytes bounds what is counted in memory at a time; `engine` carries the parts in place of `workers` processes
    of this machine. Raise MetaclipError for what `dump.find` refuses, for a
    file that is damaged, for a folder that holds the count of another dump or is in use, and if no article has a word.
    """
    files = dump.find(where, wiki)
    options = RunOptions(workers=workers, engine=engine)
    parts = _parts(files, part_bytes)
    folder = Folder(out)
    with folder.owned():
        stage = Stage(folder, DUMP)
        _begin(stage, _fingerprint(files, wiki, part_bytes))
        record = stage.finished()
        if record is None:
            bound = max(1, memory // options.active_engine.workers // spill.BYTES_A_KEY)
            _work(stage, files, parts, options, bound)
            record = _add_up(stage, files, parts)
        stage.remove_partials()
    return DumpCounts(folder.path, record)


def _begin(stage: Stage, fingerprint: Mapping[str, Any]) -> None:
    try:
        stage.begin(fingerprint)
    except MetaclipError as error:
        what = str(error).rpartition("; ")[0]  # what follows names flags that a count does not have
        raise MetaclipError(f"{what}; name another folder with the key counts, or remove this one") from None


def _parts(files: Sequence[DumpFile], part_bytes: int) -> list[Part]:
    return [
        Part(file, f"{index:05}-{start // part_bytes:05}", start, min(start + part_bytes, file.size))
        for index, file in enumerate(files)
        for start in range(0, file.size, part_bytes)
    ]


def _fingerprint(files: Sequence[DumpFile], wiki: str, part_bytes: int) -> dict[str, Any]:
    return {
        "semantics": DUMP.semantics,
        "wiki": wiki,
        "dump": [f"{file.path.name}, {file.size} bytes" for file in files],
        "part_bytes": part_bytes,
        "parser": f"mwparserfromhell {importlib.metadata.version('mwparserfromhell')}",
    }


def _work(stage: Stage, files: Sequence[DumpFile], parts: Sequence[Part], options: RunOptions, bound: int) -> None:
    """Count the parts that are not finished, and compute the digests of the dump's files."""
    tasks: list[Task[Part | DumpFile]] = [Task(part.name, part) for part in parts]
    tasks += [Task(_digest_name(index), file) for index, file in enumerate(files)]
    step = CountStep(stage, bound)
    size = sum(part.stop - part.start for part in parts)
    with Progress("count", size, unit="B") as progress:
        todo = []
        for task in tasks:
            if stage.marker(task.name) is None:
                todo.append(task)
            else:
                progress.advance(_size(task.item), 0)
        for task, _ in run(stage, step, todo, options, progress, holds_gil=True):
            progress.advance(_size(task.item), 0)


def _size(item: Part | DumpFile) -> int:
    return item.stop - item.start if isinstance(item, Part) else 0


def _digest_name(index: int) -> str:
    return f"{index:05}"


@dataclasses.dataclass(frozen=True)
class CountStep(PortableStep):
    """The step: counts a part, holding about `bound` strings in memory, or computes the digest of a file."""

    stage: Stage
    bound: int

    def __call__(self, item: Part | DumpFile, progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        """Return what the marker says, and the files of counts."""
        if isinstance(item, DumpFile):
            with item.path.open("rb") as file:
                return {"name": item.path.name, "size": item.size, "sha256": file_digest(file)}, []
        return count_part(item, self.stage, self.bound), self.stage.partials(item.name)


def count_part(part: Part, stage: Stage, bound: int) -> dict[str, Any]:
    """Count a part into three files beside its marker, holding about `bound` strings; return the funnel of its pages."""
    unigrams, bigrams, redirects = stage.partials(part.name)
    words, pairs = spill.Tally(unigrams, 1 + bound // 4), spill.Tally(bigrams, 1 + 3 * bound // 4)
    led: dict[str, list[str]] = {"title": [], "target": []}
    extract = wikitext.extractor(part.file.names)
    funnel = dict.fromkeys(("pages", *REASONS, "article"), 0)
    size = 0
    for page in dump.pages(part.file.path, part.start, part.stop):
        funnel["pages"] += 1
        reason, text = "article", ""
        if page.namespace != 0:
            reason = "other_namespace"
        elif page.redirect is not None:
            reason = "redirect"
            led["title"].append(page.title)
            led["target"].append(page.redirect)
        elif page.model != "wikitext":
            reason = "not_wikitext"
        elif not page.text:
            reason = "no_text"
        else:
            try:
                text = extract(page.text)
            except ValueError:
                reason = "unparsable"
        funnel[reason] += 1
        size += len(page.text.encode())
        phrases = list(wikitext.phrases(text))
        words.add(itertools.chain.from_iterable(phrases))
        pairs.add(map(" ".join, itertools.chain.from_iterable(map(itertools.pairwise, phrases))))
    words.finish()
    pairs.finish()
    with atomic_write(redirects) as temporary:
        pq.write_table(pa.table(led, REDIRECT), temporary, compression="zstd")
    return {"funnel": funnel, "wikitext_bytes": size}


def _add_up(stage: Stage, files: Sequence[DumpFile], parts: Sequence[Part]) -> dict[str, Any]:
    """Merge what the parts left, and write the stage's record. Raise MetaclipError where that is nothing."""
    folder = stage.folder
    markers = [stage.marker(part.name) or {} for part in parts]
    funnel = funnels.add(marker["funnel"] for marker in markers)
    funnels.check(funnel, "pages", REASONS, "article")
    for output in (UNIGRAMS, BIGRAMS):
        spill.merge([stage.path / f"{part.name}.{output}" for part in parts], folder / output)
    tokens = spill.total(folder / UNIGRAMS)
    if not tokens:
        raise MetaclipError(f"{files[0].path}: none of the {funnel['pages']} pages is an article with a word in it")
    with (
        atomic_write(folder / REDIRECTS) as temporary,
        pq.ParquetWriter(temporary, REDIRECT, compression="zstd") as writer,
    ):
        for part in parts:
            writer.write_table(pq.read_table(stage.path / f"{part.name}.{REDIRECTS}"))
    digests = [stage.marker(_digest_name(index)) or {} for index in range(len(files))]
    record = {
        "semantics": DUMP.semantics,
        "wiki": files[0].wiki,
        "language": files[0].language,
        "schema": sorted({file.schema for file in files}),
        "parser": _fingerprint(files, files[0].wiki, 0)["parser"],
        "dump": [{key: found[key] for key in ("name", "size", "sha256")} for found in digests],
        "funnel": funnel,
        "wikitext_bytes": sum(marker["wikitext_bytes"] for marker in markers),
        "tokens": tokens,
        "unigrams": pq.read_metadata(folder / UNIGRAMS).num_rows,
        "bigrams": pq.read_metadata(folder / BIGRAMS).num_rows,
    }
    return stage.finish(record)


def redirects(path: Path, rows: int = 1 << 17) -> Iterator[pa.RecordBatch]:
    """Give title and target of the redirects of a count, some at a time: `path` is the folder or its file."""
    where = path / REDIRECTS if path.is_dir() else path
    try:
        with pq.ParquetFile(where) as file:
            yield from file.iter_batches(rows, columns=REDIRECT.names)
    except (OSError, pa.ArrowException) as error:
        raise MetaclipError(
            f"{where} is no file of redirects ({error!s:.200}); name a folder of a dump's counts"
        ) from None
