"""What determines a run: its two stages, the tables [match] and [balance] of a recipe, and the threshold t that they ask for."""

from __future__ import annotations

import bisect
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from metaclip.arguments import check_fields
from metaclip.curate.draw import Thresholds
from metaclip.errors import BadSetting, MetaclipError
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata
from metaclip.pool.files import FORMATS, PoolFile
from metaclip.pool.shards import UNQUOTED
from metaclip.stage.stage import Lost, Record, Size, StageSpec, funnel_kind, marker_kind

DEFAULT_TAIL_SHARE: Final = 0.06


@dataclasses.dataclass(frozen=True)
class MatchSettings:
    """What determines the matches of a pool: the table [match] of a recipe.

    >>> from metaclip import MatchSettings, TextRule, match
    >>> settings = MatchSettings(text_column="text", limit=100, rule=TextRule(fold_case=True))
    >>> match("curation/toy_pool.jsonl", ["dog", "cat"], out="first_rows", settings=settings).match["funnel"]["rows"]
    100
    """

    metadata: str | None = None
    """The query list: a txt, json or parquet file, maybe gzipped."""
    fold_duplicates: bool = False
    """Keep the first of entries that the list has twice, instead of refusing the list."""
    text_column: str | None = None
    """Name of the text column, where it is not text, caption or alt."""
    url_column: str | None = None
    """Name of the url column, where it is not url."""
    uid_column: str | None = None
    """Name of the uid column, where it is not uid."""
    quoting: str | None = None
    """Of csv and tsv: "none" takes quotes as ordinary characters; "auto", the default, finds out what they are."""
    limit: int | None = None
    """Number of rows of the pool to read; None for all."""
    with_text: bool = False
    """Write url and text to matched/ too."""
    rule: TextRule = PAPER

    def __post_init__(self) -> None:
        check_fields(self)
        if self.limit is not None and self.limit < 1:
            raise BadSetting(f"limit is {self.limit}, must be at least 1")
        if self.quoting not in (None, "auto", "none"):
            raise BadSetting(f"quoting is {self.quoting!r:.80}, must be 'auto' or 'none'")

    @property
    def record(self) -> dict[str, Any]:
        """The settings as manifests and cards have them; quoting, which earlier records lack, only if it is given."""
        record = dataclasses.asdict(self)
        return {name: value for name, value in record.items() if name != "quoting" or value is not None}

    @property
    def columns(self) -> dict[str, str | None]:
        """The names of columns that are given, by role."""
        return {"text": self.text_column, "url": self.url_column, "uid": self.uid_column}

    def fingerprint(self, metadata: Metadata, files: Sequence[PoolFile]) -> dict[str, Any]:
        """Return everything that determines the stage's result, except the bytes of the inputs, which markers hold."""
        return {
            "semantics": MATCH.semantics,
            "list": metadata.digest,
            "rule": dataclasses.asdict(self.rule),
            "columns": self.columns,
            "limit": self.limit,
            "with_text": self.with_text,
            "pool": [file.name for file in files],
            **({"quoting": "none"} if self.quoting == "none" else {}),
        }


@dataclasses.dataclass(frozen=True)
class BalanceSettings:
    """What determines the draw: the table [balance] of a recipe; at most one of t, tail_share, target_pairs."""

    t: float | None = None
    """The threshold: entries with a larger count are thinned."""
    tail_share: float | None = None
    """Solve t so that the entries below it hold this share of all counts (0.06 if nothing is given)."""
    target_pairs: int | None = None
    """Solve t so that this many pairs are expected."""
    seed: int = 0
    weights: str | None = None
    """A csv or parquet file with the columns entry and weight: t[e] = t * weight[e]."""

    def __post_init__(self) -> None:
        check_fields(self)
        given = [f"{name} = {value}" for name, value in self._thresholds.items() if value is not None]
        if len(given) > 1:
            raise BadSetting(f"{' and '.join(given)} are given, must be one of them")
        if self.t is not None and not (self.t > 0 and math.isfinite(self.t)):
            raise BadSetting(f"t is {self.t:g}, must be a finite number above 0")
        if self.tail_share is not None and not 0 <= self.tail_share < 1:
            raise BadSetting(f"tail_share is {self.tail_share:g}, must be at least 0 and below 1")
        if self.target_pairs is not None and self.target_pairs < 1:
            raise BadSetting(f"target_pairs is {self.target_pairs}, must be at least 1")
        if not 0 <= self.seed < 1 << 64:
            raise BadSetting(f"seed is {self.seed}, must be at least 0 and below 2**64")

    @property
    def _thresholds(self) -> dict[str, float | None]:
        return {"t": self.t, "tail_share": self.tail_share, "target_pairs": self.target_pairs}

    @property
    def asked(self) -> dict[str, float | None]:
        """What t is resolved from: one of t, tail_share and target_pairs is not None, by default a tail share of 0.06."""
        asked = self._thresholds
        return {**asked, "tail_share": DEFAULT_TAIL_SHARE} if set(asked.values()) == {None} else asked

    def normalized(self) -> BalanceSettings:
        """Return the settings with the types that a recipe gives them: a notebook's t = 20 is the command line's 20.0."""
        kinds = {"t": float, "tail_share": float, "target_pairs": int, "seed": int}
        values = {name: (kind, getattr(self, name)) for name, kind in kinds.items()}
        return dataclasses.replace(
            self, **{name: kind(value) for name, (kind, value) in values.items() if value is not None}
        )

    @property
    def record(self) -> dict[str, Any]:
        """The settings as manifests and cards have them; weights only if they are given."""
        record = dataclasses.asdict(self)
        return {name: value for name, value in record.items() if name != "weights" or value is not None}


