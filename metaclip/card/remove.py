"""The next version of a run, with pairs taken out: matches and curated pairs without them, the parent's P and draws.

Made from the run folder alone; the pool may be gone. The new folder is a run like any other, restartable as one is: it
can be published, verified, and balanced at another t. Where it differs is in the record of its first stage: `removed`
says what went, and `count` is the parent's, since it is what probabilities are made of; `count_corrected` stands beside.

    removed.parquet      what went since the parent (`metaclip.card.removal`)
    counts.parquet       with a column `count_corrected`

Urls of pairs that were not drawn are known only in a run ``--with-text``; without, a url or domain is looked for among
the kept pairs, and the record says so. Cost: 3 us a pair, 10 M in 26 s on two cores.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.card import applying, removal
from metaclip.card.card import each
from metaclip.card.explorer.look_ups import url_column, url_files, urls_of
from metaclip.card.intact import check_intact
from metaclip.card.removal import Wanted
from metaclip.curate.account import has_account, remove_account, write_account
from metaclip.curate.balance import add_tallies, write_outputs
from metaclip.curate.balance_shard import Draw, ShardDraw
from metaclip.curate.curated_files import CuratedWriter
from metaclip.curate.draw import Tally, draw_rows
from metaclip.curate.match import add_counts, merge_uids
from metaclip.curate.match_shard import write_partials
from metaclip.curate.matched_files import MatchedWriter, matched_rows, write_counts
from metaclip.curate.run import Run, counts_digest, local_run
from metaclip.curate.settings import BalanceSettings, MatchSettings
from metaclip.curate.stages import BALANCE, MATCH
from metaclip.engine.contract import ProgressCallback
from metaclip.engine.local import Local
from metaclip.engine.progress import Progress
from metaclip.errors import MetaclipError
from metaclip.matching.count import add_ids
from metaclip.matching.matches import ids_of
from metaclip.pool import pool as pools
from metaclip.pool.sorted_uids import UidSet
from metaclip.pool.uid import Uids, column_uids, from_binary, to_hex
from metaclip.stage import funnel as funnels
from metaclip.stage.folder import Folder
from metaclip.stage.options import RunOptions
from metaclip.stage.runner import StageStep, Task, run
from metaclip.stage.stage import Stage, digest_of
from metaclip.storage.files import disk_errors, iter_local_copies, local_copy

MATCH_LEFT: Final = dataclasses.replace(
    MATCH, outputs=(*MATCH.outputs, removal.NAME), partials=(*MATCH.partials, "*.removed.parquet")
)
"""The first stage of a next version: it writes the list of what went, too."""
_NONE: Final = np.zeros((0, 2), np.uint64)
_MOST_WORKERS: Final = 4


def remove(
    run: Run | str | os.PathLike[str], wanted: Wanted, out: str | os.PathLike[str], options: RunOptions | None = None
) -> Run:
    """Make the next version of a balanced run without the pairs that are asked for, or go on where a call stopped.

    Raise MetaclipError where none of them is in the run, where the run is not balanced or not as it was written, and
    for an `out` that holds another run.
    """
    parent, options, folder = run if isinstance(run, Run) else Run(run), options or RunOptions(), Folder(out)
    if folder.path.resolve() in (parent.path.resolve(), parent.matched.path.resolve()):
        raise MetaclipError(f"{folder.path} is the run itself; choose another --out for its next version")
    with disk_errors(folder.path), local_run(parent) as near:
        check_intact(near)
        with folder.owned(), parent.matched.held():
            first, second = Stage(folder, MATCH_LEFT), Stage(folder, BALANCE)
            fingerprint = {"semantics": MATCH.semantics, "parent": _digest_of(near), "wanted": wanted.digest}
            if first.begin(fingerprint, options.overwrite):
                second.clear()
            if first.finished() is None:
                _match(near, wanted, first, options)
            first.tidy()
            _balance(near, Run(folder.path), second, options)
            second.tidy()
            if not has_account(folder.path):
                write_account(Run(folder.path))
    return Run(folder.path)


def apply(
    removed: str | os.PathLike[str], copy: str | os.PathLike[str], out: str | os.PathLike[str]
) -> tuple[int, int]:
    """Take a card's removed.parquet out of a copy of the set; see `metaclip.card.applying`."""
    with disk_errors(Folder(out).path):
        return applying.apply(Path(removed), Path(copy), Path(out))


