"""Verify a card against its run: every figure is made again, from the matches up, and compared.

Nothing of what the run says of itself is believed but its matches and its pool's digests: counts are counted again, the
draw is made again for each matched pair, the kept pairs are compared with curated.npy and with the files of curated/,
then the whole card is made again. Cost: 0.5 us a matched pair, and what making the card costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.card import removal
from metaclip.card.intact import compare
from metaclip.card.publish import FIELDS, About, Findings, entries_table, make_card
from metaclip.curate.account import REMOVED, make_account
from metaclip.curate.draw import FIXED_POINT, Tally, draw_rows, hashes, probabilities, stream_key
from metaclip.curate.matched_files import matched_rows
from metaclip.curate.run import Run, counts_digest
from metaclip.curate.schema import check_read
from metaclip.errors import MetaclipError
from metaclip.matching.count import add_ids
from metaclip.pool.uid import column_uids
from metaclip.storage.files import file_digest, read_json

FREE: Final = ("files",)
"""Keys of card.json that are not of the run; `files` is compared with the files themselves."""
_BLOCK: Final = 1 << 20


def read_card(folder: Path) -> dict[str, Any]:
    """Read a card's card.json. Raise MetaclipError where there is none, or one of a newer schema."""
    card = read_json(folder / "card.json")
    if card is None:
        raise MetaclipError(f"{folder} holds no card.json that can be read; metaclip card makes one")
    schema = card.get("schema")
    if not isinstance(schema, dict) or schema.get("name") != "metaclip-card":
        raise MetaclipError(
            f"{folder / 'card.json'} is no published card; make one with: metaclip card RUN --out {folder}"
        )
    check_read(card, "metaclip-card", FIELDS, str(folder / "card.json"), "fetch it again, or make it from its run")
    return card


def about_of(card: Mapping[str, Any]) -> About:
    """Give what the publisher said."""
    return About(card["name"], card["license"], card["contact"], card["url"])


def differences(folder: Path, card: Mapping[str, Any], run: Run, findings: Findings) -> list[str]:
    """List what in a card's folder does not follow from the run; one line each, none where all does."""
    found = list(_files(folder, card))
    found += _draw_again(run)
    made = make_card(run, about_of(card), findings)
    found += [f"card.json, {line}" for line in compare(made, {k: v for k, v in card.items() if k not in FREE})]
    table = entries_table(run, findings.samples)
    try:
        theirs = pq.read_table(folder / "entries.parquet")
    except (OSError, pa.ArrowException) as error:
        return [*found, f"entries.parquet cannot be read ({error})"]
    for name in table.column_names:
        if name not in theirs.column_names or not theirs[name].equals(table[name]):
            found.append(f"entries.parquet, {name}: not what the run gives")
    return found


def _files(folder: Path, card: Mapping[str, Any]) -> Iterator[str]:
    for item in card.get("files", []):
        path = (
            folder / Path(item["name"]).name if "/" not in item["name"] else folder / "plots" / Path(item["name"]).name
        )
        if not path.is_file():
            yield f"{item['name']} is gone"
            continue
        with path.open("rb") as file:
            if file_digest(file) != item["sha256"]:
                yield f"{item['name']} is not the file that card.json names"


def _draw_again(run: Run) -> Iterator[str]:
    """Count and draw again, from the matches."""
    counts, n = np.zeros(len(run.metadata), np.uint64), len(run.metadata)
    files = sorted((run.matched / "matched").glob("*.parquet"))
    for path in files:
        for _, values, _ in matched_rows(path):
            add_ids(counts, values)
    fresh = {**make_account(run), "created": run.account["created"], "versions": run.account["versions"]}
    yield from (f"run: card.json, {line}" for line in compare(fresh, run.account))
    table = pq.read_table(run.matched / "counts.parquet")
    stated = table["count" if REMOVED not in run.match else "count_corrected"].to_numpy()
    if (counts != stated).any():
        yield f"run: {int((counts != stated).sum())} entries have another count than their matches"
    if REMOVED in run.match:
        yield from _removed_again(run, files, counts)
    tally, kept = Tally(n), np.zeros(3, np.uint64)
    drawn_by = run.counts.values if REMOVED in run.match else counts  # the parent's, which the account's digest holds
    probability, key = probabilities(drawn_by, run.t), stream_key(run.seed, 0)
    for path in files:
        for uids, values, offsets in matched_rows(path):
            _, keep = draw_rows(values, offsets, probability, uids, key, tally)
            kept += _sums(uids[keep])
    entries = run.entries
    for name, mine in (
        ("probability", probability),
        ("expected", (tally.expected >> np.uint64(32)) + (tally.expected & np.uint64(FIXED_POINT - 1)) / FIXED_POINT),
        ("kept", tally.kept),
    ):
        if (entries[name].to_numpy() != mine).any():
            yield f"run: entries.parquet, {name}: not what the matches give"
    subset = np.load(run.path / "curated.npy", mmap_mode="r", allow_pickle=False)
    theirs, last = np.zeros(3, np.uint64), (0, 0)
    for begin in range(0, len(subset), _BLOCK):
        block = np.ascontiguousarray(subset[begin : begin + _BLOCK]).view(np.uint64).reshape(-1, 2)
        theirs += _sums(block)
        high, low = np.concatenate([[last], block]).astype(np.uint64).T
        if ((high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] < low[:-1]))).any():
            yield "run: curated.npy is not sorted"
        last = (int(high[-1]), int(low[-1]))
    if (theirs != kept).any():
        yield "run: curated.npy does not hold the pairs that the draw keeps"
    written = np.zeros(3, np.uint64)
    for path in sorted((run.path / "curated").glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BLOCK, columns=["uid"], use_threads=False):
                written += _sums(column_uids(batch.column("uid")))
    if (written != kept).any():
        yield "run: curated/ does not hold the pairs that the draw keeps"


def _removed_again(run: Run, files: Sequence[Path], counts: npt.NDArray[np.uint64]) -> Iterator[str]:
    """Check what a run says of the pairs that were taken out: none is left, the list is that one, counts are less."""
    said = run.match[REMOVED]
    if counts_digest(counts) != said["counts_digest"]:
        yield "run: the corrected counts are not those of its record"
    if (counts > run.counts.values).any():
        yield "run: a corrected count is larger than its count"
    listed = removal.read_list(run.matched / removal.NAME)
    if removal.digest(listed) != said["versions"][-1]["digest"]:
        yield f"run: {removal.NAME} is not the list of its record"
    gone = removal.uid_set(listed)
    left = sum(int(gone.contains(uids).sum()) for path in files for uids, _, _ in matched_rows(path))
    if left:
        yield f"run: {left} matched rows are left of pairs that {removal.NAME} lists"


def _sums(uids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Sum up a set of uids, whatever its order: their number, and two hashes of each modulo 2^64."""
    sums = [hashes(seed, 0, uids).sum(dtype=np.uint64) for seed in (1, 2)]
    return np.array([len(uids), *sums], np.uint64)