# --- the two stages, and what is read back of them: types of manifest.json and of markers

SAVED_WEIGHTS: Final = "weights.parquet"
"""The file of a run folder for weights that were given as a dict or a table."""
MATCH_REASONS: Final = (
    "malformed_row",
    "not_downloaded",
    "null_text",
    "invalid_utf8",
    "empty_text",
    "no_match",
)
"""Why a row is lost in stage match, in the order of the checks; the other rows are `matched`."""
REMOVED: Final = "removed"
"""The reason in the funnel for rows that matched and were taken out later (`metaclip.card.removal`)."""
BALANCE_REASONS: Final = ("not_drawn",)
_MATCH_FUNNEL: Final = funnel_kind(("rows", "matched"), (*MATCH_REASONS, REMOVED))
_BALANCE_FUNNEL: Final = funnel_kind(("matched", *BALANCE_REASONS, "kept"))
_Positive = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
_Threshold = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
_Form = Annotated[str, msgspec.Meta(pattern=f"^({UNQUOTED})?({'|'.join(sorted({*FORMATS.values()}))})$")]
_Natural = Annotated[int, msgspec.Meta(ge=0)]


class _Columns(msgspec.Struct):
    text: str | None
    url: str | None
    uid: str | None


class _MatchedShard(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(pattern="^[0-9]{6,}-[0-9]{4,}$")]
    first: Size
    groups: list[Size] | None
    rows: Size | None
    read: Size
    columns: _Columns | None = None


class _LostInput(Lost, kw_only=True):
    """An account names it."""

    name: str


class _Combined(msgspec.Struct):
    name: str
    identity: str
    rows: Size
    matched: Size


_REQUESTED: Final[Any] = funnel_kind(("uids", "urls", "domains"))
_VERSION: Final[Any] = msgspec.defstruct(
    "Version",
    [
        ("parent", str), ("digest", str), ("pairs", Size), ("kept", Size), ("urls", str | None), ("asked", _REQUESTED),
        ("found", _REQUESTED),
    ],
)  # fmt: skip
_REMOVED: Final[Any] = msgspec.defstruct(
    "Removed",
    [("versions", list[_VERSION]), ("pairs", Size), ("count", Size), ("counts_digest", str)],
)
_MATCH_RECORD: Final[Any] = marker_kind(
    Record, semantics=int, identity=str, list=str, rule=TextRule, columns=_Columns, counts_digest=str,
    funnel=_MATCH_FUNNEL, duplicates=funnel_kind(("uids", "rows")), lost=list[_LostInput], wanted=Size,
    shards=list[_MatchedShard], runs=(list[_Combined], []), removed=(_REMOVED | None, None),
)  # fmt: skip
_SOURCE: Final[Any] = msgspec.defstruct(
    "Source", [("folder", str | None), ("beside", str | None), ("record", _MATCH_RECORD | None)]
)
_VARIED: Final[Any] = msgspec.defstruct(
    "Varied", [("base", _Threshold), ("by", str), ("weights", str), ("digest", str)]
)
"""t where it differs from entry to entry. It is no number, so that versions that know only one t refuse such a run."""
_BALANCE_RECORD: Final[Any] = marker_kind(
    Record, semantics=int, match=_SOURCE, t=_Threshold | _VARIED, asked=str, seed=_Natural, expected=_Positive,
    deviation=_Positive, kept=Size, funnel=_BALANCE_FUNNEL,
)  # fmt: skip