def _digest_of(run: Run) -> str:
    return str(run.account["result_digest"])


def _names(run: Run) -> list[str]:
    return [shard["name"] for shard in run.match["shards"]]


def _match(parent: Run, wanted: Wanted, stage: Stage, options: RunOptions) -> None:
    """Write the matches without the uids that go, the list of these, and the stage's record."""
    going, found = _named(parent, wanted, options)
    asked, folder, names = UidSet(wanted.uids), stage.folder, _names(parent)
    draw = Draw.of(parent.counts.values, parent.t, parent.seed, _NONE)

    def step(name: str, progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        marker = _match_shard(parent, name, going, asked, draw, stage)
        return marker, [folder / "matched" / f"{name}.parquet", *stage.partials(name)]

    markers = _run(step, names, stage, options)
    pairs = sum(marker["pairs"] for marker in markers)
    if not pairs:
        shown = ", ".join(f"{n:,} {what}" for what, n in wanted.asked.items() if n)
        raise MetaclipError(
            f"none of what is asked to be taken out ({shown}) is in {parent.path}; urls are compared letter by letter "
            "as the pool writes them"
        )
    stage.remove_strays("matched", names)
    lists = [stage.partials(name)[-1] for name in names]
    removed = removal.merge(pq.read_table(path) for path in iter_local_copies(lists))
    removal.write_list(folder / removal.NAME, removed)
    corrected = add_counts(stage, names, parent.metadata, parent.rule, options)
    repeated, repeats = merge_uids(stage, names)
    write_counts(folder / "counts.parquet", parent.metadata, parent.counts, corrected)
    match, made = parent.match, parent.matched.manifest
    earlier = match.get("removed", {"versions": [], "pairs": 0})
    version = {
        "parent": _digest_of(parent),
        "asked": wanted.asked,
        "found": {"uids": len({uid for marker in markers for uid in marker["asked"]}), **found},
        "urls": urls_of(parent),
        "pairs": pairs,
        "kept": sum(marker["kept"] for marker in markers),
        "digest": removal.digest(removed),
    }
    funnel = {**match["funnel"], "matched": match["funnel"]["matched"] - pairs, "removed": earlier["pairs"] + pairs}
    same = ("semantics", "list", "rule", "columns", "counts_digest", "lost", "wanted", "shards")
    record = {
        **{key: match[key] for key in same},
        "identity": digest_of({"parent": match["identity"], "fingerprint": stage.digest}),
        "funnel": funnel,
        "duplicates": {"uids": repeated, "rows": repeats},
        "removed": {
            "versions": [*earlier["versions"], version],
            "pairs": funnel["removed"],
            "count": int(corrected.values.sum()),
            "counts_digest": counts_digest(corrected.values),
        },
    }
    stage.finish(
        record, funnel=funnel, settings={"match": made["settings"]["match"]},
        **{key: made[key] for key in ("schema", "inputs", "versions", "list", "rule")},
    )  # fmt: skip


def _named(parent: Run, wanted: Wanted, options: RunOptions) -> tuple[UidSet, dict[str, int]]:
    """Find the uids that go: (they, how many of the urls and domains that were asked for have a pair)."""
    uids, urls, domains = [wanted.uids], set[str](), set[str]()

    def look(path: Path) -> tuple[Uids, set[str], set[str]]:
        local_copy, seen, above = [_NONE], set[str](), set[str]()
        with pq.ParquetFile(path) as file:
            if (name := url_column(parent, file.schema_arrow, path)) is not None:
                for batch in file.iter_batches(pools.BATCH_ROWS, columns=["uid", name], use_threads=False):
                    rows, some_urls, some_domains = removal.wanted_rows(batch.column(name), wanted)
                    local_copy.append(column_uids(batch.column("uid"))[rows])
                    seen, above = seen | some_urls, above | some_domains
        return np.concatenate(local_copy), seen, above

    if wanted.urls or wanted.domains:
        for more, seen_urls, seen_domains in each(look, url_files(parent), options):
            uids.append(more)
            urls, domains = urls | seen_urls, domains | seen_domains
    going = np.unique(np.concatenate(uids), axis=0)
    return UidSet(going), {"urls": len(urls), "domains": len(domains)}


def _match_shard(parent: Run, name: str, going: UidSet, asked: UidSet, draw: Draw, stage: Stage) -> dict[str, Any]:
    """Write one shard's matches without the uids that go, and what went; give its marker."""
    target = stage.folder / "matched" / f"{name}.parquet"
    counts, stays, known = np.zeros(len(draw.probability), np.uint64), [_NONE], [_NONE]
    undrawn, pairs, kept = [], 0, 0
    with pq.ParquetFile(parent.matched / "matched" / f"{name}.parquet") as file:
        with_text = "text" in file.schema_arrow.names
        with MatchedWriter.to(target, with_text) as writer:
            for batch in file.iter_batches(pools.BATCH_ROWS, use_threads=False):
                uids = from_binary(batch.column("uid"))
                goes = going.contains(uids)
                left, gone = batch.filter(pa.array(~goes)), batch.filter(pa.array(goes))
                if len(left):
                    texts = (left.column("url"), left.column("text")) if with_text else (None, None)
                    rows = left.column("row").to_numpy().astype(np.int64)
                    writer.write(rows, uids[~goes], left.column("matches"), *texts)
                add_ids(counts, left.column("matches").flatten().to_numpy())
                stays.append(uids[~goes])
                known.append(uids[goes][asked.contains(uids[goes])])
                _, drawn = draw_rows(
                    *ids_of(gone.column("matches")), draw.probability, uids[goes], draw.key, Tally(len(counts))
                )
                urls = gone.column("url").filter(pa.array(~drawn)) if with_text else None
                undrawn.append(removal.list_of(uids[goes][~drawn], urls, kept=False))
                pairs, kept = pairs + int(goes.sum()), kept + int(drawn.sum())
    listed = list(_went_curated(parent, name, going))
    if kept != (held := sum(map(len, listed))):
        raise MetaclipError(
            f"{parent.path / 'curated' / name}.parquet holds {held} of the pairs to take out where the draw keeps {kept}; "
            "it is not what the run wrote: balance it again"
        )
    write_partials(stage, name, counts, stays)
    removal.write_list(stage.path / f"{name}.removed.parquet", removal.merge([*undrawn, *listed]))
    return {"pairs": pairs, "kept": kept, "asked": to_hex(np.unique(np.concatenate(known), axis=0)).to_pylist()}


def _went_curated(parent: Run, name: str, going: UidSet) -> Iterable[pa.Table]:
    """List what goes of one file of curated/; there is none of a shard of which nothing was kept."""
    path = parent.path / "curated" / f"{name}.parquet"
    if not path.exists():
        return
    with pq.ParquetFile(path) as file:
        url = url_column(parent, file.schema_arrow, path)
        columns = ["uid"] if url is None else ["uid", url]
        for batch in file.iter_batches(pools.BATCH_ROWS, columns=columns, use_threads=False):
            uids = column_uids(batch.column("uid"))
            goes = going.contains(uids)
            urls = None if url is None else batch.column(url).filter(pa.array(goes))
            yield removal.list_of(uids[goes], urls, kept=True)


def _balance(parent: Run, run: Run, stage: Stage, options: RunOptions) -> None:
    """Draw again what is left, from the parent's counts; write curated/ without what went, and the stage's record."""
    folder, settings = stage.folder, BalanceSettings(t=parent.t, seed=parent.seed)
    asked = {"t": settings.t, "tail_share": None, "target_pairs": None}  # as chain.balance has it: t is solved
    fingerprint = {"semantics": BALANCE.semantics, "match": run.match["identity"], **asked, "seed": settings.seed}
    stage.begin(fingerprint, options.overwrite)
    if stage.finished() is not None:
        return
    remove_account(folder.path)
    going = removal.uid_set(removal.read_list(folder / removal.NAME))
    with local_copy(folder / "duplicates.npy") as local:
        draw = Draw.of(run.counts.values, parent.t, parent.seed, np.load(local, allow_pickle=False))
    (folder / "curated").mkdir(exist_ok=True)

    def step(name: str, progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        path = folder / "curated" / f"{name}.parquet"
        marker = _draw_shard(folder / "matched" / f"{name}.parquet", name, draw, stage)
        left = _filter_curated(parent.path / "curated" / f"{name}.parquet", path, going)
        if left != marker["funnel"]["kept"]:
            raise MetaclipError(
                f"{parent.path / 'curated' / name}.parquet holds {left} of the pairs that stay where the draw keeps "
                f"{marker['funnel']['kept']}; it is not what the run wrote: balance it again"
            )
        return marker, [path, *stage.partials(name)]

    names = _names(run)
    markers = _run(step, names, stage, options)
    stage.remove_strays("curated", names)
    summed = add_tallies(stage, names, len(run.counts.values), options)
    of_shard = dict(zip(names, markers, strict=True))
    result = write_outputs(stage, run.metadata, run.counts, parent.t, summed, of_shard)
    funnel = funnels.add(marker["funnel"] for marker in markers)
    match_settings = run.manifest["settings"]["match"]
    folder.write_recipe({"match": MatchSettings(**{**match_settings, "rule": run.rule}), "balance": settings})
    record = {
        "semantics": BALANCE.semantics,
        "match": dict.fromkeys(("folder", "beside", "record")),
        "t": parent.t,
        "asked": parent.balance["asked"] if parent.balance else "",
        "seed": settings.seed,
        "expected": result.expected,
        "deviation": result.deviation,
        "kept": result.kept,
        "funnel": funnel,
    }
    stage.finish(record, settings=parent.manifest["settings"], funnel={**run.match["funnel"], **funnel})


def _draw_shard(path: Path, name: str, draw: Draw, stage: Stage) -> dict[str, Any]:
    """Draw one shard's matches again and leave what `metaclip.curate.balance.write_outputs` adds up; give its marker."""
    drawing = ShardDraw(draw)
    for uids, values, offsets in matched_rows(path):
        drawing.rows(uids, values, offsets)
    return drawing.write(stage, name)


def _filter_curated(source: Path, target: Path, going: UidSet) -> int:
    """Write a file of curated/ without the uids that go; give how many rows are left."""
    left = 0
    with CuratedWriter(target) as writer:
        if source.exists():
            with pq.ParquetFile(source) as file:
                for batch in file.iter_batches(pools.BATCH_ROWS, use_threads=False):
                    stays = batch.filter(pa.array(~going.contains(column_uids(batch.column("uid")))))
                    if len(stays):
                        writer.write([pa.Table.from_batches([stays])])
                    left += len(stays)
    return left


def _run(step: StageStep[str], names: list[str], stage: Stage, options: RunOptions) -> list[dict[str, Any]]:
    """Run a step in threads on the shards that are not marked; return all markers."""
    tasks = [Task(name, name) for name in names if stage.marker(name) is None]
    here = dataclasses.replace(options, engine=Local(min(options.threads, _MOST_WORKERS)))
    with Progress("remove", len(tasks), options.progress) as progress:
        for _ in run(stage, step, tasks, here, progress):
            progress.advance(1, 0)
    return [stage.marker(name) or {} for name in names]
