"""The stage that counts a dump: words, pairs of words and redirects, shard by shard, in bounded memory.

    counts/unigrams.parquet    key, count: every word, ascending
    counts/bigrams.parquet     key, count: every pair, its two words joined by a blank, ascending
    counts/redirects.parquet   title, target: of every redirect among articles, in the dump's order
    counts/manifest.json       the dump's files with sizes and digests, what became of each page, the sum of all words

A shard is a range of bytes of a file. It has the streams that begin in the range, so a file that is a single stream is one
shard's work, on one core.

Law: the counts are those of the articles' text, whatever the shards, the workers and the memory; a killed count continues
with the shards that are not finished. The folder is a run folder with one stage (`metaclip.stage`).

Cost on one core: 1.7 MB/s of XML; metadata/README.md has the steps, and the arithmetic for all of English Wikipedia.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.engine import Engine, PortableStep, Progress, ProgressCallback
from metaclip.errors import MetaclipError
from metaclip.metadata.sources import bzip2, dump, wikitext
from metaclip.metadata.sources.dump import DumpFile
from metaclip.metadata.sources.segmentation import segmenter, segmenter_version
from metaclip.metadata.sources.string_counts import BYTES_PER_KEY, string_counter, sums, write_counts
from metaclip.stage.folder import Folder
from metaclip.stage.runner import RunOptions, Task, run
from metaclip.stage.stage import FinishedStage, Stage, StageSpec, add_funnels, check_funnel
from metaclip.storage.files import atomic_write, file_digest

UNIGRAMS: Final = "unigrams.parquet"
BIGRAMS: Final = "bigrams.parquet"
REDIRECTS: Final = "redirects.parquet"
OUTPUTS: Final = (UNIGRAMS, BIGRAMS, REDIRECTS)
DUMP: Final = StageSpec("dump", OUTPUTS, tuple(f"*.{name}" for name in OUTPUTS), semantics=1)
"""Its semantics are raised with any change of what is counted."""
REASONS: Final = ("other_namespace", "redirect", "not_wikitext", "no_text", "unparsable")
"""Why a page is not counted, in the order of the checks; the other pages are `article`."""
SHARD_BYTES: Final = 16 << 20
MEMORY: Final = 3 << 29
"""Bytes for the counts that are held, over all workers; each worker takes 130 MiB besides, this process 250 MiB."""
REDIRECT_SCHEMA: Final = pa.schema([("title", pa.string()), ("target", pa.string())])


@dataclasses.dataclass(frozen=True)
class DumpShard:
    """A range of bytes of a dump's file."""

    file: DumpFile
    name: str
    start: int
    stop: int


def open_counts(folder: str | os.PathLike[str]) -> FinishedStage:
    """Open a finished count. Raise MetaclipError if there is none.

    The `tokens` of its record are the sum of all counts of words, N of the paper.
    """
    found = Folder(folder)
    record = found.manifest.get("stages", {}).get(DUMP.name)
    if not record or not all((found / name).is_file() for name in OUTPUTS):
        raise MetaclipError(
            f"{folder} holds no finished count of a dump; name the dump too, with the key dump"
        )
    return FinishedStage(found.path, record)


def read_redirects(counts: Path) -> pa.Table:
    """Read the redirects of a count, from its folder or its file: a table of `REDIRECT_SCHEMA`."""
    path = counts / REDIRECTS if counts.is_dir() else counts
    try:
        return (
            pq.read_table(path, columns=REDIRECT_SCHEMA.names, partitioning=None)
            .cast(REDIRECT_SCHEMA)
            .combine_chunks()
        )
    except (OSError, pa.ArrowException) as error:
        raise MetaclipError(
            f"{path} is no file of redirects ({error!s:.200}); name a folder of a dump's counts"
        ) from None