MATCH: Final = StageSpec(
    "match",
    outputs=("matched", "counts.parquet", "duplicates.npy"),
    partials=("*.counts.npy", "*.uids.npy"),
    semantics=1,
    record=_MATCH_RECORD,
)
"""Raise its semantics when the same input would give other matches, counts or uids."""

BALANCE: Final = StageSpec(
    "balance",
    outputs=("entries.parquet", "curated", "curated.npy", "card.json", "card.md", SAVED_WEIGHTS),
    partials=("*.tally.npy", "*.uids.npy", "*.repeats.npy"),
    semantics=1,
    record=_BALANCE_RECORD,
)
"""Raise its semantics when the same counts and seed would give other pairs."""

SHARD_MATCHED: Final = marker_kind(
    shard=dict[str, Any], funnel=_MATCH_FUNNEL, places=(dict[str, str], {})
)
"""The kind of the markers of stage match."""
SHARD_DRAWN: Final = marker_kind(funnel=_BALANCE_FUNNEL, expected=_Natural, variance=_Natural)
"""The kind of the markers of stage balance."""
SOLVED: Final = marker_kind(t=_Threshold)
"""The kind of the marker of t in stage balance."""


class Input(msgspec.Struct):
    """What manifest.json, and the marker of its digest, say of a file of the pool."""

    index: Size
    name: str
    path: str
    size: Size
    stamp: str
    sha256: str
    form: _Form


DIGEST: Final = marker_kind(
    index=Size,
    name=str,
    path=str,
    size=Size,
    stamp=str,
    sha256=str,
    form=_Form,
    codec=(str | None, None),
)
"""The kind of the markers of files' digests in stage match; they become the inputs of the manifest."""


class _Settings(msgspec.Struct):
    match: MatchSettings
    balance: BalanceSettings | None = None


class RunManifest(msgspec.Struct):
    """What the manifest of a run holds beside the records of its stages."""

    inputs: list[Input]
    settings: _Settings
    versions: dict[str, str]
    list_digest: str = msgspec.field(name="list")
    rule: TextRule
    funnel: dict[str, Size]


# --- the threshold

_THRESHOLDS: Final = 64
_PASSES: Final = 3
SMALL_POOL: Final = 1_000_000
"""Matched pairs below which the default threshold is worth a word."""


def tail_share(counts: npt.NDArray[np.uint64], t: Thresholds) -> float:
    """Return the tail share: the share of all counts that entries with a count below their t hold."""
    total = int(counts.sum())
    return int(counts[counts < t].sum()) / total if total else 0.0


def solve_tail_share(counts: npt.NDArray[np.uint64], share: float, weight: Thresholds = 1.0) -> float:
    """Return the largest t of `head_limits` whose tail share is at most `share`: a count, if there are no weights."""
    limits = np.unique(head_limits(counts, weight))

    def share_at(t: float) -> float:
        with np.errstate(over="ignore"):
            return tail_share(counts, t * weight)

    # The share grows with t, and that of the lowest limit is 0.
    return float(limits[bisect.bisect_right(limits, share, key=share_at) - 1])


def head_limits(counts: npt.NDArray[np.uint64], weight: Thresholds) -> npt.NDArray[np.float64]:
    """Return a t for each entry with a count, up to which it is in the head: fl(count / weight).

    Where fl(t * weight) exceeds the count, t is the next float below, so that count < t[e] does not hold.
    """
    found = counts > 0
    count, factor = counts[found].astype(np.float64), np.broadcast_to(weight, counts.shape)[found]
    with np.errstate(over="ignore"):
        t = np.minimum(count / factor, sys.float_info.max)
        while (above := t * factor > count).any():
            t[above] = np.nextafter(t[above], 0.0)
    return np.asarray(t)


def whole_from(counts: npt.NDArray[np.uint64], weight: Thresholds = 1.0) -> float:
    """Return a t from which on every entry is kept whole: the largest count / weight, rounded up."""
    t = float(head_limits(counts, weight).max())
    while (counts > t * weight).any():
        t = math.nextafter(t, math.inf)
    return t


