"""Verify a card against its run: every figure is made again, from the matches up, and compared.

The run is trusted for nothing but its matches and its pool's digests: counts are counted again, the draw is made again
for each matched pair, the kept pairs are compared with curated.npy and with the files of curated/, then the whole card
is made again. Cost: 0.5 us a matched pair, and the cost of making the card.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metaclip.card.class_coverage import ClassNames
from metaclip.card.publish import (
    CardInfo,
    card_json,
    entries_table,
    read_card,
    read_card_of,
    sha256_of,
)
from metaclip.card.removal.removed_list import REMOVED_LIST, list_digest, listed_uids, read_list
from metaclip.card.run_files import (
    account_differences,
    curated_files,
    json_differences,
    matched_files,
)
from metaclip.card.scan import scan_run
from metaclip.curate.balance_outputs import add_languages
from metaclip.curate.balance_shard import LanguageSums
from metaclip.curate.draw import FIXED_POINT, DrawSums, draw_rows, hashes, probabilities, stream_key
from metaclip.curate.run import Run, RunLike, local_run, open_run
from metaclip.curate.schema import result_digest
from metaclip.curate.settings import REMOVED
from metaclip.curate.tables import ENTRIES, counts_digest, matched_rows, read_pairs, read_table
from metaclip.curate.threshold import column_thresholds, vector_digest
from metaclip.errors import MetaclipError
from metaclip.matching import add_ids
from metaclip.metadata import Metadata
from metaclip.pool.subset import Subset
from metaclip.pool.uid import Uids, column_uids
from metaclip.stage.runner import RunOptions
from metaclip.storage.files import as_path

_OWN_FILES: Final = ("README.md", "croissant.json", "entries.parquet")
"""Files that every card names with their digests."""


def verify(
    folder: str | os.PathLike[str],
    run: RunLike,
    *,
    blocked: Metadata | None = None,
    options: RunOptions | None = None,
) -> list[str]:
    """List what in a card's folder does not follow from its run, one line each; nothing if all does.

    `blocked` are the words that the card was made with. Raise MetaclipError for the card of another run.
    """
    run, path = open_run(run), as_path(folder)
    card = read_card_of(path, run)
    with local_run(run) as near, path.local_folder() as local:
        info, classes = CardInfo.of_card(local, card), ClassNames.of_card(card)
        scan = scan_run(near, options or RunOptions(), classes, blocked, with_samples=info.samples)
        found = [*_file_differences(local, card), *_run_differences(near)]
        stated = {key: value for key, value in card.items() if key != "files"}
        made = card_json(near, info, scan)
        found += [f"card.json, {line}" for line in json_differences(made, stated)]
        table = entries_table(near, scan.samples)
        try:
            theirs = read_table(local / "entries.parquet")
        except MetaclipError as error:
            return [*found, str(error)]
        for name in table.column_names:
            if name not in theirs.column_names or not theirs[name].equals(table[name]):
                found.append(f"entries.parquet, {name}: not what the run gives")
    return found


def own_differences(folder: Path) -> list[str]:
    """List what in a card's folder contradicts the card itself, one line each: what can be verified without its run.

    Files are compared with their digests in card.json, counts and thresholds by entry with theirs, and the fields with the
    result digest. Raise MetaclipError if there is no card.
    """
    card = read_card(folder)
    listed = {item["name"] for item in card["files"]}
    found = [f"card.json names no {name}" for name in _OWN_FILES if name not in listed]
    found += [f"{name} is gone" for name in ("index.html", "explorer") if not (folder / name).exists()]
    found += _file_differences(folder, card)
    if result_digest(card) != card["result_digest"]:
        found.append("card.json: the result digest is not that of its fields")
    if not found:
        table = read_table(folder / "entries.parquet", ENTRIES)
        thresholds = column_thresholds(table, card["balance"]["t"])
        for name, digest, stated in (
            ("count", counts_digest(table["count"].to_numpy()), card["digests"]["counts"]),
            ("t", vector_digest(thresholds), card["digests"].get("t")),
        ):
            if digest != stated:
                found.append(f"entries.parquet, {name}: not what card.json has the digest of")
    return found


def _file_differences(folder: Path, card: Mapping[str, Any]) -> Iterator[str]:
    """Compare the files that card.json names with their digests; a name that leads out of the folder is not followed."""
    for item in card.get("files", []):
        path = folder / ("plots" if "/" in item["name"] else "") / Path(item["name"]).name
        if not path.is_file():
            yield f"{item['name']} is gone"
        elif sha256_of(path) != item["sha256"]:
            yield f"{item['name']} is not the file that card.json names"


def _run_differences(run: Run) -> Iterator[str]:
    """Count and draw again from the matches, and compare with what the run states."""
    counts, files = np.zeros(len(run.metadata), np.uint64), matched_files(run)
    for _, values, _ in itertools.chain.from_iterable(map(matched_rows, files)):
        add_ids(counts, values)
    yield from (f"run: card.json, {line}" for line in account_differences(run))
    removed = REMOVED in run.match
    stated = run.corrected_counts if removed else run.counts.values
    if (counts != stated).any():
        yield f"run: {int((counts != stated).sum())} entries have another count than their matches"
    if removed:
        yield from _removal_differences(run, files, counts)
    drawn_by = run.counts.values if removed else counts  # the parent's, which the account's digest proves
    probability, key, drawn = (
        probabilities(drawn_by, run.thresholds),
        stream_key(run.seed, 0),
        DrawSums(len(counts)),
    )

    by_language = LanguageSums(run.metadata.languages)

    def kept_uids() -> Iterator[Uids]:
        for uids, values, offsets in itertools.chain.from_iterable(map(matched_rows, files)):
            p, keep = draw_rows(values, offsets, probability, uids, key, drawn)
            if run.metadata.languages:
                by_language.add(values, offsets, p, keep)
            yield uids[keep]

    kept, entries = _uid_sums(kept_uids()), run.entries
    expected = (drawn.expected >> np.uint64(32)) + (
        drawn.expected & np.uint64(FIXED_POINT - 1)
    ) / FIXED_POINT
    for name, computed in (("probability", probability), ("expected", expected), ("kept", drawn.kept)):
        if (entries[name].to_numpy() != computed).any():
            yield f"run: entries.parquet, {name}: not what the matches give"
    if run.metadata.languages:
        made = add_languages([by_language.by_language()], run.metadata)
        stated_by_language = run.manifest["stages"]["balance"]["languages"]
        for language, pairs in made.items():
            if stated_by_language.get(language) != pairs:
                yield f"run: the pairs of {language}: not what the matches give"
    try:
        if (_uid_sums(Subset(run.path / "curated.npy").blocks()) != kept).any():
            yield "run: curated.npy does not hold the pairs that the draw keeps"
    except MetaclipError as error:
        yield f"run: {error}"
    batches = itertools.chain.from_iterable(read_pairs(path, ["uid"]) for path in curated_files(run))
    if (_uid_sums(column_uids(batch.column("uid")) for batch in batches) != kept).any():
        yield "run: curated/ does not hold the pairs that the draw keeps"


def _removal_differences(
    run: Run, files: Sequence[Path], counts: npt.NDArray[np.uint64]
) -> Iterator[str]:
    """Check the record of pairs taken out: the list is the recorded one, none of its pairs is left, counts are lower."""
    record = run.match[REMOVED]
    if counts_digest(counts) != record["counts_digest"]:
        yield "run: the corrected counts are not those of its record"
    if (counts > run.counts.values).any():
        yield "run: a corrected count is larger than its count"
    removed = read_list(run.matched / REMOVED_LIST)
    if list_digest(removed) != record["versions"][-1]["digest"]:
        yield f"run: {REMOVED_LIST} is not the list of its record"
    gone = listed_uids(removed)
    if left := sum(int(gone.contains(uids).sum()) for path in files for uids, _, _ in matched_rows(path)):
        yield f"run: {left} matched rows are left of pairs that {REMOVED_LIST} lists"


def _uid_sums(parts: Iterable[Uids]) -> npt.NDArray[np.uint64]:
    """Sum uids, in any order: their number, and two hashes of each modulo 2^64."""
    sums = np.zeros(3, np.uint64)
    for uids in parts:
        sums += np.array(
            [len(uids), *(hashes(seed, 0, uids).sum(dtype=np.uint64) for seed in (1, 2))], np.uint64
        )
    return sums