def count(
    where: str,
    wiki: str,
    out: str | os.PathLike[str],
    *,
    engine: Engine | None = None,
    language: str | None = None,
    memory: int = MEMORY,
    shard_bytes: int = SHARD_BYTES,
) -> FinishedStage:
    """Count a dump (a file, a folder or a pattern) into a folder, or continue where an earlier call stopped.

    `engine` runs the shards, by default in processes of this machine; `memory` bounds the counts in memory, in bytes. With a
    `language`, words are found by its rules (`segmentation.segmenter`) and keep their case; without one they are those of
    `wikitext.phrases`, in lower case. Raise MetaclipError for a dump that `dump.find` refuses, for a damaged file, for a folder
    that holds the count of another dump or is in use, and if no article has a word.
    """
    files, options, folder = dump.find(where, wiki), RunOptions(engine=engine), Folder(out)
    shards = [
        DumpShard(
            file, f"{index:05}-{start // shard_bytes:05}", start, min(start + shard_bytes, file.size)
        )
        for index, file in enumerate(files)
        for start in range(0, file.size, shard_bytes)
    ]
    parser = f"mwparserfromhell {importlib.metadata.version('mwparserfromhell')}"
    fingerprint = {
        "semantics": DUMP.semantics,
        "wiki": wiki,
        "dump": [f"{file.path.name}, {file.size} bytes" for file in files],
        "part_bytes": shard_bytes,
        "parser": parser,
    }
    if len(shards) > len(files):
        fingerprint["split"] = "streams"  # earlier, a shard began at a block, and had other pages
    if language is not None:
        fingerprint["words"] = _words(language)
    with folder.owned():
        stage = Stage(folder, DUMP)
        try:
            stage.begin(fingerprint)
        except MetaclipError as error:
            difference = str(error).rpartition("; ")[
                0
            ]  # without its advice, which names flags that a build does not have
            raise MetaclipError(
                f"{difference}; name another folder with the key counts, or remove this one"
            ) from None
        record = stage.finished()
        if record is None:
            _count_shards(stage, files, shards, options, memory, language)
            record = _combine(stage, files, shards, parser, language)
        stage.remove_partials()
    return FinishedStage(folder.path, record)


def _words(language: str) -> str:
    """Return what decides which words a text of a language has."""
    return ", ".join(filter(None, (language, segmenter_version(language))))