def solve_target(
    counts: npt.NDArray[np.uint64],
    target: int,
    matched: int,
    expect: Callable[[npt.NDArray[np.float64]], list[float]],
    weight: Thresholds = 1.0,
) -> float:
    """Return a t with which about `target` of the `matched` pairs are expected.

    `expect` makes one pass over the matches and returns the expected number for each of many t. Three passes narrow t to
    one part in 10,000 or better; the t of the grid that comes nearest is returned.
    """
    highest = whole_from(counts, weight)
    if target >= matched:
        return highest
    # Each entry adds at most its t to the expected number.
    most = float(np.broadcast_to(weight, counts.shape)[counts > 0].sum())
    low, high = min(target / most, highest), highest
    tried: list[tuple[float, float]] = []
    for _ in range(_PASSES):
        grid = np.geomspace(low, high, _THRESHOLDS)
        expected = expect(grid)
        tried += [(abs(number - target), t) for t, number in zip(grid.tolist(), expected, strict=True)]
        index = min(max(1, int(np.searchsorted(expected, target))), _THRESHOLDS - 1)
        low, high = float(grid[index - 1]), float(grid[index])
    return min(tried, key=lambda pair: pair[0])[1]


def resolve(
    settings: BalanceSettings,
    counts: npt.NDArray[np.uint64],
    matched: int,
    expect: Callable[[Any], list[float]],
    weight: Thresholds = 1.0,
) -> float:
    """Return the t that the settings ask for: with weights, the t that they multiply. Raise MetaclipError if no text matched."""
    if not counts.any():
        raise MetaclipError(
            "no text matched any entry, so there is nothing to balance; check the list and the text column"
        )
    if settings.t is not None:
        return settings.t
    if settings.target_pairs is not None:
        return solve_target(counts, settings.target_pairs, matched, expect, weight)
    share = DEFAULT_TAIL_SHARE if settings.tail_share is None else settings.tail_share
    return solve_tail_share(counts, share, weight)


def balance_advice(counts: npt.NDArray[np.uint64], matched: int) -> str:
    """Return options for balancing a pool that has these counts, with what they do: the default, unless it is useless here."""
    t = solve_tail_share(counts, DEFAULT_TAIL_SHARE)
    if tail_share(counts, t):
        return f"   (t = {t:,g}, by the default tail share of {DEFAULT_TAIL_SHARE:g}; or --t, --target-pairs)"
    return (
        f" --target-pairs {max(1, matched // 2)}   (half of the matched pairs; "
        f"the default, a tail share of {DEFAULT_TAIL_SHARE:g}, is t = {t:g} here, with no entry in the tail)"
    )


def threshold_hints(
    settings: BalanceSettings,
    t: float,
    counts: npt.NDArray[np.uint64],
    matched: int,
    weight: Thresholds = 1.0,
) -> list[str]:
    """Return sentences that say where the settings, resolved to `t`, have no effect or an unexpected one, and what to try.

    `counts` are those of all entries, `matched` the number of matched pairs.
    """
    highest, default = int(counts.max(initial=0)), f"{DEFAULT_TAIL_SHARE:g}"
    one_t, thresholds = not isinstance(weight, np.ndarray), t * weight
    other = f"--target-pairs {max(1, matched // 2)} keeps half of the matched pairs"
    if settings.target_pairs is not None and settings.target_pairs >= matched:
        return [
            f"a target of {settings.target_pairs:,} pairs balances nothing here: {matched:,} pairs match; {other}"
        ]
    if not (counts > thresholds).any():
        solved = solve_tail_share(counts, DEFAULT_TAIL_SHARE, weight) if highest else t
        if not (counts > solved * weight).any():
            why = (
                f"no count is larger than {highest:,}"
                if one_t
                else "no count is larger than t times its weight"
            )
            return [f"t = {t:,g} balances nothing here: {why}"]
        why = (
            f"the largest count is {highest:,}" if one_t else "no count is larger than t times its weight"
        )
        return [
            f"t = {t:,g} balances nothing here: {why}; a tail share of {default} would be "
            f"t = {solved:,g}: use --tail-share {default} or --t {solved:g}"
        ]
    is_default = settings == BalanceSettings(seed=settings.seed, weights=settings.weights)
    asked = f"the default, a tail share of {default}, comes to " if is_default else ""
    if np.max(thresholds) < 2:
        return [
            f"{asked}t = {t:g}: about one pair of each entry stays, and more only through others; {other}"
        ]
    if settings.t is None and not tail_share(counts, thresholds):
        smallest = ", the smallest count" if one_t else ""
        return [f"{asked}t = {t:g}{smallest}: no entry is in the tail; {other}"]
    if is_default and matched < SMALL_POOL:
        return [f"{asked}t = {t:g} on this small pool; {other}, and --t takes any other threshold"]
    return []
