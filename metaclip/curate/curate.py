"""Both stages in one go."""

from __future__ import annotations

import os
from collections.abc import Iterable

from metaclip.curate.balance import balance
from metaclip.curate.match import lost_inputs_message, match
from metaclip.curate.run import Run
from metaclip.curate.settings import BalanceSettings, MatchSettings
from metaclip.errors import LostInputs, MetaclipError
from metaclip.metadata.entries import Metadata
from metaclip.pool.files import Paths
from metaclip.stage.options import RunOptions


def curate(
    pool: Paths,
    metadata: Metadata | str | os.PathLike[str] | Iterable[str] | None = None,
    *,
    out: str | os.PathLike[str],
    t: float | None = None,
    tail_share: float | None = None,
    target_pairs: int | None = None,
    seed: int = 0,
    match_settings: MatchSettings | None = None,
    balance_settings: BalanceSettings | None = None,
    options: RunOptions | None = None,
) -> Run:
    """Curate a pool into a run folder: match it, balance it, account for it.

    `pool` is a file, folder or glob of parquet, csv, jsonl or tars; `metadata` a query list (default: the shipped one). At
    most one of `t`, `tail_share` (default 0.06) and `target_pairs` is given. What an earlier call left in `out`
    is taken up. Raise MetaclipError for what the caller can mend, LostInputs where inputs were lost and
    `work.allow_lost` is not set. `balance_settings` stands for the four numbers, as a recipe has them.
    """
    options = options or RunOptions()
    try:
        settings = balance_settings or BalanceSettings(t, tail_share, target_pairs, seed)
    except ValueError as error:
        raise MetaclipError(str(error)) from None
    run = match(pool, metadata, out=out, settings=match_settings, options=options)
    if run.match["lost"] and not options.allow_lost:
        raise LostInputs(lost_inputs_message(run))
    return balance(run, settings=settings, options=options)