def _count_shards(
    stage: Stage,
    files: Sequence[DumpFile],
    shards: Sequence[DumpShard],
    options: RunOptions,
    memory: int,
    language: str | None,
) -> None:
    """Count the shards that are not finished, and compute the digests of the dump's files."""
    tasks: list[Task[DumpShard | DumpFile]]
    tasks = [Task(shard.name, shard, weight=shard.stop - shard.start) for shard in shards]
    tasks += [Task(_digest_name(index), file) for index, file in enumerate(files)]
    bound = max(1, memory // options.active_engine.workers // BYTES_PER_KEY)
    step = CountStep(stage, bound, language)
    with Progress("count", sum(task.weight for task in tasks), unit="B") as progress:
        single = [
            shard.file.path.name
            for shard in shards
            if shard.start == 0 and shard.stop < shard.file.size
            if not bzip2.is_multistream(shard.file.path, shard.stop)
        ]
        if single:
            progress.note(
                f"{', '.join(single)}: a single bzip2 stream is read by one core; the multistream dump uses several"
            )
        left = [task for task in tasks if stage.marker(task.name) is None]
        progress.advance(sum(task.weight for task in tasks) - sum(task.weight for task in left), 0)
        for task, _ in run(stage, step, left, options, progress, holds_gil=True):
            progress.advance(task.weight, 0)


def _digest_name(index: int) -> str:
    return f"{index:05}"


@dataclasses.dataclass(frozen=True)
class CountStep(PortableStep):
    """The step: counts a shard, holding about `bound` strings in memory, or computes the digest of a file."""

    stage: Stage
    bound: int
    language: str | None = None

    def __call__(
        self, item: DumpShard | DumpFile, progress: ProgressCallback
    ) -> tuple[dict[str, Any], list[Path]]:
        """Return the content of the marker, and the files of counts."""
        if isinstance(item, DumpFile):
            with item.path.open("rb") as file:
                return {"name": item.path.name, "size": item.size, "sha256": file_digest(file)}, []
        paths = self.stage.partials(item.name)
        return _count_shard(item, paths, self.bound, self.language), paths


def _count_shard(
    shard: DumpShard, paths: Sequence[Path], bound: int, language: str | None
) -> dict[str, Any]:
    """Count a shard into the files of `OUTPUTS`; return the funnel of its pages and the bytes of their wikitext."""
    unigrams, bigrams, redirects = paths
    extract, redirect_rows = wikitext.extractor(shard.file.names), list[dict[str, str]]()
    find_phrases = wikitext.phrases if language is None else segmenter(language)
    funnel, size = dict.fromkeys(("pages", *REASONS, "article"), 0), 0
    with (
        string_counter(unigrams, 1 + bound // 4) as words,
        string_counter(bigrams, 1 + 3 * bound // 4) as pairs,
    ):
        for page in dump.pages(shard.file.path, shard.start, shard.stop):
            checks = (
                page.namespace != 0,
                page.redirect is not None,
                page.model != "wikitext",
                not page.text,
            )
            reason, text = next(itertools.compress(REASONS, checks), "article"), ""
            if reason == "redirect":
                redirect_rows.append({"title": page.title, "target": page.redirect or ""})
            elif reason == "article":
                try:
                    text = extract(page.text)
                except ValueError:
                    reason = "unparsable"
            funnel["pages"] += 1
            funnel[reason] += 1
            size += len(page.text.encode())
            phrases = list(find_phrases(text))
            words.add(itertools.chain.from_iterable(phrases))
            pairs.add(map(" ".join, itertools.chain.from_iterable(map(itertools.pairwise, phrases))))
    with atomic_write(redirects) as temporary:
        pq.write_table(
            pa.Table.from_pylist(redirect_rows, REDIRECT_SCHEMA), temporary, compression="zstd"
        )
    return {"funnel": funnel, "wikitext_bytes": size}


def _combine(
    stage: Stage,
    files: Sequence[DumpFile],
    shards: Sequence[DumpShard],
    parser: str,
    language: str | None,
) -> dict[str, Any]:
    """Merge the counts of shards, and write the stage's record. Raise MetaclipError if there is no word."""
    folder = stage.folder
    markers = [stage.marker(shard.name) or {} for shard in shards]
    funnel = add_funnels(marker["funnel"] for marker in markers)
    check_funnel(funnel, "pages", REASONS, "article")
    for output in (UNIGRAMS, BIGRAMS):
        write_counts(folder / output, sums([stage.path / f"{shard.name}.{output}" for shard in shards]))
    words = pq.read_table(folder / UNIGRAMS, columns=["count"], partitioning=None)
    tokens = pc.sum(words["count"]).as_py()
    if not tokens:
        raise MetaclipError(
            f"{files[0].path}: none of the {funnel['pages']} pages is an article with a word in it"
        )
    with (
        atomic_write(folder / REDIRECTS) as temporary,
        pq.ParquetWriter(temporary, REDIRECT_SCHEMA, compression="zstd") as writer,
    ):
        for shard in shards:
            writer.write_table(pq.read_table(stage.path / f"{shard.name}.{REDIRECTS}"))
    digests = [stage.marker(_digest_name(index)) or {} for index in range(len(files))]
    record = {
        "semantics": DUMP.semantics,
        "wiki": files[0].wiki,
        "language": files[0].language,
        "schema": sorted({file.schema for file in files}),
        "parser": parser,
        "dump": [{key: found[key] for key in ("name", "size", "sha256")} for found in digests],
        "funnel": funnel,
        "wikitext_bytes": sum(marker["wikitext_bytes"] for marker in markers),
        "tokens": tokens,
        "unigrams": pq.read_metadata(folder / UNIGRAMS).num_rows,
        "bigrams": pq.read_metadata(folder / BIGRAMS).num_rows,
    }
    if language is not None:
        record["words"] = _words(language)
    return stage.finish(record)
