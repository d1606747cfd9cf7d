"""`curate`: both stages of a run in one call."""

from __future__ import annotations

import os

from metaclip.arguments import ArrowTable, check_types
from metaclip.curate.balance import balance_matches, check_settings
from metaclip.curate.match import lost_inputs_message, match, read_metadata
from metaclip.curate.run import Run
from metaclip.curate.settings import BalanceSettings, MatchSettings
from metaclip.curate.weights import EntryWeights, WeightsLike
from metaclip.errors import LostInputs
from metaclip.metadata import MetadataLike
from metaclip.pool.files import Paths
from metaclip.stage.runner import RunOptions


def curate(
    pool: Paths | ArrowTable,
    metadata: MetadataLike | None = None,
    *,
    out: str | os.PathLike[str],
    t: float | None = None,
    tail_share: float | None = None,
    target_pairs: int | None = None,
    seed: int = 0,
    weights: WeightsLike | None = None,
    t_by_language: str | None = None,
    t_language: dict[str, float] | None = None,
    settings: MatchSettings | None = None,
    options: RunOptions | None = None,
) -> Run:
    """Match a pool, balance it and write its account; return the run. Continue if an earlier call stopped.

    `pool` is a file, folder or glob of parquet, csv, jsonl or tars, a list of these, or a table of any library that speaks
    Arrow; a table is written to ``pool.parquet`` in the run folder, because balancing reads it again, also later.
    `metadata` is a query list (default: the shipped one); `out` is the run folder. At most one of `t`, `tail_share`
    (default 0.06) and `target_pairs` is given; `weights` are factors on t by entry, and `t_by_language` and `t_language` say
    what t is of the languages of a list that has some, as in `balance`. Raise MetaclipError for
    what the caller can correct, LostInputs if inputs cannot be read and `options.allow_lost` is not set.

    >>> from metaclip import curate
    >>> run = curate("curation/toy_pool.jsonl", "metadata/toy.txt", t=20, out="run")
    >>> run
    Run('run': 312 kept of 338 matched pairs, t = 20)
    >>> run.curated.column_names
    ['url', 'text', 'uid', 'matches', 'keep_probability']
    >>> import pyarrow as pa
    >>> curate(pa.table({"text": ["a dog", "a cat", "two dogs"]}), ["dog", "cat"], t=1, out="small_run")
    Run('small_run': 2 kept of 2 matched pairs, t = 1)
    """
    check_types(options=(options, RunOptions | None))
    options = options or RunOptions()
    draw = BalanceSettings(
        t, tail_share, target_pairs, seed, t_by_language=t_by_language, t_language=t_language
    )
    entry_weights = None if weights is None else EntryWeights.of(weights)
    if entry_weights is not None or any(value is not None for value in draw.by_language.values()):
        entries, _ = read_metadata(metadata, settings or MatchSettings())
        check_settings(draw, entry_weights, entries)  # before hours of matching
        if metadata is not None and not isinstance(metadata, str | os.PathLike):
            metadata = entries  # an iterator can be read once
    run = match(pool, metadata, out=out, settings=settings, options=options)
    if run.match["lost"] and not options.allow_lost:
        raise LostInputs(lost_inputs_message(run))
    return balance_matches(run, run.folder, draw, options, entry_weights)
