"""What a Balancer is made from: the counts, the list and the rule of a run, of a card, or of a pass over texts.

What is neither is refused with what it is and what to give instead.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.arguments import PATH, check_type
from metaclip.curate.draw import Thresholds
from metaclip.curate.run import Run
from metaclip.curate.schema import check_version
from metaclip.curate.settings import DEFAULT_TAIL_SHARE, MatchSettings
from metaclip.curate.tables import COUNTED, counts_digest, read_table, table_list
from metaclip.curate.threshold import (
    column_thresholds,
    entry_thresholds,
    scaled,
    solve_tail_share,
    vector_digest,
)
from metaclip.errors import MetaclipError, one_line
from metaclip.matching import Counts
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata
from metaclip.pool.files import CODECS, FORMATS
from metaclip.recipe import read
from metaclip.stage.folder import MANIFEST, STATE
from metaclip.storage.files import is_remote, read_json

COUNT_THEM: Final = "metaclip.curate.balancer.count_texts makes Counts from texts"
_POOL_ENDINGS: Final = tuple(end + codec for end in FORMATS for codec in ("", *CODECS))


@dataclasses.dataclass(frozen=True)
class BalancerSource:
    """What a Balancer is made from."""

    counts: npt.NDArray[np.uint64]
    metadata: Metadata
    rule: TextRule
    t: float | None = None
    thresholds: Thresholds | None = None
    """Of the entries; None for a source without t."""
    seed: int = 0
    columns: Sequence[Mapping[str, str | None]] = ({},)
    """The names of columns that were given when the pool, or those of several runs, were matched, by role; each once."""
    settings: MatchSettings = dataclasses.field(default_factory=MatchSettings)
    """How texts were matched; of them, only what a list with languages needs is asked for."""

    def thresholds_at(
        self, t: float | None, weight: npt.NDArray[np.float64] | None
    ) -> tuple[float, Thresholds]:
        """Return t (default: the source's, or that of the default tail share), and the thresholds of the entries at it.

        They are t times `weight`; without weights those of the source, moved by one factor, or t.
        """
        if t is None:
            factor = 1.0 if weight is None else weight
            t = self.t or solve_tail_share(self.counts, DEFAULT_TAIL_SHARE, factor)
        if weight is not None:
            return t, entry_thresholds(t, weight)
        if self.t is None or self.thresholds is None:
            return t, t
        return t, scaled(self.thresholds, self.t, t)


def open_source(
    source: Run | Counts | str | os.PathLike[str], metadata: Metadata | None, rule: TextRule = PAPER
) -> BalancerSource:
    """Open a run, a run's folder, a card's folder, or take Counts with their list and rule.

    Raise TypeError for an object, and MetaclipError for a path, that is none of these; the message says what it is.
    """
    if isinstance(source, Counts):
        return _from_counts(source, metadata, rule)
    if isinstance(source, Metadata | list | tuple):
        kind = "a query list" if isinstance(source, Metadata) else f"a {type(source).__name__}"
        raise TypeError(
            f"source is {kind}, which has no counts, must be a Run, the path of a run or a card, or Counts; {COUNT_THEM}"
        )
    check_type("source", source, Run | Counts | PATH)
    if not isinstance(source, Run):
        if not is_remote(path := os.fspath(source)):
            if not (Path(path) / MANIFEST).exists() and (Path(path) / "card.json").exists():
                return _read_card(Path(path))
            if (found := _describe(Path(path))) is not None:
                raise MetaclipError(f"{path} {found}")
        source = Run(source)
    t, thresholds, seed = (
        (None, None, 0) if source.balance is None else (source.t, source.thresholds, source.seed)
    )
    columns: list[Mapping[str, str | None]] = []
    for given in source.shard_columns.values():
        if given not in columns:
            columns.append(given)
    counts = source.counts.values
    return BalancerSource(
        counts, source.metadata, source.rule, t, thresholds, seed, columns, source.match_settings
    )


def _describe(path: Path) -> str | None:
    """Return what a path is that is neither a run nor a card, and what to give instead; None for what may be a run."""
    wanted = "balancing in a loader needs a run's folder or a card's"
    if not path.exists():
        return f"does not exist; {wanted}: check the path"
    if path.is_file():
        if path.name in ("card.json", MANIFEST, "counts.parquet", "entries.parquet"):
            return f"is a file; {wanted}: give {path.parent}"
        if _is_list(path):
            what, command = "query list", f"metaclip curate POOL --metadata {path} --out RUN"
        else:
            what, command = "file of a pool", f"metaclip curate {path} --out RUN"
        return f"is a {what}, which has no counts; {wanted}: {command} makes one"
    stages = _stages(path)
    if "train" in stages:
        balance = _trained_on(path)
        what = "" if balance is None else f", {balance}"
        return f"is a folder of metaclip train; {wanted}: give the run that it was trained with{what}"
    if stages & {"match", "balance"}:
        return None
    if path.name in ("curated", "matched") and _stages(path.parent) & {"match", "balance"}:
        return f"is a part of a run; {wanted}: give {path.parent}"
    if "reshard" in stages:
        return f"holds tars of metaclip reshard; {wanted}: give the run whose subset they are"
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    if files := [name for name in names if name.lower().endswith(_POOL_ENDINGS)]:
        return (
            f"is a pool ({files[0]}{', ...' if len(files) > 1 else ''}), which has no counts; {wanted}: "
            f"metaclip curate {path} --out RUN makes one"
        )
    held = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"is no run folder: it holds {held or 'nothing'}; {wanted}, which metaclip curate and metaclip card make"


def _is_list(path: Path) -> bool:
    """Return whether a file is a query list rather than a file of a pool."""
    if path.suffix.lower() != ".parquet":
        return not path.name.lower().endswith(_POOL_ENDINGS)
    try:
        return "entry" in pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return False


def _stages(folder: Path) -> set[str]:
    """Return the names of the stages that a folder has finished or begun."""
    begun = {path.name for path in (folder / STATE).glob("*") if path.is_dir()}
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
    finished = manifest.get("stages") if isinstance(manifest, dict) else None
    return begun | set(finished if isinstance(finished, dict) else ())


def _trained_on(folder: Path) -> str | None:
    """Return the run or card that a training folder's recipe names; None if it was trained without one."""
    try:
        balance = read(folder / "recipe.toml").get("train", {}).get("data", {}).get("balance")
    except (MetaclipError, AttributeError):
        return None
    return balance if isinstance(balance, str) else None


def _from_counts(counts: Counts, metadata: Metadata | None, rule: TextRule) -> BalancerSource:
    if metadata is None:
        raise MetaclipError(
            "counts alone do not say what was counted: give their metadata too (and rule)"
        )
    for name, mine, theirs in (
        ("list", counts.list_digest, metadata.digest),
        ("text rule", counts.rule_identity, rule.identity),
    ):
        if mine != theirs:
            raise MetaclipError(
                f"the counts are of the {name} {mine}, not of {theirs}; count again, or give that {name}"
            )
    return BalancerSource(counts.values, metadata, rule)


def _read_card(folder: Path) -> BalancerSource:
    """Read a published card: card.json and entries.parquet, whose digests must agree."""
    card, path = read_json(folder / "card.json"), folder / "entries.parquet"
    try:
        assert card is not None
        check_version(card["schema"]["version"], str(folder / "card.json"))
        table = read_table(path, COUNTED)
        metadata = table_list(table)
        counts = table["count"].to_numpy()
        balance, rule = card["balance"], TextRule(**card["rule"])
        t = float(balance["t"])
        thresholds = column_thresholds(table, t)
        stated = card["recipe"]["match"]
        settings = MatchSettings(
            **{name: stated[name] for name in MatchSettings().routing_names if name in stated}
        )
        found = BalancerSource(
            counts, metadata, rule, t, thresholds, int(balance["seed"]), settings=settings
        )
        digests = card["digests"]
        digests_stated = card["list"]["digest"], digests["counts"], digests.get("t")
    except (AssertionError, MetaclipError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise MetaclipError(
            f"{folder} is no card that can be read ({one_line(error)}); fetch it again"
        ) from None
    if (metadata.digest, counts_digest(counts), vector_digest(thresholds)) != digests_stated:
        raise MetaclipError(
            f"{path} does not hold the counts and thresholds that {folder / 'card.json'} names; fetch both again"
        )
    return found
