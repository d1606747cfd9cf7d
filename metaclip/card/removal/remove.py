"""The next version of a run, without the pairs of a request: matches and curated pairs without them, the parent's P and draws.

Made from the run folder alone; the pool may be gone. The new folder is a run like any other and can be resumed like one:
it can be published, verified, and balanced at another t. Probabilities are computed from counts, so `count` stays the
parent's and no other pair's P or draw changes; the record of the first stage says in `removed` what went.

    removed.parquet      the pairs taken out since the parent (`metaclip.card.removal.removed_list`)
    counts.parquet       with a column `count_corrected`, the counts of the pairs that are left

Urls of pairs that were not drawn are known only in a run ``--with-text``; without, a url or domain is searched for among
the kept pairs, and the record says so. Cost: 3 us a pair, 10 M in 26 s on two cores.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from metaclip.card.removal.removed_list import (
    REMOVED_LIST,
    list_digest,
    list_rows,
    listed_uids,
    merge_lists,
    read_list,
    write_list,
)
from metaclip.card.removal.request import RemovalRequest
from metaclip.card.run_files import (
    check_unedited,
    find_column,
    limited_engine,
    map_files,
    pairs_with_urls,
    url_files,
)
from metaclip.curate.account import has_account, remove_account, write_account
from metaclip.curate.balance import balance_fingerprint
from metaclip.curate.balance_outputs import add_entry_sums, write_outputs
from metaclip.curate.balance_shard import DrawParameters, ShardDraw
from metaclip.curate.draw import DrawSums, draw_rows
from metaclip.curate.match_shard import add_counts, merge_uids, write_partials
from metaclip.curate.run import Run, RunLike, local_run, open_run
from metaclip.curate.settings import BALANCE, MATCH, REMOVED, SHARD_DRAWN, BalanceSettings
from metaclip.curate.tables import (
    counts_digest,
    curated_writer,
    matched_rows,
    matched_writer,
    read_pairs,
    write_counts,
)
from metaclip.engine import Progress, ProgressCallback
from metaclip.errors import MetaclipError
from metaclip.matching import add_ids, ids_and_offsets
from metaclip.pool.sorted_uids import UidSet, load_array
from metaclip.pool.uid import Uids, column_uids, from_binary, to_hex
from metaclip.stage.folder import Folder
from metaclip.stage.runner import Marker, RunOptions, StageStep, Task, run
from metaclip.stage.stage import Size, Stage, add_funnels, check_bytes, digest_of, marker_kind
from metaclip.storage.files import disk_errors, local_copy

MATCH_LEFT: Final = dataclasses.replace(
    MATCH, outputs=(*MATCH.outputs, REMOVED_LIST), partials=(*MATCH.partials, "*.removed.parquet")
)
"""The first stage of a next version, which writes the list of removed pairs too."""
_LEFT: Final = marker_kind(pairs=Size, kept=Size, asked=list[str])
"""The kind of the markers of the first stage."""
_NO_UIDS: Final = np.zeros((0, 2), np.uint64)


def remove(
    run: RunLike,
    request: RemovalRequest,
    out: str | os.PathLike[str],
    options: RunOptions | None = None,
) -> Run:
    """Make the next version of a balanced run without the requested pairs, or continue where a call stopped.

    Raise MetaclipError if none of them is in the run, if the run is not balanced or was edited, and for an `out` that
    holds another run.
    """
    parent, options, folder = open_run(run), options or RunOptions(), Folder(out)
    if folder.path.resolve() in (parent.path.resolve(), parent.matched.path.resolve()):
        raise MetaclipError(
            f"{folder.path} is the run itself; choose another `out=...` for its next version"
        )
    with disk_errors(folder.path), local_run(parent) as near:
        check_unedited(near)
        with folder.owned(), parent.matched.read_locked():
            match, balance = Stage(folder, MATCH_LEFT), Stage(folder, BALANCE)
            parent_digest = str(near.account["result_digest"])
            fingerprint = {
                "semantics": MATCH.semantics,
                "parent": parent_digest,
                "wanted": request.digest,
            }
            names = {"parent": f"the run {parent.path}", "wanted": "what is asked to be taken out"}
            if match.begin(fingerprint, options.overwrite, names=names):
                balance.clear()
            if match.finished() is None:
                _match(near, parent_digest, request, match, options)
            match.remove_partials()
            _balance(near, Run(folder.path), balance, options)
            balance.remove_partials()
            if not has_account(folder.path):
                write_account(Run(folder.path))
    return Run(folder.path)


def _run_shards(
    step: StageStep[str], names: list[str], stage: Stage, kind: Any, options: RunOptions
) -> dict[str, Marker]:
    """Run a step in threads on the shards that are not finished; return the markers of all shards by name."""
    tasks = [Task(name, name) for name in names if stage.marker(name, kind) is None]
    options = dataclasses.replace(options, engine=limited_engine(options))
    with Progress("remove", len(tasks), options.progress, unit="shards") as progress:
        for _ in run(stage, step, tasks, options, progress):
            progress.advance(1, 0)
    return {name: stage.marker(name, kind) or {} for name in names}


def _match(
    parent: Run, parent_digest: str, request: RemovalRequest, stage: Stage, options: RunOptions
) -> None:
    """Write the matches without the requested pairs, the list of these, and the record of the first stage."""
    removed_uids, found = _find_uids(parent, request, options)
    requested, folder, match = UidSet(request.uids), stage.folder, parent.match
    names = [shard["name"] for shard in match["shards"]]
    draw = DrawParameters.of(parent.counts.values, parent.thresholds, parent.seed, _NO_UIDS, {})

    def step(name: str, progress: ProgressCallback) -> tuple[Marker, list[Path]]:
        marker = _match_shard(parent, name, removed_uids, requested, draw, stage)
        return marker, [folder / "matched" / f"{name}.parquet", *stage.partials(name)]

    markers = _run_shards(step, names, stage, _LEFT, options).values()
    pairs = sum(marker["pairs"] for marker in markers)
    if not pairs:
        stage.clear()
        shown = ", ".join(f"{n:,} {what}" for what, n in request.sizes.items() if n)
        raise MetaclipError(
            f"none of what is asked to be taken out ({shown}) is in {parent.path}; urls are compared letter by letter "
            "as the pool writes them"
        )
    stage.remove_strays("matched", names)
    removed = merge_lists(read_list(stage.partial(name, "removed.parquet")) for name in names)
    write_list(folder / REMOVED_LIST, removed)
    corrected = add_counts(stage, names, parent.metadata, parent.rule, options)
    repeated, repeats = merge_uids(stage, names)
    write_counts(folder / "counts.parquet", parent.metadata, parent.counts, corrected)
    earlier, manifest = match.get(REMOVED, {"versions": [], "pairs": 0}), parent.matched_manifest
    version = {
        "parent": parent_digest,
        "asked": request.sizes,
        "found": {"uids": len({uid for marker in markers for uid in marker["asked"]}), **found},
        "urls": pairs_with_urls(parent),
        "pairs": pairs,
        "kept": sum(marker["kept"] for marker in markers),
        "digest": list_digest(removed),
    }
    funnel = {
        **match["funnel"],
        "matched": match["funnel"]["matched"] - pairs,
        REMOVED: earlier["pairs"] + pairs,
    }
    same = ("semantics", "list", "rule", "columns", "counts_digest", "lost", "wanted", "shards")
    record = {
        **{key: match[key] for key in (*same, "runs", "images", "texts") if key in match},
        "identity": digest_of({"parent": match["identity"], "fingerprint": stage.digest}),
        "funnel": funnel,
        "duplicates": {"uids": repeated, "rows": repeats},
        REMOVED: {
            "versions": [*earlier["versions"], version],
            "pairs": funnel[REMOVED],
            "count": int(corrected.values.sum()),
            "counts_digest": counts_digest(corrected.values),
        },
    }
    stage.finish(
        record, checked=("counts.parquet", "duplicates.npy"), funnel=funnel, settings={"match": manifest["settings"]["match"]},
        **{key: manifest[key] for key in ("schema", "inputs", "versions", "list", "rule")},
    )  # fmt: skip


def _find_uids(
    parent: Run, request: RemovalRequest, options: RunOptions
) -> tuple[UidSet, dict[str, int]]:
    """Find the uids to take out: (they, the numbers of requested urls and domains that have a pair)."""

    def search(path: Path) -> tuple[Uids, set[str], set[str]]:
        uids, urls, domains = [_NO_UIDS], set[str](), set[str]()
        if (name := find_column(parent, path, "url")) is not None:
            for batch in read_pairs(path, ["uid", name]):
                rows, some_urls, some_domains = request.find(batch.column(name))
                uids.append(column_uids(batch.column("uid"))[rows])
                urls, domains = urls | some_urls, domains | some_domains
        return np.concatenate(uids), urls, domains

    files = url_files(parent) if request.urls or request.domains else []
    with Progress("search urls", len(files), options.progress, unit="files") as progress:
        results = list(map_files(search, files, options, progress))
    uids = np.unique(np.concatenate([request.uids, *(result[0] for result in results)]), axis=0)
    urls, domains = (len(set().union(*(result[i] for result in results))) for i in (1, 2))
    return UidSet(uids), {"urls": urls, "domains": domains}


def _match_shard(
    parent: Run, name: str, removed: UidSet, requested: UidSet, draw: DrawParameters, stage: Stage
) -> Marker:
    """Write one shard's matches without the uids in `removed`, and the list of its removed pairs; return its marker."""
    counts, uids_left, uids_requested = np.zeros(len(draw.probability), np.uint64), [_NO_UIDS], [_NO_UIDS]
    lists, pairs, kept = [], 0, 0
    source = parent.matched / "matched" / f"{name}.parquet"
    with_text = find_column(parent, source, "text") is not None
    with matched_writer(stage.folder / "matched" / f"{name}.parquet", with_text) as add_rows:
        for batch in read_pairs(source):
            uids = from_binary(batch.column("uid"))
            goes = removed.contains(uids)
            left, gone, gone_uids = (
                batch.filter(pa.array(~goes)),
                batch.filter(pa.array(goes)),
                uids[goes],
            )
            if len(left):
                texts = (left.column("url"), left.column("text")) if with_text else (None, None)
                rows = left.column("row").to_numpy().astype(np.int64)
                add_rows(rows, uids[~goes], left.column("matches"), *texts)
            add_ids(counts, left.column("matches").flatten().to_numpy())
            uids_left.append(uids[~goes])
            uids_requested.append(gone_uids[requested.contains(gone_uids)])
            matches = ids_and_offsets(gone.column("matches"))
            _, drawn = draw_rows(*matches, draw.probability, gone_uids, draw.key, DrawSums(len(counts)))
            urls = gone.column("url").filter(pa.array(~drawn)) if with_text else None
            lists.append(list_rows(gone_uids[~drawn], urls, kept=False))
            pairs, kept = pairs + len(gone), kept + int(drawn.sum())
    curated = list(_list_curated(parent, name, removed))
    if kept != (held := sum(map(len, curated))):
        raise MetaclipError(
            f"{parent.path / 'curated' / name}.parquet holds {held} of the pairs to take out where the draw keeps {kept}; "
            "it is not what the run wrote: balance it again"
        )
    write_partials(stage, name, counts, uids_left)
    write_list(stage.path / f"{name}.removed.parquet", merge_lists([*lists, *curated]))
    found = to_hex(np.unique(np.concatenate(uids_requested), axis=0)).to_pylist()
    return {"pairs": pairs, "kept": kept, "asked": found}


def _list_curated(parent: Run, name: str, removed: UidSet) -> Iterator[pa.Table]:
    """Yield rows of removed.parquet for one file of curated/; a shard of which nothing was kept has none."""
    path = parent.path / "curated" / f"{name}.parquet"
    if not path.exists():
        return
    url = find_column(parent, path, "url")
    for batch in read_pairs(path, ["uid"] if url is None else ["uid", url]):
        uids = column_uids(batch.column("uid"))
        goes = removed.contains(uids)
        urls = None if url is None else batch.column(url).filter(pa.array(goes))
        yield list_rows(uids[goes], urls, kept=True)


def _balance(parent: Run, run: Run, stage: Stage, options: RunOptions) -> None:
    """Draw the pairs that are left by the parent's counts; write curated/ without removed pairs, and the stage's record."""
    folder, thresholds = stage.folder, parent.thresholds
    parent_record, parent_settings = parent.balance or {}, parent.manifest["settings"]
    by_language = {
        name: parent_settings["balance"].get(name) for name in ("weights", "t_by_language", "t_language")
    }
    if parent.metadata.languages:  # none of them is solved again
        by_language["t_language"] = parent_record["t"]["languages"]
    settings = BalanceSettings(t=parent.t, seed=parent.seed, **by_language)
    # As `balance` writes it for a given t.
    weights_digest = parent_record["t"]["weights"] if parent.t_by else None
    stage.begin(balance_fingerprint(run, settings, weights_digest), options.overwrite)
    if stage.finished() is not None:
        return
    remove_account(folder.path)
    removed = listed_uids(read_list(folder / REMOVED_LIST))
    with local_copy(folder / "duplicates.npy") as local:
        check_bytes(local, "duplicates.npy", run.match)
        draw = DrawParameters.of(
            run.counts.values, thresholds, parent.seed, load_array(local), run.metadata.languages
        )
    (folder / "curated").mkdir(exist_ok=True)

    def step(name: str, progress: ProgressCallback) -> tuple[Marker, list[Path]]:
        source, target = (
            parent.path / "curated" / f"{name}.parquet",
            folder / "curated" / f"{name}.parquet",
        )
        drawing = ShardDraw(draw)
        for uids, values, offsets in matched_rows(folder / "matched" / f"{name}.parquet"):
            drawing.draw(uids, values, offsets)
        marker = drawing.write(stage, name)
        if (left := _filter_curated(source, target, removed)) != (kept := marker["funnel"]["kept"]):
            raise MetaclipError(
                f"{source} holds {left} of the pairs that stay where the draw keeps {kept}; it is not what the run wrote: "
                "balance it again"
            )
        return marker, [target, *stage.partials(name)]

    names = [shard["name"] for shard in run.match["shards"]]
    markers = _run_shards(step, names, stage, SHARD_DRAWN, options)
    stage.remove_strays("curated", names)
    sums = add_entry_sums(stage, names, len(run.counts.values), options)
    totals = write_outputs(stage, run.metadata, run.counts, thresholds, sums, markers)
    funnel = add_funnels(marker["funnel"] for marker in markers.values())
    folder.write_recipe({"match": run.match_settings, "balance": settings})
    record = {
        "semantics": BALANCE.semantics,
        "match": dict.fromkeys(("folder", "beside", "record")),
        "t": parent_record["t"],
        "asked": parent_record["asked"],
        "seed": settings.seed,
        **totals,
        "funnel": funnel,
    }
    stage.finish(
        record,
        checked=("entries.parquet", "curated.npy"),
        settings=parent_settings,
        funnel={**run.match["funnel"], **funnel},
    )


def _filter_curated(source: Path, target: Path, removed: UidSet) -> int:
    """Write a file of curated/ without the uids in `removed`; return the number of rows left."""
    left = 0
    with curated_writer(target) as add_table:
        for batch in read_pairs(source) if source.exists() else ():
            stays = batch.filter(pa.array(~removed.contains(column_uids(batch.column("uid")))))
            if len(stays):
                add_table(pa.Table.from_batches([stays]))
            left += len(stays)
    return left
